"""Rows whose classes lie in parts, each on a process or a device of its own: their statistics, put together. Pure array
API; what the parts say to each other is the group's.

    m = max_r m_r      S = Σ_r S_r·exp(m_r − m)      and so on, as `statistics.merge` has them, of the parts r

Two exchanges of a few numbers of each row do it: a maximum, and one sum of all that adds up. Soft targets that are
smoothed ask what whole rows have first, which is a sum more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from crossent.math.operations import Operations
from crossent.math.rows import Rows
from crossent.math.statistics import UNIT, KeptApart, RowStatistics, SmoothingSums
from crossent.math.targets import Shares, shares_of, soft_masses
from crossent.math.transform import transformed
from crossent.types import Array


class Group(Protocol):
    """Those that have the parts: what they do together, each with an array of one shape and dtype."""

    def largest(self, x: Array) -> Array:
        """The largest of all, element by element; a constant to automatic differentiation."""

    def total(self, x: Array) -> Array:
        """The sum of all, the same bits everywhere."""

    def shared(self, x: Array) -> Array:
        """`x`, which all have alike; its gradient is the sum of what all find."""


class Parts(NamedTuple):
    """What there is to know of a part, beside its first class.

    size: how many of the first columns of its logits are classes: all, unless that is a number that a program is to
    compute. is_known: whether the parts are known to hold each class once, and the vocabulary to be as large as they
    are together.
    """

    group: Group
    size: int
    is_known: bool


def put_together(ops: Operations, rows: Rows, statistics: Callable[[Rows], RowStatistics]) -> RowStatistics:
    """The statistics of whole rows, from what `statistics` finds of the part of each that `rows` (N, W) have."""
    parts = _parts(rows)
    if rows.soft is None:
        piece = statistics(rows)
        return _hard(ops, rows, piece, parts.group.largest(_known(ops, piece.maximum)))
    shares = None
    if rows.coefficients.smoothing:
        shares, own, maximum = _shares(ops, rows)
        rows = with_masses(ops, rows, shared(ops, parts, shares))
        piece = statistics(rows)
    else:
        piece = statistics(rows)
        own = _known(ops, piece.maximum)
        maximum = parts.group.largest(own)
    return _soft(ops, parts, piece, own == maximum, maximum)._replace(shares=shares)


def _hard(ops: Operations, rows: Rows, piece: RowStatistics, maximum: Array) -> RowStatistics:
    xp, parts, t = ops.xp, _parts(rows), rows.targets
    assert t is not None
    _, held = _held(rows)
    found = [piece.others * _scale(ops, piece, maximum), xp.where(held, piece.target, xp.zeros_like(maximum))]
    if piece.sums is not None:
        found += [piece.sums.count, piece.sums.mass, _moved(ops, piece, piece.sums.mass, maximum)]
    if rows.class_weights is not None:
        found.append(own_of_part(ops, rows))
    if not parts.is_known:
        found.append(held)
    others, target, *rest = _total(ops, parts, found, maximum)
    outside = (t < 0) | (t >= rows.vocabulary)
    if not parts.is_known:
        outside = outside | (rest.pop() != 1)
    own = None if rows.class_weights is None else xp.where(outside, xp.nan, rest.pop())
    sums = SmoothingSums(*rest) if rest else None
    return RowStatistics(maximum, others, xp.where(outside, xp.nan, target), sums, None, own=own)


def _soft(ops: Operations, parts: Parts, piece: RowStatistics, is_top: Array, maximum: Array) -> RowStatistics:
    """is_top: in which rows the part has the maximum."""
    xp, sums, apart, zero = ops.xp, piece.sums, piece.apart, ops.xp.zeros_like(maximum)
    assert sums is not None
    assert apart is not None
    nothing = piece.maximum == -xp.inf
    is_top = is_top & ~nothing
    stays = is_top | nothing
    # The classes that parts have kept apart join the others again, but for the row's own.
    back = xp.where(stays, zero, xp.exp(xp.where(stays, zero, piece.target - piece.maximum)))
    mass = sums.mass + xp.where(stays, zero, apart.mass)
    top = xp.where(is_top, piece.target, zero)
    found = [(piece.others + back) * _scale(ops, piece, maximum), mass, _moved(ops, piece, mass, maximum)]
    found += [xp.where(is_top, apart.mass, zero), top, xp.where(is_top, xp.exp(top - maximum), zero)]
    others, mass, gap, own_mass, target, odds = _total(ops, parts, found, maximum)
    # Of several that tie, none is kept apart, and all but one are others.
    count = ops.stop_gradient(xp.round(odds))
    target = xp.where(count == 0, maximum, target / xp.where(count == 0, 1.0, count))
    others = others + xp.where(count > 1, odds - xp.exp(target - maximum), zero)
    place = xp.where(is_top & (count == 1), apart.place, -1)
    return RowStatistics(maximum, others, target, SmoothingSums(zero, mass, gap), KeptApart(place, own_mass))


def shared(
    ops: Operations, parts: Parts, numbers: tuple[Array | float, ...] | None
) -> tuple[Array | float, ...] | None:
    """Numbers of rows that all parts have alike, as each computes with them; together, so that one sum is their
    gradient.
    """
    if numbers is None:
        return None
    arrays = [x for x in numbers if not isinstance(x, float)]
    one = next(x for x in arrays if x.ndim)
    found = iter(_lines(parts.group.shared(ops.xp.stack([x + ops.xp.zeros_like(one) for x in arrays])), len(arrays)))
    return tuple(x if isinstance(x, float) else next(found) for x in numbers)


def seen(ops: Operations, rows: Rows, x: Array, out: Array | None) -> Array:
    """Logits of the compute dtype as everything else sees them; −inf in columns that are no classes.

    A softcap would make something of what stands in these.
    """
    y = transformed(ops, x, rows.coefficients, out)
    size: Array = None if rows.parts is None else rows.parts.size
    if size is None or isinstance(size, int):
        return y
    # A size that is only known now may be more than there is.
    beyond = ops.xp.where(size > x.shape[-1], ops.xp.nan, -ops.xp.inf)
    return ops.xp.where((ops.xp.arange(x.shape[-1]) < size) & (size <= x.shape[-1]), y, beyond)


def own_of_part(ops: Operations, rows: Rows) -> Array:
    """The class weights (N,) of the targets that the part holds, and 0 for the others."""
    local, held = _held(rows)
    zero = ops.xp.zeros(held.shape, dtype=rows.dtype, device=ops.device(held))
    u = rows.class_weights
    assert u is not None
    if not u.shape[0]:
        return zero
    return ops.xp.where(held, ops.weights_of(u, ops.zero_where_not(held, local)), zero)


def with_masses(ops: Operations, rows: Rows, shares: tuple[Array, ...] | None) -> Rows:
    """The rows with the masses of their soft targets in place of these, where they are to be smoothed."""
    if shares is None:
        return rows
    x, q = _seen(ops, rows)
    masses = soft_masses(ops, x, q, rows.class_weights, rows.coefficients, Shares(*shares))
    plain = rows.coefficients._replace(smoothing=0.0, target_mass=1.0)
    return rows._replace(soft=masses.values, class_weights=None, coefficients=plain)


def _shares(ops: Operations, rows: Rows) -> tuple[Shares, Array, Array]:
    """Those of whole rows, and the maxima of the parts and of the rows."""
    xp, parts = ops.xp, _parts(rows)
    if rows.logits.shape[-1]:
        x, q = _seen(ops, rows)
        own, maximum = shares_of(ops, x, q, rows.coefficients), _known(ops, ops.stop_gradient(xp.max(x, axis=1)))
    else:
        nothing = nothing_of(ops, rows)
        assert nothing.sums is not None
        maximum, zero = nothing.maximum, nothing.sums.mass
        own = Shares(zero, zero, zero, zero, zero)
    of_rows, peak = _lines(parts.group.largest(xp.stack([maximum, own.peak])), 2)
    is_peak = own.peak == peak
    zero = xp.zeros_like(peak)
    of_peaks = xp.where(is_peak, own.tops, zero)
    found = [own.count, own.lost, of_peaks, own.rest + xp.where(is_peak, zero, own.tops)]
    return Shares(peak, *_total(ops, parts, found, of_rows)), maximum, of_rows


def _seen(ops: Operations, rows: Rows) -> tuple[Array, Array]:
    """Logits as everything sees them, and soft targets, in the compute dtype."""
    return seen(ops, rows, ops.widened(rows.logits, rows.dtype), None), ops.widened(rows.soft, rows.dtype)


def _known(ops: Operations, maximum: Array) -> Array:
    """What others can compare; NaN shows in the sums."""
    return ops.xp.where(ops.xp.isnan(maximum), -ops.xp.inf, maximum)


def _moved(ops: Operations, piece: RowStatistics, mass: Array, maximum: Array) -> Array:
    """The weighted gap of a part, from the maximum of the rows."""
    xp, moved = ops.xp, maximum * UNIT - piece.maximum * UNIT
    assert piece.sums is not None
    # An empty part has no mass, or a gap that is infinite already; and 0·∞ is no gradient of either.
    keeps = (piece.maximum == -xp.inf) | (moved == 0)
    return piece.sums.weighted_gap + mass * xp.where(keeps, xp.zeros_like(moved), moved)


def _scale(ops: Operations, piece: RowStatistics, maximum: Array) -> Array:
    """What brings the exponentials of a part to the maximum of the rows; those of a part of nothing but −inf to 0."""
    return ops.xp.exp(ops.xp.where(piece.maximum == -ops.xp.inf, -ops.xp.inf, piece.maximum - maximum))


def _parts(rows: Rows) -> Parts:
    assert rows.parts is not None
    return rows.parts


def _held(rows: Rows) -> tuple[Array, Array]:
    """The targets as numbers of the part's own classes, and which of them are."""
    assert rows.targets is not None
    local = rows.targets - rows.first_class
    return local, (local >= 0) & (local < _parts(rows).size)


