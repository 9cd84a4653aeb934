"""Target distributions as masses: hard targets that are smoothed, and soft ones, smoothed or not. Pure array API."""

from __future__ import annotations

from typing import NamedTuple

from crossent.math.operations import Operations
from crossent.math.rows import Coefficients
from crossent.math.statistics import Masses
from crossent.types import Array


def class_masses(ops: Operations, x: Array, class_weights: Array | None, coefficients: Coefficients) -> Masses:
    """The even masses u_j that a hard target's smoothing is shared out by, for rows or a piece of rows `x` (N, W)."""
    xp = ops.xp
    if class_weights is None:
        values = xp.ones((1, x.shape[1]), dtype=x.dtype, device=ops.device(x))
    else:
        values = class_weights[None, :]
    if not coefficients.ieee:
        values = xp.where(x == -xp.inf, 0.0, values)
    return Masses(values, coefficients.ieee)


class Shares(NamedTuple):
    """What the smoothing of soft targets asks of whole rows, each (N,).

    peak: the largest mass of a class that can occur, a constant to automatic differentiation; count: how many can;
    lost: the mass of those that cannot; tops: that of one class that has the peak (of several places that have it, of
    one in each), and rest: of all others that can.
    """

    peak: Array
    count: Array
    lost: Array
    tops: Array
    rest: Array


def shares_of(ops: Operations, x: Array, q: Array, coefficients: Coefficients) -> Shares:
    """The shares of rows `x` (N, V), or of a piece of each, with soft targets `q`."""
    xp, possible = ops.xp, _possible(ops, x, coefficients)
    kept = q * possible
    places, more, _ = ops.likeliest(kept)
    tops = ops.take_target(kept, places)
    # Where one class has nearly all the mass, the total less that would lose the rest.
    rest = xp.sum(ops.set_target(kept, places, 0.0, None), axis=1)
    lost = xp.sum(q * (1.0 - possible), axis=1)
    return Shares(ops.stop_gradient(tops / (1.0 + more)), xp.sum(possible, axis=1), lost, tops, rest)


def soft_masses(
    ops: Operations,
    x: Array,
    q: Array,
    class_weights: Array | None,
    coefficients: Coefficients,
    shares: Shares | None = None,
) -> Masses:
    """The masses of soft targets `q` (N, V) for the rows `x` (N, V), smoothed and weighed by class.

    A class keeps (1 − ε) of its mass; ε is shared out evenly over all classes, or else what a class loses goes to the
    others, which for one-hot rows gives what a hard target gives. shares: those of the whole rows, of which `x` and `q`
    are a piece; None where they are whole.
    """
    xp, values = ops.xp, q
    if coefficients.smoothing:
        possible = _possible(ops, x, coefficients)
        peak, count, lost, tops, rest = (a[:, None] for a in shares or shares_of(ops, x, q, coefficients))
        an_even_share = coefficients.smoothing * possible / xp.where(count == 0, 1.0, count)
        if coefficients.includes_target:
            shared = an_even_share
        else:
            # A class that can occur shares with the n − 1 others that can (where it is the only one, with none); one
            # that cannot, with all n.
            single, kept = count <= 1, q * possible
            others = xp.where(single, 0.0, coefficients.smoothing / xp.where(single, 1.0, count - 1.0))
            of_others = xp.where(kept == peak, rest + (tops - kept), (rest - kept) + tops)
            shared = possible * others * of_others + an_even_share * lost
        values = coefficients.target_mass * q + shared
    if class_weights is not None:
        values = values * class_weights[None, :]
    return Masses(values, coefficients.ieee)


def _possible(ops: Operations, x: Array, coefficients: Coefficients) -> Array:
    possible = ops.xp.ones_like(x)
    return possible if coefficients.ieee else ops.xp.where(x == -ops.xp.inf, 0.0, possible)
