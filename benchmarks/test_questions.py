"""Every question of `questions.py`: how long does it take, and how far does it raise a fresh process's memory?"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _peak(question, contender, problem):
    command = [sys.executable, "-m", "benchmarks.memory", question.name, contender.label, str(problem)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_time(measure):
    measure()


def test_linear(take_turns):
    take_turns()


def test_memory(benchmark, question, contender, problem, record):
    record(contender, peak_bytes=benchmark.pedantic(_peak, (question, contender, problem)))
