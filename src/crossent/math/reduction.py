"""none, sequence, mean, sum, and what they divide by. Pure array API; sums are accurate for millions of tokens.

loss = Σ_i loss_i / denominator        over all tokens (mean, sum) or over the last axis (sequence)
"""

from __future__ import annotations

import math

from crossent.math.operations import Operations
from crossent.math.tokens import Tokens
from crossent.types import Array


def result_shape(reduction: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the loss for targets of shape `tokens`."""
    if reduction == "none":
        return tokens
    return tokens[:-1] if reduction == "sequence" else ()


def denominator_of(
    ops: Operations,
    wide: Array,
    device: Array,
    tokens: Tokens,
    shape: tuple[int, ...],
    reduction: str,
    denominator: str | float | Array | None,
    ieee: bool,
) -> Array | float:
    """What the sum is divided by: 1.0, a number, or an array in the dtype `wide` that broadcasts to the loss.

    ieee: where nothing counts it is NaN, and without it 1.
    """
    if reduction in ("none", "sum"):
        return 1.0
    xp, axis, counted = ops.xp, -1 if reduction == "sequence" else None, tokens.counted
    if denominator is None or isinstance(denominator, str):
        terms = tokens.total if denominator is None else counted
        if terms is None:
            count = shape[-1] if axis else math.prod(shape)
            nothing = math.nan if ieee else 1.0
            return ops.length(wide, count) if count else nothing
        if terms is counted:
            # Of nothing the sum is 0: divided by 1 it stays so, divided by 0 it is NaN.
            total = ops.count_in(wide, terms, axis)
            return total if ieee else ops.at_least_one(total)
        total = ops.sum_in(wide, terms, axis)
        if ieee:
            return xp.where(total == 0, xp.nan, total)
    elif counted is None and not math.prod(shape):
        return 1.0
    elif not ops.is_number(denominator):
        total = ops.cast(denominator, wide)
    elif counted is None and denominator != 0.0:
        return denominator
    else:
        # Filled in where it is needed: copying a number to a device would wait for it.
        total = xp.full((), abs(denominator), dtype=wide, device=device)
    if counted is None:
        return total
    # Nothing counted: the sum is 0, and 0 divided by 1 keeps it so.
    return xp.where(xp.any(counted, axis=axis), total, xp.ones_like(total))


def reduce(
    ops: Operations, wide: Array, losses: Array, reduction: str, denominator: Array | float, ieee: bool
) -> Array:
    """The reduced loss of token losses that have the shape of the targets.

    ieee: whether an empty sum divided by nothing is NaN, not 0.
    """
    if reduction == "none":
        return losses
    axis = -1 if reduction == "sequence" else None
    dtype = losses.dtype
    if reduction == "sum":
        return ops.cast(ops.sum_in(wide, losses, axis), dtype)
    if dtype != wide or ieee:
        return ops.divide(ops.sum_in(wide, losses, axis), denominator, dtype)
    # Divided before they are added: the sum of losses may be past the widest float where their mean is not.
    terms = losses / (denominator if axis is None else _along_last_axis(denominator))
    return ops.cast(ops.sum_in(wide, terms, axis), dtype)


def token_scale(
    ops: Operations,
    wide: Array,
    shape: tuple[int, ...],
    reduction: str,
    denominator: Array | float,
    grad: Array | float,
    kept: Array | None,
) -> Array | float:
    """What multiplies a token's gradient: that of the loss over the denominator; a number, 0-d, or one per token.

    kept: the only tokens that have a part in the loss, even in one that is divided by nothing; None for all.
    """
    if kept is None and isinstance(grad, float) and isinstance(denominator, float):
        return grad / denominator
    xp = ops.xp
    scale = grad / denominator if isinstance(grad, float) else ops.divide_in(wide, grad, denominator)
    if reduction == "sequence":
        scale = _along_last_axis(scale)
    if kept is not None:
        scale = xp.where(kept, scale, 0.0 if isinstance(scale, float) else xp.zeros_like(scale))
    if kept is not None or (reduction in ("none", "sequence") and not isinstance(scale, float)):
        scale = ops.per_token(scale, shape)
    return scale


def _along_last_axis(x: Array | float) -> Array | float:
    """A number per sequence, made to broadcast over the tokens of each."""
    return x if isinstance(x, float) else x[..., None]
