"""What a contender is: a named way to answer a question, with what it needs and the dtypes that it takes.

A contender prepares a call on a problem: what it prepares (arrays on the device, buffers, compilation) is not timed,
what it calls is, until the result is there. A library is imported only when its contender is prepared.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.device import DEVICES
from benchmarks.problem import CHECKED_ROWS, Problem
from crossent_conformance.backends import BACKENDS, load

Call = Callable[[], Any]
"""Gives the mean loss, or the loss and the gradient; None for what has no answer to be checked, like a copy.

One that overwrites its logits has an attribute `put_back`, a function that undoes that; what it takes is not timed.
"""

COPY = "copy of the logits"
TORCH = "torch F.cross_entropy"
NUMBA, COMPILER = "numba", "C++ compiler"
PEERS = ("torch", "optax", "scipy")
ALL_DTYPES = ("float64", "float32", "float16", "bfloat16")
NUMPY_DTYPES = ("float64", "float32", "float16")
GPU_DTYPES = {"torch-cuda": ("float32", "float16", "bfloat16"), "cupy": ("float32", "float16")}


@dataclass(frozen=True)
class Contender:
    """A named way to answer a question."""

    name: str
    needs: tuple[str, ...]
    """Names of backends, of peer packages and modules, or NUMBA, or COMPILER."""
    prepare: Callable[[Problem], Call]
    dtypes: tuple[str, ...] = ("float32",)
    """The dtypes that it is asked about."""
    threads: int | None = None
    """How many threads it may use; None for its own choice."""
    compiles: bool = False
    """Whether it compiles for seconds before its first call: on a GPU, whose time is dear, it comes last."""

    @property
    def label(self) -> str:
        """Unlike any other of the same question."""
        return self.name if self.threads is None else f"{self.name}, threads={self.threads}"

    @property
    def gpu(self) -> str | None:
        """The backend whose device it runs on, if that is a GPU."""
        return next((name for name in self.needs if name in DEVICES), None)

    @property
    def usable(self) -> bool:
        """Whether all that it needs is here."""
        return all(problem_with(name) is None for name in self.needs)

    def limited_to(self, threads: int) -> Contender:
        """The same with that many threads."""

        def prepare(problem: Problem) -> Call:
            call = self.prepare(problem)

            def limited() -> Any:
                with _limited(threads):
                    return call()

            return limited

        return replace(self, prepare=prepare, threads=threads)

    def in_float32_only(self) -> Contender:
        """The same, for questions where the other dtypes would tell nothing more."""
        return replace(self, dtypes=("float32",))


@functools.cache
def problem_with(name: str) -> str | None:
    """Why a backend, a peer or a tool cannot be used here; None if it can."""
    # The suite's JAX switches 64-bit types on for the whole process, which users have off.
    if name in BACKENDS and name != "jax":
        found = load(name)
        return f"{name} {found}" if isinstance(found, str) else None
    if name == COMPILER:
        found = any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++")))
        return None if found else "torch.compile has no C++ compiler"
    if importlib.util.find_spec(name) is None:
        return f"{name} not installed" + (" (pip install numba)" if name == NUMBA else "")
    return None


def read(result: Any) -> tuple[float, np.ndarray | None]:
    """The loss and the first gradient rows of a result, as NumPy has them; of several gradients, of the first."""
    loss, gradient = result if isinstance(result, tuple) else (result, None)
    gradient = gradient[0] if isinstance(gradient, tuple) else gradient
    return float(loss), None if gradient is None else _to_numpy(gradient[:CHECKED_ROWS])


def _to_numpy(x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        # NumPy has no bfloat16.
        x = x.detach().double().cpu()
    return np.asarray(x.get() if hasattr(x, "get") else x)


def arrays(backend: str, problem: Problem) -> tuple[Any, Any]:
    """The logits and targets of a problem as arrays of a backend; on a GPU the last problem's stay there."""
    if backend == "numpy":
        return problem.logits, problem.targets
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.asarray(problem.logits, copy=True), jnp.asarray(problem.targets, copy=True)
    if backend == "dask":
        import dask.array as da

        rows = max(1, -(-problem.n // 4))
        return (
            da.from_array(problem.logits, chunks=(rows, problem.v)),
            da.from_array(problem.targets, chunks=rows),
        )
    return _on_gpu(backend, problem) if backend in DEVICES else _made(backend, problem)


def _made(backend: str, problem: Problem) -> tuple[Any, Any]:
    make = load(backend).asarray
    if problem.dtype == "bfloat16":
        import torch

        return make(problem.logits.view(np.int16), "int16").view(torch.bfloat16), make(problem.targets, "int64")
    return make(problem.logits, problem.dtype), make(problem.targets, "int64")


_on_gpu = functools.lru_cache(maxsize=len(DEVICES))(_made)


def waiting(backend: str) -> Callable[[Any], Any]:
    """What makes a result of the backend be there. On a GPU nothing does: there its own clock is read."""
    if backend == "jax":
        import jax

        return jax.block_until_ready
    if backend == "dask":
        import dask

        return lambda result: dask.compute(*result) if isinstance(result, tuple) else result.compute()
    return lambda result: result


def on(backend: str, function: Callable[..., Any]) -> Callable[[Problem], Call]:
    """How to prepare a call of a function of logits, targets and the problem's options; under `jit` with JAX."""

    def prepare(problem: Problem) -> Call:
        x, t = arrays(backend, problem)
        wait, run = waiting(backend), functools.partial(function, **problem.options)
        if backend == "jax":
            import jax

            run = jax.jit(run)
        return lambda: wait(run(x, t))

    return prepare


def through_autograd(
    make_loss: Callable[[], Callable[..., Any]], backend: str = "torch", *, in_place: bool = False
) -> Callable[[Problem], Call]:
    """How to prepare torch's forward and backward of a loss, which is made only then; it may overwrite the logits."""

    def prepare(problem: Problem) -> Call:
        import torch

        source, t = arrays(backend, problem)
        x = (source.clone() if in_place else source.detach()).requires_grad_(True)
        loss_of = functools.partial(make_loss(), **problem.options)

        def call() -> Any:
            loss = loss_of(x, t)
            (gradient,) = torch.autograd.grad(loss, x)
            return loss.detach(), gradient

        if in_place:
            call.put_back = lambda: x.data.copy_(source)
        return call

    return prepare


def jax_value_and_grad(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss and its gradient as JAX differentiates."""

    def function(x: Any, t: Any, **options: Any) -> Any:
        import jax

        return jax.value_and_grad(functools.partial(loss, **options))(x, t)

    return function


@contextlib.contextmanager
def _limited(threads: int) -> Iterator[None]:
    """So many threads for `crossent`, which reads the variable at each call, and for torch where it is in use."""
    torch = sys.modules.get("torch")
    before, torch_before = os.environ.get("CROSSENT_NUM_THREADS"), torch and torch.get_num_threads()
    os.environ["CROSSENT_NUM_THREADS"] = str(threads)
    if torch:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["CROSSENT_NUM_THREADS"]
        else:
            os.environ["CROSSENT_NUM_THREADS"] = before
        if torch:
            torch.set_num_threads(torch_before)
