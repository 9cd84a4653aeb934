"""The textbook's way, for comparison: softmax, clip, logarithm. Pure array API, beside the engines, not inside them.

    loss = −Σ_j q_j·log max(p_j, CLIP)        p = softmax(x)

A term whose probability is clipped is constant, so it has no gradient.
"""

from __future__ import annotations

from crossent.math.operations import Operations
from crossent.math.rows import Rows
from crossent.math.targets import soft_masses
from crossent.types import Array

# The least probability whose logarithm is taken.
CLIP = 1e-10


def losses_and_gradient(
    ops: Operations, rows: Rows, scale: Array | float, slope: Array | None = None
) -> tuple[Array, Array]:
    """The losses (N,) and the gradient rows (N, V), times `scale` and `slope` (N, V) or 1, of rows whose logits have
    the compute dtype and are transformed.
    """
    xp, x, soft, coefficients = ops.xp, rows.logits, rows.soft, rows.coefficients
    if soft is None:
        soft = xp.where(ops.one_hot_mask(x.shape, rows.targets), xp.ones_like(x), xp.zeros_like(x))
    masses = soft_masses(ops, x, soft, rows.class_weights, coefficients).values
    maximum = ops.stop_gradient(xp.max(x, axis=1))
    e = xp.exp(x - maximum[:, None])
    z = xp.sum(e, axis=1)
    p = e / z[:, None]
    least = xp.full_like(p, CLIP)
    active = xp.where(p >= least, masses, 0.0)
    # NaN compares as false: a row that has no softmax keeps its NaN.
    active = xp.where(xp.isnan(p), p, active)
    loss = -xp.sum(masses * xp.log(xp.maximum(p, least)), axis=1)
    total = xp.sum(active, axis=1)
    lse, z_loss, weight = maximum + xp.log(z), coefficients.z_loss, rows.weight
    scaled = z_loss * lse
    if weight is not None:
        loss, scaled, scale = weight * loss, weight * scaled, weight * scale
    if z_loss:
        loss = loss + scaled * lse
    if weight is not None and not coefficients.ieee:
        loss = xp.where(weight == 0, 0.0, loss)
    if not isinstance(scale, float):
        scale = ops.cast(scale if scale.ndim == 0 else scale[:, None], p.dtype)
    d = (p * total[:, None] - active) * scale
    if z_loss:
        # It may be past the dtype, and yet is no more than 0 where a probability is 0: scaled first, then clipped.
        d = d + p * ops.clip_finite((2.0 * z_loss * scale) * lse[:, None])
    if coefficients.inverse_temperature != 1.0:
        d = d * coefficients.inverse_temperature
    if slope is not None:
        d = d * slope
    if weight is not None and not coefficients.ieee:
        d = ops.clear_rows(d, weight == 0, None)
    return loss, d
