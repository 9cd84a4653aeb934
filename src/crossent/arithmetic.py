"""The arithmetic that the mathematics needs and the array API standard does not have in one form for every library.

Helpers that take ``out`` compute in place where it is given and return a new array where it is ``None``; so one
expression serves NumPy, CuPy and torch memory as well as immutable, lazy and traced arrays.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from crossent.arrays import (
    LARGEST,
    Array,
    Namespace,
    device,
    dtype_name,
    is_jax,
    is_lazy,
    is_torch,
    is_traced,
    requires_gradient,
    wide_float,
)


def cast(xp: Namespace, x: Array, dtype: Any) -> Array:
    """`x` in `dtype`, without a copy where it has it already."""
    return x if x.dtype == dtype else xp.astype(x, dtype, copy=False)


def only(xp: Namespace, mask: Array, x: Array) -> Array:
    """The integers `x` where `mask` is true, and 0 elsewhere."""
    # Torch multiplies by a mask as it is, and makes an array of every 0.
    return x * mask if is_torch(x) else xp.where(mask, x, xp.zeros_like(x))


def quotient(xp: Namespace, a: Array, b: Array | float, dtype: Any) -> Array:
    """a / b in the wider dtype of `a` and `b`, rounded to `dtype`."""
    if is_torch(a) and not requires_gradient(a, b) and not is_traced(a, b):
        torch = sys.modules["torch"]
        shape = a.shape if isinstance(b, float) else torch.broadcast_shapes(a.shape, b.shape)
        # Divided and rounded in one step.
        return torch.div(a, b, out=torch.empty(shape, dtype=dtype, device=a.device))
    return cast(xp, a / b, dtype)


def wide_quotient(xp: Namespace, a: Array, b: Array | float, wide: Any) -> Array:
    """a / b in the dtype `wide`."""
    if isinstance(b, float):
        if b == 1.0:
            return cast(xp, a, wide)
        if is_torch(a) and a.ndim == 0:
            b = sys.modules["torch"].tensor(b, dtype=wide)
    if is_torch(a) and a.ndim == 0:
        # Of two numbers in tensors the wider dtype wins, wherever they are: no step to widen the first.
        return a / b
    return cast(xp, a, wide) / b


def stop_gradient(x: Array) -> Array:
    """`x` as a constant for automatic differentiation."""
    if is_torch(x):
        return x.detach()
    if is_jax(x):
        return sys.modules["jax"].lax.stop_gradient(x)
    return x


def subtract(xp: Namespace, a: Array, b: Array, out: Array | None) -> Array:
    """a − b, into `out` where it is given."""
    return xp.subtract(a, b) if out is None else xp.subtract(a, b, out=out)


def multiply(xp: Namespace, a: Array, b: Array, out: Array | None) -> Array:
    """a · b, into `out` where it is given."""
    return xp.multiply(a, b) if out is None else xp.multiply(a, b, out=out)


def exp(xp: Namespace, a: Array, out: Array | None) -> Array:
    """exp(a), into `out` where it is given."""
    return xp.exp(a) if out is None else xp.exp(a, out=out)


def hits(xp: Namespace, shape: tuple[int, int], t: Array) -> Array:
    """The boolean matrix [j = t_i] of the given shape, for namespaces that cannot index or assign by integer arrays."""
    return xp.arange(shape[1], dtype=t.dtype, device=device(t))[None, :] == t[:, None]


def _row_numbers(xp: Namespace, t: Array) -> Array:
    if type(t) is np.ndarray:
        return np.arange(t.shape[0])
    return xp.arange(t.shape[0], dtype=t.dtype, device=device(t))


def pick(xp: Namespace, x: Array, t: Array) -> Array:
    """x[i, t_i] of every row i."""
    if is_lazy(x):
        return xp.sum(xp.where(hits(xp, x.shape, t), x, xp.zeros_like(x)), axis=1)
    return x[_row_numbers(xp, t), t]


def put(xp: Namespace, x: Array, t: Array, value: Array | float, out: Array | None) -> Array:
    """`x` with x[i, t_i] replaced by `value` (one number, or one per row); in place where `out` is `x`."""
    if out is None:
        return xp.where(hits(xp, x.shape, t), value if isinstance(value, float) else value[:, None], x)
    out[_row_numbers(xp, t), t] = value
    return out


def flat(xp: Namespace, x: Array) -> Array:
    """The elements in a row. Dask reshapes no array that is empty and has more than one chunk."""
    if x.ndim == 1:
        return x
    return xp.reshape(x, (-1,)) if math.prod(x.shape) else xp.zeros((0,), dtype=x.dtype, device=device(x))


def clear_rows(xp: Namespace, x: Array, rows: Array, out: Array | None) -> Array:
    """`x` (N, V) with 0 in the rows that the boolean `rows` (N,) names; in place where `out` is `x`."""
    if out is None:
        return xp.where(rows[:, None], xp.zeros_like(x), x)
    if type(out) is np.ndarray:
        out[rows] = 0.0
    elif is_torch(out):
        # Assignment by a boolean index would wait for the device to count the rows.
        out.masked_fill_(rows[:, None], 0.0)
    else:
        xp.copyto(out, 0.0, where=rows[:, None])
    return out


# Terms of a sum in parts: runs of this length keep its rounding to a few eps.
_RUN = 8


def _sum_in_runs(xp: Namespace, x: Array) -> Array:
    """Pairwise summation out of reshapes and short sums, along the last axis."""
    while (length := x.shape[-1]) > _RUN:
        whole = length - length % _RUN
        runs = xp.sum(xp.reshape(x[..., :whole], (*x.shape[:-1], whole // _RUN, _RUN)), axis=-1)
        x = runs if whole == length else xp.concat([runs, xp.sum(x[..., whole:], axis=-1)[..., None]], axis=-1)
    return xp.sum(x, axis=-1)


def accurate_sum(xp: Namespace, x: Array, axis: int | None) -> Array:
    """A sum over one axis, or all, accurate for millions of terms: in float64, or in runs where that is not enough."""
    wide = wide_float(xp, x)
    # In which order JAX adds, and so how much a long sum of float64 loses, differs from release to release.
    if wide == xp.float64 and not (is_jax(x) and x.dtype == wide):
        return xp.sum(x, axis=axis, dtype=wide)
    return _sum_in_runs(xp, xp.reshape(x, (-1,)) if axis is None else xp.moveaxis(x, axis, -1))


def count_true(xp: Namespace, mask: Array, wide: Any, axis: int | None) -> Array:
    """How many are true along one axis, or in all, in the dtype `wide`."""
    if is_torch(mask):
        return xp.sum(mask, axis=axis, dtype=wide)
    return accurate_sum(xp, cast(xp, mask, wide), axis)


def at_least_one(xp: Namespace, x: Array) -> Array:
    """`x`, or 1 where it is less; NaN stays."""
    return x.clamp_min(1.0) if is_torch(x) else xp.maximum(x, xp.ones_like(x))


def finite_from_below(xp: Namespace, x: Array) -> Array:
    """`x` with −inf replaced by the least finite number; NaN stays."""
    least = -LARGEST[dtype_name(x.dtype)]
    return np.maximum(x, x.dtype.type(least)) if type(x) is np.ndarray else xp.where(x == -xp.inf, least, x)


def clip_finite(xp: Namespace, x: Array) -> Array:
    """`x` with infinities replaced by the numbers next to them; NaN stays."""
    largest = LARGEST[dtype_name(x.dtype)]
    return xp.where(x == xp.inf, largest, xp.where(x == -xp.inf, -largest, x))


def log1p_sum(xp: Namespace, others: Array, tau: Array) -> Array:
    """log(others + exp(tau)) as log1p(others + expm1(tau)): nothing is added that has to be taken away again."""
    return xp.log1p(others + xp.expm1(tau))
