"""What is computed of a matrix of rows, as a function of arrays. Pure array API.

`losses` and `losses_and_gradient` are what transformations differentiate, lazy libraries record, and the array-API
engine does to each block. `statistics` and `gradient` are their two halves, for pieces of rows.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from crossent.math import explicit, measures, statistics
from crossent.math.operations import Operations
from crossent.math.outcome import Outcome, outcome
from crossent.math.parts import nothing_of, put_together, seen, shared, with_masses
from crossent.math.rows import EXPLICIT, LOSS, Rows, over_lines
from crossent.math.statistics import Described, Masses, RowStatistics
from crossent.math.targets import class_masses, soft_masses
from crossent.math.transform import slope, transformed
from crossent.types import Array

_Lines = TypeVar("_Lines", Described, RowStatistics)


def losses(ops: Operations, rows: Rows, out: Array | None = None) -> Array:
    """The losses (N,) of rows whose logits have the compute dtype. out: scratch memory (N, V), or None."""
    if rows.parts is not None:
        return outcome_of(ops, whole_statistics(ops, rows), rows, None).loss
    rows = _transformed(ops, rows, out)
    if rows.coefficients.measure == EXPLICIT:
        return explicit.losses_and_gradient(ops, rows, 1.0)[0]
    if rows.coefficients.measure != LOSS:
        return measures.values_and_gradient(ops, rows, None)[0]
    found, _, _, _ = _statistics(ops, rows, out)
    return outcome_of(ops, found, rows, None).loss


def losses_and_gradient(
    ops: Operations, rows: Rows, scale: Array | float, out: Array | None = None
) -> tuple[Array, Array]:
    """The losses (N,) and the gradient rows (N, V), times `scale` (one number or one per row); in `out` where given."""
    if rows.parts is not None:
        found = whole_statistics(ops, rows)
        result = outcome_of(ops, found, rows, scale)
        # What all parts have alike each computes its own part of the gradient from.
        numbers = Outcome(result.loss, *(shared(ops, rows.parts, result[1:]) or ()))
        rows = with_masses(ops, rows, shared(ops, rows.parts, found.shares))
        if not rows.logits.shape[1]:
            # Of no numbers, but on the graph, since what the others find is added up there.
            nothing = rows.logits * numbers.factor[:, None]
            return result.loss, nothing if rows.soft is None else nothing - rows.soft
        return result.loss, gradient_of(ops, rows, found, numbers, out)
    slopes = slope(ops, rows.logits, rows.coefficients)
    rows = _transformed(ops, rows, out)
    measure = rows.coefficients.measure
    if measure != LOSS:
        of_rows = explicit.losses_and_gradient if measure == EXPLICIT else measures.values_and_gradient
        loss, d = of_rows(ops, rows, scale, slopes)
        if out is None:
            return loss, d
        out[...] = d
        return loss, out
    found, e, t, masses = _statistics(ops, rows, out)
    result = outcome_of(ops, found, rows, scale)
    return result.loss, _gradient(ops, e, t, None, masses, result, slopes, rows, out)


def is_in_pieces(rows: Rows) -> bool:
    """Whether the statistics of pieces of the rows merge into the rows' own."""
    return rows.soft is None and rows.coefficients.measure == LOSS


def temporaries(rows: Rows) -> int:
    """How many arrays of the size of the logits are made at a time, beside what the stable algorithm makes."""
    c = rows.coefficients
    return {LOSS: 1, EXPLICIT: 4}.get(c.measure, 8) + (2 if c.softcap else 0)


def widened(ops: Operations, rows: Rows) -> Rows:
    """The rows with logits and soft targets in the compute dtype."""
    soft = None if rows.soft is None else ops.widened(rows.soft, rows.dtype)
    return rows._replace(logits=ops.widened(rows.logits, rows.dtype), soft=soft)


def whole(ops: Operations, rows: Rows) -> Array:
    """The losses of traced or lazy rows, all at once."""
    return losses(ops, widened(ops, rows))


def whole_with_gradient(ops: Operations, rows: Rows, scale: Array | float) -> tuple[Array, Array]:
    """The losses and the gradient, in the dtype of the logits, of traced or lazy rows, all at once."""
    loss, d = losses_and_gradient(ops, widened(ops, rows), scale)
    return loss, ops.narrowed(d, rows.logits)


def statistics_of(
    ops: Operations, rows: Rows, out: Array | None = None, threshold: Array | None = None
) -> RowStatistics:
    """The statistics of rows, or of a piece of each, whose logits have the compute dtype. out: scratch memory, None
    where a spread is to be found beside them, with the logits above `threshold` (N,).
    """
    seen = _transformed(ops, rows, out)
    found = _statistics(ops, seen, out)[0]
    if threshold is None:
        return found
    return found._replace(spread=statistics.spread_of(ops, rows.logits, seen.logits, found.maximum, threshold))


def whole_statistics(ops: Operations, rows: Rows) -> RowStatistics:
    """The statistics of whole rows whose classes lie in parts."""
    return put_together(ops, rows, partial(_of_part, ops)) if rows.found is None else rows.found


def _of_part(ops: Operations, rows: Rows) -> RowStatistics:
    return statistics_of(ops, rows) if rows.logits.shape[1] else nothing_of(ops, rows)


def describe(ops: Operations, rows: Rows) -> Described:
    """What lazy or traced rows with hard targets tell, all at once."""
    rows = widened(ops, rows)
    return described(ops, [statistics_of(ops, rows, None, target_logits(ops, rows))], rows)


def described(ops: Operations, pieces: list[RowStatistics], rows: Rows) -> Described:
    """What whole rows tell, from the statistics of their pieces with spreads."""
    found = statistics.merge(ops, pieces)
    assert found.spread is not None
    return Described(outcome_of(ops, found, rows, None).loss, found.maximum, found.spread)


