"""What is measured of distributions themselves, beside the loss of targets. Pure array API.

For a row y of logits with maximum m let e_j = exp(y_j − m), and of what is below the maximum and what is not

    rest = Σ_{y_j<m} e_j      ties = Σ_{y_j=m} 1      E = Σ_j e_j·(m − y_j)      log Z = log1p(rest + (ties − 1))

    log Σ exp y   = m + log Z                                d_j = p_j
    entropy       = log Z + E/Z                              d_j = p_j·((m − y_j) − E/Z)

Nothing is added that has to be taken away again: a confident row's entropy keeps all its digits. Of a student's p and a
teacher's q, with r_j = log q_j − log p_j, every term of a divergence is at least 0:

    forward         KL(q‖p) = Σ q·r − (q − p)                 d_j = p_j − q_j
    reverse         KL(p‖q) = Σ (q − p) − p·r                 d_j = −p_j·(r_j + KL)
    jensen-shannon  β·KL(q‖m) + (1 − β)·KL(p‖m)               d_j = −(1 − β)·p_j·(log(m_j/p_j) + KL(p‖m))
                    m = β·q + (1 − β)·p

where q − p is max(p, q)·expm1(−|r|) with its sign, which does not cancel either; 0·log 0 is 0.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent.math.operations import Operations
from crossent.math.rows import Rows
from crossent.types import Array

LOG_SUM_EXP, ENTROPY = "log_sum_exp", "entropy"
FORWARD, REVERSE, JENSEN_SHANNON = "forward", "reverse", "jensen-shannon"
DIRECTIONS = (FORWARD, REVERSE, JENSEN_SHANNON)


class Distribution(NamedTuple):
    """Rows of logits as distributions: m and log Z, (N,); m − y, exp(y − m) and the probabilities, (N, V)."""

    maximum: Array
    log_z: Array
    gap: Array
    e: Array
    p: Array


def distribution(ops: Operations, y: Array) -> Distribution:
    """The distributions of rows (N, V)."""
    xp = ops.xp
    # Results do not depend on m, so it is a constant to automatic differentiation.
    maximum = ops.stop_gradient(xp.max(y, axis=1))
    gap = ops.finite_from_below(maximum)[:, None] - y
    e = xp.exp(-gap)
    rest, ties = below_and_at(ops, gap, e)
    return Distribution(maximum, xp.log1p(rest + (ties - 1.0)), gap, e, e / (rest + ties)[:, None])


def below_and_at(ops: Operations, gap: Array, e: Array) -> tuple[Array, Array]:
    """The sums of exponentials below a row's maximum, and of those at it, which are 1 each."""
    at, zero = gap == 0, ops.xp.zeros_like(e)
    return ops.xp.sum(ops.xp.where(at, zero, e), axis=1), ops.xp.sum(ops.xp.where(at, e, zero), axis=1)


def weighed_gap(ops: Operations, e: Array, gap: Array) -> Array:
    """e·gap (N, V), 0 where e is: a gap may be infinite there."""
    nothing = e == 0
    return e * ops.xp.where(nothing, ops.xp.zeros_like(gap), gap)


def values_and_gradient(
    ops: Operations, rows: Rows, scale: Array | float | None, slope: Array | None = None
) -> tuple[Array, Array | None]:
    """The values (N,) and, with `scale`, the gradient rows (N, V), times it and `slope` (N, V) or 1, of rows whose
    logits, and those of a teacher, have the compute dtype and are transformed.
    """
    xp, weight, coefficients = ops.xp, rows.weight, rows.coefficients
    found = distribution(ops, rows.logits)
    if coefficients.measure == LOG_SUM_EXP:
        values, d = found.maximum + found.log_z, found.p
    elif coefficients.measure == ENTROPY:
        gap = weighed_gap(ops, found.p, found.gap)
        mean = xp.sum(gap, axis=1)
        values, d = found.log_z + mean, gap - found.p * mean[:, None]
    else:
        values, d = _divergence(ops, coefficients.measure, coefficients.mixture, found, distribution(ops, rows.soft))
    if weight is not None:
        values = xp.where(weight == 0, xp.zeros_like(values), weight * values)
    if scale is None:
        return values, None
    scale = scale if weight is None else weight * scale
    if coefficients.inverse_temperature != 1.0:
        scale = scale * coefficients.inverse_temperature
    d = d * (scale if isinstance(scale, float) else ops.cast(scale if scale.ndim == 0 else scale[:, None], d.dtype))
    if slope is not None:
        d = d * slope
    return values, d if weight is None else ops.clear_rows(d, weight == 0, None)


def _divergence(
    ops: Operations, direction: str, mixture: float, student: Distribution, teacher: Distribution
) -> tuple[Array, Array]:
    """The divergences (N,) and their derivatives (N, V) by the student's logits."""
    xp, p, q = ops.xp, student.p, teacher.p
    zero = xp.zeros_like(p)
    # Where neither occurs, both gaps are infinite.
    neither = (student.gap == xp.inf) & (teacher.gap == xp.inf)
    r = xp.where(neither, zero, student.gap - teacher.gap) + (student.log_z - teacher.log_z)[:, None]
    less = xp.expm1(-xp.abs(r))
    difference = xp.where(r > 0, -q, p) * less
    if direction == FORWARD:
        return _sum_of_terms(ops, _weighed(ops, q, r) - difference), -difference
    if direction == REVERSE:
        values = _sum_of_terms(ops, difference + _weighed(ops, p, -r))
        return values, -_times(ops, p, r + values[:, None])
    # log(m/p) and log(m/q), of which the one with the smaller argument is found first.
    up = r > 0
    small = xp.log1p(xp.where(up, (1.0 - mixture) * less, mixture * less))
    of_p, of_q = xp.where(up, small + r, small), xp.where(up, small, small - r)
    from_p = _sum_of_terms(ops, mixture * difference - _times(ops, p, of_p))
    from_q = _sum_of_terms(ops, (mixture - 1.0) * difference - _times(ops, q, of_q))
    values = mixture * from_q + (1.0 - mixture) * from_p
    return values, (mixture - 1.0) * _times(ops, p, of_p + from_p[:, None])


def _weighed(ops: Operations, probability: Array, log_ratio: Array) -> Array:
    """Their product, 0 where the probability is; but ∞ where only that has underflowed, of a class that the other side
    leaves out.
    """
    zero = ops.xp.zeros_like(log_ratio)
    return ops.xp.where(
        log_ratio == ops.xp.inf, log_ratio, probability * ops.xp.where(probability == 0, zero, log_ratio)
    )


def _times(ops: Operations, probability: Array, x: Array) -> Array:
    """Their product, 0 where the probability is."""
    zero = ops.xp.zeros_like(x)
    return probability * ops.xp.where(probability == 0, zero, x)


def _sum_of_terms(ops: Operations, terms: Array) -> Array:
    """The sum over a row; a term is below 0 by rounding alone. NaN stays."""
    return ops.xp.sum(ops.xp.maximum(terms, ops.xp.zeros_like(terms)), axis=1)
