"""The kernel for rows of many columns: vectors along a row.

A row's statistics are found a tile at a time, each tile in the first-level cache between its maximum and its sums, and
merged; its gradient while the row is in the second-level cache, where it fits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.engines.numba_cpu.elements import (
    ask_to_write,
    copy_one,
    load,
    load_first,
    load_one,
    load_pair,
    load_place,
    load_wide,
    scratch,
    store,
    store_first,
    store_one,
    store_pair,
    store_place,
)
from crossent.engines.numba_cpu.functions import added, exp, sum_of_lanes
from crossent.engines.numba_cpu.lanes import first, first_of, itemsize, lane_is, lanes, largest, lowest, widened
from crossent.engines.numba_cpu.layout import BLOCK
from crossent.engines.numba_cpu.outcome import centre_of, masses, outcome, plain, possible
from crossent.engines.numba_cpu.tiles import (
    TILE,
    below_of_tile,
    maximum_of_tile,
    others_of_tile,
    place_in_tile,
    sums_of_tile,
)
from crossent.engines.numba_cpu.transform import seen_first, seen_one, seen_with_slope, steepened_one
from crossent.engines.numba_cpu.vectors import filled, inline, larger, vector_like, where
from crossent.math.statistics import UNIT

# The most tiles of a row; longer rows have longer tiles. Part of the result's bits.
PIECES = 256
# Bytes from a gradient that is written to the one whose cache lines are asked for meanwhile.
AHEAD = 512
_INF, _NAN = np.inf, np.nan

# Tables on the stack, of numbers in the compute dtype: a line for each kind of number, a column for each row, or for
# each piece of one row.
_MAXIMUM, _OTHERS, _COUNT, _MASS, _WEIGHTED_GAP, _OWN, _TARGET, _FACTOR, _UNIFORM_TERM, _ENTRY, _LINES = range(11)
_ROW_LINE = 16 * 8
_PIECE_LINE = PIECES * 8
# Where there is a threshold, smoothing has no use for its lines.
_MOMENT_OF_PIECE, _ABOVE_OF_PIECE = _COUNT, _MASS
ROW_TABLE = _LINES * _ROW_LINE
PIECE_TABLE = _TARGET * _PIECE_LINE


# --- a row ------------------------------------------------------------------------------------------------------------

# What the functions below share: `formats` of logits and of losses, and the transform of the logits; `row`, the
# addresses of a row's logits and soft targets and of the class weights (0: every one is 1), and its length; `smooths`,
# what `masses` needs to know of a row to smooth its soft targets and the place of the largest of them; `numbers`, the
# coefficients.


@inline
def _smooths_of_row(formats: Any, soft: Any, row: Any, numbers: Any) -> tuple[Any, int]:
    logits, _, transform = formats
    x, q, _, v = row
    target_mass, smoothing, includes_target, _, ieee, _ = numbers
    n = lanes(logits)
    nowhere = filled(vector_like(logits, 0.0), 0.0)
    count = lost = lost_low = rest = rest_low = nowhere
    peak = vector_like(logits, -_INF)
    j = 0
    while j < v:
        occurs = possible(seen_first(transform, logits, x + j * itemsize(logits), v - j, -_INF), ieee)
        occurs = where(first(occurs, v - j), occurs, 0.0)
        target = load_first(soft, q + j * itemsize(soft), v - j, 0.0)
        count = count + occurs
        lost, lost_low = added(lost, lost_low, target * (1.0 - occurs))
        peak = larger(where(first(occurs, v - j), target * occurs, -_INF), peak)
        j += n
    top = largest(peak)
    place = -1
    j = 0
    while j < v:
        occurs = possible(seen_first(transform, logits, x + j * itemsize(logits), v - j, -_INF), ieee)
        target = load_first(soft, q + j * itemsize(soft), v - j, 0.0) * occurs
        if place < 0:
            lane = first_of(where(first(target, v - j), target, _NAN) == filled(target, top))
            if lane < n:
                place = j + lane
        rest, rest_low = added(rest, rest_low, where(lane_is(target, place - j), 0.0, target))
        j += n
    total = sum_of_lanes(count, nowhere)
    even = smoothing / max(total, 1.0)
    others = 0.0 if total <= 1.0 else smoothing / (total - 1.0)
    all_lost, all_rest = sum_of_lanes(lost, lost_low), sum_of_lanes(rest, rest_low)
    return (True, target_mass, includes_target != 0.0, even, others, all_lost, all_rest, float(top)), place


@inline
def _smooths(formats: Any, soft: Any, row: Any, numbers: Any) -> tuple[Any, int]:
    target_mass, smoothing, _, _, _, _ = numbers
    smooths = ((False, target_mass, False, 0.0, 0.0, 0.0, 0.0, 0.0), -1)
    if soft is not None and smoothing != 0.0:
        smooths = _smooths_of_row(formats, soft, row, numbers)
    return smooths


@inline
def statistics_of_row(
    formats: Any, soft: Any, row: Any, t: int, numbers: Any, pieces: int, place: int, threshold: Any
) -> int:
    """Write the statistics of a row into the column of the row table at `place`; returns the class kept apart.

    t: the target; of soft ones the likeliest class is kept apart, which leaves the smallest sum, whatever `t` is.
    threshold: None, or what logits are counted above, for the moments and the counts of pieces.
    """
    logits, losses, transform = formats
    x, q, u, v = row
    _, smoothing, _, _, ieee, _ = numbers
    uneven = smoothing != 0.0 if soft is None else True
    smoother, peak = _smooths(formats, soft, row, numbers)
    size = itemsize(losses)
    if soft is None:
        own = load_one(losses, u + t * size) if u != 0 and 0 <= t < v else 1.0
        store_one(losses, place + _OWN * _ROW_LINE, own)
    tile = tile_of(v)
    count = 0
    column = pieces
    start = 0
    while start < v:
        width = min(tile, v - start)
        here = x + start * itemsize(logits)
        m = maximum_of_tile(logits, transform, here, width)
        centre = lowest(losses) if m == -_INF else m
        apart = t - start
        if soft is not None:
            # Each tile keeps its own; a merge takes all but one of them back. Nothing is likely in a tile of −inf.
            apart = -1 if m == -_INF else place_in_tile(logits, transform, here, width, m)
        store_one(losses, column + _MAXIMUM * _PIECE_LINE, m)
        others, moment, above = others_of_tile(logits, transform, here, width, apart, centre, threshold)
        store_one(losses, column + _OTHERS * _PIECE_LINE, others)
        if threshold is not None:
            store_one(losses, column + _MOMENT_OF_PIECE * _PIECE_LINE, moment)
            store_one(losses, column + _ABOVE_OF_PIECE * _PIECE_LINE, above)
        if uneven:
            targets = 0
            if soft is not None:
                targets = q + start * itemsize(soft)
            part = (here, targets, u + start * size if u != 0 else 0, width)
            n, mass, gap = sums_of_tile(formats, soft, part, apart, smoother, peak - start, centre, ieee)
            store_one(losses, column + _COUNT * _PIECE_LINE, n)
            store_one(losses, column + _MASS * _PIECE_LINE, mass)
            store_one(losses, column + _WEIGHTED_GAP * _PIECE_LINE, gap)
            if soft is not None:
                own = 0.0
                if apart >= 0:
                    own = _mass_of_class(formats, soft, part, apart, smoother, peak - start, ieee)
                store_one(losses, column + _OWN * _PIECE_LINE, own)
        start += width
        column += size
        count += 1
    best = 0
    if count == 1:
        for line in range(_OWN if soft is None else _TARGET):
            copy_one(losses, place + line * _ROW_LINE, pieces + line * _PIECE_LINE)
    else:
        best = _merge(losses, soft, pieces, count, uneven, place)
    if soft is not None:
        start = best * tile
        width = min(tile, v - start)
        m = load_one(losses, place + _MAXIMUM * _ROW_LINE)
        t = start + place_in_tile(logits, transform, x + start * itemsize(logits), width, m)
    # A target outside the vocabulary, which is no target, is NaN.
    target = seen_one(transform, logits, x + t * itemsize(logits)) if 0 <= t < v else _NAN
    store_one(losses, place + _TARGET * _ROW_LINE, target)
    return t


@inline
def tile_of(v: int) -> int:
    """The columns of a tile of a row of `v`."""
    tile = TILE
    while tile * PIECES < v:
        tile *= 2
    return tile


@inline
def spread_of_row(
    formats: Any, row: Any, t: int, pieces: int, place: int, threshold: Any
) -> tuple[float, float, float]:
    """Z − 1 of a row, its moment and the count above a threshold, from its pieces and its column of the row table.

    Where Z is nearly 1, one class is at the maximum, and the others are added up without it; elsewhere 1 may be taken
    away. t: the class that is missing from its piece.
    """
    logits, losses, transform = formats
    x, _, _, v = row
    m, tile, size = load_one(losses, place + _MAXIMUM * _ROW_LINE), tile_of(v), itemsize(losses)
    lane = vector_like(losses, 0.0)
    below = at = moment = above = 0.0
    best = start = 0
    while start < v:
        column = pieces + (start // tile) * size
        own, total = load_one(losses, column), float(load_one(losses, column + _OTHERS * _PIECE_LINE))
        if start <= t < start + tile and t < v and own != -_INF:
            y = seen_one(transform, logits, x + t * itemsize(logits))
            total += largest(exp(filled(lane, y - own)))
        scale = 1.0
        if own == m:
            at += total
            best = start
        else:
            scale = float(largest(exp(filled(lane, own - m))))
            below += scale * total
        if threshold is not None:
            moment += scale * load_one(losses, column + _MOMENT_OF_PIECE * _PIECE_LINE)
            # Of a piece that is lost beside the others the distance may be infinite.
            if 0.0 < scale < 1.0:
                moment += scale * (float(m) - float(own)) * total
            above += load_one(losses, column + _ABOVE_OF_PIECE * _PIECE_LINE)
        start += tile
    rest = at + below - 1.0
    if m == -_INF:
        rest = _NAN
    elif rest < 0.5:
        here = x + best * itemsize(logits)
        rest = below + below_of_tile(logits, transform, here, min(tile, v - best), m)
    return rest, moment, above


@inline
def _mass_of_class(formats: Any, soft: Any, row: Any, t: int, smoother: Any, peak: int, ieee: bool) -> float:
    """The mass of class number `t` of a tile with soft targets."""
    logits, losses, transform = formats
    x, q, u, _ = row
    logit = seen_first(transform, logits, x + t * itemsize(logits), 1, -_INF)
    target = load_first(soft, q + t * itemsize(soft), 1, 0.0)
    zero = filled(logit, 0.0)
    weight = filled(zero, 1.0)
    if u != 0:
        weight = load_first(losses, u + t * itemsize(losses), 1, 0.0)
    value = masses(soft, logit, target, weight, lane_is(zero, peak - t), smoother, ieee)
    return sum_of_lanes(where(first(zero, 1), value, 0.0), zero)


@inline
def _merge(losses: Any, soft: Any, pieces: int, count: int, uneven: bool, place: int) -> int:
    """Merge the statistics of a row's pieces into the row table; returns the piece that has the row's maximum.

    Each piece is rescaled once, so no rounding piles up.
    """
    n = lanes(losses)
    zero = vector_like(losses, 0.0)
    maximum = vector_like(losses, -_INF)
    for k in range(0, count, n):
        maximum = larger(load_first(losses, pieces + k * itemsize(losses), count - k, -_INF), maximum)
    m = largest(maximum)
    best = 0
    if soft is not None:
        best = max(0, place_in_tile(losses, (None, None), pieces, count, m))
    centre = centre_of(filled(zero, m))
    others = others_low = counts = mass = mass_low = weighted_gap = weighted_gap_low = zero
    for k in range(0, count, n):
        p = pieces + k * itemsize(losses)
        left = count - k
        own = load_first(losses, p + _MAXIMUM * _PIECE_LINE, left, -_INF)
        nothing = own == -_INF
        piece = load_first(losses, p + _OTHERS * _PIECE_LINE, left, 0.0)
        masses_of_piece = zero
        if uneven:
            masses_of_piece = load_first(losses, p + _MASS * _PIECE_LINE, left, 0.0)
        if soft is not None:
            # The classes that pieces have kept apart, but for the row's own.
            again = ~(nothing | lane_is(zero, best - k))
            piece = piece + where(again, filled(zero, 1.0), 0.0)
            masses_of_piece = masses_of_piece + where(again, load_first(losses, p + _OWN * _PIECE_LINE, left, 0.0), 0.0)
        others, others_low = added(others, others_low, exp(own - centre) * piece)
        if uneven:
            d = centre * UNIT - own * UNIT
            # An empty piece has no mass, or a gap that is infinite already.
            moved = where(nothing | (d == 0.0), 0.0, masses_of_piece * d)
            moved = moved + load_first(losses, p + _WEIGHTED_GAP * _PIECE_LINE, left, 0.0)
            counts = counts + load_first(losses, p + _COUNT * _PIECE_LINE, left, 0.0)
            mass, mass_low = added(mass, mass_low, masses_of_piece)
            weighted_gap, weighted_gap_low = added(weighted_gap, weighted_gap_low, moved)
    store_one(losses, place + _MAXIMUM * _ROW_LINE, m)
    store_one(losses, place + _OTHERS * _ROW_LINE, sum_of_lanes(others, others_low))
    if uneven:
        store_one(losses, place + _COUNT * _ROW_LINE, sum_of_lanes(counts, zero))
        store_one(losses, place + _MASS * _ROW_LINE, sum_of_lanes(mass, mass_low))
        store_one(losses, place + _WEIGHTED_GAP * _ROW_LINE, sum_of_lanes(weighted_gap, weighted_gap_low))
        if soft is not None:
            copy_one(losses, place + _OWN * _ROW_LINE, pieces + best * itemsize(losses) + _OWN * _PIECE_LINE)
    return best


# --- the gradient of a row --------------------------------------------------------------------------------------------


@inline
def _gradient_of_row(formats: Any, row: Any, d: int, centre: Any, factor: Any) -> None:
    """Write factor·exp(y − centre), times the slope, of a row's logits to address `d`, which may be theirs."""
    logits, losses, transform = formats
    x, _, _, left = row
    n = lanes(logits)
    step = n * itemsize(logits)
    c, k = vector_like(losses, centre), vector_like(losses, factor)
    while left >= 2 * n:
        x0, x1 = load_pair(logits, x)
        for line in range(0, 2 * step, 64):
            ask_to_write(d + AHEAD + line)
        y0, slope0 = seen_with_slope(transform, x0)
        y1, slope1 = seen_with_slope(transform, x1)
        store_pair(logits, d, exp(y0 - c) * k * slope0, exp(y1 - c) * k * slope1)
        x += 2 * step
        d += 2 * step
        left -= 2 * n
    while left > 0:
        y0, slope0 = seen_with_slope(transform, load_first(logits, x, left, 0.0))
        store_first(logits, d, exp(y0 - c) * k * slope0, left)
        x += step
        d += step
        left -= n


