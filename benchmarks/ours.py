"""`crossent` as a contender: on every backend, and on CPU memory with each of its engines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import crossent
from benchmarks.contenders import (
    ALL_DTYPES,
    GPU_DTYPES,
    NUMBA,
    NUMPY_DTYPES,
    Call,
    Contender,
    arrays,
    jax_value_and_grad,
    on,
    through_autograd,
)
from benchmarks.problem import Problem

CPU, GPU = ("numpy", "torch"), ("torch-cuda", "cupy")
ENGINES = dict.fromkeys(CPU, (NUMBA, "array_api")) | dict.fromkeys(GPU, ("cuda", "array_api"))
_DTYPES = {"numpy": NUMPY_DTYPES, "torch": ALL_DTYPES, **GPU_DTYPES}
UNCHECKED = {"check_targets": False}


def _each(ending: str, prepare: Callable[..., Call], *backends: str, **keywords: Any) -> list[Contender]:
    """A contender for each backend and each engine of it; on a GPU, its own engine has to be here."""
    found = []
    for backend in backends:
        for engine in ENGINES.get(backend, ("",)):
            needs = (backend, NUMBA) if engine == NUMBA else (backend,)
            middle = f", {engine}" if engine else ", jit" if backend == "jax" else ""
            options = ({"engine": engine} if engine else {}) | keywords
            dtypes = _DTYPES.get(backend, ("float32",))
            found.append(
                Contender(f"crossent {backend}{middle}{ending}", needs, partial(prepare, backend, options), dtypes)
            )
    return found


def forward(*backends: str) -> list[Contender]:
    """The loss alone."""
    return _each("", partial(_calling, crossent.cross_entropy), *backends)


def into_out(*backends: str) -> list[Contender]:
    """The loss and the gradient, into memory that is there."""
    return _each(", out=", _into_out, *backends)


def in_place(*backends: str) -> list[Contender]:
    """The loss and the gradient over the logits."""
    return _each(", out=logits", _in_place, *backends)


def fresh(*backends: str) -> list[Contender]:
    """The loss and the gradient, in memory of its own."""
    return _each("", partial(_calling, crossent.cross_entropy_and_grad), *backends)


def autograd(*backends: str) -> list[Contender]:
    """The framework's own forward and backward, with this loss on its graph."""
    return _each(", autograd", _backward, *backends)


def donated(*backends: str) -> list[Contender]:
    """The framework's own forward and backward under `jit`, where the logits' memory is the gradient's afterwards."""
    return _each(", donated", _donated, *backends)


def unchecked(contenders: Callable[..., list[Contender]]) -> list[Contender]:
    """On a GPU, what the fastest engine takes where the host does not wait to hear of the targets."""
    prepared = {forward: partial(_calling, crossent.cross_entropy), into_out: _into_out}[contenders]
    ending = ", unchecked" if contenders is forward else ", out=, unchecked"
    return [one for one in _each(ending, prepared, *GPU, **UNCHECKED) if ", cuda" in one.name]


def all_ignored() -> list[Contender]:
    """On a GPU, the loss of rows that are all ignored, whose logits need not be read. It has no mean to be checked."""
    return [one for one in _each(", all ignored", _all_ignored, *GPU, **UNCHECKED) if ", cuda" in one.name]


def _calling(function: Callable[..., Any], backend: str, options: dict[str, Any], problem: Problem) -> Call:
    return on(backend, partial(function, **options))(problem)


def _backward(backend: str, options: dict[str, Any], problem: Problem) -> Call:
    loss = partial(crossent.cross_entropy, **options)
    if backend == "jax":
        return on(backend, jax_value_and_grad(loss))(problem)
    return through_autograd(lambda: loss, backend)(problem)


def _donated(backend: str, options: dict[str, Any], problem: Problem) -> Call:
    import jax

    source, t = arrays(backend, problem)
    loss = jax_value_and_grad(partial(crossent.cross_entropy, **options, **problem.options))
    run, logits = jax.jit(loss, donate_argnums=0), [source.copy()]

    def call() -> Any:
        value, logits[0] = jax.block_until_ready(run(logits[0], t))
        return value, logits[0]

    def put_back() -> None:
        logits[0] = jax.block_until_ready(source.copy())

    call.put_back = put_back
    return call


def _into_out(backend: str, options: dict[str, Any], problem: Problem) -> Call:
    x, t = arrays(backend, problem)
    # Every page touched: a fresh gradient's page faults are another contender's.
    out = x * 0
    return lambda: crossent.cross_entropy_and_grad(x, t, out=out, **options, **problem.options)


def _in_place(backend: str, options: dict[str, Any], problem: Problem) -> Call:
    source, t = arrays(backend, problem)
    x = source.clone() if hasattr(source, "clone") else source.copy()

    def call() -> Any:
        return crossent.cross_entropy_and_grad(x, t, out=x, **options, **problem.options)

    def put_back() -> None:
        x[...] = source

    call.put_back = put_back
    return call


def _all_ignored(backend: str, options: dict[str, Any], problem: Problem) -> Call:
    x, t = arrays(backend, problem)
    ignored = t * 0

    def call() -> None:
        crossent.cross_entropy(x, ignored, ignore_index=0, reduction="sum", **options)

    return call
