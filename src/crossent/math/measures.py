"""What is measured of distributions themselves, beside the loss of targets. Pure array API.

For a row y of logits with maximum m let e_j = exp(y_j − m) and

    rest = Z − 1 = Σ_{y_j<m} e_j + (#{y_j = m} − 1)      E = Σ_j e_j·(m − y_j)      log Z = log1p(rest)

    log Σ exp y   = m + log Z                                d_j = p_j
    entropy       = log Z + E/Z                              d_j = p_j·((m − y_j) − E/Z)

Nothing is added that has to be taken away again: a confident row's entropy keeps all its digits. Of a student's p and a
teacher's q, with r_j = log q_j − log p_j and h(x) = exp(x) − 1 − x, every term of a divergence is at least 0:

    forward         KL(q‖p) = Σ q·h(−r)                       d_j = p_j − q_j
    reverse         KL(p‖q) = Σ p·h(r)                        d_j = p_j·(Σ_k p_k·u_k − u_j)          u_j = r_j − r_a
    jensen-shannon  β·KL(q‖m) + (1 − β)·KL(p‖m)               d_j = (1 − β)·p_j·(Σ_k p_k·u_k − u_j)
                    m = β·q + (1 − β)·p                       u_j = log(m_j/p_j) − log(m_a/p_a)

where q − p is max(p, q)·expm1(−|r|) with its sign, and a is the likeliest class of the student, so that nothing cancels
here either; 0·log 0 is 0. For any numbers A, B and S of a row

    r_j = u_j − log1p(Σ_k p_k·expm1(u_k))                     u_j = ((z_j − A) − (y_j − B)) − S

They are chosen so that of near distributions nothing is rounded in u that matters. A and B are the maxima, or 0 where
these are near each other; S is what they leave of log Z_q − log Z_p. Of a sure student, u_a is exactly 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from crossent.math.operations import Operations
from crossent.math.rows import Rows
from crossent.types import Array

LOG_SUM_EXP, ENTROPY = "log_sum_exp", "entropy"
FORWARD, REVERSE, JENSEN_SHANNON = "forward", "reverse", "jensen-shannon"
DIRECTIONS = (FORWARD, REVERSE, JENSEN_SHANNON)


# Up to where h(x)/x² is a series, and of how many terms it is to be exact in float64.
_SMALL, _ORDER = 0.25, 11


class Distribution(NamedTuple):
    """Rows of logits y as distributions: m and log Z, (N,); m − y, exp(y − m) and the probabilities, (N, V)."""

    y: Array
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
    rest = rest_of(ops, gap, e)
    return Distribution(y, maximum, xp.log1p(rest), gap, e, e / (1.0 + rest)[:, None])


def rest_of(ops: Operations, gap: Array, e: Array) -> Array:
    """Z − 1 of rows: the exponentials below the maximum, and those at it, which are 1 each, but for one."""
    xp = ops.xp
    at, zero = gap == 0, xp.zeros_like(e)
    return xp.sum(xp.where(at, zero, e), axis=1) + (xp.sum(xp.where(at, e, zero), axis=1) - 1.0)


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
    y, teacher = (x if x is None or weight is None else _counted(ops, x, weight) for x in (rows.logits, rows.soft))
    found = distribution(ops, y)
    if coefficients.measure == LOG_SUM_EXP:
        values, d = found.maximum + found.log_z, found.p
    elif coefficients.measure == ENTROPY:
        gap = weighed_gap(ops, found.p, found.gap)
        mean = xp.sum(gap, axis=1)
        values, d = found.log_z + mean, gap - found.p * mean[:, None]
    else:
        values, d = _divergence(ops, coefficients.measure, coefficients.mixture, found, distribution(ops, teacher))
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


def _counted(ops: Operations, y: Array, weight: Array) -> Array:
    """Rows of logits, 0 where their weight is: automatic differentiation multiplies what they hold by 0."""
    return ops.xp.where(weight[:, None] == 0, ops.xp.zeros_like(y), y)


def _divergence(
    ops: Operations, direction: str, mixture: float, student: Distribution, teacher: Distribution
) -> tuple[Array, Array]:
    """The divergences (N,) and their derivatives (N, V) by the student's logits."""
    xp, p, q = ops.xp, student.p, teacher.p
    r = _log_ratio(ops, student, teacher)
    less = xp.expm1(-xp.abs(r))
    difference = xp.where(r > 0, -q, p) * less
    if direction == FORWARD:
        return _sum_of_terms(ops, q, -r, -difference), -difference
    if direction == REVERSE:
        return _sum_of_terms(ops, p, r, difference), _centred(ops, student, r)
    # log(m/p) and log(m/q), of which the one with the smaller argument is found first.
    up = r > 0
    small = xp.log1p(xp.where(up, (1.0 - mixture) * less, mixture * less))
    of_p, of_q = xp.where(up, small + r, small), xp.where(up, small, small - r)
    from_p = _sum_of_terms(ops, p, of_p, mixture * difference)
    from_q = _sum_of_terms(ops, q, of_q, (mixture - 1.0) * difference)
    return mixture * from_q + (1.0 - mixture) * from_p, (1.0 - mixture) * _centred(ops, student, of_p)


