"""The contenders of what rows tell besides their loss: `crossent` on torch tensors, and the formulas that training code
of reinforcement learning and distillation writes out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import crossent
from benchmarks.contenders import NUMBA, Call, Contender, arrays
from benchmarks.problem import Problem

LOSS, FORMULA = "crossent loss of each token", "torch log_softmax, gather, entropy"
READING, KL_DIV = "reading both arrays", "torch F.kl_div"
_DTYPES = ("float32", "bfloat16")


def _of(function: Callable[..., Any], problem: Problem) -> Call:
    """A call of logits and targets, whose answer is of another kind than the loss."""
    x, t = arrays("torch", problem)
    return lambda: function(x, t) and None


def _into_out(function: Callable[..., Any], problem: Problem) -> Call:
    """The same with the gradient, in memory that is there."""
    x, t = arrays("torch", problem)
    out = x * 0
    return lambda: function(x, t, out) and None


def _formula(x: Any, t: Any) -> Any:
    log_p = x.log_softmax(-1)
    return log_p.gather(-1, t[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def _with_gradient(x: Any, t: Any) -> Any:
    import torch

    x = x.detach().requires_grad_()
    log_p, entropy = _formula(x, t)
    return torch.autograd.grad((log_p + entropy).sum(), x)


def _divergence(function: Callable[..., Any], with_out: bool, problem: Problem) -> Call:
    """A call of a student's and a teacher's logits."""
    x, _ = arrays("torch", problem)
    teacher = x.roll(1, 0)
    rest = (x * 0,) if with_out else ()
    return lambda: function(x, teacher, *rest) and None


def _read(x: Any, teacher: Any) -> Any:
    return x.amax(-1), teacher.amax(-1)


def _kl_div(x: Any, teacher: Any) -> Any:
    import torch

    x, teacher = x.log_softmax(-1), teacher.log_softmax(-1)
    return torch.nn.functional.kl_div(x, teacher, reduction="batchmean", log_target=True)


def _kl_div_gradient(x: Any, teacher: Any) -> Any:
    import torch

    x = x.detach().requires_grad_()
    return torch.autograd.grad(_kl_div(x, teacher), x)


def _true(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose answer is then not asked whether it is true."""
    return lambda *given, **options: (function(*given, **options),)


def _ours(name: str, prepare: Callable[..., Call], *given: Any) -> Contender:
    return Contender(f"crossent {name}", ("torch", NUMBA), partial(prepare, *given), _DTYPES)


def _torch(name: str, prepare: Callable[..., Call], *given: Any) -> Contender:
    return Contender(name, ("torch",), partial(prepare, *given), _DTYPES)


def _kl(direction: str) -> list[Contender]:
    loss = partial(_true(crossent.kl_divergence), direction=direction)
    gradient = partial(_true(crossent.kl_divergence_and_grad), direction=direction)
    return [
        _ours(f"{direction}", _divergence, loss, False),
        _ours(f"{direction}, gradient, out=", _divergence, gradient, True),
    ]


NUMBERS = [
    _ours(LOSS.removeprefix("crossent "), _of, partial(_true(crossent.cross_entropy), reduction="none")),
    _ours("token_log_probs", _of, _true(crossent.token_log_probs)),
    _ours("token_statistics", _of, _true(crossent.token_statistics)),
    _ours("entropy", _of, _true(lambda x, t: crossent.entropy(x))),
    _torch(FORMULA, _of, _true(_formula)),
    _ours("token_log_probs, gradient, out=", _into_out, _true(crossent.token_log_probs_and_grad)),
    _ours("entropy, gradient, out=", _into_out, _true(lambda x, t, out: crossent.entropy_and_grad(x, out))),
    _torch(f"{FORMULA}, gradient", _of, _true(_with_gradient)),
]
DIVERGENCES = [
    _torch(READING, _divergence, _true(_read), False),
    *_kl("forward"),
    *_kl("reverse"),
    *_kl("jensen-shannon"),
    _torch(KL_DIV, _divergence, _true(_kl_div), False),
    _torch(f"{KL_DIV}, gradient", _divergence, _true(_kl_div_gradient), False),
]
