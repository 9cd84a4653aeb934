"""Row statistics: what the loss and its gradient need to know of a row of logits, in a few numbers. Pure array API.

For a row x with target t let m = max_j x_j. The target is kept out of the sum of exponentials, so that a small loss is
never found as the difference of two large numbers:

    S = Σ_{j≠t} exp(x_j − m)      "others"

The pieces of a row (tiles, chunks, shards) merge associatively. No option of the loss is named here.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent.math import measures
from crossent.math.operations import Operations
from crossent.types import Array

# A power of two, which costs no rounding: billions of the largest differences of logits add up to a finite number.
UNIT = 2.0**-40


class SmoothingSums(NamedTuple):
    """Sums over a row's other classes j ≠ t with masses u_j, each (N,); for targets that are more than one class.

    count: how many of them can occur (with IEEE arithmetic all, else those with a logit above −inf); mass: Σ u_j;
    weighted_gap: Σ u_j·(m − x_j), times `UNIT`, so that it cannot overflow before a small coefficient makes it
    representable again.
    """

    count: Array
    mass: Array
    weighted_gap: Array


class KeptApart(NamedTuple):
    """The class of a soft target that is kept out of the sums, the likeliest: its number and its mass, each (N,)."""

    place: Array
    mass: Array


class Spread(NamedTuple):
    """What a row is like whatever its target, each (N,): see `math/measures.py`.

    rest: Z − 1, the sum of the exponentials but for one at the maximum; moment: E = Σ exp(x_j − m)·(m − x_j); above:
    how many classes are above a threshold.
    """

    rest: Array
    moment: Array
    above: Array


class Described(NamedTuple):
    """What whole rows with hard targets tell, each (N,): the losses, the maxima, and the spreads with the classes above
    the target.
    """

    losses: Array
    maximum: Array
    spread: Spread


class RowStatistics(NamedTuple):
    """The statistics of N rows, or of a piece of each; arrays of shape (N,).

    maximum: m = max_j x_j; others: S = Σ_{j≠t} exp(x_j − m); target: x_t, −inf where the piece does not hold it;
    sums: only where the target distribution has mass on other classes; apart: only for soft targets, whose t is the
    likeliest class of the piece; spread: only where a threshold is given; own and shares: only of parts that have been
    put together (`math/parts.py`), the class weights of hard targets, and what the smoothing of soft ones asks.
    """

    maximum: Array
    others: Array
    target: Array
    sums: SmoothingSums | None
    apart: KeptApart | None
    spread: Spread | None = None
    own: Array | None = None
    shares: tuple[Array, ...] | None = None


LINES = 7
"""How many numbers a row's statistics are in the tables of compiled engines, see `of_table`."""


def of_table(table: Array, place: Array | None, spreads: bool) -> RowStatistics:
    """The statistics out of a table (LINES, N) that a kernel has filled: the lines are those that are named here.

    place: of soft targets, the classes that are kept apart. spreads: whether other classes have mass.
    """
    maximum, others, count, mass, weighted_gap, own, target = (table[i, ...] for i in range(LINES))
    sums = SmoothingSums(count, mass, weighted_gap) if spreads else None
    return RowStatistics(maximum, others, target, sums, None if place is None else KeptApart(place, own))


class Masses(NamedTuple):
    """The masses u that `SmoothingSums` sums, (N, W) or (1, W); ieee: whether 0·∞ is NaN, and all classes count."""

    values: Array
    ieee: bool


def of_rows(
    ops: Operations,
    x: Array,
    t: Array,
    *,
    elsewhere: Array | None = None,
    masses: Masses | None = None,
    first_class: int | None = None,
    more: Array | float = 0.0,
    out: Array | None = None,
) -> tuple[RowStatistics, Array]:
    """The statistics of the rows `x` (N, W) with target positions `t` (N,), and exp(x − m) with 0 at the target.

    elsewhere: for pieces of rows, what takes the place of x_t in rows that do not hold their target (t lies in [0, W)
    all the same), and 0 in those that do; None where all do. first_class: for soft targets, the number of the first
    class. more: how many classes beside one `t` names, whose exponentials then stay. out: memory for the exponentials,
    which may be `x` itself.
    """
    xp = ops.xp
    # Results do not depend on m, so it is a constant to automatic differentiation.
    maximum = ops.stop_gradient(xp.max(x, axis=1))
    # A piece of nothing but −inf has no exponentials, and −inf − (−inf) would make them NaN.
    centre = ops.finite_from_below(maximum)
    held = None
    if first_class is None:
        target = ops.take_target(x, t)
        if elsewhere is not None:
            held = elsewhere == 0
            target = xp.where(held, target, elsewhere)
    sums = None if masses is None else _sums(ops, x, centre, t, held, masses)
    apart = None
    if first_class is not None and masses is not None:
        apart = KeptApart(t + first_class, ops.take_target(xp.broadcast_to(masses.values, x.shape), t))
    e = ops.subtract(x, centre[:, None], out)
    if first_class is not None:
        # It is m, with the derivative of x_t; a sum of several of the likeliest logits is not.
        target = maximum + ops.take_target(e, t)
    e = ops.exp(e, out)
    rest = _without_target(ops, e, t, held, out)
    others = xp.sum(rest, axis=1)
    if isinstance(more, float):
        return RowStatistics(maximum, others, target, sums, apart), rest
    return RowStatistics(maximum, others + more, target, sums, apart), e


