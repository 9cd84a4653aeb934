"""The kernel for rows of few columns: as many rows at a time as a vector has lanes, one row in each.

A block of rows is turned into a table of one vector for each column, and its gradient is turned back.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crossent.engines.numba_cpu.elements import (
    ask_to_read,
    ask_to_write,
    load,
    load_first,
    load_integers,
    load_one,
    load_place,
    scratch,
    store,
    store_first,
    store_one,
)
from crossent.engines.numba_cpu.functions import added, exp, finished
from crossent.engines.numba_cpu.lanes import itemsize, lanes
from crossent.engines.numba_cpu.layout import MOST, SHORT
from crossent.engines.numba_cpu.long_rows import weight_and_scale
from crossent.engines.numba_cpu.outcome import centre_of, masses, outcome, possible, terms
from crossent.engines.numba_cpu.tiles import counted, weighed
from crossent.engines.numba_cpu.transform import format_seen, seen_with_slope
from crossent.engines.numba_cpu.transposes import few_to_lanes, lanes_to_few, lanes_to_rows, rows_to_lanes
from crossent.engines.numba_cpu.vectors import filled, inline, larger, vector_like, where

_INF, _NAN = np.inf, np.nan
_TABLE = SHORT * 64
_LINE = 16 * 8


# --- rows and lanes ---------------------------------------------------------------------------------------------------


@inline
def _load_rows(like: Any, table: int, row: int, step: int, live: int, v: int) -> None:
    """`live` rows of `v` elements, `step` bytes apart from address `row` on, into the lanes of a table."""
    n, size = lanes(like), itemsize(like)
    few = v if step == v * size else 0
    # The number of columns is a constant to each of these.
    if few == 2:
        few_to_lanes(like, table, row, live, 2)
    elif few == 3:
        few_to_lanes(like, table, row, live, 3)
    elif few == 4:
        few_to_lanes(like, table, row, live, 4)
    else:
        for j in range(0, v, n):
            if v - j <= 8:
                rows_to_lanes(like, table + j * n * size, row + j * size, step, live, v - j, 8)
            else:
                rows_to_lanes(like, table + j * n * size, row + j * size, step, live, v - j, 16)


@inline
def _store_rows(like: Any, table: int, row: int, step: int, live: int, v: int) -> None:
    """The way back from `_load_rows`."""
    n, size = lanes(like), itemsize(like)
    few = v if step == v * size else 0
    if few == 2:
        lanes_to_few(like, table, row, live, 2)
    elif few == 3:
        lanes_to_few(like, table, row, live, 3)
    elif few == 4:
        lanes_to_few(like, table, row, live, 4)
    else:
        for j in range(0, v, n):
            if v - j <= 8:
                lanes_to_rows(like, table + j * n * size, row + j * size, step, live, v - j, 8)
            else:
                lanes_to_rows(like, table + j * n * size, row + j * size, step, live, v - j, 16)


@inline
def _seen_rows(scale: Any, cap: Any, formats: Any, v: int, x_table: int, y_table: int, slopes: int) -> int:
    """The table of rows as everything else sees them, in the format `format_seen`.

    It is `x_table` itself where nothing is to be done, else `y_table`; slopes, where there are some, are in `slopes`.
    """
    if scale is None:
        return x_table
    logits, losses, _ = formats
    step = lanes(losses) * itemsize(losses)
    for j in range(v):
        y, slope = seen_with_slope((scale, cap), load(logits, x_table + j * lanes(logits) * itemsize(logits)))
        store(losses, y_table + j * step, y)
        if cap is not None:
            store(losses, slopes + j * step, slope)
    return y_table


@inline
def _steepened(cap: Any, losses: Any, place: int, d: Any) -> Any:
    """A gradient times the slope in a table, if there is one."""
    if cap is None:
        return d
    return d * load(losses, place)


# --- statistics -------------------------------------------------------------------------------------------------------


@inline
def _maximum(logits: Any, losses: Any, v: int, x_table: int) -> Any:
    """m of the rows in the lanes of a table, NaN aside: it shows in the sum of the exponentials."""
    m = vector_like(losses, -_INF)
    for j in range(v):
        m = larger(load(logits, x_table + j * lanes(logits) * itemsize(logits)), m)
    return m


@inline
def _likeliest(logits: Any, v: int, m: Any, x_table: int) -> Any:
    """The first class of each row whose logit is m, as a number; −1 where there is none."""
    t = filled(m, -1.0)
    for j in range(v):
        x = load(logits, x_table + j * lanes(logits) * itemsize(logits))
        t = where((x == m) & (t < 0.0), filled(m, j), t)
    return t


@inline
def _gathered(found: Any, hit: Any, x: Any, e: Any) -> Any:
    """x_t, exp(x_t − m) and S, with one column more; `hit` where that is the target's."""
    target, odds, others, others_low = found
    others, others_low = added(others, others_low, where(hit, 0.0, e))
    return where(hit, x, target), where(hit, e, odds), others, others_low


