"""`math.measures` for the compiled kernels: a row at a time, in the cache from its statistics to its gradient.

The formulas and their names are those of `math.measures`. The sums of one distribution are those of the walk's tiles,
see `long_rows`; a divergence has sums of its own, over tiles of both rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.engines.numba_cpu.elements import (
    ask_to_read,
    ask_to_write,
    interleaved,
    load,
    load_first,
    load_one,
    load_pair,
    load_wide,
    scratch,
    store_first,
    store_one,
    store_pair,
)
from crossent.engines.numba_cpu.functions import (
    added,
    exp,
    log1p,
    log_of_ratio,
    small_excess,
    small_expm1,
    sum_of_lanes,
)
from crossent.engines.numba_cpu.lanes import first, itemsize, lane_is, lanes, largest, total, widened
from crossent.engines.numba_cpu.layout import MEASURES
from crossent.engines.numba_cpu.long_rows import (
    AHEAD,
    PIECE_TABLE,
    ROW_TABLE,
    spread_of_row,
    statistics_of_row,
    zero_row,
)
from crossent.engines.numba_cpu.outcome import centre_of, plain
from crossent.engines.numba_cpu.tiles import TILE, maximum_of_tile, pair_without, place_in_tile, weighed
from crossent.engines.numba_cpu.transform import seen, seen_first, seen_one, seen_with_slope, steepened_one
from crossent.engines.numba_cpu.vectors import filled, inline, vector_like, where

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
            value = _divergence_of_row(measure, formats, soft, row, result, mixture, factor)
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
        numbers_of_row = (centre_of(vector_like(losses, m)), vector_like(losses, a), vector_like(losses, b))
        while left >= 2 * n:
            x0, x1 = load_pair(logits, x)
            for line in range(0, 2 * step, 64):
                ask_to_write(d + AHEAD + line)
            store_pair(logits, d, _entry(transform, x0, numbers_of_row), _entry(transform, x1, numbers_of_row))
            x += 2 * step
            d += 2 * step
            left -= 2 * n
        while left > 0:
            store_first(logits, d, _entry(transform, load_first(logits, x, left, 0.0), numbers_of_row), left)
            x += step
            d += step
            left -= n
    return value


@inline
def _entry(transform: Any, x: Any, numbers: Any) -> Any:
    """The gradient of some classes."""
    centre, constant, steep = numbers
    y, slope = seen_with_slope(transform, x)
    e = exp(y - centre)
    return plain((constant * e - steep * weighed(e, y - centre)) * slope)


# --- divergences ------------------------------------------------------------------------------------------------------

# A divergence past this one, and finite, is found in one pass, as a difference whose parts are not much larger.
_FAR = 0.0625
# |x| up to which exp(x) − 1 is found without the exponential.
_NEAR = 0.34
# Columns of a tile of both rows, in the first-level cache between their maxima and their sums.
_TILE = TILE // 2


@inline
def _divergence_of_row(measure: int, formats: Any, soft: Any, row: Any, d: int, mixture: float, factor: float) -> float:
    """The divergence of a row; and at address `d` its gradient times `factor`."""
    logits, losses, transform = formats
    x, q, _, v = row
    zero = vector_like(losses, 0.0)
    m, z, m_q, z_q, moment = _sums_of_pair(measure, formats, soft, row)
    of_z = _log(zero, z) - _log(zero, z_q)
    value = moment / z - of_z if measure == _REVERSE else of_z + moment / z_q
    is_far, is_sure = _FAR < value < _INF, z < 2.0
    own, other = filled(zero, m), filled(zero, m_q)
    centres, inverse, inverse_q = (centre_of(own), centre_of(other)), filled(zero, 1.0 / z), filled(zero, 1.0 / z_q)
    # The likeliest class of the student, and the teacher's logit of it.
    top, y_top = 0, other
    if is_sure or measure == _JENSEN_SHANNON:
        top = max(0, place_in_tile(logits, transform, x, v, m))
        y_top = filled(zero, seen_one(transform, soft, q + top * itemsize(soft)))
    if is_far and measure != _JENSEN_SHANNON:
        if d != 0:
            # The mean of u = log(q/p) but for a constant; of a sure student, for that of its likeliest class.
            away, mean = zero, filled(zero, -moment / z)
            if measure == _REVERSE and is_sure:
                away = centres[1] - y_top
                mean = filled(zero, _mean_from(formats, soft, row, centres, away) / z)
            at_top = top if is_sure else -1
            _put_far_gradient(
                measure, formats, soft, row, d, factor, at_top, (centres, (inverse, inverse_q), (away, mean))
            )
        return value
    # u = ((z − A) − (y − B)) − S is log(q/p) but for what a sum then says, see `math.measures`.
    start, relative = filled(zero, -of_z), inverse_q
    if is_sure and not is_far and largest(other - y_top) < 1.0:
        start, relative, other = zero, inverse / exp(y_top - other), y_top
    if -1.0 <= largest(other - own) <= 1.0:
        start, other, own = (other - own) + start, zero, zero
    pair = (centres, (inverse, relative), (other, own, start))
    if measure != _JENSEN_SHANNON:
        value, log_sum, mean = _near_sums(measure, formats, soft, row, pair)
        if d != 0:
            _put_near_gradient(measure, formats, soft, row, d, factor, pair, log_sum, mean)
        return value
    log_sum = zero
    if not is_far:
        _, log_sum, _ = _near_sums(_FORWARD, formats, soft, row, pair)
    mixed = (filled(zero, mixture), filled(zero, 1.0 - mixture), log_sum)
    pair = (centres, (inverse, inverse_q), (other, own, start))
    _, _, at_top, _ = _of_mixture(formats, soft, x + top * itemsize(logits), q + top * itemsize(soft), 1, pair, mixed)
    at_top = filled(zero, largest(where(first(zero, 1), at_top, -_INF)))
    value, mean = _sums_of_mixture(formats, soft, row, pair, mixed, at_top, d != 0)
    if d != 0:
        _put_gradient_of_mixture(formats, soft, row, d, factor * (1.0 - mixture), pair, mixed, at_top, mean)
    return value


@inline
def _log(zero: Any, z: float) -> float:
    """log z of a sum of at least 1, in float64."""
    return float(largest(log1p(filled(widened(zero), z - 1.0))))


@inline
def _times(probability: Any, x: Any) -> Any:
    """Their product, 0 where the probability is."""
    return probability * where(probability == 0.0, 0.0, x)


# --- sums of both rows


@inline
def _sums_of_pair(measure: int, formats: Any, soft: Any, row: Any) -> tuple[float, float, float, float, float]:
    """m and Z of the student, those of the teacher, and the moment: Σ exp(b)·(b − a), or reversed Σ exp(a)·(a − b), of
    their distances a and b below the maxima; in float64.
    """
    logits, losses, transform = formats
    x, q, _, left = row
    zero = vector_like(losses, 0.0)
    m = m_q = -_INF
    z = z_q = moment = 0.0
    while left > 0:
        width = min(_TILE, left)
        m_t = float(maximum_of_tile(logits, transform, x, width))
        m_q_t = float(maximum_of_tile(soft, transform, q, width))
        c, c_q = centre_of(filled(zero, m_t)), centre_of(filled(zero, m_q_t))
        z_t, z_q_t, moment_t = _sums_of_tiles(measure, formats, soft, x, q, width, c, c_q)
        if left == row[3]:
            m, m_q, z, z_q, moment = m_t, m_q_t, z_t, z_q_t, moment_t
        else:
            most, most_q = max(m, m_t), max(m_q, m_q_t)
            scale, scale_t = _scale(zero, m, most), _scale(zero, m_t, most)
            scale_q, scale_q_t = _scale(zero, m_q, most_q), _scale(zero, m_q_t, most_q)
            # How b − a, or a − b, of the parts moves to the new maxima.
            move, move_t = (m_q - most_q) - (m - most), (m_q_t - most_q) - (m_t - most)
            if measure == _REVERSE:
                moment = _moved(moment, scale, z, -move) + _moved(moment_t, scale_t, z_t, -move_t)
            else:
                moment = _moved(moment, scale_q, z_q, move) + _moved(moment_t, scale_q_t, z_q_t, move_t)
            m, m_q, z, z_q = most, most_q, scale * z + scale_t * z_t, scale_q * z_q + scale_q_t * z_q_t
        x += width * itemsize(logits)
        q += width * itemsize(soft)
        left -= width
    return m, z, m_q, z_q, moment


@inline
def _scale(zero: Any, m: float, most: float) -> float:
    """exp(m − most)."""
    return 1.0 if m == most else float(largest(exp(filled(widened(zero), m - most))))


@inline
def _moved(moment: float, scale: float, total: float, move: float) -> float:
    """A part's moment about other maxima. Infinity stays, or is NaN: such a row is looked at again."""
    return 0.0 if scale * total == 0.0 and moment == 0.0 else scale * (moment + total * move)


