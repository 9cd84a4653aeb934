"""Who competes on a GPU. Every contender is a function of logits, targets and memory for a gradient.

`crossent` competes with each of its engines, by name; a peer that is not installed is not there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import crossent
from benchmarks.gpu_library import Library, NumPy, Torch

COPY = "copy of the logits"
FORWARD, GRADIENT, SMOOTHED = "forward", "forward and gradient", "forward and gradient, smoothing 0.1"
SMOOTHING = 0.1

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
    in_place: bool = False
    """Whether the gradient replaces the logits, which then have to be put back before every call."""
    ours: bool = False
    swept: bool = False
    """Whether it is measured at every size too, not only at every vocabulary."""

    @property
    def smoothing(self) -> float:
        """What the question gives to all classes."""
        return SMOOTHING if self.question == SMOOTHED else 0.0


def of(library: Library) -> list[Contender]:
    """The contenders of a library, the copy first."""
    chosen = [_plain("copy", COPY, 2, _copy, swept=True)]
    for engine in library.engines():
        chosen += _ours(engine, fastest=engine == library.engines()[0])
        if isinstance(library, Torch):
            loss = partial(crossent.cross_entropy, engine=engine)
            chosen.append(_contender(GRADIENT, f"crossent {engine}, backward", 2, partial(_torch_backward, loss)))
    if isinstance(library, Torch):
        chosen += _TORCH
        if library.on_gpu:
            chosen += [*_COMPILED, *_fused_peers()]
    if isinstance(library, NumPy):
        chosen += [
            Contender(FORWARD, "textbook", 1, lambda library: partial(_textbook, library.xp), swept=True),
            Contender(
                GRADIENT, "textbook", 2, lambda library: partial(_textbook_with_gradient, library.xp), swept=True
            ),
        ]
    return chosen


def _plain(question: str, name: str, traffic: int, function: Function, **kind: bool) -> Contender:
    return Contender(question, name, traffic, lambda library: function, **kind)


def _contender(question: str, name: str, traffic: int, function: Function, **kind: bool) -> Contender:
    return _plain(question, name, traffic, function, ours=True, **kind)


def _copy(x: Any, t: Any, out: Any) -> None:
    out[...] = x


def _ours(engine: str, *, fastest: bool) -> list[Contender]:
    """Every way to ask an engine; without the check of the targets only the one that this is about."""
    loss = partial(crossent.cross_entropy, engine=engine)
    both = partial(crossent.cross_entropy_and_grad, engine=engine)
    smoothed = partial(both, label_smoothing=SMOOTHING, smoothing="uniform")
    name = f"crossent {engine}"
    chosen = [
        _contender(FORWARD, name, 1, lambda x, t, out: loss(x, t)),
        _contender(GRADIENT, f"{name}, out=", 2, lambda x, t, out: both(x, t, out=out)),
        _contender(GRADIENT, f"{name}, out=logits", 2, lambda x, t, out: both(x, t, out=x), in_place=True),
        _contender(GRADIENT, name, 2, lambda x, t, out: both(x, t)),
        _contender(SMOOTHED, f"{name}, out=", 2, lambda x, t, out: smoothed(x, t, out=out)),
    ]
    if fastest:
        chosen += [
            _contender(FORWARD, f"{name}, unchecked", 1, lambda x, t, out: loss(x, t, check_targets=False), swept=True),
            _contender(
                GRADIENT, f"{name}, out=, unchecked", 2,
                lambda x, t, out: both(x, t, out=out, check_targets=False), swept=True,
            ),
        ]  # fmt: skip
    return chosen


def _torch_loss(x: Any, t: Any, smoothing: float = 0.0) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(x, t, label_smoothing=smoothing)


def _smoothed_torch_loss(x: Any, t: Any) -> Any:
    return _torch_loss(x, t, SMOOTHING)


def _torch_backward(loss_of: Callable[[Any, Any], Any], x: Any, t: Any, out: Any) -> Any:
    import torch

    x = x.detach().requires_grad_(True)
    loss = loss_of(x, t)
    (gradient,) = torch.autograd.grad(loss, x)
    return loss.detach(), gradient


def _compiled(loss_of: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    import torch

    # One size at a time, so that neither a program for any size nor the limit of recompilations comes in.
    torch.compiler.reset()
    return torch.compile(loss_of, dynamic=False)


def _compiled_forward(library: Library) -> Function:
    loss_of = _compiled(_torch_loss)
    return lambda x, t, out: loss_of(x, t)


_TORCH = [
    _plain(FORWARD, "F.cross_entropy", 1, lambda x, t, out: _torch_loss(x, t), swept=True),
    _plain(GRADIENT, "F.cross_entropy", 2, partial(_torch_backward, _torch_loss), swept=True),
    _plain(SMOOTHED, "F.cross_entropy", 2, partial(_torch_backward, _smoothed_torch_loss)),
]
_COMPILED_NAME = "F.cross_entropy, torch.compile"
_COMPILED = [
    Contender(FORWARD, _COMPILED_NAME, 1, _compiled_forward, slow_start=True),
    Contender(
        GRADIENT, _COMPILED_NAME, 2,
        lambda library: partial(_torch_backward, _compiled(_torch_loss)), slow_start=True,
    ),
    Contender(
        SMOOTHED, _COMPILED_NAME, 2,
        lambda library: partial(_torch_backward, _compiled(_smoothed_torch_loss)), slow_start=True,
    ),
]  # fmt: skip


def _fused_peers() -> list[Contender]:
    """Liger and Quack, where they are installed. Liger's forward puts the gradient over the logits."""
    chosen = []
    if importlib.util.find_spec("liger_kernel"):
        chosen += [
            Contender(FORWARD, "Liger", 1, _liger_forward, slow_start=True),
            Contender(GRADIENT, "Liger", 2, _liger_gradient, slow_start=True, in_place=True),
        ]
    if importlib.util.find_spec("quack"):
        chosen += [
            Contender(FORWARD, "Quack", 1, _quack_forward, slow_start=True),
            Contender(GRADIENT, "Quack", 2, _quack_gradient, slow_start=True),
        ]
    return chosen


def _liger_forward(library: Library) -> Function:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return lambda x, t, out: liger_cross_entropy(x, t)


def _liger_gradient(library: Library) -> Function:
    from liger_kernel.transformers.functional import liger_cross_entropy

    return partial(_torch_backward, liger_cross_entropy)


def _quack_loss(x: Any, t: Any) -> Any:
    from quack.cross_entropy import cross_entropy

    return cross_entropy(x, t, reduction="mean")


def _quack_forward(library: Library) -> Function:
    return lambda x, t, out: _quack_loss(x, t)


def _quack_gradient(library: Library) -> Function:
    return partial(_torch_backward, _quack_loss)


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
