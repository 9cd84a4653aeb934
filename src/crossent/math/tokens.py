"""Which tokens count and for how much: ignored targets, token weights and the class weights of targets. Pure array API.

A token counts unless its target is ignored or its weight is 0; its weight is its token weight times the class weight of
its hard target. What does not count is zero in the loss and in the gradient whatever its logits hold, and it is no
part of a denominator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossent.math.operations import Operations
from crossent.math.statistics import RowStatistics
from crossent.types import Array

# By whether the compute dtype is float64: the power of two beyond which weights are scaled, and by how much.
_STEPS = {False: (32, 64), True: (400, 600)}


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
    t, kept = targets, None
    if targets.dtype != wide or not (ignore_index is None or -(2**31) <= ignore_index < 2**31):
        name = ops.dtype_name(targets)
        if ignore_index is not None and not _holds(name, ignore_index):
            ignore_index = None
        t = ops.cast(targets, wide)
        if name in ("uint64", "uint32"):
            # An unsigned value past the widest integer has become negative.
            past = np.iinfo(ops.dtype_name(t)).max + 1
            if ignore_index is not None and ignore_index >= past:
                kept, ignore_index = t != ignore_index - 2 * past, None
            # Surely outside of the vocabulary.
            t = ops.xp.where(t < 0, ops.xp.full_like(t, vocabulary if ignore_index != vocabulary else -1), t)
    if ignore_index is not None:
        kept = t != ignore_index
    return t if kept is None else ops.zero_where_not(kept, t), kept


def _holds(name: str, index: int) -> bool:
    """Whether the integer dtype of that name, which may be int4, has the number."""
    bits = int(name.lstrip("uint"))
    least, past = (0, 1 << bits) if name.startswith("u") else (-1 << (bits - 1), 1 << (bits - 1))
    return least <= index < past


def weighed(
    ops: Operations, weights: Array, dtype: Array, kept: Array | None, shape: tuple[int, ...] | None, mean: str | None
) -> Array:
    """Weights of that shape, or of their own, in the compute dtype `dtype`.

    mean: "mean" or "sequence" where the weights' own sum divides the loss, which so does not change by a factor. Where
    products with them, or their sum, might not be within the dtype, a power of two brings the largest of those that are
    kept nearer to 1; ordinary weights stay as they are.
    """
    xp = ops.xp
    weights = ops.cast(weights, dtype)
    if shape is not None:
        weights = xp.broadcast_to(weights, shape)
    if mean is None or 0 in weights.shape:
        return weights
    size = xp.abs(weights) if kept is None else xp.where(kept, xp.abs(weights), xp.zeros_like(weights))
    axis = -1 if mean == "sequence" else None
    # A constant to automatic differentiation, since the mean does not depend on it.
    largest = ops.stop_gradient(xp.max(size, axis=axis, keepdims=axis is not None))
    bound, step = _STEPS[dtype == xp.float64]
    return ops.brought_near(weights, largest, 2.0**bound, 2.0**step)


def of_parts_near_one(
    ops: Operations, found: RowStatistics, class_weights: Array, dtype: Array
) -> tuple[RowStatistics, Array]:
    """What `weighed` does for a mean with class weights, after parts of them are put together."""
    assert found.own is not None
    largest = ops.stop_gradient(ops.xp.max(ops.xp.abs(found.own)))
    bound, step = _STEPS[dtype == ops.xp.float64]

    def near(x: Array) -> Array:
        return ops.brought_near(x, largest, 2.0**bound, 2.0**step)

    sums = found.sums
    if sums is not None:
        sums = sums._replace(mass=near(sums.mass), weighted_gap=near(sums.weighted_gap))
    return found._replace(own=near(found.own), sums=sums), near(class_weights)


def in_range(ops: Operations, t: Array, weight: Array | None, vocabulary: int, dtype: Array) -> tuple[Array, Array]:
    """Classes that are safe to index with, and weights that are NaN where a target is outside of the vocabulary."""
    bad = (t < 0) | (t >= vocabulary)
    one = ops.xp.ones(t.shape, dtype=dtype, device=ops.device(t)) if weight is None else weight
    return ops.zero_where_not(~bad, t), ops.xp.where(bad, ops.xp.nan, one)


def weights_of(ops: Operations, class_weights: Array, t: Array, vocabulary: int, *, is_safe: bool) -> Array:
    """The class weights of the classes `t`, of which one that is not there has that of class 0."""
    return ops.weights_of(class_weights, t if is_safe else ops.zero_where_not((t >= 0) & (t < vocabulary), t))


def of_targets(
    ops: Operations,
    t: Array,
    kept: Array | None,
    vocabulary: int,
    weights: Array | None,
    own: Array | None,
    dtype: Array,
    *,
    ieee: bool,
    is_safe: bool,
) -> Tokens:
    """The tokens of hard targets whose classes are `t`, of which `kept` are not ignored.

    weights: of the tokens' shape, in the compute dtype `dtype`; those of weight 0 are not kept. own: the class weights
    of the targets (`weights_of`), or None for 1. is_safe: whether every class is one of the vocabulary, or the engine
    sees to those that are not.
    """
    xp = ops.xp
    weight, counted = weights, kept
    if own is not None and not ieee:
        counted = both(counted, own != 0)
    if counted is not None:
        weight = ops.cast(counted, dtype) if weight is None else xp.where(counted, weight, xp.zeros_like(weight))
    total = counted if weights is None else weight
    if not is_safe:
        t, weight = in_range(ops, t, weight, vocabulary, dtype)
    if own is not None:
        total = own if weight is None else xp.where(weight == 0, xp.zeros_like(weight), weight * own)
    return Tokens(t, weight, total, counted)


def both(a: Array | None, b: Array) -> Array:
    """Where both are true; None is true everywhere."""
    return b if a is None else a & b