def _log_ratio(ops: Operations, student: Distribution, teacher: Distribution) -> Array:
    """log q − log p, and 0 where neither occurs."""
    xp, zero = ops.xp, ops.xp.zeros_like(student.p)
    top = _top(ops, student)
    # A, B and S, constants to automatic differentiation: whatever they are, r is the same.
    start, away = (ops.stop_gradient(x) for x in (teacher.log_z - student.log_z, ops.take_target(teacher.gap, top)))
    own, other = (ops.finite_from_below(x.maximum) for x in (student, teacher))
    is_sure = (ops.stop_gradient(student.log_z) < math.log(2)) & (away < 1)
    weight = xp.where(is_sure, away, -start)
    start = xp.where(is_sure, xp.zeros_like(start), start)
    other = xp.where(is_sure, ops.stop_gradient(ops.take_target(teacher.y, top)), other)
    is_close = xp.abs(other - own) <= 1
    start = xp.where(is_close, (other - own) + start, start)
    other, own = (xp.where(is_close, xp.zeros_like(x), x) for x in (other, own))
    # Nothing is subtracted from its like: where a library computes later, it would warn of infinities.
    neither = (student.gap == xp.inf) & (teacher.gap == xp.inf)
    y, y_q = (xp.where(neither, zero, x.y) for x in (student, teacher))
    u = xp.where(neither, zero, ((y_q - other[:, None]) - (y - own[:, None])) - start[:, None])
    is_small = xp.abs(u) < 1
    # p·exp(u) of two classes that are far from each other, without the product of what may be 0 and ∞.
    product = teacher.e * xp.exp(weight - student.log_z)[:, None]
    change = xp.where(is_small, student.p * xp.expm1(xp.where(is_small, u, zero)), product - student.p)
    return xp.where(neither, zero, u - xp.log1p(xp.sum(change, axis=1))[:, None])


def _top(ops: Operations, student: Distribution) -> Array:
    return ops.xp.argmax(ops.stop_gradient(-student.gap), axis=1)


def _centred(ops: Operations, student: Distribution, x: Array) -> Array:
    """p_j·(Σ_k p_k·u_k − u_j) with u = x − x_a; NaN for all that occurs where x_a or the sum is not finite."""
    p, top = student.p, _top(ops, student)
    u = x - _finite_or_nan(ops, ops.take_target(x, top))[:, None]
    mean = _finite_or_nan(ops, ops.xp.sum(_times(ops, p, u), axis=1))
    return _times(ops, p, mean[:, None] - u)


def _finite_or_nan(ops: Operations, x: Array) -> Array:
    return ops.xp.where(ops.xp.abs(x) == ops.xp.inf, ops.xp.nan, x)


def _times(ops: Operations, probability: Array, x: Array) -> Array:
    """Their product, 0 where the probability is."""
    zero = ops.xp.zeros_like(x)
    return probability * ops.xp.where(probability == 0, zero, x)


def _sum_of_terms(ops: Operations, probability: Array, x: Array, rise: Array) -> Array:
    """Σ probability·h(x) of rows, where `rise` is probability·(exp(x) − 1); NaN stays."""
    xp = ops.xp
    is_small = xp.abs(x) < _SMALL
    least = xp.where(is_small, x, xp.zeros_like(x))
    tail = xp.zeros_like(x)
    for k in reversed(range(_ORDER)):
        tail = tail * least + 1.0 / math.factorial(k + 2)
    # A term is below 0 by rounding alone; and it is ∞ where the other side leaves out a class, however unlikely.
    large = xp.maximum(rise - _times(ops, probability, x), xp.zeros_like(x))
    large = xp.where(x == -xp.inf, xp.inf, large)
    return xp.sum(xp.where(is_small, probability * least * least * tail, large), axis=1)
