"""The peers: PyTorch eager and compiled, optax under jit, SciPy, the textbook; and the copy that bounds them all.

Every one takes the options that it is asked about in `crossent`'s names.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.contenders import (
    ALL_DTYPES,
    COMPILER,
    COPY,
    TORCH,
    Call,
    Contender,
    arrays,
    jax_value_and_grad,
    on,
    through_autograd,
)
from benchmarks.problem import Problem


def _copy(problem: Problem) -> Call:
    source, target = problem.logits, np.ones_like(problem.logits)
    return lambda: np.copyto(target, source)


def _torch_copy(problem: Problem) -> Call:
    import torch

    source, _ = arrays("torch", problem)
    target = torch.ones_like(source)

    def call() -> None:
        target.copy_(source)

    return call


def _torch_loss(
    x: Any,
    t: Any,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    smoothing: str = "uniform",
    z_loss: float = 0.0,
) -> Any:
    import torch

    assert smoothing == "uniform"
    loss = torch.nn.functional.cross_entropy(x, t, ignore_index=ignore_index, label_smoothing=label_smoothing)
    if z_loss:
        counted = t != ignore_index
        loss = loss + z_loss * (torch.logsumexp(x, 1) ** 2 * counted).sum() / counted.sum()
    return loss


def _compiled_torch_loss() -> Any:
    import torch

    # One size at a time, so that neither a program for any size nor the limit of recompilations comes in.
    torch.compiler.reset()
    return torch.compile(_torch_loss, dynamic=False)


def _compiled_forward(problem: Problem) -> Call:
    return on("torch", _compiled_torch_loss())(problem)


def _compiled(prepare: Callable[[Problem], Call]) -> Callable[[Problem], Call]:
    """The preparation with the first call in it, which compiles."""

    def compiled(problem: Problem) -> Call:
        with warnings.catch_warnings():
            # Compiling imports the parts of torch that warn of each other.
            warnings.simplefilter("ignore")
            call = prepare(problem)
            call()
        return call

    return compiled


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


THE_COPY = Contender(COPY, (), _copy, ALL_DTYPES)
TORCH_COPY = Contender("copy by torch", ("torch",), _torch_copy, ALL_DTYPES)

TORCH_FORWARD = Contender(TORCH, ("torch",), on("torch", _torch_loss), ALL_DTYPES)
TORCH_BACKWARD = Contender(TORCH, ("torch",), through_autograd(lambda: _torch_loss), ALL_DTYPES)
COMPILED_FORWARD = Contender("torch.compile", ("torch", COMPILER), _compiled(_compiled_forward))
COMPILED_BACKWARD = Contender("torch.compile", ("torch", COMPILER), _compiled(through_autograd(_compiled_torch_loss)))
OPTAX_FORWARD = Contender("optax, jit", ("jax", "optax"), on("jax", _optax_loss))
OPTAX_BACKWARD = Contender("optax, jit", ("jax", "optax"), on("jax", jax_value_and_grad(_optax_loss)))
SCIPY_FORWARD = Contender("scipy logsumexp", ("scipy",), on("numpy", _scipy_loss))
TEXTBOOK_FORWARD = Contender("textbook numpy", (), on("numpy", _textbook_loss))
TEXTBOOK_GRADIENT = Contender("textbook numpy", (), on("numpy", _textbook_loss_and_gradient))