def joined(ops: Operations, parts: list[_Lines]) -> _Lines:
    """What rows tell, or the statistics of them, from those of consecutive ones."""
    if len(parts) == 1:
        return parts[0]
    found: _Lines = over_lines(lambda *lines: ops.xp.concat(list(lines)), *parts)
    return found


def target_logits(ops: Operations, rows: Rows) -> Array:
    """The logits (N,) of targets in the compute dtype; that of class 0 where a target is none of the vocabulary."""
    t: Array = rows.targets
    t = ops.zero_where_not((t >= 0) & (t < rows.vocabulary), t)
    return ops.widened(ops.take_target(rows.logits, t)[:, None], rows.dtype)[:, 0]


def outcome_of(ops: Operations, found: RowStatistics, rows: Rows, scale: Array | float | None) -> Outcome:
    """The losses and the gradient's numbers of rows, from the statistics of all their classes.

    rows: with the class weights of the whole vocabulary, whatever piece of the logits they have.
    """
    own: Array | float = 1.0
    if found.own is not None:
        own = found.own
    elif rows.class_weights is not None and rows.soft is None:
        own = ops.xp.take(rows.class_weights, rows.targets, axis=0)
    return outcome(ops, found, own, rows.weight, scale, rows.coefficients)


def gradient_of(ops: Operations, rows: Rows, found: RowStatistics, result: Outcome, out: Array | None = None) -> Array:
    """The gradient of a piece of rows, from the statistics and the outcome of the whole rows."""
    slopes = slope(ops, rows.logits, rows.coefficients)
    rows = _transformed(ops, rows, out)
    x = rows.logits
    if found.apart is None:
        t, elsewhere, masses = _targets(ops, rows)
    else:
        masses = soft_masses(ops, x, rows.soft, rows.class_weights, rows.coefficients)
        t, held = _local(ops, found.apart.place, rows)
        elsewhere = ops.xp.where(held, ops.xp.zeros_like(found.maximum), -ops.xp.inf)
    centre = ops.finite_from_below(found.maximum)
    e = ops.exp(ops.subtract(x, centre[:, None], out), out)
    return _gradient(ops, e, t, elsewhere, masses, result, slopes, rows, out)


def _transformed(ops: Operations, rows: Rows, out: Array | None) -> Rows:
    """The rows of transformed logits. out: scratch memory, which may be that of the logits, or None."""
    soft = rows.soft
    if soft is not None and rows.coefficients.measure in measures.DIRECTIONS:
        soft = transformed(ops, soft, rows.coefficients, None)
    return rows._replace(logits=seen(ops, rows, rows.logits, out), soft=soft)


def _gradient(
    ops: Operations,
    e: Array,
    t: Array,
    elsewhere: Array | None,
    masses: Masses | None,
    result: Outcome,
    slopes: Array | None,
    rows: Rows,
    out: Array | None,
) -> Array:
    c = result.uniform_term
    d = ops.multiply(e, result.factor[:, None], out)
    if masses is not None:
        d = ops.subtract(d, (c if isinstance(c, float) or c.ndim == 0 else c[:, None]) * masses.values, out)
    entry = result.target_entry
    if elsewhere is not None:
        entry = ops.xp.where(elsewhere == 0, entry, ops.take_target(d, t))
    d = ops.set_target(d, t, entry, out)
    if slopes is not None:
        d = ops.multiply(d, slopes, out)
    if rows.weight is None or rows.coefficients.ieee:
        return d
    # Rows of weight 0 are zero, whatever their logits hold.
    return ops.clear_rows(d, rows.weight == 0, out)


def _statistics(ops: Operations, rows: Rows, out: Array | None) -> tuple[RowStatistics, Array, Array, Masses | None]:
    x = rows.logits
    if rows.soft is None:
        t, elsewhere, masses = _targets(ops, rows)
        found, e = statistics.of_rows(ops, x, t, elsewhere=elsewhere, masses=masses, out=out)
        return found, e, t, masses
    # Any class may be kept apart from the sum of exponentials; the likeliest one leaves the smallest sum.
    likeliest = ops.likeliest(x)
    masses = soft_masses(ops, x, rows.soft, rows.class_weights, rows.coefficients)
    found, e = statistics.of_rows(
        ops, x, likeliest.places, masses=masses, first_class=rows.first_class, more=likeliest.more, out=out
    )
    return found, e, likeliest.single, masses


def _targets(ops: Operations, rows: Rows) -> tuple[Array, Array | None, Masses | None]:
    """Where hard targets lie in the columns of `rows`; what x_t is in rows that hold theirs elsewhere; the masses."""
    xp, x, t, elsewhere = ops.xp, rows.logits, rows.targets, None
    assert t is not None
    if rows.parts is not None or rows.first_class or x.shape[1] != rows.vocabulary:
        outside = (t < 0) | (t >= rows.vocabulary)
        t, held = _local(ops, t, rows)
        absent = xp.where(outside, xp.full_like(x[:, 0], xp.nan), -xp.inf)
        elsewhere = xp.where(held, xp.zeros_like(absent), absent)
    masses = class_masses(ops, x, rows.class_weights, rows.coefficients) if rows.coefficients.smoothing else None
    return t, elsewhere, masses


def _local(ops: Operations, t: Array, rows: Rows) -> tuple[Array, Array]:
    """Class numbers as columns of the piece, 0 where it does not hold them; and where it does."""
    local = t - rows.first_class
    held = (local >= 0) & (local < (rows.logits.shape[1] if rows.parts is None else rows.parts.size))
    return ops.zero_where_not(held, local), held