@inline
def _gradient_of_uneven_row(
    formats: Any, soft: Any, row: Any, d: int, numbers: Any, centre: Any, factor: Any, uniform_term: Any
) -> None:
    """Like `_gradient_of_row`, less the uniform term times the masses of the classes."""
    logits, losses, transform = formats
    smoother, peak = _smooths(formats, soft, row, numbers)
    _, _, _, _, ieee, _ = numbers
    x, q, u, left = row
    n = lanes(logits)
    c, k, s = vector_like(losses, centre), vector_like(losses, factor), vector_like(losses, uniform_term)
    while left > 0:
        logit, slope = seen_with_slope(transform, load_first(logits, x, left, 0.0))
        target = filled(c, 0.0)
        if soft is not None:
            target = load_first(soft, q, left, 0.0)
            q += n * itemsize(soft)
        weight = filled(c, 1.0)
        if u != 0:
            weight = plain(load_first(losses, u, left, 0.0))
            u += n * itemsize(losses)
        value = masses(soft, logit, target, weight, lane_is(c, peak), smoother, ieee)
        store_first(logits, d, (exp(logit - c) * k - s * value) * slope, left)
        x += n * itemsize(logits)
        d += n * itemsize(logits)
        left -= n
        peak -= n


@inline
def _put_gradient(
    formats: Any, soft: Any, row: Any, d: int, t: int, numbers: Any, table: int, line: int, maximum: int
) -> None:
    """Write the gradient of a row at address `d` from its column of a table, whose lines are `line` bytes apart: the
    factor, the uniform term and the target's entry; its maximum is at the address `maximum`.
    """
    logits, losses, transform = formats
    top, factor = load_one(losses, maximum), load_one(losses, table)
    centre = lowest(losses) if top == -_INF else top
    _, smoothing, _, _, _, _ = numbers
    entry, holds = load_one(losses, table + 2 * line), 0 <= t < row[3]
    if holds:
        # Before the gradient is written over the logit.
        entry = steepened_one(transform, logits, row[0] + t * itemsize(logits), entry)
    if soft is None and smoothing == 0.0:
        _gradient_of_row(formats, row, d, centre, factor)
    else:
        _gradient_of_uneven_row(formats, soft, row, d, numbers, centre, factor, load_one(losses, table + line))
    if holds:
        store_one(logits, d + t * itemsize(logits), entry)


