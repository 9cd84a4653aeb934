"""The times of whichever `crossent` is imported, for `compare`: the same file runs in both revisions.

`python -m benchmarks.one_revision SOURCE SIZE...` prints seconds as JSON. It uses nothing of `crossent` but its public
functions, and of the benchmarks only what does not import `crossent`. What a revision cannot do has no time.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import crossent
from benchmarks.problem import Problem

ROUNDS, SECONDS = 7, 0.01
"""Of each question: rounds, and the least that one lasts."""
SMALL = Problem(8, 16)

Calls = Iterator[tuple[str, Callable[[], Any]]]


def calls(problem: Problem) -> Calls:
    """The questions about a problem, each with a call that answers it."""
    yield from _numpy(problem)
    if importlib.util.find_spec("torch") is not None:
        yield from _torch(problem)


def _numpy(problem: Problem) -> Calls:
    x, t = problem.logits, problem.targets
    out = x * 0
    yield "forward, numpy", lambda: crossent.cross_entropy(x, t)
    yield "forward and gradient, numpy, out=", lambda: crossent.cross_entropy_and_grad(x, t, out=out)


def _torch(problem: Problem) -> Calls:
    import torch

    x, t = torch.tensor(problem.logits), torch.tensor(problem.targets)
    half, half_out = x.bfloat16(), torch.zeros_like(x, dtype=torch.bfloat16)
    followed = x.clone().requires_grad_(True)
    yield "forward and backward, torch", lambda: torch.autograd.grad(crossent.cross_entropy(followed, t), followed)
    yield "forward and gradient, torch bfloat16, out=", lambda: crossent.cross_entropy_and_grad(half, t, out=half_out)


def seconds(call: Callable[[], Any]) -> float:
    """The least of a few rounds, as other processes can only add to it; short calls in loops. Two calls warm up."""
    call()
    began = time.perf_counter()
    call()
    often = max(1, math.ceil(SECONDS / max(time.perf_counter() - began, 1e-9)))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(often):
            call()
        times.append((time.perf_counter() - began) / often)
    return min(times)


def measured(problems: Sequence[Problem]) -> dict[str, float | None]:
    """The seconds of every question about every problem; None for what raises."""
    found: dict[str, float | None] = {}
    for problem in problems:
        for name, call in calls(problem):
            try:
                found[f"{name}, {problem}"] = seconds(call)
            except Exception as error:  # an older revision may know less
                print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
                found[f"{name}, {problem}"] = None
    return found


def main(arguments: Sequence[str]) -> int:
    """Print the times, after seeing that it is the right `crossent`."""
    source, *sizes = arguments
    imported = Path(crossent.__file__).resolve()
    if not imported.is_relative_to(Path(source).resolve()):
        print(f"imported {imported}, which is not in {source}", file=sys.stderr)
        return 2
    print(json.dumps(measured([*map(Problem.parse, sizes), SMALL])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