def spread_of(ops: Operations, x: Array, y: Array, maximum: Array, threshold: Array) -> Spread:
    """The spread of rows y (N, W) with their maxima, and the logits `x` that are above `threshold` (N,).

    The transform keeps the order of logits, but where it rounds: they are compared as they were.
    """
    xp = ops.xp
    gap = ops.finite_from_below(maximum)[:, None] - y
    e = xp.exp(-gap)
    above = xp.sum(ops.cast(x > threshold[:, None], maximum.dtype), axis=1)
    return Spread(measures.rest_of(ops, gap, e), xp.sum(measures.weighed_gap(ops, e, gap), axis=1), above)


def merge(ops: Operations, pieces: list[RowStatistics]) -> RowStatistics:
    """The statistics of rows from those of their pieces; each piece is rescaled once, so no rounding piles up."""
    if len(pieces) == 1:
        return pieces[0]
    xp = ops.xp
    maximum, target = pieces[0].maximum, pieces[0].target
    for piece in pieces[1:]:
        maximum = xp.maximum(maximum, piece.maximum)
        target = xp.maximum(target, piece.target)
    # A piece of nothing but −inf adds nothing; −inf − (−inf) and 0·∞ must not make it NaN.
    empty = [piece.maximum == -xp.inf for piece in pieces]
    scales = [
        xp.exp(xp.where(nothing, -xp.inf, piece.maximum - maximum))
        for piece, nothing in zip(pieces, empty, strict=True)
    ]
    # The classes that pieces have kept apart join the others again, but for the row's own: the first of the likeliest.
    again = _again(ops, pieces, empty, maximum)
    others = sum(
        (piece.others if back is None else piece.others + xp.where(back, 1.0, xp.zeros_like(maximum))) * scale
        for piece, back, scale in zip(pieces, again, scales, strict=True)
    )
    spread = _merged_spread(ops, pieces, scales, maximum)
    if pieces[0].sums is None:
        return RowStatistics(maximum, others, target, None, None, spread)
    count, mass, gap, zero = 0.0, 0.0, 0.0, xp.zeros_like(maximum)
    for piece, nothing, back in zip(pieces, empty, again, strict=True):
        assert piece.sums is not None
        own = piece.sums.mass
        if back is not None and piece.apart is not None:
            own = own + xp.where(back, piece.apart.mass, zero)
        count = count + piece.sums.count
        mass = mass + own
        moved = maximum * UNIT - piece.maximum * UNIT
        # An empty piece has no mass, or a gap that is infinite already.
        gap = gap + (piece.sums.weighted_gap + xp.where(nothing | (moved == 0), zero, own * moved))
    return RowStatistics(maximum, others, target, SmoothingSums(count, mass, gap), _apart(ops, pieces, again), spread)


def _merged_spread(ops: Operations, pieces: list[RowStatistics], scales: list[Array], maximum: Array) -> Spread | None:
    xp, zero = ops.xp, ops.xp.zeros_like(maximum)
    rest, moment, above, found = zero, zero, zero, xp.isnan(maximum)
    for piece, scale in zip(pieces, scales, strict=True):
        if piece.spread is None:
            return None
        own, total = piece.spread, piece.spread.rest + 1.0
        # One class at the maximum is left out, of the first piece that has it.
        is_first = (piece.maximum == maximum) & ~found
        found = found | is_first
        rest = rest + xp.where(is_first, own.rest, total * scale)
        # A piece whose exponentials are lost beside the others' may be infinitely far below them.
        moved = xp.where(scale == 0, zero, maximum - piece.maximum)
        moment = moment + scale * (own.moment + total * moved)
        above = above + own.above
    return Spread(rest, moment, above)


def _again(
    ops: Operations, pieces: list[RowStatistics], empty: list[Array], maximum: Array
) -> list[Array] | list[None]:
    """Per piece, the rows in which the class that it keeps apart is not the row's own."""
    if pieces[0].apart is None:
        return [None] * len(pieces)
    again, found = [], ops.xp.isnan(maximum)
    for piece, nothing in zip(pieces, empty, strict=True):
        own = (piece.maximum == maximum) & ~found
        found = found | own
        again.append(~own & ~nothing)
    return again


def _apart(ops: Operations, pieces: list[RowStatistics], again: list[Array] | list[None]) -> KeptApart | None:
    found = pieces[0].apart
    for piece, back in zip(pieces[1:], again[1:], strict=True):
        if found is None or piece.apart is None:
            return None
        own = ~(back | (piece.maximum == -ops.xp.inf))
        found = KeptApart(
            ops.xp.where(own, piece.apart.place, found.place), ops.xp.where(own, piece.apart.mass, found.mass)
        )
    return found


def _sums(ops: Operations, x: Array, centre: Array, t: Array, held: Array | None, masses: Masses) -> SmoothingSums:
    xp = ops.xp
    # Scaled before the subtraction: the difference of two finite logits may be past the dtype, its share of a loss not.
    gap = centre[:, None] * UNIT - x * UNIT
    weighed = xp.broadcast_to(masses.values, x.shape)
    counted = xp.ones_like(x)
    if not masses.ieee:
        impossible = x == -xp.inf
        gap = xp.where(impossible & (weighed == 0), 0.0, gap)
        counted = xp.where(impossible, 0.0, counted)
    terms = weighed * gap
    if masses.ieee:
        # An infinite mass at the maximum: it counts in the mass, which multiplies log Z.
        terms = xp.where(gap == 0, 0.0, terms)
    return SmoothingSums(*(xp.sum(_without_target(ops, a, t, held, None), axis=1) for a in (counted, weighed, terms)))


def _without_target(ops: Operations, a: Array, t: Array, held: Array | None, out: Array | None) -> Array:
    return ops.set_target(a, t, 0.0 if held is None else ops.xp.where(held, 0.0, ops.take_target(a, t)), out)
