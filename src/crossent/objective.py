"""Options are coefficients: whatever is asked of the loss, each row needs a few numbers. Pure array API.

With the target distribution q, its total off the target M = Σ_{j≠t} q_j, Z = S + exp(x_t − m) and lse = m + log Z

    loss_i = w·( q_t·ℓ + M·log Z + Σ_{j≠t} q_j·(m − x_j) + λ·lse² )        ℓ = (m − x_t) + log Z
    d_ij   = (w·q_t + r)·p_j − w·q_j                   for j ≠ t           r = w·(M + 2λ·lse)
    d_it   = r·p_t − w·q_t·S/Z

No term is the small difference of two large ones: for a hard target r is 0 and the row of the gradient sums to zero to
rounding. This room turns options into `Coefficients` and statistics into losses; it names no backend.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent.arithmetic import cast, clip_finite, log1p_sum, pick, put, stop_gradient
from crossent.arrays import Array, Namespace
from crossent.statistics import UNIT, Masses, RowStatistics


class Coefficients(NamedTuple):
    """What every row of a call has in common, as numbers.

    keep: the part of a target's mass that stays where it is (1 − ε).
    spread: the mass ε that is shared out evenly.
    share: how many shares of `spread` the target itself takes: 0 or 1.
    square: λ, the weight of lse².
    floor: the least probability whose logarithm is taken; 0 for the exact loss.
    limits: 0·∞ counts as 0, classes with logit −inf take no share and rows of weight 0 are zero whatever they hold;
        without it, everything follows floating-point arithmetic.
    """

    keep: float = 1.0
    spread: float = 0.0
    share: int = 0
    square: float = 0.0
    floor: float = 0.0
    limits: bool = True

    @classmethod
    def of(
        cls, *, label_smoothing: float, smoothing: str, z_loss: float, algorithm: str, limits: bool = True
    ) -> Coefficients:
        """The coefficients of the options of those names (docs/specification.md, V8 to V10)."""
        return cls(
            keep=1.0 - label_smoothing,
            spread=float(label_smoothing),
            share=int(smoothing == "uniform"),
            square=float(z_loss),
            floor=1e-10 if algorithm == "explicit" else 0.0,
            limits=limits,
        )


class Distribution(NamedTuple):
    """The target distribution of rows: q_t, M = Σ_{j≠t} q_j and Σ_{j≠t} q_j·(m − x_j), each (N,); None stands for 0.

    shared: the part of q_t, not in `target`, that multiplies the loss by itself where 0·∞ is to be NaN.
    """

    target: Array | float
    mass: Array | None
    deficit: Array | None
    shared: Array | None = None


class Outcome(NamedTuple):
    """What statistics and coefficients say of N rows: the losses, and the three numbers that make a gradient row.

    d_ij = factor_i·exp(x_ij − m_i) − spread_i·u_ij for j ≠ t, and d_it = target_i; None where no gradient is asked for.
    """

    loss: Array
    factor: Array
    spread: Array | float
    target: Array


def class_masses(xp: Namespace, x: Array, class_weights: Array | None, coefficients: Coefficients) -> Masses:
    """The even masses u_j that a hard target's `spread` is shared out by, for rows or a piece of rows `x` (N, W)."""
    values = xp.ones_like(x[:1, :]) if class_weights is None else class_weights[None, :]
    if coefficients.limits:
        values = xp.where(x == -xp.inf, 0.0, values)
    return Masses(values, coefficients.limits)


def soft_masses(xp: Namespace, x: Array, q: Array, class_weights: Array | None, coefficients: Coefficients) -> Masses:
    """The masses of soft targets `q` (N, V) for the rows `x` (N, V), smoothed and weighed by class.

    A class keeps (1 − ε) of its mass; ε is shared out evenly over all classes, or else what a class loses goes to the
    others, which for one-hot rows gives what a hard target gives.
    """
    values = q
    if coefficients.spread:
        possible = xp.ones_like(x)
        if coefficients.limits:
            possible = xp.where(x == -xp.inf, 0.0, possible)
        count = xp.sum(possible, axis=1)[:, None]
        an_even_share = coefficients.spread * possible / xp.where(count == 0, 1.0, count)
        if coefficients.share:
            shared = an_even_share
        else:
            # A class that can occur shares with the n − 1 others that can (with none, there is nobody to share with);
            # one that cannot, with all n.
            lost = xp.sum(q * (1.0 - possible), axis=1)[:, None]
            single = count <= 1
            others = xp.where(single, 0.0, coefficients.spread / xp.where(single, 1.0, count - 1.0))
            shared = possible * others * _sum_of_others(xp, q * possible) + an_even_share * lost
        values = coefficients.keep * q + shared
    if class_weights is not None:
        values = values * class_weights[None, :]
    return Masses(values, coefficients.limits)


def _sum_of_others(xp: Namespace, q: Array) -> Array:
    """Σ_{i≠j} q_ij for every j. Where one class has nearly all the mass, the total less that would lose the rest."""
    largest = xp.argmax(q, axis=1)
    peak = pick(xp, q, largest)
    rest = xp.sum(put(xp, q, largest, 0.0, None), axis=1)
    return put(xp, (rest[:, None] - q) + peak[:, None], largest, rest, None)


