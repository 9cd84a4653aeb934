"""A tile of one row: its maximum, its sums, and where its target is, while it is in the first-level cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.engines.numba_cpu.elements import ask_to_read, interleaved, load_first, load_pair
from crossent.engines.numba_cpu.functions import added, exp, sum_of_lanes, within
from crossent.engines.numba_cpu.lanes import first, first_of, itemsize, lane_is, lanes, largest
from crossent.engines.numba_cpu.outcome import masses, possible, terms
from crossent.engines.numba_cpu.transform import seen, seen_first
from crossent.engines.numba_cpu.vectors import filled, fma, inline, larger, vector_like, where

# Columns of a tile; a row of very many has longer ones. Part of the result's bits.
TILE = 4096
_INF, _NAN = np.inf, np.nan


@inline
def maximum_of_tile(logits: Any, transform: Any, x: int, width: int) -> Any:
    """The largest y of `width` logits from address `x` on, NaN aside: it shows in the sum of the exponentials."""
    n = lanes(logits)
    step = n * itemsize(logits)
    m0 = m1 = m2 = m3 = vector_like(logits, -_INF)
    left = width
    while left >= 4 * n:
        x0, x1 = load_pair(logits, x)
        x2, x3 = load_pair(logits, x + 2 * step)
        m0, m1, m2, m3 = larger(x0, m0), larger(x1, m1), larger(x2, m2), larger(x3, m3)
        x += 4 * step
        left -= 4 * n
    while left > 0:
        m0 = larger(load_first(logits, x, left, -_INF), m0)
        x += step
        left -= n
    return largest(seen(transform, larger(larger(m0, m1), larger(m2, m3))))


@inline
def place_in_tile(logits: Any, transform: Any, x: int, width: int, m: Any) -> int:
    """The number of the first of `width` logits from address `x` on whose y is `m`; −1 where there is none."""
    n = lanes(logits)
    place = 0
    while place < width:
        lane = first_of(seen_first(transform, logits, x, width - place, _NAN) == vector_like(logits, m))
        if lane < n:
            return place + lane
        place += n
        x += n * itemsize(logits)
    return -1


@inline
def pair_without(logits: Any, a: Any, b: Any, t: int) -> Any:
    """A pair of vectors, in the order of `load_pair`, with 0 for element number `t`, if it is among them."""
    n = lanes(logits)
    if interleaved(logits):
        lane = t // 2 if 0 <= t < 2 * n else -1
        return where(lane_is(a, lane if t % 2 == 0 else -1), 0.0, a), where(lane_is(b, lane if t % 2 else -1), 0.0, b)
    return where(lane_is(a, t), 0.0, a), where(lane_is(b, t - n), 0.0, b)


@inline
def others_of_tile(
    logits: Any, transform: Any, x: int, width: int, t: int, centre: Any, threshold: Any
) -> tuple[float, float, float]:
    """The sum of exp(y − centre) over `width` logits from address `x` on, without number `t` of them, in float64.

    With a threshold also that of exp(y − centre)·(centre − y), over all, and how many logits are above it.
    """
    n = lanes(logits)
    step = n * itemsize(logits)
    c = vector_like(logits, centre)
    high = low = moment = moment_low = above = vector_like(logits, 0.0)
    left = width
    while left >= 4 * n:
        x0, x1 = load_pair(logits, x)
        x2, x3 = load_pair(logits, x + 2 * step)
        # The next tile comes into the cache while this one is computed on; there is no fault if it does not exist.
        for line in range(0, 4 * step, 64):
            ask_to_read(x + TILE * itemsize(logits) + line)
        if threshold is not None:
            above = counted(counted(above, x0 > threshold), x1 > threshold)
            above = counted(counted(above, x2 > threshold), x3 > threshold)
        x0, x1, x2, x3 = seen(transform, x0), seen(transform, x1), seen(transform, x2), seen(transform, x3)
        x0, x1, x2, x3 = x0 - c, x1 - c, x2 - c, x3 - c
        e0, e1, e2, e3 = exp(x0), exp(x1), exp(x2), exp(x3)
        if threshold is not None:
            gap = fma(e1, within(x1), weighed(e0, x0))
            gap = fma(e3, within(x3), fma(e2, within(x2), gap))
            moment, moment_low = added(moment, moment_low, gap)
        if 0 <= t < 4 * n:
            e0, e1 = pair_without(logits, e0, e1, t)
            e2, e3 = pair_without(logits, e2, e3, t - 2 * n)
        high, low = added(high, low, (e0 + e1) + (e2 + e3))
        x += 4 * step
        left -= 4 * n
        t -= 4 * n
    while left > 0:
        x0 = seen_first(transform, logits, x, left, -_INF) - c
        e0 = exp(x0)
        high, low = added(high, low, where(lane_is(e0, t), 0.0, e0))
        if threshold is not None:
            moment, moment_low = added(moment, moment_low, weighed(e0, x0))
            above = counted(above, load_first(logits, x, left, -_INF) > threshold)
        x += step
        left -= n
        t -= n
    return sum_of_lanes(high, low), -sum_of_lanes(moment, moment_low), sum_of_lanes(above, vector_like(logits, 0.0))


@inline
def counted(count: Any, mask: Any) -> Any:
    """A count in each lane, one more where the mask is true."""
    return where(mask, count + 1.0, count)


@inline
def weighed(e: Any, x: Any) -> Any:
    """e·x of an exponential e = exp(x), 0 where that is: x may be infinite there."""
    return e * within(x)


@inline
def below_of_tile(logits: Any, transform: Any, x: int, width: int, m: Any) -> float:
    """The sum of exp(y − m) over those of `width` logits from address `x` on whose y is not m, in float64."""
    n = lanes(logits)
    c = vector_like(logits, m)
    high = low = vector_like(logits, 0.0)
    left = width
    while left > 0:
        y = seen_first(transform, logits, x, left, -_INF)
        high, low = added(high, low, where(y == c, 0.0, exp(y - c)))
        x += n * itemsize(logits)
        left -= n
    return sum_of_lanes(high, low)


@inline
def sums_of_tile(
    formats: Any, soft: Any, row: Any, t: int, smoother: Any, peak: int, centre: Any, ieee: bool
) -> tuple[float, float, float]:
    """Σ 1, Σ masses and Σ masses·(centre − x)·UNIT over a tile's classes but number `t`.

    row: addresses of the tile's logits, soft targets and class weights (0: every one is 1), and its width.
    """
    logits, losses, transform = formats
    x, q, u, left = row
    n = lanes(logits)
    c = vector_like(logits, centre)
    zero = vector_like(logits, 0.0)
    count = mass = mass_low = weighted_gap = weighted_gap_low = zero
    weighs = u != 0 if soft is None else True
    while left > 0:
        logit = seen_first(transform, logits, x, left, -_INF)
        target = zero
        if soft is not None:
            target = load_first(soft, q, left, 0.0)
            q += n * itemsize(soft)
        weight = filled(zero, 1.0)
        if u != 0:
            weight = load_first(losses, u, left, 0.0)
            u += n * itemsize(losses)
        counted = first(zero, left) & ~lane_is(zero, t)
        value = masses(soft, logit, target, weight, lane_is(zero, peak), smoother, ieee)
        count = count + where(counted, possible(logit, ieee), 0.0)
        if weighs:
            mass, mass_low = added(mass, mass_low, where(counted, value, 0.0))
        weighted_gap, weighted_gap_low = added(
            weighted_gap, weighted_gap_low, where(counted, terms(logit, value, c, ieee), 0.0)
        )
        x += n * itemsize(logits)
        left -= n
        t -= n
        peak -= n
    if not weighs:
        mass = count
    return sum_of_lanes(count, zero), sum_of_lanes(mass, mass_low), sum_of_lanes(weighted_gap, weighted_gap_low)
