"""The quick tier asks every test on every backend, in one cell there; the extended tier asks all that it leaves out."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CELL = re.compile(r"\b(numpy|torch)-(float\d+|bfloat16)-(\w+)")


def collected(*arguments):
    """The cases of one file of clauses, on two backends."""
    file = "conformance/crossent_conformance/clauses/test_values.py"
    command = [sys.executable, "-m", "pytest", file, "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command += ["--backend", "numpy", "--backend", "torch"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if CELL.search(line)]


@pytest.mark.extended
def test_one_cell_of_each_test_on_each_backend_is_quick():
    everything, quick, extended = collected(), collected("-m", "not extended"), collected("-m", "extended")
    assert sorted(quick + extended) == sorted(everything)
    tests = [CELL.sub(r"\1", case) for case in quick]
    assert len(set(tests)) == len(tests)
    assert set(tests) == {CELL.sub(r"\1", case) for case in everything}
    cells = [CELL.search(case).groups() for case in quick]
    assert {dtype for _, dtype, _ in cells} == {"float64", "float32", "float16", "bfloat16"}
    assert len({mode for _, _, mode in cells}) > 2