@inline
def _sums_of_tiles(
    measure: int, formats: Any, soft: Any, x: int, q: int, left: int, c: Any, c_q: Any
) -> tuple[float, float, float]:
    logits, losses, transform = formats
    n, step, step_q = lanes(logits), itemsize(logits), itemsize(soft)
    high = low = high_q = low_q = moment = moment_low = vector_like(losses, 0.0)
    while left >= 4 * n:
        for line in range(0, 4 * n * step, 64):
            ask_to_read(x + _TILE * step + line)
        for line in range(0, 4 * n * step_q, 64):
            ask_to_read(q + _TILE * step_q + line)
        p0, q0, terms0 = _sums_of_vectors(measure, formats, soft, x, q, c, c_q)
        p1, q1, terms1 = _sums_of_vectors(measure, formats, soft, x + 2 * n * step, q + 2 * n * step_q, c, c_q)
        high, low = added(high, low, p0 + p1)
        high_q, low_q = added(high_q, low_q, q0 + q1)
        moment, moment_low = added(moment, moment_low, terms0 + terms1)
        x += 4 * n * step
        q += 4 * n * step_q
        left -= 4 * n
    while left > 0:
        a0, b0 = seen_first(transform, logits, x, left, -_INF) - c, seen_first(transform, soft, q, left, -_INF) - c_q
        p0, q0 = exp(a0), exp(b0)
        high, low = added(high, low, p0)
        high_q, low_q = added(high_q, low_q, q0)
        terms = _distance(p0, a0, b0) if measure == _REVERSE else _distance(q0, b0, a0)
        moment, moment_low = added(moment, moment_low, terms)
        x += n * step
        q += n * step_q
        left -= n
    return sum_of_lanes(high, low), sum_of_lanes(high_q, low_q), sum_of_lanes(moment, moment_low)