@inline
def _sums(
    like: Any, losses: Any, v: int, t: Any, m: Any, x_table: int, e_table: int, raw: int, soon: int, result: int
) -> Any:
    """S, exp(x_t − m) and x_t of the rows in the lanes of a table; the exponentials go into `e_table`.

    soon, result: addresses of the rows that are read next and of the gradient that is written next, whose vectors have
    `raw` bytes. Columns are visited in an order that no processor foresees, so their cache lines are asked for
    meanwhile, one with each column.
    """
    centre = centre_of(m)
    # A target outside the row, which is no target, is NaN.
    found = (filled(m, _NAN), filled(m, _NAN), filled(m, 0.0), filled(m, 0.0))
    number, zero = filled(m, 0.0), filled(m, 0.0)
    step, wide = lanes(like) * itemsize(like), lanes(losses) * itemsize(losses)
    j = 0
    while j < v:
        # Two columns in one turn: what their exponentials have in common is loaded once.
        x0, x1 = load(like, x_table + j * step), zero
        pair = j + 1 < v
        if pair:
            x1 = load(like, x_table + (j + 1) * step)
        e0, e1 = exp(x0 - centre), exp(x1 - centre)
        store(losses, e_table + j * wide, e0)
        found = _gathered(found, t == number, x0, e0)
        if pair:
            store(losses, e_table + (j + 1) * wide, e1)
            found = _gathered(found, t == number + 1.0, x1, e1)
        number = number + 2.0
        for line in range(2):
            ask_to_read(soon + (j + line) * raw)
            if result != 0:
                ask_to_write(result + (j + line) * raw)
        j += 2
    target, odds, others, others_low = found
    # Of a row of nothing but −inf, every exponential is 0 and none of that is a probability.
    return others + others_low, where(m == -_INF, _NAN, odds), target


@inline
def _smooths(logits: Any, soft: Any, v: int, numbers: Any, like: Any, x_table: int, q_table: int) -> tuple[Any, Any]:
    """What `masses` needs to know of rows to smooth their soft targets, and the place of the largest of each."""
    target_mass, smoothing, includes_target, _, ieee, _ = numbers
    zero = filled(like, 0.0)
    count = lost = lost_low = rest = rest_low = zero
    peak, place = filled(like, -_INF), filled(like, -1.0)
    for j in range(v):
        occurs = possible(load(logits, x_table + j * lanes(logits) * itemsize(logits)), ieee)
        target = load(soft, q_table + j * lanes(soft) * itemsize(soft))
        count = count + occurs
        lost, lost_low = added(lost, lost_low, target * (1.0 - occurs))
        target = target * occurs
        place = where(target > peak, filled(like, j), place)
        peak = larger(target, peak)
    for j in range(v):
        occurs = possible(load(logits, x_table + j * lanes(logits) * itemsize(logits)), ieee)
        target = load(soft, q_table + j * lanes(soft) * itemsize(soft)) * occurs
        rest, rest_low = added(rest, rest_low, where(place == filled(like, j), 0.0, target))
    one = filled(like, 1.0)
    even = smoothing / larger(count, one)
    single = count <= one
    others = where(single, 0.0, smoothing / where(single, 1.0, count - 1.0))
    all_lost, all_rest = finished(lost, lost_low), finished(rest, rest_low)
    return (True, target_mass, includes_target != 0.0, even, others, all_lost, all_rest, peak), place


@inline
def _mass(formats: Any, soft: Any, u: int, j: int, smooths: Any, ieee: bool, like: Any, tables: Any) -> Any:
    """The masses of class number `j` in the rows in the lanes of the tables."""
    logits, losses = formats
    x_table, q_table = tables
    smoother, peak = smooths
    target = weight = filled(like, 1.0)
    if u != 0:
        weight = filled(like, load_one(losses, u + j * itemsize(losses)))
    if soft is not None:
        target = load(soft, q_table + j * lanes(soft) * itemsize(soft))
    x = load(logits, x_table + j * lanes(logits) * itemsize(logits))
    return masses(soft, x, target, weight, peak == filled(like, j), smoother, ieee)


@inline
def _sums_of_others(
    formats: Any, soft: Any, u: int, v: int, t: Any, m: Any, smooths: Any, ieee: bool, tables: Any
) -> Any:
    """Σ 1, Σ masses and Σ masses·(m − x)·UNIT over the other classes of rows, and the mass of the class kept apart."""
    logits, _ = formats
    zero = filled(m, 0.0)
    centre = centre_of(m)
    own = count = mass = mass_low = gap = gap_low = zero
    for j in range(v):
        x = load(logits, tables[0] + j * lanes(logits) * itemsize(logits))
        value = _mass(formats, soft, u, j, smooths, ieee, m, tables)
        hit = t == filled(m, j)
        own = where(hit, value, own)
        count = count + where(hit, 0.0, possible(x, ieee))
        mass, mass_low = added(mass, mass_low, where(hit, 0.0, value))
        gap, gap_low = added(gap, gap_low, where(hit, 0.0, terms(x, value, centre, ieee)))
    return count, finished(mass, mass_low), finished(gap, gap_low), own


