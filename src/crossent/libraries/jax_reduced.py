"""JAX: a mean or a sum with its gradient as one function, where machine code walks the rows.

The walk divides the gradient by what the reduction divides by, while it has it at hand; else that were a pass over
memory of the size of the logits. What follows a loss mostly multiplies with 1, which XLA leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from crossent.libraries.jax import LIBRARY, How, dense, is_in_program, losses, wide, with_gradient
from crossent.math.rows import Rows
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.problem import Ending


class _Static(NamedTuple):
    how: How
    reduction: str
    denominator: float | None
    token_shape: tuple[int, ...]


class _Others(NamedTuple):
    """The arrays of a call besides logits and targets; None where there is none."""

    soft: Array | None
    weight: Array | None
    class_weights: Array | None
    denominator: Array | None


def serves(rows: Rows, ending: Ending) -> bool:
    """Whether a call is one that is served here."""
    is_walked = rows.parts is None and rows.engine != "array_api"
    return is_walked and ending.reduction in ("mean", "sum") and ending.counted is None and not ending.ieee


def loss(rows: Rows, ending: Ending) -> Array:
    """The loss of a call."""
    number = ending.denominator if isinstance(ending.denominator, float) else None
    static = _Static(How(rows.coefficients, rows.engine), ending.reduction, number, ending.token_shape)
    denominator = ending.denominator if number is None else None
    others = _Others(rows.soft, rows.weight, rows.class_weights, denominator)
    function = _mean_or_sum if is_in_program(rows.logits) else _compiled
    return ending.library.leave(function(static, rows.logits, rows.targets, others))


def _ending(static: _Static, x: Array, others: _Others) -> Ending:
    from crossent.problem import Ending

    divisor = others.denominator if static.denominator is None else static.denominator
    dtype, wide = LIBRARY.compute_dtype(x), LIBRARY.widest(None)[0]
    return Ending(LIBRARY, None, dtype, wide, static.reduction, divisor, static.token_shape, None, False)


def _finished(static: _Static, x: Array, t: Array | None, others: _Others) -> Array:
    return _ending(static, x, others).finish(losses(static.how, x, t, others[:3]))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _mean_or_sum(static: _Static, x: Array, t: Array | None, others: _Others) -> Array:
    return _finished(static, x, t, others)


@partial(_mean_or_sum.defjvp, symbolic_zeros=True)
def _jvp(static: _Static, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Array]:
    x, t, others = primals
    dx, _, d_others = tangents
    ending, change = _ending(static, x, others), jnp.zeros((), LIBRARY.compute_dtype(x))
    if isinstance(dx, SymbolicZero):
        value = _finished(static, x, t, others)
    else:
        found, d = with_gradient(static.how, wide(static.how, x), t, others[:3], ending.scale(1.0))
        value, change = ending.finish(found), jnp.sum(d.astype(found.dtype) * dx.astype(found.dtype))
    if any(not isinstance(a, SymbolicZero) for a in d_others if a is not None):
        # The loss is a plain function of target distribution and weights: its formula may be differentiated as it is.
        composed = static._replace(how=static.how.composed)
        change = change + jax.jvp(partial(_finished, composed, x, t), (others,), (dense(d_others),))[1]
    return value, change


_compiled = jax.jit(_mean_or_sum, static_argnums=0)
