"""THE formula: from the statistics of rows and the coefficients to losses and the numbers of gradient rows.

With the target distribution q, its total off the target M = Σ_{j≠t} q_j, Z = S + exp(x_t − m) and lse = m + log Z

    loss_i = w·( q_t·ℓ + M·log Z + Σ_{j≠t} q_j·(m − x_j) + λ·lse² )        ℓ = (m − x_t) + log Z
    d_ij   = (w·q_t + r)·p_j − w·q_j                   for j ≠ t           r = w·(M + 2λ·lse)
    d_it   = r·p_t − w·q_t·S/Z

and all of the gradient over T, the temperature: x is y here, of `math/transform.py`.

No term is the small difference of two large ones: for a hard target r is 0 and the row of the gradient sums to zero to
rounding. Numba's `engines/numba_cpu/outcome.py` and CUDA's `engines/cuda/outcome.cuh` keep this file's names and
the order of its steps in the languages of their compilers; `tests/test_one_formula.py` holds the three together.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent.math.operations import Operations
from crossent.math.rows import Coefficients
from crossent.math.statistics import UNIT, RowStatistics
from crossent.types import Array


class Outcome(NamedTuple):
    """What statistics and coefficients say of N rows: the losses, and the three numbers that make a gradient row.

    d_ij = factor_i·exp(x_ij − m_i) − uniform_term_i·u_ij for j ≠ t, and d_it = target_entry_i; None where no gradient
    is asked for.
    """

    loss: Array
    factor: Array
    uniform_term: Array | float
    target_entry: Array


def outcome(
    ops: Operations,
    statistics: RowStatistics,
    own: Array | float,
    weight: Array | None,
    scale: Array | float | None,
    coefficients: Coefficients,
) -> Outcome:
    """The losses of rows of token weight `weight`, (N,) or 1, and with `scale` their gradients' numbers, times it.

    own: the class weight of a hard target, (N,) or 1; not looked at for soft ones, whose masses are final.
    """
    xp = ops.xp
    maximum, others, target, sums, apart, *_ = statistics
    ieee = coefficients.ieee
    tau = target - maximum
    # log(others + exp(tau)): nothing is added that has to be taken away again.
    log_z = xp.log1p(others + xp.expm1(tau))
    # Finite logits may be further apart than the dtype reaches, and their part of a loss not: far apart, the loss is
    # counted in units of 1/UNIT until it is weighed.
    most = ops.largest(maximum) * UNIT
    far = (maximum > most) | ((target < -most) & (target > -xp.inf))
    if sums is not None:
        far = far | (xp.abs(sums.weighted_gap) > most * UNIT)
    unit = xp.where(far, UNIT, xp.ones_like(maximum))
    gap, log_z_units = maximum * unit - target * unit, log_z * unit
    shared: Array | float = 0.0
    mass: Array | float = 0.0
    if apart is not None:
        assert sums is not None
        q_t, c = apart.mass, 1.0
        mass, weighted_gap = sums.mass, sums.weighted_gap * (unit / UNIT)
    else:
        q_t, c = coefficients.target_mass * own, 0.0
        if sums is not None:
            part = xp.full_like(target, float(coefficients.includes_target))
            if not ieee:
                part = xp.where(target == -xp.inf, 0.0, part)
            shares = sums.count + part
            single = shares == 0
            c = xp.where(single, 0.0, coefficients.smoothing / xp.where(single, 1.0, shares))
            mass, weighted_gap = c * sums.mass, (c * (unit / UNIT)) * sums.weighted_gap
            shared = c * part * own
            if not ieee:
                q_t, shared = q_t + shared, 0.0
    if not ieee and not isinstance(q_t, float):
        gap = xp.where((target == -xp.inf) & (q_t == 0), 0.0, gap)
    loss = q_t * (gap + log_z_units)
    if sums is not None:
        if not isinstance(shared, float):
            loss = loss + shared * (gap + log_z_units)
            q_t = q_t + shared
        loss = loss + (mass * log_z_units + weighted_gap)
    lse = maximum + log_z
    if coefficients.z_loss:
        loss = loss + (coefficients.z_loss * lse) * (lse * unit)
    if weight is not None:
        loss = weight * loss
        if not ieee:
            loss = xp.where(weight == 0, 0.0, loss)
    loss = loss / unit
    if scale is None:
        return Outcome(loss, None, 0.0, None)
    scale = scale if weight is None else weight * scale
    if coefficients.inverse_temperature != 1.0:
        scale = scale * coefficients.inverse_temperature
    odds = xp.exp(tau)
    z = others + odds
    target_entry = -(scale * q_t) * (others / z)
    if sums is not None:
        target_entry = target_entry + scale * mass * (odds / z)
    factor, uniform_term = scale * ((q_t + mass) / z), scale * c
    # A scale in the widest float widens these few numbers; the rows that they multiply stay as they are.
    dtype = maximum.dtype
    if coefficients.z_loss:
        # It may be past the dtype, and yet is no more than 0 where a probability is 0: scaled first, then clipped.
        rest = ops.clip_finite((2.0 * coefficients.z_loss * scale) * lse)
        target_entry = target_entry + rest * (odds / z)
        factor = ops.clip_finite(ops.cast(factor + rest / z, dtype))
    if not isinstance(uniform_term, float):
        uniform_term = ops.cast(uniform_term, dtype)
    return Outcome(loss, ops.cast(factor, dtype), uniform_term, ops.cast(target_entry, dtype))
