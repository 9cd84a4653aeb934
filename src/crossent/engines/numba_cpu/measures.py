"""`math.measures` for the compiled kernels: a row at a time, in the cache from its statistics to its gradient.

The formulas and their names are those of `math.measures`. The sums that make a distribution are those of the walk's
tiles, see `long_rows`; a divergence then goes over both rows together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.engines.numba_cpu.elements import load, load_first, load_one, load_wide, scratch, store_first, store_one
from crossent.engines.numba_cpu.functions import added, exp, log1p, small_excess, small_expm1, sum_of_lanes
from crossent.engines.numba_cpu.lanes import first, itemsize, lanes, largest, total, widened
from crossent.engines.numba_cpu.long_rows import PIECE_TABLE, ROW_TABLE, spread_of_row, statistics_of_row, zero_row
from crossent.engines.numba_cpu.outcome import centre_of, plain
from crossent.engines.numba_cpu.tiles import maximum_of_tile, place_in_tile, weighed
from crossent.engines.numba_cpu.transform import seen, seen_first, seen_one, seen_with_slope
from crossent.engines.numba_cpu.vectors import filled, inline, vector_like, where
from crossent.math.measures import ENTROPY, FORWARD, JENSEN_SHANNON, LOG_SUM_EXP, REVERSE

MEASURES = (LOG_SUM_EXP, ENTROPY, FORWARD, REVERSE, JENSEN_SHANNON)
_LOG_SUM_EXP, _ENTROPY, _FORWARD, _REVERSE, _JENSEN_SHANNON = range(len(MEASURES))
_INF, _NAN = np.inf, np.nan


@inline
def walk(
    measure: int,
    formats: Any,
    soft: Any,
    matrices: Any,
    lines: Any,
    v: int,
    scale: float,
    numbers: Any,
    mixture: float,
    start: int,
    stop: int,
) -> None:
    """Write the values of rows, and their gradient where there is room for it.

    measure: its place in MEASURES, a constant. soft: the format of the teacher's logits, or None.
    """
    losses = formats[1]
    x, x_step, q, q_step, d, d_step = matrices
    _, values, weight, _, scales = lines
    table, pieces = scratch(ROW_TABLE), scratch(PIECE_TABLE)
    size = itemsize(losses)
    for i in range(start, stop):
        w = 1.0
        if weight != 0:
            w = float(load_one(losses, weight + i * size))
        result = d + i * d_step if d != 0 else 0
        if w == 0.0:
            # A row of weight 0 is not read.
            store_one(losses, values + i * size, 0.0)
            if d != 0:
                zero_row(formats, result, v)
            continue
        factor = w * (float(total(load_wide(losses, scales + i * 8, 1))) if scales != 0 else scale)
        row = (x + i * x_step, q + i * q_step, 0, v)
        if soft is None:
            value = _of_row(measure, formats, row, result, numbers, factor, pieces, table)
        else:
            value = _divergence_of_row(measure, formats, soft, row, result, numbers, mixture, factor, pieces, table)
        store_one(losses, values + i * size, value * w)


@inline
def _distribution(formats: Any, row: Any, numbers: Any, pieces: int, table: int, threshold: Any) -> Any:
    """m, log Z, 1/Z and E/Z of a row; the last with a threshold alone."""
    losses = formats[1]
    statistics_of_row(formats, None, row, -1, numbers, pieces, table, threshold)
    rest, moment, _ = spread_of_row(formats, row, -1, pieces, table, threshold)
    log_z = float(largest(log1p(filled(vector_like(losses, 0.0), rest))))
    return load_one(losses, table), log_z, 1.0 / (1.0 + rest), moment / (1.0 + rest)


@inline
def _of_row(
    measure: int, formats: Any, row: Any, d: int, numbers: Any, factor: float, pieces: int, table: int
) -> float:
    """The measure of one distribution; and at address `d` p·(a + b·(m − y)), its gradient times `factor`."""
    logits, losses, transform = formats
    x, _, _, left = row
    if measure == _ENTROPY:
        m, log_z, inverse, mean = _distribution(formats, row, numbers, pieces, table, _INF)
        value, a, b = log_z + mean, -factor * inverse * mean, factor * inverse
    else:
        m, log_z, inverse, _ = _distribution(formats, row, numbers, pieces, table, None)
        value, a, b = float(m) + log_z, factor * inverse, 0.0
    if d != 0:
        n, step = lanes(logits), lanes(logits) * itemsize(logits)
        centre = centre_of(vector_like(losses, m))
        constant, steep = vector_like(losses, a), vector_like(losses, b)
        while left > 0:
            y, slope = seen_with_slope(transform, load_first(logits, x, left, 0.0))
            e = exp(y - centre)
            store_first(logits, d, plain((constant * e - steep * weighed(e, y - centre)) * slope), left)
            x += step
            d += step
            left -= n
    return value


# A divergence past this one, and finite, is found in one pass, as a difference whose parts are not much larger.
_FAR = 0.0625


@inline
def _far_divergence_of_row(
    measure: int, formats: Any, soft: Any, row: Any, d: int, factor: float
) -> tuple[bool, float]:
    """Whether the row's divergence is large, and then what it is, with its gradient at address `d`.

    KL = log Z_p − log Z_q + Σ q·(b − a), with a = y − m of the student and b of the teacher; reversed, the other way.
    """
    logits, losses, transform = formats
    x, q, _, v = row
    zero = vector_like(losses, 0.0)
    c = centre_of(filled(zero, maximum_of_tile(logits, transform, x, v)))
    c_q = centre_of(filled(zero, maximum_of_tile(soft, transform, q, v)))
    z, z_q, moment = _sums_of_pair(measure, formats, soft, row, c, c_q)
    log_z, log_z_q = _log(zero, z), _log(zero, z_q)
    of_z = log_z - log_z_q
    value = of_z + moment / z_q if measure == _FORWARD else moment / z - of_z
    # Of a sure student, a reverse divergence's gradient would cancel.
    if not (_FAR < value < _INF) or (measure == _REVERSE and z < 1.5):
        return False, 0.0
    if d != 0:
        inverse, inverse_q = filled(zero, factor / z), filled(zero, factor / z_q)
        mean = filled(zero, moment / z)
        n, step, step_q, left = lanes(logits), itemsize(logits), itemsize(soft), v
        while left > 0:
            y, slope = seen_with_slope(transform, load_first(logits, x, left, 0.0))
            y_q = seen(transform, load_first(soft, q, left, 0.0))
            a, b = y - c, y_q - c_q
            if measure == _FORWARD:
                value_of_class = exp(a) * inverse - exp(b) * inverse_q
            else:
                value_of_class = -_times(exp(a) * inverse, (b - a) + mean)
            store_first(logits, d, plain(value_of_class * slope), left)
            x += n * step
            q += n * step_q
            d += n * step
            left -= n
    return True, value


@inline
def _distance(e: Any, a: Any, b: Any) -> Any:
    """e·(a − b) with e = exp(a), 0 where a is −∞; NaN where b is −∞ and e is lost, which another way is found for."""
    return e * where(a == -_INF, 0.0, a - b)


@inline
def _log(zero: Any, z: float) -> float:
    """log z of a sum of at least 1, in float64."""
    return float(largest(log1p(filled(widened(zero), z - 1.0))))


@inline
def _sums_of_pair(measure: int, formats: Any, soft: Any, row: Any, c: Any, c_q: Any) -> tuple[float, float, float]:
    """Z of the student, Z of the teacher, and the moment of what is far between them, in float64."""
    logits, losses, transform = formats
    x, q, _, left = row
    n, step, step_q = lanes(logits), itemsize(logits), itemsize(soft)
    high = low = high_q = low_q = moment = moment_low = vector_like(losses, 0.0)
    while left >= 2 * n:
        a0, a1 = seen(transform, load(logits, x)) - c, seen(transform, load(logits, x + n * step)) - c
        b0, b1 = seen(transform, load(soft, q)) - c_q, seen(transform, load(soft, q + n * step_q)) - c_q
        p0, p1, q0, q1 = exp(a0), exp(a1), exp(b0), exp(b1)
        high, low = added(high, low, p0 + p1)
        high_q, low_q = added(high_q, low_q, q0 + q1)
        if measure == _FORWARD:
            terms = _distance(q0, b0, a0) + _distance(q1, b1, a1)
        else:
            terms = _distance(p0, a0, b0) + _distance(p1, a1, b1)
        moment, moment_low = added(moment, moment_low, terms)
        x += 2 * n * step
        q += 2 * n * step_q
        left -= 2 * n
    while left > 0:
        a0, b0 = seen_first(transform, logits, x, left, -_INF) - c, seen_first(transform, soft, q, left, -_INF) - c_q
        p0, q0 = exp(a0), exp(b0)
        high, low = added(high, low, p0)
        high_q, low_q = added(high_q, low_q, q0)
        terms = _distance(q0, b0, a0) if measure == _FORWARD else _distance(p0, a0, b0)
        moment, moment_low = added(moment, moment_low, terms)
        x += n * step
        q += n * step_q
        left -= n
    return sum_of_lanes(high, low), sum_of_lanes(high_q, low_q), sum_of_lanes(moment, moment_low)


@inline
def _divergence_of_row(
    measure: int,
    formats: Any,
    soft: Any,
    row: Any,
    d: int,
    numbers: Any,
    mixture: float,
    factor: float,
    pieces: int,
    table: int,
) -> float:
    if measure != _JENSEN_SHANNON:
        is_far, value = _far_divergence_of_row(measure, formats, soft, row, d, factor)
        if is_far:
            return value
    logits, losses, transform = formats
    x, q, _, v = row
    m, log_z, inverse, _ = _distribution(formats, (x, 0, 0, v), numbers, pieces, table, None)
    m_q, log_z_q, inverse_q, _ = _distribution((soft, losses, transform), (q, 0, 0, v), numbers, pieces, table, None)
    zero = vector_like(losses, 0.0)
    n, step, step_q = lanes(logits), itemsize(logits), itemsize(soft)
    top = max(0, place_in_tile(logits, transform, x, v, m))
    y_top = seen_one(transform, soft, q + top * step_q)
    away, log_ratio = float(m_q) - float(y_top), log_z - log_z_q
    is_near = away < 1.0 and -1.0 < log_ratio < 1.0
    pair = (
        (centre_of(filled(zero, m)), filled(zero, inverse)),
        (centre_of(filled(zero, m_q)), filled(zero, inverse_q)),
        # Where the distributions are near: what is taken from the differences of logits.
        (filled(zero, 1.0 if is_near else 0.0) > 0.5, filled(zero, y_top) - filled(zero, m), filled(zero, log_ratio)),
    )
    if is_near:
        of_z = _ratio_of_z(formats, soft, row, pair, away, inverse)
        pair = (pair[0], pair[1], (pair[2][0], pair[2][1], filled(zero, of_z)))
    k = filled(zero, factor)
    high = low = high_q = low_q = mean = mean_low = u_top = zero
    if measure != _FORWARD:
        _, _, r, _, _ = _pair(formats, soft, x + top * step, q + top * step_q, 1, pair)
        u_top = filled(zero, largest(where(first(zero, 1), _of_student(measure, r, mixture), -_INF)))
    place, place_q, here, left = x, q, d, v
    while left > 0:
        p, of_q, r, difference, slope = _pair(formats, soft, place, place_q, left, pair)
        if measure == _FORWARD:
            term = _term(of_q, -r, -difference)
            if d != 0:
                store_first(logits, here, plain(-k * difference * slope), left)
                here += n * step
        else:
            of_p = r
            if measure == _REVERSE:
                term = _term(p, r, difference)
            else:
                of_p, other = _of_mixture(r, mixture)
                term = _term(p, of_p, mixture * difference)
                term_q = _term(of_q, other, (mixture - 1.0) * difference)
                high_q, low_q = added(high_q, low_q, where(first(zero, left), term_q, 0.0))
            mean, mean_low = added(mean, mean_low, where(first(zero, left), _times(p, of_p - u_top), 0.0))
        high, low = added(high, low, where(first(zero, left), term, 0.0))
        place += n * step
        place_q += n * step_q
        left -= n
    value = float(sum_of_lanes(high, low))
    if measure == _FORWARD:
        return value
    if d != 0:
        middle = filled(zero, sum_of_lanes(mean, mean_low))
        part = k if measure == _REVERSE else k * (1.0 - mixture)
        place, place_q, here, left = x, q, d, v
        while left > 0:
            p, _, r, _, slope = _pair(formats, soft, place, place_q, left, pair)
            u = _of_student(measure, r, mixture) - u_top
            store_first(logits, here, plain(part * _times(p, middle - u) * slope), left)
            place += n * step
            place_q += n * step_q
            here += n * step
            left -= n
    if measure == _REVERSE:
        return value
    return mixture * float(sum_of_lanes(high_q, low_q)) + (1.0 - mixture) * value


@inline
def _ratio_of_z(formats: Any, soft: Any, row: Any, pair: Any, away: float, inverse: float) -> float:
    """log1p(Σ p·expm1(t)) of near distributions, t the differences of their logits but for that of the likeliest."""
    logits, losses, transform = formats
    x, q, _, left = row
    (centre, scale), (centre_q, _), (_, shift, _) = pair
    zero = vector_like(losses, 0.0)
    relative = filled(zero, inverse) / exp(filled(zero, -away))
    high = low = zero
    while left > 0:
        y, y_q = seen_first(transform, logits, x, left, -_INF), seen_first(transform, soft, q, left, -_INF)
        p, of_q = exp(y - centre) * scale, exp(y_q - centre_q) * relative
        t = (y_q - y) - shift
        far = (t > _NEAR) | (t < -_NEAR)
        change = where(far, of_q - p, p * small_expm1(t))
        high, low = added(high, low, where((p == 0.0) & (of_q == 0.0), 0.0, change))
        x += lanes(logits) * itemsize(logits)
        q += lanes(logits) * itemsize(soft)
        left -= lanes(logits)
    # A sum that is not less than −1 by much: the ratio of two numbers of one size.
    change_of_z = sum_of_lanes(high, low)
    size = filled(widened(zero), change_of_z if change_of_z >= 0.0 else -change_of_z / (1.0 + change_of_z))
    result = float(largest(log1p(size)))
    return result if change_of_z >= 0.0 else -result


@inline
def _pair(formats: Any, soft: Any, place: int, place_q: int, left: int, pair: Any) -> Any:
    """p, q, log(q/p), q − p and the slope of the student's logits, of some classes."""
    logits, _, transform = formats
    (centre, inverse), (centre_q, inverse_q), (near, shift, log_ratio) = pair
    y, slope = seen_with_slope(transform, load_first(logits, place, left, 0.0))
    y_q = seen(transform, load_first(soft, place_q, left, 0.0))
    gap, gap_q = y - centre, y_q - centre_q
    e, e_q = exp(gap), exp(gap_q)
    p, q = e * inverse, e_q * inverse_q
    # Where neither occurs, all of these may be infinite.
    neither = (gap == -_INF) & (gap_q == -_INF)
    r = where(near, ((y_q - y) - shift) - log_ratio, (gap_q - gap) + log_ratio)
    r = where(neither, 0.0, r)
    far = (r > _NEAR) | (r < -_NEAR)
    difference = where(far, q - p, where(r > 0.0, -q, p) * small_expm1(where(r > 0.0, -r, r)))
    return p, q, r, difference, slope


