"""none, sequence, mean, sum, and what they divide by. Pure array API; sums are accurate for millions of tokens.

loss = Σ_i loss_i / denominator        over all tokens (mean, sum) or over the last axis (sequence)
"""

from __future__ import annotations

import math
from typing import Any

from crossent.arithmetic import accurate_sum, at_least_one, cast, count_true, quotient, wide_quotient
from crossent.arrays import Array, Namespace, number_of, wide_float
from crossent.tokens import Tokens


def result_shape(reduction: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the loss for targets of shape `tokens`."""
    return {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())


def denominator_of(
    xp: Namespace,
    place: Any,
    wide: Any,
    tokens: Tokens,
    shape: tuple[int, ...],
    reduction: str,
    denominator: str | float | Array | None,
    limits: bool,
) -> Array | float:
    """What the sum is divided by: 1.0, a number, or an array in the dtype `wide` that broadcasts to the loss.

    limits: where nothing counts it is 1, and without it NaN.
    """
    if reduction in ("none", "sum"):
        return 1.0
    axis = -1 if reduction == "sequence" else None
    if denominator is None or isinstance(denominator, str):
        terms = tokens.total if denominator is None else tokens.counted
        if terms is None:
            count = shape[-1] if axis else math.prod(shape)
            nothing = 1.0 if limits else math.nan
            return float(count) if count else nothing
        if terms is tokens.counted:
            # Of nothing the sum is 0: divided by 1 it stays so, divided by 0 it is NaN.
            total = count_true(xp, terms, wide, axis)
            return at_least_one(xp, total) if limits else total
        total = accurate_sum(xp, terms, axis)
        if not limits:
            return xp.where(total == 0, xp.nan, total)
    else:
        if tokens.counted is None and not math.prod(shape):
            return 1.0
        number = number_of(denominator)
        if number is None:
            total = cast(xp, denominator, wide)
        elif tokens.counted is None:
            return number
        else:
            # Filled in where it is needed: copying a number to a device would wait for it.
            total = xp.full((), number, dtype=wide, device=place)
    if tokens.counted is None:
        return total
    # Nothing counted: the sum is 0, and 0 divided by 1 keeps it so.
    return xp.where(xp.any(tokens.counted, axis=axis), total, xp.ones_like(total))


def reduce(xp: Namespace, losses: Array, reduction: str, denominator: Array | float, limits: bool) -> Array:
    """The reduced loss of token losses that have the shape of the targets.

    limits: whether an empty sum divided by nothing is 0, not NaN.
    """
    if reduction == "none":
        return losses
    axis = -1 if reduction == "sequence" else None
    wide = wide_float(xp, losses)
    if reduction == "sum":
        total = accurate_sum(xp, losses, axis)
    elif losses.dtype != wide or not limits:
        return quotient(xp, accurate_sum(xp, losses, axis), denominator, losses.dtype)
    else:
        # Divided before they are added: the sum of losses may be past the widest float where their mean is not.
        terms = losses / (denominator if axis is None else _along_last_axis(denominator))
        total = accurate_sum(xp, terms, axis)
    return cast(xp, total, losses.dtype)


def token_scale(
    xp: Namespace,
    wide: Any,
    shape: tuple[int, ...],
    reduction: str,
    denominator: Array | float,
    grad: Array | float,
    kept: Array | None,
) -> Array | float:
    """What multiplies a token's gradient: that of the loss over the denominator; a number, 0-d, or flat (N,).

    kept: the only tokens that have a part in the loss, even in one that is divided by nothing; None for all.
    """
    if kept is None and isinstance(grad, float) and isinstance(denominator, float):
        return grad / denominator
    scale = grad / denominator if isinstance(grad, float) else wide_quotient(xp, grad, denominator, wide)
    if reduction == "sequence":
        scale = _along_last_axis(scale)
    if kept is not None:
        scale = xp.where(kept, scale, xp.zeros_like(scale) if hasattr(scale, "dtype") else 0.0)
    if kept is not None or (reduction in ("none", "sequence") and not isinstance(scale, float)):
        scale = xp.reshape(xp.broadcast_to(scale, shape), (-1,))
    return scale


def _along_last_axis(x: Array | float) -> Array | float:
    """A number per sequence, made to broadcast over the tokens of each."""
    return x if isinstance(x, float) else x[..., None]
