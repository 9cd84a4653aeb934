"""`crossent` as a contender: on every backend, and on CPU memory with each of its engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import crossent
from benchmarks.contenders import (
    ALL_DTYPES,
    NUMBA,
    NUMPY_DTYPES,
    Call,
    Contender,
    arrays,
    jax_value_and_grad,
    on,
    through_autograd,
    waiting,
)
from benchmarks.problem import Problem

EAGER = ("numpy", "torch", "torch-cuda", "cupy")
CPU_ENGINES = (NUMBA, "array_api")
_DTYPES = {"numpy": NUMPY_DTYPES, "torch": ALL_DTYPES}


def ways(backends: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], str, dict[str, str]]]:
    """Of each backend and each engine that it has a choice of: a title, what it needs, the backend, the keywords."""
    for backend in backends:
        if backend in ("numpy", "torch"):
            for engine in CPU_ENGINES:
                needs = (backend, NUMBA) if engine == NUMBA else (backend,)
                yield f"crossent {backend}, {engine}", needs, backend, {"engine": engine}
        else:
            yield f"crossent {backend}" + (", jit" if backend == "jax" else ""), (backend,), backend, {}


def forward(*backends: str) -> list[Contender]:
    """The loss alone."""
    return [
        Contender(title, needs, on(backend, partial(crossent.cross_entropy, **engine)), _dtypes(backend))
        for title, needs, backend, engine in ways(backends)
    ]


def into_out(*backends: str) -> list[Contender]:
    """The loss and the gradient, into memory that is there."""
    return [
        Contender(f"{title}, out=", needs, partial(_into_out, backend, engine), _dtypes(backend))
        for title, needs, backend, engine in ways(backends)
    ]


def in_place(*backends: str) -> list[Contender]:
    """The loss and the gradient over the logits. Only one call is right: the next one finds other logits."""
    return [
        Contender(f"{title}, out=logits", needs, partial(_in_place, backend, engine), _dtypes(backend))
        for title, needs, backend, engine in ways(backends)
    ]


def fresh(*backends: str) -> list[Contender]:
    """The loss and the gradient, in memory of its own."""
    return [
        Contender(title, needs, on(backend, partial(crossent.cross_entropy_and_grad, **engine)))
        for title, needs, backend, engine in ways(backends)
    ]


def autograd() -> list[Contender]:
    """The framework's own forward and backward, with this loss on its graph."""
    return [
        Contender(f"{title}, autograd", needs, _backward(backend, partial(crossent.cross_entropy, **engine)))
        for title, needs, backend, engine in ways(("torch", "torch-cuda"))
    ] + [Contender("crossent jax, jit, autograd", ("jax",), on("jax", jax_value_and_grad(crossent.cross_entropy)))]


def _dtypes(backend: str) -> tuple[str, ...]:
    return _DTYPES.get(backend, ("float32",))


def _backward(backend: str, loss: Callable[..., Any]) -> Callable[[Problem], Call]:
    return through_autograd(lambda: loss, backend)


def _into_out(backend: str, engine: dict[str, str], problem: Problem) -> Call:
    x, t = arrays(backend, problem)
    wait = waiting(backend)
    # Every page touched: a fresh gradient's page faults are another contender's.
    out = x * 0
    return lambda: wait(crossent.cross_entropy_and_grad(x, t, out=out, **engine, **problem.options))


def _in_place(backend: str, engine: dict[str, str], problem: Problem) -> Call:
    x, t = arrays(backend, problem)
    if backend == "numpy":
        x = x.copy()
    wait = waiting(backend)
    return lambda: wait(crossent.cross_entropy_and_grad(x, t, out=x, **engine, **problem.options))