@inline
def _sums_of_vectors(measure: int, formats: Any, soft: Any, x: int, q: int, c: Any, c_q: Any) -> Any:
    """What two vectors of each row add to the sums; in the order that costs least, where both rows have one."""
    logits, _, transform = formats
    if interleaved(logits) == interleaved(soft):
        a0, a1 = load_pair(logits, x)
        b0, b1 = load_pair(soft, q)
    else:
        n = lanes(logits)
        a0, a1 = load(logits, x), load(logits, x + n * itemsize(logits))
        b0, b1 = load(soft, q), load(soft, q + n * itemsize(soft))
    a0, a1, b0, b1 = (
        seen(transform, a0) - c,
        seen(transform, a1) - c,
        seen(transform, b0) - c_q,
        seen(transform, b1) - c_q,
    )
    p0, p1, q0, q1 = exp(a0), exp(a1), exp(b0), exp(b1)
    if measure == _REVERSE:
        terms = _distance(p0, a0, b0) + _distance(p1, a1, b1)
    else:
        terms = _distance(q0, b0, a0) + _distance(q1, b1, a1)
    return p0 + p1, q0 + q1, terms


@inline
def _distance(e: Any, a: Any, b: Any) -> Any:
    """e·(a − b) with e = exp(a), 0 where a is −∞; NaN where b is −∞ and e is lost, which another way is found for."""
    return e * where(a == -_INF, 0.0, a - b)


