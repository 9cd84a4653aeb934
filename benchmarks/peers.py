"""The peers: PyTorch eager and compiled, optax under jit, SciPy, the textbook; and the copy that bounds them all.

Every one takes the options that it is asked about in `crossent`'s names.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.contenders import (
    ALL_DTYPES,
    COMPILER,
    COPY,
    GPU_DTYPES,
    TORCH,
    Call,
    Contender,
    arrays,
    jax_value_and_grad,
    on,
    through_autograd,
)
from benchmarks.problem import Problem


def _copy(backend: str, problem: Problem) -> Call:
    source, _ = arrays(backend, problem)
    target = source + 1  # every page touched

    def call() -> None:
        if backend == "numpy":
            np.copyto(target, source)
        else:
            target[...] = source

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


def _log_softmax(xp: Any, x: Any) -> Any:
    # As wide as any of its kind: float16 has no room for the sum.
    x = x.astype(xp.result_type(x.dtype, xp.float32), copy=False)
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))


def _textbook_loss(backend: str, x: Any, t: Any) -> Any:
    xp = importlib.import_module(backend)
    return -xp.mean(_log_softmax(xp, x)[xp.arange(len(t)), t])


def _textbook_loss_and_gradient(backend: str, x: Any, t: Any) -> Any:
    xp = importlib.import_module(backend)
    log_p = _log_softmax(xp, x)
    rows = xp.arange(len(t))
    gradient = xp.exp(log_p)
    gradient[rows, t] -= 1
    gradient /= len(t)
    return -xp.mean(log_p[rows, t]), gradient.astype(x.dtype, copy=False)


def _liger() -> Any:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy


def _quack() -> Any:
    from quack.cross_entropy import cross_entropy

    return partial(cross_entropy, reduction="mean")


def _apex() -> Any:
    from apex.contrib.xentropy import SoftmaxCrossEntropyLoss

    return lambda x, t: SoftmaxCrossEntropyLoss.apply(x, t, 0.0, -100).mean()


def _of_torch(
    name: str, backend: str, make_loss: Callable[[], Any], *needs: str,
    dtypes: tuple[str, ...] = ("float32",), in_place: bool = False, compiles: bool = False,
) -> tuple[Contender, Contender]:  # fmt: skip
    """Forward, and forward with backward, of a loss of torch's tensors."""
    wrap = _compiled if compiles else lambda prepare: prepare

    def forward(problem: Problem) -> Call:
        return on(backend, make_loss())(problem)

    return tuple(
        Contender(name, (backend, *needs), wrap(prepare), dtypes, compiles=compiles)
        for prepare in (forward, through_autograd(make_loss, backend, in_place=in_place))
    )


THE_COPY = Contender(COPY, (), partial(_copy, "numpy"), ALL_DTYPES)
TORCH_COPY = Contender("copy by torch", ("torch",), partial(_copy, "torch"), ALL_DTYPES)

TORCH_FORWARD, TORCH_BACKWARD = _of_torch(TORCH, "torch", lambda: _torch_loss, dtypes=ALL_DTYPES)
COMPILED_FORWARD, COMPILED_BACKWARD = _of_torch("torch.compile", "torch", _compiled_torch_loss, COMPILER, compiles=True)
OPTAX_FORWARD = Contender("optax, jit", ("jax", "optax"), on("jax", _optax_loss))
OPTAX_BACKWARD = Contender("optax, jit", ("jax", "optax"), on("jax", jax_value_and_grad(_optax_loss)))
SCIPY_FORWARD = Contender("scipy logsumexp", ("scipy",), on("numpy", _scipy_loss))
TEXTBOOK_FORWARD = Contender("textbook numpy", (), on("numpy", partial(_textbook_loss, "numpy")))
TEXTBOOK_GRADIENT = Contender("textbook numpy", (), on("numpy", partial(_textbook_loss_and_gradient, "numpy")))

GPU_COPIES = [
    Contender(name, (backend,), partial(_copy, backend), GPU_DTYPES[backend])
    for name, backend in ((COPY, "torch-cuda"), ("copy by cupy", "cupy"))
]
_CUDA = partial(_of_torch, dtypes=GPU_DTYPES["torch-cuda"])
_COMPILED = partial(_CUDA, compiles=True)
_TEXTBOOK = [
    Contender("textbook cupy", ("cupy",), on("cupy", partial(function, "cupy")), GPU_DTYPES["cupy"])
    for function in (_textbook_loss, _textbook_loss_and_gradient)
]
GPU_FORWARD, GPU_BACKWARD = zip(
    _CUDA(TORCH, "torch-cuda", lambda: _torch_loss),
    _TEXTBOOK,
    _COMPILED("torch.compile", "torch-cuda", _compiled_torch_loss),
    # Its forward already puts the gradient over the logits.
    _COMPILED("Liger", "torch-cuda", _liger, "liger_kernel", in_place=True),
    _COMPILED("Quack", "torch-cuda", _quack, "quack"),
    _COMPILED("Apex", "torch-cuda", _apex, "apex"),
    strict=True,
)
