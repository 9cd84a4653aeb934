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

import numpy as np

import crossent
from benchmarks.problem import Problem

ROUNDS, SECONDS = 7, 0.01
"""Of each question: rounds, and the least that one lasts."""

Calls = Iterator[tuple[str, Callable[[], Any]]]


def calls(problem: Problem) -> Calls:
    """The questions about a problem, each with a call that answers it: every way on both libraries, every option."""
    random = np.random.default_rng(3)
    soft = random.random((problem.n, problem.v), dtype=np.float32)
    soft /= soft.sum(1, keepdims=True)
    weights = np.linspace(0.5, 2, problem.v, dtype=np.float32)
    yield from _numpy(problem.logits, _options(problem.targets, soft, weights))
    if importlib.util.find_spec("torch") is not None:
        import torch

        x, *own = map(torch.tensor, (problem.logits, problem.targets, soft, weights))
        yield from _torch(x, _options(*own))


def _options(targets: Any, soft: Any, weights: Any) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Targets and keywords, by the end of a question's name."""
    return {
        "": (targets, {}),
        ", class weights": (targets, {"class_weights": weights}),
        ", label smoothing": (targets, {"label_smoothing": 0.1}),
        ", soft targets": (soft, {}),
    }


def _numpy(x: Any, options: dict[str, tuple[Any, dict[str, Any]]]) -> Calls:
    out = x * 0
    for words, (t, more) in options.items():
        yield f"numpy, forward{words}", lambda t=t, more=more: crossent.cross_entropy(x, t, **more)
        yield (
            f"numpy, forward and gradient, out={words}",
            lambda t=t, more=more: crossent.cross_entropy_and_grad(x, t, out=out, **more),
        )


def _torch(x: Any, options: dict[str, tuple[Any, dict[str, Any]]]) -> Calls:
    import torch

    leaf, out = x.clone().requires_grad_(True), torch.zeros_like(x)
    for words, (t, more) in options.items():
        yield f"torch without a graph, forward{words}", lambda t=t, more=more: crossent.cross_entropy(x, t, **more)
        yield (
            f"torch without a graph, forward and gradient, out={words}",
            lambda t=t, more=more: crossent.cross_entropy_and_grad(x, t, out=out, **more),
        )
        yield (
            f"torch, forward and backward{words}",
            lambda t=t, more=more: torch.autograd.grad(crossent.cross_entropy(leaf, t, **more), leaf),
        )
    half, half_out, t = x.bfloat16(), out.bfloat16(), options[""][0]
    yield "torch bfloat16, forward and gradient, out=", lambda: crossent.cross_entropy_and_grad(half, t, out=half_out)


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
    print(json.dumps(measured([Problem.parse(size) for size in sizes])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
