"""Which tokens count and for how much: ignored targets, token weights and the class weights of targets. Pure array API.

A token counts unless its target is ignored or its weight is 0; its weight is its token weight times the class weight of
its hard target. What does not count is zero in the loss and in the gradient whatever its logits hold, and it is no
part of a denominator.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent.math.operations import Operations
from crossent.types import Array


class Tokens(NamedTuple):
    """The tokens of a call, each array of the shape of the targets.

    classes: targets in the widest integer, 0 where they are ignored; or None for soft targets.
    weight: w, in the compute dtype; 0 where a token does not count, NaN where `in_range` has found a target outside of
        the vocabulary; None where every token weighs 1.
    total: what a weighted mean divides by the sum of: w times the class weight of the target, NaN where there is no
        such class; `counted` itself where all that count weigh 1; None where every token does.
    counted: which tokens count; None where all do.
    """

    classes: Array | None
    weight: Array | None
    total: Array | None
    counted: Array | None


def classes(
    ops: Operations, wide: Array, targets: Array, vocabulary: int, ignore_index: int | None
) -> tuple[Array, Array | None]:
    """Targets in the widest signed integer, 0 for those that are ignored; and which are not, None for all."""
    t = targets if targets.dtype == wide else ops.cast(targets, wide)
    if t is not targets and ops.dtype_name(targets) in ("uint64", "uint32"):
        # An unsigned value past the widest integer becomes one that is surely outside of the vocabulary.
        outside = vocabulary if ignore_index != vocabulary else -1
        t = ops.xp.where(t < 0, ops.xp.full_like(t, outside), t)
    if ignore_index is None:
        return t, None
    kept = t != ignore_index
    return ops.zero_where_not(kept, t), kept


def in_range(ops: Operations, t: Array, weight: Array | None, vocabulary: int, dtype: Array) -> tuple[Array, Array]:
    """Classes that are safe to index with, and weights that are NaN where a target is outside of the vocabulary."""
    bad = (t < 0) | (t >= vocabulary)
    one = ops.xp.ones(t.shape, dtype=dtype, device=ops.device(t)) if weight is None else weight
    return ops.zero_where_not(~bad, t), ops.xp.where(bad, ops.xp.full_like(one, ops.xp.nan), one)


def of_targets(
    ops: Operations,
    t: Array,
    kept: Array | None,
    vocabulary: int,
    *,
    weights: Array | None,
    class_weights: Array | None,
    ieee: bool,
    is_safe: bool,
    dtype: Array,
) -> Tokens:
    """The tokens of hard targets whose classes are `t`, of which `kept` are not ignored.

    is_safe: whether every class is one of the vocabulary, or the engine sees to those that are not. dtype: the compute
    dtype.
    """
    xp, shape = ops.xp, t.shape
    weight = None if weights is None else xp.broadcast_to(ops.cast(weights, dtype), shape)
    counted = kept
    if weight is not None:
        counted = _both(counted, weight != 0)
    own, safe = None, t
    if class_weights is not None:
        # The weight of a class is looked up here, and one that is not there is NaN.
        safe = t if is_safe else ops.zero_where_not((t >= 0) & (t < vocabulary), t)
        own = xp.reshape(xp.take(class_weights, ops.flat(safe), axis=0), shape)
        if not ieee:
            counted = _both(counted, own != 0)
    if counted is not None:
        weight = ops.cast(counted, dtype) if weight is None else xp.where(counted, weight, xp.zeros_like(weight))
    total = counted if weights is None else weight
    if not is_safe:
        t, weight = in_range(ops, t, weight, vocabulary, dtype)
    if own is not None:
        total = own if weight is None else xp.where(weight == 0, xp.zeros_like(weight), weight * own)
    return Tokens(t, weight, total, counted)


def of_soft_targets(ops: Operations, shape: tuple[int, ...], weights: Array | None, dtype: Array) -> Tokens:
    """The tokens of soft targets, which count by their token weight alone."""
    if weights is None:
        return Tokens(None, None, None, None)
    weight = ops.xp.broadcast_to(ops.cast(weights, dtype), shape)
    return Tokens(None, weight, weight, weight != 0)


def _both(a: Array | None, b: Array) -> Array:
    return b if a is None else a & b
