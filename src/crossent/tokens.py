"""Which tokens count and for how much: ignored targets, token weights and the class weights of targets. Pure array API.

A token counts unless its target is ignored or its weight is 0; its weight is its token weight times the class weight of
its hard target. What does not count is zero in the loss and in the gradient whatever its logits hold, and it is no
part of a denominator.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossent import checks
from crossent.arithmetic import cast, flat, only
from crossent.arrays import Array, Namespace, device, dtype_name, is_jax, namespace, wide_integer


class Tokens(NamedTuple):
    """The tokens of a call, each array of the shape of the targets.

    classes: targets that are safe to index with (0 where there is none), unless who walks the rows guards against
        others; or None for soft targets.
    weight: w, in the compute dtype; 0 where a token does not count, NaN where its target is outside the vocabulary and
        nobody could be told or guards; None where every token weighs 1.
    total: what a weighted mean divides by the sum of: w times the class weight of the target, NaN where there is no
        such class; `counted` itself where all that count weigh 1; None where every token does.
    counted: which tokens count; None where all do.
    """

    classes: Array | None
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
    limits: bool,
    check: bool,
    guarded: bool,
    dtype: object,
) -> Tokens:
    """The tokens of hard targets. `check`: IndexError for one outside the vocabulary; without it, its row is NaN.

    guarded: whether who walks the rows sees to that, so that such a target may stay what it is.
    """
    t, kept = _classes(xp, targets, vocabulary, ignore_index)
    if check and is_jax(targets):
        # A jitted function's closure is as readable as ever, but nothing that JAX computes from it there is.
        seen = np.asarray(targets)
        host = namespace(seen)
        checks.targets_in_range(host, seen, _classes(host, seen, vocabulary, ignore_index)[0], vocabulary, ignore_index)
    elif check:
        checks.targets_in_range(xp, targets, t, vocabulary, ignore_index)
    bad = None
    # The weight of a class is looked up here, and one that is not there is NaN.
    if not check and (class_weights is not None or not guarded):
        bad = (t < 0) | (t >= vocabulary)
        t = only(xp, ~bad, t)
    weight = None if weights is None else xp.broadcast_to(cast(xp, weights, dtype), targets.shape)
    counted = kept
    if weight is not None:
        counted = _both(counted, weight != 0)
    own = None
    if class_weights is not None:
        own = xp.reshape(xp.take(class_weights, flat(xp, t), axis=0), targets.shape)
        if limits:
            counted = _both(counted, own != 0)
    if counted is not None:
        weight = cast(xp, counted, dtype) if weight is None else xp.where(counted, weight, xp.zeros_like(weight))
    total = counted if weights is None else weight
    if bad is not None:
        one = xp.ones(targets.shape, dtype=dtype, device=device(targets)) if weight is None else weight
        weight = xp.where(bad, xp.full_like(one, xp.nan), one)
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


def _classes(xp: Namespace, targets: Array, vocabulary: int, ignore_index: int | None) -> tuple[Array, Array | None]:
    """Targets in the widest integer, 0 for those that are ignored; and which are not, None for all."""
    t = _widened(xp, targets, vocabulary, ignore_index)
    if ignore_index is None:
        return t, None
    kept = t != ignore_index
    return only(xp, kept, t), kept


def _widened(xp: Namespace, targets: Array, vocabulary: int, ignore_index: int | None) -> Array:
    """Targets in the widest signed integer; an unsigned value past it becomes one that is surely outside."""
    wide = wide_integer(xp, targets)
    t = cast(xp, targets, wide)
    if dtype_name(targets.dtype) in ("uint64", "uint32") and targets.dtype != wide:
        outside = vocabulary if ignore_index != vocabulary else -1
        t = xp.where(t < 0, xp.full_like(t, outside), t)
    return t