# |x| up to which exp(x) − 1 is found without the exponential.
_NEAR = 0.34


@inline
def _term(probability: Any, x: Any, rise: Any) -> Any:
    """probability·(exp(x) − 1 − x), where `rise` is probability·(exp(x) − 1): below 0 by rounding alone, and ∞ where
    the other side leaves out a class, however unlikely. NaN stays.
    """
    large = rise - _times(probability, x)
    large = where(x == -_INF, _INF, where(large < 0.0, 0.0, large))
    return where((x > _NEAR) | (x < -_NEAR), large, probability * small_excess(x))


@inline
def _of_mixture(r: Any, mixture: float) -> tuple[Any, Any]:
    """log(m/p) and log(m/q) of m = mixture·q + (1 − mixture)·p."""
    up = r > 0.0
    size = where(up, -r, r)
    less = where(size < -_NEAR, exp(size) - 1.0, small_expm1(size))
    change = where(up, filled(r, 1.0 - mixture), mixture) * less
    # log(1 + y) of −1 < y ≤ 0, by way of the inverse.
    small = -log1p(-change / (1.0 + change))
    return where(up, small + r, small), where(up, small, small - r)


@inline
def _of_student(measure: int, r: Any, mixture: float) -> Any:
    """What the gradient is made of: log(q/p) or log(m/p)."""
    if measure == _REVERSE:
        return r
    return _of_mixture(r, mixture)[0]


@inline
def _times(probability: Any, x: Any) -> Any:
    """Their product, 0 where the probability is."""
    return probability * where(probability == 0.0, 0.0, x)
