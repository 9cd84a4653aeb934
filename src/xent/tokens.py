"""Which tokens count and for how much: ignored targets, token weights and the class weights of targets. Pure array API.

A token counts unless its target is ignored or its weight is 0. What does not count is zero in the loss and in the
gradient whatever its logits hold, and it is no part of a denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

from xent import checks
from xent.arrays import Array, Namespace, cast, device, dtype_name, wide_integer


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a call, each array of the shape of the targets.

    index: targets that are safe to index with (0 where there is none), or None for soft targets.
    weight: w, in the compute dtype; 0 where a token does not count, NaN where its target is outside the vocabulary and
        nobody could be told; None where every token weighs 1.
    total: what a weighted mean divides by, token for token: w times the class weight of the target; None for 1.
    counted: which tokens count; None where all do.
    """

    index: Array | None
    weight: Array | None
    total: Array | None
    counted: Array | None


def of_targets(
    xp: Namespace,
    targets: Array,
    vocabulary: int,
    *,
    ignore_index: int | None,
    weights: Array | None,
    class_weights: Array | None,
    smoothed: bool,
    check: bool,
    dtype: object,
) -> Tokens:
    """The tokens of hard targets. `check`: IndexError for one outside the vocabulary; without it, its row is NaN."""
    t = _widened(xp, targets, vocabulary, ignore_index)
    outside = (t < 0) | (t >= vocabulary)
    kept = None if ignore_index is None else t != ignore_index
    bad = outside if kept is None else outside & kept
    if check:
        checks.targets_in_range(xp, targets, bad, vocabulary, ignore_index)
    if kept is not None or not check:
        t = xp.where(outside if kept is None else outside | ~kept, xp.zeros_like(t), t)
    weight = None if weights is None else xp.broadcast_to(cast(xp, weights, dtype), targets.shape)
    counted = kept
    if weight is not None:
        counted = _both(counted, weight != 0)
    own = None
    if class_weights is not None:
        own = xp.reshape(xp.take(class_weights, xp.reshape(t, (-1,)), axis=0), targets.shape)
        if not smoothed:
            counted = _both(counted, own != 0)
    if counted is not None:
        one = xp.ones(targets.shape, dtype=dtype, device=device(targets)) if weight is None else weight
        weight = xp.where(counted, one, xp.zeros_like(one))
    if not check:
        one = xp.ones(targets.shape, dtype=dtype, device=device(targets)) if weight is None else weight
        weight = xp.where(bad, xp.full_like(one, xp.nan), one)
    total = weight
    if own is not None:
        total = own if weight is None else xp.where(weight == 0, xp.zeros_like(weight), weight * own)
    return Tokens(t, weight, total, counted)


def of_soft_targets(xp: Namespace, shape: tuple[int, ...], weights: Array | None, dtype: object) -> Tokens:
    """The tokens of soft targets, which count by their token weight alone."""
    if weights is None:
        return Tokens(None, None, None, None)
    weight = xp.broadcast_to(cast(xp, weights, dtype), shape)
    return Tokens(None, weight, weight, weight != 0)


def _both(a: Array | None, b: Array) -> Array:
    return b if a is None else a & b


def _widened(xp: Namespace, targets: Array, vocabulary: int, ignore_index: int | None) -> Array:
    """Targets in the widest signed integer; an unsigned value past it becomes one that is surely outside."""
    wide = wide_integer(xp, targets)
    t = cast(xp, targets, wide)
    if dtype_name(targets.dtype) in ("uint64", "uint32") and targets.dtype != wide:
        outside = vocabulary if ignore_index != vocabulary else -1
        t = xp.where(t < 0, xp.full_like(t, outside), t)
    return t
