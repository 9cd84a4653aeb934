"""Who competes: `xent` on every backend, the peers, the textbook, and the copy that bounds them all.

A contender prepares a call on a problem: what it prepares (arrays on the device, buffers, compilation) is not timed,
what it calls is, until the result is there. A library is imported only when its contender is prepared.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import xent
from benchmarks.problem import CHECKED_ROWS, Problem
from xent.machine import BACKENDS

Call = Callable[[], Any]
"""Gives the mean loss, or the loss and the gradient; None for a copy."""

COPY = "copy of the logits"
TORCH = "torch F.cross_entropy"
PEERS = ("torch", "optax", "scipy")


@dataclass(frozen=True)
class Contender:
    """A named way to answer a question."""

    name: str
    needs: tuple[str, ...]
    """Names of backends or of peer packages."""
    prepare: Callable[[Problem], Call]

    @property
    def usable(self) -> bool:
        """Whether all that it needs is here."""
        return all(problem_with(name) is None for name in self.needs)


def problem_with(name: str) -> str | None:
    """Why a backend or a peer cannot be used here; None if it can."""
    if name in BACKENDS:
        return BACKENDS[name].problem()
    return None if importlib.util.find_spec(name) is not None else f"{name} is not installed"


def read(result: Any) -> tuple[float, np.ndarray | None]:
    """The loss and the first gradient rows of a result, as NumPy has them."""
    loss, gradient = result if isinstance(result, tuple) else (result, None)
    return float(loss), None if gradient is None else _to_numpy(gradient[:CHECKED_ROWS])


def _to_numpy(x: Any) -> np.ndarray:
    if hasattr(x, "detach"):
        x = x.detach().cpu()
    return np.asarray(x.get() if hasattr(x, "get") else x)


def _arrays(backend: str, problem: Problem) -> tuple[Any, Any]:
    if backend == "numpy":
        return problem.logits, problem.targets
    if backend == "dask":
        import dask.array as da

        rows = max(1, -(-problem.n // 4))
        return (
            da.from_array(problem.logits, chunks=(rows, problem.v)),
            da.from_array(problem.targets, chunks=rows),
        )
    make = BACKENDS[backend].array
    return make(problem.logits), make(problem.targets)


def _wait(backend: str) -> Callable[[Any], Any]:
    """What makes a result of the backend be there."""
    if backend == "jax":
        import jax

        return jax.block_until_ready
    if backend == "dask":
        import dask

        return lambda result: dask.compute(*result) if isinstance(result, tuple) else result.compute()
    if backend in ("cupy", "torch-cuda"):
        if backend == "cupy":
            import cupy

            synchronize = cupy.cuda.get_current_stream().synchronize
        else:
            import torch

            synchronize = torch.cuda.synchronize

        def wait(result: Any) -> Any:
            synchronize()
            return result

        return wait
    return lambda result: result


def _compiled(backend: str, function: Callable[..., Any]) -> Callable[..., Any]:
    if backend != "jax":
        return function
    import jax

    return jax.jit(function)


def _on(backend: str, function: Callable[..., Any]) -> Callable[[Problem], Call]:
    def prepare(problem: Problem) -> Call:
        x, t = _arrays(backend, problem)
        wait, run = _wait(backend), _compiled(backend, function)
        return lambda: wait(run(x, t))

    return prepare


def _into_out(backend: str) -> Callable[[Problem], Call]:
    def prepare(problem: Problem) -> Call:
        x, t = _arrays(backend, problem)
        wait = _wait(backend)
        # Every page touched: a fresh gradient's page faults are the other contender's.
        out = x * 0
        return lambda: wait(xent.cross_entropy_and_grad(x, t, out=out))

    return prepare


def _torch_backward(loss_of: Callable[..., Any], backend: str = "torch") -> Callable[[Problem], Call]:
    def prepare(problem: Problem) -> Call:
        import torch

        x, t = _arrays(backend, problem)
        x.requires_grad_(True)
        wait = _wait(backend)

        def call() -> Any:
            loss = loss_of(x, t)
            (gradient,) = torch.autograd.grad(loss, x)
            return wait((loss.detach(), gradient))

        return call

    return prepare


def _torch_loss(x: Any, t: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(x, t)


def _jax_value_and_grad(loss: Callable[..., Any]) -> Callable[..., Any]:
    def function(x: Any, t: Any) -> Any:
        import jax

        return jax.value_and_grad(loss)(x, t)

    return function


def _optax_loss(x: Any, t: Any) -> Any:
    import optax

    return optax.softmax_cross_entropy_with_integer_labels(x, t).mean()


def _scipy_loss(x: np.ndarray, t: np.ndarray) -> Any:
    from scipy.special import logsumexp

    return np.mean(logsumexp(x, axis=1) - x[np.arange(len(t)), t])


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _textbook_loss(x: np.ndarray, t: np.ndarray) -> Any:
    return -np.mean(_log_softmax(x)[np.arange(len(t)), t])


def _textbook_loss_and_gradient(x: np.ndarray, t: np.ndarray) -> Any:
    log_p = _log_softmax(x)
    rows = np.arange(len(t))
    gradient = np.exp(log_p)
    gradient[rows, t] -= 1
    gradient /= len(t)
    return -np.mean(log_p[rows, t]), gradient


def _copy(problem: Problem) -> Call:
    source, target = problem.logits, np.ones_like(problem.logits)
    return lambda: np.copyto(target, source)


_COPY = Contender(COPY, (), _copy)
_IN_MEMORY = ("numpy", "torch", "torch-cuda", "cupy")


def _title(backend: str) -> str:
    return f"xent {backend}, jit" if backend == "jax" else f"xent {backend}"


def _ours(function: Callable[..., Any], backends: tuple[str, ...], note: str = "") -> list[Contender]:
    return [Contender(_title(name) + note, (name,), _on(name, function)) for name in backends]


_AUTOGRAD = [
    Contender("xent torch", ("torch",), _torch_backward(xent.cross_entropy)),
    Contender("xent torch-cuda", ("torch-cuda",), _torch_backward(xent.cross_entropy, "torch-cuda")),
    Contender("xent jax, jit", ("jax",), _on("jax", _jax_value_and_grad(xent.cross_entropy))),
]
_PEERS_WITH_GRADIENT = [
    Contender(TORCH, ("torch",), _torch_backward(_torch_loss)),
    Contender("optax, jit", ("jax", "optax"), _on("jax", _jax_value_and_grad(_optax_loss))),
]
_TEXTBOOK_WITH_GRADIENT = Contender("textbook numpy", (), _on("numpy", _textbook_loss_and_gradient))
_PEERS_FORWARD = [
    Contender(TORCH, ("torch",), _on("torch", _torch_loss)),
    Contender("optax, jit", ("jax", "optax"), _on("jax", _optax_loss)),
    Contender("scipy logsumexp", ("scipy",), _on("numpy", _scipy_loss)),
    Contender("textbook numpy", (), _on("numpy", _textbook_loss)),
]

FORWARD = [_COPY, *_ours(xent.cross_entropy, (*_IN_MEMORY, "jax", "dask")), *_PEERS_FORWARD]
GRADIENT = [
    _COPY,
    *(Contender(f"{_title(name)}, out=", (name,), _into_out(name)) for name in _IN_MEMORY),
    *_ours(xent.cross_entropy_and_grad, (*_IN_MEMORY, "jax", "dask")),
    *_PEERS_WITH_GRADIENT,
    _TEXTBOOK_WITH_GRADIENT,
]
BACKWARD = [_COPY, *_AUTOGRAD, *_PEERS_WITH_GRADIENT]
SMALL_FORWARD = [*_ours(xent.cross_entropy, ("numpy", "torch", "cupy", "torch-cuda", "jax")), *_PEERS_FORWARD]
SMALL_GRADIENT = [
    *_ours(xent.cross_entropy_and_grad, ("numpy", "cupy")),
    *_AUTOGRAD,
    *_PEERS_WITH_GRADIENT,
    _TEXTBOOK_WITH_GRADIENT,
]