def _total(ops: Operations, parts: Parts, found: list[Array], like: Array) -> list[Array]:
    """The sums over all parts, which go together."""
    return _lines(parts.group.total(ops.xp.stack([ops.cast(x, like.dtype) for x in found])), len(found))


def _lines(table: Array, count: int) -> list[Array]:
    return [table[i, ...] for i in range(count)]


def nothing_of(ops: Operations, rows: Rows) -> RowStatistics:
    """The statistics of a part that has no classes. They are on the graph of its arrays as those of others are, since
    all take part in what is done with the gradients.
    """
    n, device = math.prod(rows.logits.shape[:-1]), ops.device(rows.logits)

    def sum_of(x: Array) -> Array:
        return ops.cast(ops.xp.reshape(ops.xp.sum(x, axis=-1), (n,)), rows.dtype)

    zero = sum_of(rows.logits)
    mass = zero if rows.soft is None else sum_of(rows.soft)
    sums = SmoothingSums(zero, mass, zero) if rows.soft is not None or rows.coefficients.smoothing else None
    apart = None
    if rows.soft is not None:
        apart = KeptApart(ops.xp.zeros((n,), dtype=ops.widest(device)[1], device=device), zero)
    return RowStatistics(zero - ops.xp.inf, zero, zero - ops.xp.inf, sums, apart)
