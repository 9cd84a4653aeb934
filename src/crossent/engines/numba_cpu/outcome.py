"""`math.outcome` for the compiled kernels: what a class, and what a row, has in the loss.

The formulas and their names are those of `math.targets`, `math.statistics` and `math.outcome`. Every function takes
vectors whose lanes are the classes of one row, or rows; numbers that all lanes share may be numbers. `soft` is None for
hard targets, and what it guards is not compiled then.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.engines.numba_cpu.functions import log1p_beside
from crossent.engines.numba_cpu.lanes import lowest, narrowed, widened
from crossent.engines.numba_cpu.vectors import filled, inline, is_nan, where
from crossent.math.statistics import UNIT

_PER_UNIT = 1 / UNIT
_INF, _NAN = np.inf, np.nan


@inline
def centre_of(m: Any) -> Any:
    """The number that exponentials are taken from: a row of nothing but −inf has none, and −inf − (−inf) is NaN."""
    return where(m == -_INF, lowest(m), m)


@inline
def possible(x: Any, ieee: bool) -> Any:
    """1 for a class that can occur, and 0 for one that cannot, which `ieee` does not tell apart."""
    one = filled(x, 1.0)
    return where(x == -_INF, 0.0, one) if not ieee else one


@inline
def masses(soft: Any, x: Any, q: Any, u: Any, is_peak: Any, smoother: Any, ieee: bool) -> Any:
    """The masses of classes with logits x, soft targets q and weights u: `class_masses` or `soft_masses`."""
    if soft is None:
        return where(x == -_INF, 0.0, u) if not ieee else u
    active, target_mass, to_all, even, others, lost, rest, peak = smoother
    if not active:
        return q * u
    occurs = possible(x, ieee)
    if to_all:
        return (target_mass * q + even * occurs) * u
    # The others of every class, without what the likeliest has: that would drown the rest.
    sum_of_others = where(is_peak, rest, (rest - q * occurs) + peak)
    return (target_mass * q + (occurs * others * sum_of_others + even * occurs * lost)) * u


@inline
def terms(x: Any, u: Any, centre: Any, ieee: bool) -> Any:
    """u·(centre − x)·UNIT; scaled before the subtraction, so that it cannot overflow."""
    d = centre * UNIT - x * UNIT
    if not ieee:
        # 0·∞ counts as 0.
        return u * where((x == -_INF) & (u == 0.0), 0.0, d)
    # An infinite mass at the maximum: it counts in the mass, which multiplies log Z.
    return where(d == 0.0, 0.0, u * d)


@inline
def outcome(soft: Any, statistics: Any, own: Any, weight: Any, scale: Any, coefficients: Any) -> Any:
    """The losses of rows, and the three numbers that make their gradients: at the target, factor and uniform term.

    statistics: m, S, exp(x_t − m), x_t, count, mass and weighted_gap. own: the class weight of a hard target; of soft
    ones the mass of the class that is kept apart.
    """
    maximum, others, odds, target, count, mass, weighted_gap = statistics
    target_mass, smoothing, includes_target, z_loss, ieee, weighs = coefficients
    zero = filled(maximum, 0.0)
    tau = target - maximum
    # Where the target is not the maximum, that is among the others and S ≥ 1: nothing cancels on either side.
    # One division is enough: Z ≥ 1, or NaN.
    inverse = 1.0 / (others + odds)
    log_z = log1p_beside(where(tau >= 0.0, others, (others - 1.0) + odds), inverse)
    # Far apart, the loss is counted in units of 1/UNIT until it is weighed.
    most = -lowest(maximum) * UNIT
    far = (maximum > most) | ((target < -most) & (target > -_INF))
    shares_out = soft is not None or smoothing != 0.0
    if shares_out:
        far = far | (weighted_gap > most * UNIT) | (weighted_gap < -most * UNIT)
    unit = where(far, UNIT, filled(zero, 1.0))
    gap, log_z_units = maximum * unit - target * unit, log_z * unit
    shared = zero
    if soft is not None:
        q_t = own
        c = filled(zero, 1.0)
    else:
        q_t = target_mass * own
        c = zero
        if shares_out:
            part = filled(zero, includes_target)
            if not ieee:
                part = where(target == -_INF, 0.0, part)
            shares = count + part
            single = shares == 0.0
            c = where(single, 0.0, smoothing / where(single, 1.0, shares))
            mass = c * mass
            weighted_gap = c * weighted_gap
            shared = c * part * own
            if not ieee:
                q_t = q_t + shared
                shared = zero
    if not ieee:
        gap = where((target == -_INF) & (q_t == 0.0), 0.0, gap)
    loss = q_t * (gap + log_z_units)
    if shares_out:
        if ieee and soft is None:
            loss = loss + shared * (gap + log_z_units)
            q_t = q_t + shared
        loss = loss + (mass * log_z_units + weighted_gap * (unit * _PER_UNIT))
    else:
        mass = zero
    lse = maximum + log_z
    if z_loss != 0.0:
        loss = loss + (z_loss * lse) * (lse * unit)
    if weighs:
        loss = weight * loss
        if not ieee:
            loss = where(weight == 0.0, 0.0, loss)
        scale = widened(weight) * scale
    loss = loss * where(far, _PER_UNIT, filled(zero, 1.0))
    entry = -(scale * widened(q_t)) * widened(others * inverse)
    if shares_out:
        entry = entry + scale * widened(mass) * widened(odds * inverse)
    factor = narrowed(scale * widened((q_t + mass) * inverse), zero)
    if z_loss != 0.0:
        # It may be past the dtype, and yet is no more than 0 where a probability is 0: scaled first, then clipped.
        rest = _clipped((2.0 * z_loss) * scale * widened(lse))
        entry = entry + rest * widened(odds * inverse)
        factor = _clipped(factor + narrowed(rest * widened(inverse), zero))
    return loss, plain(narrowed(entry, zero)), plain(factor), plain(narrowed(scale * widened(c), zero))


@inline
def _clipped(x: Any) -> Any:
    """The vector with infinities replaced by the numbers next to them; NaN stays."""
    return where(x == _INF, -lowest(x), where(x == -_INF, lowest(x), x))


@inline
def plain(x: Any) -> Any:
    """The vector with every NaN made the plain one: `store` takes no other where it rounds to bfloat16."""
    return where(is_nan(x), _NAN, x)