# --- far divergences


@inline
def _mean_from(formats: Any, soft: Any, row: Any, centres: Any, away: Any) -> float:
    """Σ exp(a)·(b − a + away)."""
    logits, losses, transform = formats
    x, q, _, left = row
    high = low = vector_like(losses, 0.0)
    while left > 0:
        a = seen_first(transform, logits, x, left, -_INF) - centres[0]
        b = seen_first(transform, soft, q, left, -_INF) - centres[1]
        high, low = added(high, low, _times(exp(a), (b - a) + away))
        x += lanes(logits) * itemsize(logits)
        q += lanes(logits) * itemsize(soft)
        left -= lanes(logits)
    return sum_of_lanes(high, low)


@inline
def _put_far_gradient(
    measure: int, formats: Any, soft: Any, row: Any, d: int, factor: float, top: int, pair: Any
) -> None:
    """top: the likeliest class of a sure student, whose p − q is what the others make of it; else −1."""
    logits, _, transform = formats
    x, q, _, left = row
    (c, c_q), (inverse, inverse_q), (away, mean) = pair
    inverse, inverse_q = filled(c, factor) * inverse, filled(c, factor) * inverse_q
    n, step = lanes(logits), lanes(logits) * itemsize(logits)
    balances = measure == _FORWARD and top >= 0
    others = others_low = filled(c, 0.0)
    place, at_top = d + top * itemsize(logits), top
    # Before the gradient is written over the logit.
    slope_at_top = steepened_one(transform, logits, x + max(0, top) * itemsize(logits), 1.0)
    line_of_row = ((c, c_q), (inverse, inverse_q), (away, mean))
    while left >= 2 * n and interleaved(logits) == interleaved(soft):
        x0, x1 = load_pair(logits, x)
        q0, q1 = load_pair(soft, q)
        for line in range(0, 2 * step, 64):
            ask_to_write(d + AHEAD + line)
        entry0, slope0 = _far_entry(measure, transform, x0, q0, line_of_row)
        entry1, slope1 = _far_entry(measure, transform, x1, q1, line_of_row)
        if balances:
            of_others0, of_others1 = pair_without(logits, entry0, entry1, at_top)
            others, others_low = added(others, others_low, of_others0 + of_others1)
            at_top -= 2 * n
        store_pair(logits, d, plain(entry0 * slope0), plain(entry1 * slope1))
        x += 2 * step
        q += 2 * n * itemsize(soft)
        d += 2 * step
        left -= 2 * n
    while left > 0:
        x0, q0 = load_first(logits, x, left, 0.0), load_first(soft, q, left, 0.0)
        entry0, slope0 = _far_entry(measure, transform, x0, q0, line_of_row)
        if balances:
            counts = first(entry0, left) & ~lane_is(entry0, at_top)
            others, others_low = added(others, others_low, where(counts, entry0, 0.0))
            at_top -= n
        store_first(logits, d, plain(entry0 * slope0), left)
        x += step
        q += n * itemsize(soft)
        d += step
        left -= n
    if balances:
        store_one(logits, place, -sum_of_lanes(others, others_low) * slope_at_top)


@inline
def _far_entry(measure: int, transform: Any, x: Any, q: Any, line: Any) -> Any:
    """p − q, or p times the distance of u from its mean; and the slope of the student's logits."""
    (c, c_q), (inverse, inverse_q), (away, mean) = line
    y, slope = seen_with_slope(transform, x)
    a, b = y - c, seen(transform, q) - c_q
    if measure == _FORWARD:
        return exp(a) * inverse - exp(b) * inverse_q, slope
    return _times(exp(a) * inverse, mean - ((b - a) + away)), slope


# --- near ones, whose every term is at least 0


@inline
def _ratio(y: Any, y_q: Any, pair: Any) -> Any:
    """Both sides' distances below the maxima, and u; 0 where neither occurs, which may all be infinite."""
    (c, c_q), _, (other, own, start) = pair
    a, b = y - c, y_q - c_q
    return a, b, where((a == -_INF) & (b == -_INF), 0.0, ((y_q - other) - (y - own)) - start)


