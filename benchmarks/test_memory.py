"""How far does a call raise a fresh process's resident memory, its results included, its inputs and `out=` not?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _peak(question, contender, problem):
    command = [sys.executable, "-m", "benchmarks.memory", question.name, contender.label, str(problem)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.question("memory-forward")
def test_forward(benchmark, question, contender, problem, record):
    record(peak_bytes=benchmark.pedantic(_peak, (question, contender, problem)))


@pytest.mark.question("memory-gradient")
def test_forward_and_gradient(benchmark, question, contender, problem, record):
    record(peak_bytes=benchmark.pedantic(_peak, (question, contender, problem)))
