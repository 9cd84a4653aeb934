"""Target distributions as masses: hard targets that are smoothed, and soft ones, smoothed or not. Pure array API."""

from __future__ import annotations

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


def soft_masses(ops: Operations, x: Array, q: Array, class_weights: Array | None, coefficients: Coefficients) -> Masses:
    """The masses of soft targets `q` (N, V) for the rows `x` (N, V), smoothed and weighed by class.

    A class keeps (1 − ε) of its mass; ε is shared out evenly over all classes, or else what a class loses goes to the
    others, which for one-hot rows gives what a hard target gives.
    """
    xp, values = ops.xp, q
    if coefficients.smoothing:
        possible = xp.ones_like(x)
        if not coefficients.ieee:
            possible = xp.where(x == -xp.inf, 0.0, possible)
        count = xp.sum(possible, axis=1)[:, None]
        an_even_share = coefficients.smoothing * possible / xp.where(count == 0, 1.0, count)
        if coefficients.includes_target:
            shared = an_even_share
        else:
            # A class that can occur shares with the n − 1 others that can (where it is the only one, with none); one
            # that cannot, with all n.
            lost = xp.sum(q * (1.0 - possible), axis=1)[:, None]
            single = count <= 1
            others = xp.where(single, 0.0, coefficients.smoothing / xp.where(single, 1.0, count - 1.0))
            shared = possible * others * _sum_of_others(ops, q * possible) + an_even_share * lost
        values = coefficients.target_mass * q + shared
    if class_weights is not None:
        values = values * class_weights[None, :]
    return Masses(values, coefficients.ieee)


def _sum_of_others(ops: Operations, q: Array) -> Array:
    """Σ_{i≠j} q_ij for every j. Where one class has nearly all the mass, the total less that would lose the rest."""
    places, more, single = ops.likeliest(q)
    peak = ops.take_target(q, places)
    rest = ops.xp.sum(ops.set_target(q, places, 0.0, None), axis=1)
    if not isinstance(more, float):
        peak = peak / (1.0 + more)
        rest = rest + ops.xp.where(more == 0, 0.0, more * peak)
    return ops.set_target((rest[:, None] - q) + peak[:, None], single, rest, None)