@inline
def _change(a: Any, b: Any, u: Any, pair: Any) -> Any:
    """p, and p·exp(u) and that less p."""
    _, (inverse, relative), _ = pair
    p, q = exp(a) * inverse, exp(b) * relative
    is_far = (u > _NEAR) | (u < -_NEAR)
    change = where(is_far, q - p, p * small_expm1(u))
    return p, where(is_far, q, p + change), change


@inline
def _term(probability: Any, x: Any, rise: Any) -> Any:
    """probability·(exp(x) − 1 − x), where `rise` is probability·(exp(x) − 1): below 0 by rounding alone, and ∞ where
    the other side leaves out a class, however unlikely. NaN stays.
    """
    large = rise - _times(probability, x)
    large = where(x == -_INF, _INF, where(large < 0.0, 0.0, large))
    return where((x > _NEAR) | (x < -_NEAR), large, probability * small_excess(x))


@inline
def _near_sums(measure: int, formats: Any, soft: Any, row: Any, pair: Any) -> tuple[float, Any, Any]:
    """The divergence, κ = log Σ p·exp(u) and Σ p·u: forward Σ p·exp(u)·h(−u)/exp(κ) − h(−κ), reversed Σ p·h(u) − h(κ).

    h(x) is exp(x) − 1 − x.
    """
    logits, losses, transform = formats
    x, q, _, left = row
    zero = vector_like(losses, 0.0)
    high = low = mean = mean_low = changes = changes_low = zero
    while left > 0:
        a, b, u = _ratio(
            seen_first(transform, logits, x, left, -_INF), seen_first(transform, soft, q, left, -_INF), pair
        )
        p, of_q, change = _change(a, b, u, pair)
        term = _term(of_q, -u, -change) if measure == _FORWARD else _term(p, u, change)
        high, low = added(high, low, term)
        changes, changes_low = added(changes, changes_low, change)
        if measure == _REVERSE:
            mean, mean_low = added(mean, mean_low, _times(p, u))
        x += lanes(logits) * itemsize(logits)
        q += lanes(logits) * itemsize(soft)
        left -= lanes(logits)
    # A sum that is not less than −1 by much: the logarithm of the ratio of two numbers of one size.
    change, value = sum_of_lanes(changes, changes_low), float(sum_of_lanes(high, low))
    wide = filled(widened(zero), change if change >= 0.0 else -change / (1.0 + change))
    log_sum = where(filled(wide, change) < 0.0, -log1p(wide), log1p(wide))
    if measure == _FORWARD:
        value = value / (1.0 + change)
    value -= float(largest(_excess(-log_sum if measure == _FORWARD else log_sum)))
    value = 0.0 if value < 0.0 else value
    # Where the divergence is infinite, its gradient has no meaning.
    mean_of_u = sum_of_lanes(mean, mean_low) if value < _INF else _NAN
    return value, filled(zero, float(largest(log_sum))), filled(zero, mean_of_u)


@inline
def _excess(x: Any) -> Any:
    """exp(x) − 1 − x of a number of the size of 1 at most."""
    less = exp(where(x > 0.0, -x, x))
    return where((x > _NEAR) | (x < -_NEAR), where(x > 0.0, 1.0 / less, less) - 1.0 - x, small_excess(x))


