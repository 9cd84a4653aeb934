"""JAX: the row losses as one function with its own derivative, compiled once per shape.

The derivative is the contract's gradient, not that of the formula of the loss, which would cancel for likely targets.
As a rule of forward differentiation it serves ``grad``, ``jvp``, ``hessian``, ``vmap`` and ``jit`` alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from crossent import views
from crossent.libraries.base import NO_CONTEXT, Inputs, Library
from crossent.linear import Gradients
from crossent.math import formula
from crossent.math.rows import Coefficients, Rows
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.problem import Ending

_Others = tuple[Array | None, Array | None, Array | None]
_PerRow = tuple[Array | None, ...]
_Result = TypeVar("_Result")

# Bytes of a block of float32 logits.
BLOCK = 1024 * 1024


class Jax(Library):
    """JAX's arrays, traced or not."""

    immutable = True
    # A jitted function's closure is as readable as ever, but nothing that JAX computes from it there is.
    checks_copies = True
    # The shapes of what is compiled would depend on it.
    leaves_out = False

    def readable(self, x: Array) -> bool:
        """Of a transformation's, which stand for values that are supplied later, none."""
        return not isinstance(x, jax.core.Tracer)

    def is_followed(self, x: Array) -> bool:
        """A transformation's, which must not outlive it."""
        return not self.readable(x)

    def device_name(self, x: Array) -> str | None:
        """All that an array is spread over."""
        return ", ".join(sorted(map(str, x.devices()))) if self.readable(x) else None

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """JAX does not warn."""
        return NO_CONTEXT

    def widest(self, device: Any) -> tuple[Any, Any]:
        """Where 64-bit types are switched off, those of 32."""
        enabled: bool = jax.config.jax_enable_x64  # type: ignore[attr-defined]
        return (jnp.float64, jnp.int64) if enabled else (jnp.float32, jnp.int32)

    def stop_gradient(self, x: Array) -> Array:
        """JAX's own."""
        return lax.stop_gradient(x)

    def sum_in(self, wide: Any, x: Array, axis: int | None) -> Array:
        """The order in which JAX adds, and so what a long sum loses in its own dtype, is another in each release."""
        return self.sum_in_runs(x, axis) if x.dtype == wide else super().sum_in(wide, x, axis)

    def losses(self, rows: Rows) -> Array:
        """By the rule below."""
        rows = views.flat(self, rows)
        others = (rows.soft, rows.weight, rows.class_weights)
        return _compiled(rows.coefficients, rows.logits, rows.targets, others)

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """The losses (N,) and the gradient, times `scale`, in the dtype of the logits."""
        matrix = views.flat(self, rows)
        others = (matrix.soft, matrix.weight, matrix.class_weights)
        loss, d = _compiled_gradient(matrix.coefficients, matrix.logits, matrix.targets, others, scale)
        return loss, jnp.reshape(d, rows.logits.shape)

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """Of float32, with all its digits on every device."""
        return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

    def linear_loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """As one function with its own derivative, compiled once per shape."""
        from crossent.libraries import jax_linear

        return ending.of_nothing() if 0 in ending.token_shape else jax_linear.loss(rows, ending)

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, Gradients]:
        """Compiled once per shape."""
        from crossent.libraries import jax_linear

        return jax_linear.losses_and_gradients(rows, scale, needs)


LIBRARY = Jax(jnp, "jax")


def _rows(coefficients: Coefficients, per_row: _PerRow, class_weights: Array | None) -> Rows:
    x: Any
    x, t, soft, weight = per_row
    return Rows(x, t, soft, weight, class_weights, coefficients, 0, x.shape[1], LIBRARY.compute_dtype(x))


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
        return formula.whole(LIBRARY, _rows(coefficients, rows, class_weights))

    return _in_blocks(losses_of, (x, t, soft, weight))


def _with_gradient(
    coefficients: Coefficients, x: Array, t: Array | None, others: _Others, scale: Array
) -> tuple[Array, Array]:
    soft, weight, class_weights = others

    def pair_of(rows: _PerRow) -> tuple[Array, Array]:
        *per_row, scale = rows
        return formula.whole_with_gradient(LIBRARY, _rows(coefficients, tuple(per_row), class_weights), scale)

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