@inline
def _spread(
    like: Any, logits: Any, losses: Any, v: int, t: Any, m: Any, x_table: int, y_table: int, e_table: int
) -> tuple[Any, Any, Any, Any]:
    """The maxima of rows, their sums of exponentials but for one at the maximum, their moments, and the counts above
    their targets.
    """
    zero = filled(m, 0.0)
    centre = centre_of(m)
    own = filled(m, _INF)
    rest = rest_low = moment = moment_low = ties = above = zero
    for j in range(v):
        own = where(t == filled(m, j), load(logits, x_table + j * lanes(logits) * itemsize(logits)), own)
    for j in range(v):
        y = load(like, y_table + j * lanes(like) * itemsize(like))
        e = load(losses, e_table + j * lanes(losses) * itemsize(losses))
        at = y == m
        ties = counted(ties, at)
        rest, rest_low = added(rest, rest_low, where(at, 0.0, e))
        moment, moment_low = added(moment, moment_low, weighed(e, y - centre))
        above = counted(above, load(logits, x_table + j * lanes(logits) * itemsize(logits)) > own)
    total = finished(rest, rest_low) + (ties - 1.0)
    return m, where((m == -_INF) | (m == _INF), _NAN, total), -finished(moment, moment_low), above


# --- the walk ---------------------------------------------------------------------------------------------------------


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
    """The walk of `numba_cpu`, for as many rows at a time as there are lanes.

    spreads: None, or the address of a table of rows' maxima, rest, moment and count above the target, and the bytes
    between its lines.
    """
    logits, losses, transform = formats
    scale_of_logits, cap = transform
    like = format_seen(scale_of_logits, logits, losses)
    x, x_step, q, q_step, d, d_step = matrices
    targets, loss, weight, u, scales = lines
    n = lanes(logits)
    wide, raw = itemsize(losses), lanes(logits) * itemsize(logits)
    target_mass, smoothing, _, _, ieee, _ = numbers
    uneven = smoothing != 0.0 if soft is None else True
    skips = weight != 0 and not ieee
    x_table, e_table, line = scratch(_TABLE), scratch(_TABLE), scratch(_LINE)
    y_table, slopes = scratch(_TABLE), scratch(_TABLE)
    q_table = 0
    if soft is not None:
        q_table = scratch(_TABLE)
    one, zero = vector_like(losses, 1.0), vector_like(losses, 0.0)
    no_smooths = ((False, target_mass, False, zero, zero, zero, zero, zero), zero)
    i = start
    while i < stop:
        live = min(n, stop - i)
        _load_rows(logits, x_table, x + i * x_step, x_step, live, v)
        w, s = weight_and_scale(losses, weight, scales, scale, i, live)
        seen_table = _seen_rows(scale_of_logits, cap, formats, v, x_table, y_table, slopes)
        m = _maximum(like, losses, v, seen_table)
        own, smooths = one, no_smooths
        if soft is None:
            # Those of a later part of the rows are checked before they are walked.
            ask_to_read(targets + (i + MOST) * 8)
            ask_to_read(targets + (i + MOST) * 8 + 64)
            t = load_integers(losses, targets + i * 8, live)
            if u != 0:
                for r in range(live):
                    k = load_place(targets + (i + r) * 8)
                    store_one(losses, line + r * wide, load_one(losses, u + k * wide) if 0 <= k < v else _NAN)
                own = load_first(losses, line, live, 1.0)
        else:
            _load_rows(soft, q_table, q + i * q_step, q_step, live, v)
            t = _likeliest(like, v, m, seen_table)
            if smoothing != 0.0:
                smooths = _smooths(like, soft, v, numbers, m, seen_table, q_table)
        result = d + i * d_step
        others, odds, target = _sums(
            like, losses, v, t, m, seen_table, e_table, raw, x + (i + n) * x_step, result if d != 0 else 0
        )
        count = mass = gap = zero
        tables = (seen_table, q_table)
        if uneven:
            count, mass, gap, apart = _sums_of_others((like, losses), soft, u, v, t, m, smooths, ieee, tables)
            if soft is not None:
                own = apart
        value, entry, factor, c = outcome(soft, (m, others, odds, target, count, mass, gap), own, w, s, numbers)
        store_first(losses, loss + i * wide, value, live)
        if spreads is not None:
            found = _spread(like, logits, losses, v, t, m, x_table, seen_table, e_table)
            for k in range(4):
                store_first(losses, spreads[0] + k * spreads[1] + i * wide, found[k], live)
        if d != 0:
            number = zero
            for j in range(v):
                entry_of_class = load(losses, e_table + j * n * wide) * factor
                if uneven:
                    entry_of_class = entry_of_class - c * _mass((like, losses), soft, u, j, smooths, ieee, m, tables)
                entry_of_class = where(t == number, entry, entry_of_class)
                entry_of_class = _steepened(cap, losses, slopes + j * n * wide, entry_of_class)
                if skips:
                    entry_of_class = where(w == 0.0, 0.0, entry_of_class)
                store(logits, x_table + j * raw, entry_of_class)
                number = number + 1.0
            _store_rows(logits, x_table, result, d_step, live, v)
        i += live
