"""What every engine is given, and what it does with one block of rows. Pure array API.

`Rows` is the whole vocabulary of an engine: a matrix of logits, a target or a target distribution and a weight for each
row, and the `Coefficients` that all rows share.
"""

from __future__ import annotations

from typing import NamedTuple

from crossent import objective, statistics
from crossent.arithmetic import clear_rows, exp, hits, multiply, pick, put, subtract
from crossent.arrays import Array, Namespace
from crossent.objective import Coefficients


class Rows(NamedTuple):
    """N rows: logits (N, V); targets (N,) integers, or soft (N, V); weight (N,) or None; class_weights (V,) or None.

    All floating arrays but the logits and the soft targets have the compute dtype.
    """

    logits: Array
    targets: Array | None
    soft: Array | None
    weight: Array | None
    class_weights: Array | None
    coefficients: Coefficients

    def part(self, start: int, stop: int, logits: Array, soft: Array | None) -> Rows:
        """The rows from `start` to `stop`, with their logits and soft targets as the caller has prepared them."""
        return Rows(
            logits,
            None if self.targets is None else self.targets[start:stop],
            soft,
            None if self.weight is None else self.weight[start:stop],
            self.class_weights,
            self.coefficients,
        )


def of_rows(scale: Array | float | None, start: int, stop: int) -> Array | float:
    """The part of a scale (None for 1, one number, or one per row) that belongs to the rows from `start` to `stop`."""
    if scale is None:
        return 1.0
    return scale if isinstance(scale, float) or scale.ndim == 0 else scale[start:stop]


def column(scale: Array | float) -> Array | float:
    """Numbers per row as a column that multiplies rows; one number for all rows as it is."""
    return scale if isinstance(scale, float) or scale.ndim == 0 else scale[:, None]


def losses(xp: Namespace, rows: Rows, out: Array | None = None) -> Array:
    """The losses (N,) of rows whose logits have the compute dtype. out: scratch memory (N, V), or None."""
    if rows.coefficients.floor:
        return _explicit(xp, rows, 1.0)[0]
    return _outcome(xp, rows, None, out)[0].loss


def losses_and_gradient(
    xp: Namespace, rows: Rows, scale: Array | float, out: Array | None = None
) -> tuple[Array, Array]:
    """The losses (N,) and the gradient rows (N, V), times `scale` (one number or one per row); in `out` where given."""
    if rows.coefficients.floor:
        loss, d = _explicit(xp, rows, scale)
        if out is not None:
            out[...] = d
            d = out
        return loss, _cleared(xp, rows, d, out)
    result, e, t, masses = _outcome(xp, rows, scale, out)
    d = multiply(xp, e, result.factor[:, None], out)
    if masses is not None:
        d = subtract(xp, d, column(result.spread) * masses.values, out)
    d = put(xp, d, t, result.target, out)
    return result.loss, _cleared(xp, rows, d, out)


def _outcome(
    xp: Namespace, rows: Rows, scale: Array | float | None, out: Array | None
) -> tuple[objective.Outcome, Array, Array, statistics.Masses | None]:
    x, u, coefficients = rows.logits, rows.class_weights, rows.coefficients
    if rows.soft is None:
        t = rows.targets
        masses = objective.class_masses(xp, x, u, coefficients) if coefficients.spread else None
        found, e = statistics.of_rows(xp, x, t, masses=masses, out=out)
        return outcome(xp, found, rows, scale), e, t, masses
    # Any class may be kept apart from the sum of exponentials; the likeliest one leaves the smallest sum.
    t = xp.argmax(x, axis=1)
    masses = objective.soft_masses(xp, x, rows.soft, u, coefficients)
    found, e = statistics.of_rows(xp, x, t, masses=masses, out=out)
    distribution, share = objective.soft_distribution(xp, found, masses, t)
    return objective.outcome(xp, found, distribution, share, rows.weight, scale, coefficients), e, t, masses


def _explicit(xp: Namespace, rows: Rows, scale: Array | float) -> tuple[Array, Array]:
    x = rows.logits
    soft = rows.soft
    if soft is None:
        soft = xp.where(hits(xp, x.shape, rows.targets), xp.ones_like(x), xp.zeros_like(x))
    masses = objective.soft_masses(xp, x, soft, rows.class_weights, rows.coefficients)
    return objective.explicit(xp, x, masses, rows.weight, scale, rows.coefficients)


def _cleared(xp: Namespace, rows: Rows, d: Array, out: Array | None) -> Array:
    """Gradient rows of weight 0 set to zero, whatever their logits hold."""
    if rows.weight is None or not rows.coefficients.limits:
        return d
    return clear_rows(xp, d, rows.weight == 0, out)


def _piece(xp: Namespace, x: Array, start: int, rows: Rows) -> tuple[Array, Array, statistics.Masses | None]:
    """Where targets lie in the columns from `start` that `x` holds, which rows hold theirs there, and the masses."""
    width = x.shape[1]
    assert rows.targets is not None
    local = rows.targets - start
    held = (local >= 0) & (local < width)
    u = None if rows.class_weights is None else rows.class_weights[start : start + width]
    masses = objective.class_masses(xp, x, u, rows.coefficients) if rows.coefficients.spread else None
    return xp.where(held, local, 0), held, masses


def statistics_of_piece(xp: Namespace, x: Array, start: int, rows: Rows, out: Array) -> statistics.RowStatistics:
    """The statistics of the columns from `start`, which `x` holds, of rows with hard targets. out: scratch memory."""
    t, held, masses = _piece(xp, x, start, rows)
    return statistics.of_rows(xp, x, t, held=held, masses=masses, out=out)[0]


def outcome(
    xp: Namespace, found: statistics.RowStatistics, rows: Rows, scale: Array | float | None
) -> objective.Outcome:
    """The losses and the gradient's numbers of rows with hard targets, from their merged statistics."""
    own = 1.0 if rows.class_weights is None else xp.take(rows.class_weights, rows.targets, axis=0)
    distribution, share = objective.hard_distribution(xp, found, own, rows.coefficients)
    return objective.outcome(xp, found, distribution, share, rows.weight, scale, rows.coefficients)


def gradient_of_piece(
    xp: Namespace, x: Array, start: int, maximum: Array, result: objective.Outcome, rows: Rows, out: Array
) -> Array:
    """The gradient of the columns from `start`, which `x` holds, into `out`, from the outcome of the whole rows."""
    t, held, masses = _piece(xp, x, start, rows)
    e = exp(xp, subtract(xp, x, maximum[:, None], out), out)
    d = multiply(xp, e, result.factor[:, None], out)
    if masses is not None:
        d = subtract(xp, d, column(result.spread) * masses.values, out)
    d = put(xp, d, t, xp.where(held, result.target, pick(xp, d, t)), out)
    return _cleared(xp, rows, d, out)