def hard_distribution(
    xp: Namespace, statistics: RowStatistics, target_weight: Array | float, coefficients: Coefficients
) -> tuple[Distribution, Array | float]:
    """The distribution of hard targets of class weight `target_weight`, (N,) or 1, and each other class's share c."""
    spread = statistics.spread
    if spread is None:
        return Distribution(coefficients.keep * target_weight, None, None), 0.0
    own = xp.full_like(statistics.target, float(coefficients.share))
    if coefficients.limits:
        own = xp.where(statistics.target == -xp.inf, 0.0, own)
    shares = spread.count + own
    nobody = shares == 0
    c = xp.where(nobody, 0.0, coefficients.spread / xp.where(nobody, 1.0, shares))
    mass, deficit = c * spread.mass, (c / UNIT) * spread.deficit
    kept, shared = coefficients.keep * target_weight, c * own * target_weight
    if coefficients.limits:
        return Distribution(kept + shared, mass, deficit), c
    return Distribution(kept, mass, deficit, shared), c


def soft_distribution(
    xp: Namespace, statistics: RowStatistics, masses: Masses, pivot: Array
) -> tuple[Distribution, Array | float]:
    """The distribution of soft targets whose statistics keep the class `pivot` (N,) apart, and 1: masses are final."""
    spread = statistics.spread
    assert spread is not None
    return Distribution(pick(xp, masses.values, pivot), spread.mass, spread.deficit / UNIT), 1.0


def outcome(
    xp: Namespace,
    statistics: RowStatistics,
    distribution: Distribution,
    share: Array | float,
    weight: Array | None,
    scale: Array | float | None,
    coefficients: Coefficients,
) -> Outcome:
    """The losses of rows of token weight `weight`, (N,) or 1, and with `scale` their gradients' numbers, times it."""
    maximum, others, target, _ = statistics
    q_t, mass, deficit, shared = distribution
    tau = target - maximum
    log_z = log1p_sum(xp, others, tau)
    gap = maximum - target
    if coefficients.limits and not isinstance(q_t, float):
        gap = xp.where((target == -xp.inf) & (q_t == 0), 0.0, gap)
    loss = q_t * (gap + log_z)
    if shared is not None:
        loss = loss + shared * (gap + log_z)
        q_t = q_t + shared
    rest: Array | float = 0.0
    if mass is not None:
        loss = loss + (mass * log_z + deficit)
        rest = mass
    if coefficients.square:
        scaled_lse = coefficients.square * (maximum + log_z)
        loss = loss + scaled_lse * (maximum + log_z)
        # Past the dtype, and yet no more than 0 where a probability is 0.
        rest = clip_finite(xp, rest + 2.0 * scaled_lse)
    if weight is not None:
        loss = weight * loss
        if coefficients.limits:
            loss = xp.where(weight == 0, 0.0, loss)
    if scale is None:
        return Outcome(loss, None, None, None)
    scale = scale if weight is None else weight * scale
    odds = xp.exp(tau)
    z = others + odds
    target_entry = -(scale * q_t) * (others / z)
    if not isinstance(rest, float):
        target_entry = target_entry + scale * rest * (odds / z)
    factor, spread = scale * (q_t + rest) / z, scale * share
    # A scale in the widest float widens these few numbers; the rows that they multiply stay as they are.
    dtype = maximum.dtype
    spread = spread if isinstance(spread, float) else cast(xp, spread, dtype)
    return Outcome(loss, cast(xp, factor, dtype), spread, cast(xp, target_entry, dtype))


def explicit(
    xp: Namespace,
    x: Array,
    masses: Masses,
    weight: Array | None,
    scale: Array | float,
    coefficients: Coefficients,
) -> tuple[Array, Array]:
    """The textbook's way: softmax, clip at `floor`, logarithm; losses (N,) and gradient rows (N, V).

    A term whose probability is clipped is constant, so it has no gradient.
    """
    maximum = stop_gradient(xp.max(x, axis=1))
    e = xp.exp(x - maximum[:, None])
    z = xp.sum(e, axis=1)
    p = e / z[:, None]
    floor = xp.full_like(p, coefficients.floor)
    active = xp.where(p >= floor, masses.values, 0.0)
    # NaN compares as false: a row that has no softmax keeps its NaN.
    active = xp.where(xp.isnan(p), p, active)
    loss = -xp.sum(masses.values * xp.log(xp.maximum(p, floor)), axis=1)
    total = xp.sum(active, axis=1)
    if coefficients.square:
        lse = maximum + xp.log(z)
        loss = loss + coefficients.square * lse * lse
        total = total + 2.0 * coefficients.square * lse
    if weight is not None:
        loss = weight * loss
        if coefficients.limits:
            loss = xp.where(weight == 0, 0.0, loss)
        scale = weight * scale
    if not isinstance(scale, float):
        scale = cast(xp, scale if scale.ndim == 0 else scale[:, None], p.dtype)
    return loss, (p * total[:, None] - active) * scale
