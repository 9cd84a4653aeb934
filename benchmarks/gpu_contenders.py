"""Who competes on a GPU. Every contender is a function of logits, targets and memory for a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import xent
from benchmarks.gpu_library import Library, NumPy, Torch

COPY = "copy of the logits"
FORWARD, GRADIENT = "forward", "forward and gradient"

Function = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Contender:
    """A way to answer a question."""

    question: str
    name: str
    traffic: int
    """How often a program that wastes nothing moves the logits' bytes."""
    make: Callable[[Library], Function]
    slow_start: bool = False
    """Whether it compiles for seconds before the first call."""


def of(library: Library) -> list[Contender]:
    """The contenders of a library, the copy first."""
    chosen = [_plain("copy", COPY, 2, _copy), *_OURS]
    if isinstance(library, Torch):
        chosen += [_plain(GRADIENT, "xent, backward", 2, partial(_torch_backward, xent.cross_entropy)), *_TORCH]
        if library.place != "cpu":
            chosen += _COMPILED
    if isinstance(library, NumPy):
        chosen += [
            Contender(FORWARD, "textbook", 1, lambda library: partial(_textbook, library.xp)),
            Contender(GRADIENT, "textbook", 2, lambda library: partial(_textbook_with_gradient, library.xp)),
        ]
    return chosen


def _plain(question: str, name: str, traffic: int, function: Function) -> Contender:
    return Contender(question, name, traffic, lambda library: function)


def _copy(x: Any, t: Any, out: Any) -> None:
    out[...] = x


_OURS = [
    _plain(FORWARD, "xent", 1, lambda x, t, out: xent.cross_entropy(x, t)),
    _plain(GRADIENT, "xent, out=", 2, lambda x, t, out: xent.cross_entropy_and_grad(x, t, out=out)),
    _plain(
        GRADIENT, "xent, out=, check_targets=False", 2,
        lambda x, t, out: xent.cross_entropy_and_grad(x, t, out=out, check_targets=False),
    ),
    _plain(GRADIENT, "xent", 2, lambda x, t, out: xent.cross_entropy_and_grad(x, t)),
]  # fmt: skip


def _torch_loss(x: Any, t: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(x, t)


def _torch_backward(loss_of: Callable[[Any, Any], Any], x: Any, t: Any, out: Any) -> Any:
    import torch

    x = x.detach().requires_grad_(True)
    loss = loss_of(x, t)
    (gradient,) = torch.autograd.grad(loss, x)
    return loss.detach(), gradient


def _compiled_loss() -> Callable[[Any, Any], Any]:
    import torch

    # One size at a time, so that neither a program for any size nor the limit of recompilations comes in.
    torch.compiler.reset()
    return torch.compile(_torch_loss, dynamic=False)


def _compiled_forward(library: Library) -> Function:
    loss_of = _compiled_loss()
    return lambda x, t, out: loss_of(x, t)


_TORCH = [
    _plain(FORWARD, "F.cross_entropy", 1, lambda x, t, out: _torch_loss(x, t)),
    _plain(GRADIENT, "F.cross_entropy", 2, partial(_torch_backward, _torch_loss)),
]
_COMPILED = [
    Contender(FORWARD, "F.cross_entropy, torch.compile", 1, _compiled_forward, slow_start=True),
    Contender(
        GRADIENT, "F.cross_entropy, torch.compile", 2,
        lambda library: partial(_torch_backward, _compiled_loss()), slow_start=True,
    ),
]  # fmt: skip


def _log_softmax(xp: Any, x: Any) -> Any:
    shifted = x.astype(xp.float32)
    shifted = shifted - xp.max(shifted, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))


def _textbook(xp: Any, x: Any, t: Any, out: Any) -> Any:
    return -xp.mean(xp.take_along_axis(_log_softmax(xp, x), t[:, None], axis=1))


def _textbook_with_gradient(xp: Any, x: Any, t: Any, out: Any) -> Any:
    log_p = _log_softmax(xp, x)
    loss = -xp.mean(xp.take_along_axis(log_p, t[:, None], axis=1))
    gradient = xp.exp(log_p)
    gradient[xp.arange(len(t)), t] -= 1
    gradient /= len(t)
    return loss, gradient.astype(x.dtype)