@inline
def zero_row(formats: Any, d: int, v: int) -> None:
    """Write 0 to a row of the gradient at address `d`."""
    logits, losses, _ = formats
    n = lanes(logits)
    left = v
    while left > 0:
        store_first(logits, d, vector_like(losses, 0.0), left)
        d += n * itemsize(logits)
        left -= n


# --- the walk ---------------------------------------------------------------------------------------------------------


@inline
def weight_and_scale(losses: Any, weight: int, scales: int, scale: float, i: int, live: int) -> Any:
    """The weights of the rows from number `i` on, and in float64 what their gradients are multiplied by."""
    w = vector_like(losses, 1.0)
    if weight != 0:
        w = load_first(losses, weight + i * itemsize(losses), live, 1.0)
    s = filled(widened(w), scale)
    if scales != 0:
        s = load_wide(losses, scales + i * 8, live)
    return w, s


@inline
def walk(
    formats: Any,
    soft: Any,
    matrices: Any,
    lines: Any,
    v: int,
    scale: float,
    numbers: Any,
    spreads: Any,
    start: int,
    stop: int,
) -> None:
    """The walk of `numba_cpu`: some rows at a time, that stay in the cache until their gradient is written.

    spreads: None, or the address of a table of what `_describe_row` writes, and the bytes between its lines.
    """
    logits, losses, _ = formats
    x, x_step, q, q_step, d, d_step = matrices
    targets, loss, weight, u, scales = lines
    n = lanes(logits)
    wide = itemsize(losses)
    _, _, _, _, ieee, _ = numbers
    skips = weight != 0 and not ieee
    rows, pieces, places = scratch(ROW_TABLE), scratch(PIECE_TABLE), scratch(_ROW_LINE)
    # Rows of weight 0 leave what is there; it is not used.
    for line in range(_LINES):
        store(losses, rows + line * _ROW_LINE, vector_like(losses, 0.0))
    height = max(1, min(n, BLOCK // (v * itemsize(logits))))
    i = start
    while i < stop:
        live = min(height, stop - i)
        for r in range(live):
            # A row of weight 0 is not read.
            if skips and load_one(losses, weight + (i + r) * wide) == 0.0:
                continue
            row = (x + (i + r) * x_step, q + (i + r) * q_step, u, v)
            t = load_place(targets + (i + r) * 8) if soft is None else 0
            if spreads is None:
                t = statistics_of_row(formats, soft, row, t, numbers, pieces, rows + r * wide, None)
            else:
                _describe_row(formats, row, t, numbers, pieces, rows + r * wide, spreads, (i + r) * wide)
            store_place(places + r * 8, t)
        w, s = weight_and_scale(losses, weight, scales, scale, i, live)
        m, target = load(losses, rows + _MAXIMUM * _ROW_LINE), load(losses, rows + _TARGET * _ROW_LINE)
        statistics = (
            m,
            load(losses, rows + _OTHERS * _ROW_LINE),
            exp(target - m),
            target,
            load(losses, rows + _COUNT * _ROW_LINE),
            load(losses, rows + _MASS * _ROW_LINE),
            load(losses, rows + _WEIGHTED_GAP * _ROW_LINE),
        )
        value, entry, factor, c = outcome(soft, statistics, load(losses, rows + _OWN * _ROW_LINE), w, s, numbers)
        store_first(losses, loss + i * wide, value, live)
        if d != 0:
            store(losses, rows + _FACTOR * _ROW_LINE, factor)
            store(losses, rows + _UNIFORM_TERM * _ROW_LINE, c)
            store(losses, rows + _ENTRY * _ROW_LINE, entry)
            for r in range(live):
                result, table = d + (i + r) * d_step, rows + r * wide
                if skips and load_one(losses, weight + (i + r) * wide) == 0.0:
                    zero_row(formats, result, v)
                    continue
                row = (x + (i + r) * x_step, q + (i + r) * q_step, u, v)
                t = load_place(places + r * 8)
                _put_gradient(formats, soft, row, result, t, numbers, table + _FACTOR * _ROW_LINE, _ROW_LINE, table)
        i += live


@inline
def _describe_row(
    formats: Any, row: Any, t: int, numbers: Any, pieces: int, place: int, spreads: Any, column: int
) -> None:
    logits, losses, _ = formats
    x, _, _, v = row
    threshold = load_one(logits, x + t * itemsize(logits)) if 0 <= t < v else _INF
    statistics_of_row(formats, None, row, t, numbers, pieces, place, threshold)
    rest, moment, above = spread_of_row(formats, row, t, pieces, place, threshold)
    table, step = spreads
    column += table
    copy_one(losses, column, place + _MAXIMUM * _ROW_LINE)
    store_one(losses, column + step, rest)
    store_one(losses, column + 2 * step, moment)
    store_one(losses, column + 3 * step, above)


# --- the two halves of the walk, for pieces of rows -------------------------------------------------------------------

# place: the number of the first class, that of all in the vocabulary, and the bytes between lines of the table.


@inline
def statistics(
    formats: Any, soft: Any, matrices: Any, lines: Any, v: int, place: Any, numbers: Any, start: int, stop: int
) -> None:
    """Write the statistics of rows, line after line, and for soft targets the classes that are kept apart.

    The lines: maximum, others, count, mass, weighted gap, the class's own mass, target.
    """
    losses = formats[1]
    x, x_step, q, q_step, _, _ = matrices
    targets, found, _, u, _ = lines
    first_class, vocabulary, step = place
    table, pieces = scratch(ROW_TABLE), scratch(PIECE_TABLE)
    for line in range(_LINES):
        store_one(losses, table + line * _ROW_LINE, 0.0)
    for i in range(start, stop):
        row = (x + i * x_step, q + i * q_step, u, v)
        t = load_place(targets + i * 8) if soft is None else 0
        local = statistics_of_row(formats, soft, row, t - first_class, numbers, pieces, table, None)
        if soft is not None:
            store_place(targets + i * 8, local + first_class)
        elif 0 <= t < vocabulary and not 0 <= local < v:
            # Elsewhere in the vocabulary, it is not held.
            store_one(losses, table + _TARGET * _ROW_LINE, -_INF)
        for line in range(_FACTOR):
            copy_one(losses, found + line * step + i * itemsize(losses), table + line * _ROW_LINE)


@inline
def gradient(
    formats: Any, soft: Any, matrices: Any, lines: Any, v: int, place: Any, numbers: Any, start: int, stop: int
) -> None:
    """Write the gradient of rows from numbers per row, line after line: maximum, factor, uniform term, entry."""
    losses = formats[1]
    x, x_step, q, q_step, d, d_step = matrices
    targets, table, weight, u, _ = lines
    first_class, _, step = place
    _, _, _, _, ieee, _ = numbers
    for i in range(start, stop):
        at = i * itemsize(losses)
        if weight != 0 and not ieee and load_one(losses, weight + at) == 0.0:
            zero_row(formats, d + i * d_step, v)
            continue
        row, t = (x + i * x_step, q + i * q_step, u, v), load_place(targets + i * 8) - first_class
        _put_gradient(formats, soft, row, d + i * d_step, t, numbers, table + step + at, step, table + at)
