"""The conformance suite on the CUDA engine, run by the emulator: the kernel's own text, CPU tensors for a device's.

In three processes, which the tests' workers share out. What needs real memory and real threads is left to a GPU: more
logits than 32 bits count, and what a call allocates. What never comes to the engine, in traced calls and in derivatives
of a gradient, is tested elsewhere, and so are strides (`test_cuda_kernel.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests import emulator

ROOT = Path(__file__).resolve().parent.parent
CLAUSES = ROOT / "conformance" / "crossent_conformance" / "clauses"
ELSEWHERE = ("test_large", "test_concurrency", "test_compile_torch", "test_derivatives")

pytestmark = [emulator.needed, pytest.mark.extended]


FILES = sorted(path for path in CLAUSES.glob("test_*.py") if path.stem not in ELSEWHERE)


@pytest.mark.parametrize("part", range(3))
def test_the_engine_keeps_the_contract(part):
    command = [sys.executable, "-m", "pytest", *FILES[part::3], "-q", "-p", "no:cacheprovider"]
    command += ["--subject", "tests.emulator.subject:subject", "--backend", "torch", "-k", "eager"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
