"""The contenders of what rows tell besides their loss: `crossent` on torch tensors, and the formulas that training code
of reinforcement learning and distillation writes out.

Their answers are of many kinds: each is compared with float64 on the first rows of its problem before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import crossent
from benchmarks.contenders import NUMBA, Call, Contender, arrays
from benchmarks.problem import CHECKED_ROWS, Problem

LOSS, FORMULA = "crossent loss of each token", "torch log_softmax, gather, entropy"
READING, KL_DIV = "reading both arrays", "torch F.kl_div"
_TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
"""Of an answer, relative to its largest number; formulas in bfloat16 lose digits."""

_Function = Callable[..., tuple[Any, ...]]


def _prepare(function: _Function, right: _Function, problem: Problem) -> Call:
    """A call of logits, targets, a teacher's logits (those of the row before), and memory for a gradient."""
    x, t = arrays("torch", problem)
    given = x, t, x.roll(1, 0), x * 0
    few = [a[:CHECKED_ROWS] for a in given]
    exact = right(few[0].double().requires_grad_(), few[1], few[2].double(), few[3])
    for a, b in zip(function(*few), exact, strict=False):
        worst = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        if not worst <= _TOLERANCES[problem.dtype]:
            raise ValueError(f"an answer is off by {worst:.1e} of its largest number")
    return lambda: function(*given) and None


def _log_probs(x: Any, t: Any) -> Any:
    return x.log_softmax(-1).gather(-1, t[:, None])[:, 0]


def _entropy(x: Any) -> Any:
    log_p = x.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _both(x: Any, t: Any, teacher: Any, out: Any) -> tuple[Any, ...]:
    log_p = x.log_softmax(-1)
    return log_p.gather(-1, t[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def _with_gradient(function: _Function, x: Any, *others: Any) -> tuple[Any, ...]:
    """A function's first value and, by autograd, the gradient of the sum of all."""
    import torch

    x = x.detach().requires_grad_()
    values = function(x, *others)
    return values[0], torch.autograd.grad(sum(a.sum() for a in values), x)[0]


def _numbers(x: Any, t: Any, *_: Any) -> tuple[Any, ...]:
    log_prob = _log_probs(x, t)
    return -log_prob, log_prob, x.logsumexp(-1), _entropy(x)


def _divergence(direction: str, x: Any, t: Any, teacher: Any, out: Any) -> tuple[Any, ...]:
    log_p, log_q = x.log_softmax(-1), teacher.log_softmax(-1)
    if direction == "forward":
        each = log_q.exp() * (log_q - log_p)
    elif direction == "reverse":
        each = log_p.exp() * (log_p - log_q)
    else:
        log_m = ((log_p.exp() + log_q.exp()) / 2).log()
        each = (log_q.exp() * (log_q - log_m) + log_p.exp() * (log_p - log_m)) / 2
    return (each.sum(-1).mean(),)


def _kl_div(x: Any, t: Any, teacher: Any, out: Any) -> tuple[Any, ...]:
    import torch

    log_p, log_q = x.log_softmax(-1), teacher.log_softmax(-1)
    return (torch.nn.functional.kl_div(log_p, log_q, reduction="batchmean", log_target=True),)


def _maxima(x: Any, t: Any, teacher: Any, out: Any) -> tuple[Any, ...]:
    return x.amax(-1), teacher.amax(-1)


def _contender(name: str, function: _Function, right: _Function) -> Contender:
    needs = ("torch", NUMBA) if name.startswith("crossent") else ("torch",)
    return Contender(name, needs, partial(_prepare, function, right), tuple(_TOLERANCES))


def _kl(direction: str) -> list[Contender]:
    right = partial(_divergence, direction)
    return [
        _contender(
            f"crossent {direction}",
            lambda x, t, teacher, out: (crossent.kl_divergence(x, teacher, direction=direction),),
            right,
        ),
        _contender(
            f"crossent {direction}, gradient, out=",
            lambda x, t, teacher, out: crossent.kl_divergence_and_grad(x, teacher, out, direction=direction),
            partial(_with_gradient, right),
        ),
    ]


NUMBERS = [
    _contender(LOSS, lambda x, t, *_: (crossent.cross_entropy(x, t, reduction="none"),), _numbers),
    _contender(
        "crossent token_log_probs", lambda x, t, *_: (crossent.token_log_probs(x, t),),
        lambda x, t, *_: (_log_probs(x, t),),
    ),
    _contender("crossent token_statistics", lambda x, t, *_: crossent.token_statistics(x, t)[:4], _numbers),
    _contender("crossent entropy", lambda x, *_: (crossent.entropy(x),), lambda x, *_: (_entropy(x),)),
    _contender(FORMULA, _both, _both),
    _contender(
        "crossent token_log_probs, gradient, out=",
        lambda x, t, teacher, out: crossent.token_log_probs_and_grad(x, t, out),
        partial(_with_gradient, lambda x, t, *_: (_log_probs(x, t),)),
    ),
    _contender(
        "crossent entropy, gradient, out=", lambda x, t, teacher, out: crossent.entropy_and_grad(x, out),
        partial(_with_gradient, lambda x, *_: (_entropy(x),)),
    ),
    _contender(f"{FORMULA}, gradient", partial(_with_gradient, _both), partial(_with_gradient, _both)),
]  # fmt: skip
DIVERGENCES = [
    _contender(READING, _maxima, _maxima),
    *_kl("forward"),
    *_kl("reverse"),
    *_kl("jensen-shannon"),
    _contender(KL_DIV, _kl_div, partial(_divergence, "forward")),
    _contender(f"{KL_DIV}, gradient", partial(_with_gradient, _kl_div), partial(_with_gradient, _kl_div)),
]
