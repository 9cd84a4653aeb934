"""What belongs to JAX: the row losses as one function with its own derivative, compiled once per shape.

The derivative is the contract's gradient, not that of the formula of the loss, which would cancel for likely targets.
As a rule of forward differentiation it serves ``grad``, ``jvp``, ``hessian``, ``vmap`` and ``jit`` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from xent.arrays import Array
from xent.engines import array_api
from xent.engines.rows import Rows
from xent.objective import Coefficients

_Others = tuple[Array | None, Array | None, Array | None]


def losses(rows: Rows) -> Array:
    """The losses (N,) of rows."""
    others = (rows.soft, rows.weight, rows.class_weights)
    return _compiled(rows.coefficients, rows.logits, rows.targets, others)


def losses_and_gradient(rows: Rows, scale: Array | float) -> tuple[Array, Array]:
    """The losses (N,) and the gradient (N, V) times `scale`, in the dtype of the logits."""
    others = (rows.soft, rows.weight, rows.class_weights)
    loss, d = _compiled_gradient(rows.coefficients, rows.logits, rows.targets, others, scale)
    return loss, d


def _rows(coefficients: Coefficients, x: Array, t: Array | None, others: _Others) -> Rows:
    return Rows(x, t, *others, coefficients)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _losses(coefficients: Coefficients, x: Array, t: Array | None, others: _Others) -> Array:
    return array_api.whole(jnp, _rows(coefficients, x, t, others))


@partial(_losses.defjvp, symbolic_zeros=True)
def _jvp(coefficients: Coefficients, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Array]:
    x, t, others = primals
    dx, _, d_others = tangents
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    loss, d = array_api.whole_with_gradient(jnp, _rows(coefficients, wide, t, others), 1.0)
    change = jnp.zeros_like(loss)
    if not isinstance(dx, SymbolicZero):
        change = jnp.sum(d * dx.astype(d.dtype), axis=1)
    if any(not isinstance(a, SymbolicZero) for a in d_others if a is not None):
        # The loss is a plain function of target distribution and weights: its formula may be differentiated as it is.
        dense = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype) if isinstance(a, SymbolicZero) else a,
            d_others,
            is_leaf=lambda a: isinstance(a, SymbolicZero),
        )
        _, more = jax.jvp(lambda o: array_api.whole(jnp, _rows(coefficients, wide, t, o)), (others,), (dense,))
        change = change + more
    return loss, change


def _gradient(
    coefficients: Coefficients, x: Array, t: Array | None, others: _Others, scale: Array | float
) -> tuple[Array, Array]:
    return array_api.whole_with_gradient(jnp, _rows(coefficients, x, t, others), jnp.asarray(scale))


_compiled = jax.jit(_losses, static_argnums=0)
_compiled_gradient = jax.jit(_gradient, static_argnums=0)
