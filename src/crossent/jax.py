"""What belongs to JAX: the row losses as one function with its own derivative, compiled once per shape.

The derivative is the contract's gradient, not that of the formula of the loss, which would cancel for likely targets.
As a rule of forward differentiation it serves ``grad``, ``jvp``, ``hessian``, ``vmap`` and ``jit`` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from crossent.arrays import Array
from crossent.engines import array_api
from crossent.engines.rows import Rows
from crossent.objective import Coefficients

_Others = tuple[Array | None, Array | None, Array | None]
_PerRow = tuple[Array | None, ...]
_Result = TypeVar("_Result")

# Bytes of a block of float32 logits.
BLOCK = 1024 * 1024


def losses(rows: Rows) -> Array:
    """The losses (N,) of rows."""
    others = (rows.soft, rows.weight, rows.class_weights)
    return _compiled(rows.coefficients, rows.logits, rows.targets, others)


def losses_and_gradient(rows: Rows, scale: Array | float) -> tuple[Array, Array]:
    """The losses (N,) and the gradient (N, V) times `scale`, in the dtype of the logits."""
    others = (rows.soft, rows.weight, rows.class_weights)
    loss, d = _compiled_gradient(rows.coefficients, rows.logits, rows.targets, others, scale)
    return loss, d


def _in_blocks(function: Callable[[_PerRow], _Result], per_row: _PerRow) -> _Result:
    """`function` of arrays whose first axis is the rows, a block of rows at a time where they are many.

    XLA keeps no temporary in the cache by itself, and makes some of the size of the logits. The last block overlaps the
    one before it, so that all have one shape and a row's result does not depend on where it lies.
    """
    x: Array = per_row[0]
    n, v = x.shape
    height = max(1, BLOCK // (4 * max(v, 1)))
    if n <= 2 * height or jax.default_backend() != "cpu":
        return function(per_row)

    def block(i: Array, results: _Result) -> _Result:
        start = jnp.minimum(i * height, n - height)
        part = function(jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, height), per_row))
        merged: _Result = jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, start, 0), results, part)
        return merged

    empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(function, per_row))
    results: _Result = lax.fori_loop(0, -(-n // height), block, empty)
    return results


def _formula(coefficients: Coefficients, x: Array, t: Array | None, others: _Others) -> Array:
    soft, weight, class_weights = others

    def losses_of(rows: _PerRow) -> Array:
        x, t, soft, weight = rows
        return array_api.whole(jnp, Rows(x, t, soft, weight, class_weights, coefficients))

    return _in_blocks(losses_of, (x, t, soft, weight))


def _with_gradient(
    coefficients: Coefficients, x: Array, t: Array | None, others: _Others, scale: Array
) -> tuple[Array, Array]:
    soft, weight, class_weights = others

    def pair_of(rows: _PerRow) -> tuple[Array, Array]:
        x, t, soft, weight, scale = rows
        return array_api.whole_with_gradient(jnp, Rows(x, t, soft, weight, class_weights, coefficients), scale)

    return _in_blocks(pair_of, (x, t, soft, weight, jnp.broadcast_to(scale, x.shape[:1])))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _losses(coefficients: Coefficients, x: Array, t: Array | None, others: _Others) -> Array:
    return _formula(coefficients, x, t, others)


@partial(_losses.defjvp, symbolic_zeros=True)
def _jvp(coefficients: Coefficients, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Array]:
    x, t, others = primals
    dx, _, d_others = tangents
    wide = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    loss, d = _with_gradient(coefficients, wide, t, others, jnp.ones((), wide.dtype))
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
        _, more = jax.jvp(partial(_formula, coefficients, wide, t), (others,), (dense,))
        change = change + more
    return loss, change


_compiled = jax.jit(_losses, static_argnums=0)
_compiled_gradient = jax.jit(_with_gradient, static_argnums=0)
