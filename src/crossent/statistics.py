"""Row statistics: what the loss and its gradient need to know of a row of logits, in a few numbers. Pure array API.

For a row x with target t let m = max_j x_j. The target is kept out of the sum of exponentials, so that a small loss is
never found as the difference of two large numbers:

    S = Σ_{j≠t} exp(x_j − m)      "others"

The pieces of a row (tiles, chunks, shards) merge associatively. No backend and no option of the loss is named here.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent.arithmetic import exp, finite_from_below, pick, put, stop_gradient, subtract
from crossent.arrays import Array, Namespace

# A power of two, which costs no rounding: billions of the largest differences of logits add up to a finite number.
UNIT = 2.0**-40


class Spread(NamedTuple):
    """Sums over a row's other classes j ≠ t with masses u_j, each (N,); for targets that are more than one class.

    count: how many of them can occur (with `limits`, those with a logit above −inf); mass: Σ u_j; deficit:
    Σ u_j·(m − x_j), times `UNIT`, so that it cannot overflow before a small coefficient
    makes it representable again.
    """

    count: Array
    mass: Array
    deficit: Array


class RowStatistics(NamedTuple):
    """The statistics of N rows, or of a piece of each; arrays of shape (N,).

    maximum: m = max_j x_j; others: S = Σ_{j≠t} exp(x_j − m); target: x_t, −inf where the piece does not hold it;
    spread: only where the target distribution has mass on other classes.
    """

    maximum: Array
    others: Array
    target: Array
    spread: Spread | None


class Masses(NamedTuple):
    """The masses u that `Spread` sums, (N, W) or (1, W); limits: 0·∞ counts as 0, what cannot occur is not counted."""

    values: Array
    limits: bool


def of_rows(
    xp: Namespace,
    x: Array,
    t: Array,
    *,
    held: Array | None = None,
    masses: Masses | None = None,
    out: Array | None = None,
) -> tuple[RowStatistics, Array]:
    """The statistics of the rows `x` (N, W) with target positions `t` (N,), and exp(x − m) with 0 at the target.

    held: for pieces of rows, which rows hold their target (t lies in [0, W) all the same); None where all do.
    out: memory for the exponentials, which may be `x` itself.
    """
    # Results do not depend on m, so it is a constant to automatic differentiation.
    maximum = stop_gradient(xp.max(x, axis=1))
    # A piece of nothing but −inf has no exponentials, and −inf − (−inf) would make them NaN.
    centre = finite_from_below(xp, maximum)
    target = pick(xp, x, t)
    if held is not None:
        target = xp.where(held, target, -xp.inf)
    spread = None if masses is None else _spread(xp, x, centre, t, held, masses)
    e = exp(xp, subtract(xp, x, centre[:, None], out), out)
    e = _without_target(xp, e, t, held, out)
    return RowStatistics(maximum, xp.sum(e, axis=1), target, spread), e


def merge(xp: Namespace, pieces: list[RowStatistics]) -> RowStatistics:
    """The statistics of rows from those of their pieces; each piece is rescaled once, so no rounding piles up."""
    if len(pieces) == 1:
        return pieces[0]
    maximum, target = pieces[0].maximum, pieces[0].target
    for piece in pieces[1:]:
        maximum = xp.maximum(maximum, piece.maximum)
        target = xp.maximum(target, piece.target)
    # A piece of nothing but −inf adds nothing; −inf − (−inf) and 0·∞ must not make it NaN.
    empty = [piece.maximum == -xp.inf for piece in pieces]
    others = sum(
        piece.others * xp.exp(xp.where(nothing, -xp.inf, piece.maximum - maximum))
        for piece, nothing in zip(pieces, empty, strict=True)
    )
    if pieces[0].spread is None:
        return RowStatistics(maximum, others, target, None)
    spreads = [(piece.spread, piece.maximum, nothing) for piece, nothing in zip(pieces, empty, strict=True)]
    return RowStatistics(
        maximum,
        others,
        target,
        Spread(
            count=sum(spread.count for spread, _, _ in spreads if spread),
            mass=sum(spread.mass for spread, _, _ in spreads if spread),
            # An empty piece has no mass, or a deficit that is infinite already.
            deficit=sum(
                spread.deficit + xp.where(nothing, 0.0, spread.mass * (maximum * UNIT - own * UNIT))
                for spread, own, nothing in spreads
                if spread
            ),
        ),
    )


def _spread(xp: Namespace, x: Array, centre: Array, t: Array, held: Array | None, masses: Masses) -> Spread:
    # Scaled before the subtraction: the difference of two finite logits may be past the dtype, its share of a loss not.
    deficit = centre[:, None] * UNIT - x * UNIT
    weighed = xp.broadcast_to(masses.values, x.shape)
    counted = xp.ones_like(x)
    if masses.limits:
        impossible = x == -xp.inf
        deficit = xp.where(impossible & (weighed == 0), 0.0, deficit)
        counted = xp.where(impossible, 0.0, counted)
    terms = weighed * deficit
    if not masses.limits:
        # An infinite mass at the maximum: it counts in the mass, which multiplies log Z.
        terms = xp.where(deficit == 0, 0.0, terms)
    return Spread(*(xp.sum(_without_target(xp, a, t, held, None), axis=1) for a in (counted, weighed, terms)))


def _without_target(xp: Namespace, a: Array, t: Array, held: Array | None, out: Array | None) -> Array:
    return put(xp, a, t, 0.0 if held is None else xp.where(held, 0.0, pick(xp, a, t)), out)
