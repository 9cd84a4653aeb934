"""The peak resident memory of one call in this process, beyond what was resident before it: for a process of its own.

`python -m benchmarks.memory QUESTION CONTENDER SIZE` prints the bytes. A small call goes first, so that code loaded,
threads started and programs compiled for it don't count; a program compiled for the large size does.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.problem import Problem
from benchmarks.questions import QUESTIONS

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def _peak() -> int:
    """The peak so far, in bytes; on Linux since the last reset."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(arguments: Sequence[str]) -> int:
    """Print the bytes of one contender's call."""
    question, name, size = arguments
    contender = QUESTIONS[question].find(name)
    problem = Problem.parse(size)
    contender.prepare(replace(problem, n=8, v=16, width=problem.width and 4))()
    call = contender.prepare(problem)
    if _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
    before = _peak()
    result = call()
    print(_peak() - before)
    del result
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