@inline
def _put_near_gradient(
    measure: int, formats: Any, soft: Any, row: Any, d: int, factor: float, pair: Any, log_sum: Any, mean: Any
) -> None:
    logits, _, transform = formats
    x, q, _, left = row
    n, step, k = lanes(logits), lanes(logits) * itemsize(logits), filled(mean, factor)
    # q = p·exp(u)/exp(κ), as r = u − κ.
    centres, (inverse, relative), (other, own, start) = pair
    if measure == _FORWARD:
        shrunk = where(log_sum > 0.0, exp(-log_sum), 1.0 / exp(-where(log_sum > 0.0, 0.0, -log_sum)))
        pair = (centres, (inverse, relative * shrunk), (other, own, start))
    while left > 0:
        for line in range(0, step, 64):
            ask_to_write(d + AHEAD + line)
        y, slope = seen_with_slope(transform, load_first(logits, x, left, 0.0))
        a, b, u = _ratio(y, seen(transform, load_first(soft, q, left, 0.0)), pair)
        if measure == _FORWARD:
            _, _, change = _change(a, b, u - log_sum, pair)
            entry = -change
        else:
            entry = _times(exp(a) * inverse, mean - u)
        store_first(logits, d, plain(k * entry * slope), left)
        x += step
        q += n * itemsize(soft)
        d += step
        left -= n


# --- Jensen-Shannon divergences


@inline
def _of_mixture(formats: Any, soft: Any, x: int, q: int, left: int, pair: Any, mixed: Any) -> Any:
    """Of some classes: the term, p, log(m/p), and the slope of the student's logits.

    With b the larger of p and q, β its share of the mixture and e = exp(−|r|), the ratio of the other to it:

        term/b = β·h(log(m/b)) + (1 − β)·e·h(log(m/b) + |r|) = −(m/b·log(m/b) + (1 − β)·e·|r|)
    """
    logits, _, transform = formats
    (_, (inverse, inverse_q), _), (mixture, share, log_sum) = pair, mixed
    y, slope = seen_with_slope(transform, load_first(logits, x, left, 0.0))
    y = where(first(y, left), y, -_INF)
    a, b, u = _ratio(y, seen_first(transform, soft, q, left, -_INF), pair)
    r = u - log_sum
    up = r > 0.0
    larger, smaller = where(up, mixture, share), where(up, share, mixture)
    size = where(up, -r, r)
    e, is_near = exp(size), size >= -_NEAR
    most_likely = exp(where(up, b, a)) * where(up, inverse_q, inverse)
    less = smaller * where(is_near, small_expm1(size), e - 1.0)
    ratio = larger + smaller * e
    log_ratio = log_of_ratio(ratio, less)
    near = larger * small_excess(log_ratio) + smaller * e * small_excess(log_ratio - size)
    far = weighed(smaller * e, size) - ratio * log_ratio
    of_p = where(up, log_ratio - size, log_ratio)
    return most_likely * where(is_near, near, far), where(up, most_likely * e, most_likely), of_p, slope


@inline
def _sums_of_mixture(
    formats: Any, soft: Any, row: Any, pair: Any, mixed: Any, at_top: Any, has_gradient: bool
) -> tuple[float, Any]:
    """The divergence, and for a gradient Σ p·u with u = log(m/p) but for that of the student's likeliest class."""
    logits, losses, _ = formats
    x, q, _, left = row
    zero = vector_like(losses, 0.0)
    high = low = mean = mean_low = zero
    while left > 0:
        term, p, of_p, _ = _of_mixture(formats, soft, x, q, left, pair, mixed)
        high, low = added(high, low, term)
        if has_gradient:
            mean, mean_low = added(mean, mean_low, _times(p, of_p - at_top))
        x += lanes(logits) * itemsize(logits)
        q += lanes(logits) * itemsize(soft)
        left -= lanes(logits)
    value = float(sum_of_lanes(high, low))
    return value, filled(zero, sum_of_lanes(mean, mean_low))


@inline
def _put_gradient_of_mixture(
    formats: Any, soft: Any, row: Any, d: int, factor: float, pair: Any, mixed: Any, at_top: Any, mean: Any
) -> None:
    logits = formats[0]
    x, q, _, left = row
    n, step, k = lanes(logits), lanes(logits) * itemsize(logits), filled(mean, factor)
    while left > 0:
        for line in range(0, step, 64):
            ask_to_write(d + AHEAD + line)
        _, p, of_p, slope = _of_mixture(formats, soft, x, q, left, pair, mixed)
        store_first(logits, d, plain(k * _times(p, mean - (of_p - at_top)) * slope), left)
        x += step
        q += n * itemsize(soft)
        d += step
        left -= n
