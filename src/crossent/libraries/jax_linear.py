"""JAX: the loss of hidden states, in blocks of tokens inside one compiled function.

A mean or a sum has a rule of forward differentiation that makes the gradients of hidden, weight and bias together with
the loss, in one walk; the transpose of the rule only scales them. Tokens that do not count are sorted to the end, where
the loop does not go. What is differentiated again, and losses that are not reduced, go through a scan that JAX
differentiates, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import AxisType

from crossent import linear
from crossent.libraries.jax import LIBRARY, is_in_one_place, mesh_of
from crossent.linear import Gradients
from crossent.math import formula
from crossent.math.rows import Coefficients, Head, Rows
from crossent.math.statistics import Described
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.problem import Ending

_NO_NEEDS = (False, False, False)


class _Static(NamedTuple):
    """What a compiled function does not take as an array."""

    coefficients: Coefficients
    memory: int
    reduction: str = "none"
    token_shape: tuple[int, ...] = ()
    denominator: float | None = None
    needs: tuple[bool, ...] = _NO_NEEDS


class _Others(NamedTuple):
    """What else may be differentiated."""

    soft: Array | None
    weight: Array | None
    class_weights: Array | None
    denominator: Array | None


_Head = tuple[Array, Array, Array | None]


def loss(rows: Rows, ending: Ending) -> Array:
    """The loss of a call."""
    head, t, others = _arrays(rows)
    if ending.reduction not in ("mean", "sum"):
        losses = _losses(_Static(rows.coefficients, rows.logits.memory), head, t, others)
        return ending.finish(jnp.reshape(losses, ending.token_shape))
    number = ending.denominator if isinstance(ending.denominator, float) else None
    static = _Static(rows.coefficients, rows.logits.memory, ending.reduction, ending.token_shape, number)
    others = others._replace(denominator=None if number is not None else ending.denominator)
    return ending.library.leave(_reduced(static, head, t, others))


def losses_and_gradients(rows: Rows, scale: Array | float, needs: tuple[bool, ...]) -> tuple[Array, Gradients]:
    """The token losses, and the gradients that are needed, times `scale`."""
    head, t, others = _arrays(rows)
    static = _Static(rows.coefficients, rows.logits.memory, needs=needs)
    losses, found = _walk(static, head, t, others, _per_token(scale, head, rows.dtype))
    return jnp.reshape(losses, rows.logits.hidden.shape[:-1]), found


def described(rows: Rows) -> Described:
    """What rows tell, of the shape of the tokens, without derivatives."""
    head, t, others = lax.stop_gradient(_arrays(rows))
    found = _described(_Static(rows.coefficients, rows.logits.memory), head, t, others)
    shape = rows.logits.hidden.shape[:-1]
    return jax.tree.map(lambda a: jnp.reshape(a, shape), found)  # type: ignore[no-any-return]


@partial(jax.jit, static_argnums=0)
def _described(static: _Static, head: _Head, t: Array, others: _Others) -> Described:
    """A block of tokens at a time."""
    blocks = _blocks(static, head, t, others, None)

    def of_block(i: Array) -> Described:
        return formula.describe(LIBRARY, linear.filled(LIBRARY, blocks.block(i)[0]))

    return jax.tree.map(blocks.joined, lax.map(of_block, blocks.numbers()))  # type: ignore[no-any-return]


def _arrays(rows: Rows) -> tuple[_Head, Array | None, _Others]:
    """With one axis of tokens; where these may lie on several devices with more, so that blocks are not gathered."""
    tokens, devices = rows.logits.hidden.shape[:-1], jax.device_count()
    if is_in_one_place(rows.logits.hidden) or not tokens:
        rows = linear.flat(LIBRARY, rows)
    elif len(tokens) == 1 and tokens[0] % devices == 0:
        rows = _shaped(rows, (devices, tokens[0] // devices))
    head: Head = rows.logits
    others = _Others(rows.soft, rows.weight, rows.class_weights, None)
    return (head.hidden, head.weight, head.bias), rows.targets, others


def _shaped(rows: Rows, tokens: tuple[int, ...]) -> Rows:
    def shaped(x: Any) -> Any:
        return None if x is None else jnp.reshape(x, (*tokens, *x.shape[1:]))

    head = rows.logits._replace(hidden=shaped(rows.logits.hidden))
    targets, soft, weight = map(shaped, (rows.targets, rows.soft, rows.weight))
    return rows._replace(logits=head, targets=targets, soft=soft, weight=weight)


def _per_token(scale: Array | float, head: _Head, dtype: Any) -> Array:
    shape = head[0].shape[:-1]
    scale = jnp.asarray(scale, dtype)
    return jnp.broadcast_to(scale, shape) if scale.ndim in (0, len(shape)) else jnp.reshape(scale, shape)


class _Blocks(NamedTuple):
    """A call's arrays, to be taken `height` at a time of the last axis of tokens."""

    static: _Static
    head: _Head
    t: Array | None
    others: _Others
    scale: Array | None
    height: int

    def rows(self, places: Array, counted: Array) -> tuple[Rows, Array | None]:
        """The rows of a block, and their scale; those that are not counted weigh nothing."""
        hidden, weight, bias = self.head
        dtype, axis = LIBRARY.compute_dtype(hidden), hidden.ndim - 2

        def taken(x: Any) -> Any:
            return None if x is None else jnp.take(x, places, axis=axis)

        h, w = taken(hidden), taken(self.others.weight)
        w = jnp.broadcast_to(jnp.where(counted, 1.0 if w is None else w, 0.0).astype(dtype), h.shape[:-1])
        head = Head(h, weight, bias, None, self.static.memory)
        coefficients, v = self.static.coefficients, weight.shape[0]
        soft, u = taken(self.others.soft), self.others.class_weights
        rows = linear.flat(LIBRARY, Rows(head, taken(self.t), soft, w, u, coefficients, 0, v, dtype))
        scale = taken(self.scale)
        return rows, None if scale is None else LIBRARY.flat(scale)

    def numbers(self) -> Array:
        """Those of the blocks of all tokens, in their order."""
        return jnp.arange(-(-self.head[0].shape[-2] // self.height))

    def block(self, i: Array) -> tuple[Rows, Array | None]:
        """The rows of the block of that number, and their scale."""
        n, which = self.head[0].shape[-2], i * self.height + jnp.arange(self.height)
        return self.rows(jnp.minimum(which, n - 1), which < n)

    def joined(self, x: Array) -> Array:
        """What the blocks make of their rows (B, rows, ...), with the axes of the tokens."""
        (*most, n, _), others = self.head[0].shape, x.shape[2:]
        k, blocks = len(most), x.shape[0]
        x = jnp.moveaxis(jnp.reshape(x, (blocks, *most, self.height, *others)), 0, k)
        return lax.slice_in_dim(jnp.reshape(x, (*most, blocks * self.height, *others)), 0, n, axis=k)


def _blocks(static: _Static, head: _Head, t: Array | None, others: _Others, scale: Array | None) -> _Blocks:
    *most, n, width = head[0].shape
    v = head[1].shape[0]
    size = jnp.dtype(LIBRARY.compute_dtype(head[0])).itemsize
    # Where the tokens of one place are many, they are on many devices.
    devices = min(jax.device_count(), math.prod(most))
    height = max(1, static.memory * devices // (size * (v + 2 * width) * math.prod(most)))
    return _Blocks(static, head, t, others, scale, -(-n // -(-n // height)))


def _looped(
    static: _Static, head: _Head, t: Array | None, others: _Others, scale: Array | None
) -> tuple[Array, Gradients]:
    """The losses, and with `scale` the gradients, of the tokens that count: the loop ends with the last of them."""
    blocks = _blocks(static, head, t, others, scale)
    shape, needs, dtype = head[0].shape[:-1], static.needs, LIBRARY.compute_dtype(head[0])
    n = shape[-1]
    numbers = jnp.arange(n)
    count: Array | int = n
    if others.weight is not None and len(shape) == 1 and is_in_one_place(head[0]):
        is_out = others.weight == 0
        numbers, count = jnp.argsort(is_out, stable=True), n - jnp.sum(is_out)
    shapes = head[0].shape, head[1].shape, head[1].shape[:1]
    made = [jnp.zeros(shape, dtype) if need else None for shape, need in zip(shapes, needs, strict=True)]

    def block(i: Array, state: tuple[Array, list[Array | None]]) -> tuple[Array, list[Array | None]]:
        losses, (d_hidden, d_weight, d_bias) = state
        which = i * blocks.height + jnp.arange(blocks.height)
        places = jnp.take(numbers, jnp.minimum(which, n - 1))
        rows, factor = blocks.rows(places, which < count)
        found, d = linear.whole(LIBRARY, rows, factor, needs)
        there = jnp.where(which < count, places, n)

        def put(x: Array, part: Array) -> Array:
            part = jnp.reshape(part, (*shape[:-1], blocks.height, *x.shape[len(shape) :]))
            return x.at[(*(slice(None),) * (len(shape) - 1), there)].set(part, mode="drop")

        return put(losses, found), [
            None if d_hidden is None else put(d_hidden, d.hidden),
            None if d_weight is None else d_weight + d.weight,
            None if d_bias is None else d_bias + d.bias,
        ]

    start = _varying(head, partial(block, 0), (jnp.zeros(shape, dtype), made))
    losses, made = lax.fori_loop(0, -(-count // blocks.height), block, start)
    return losses, Gradients(*made)


def _varying(head: _Head, step: Callable[[Any], Any], start: Any) -> Any:
    """Zeros to begin a loop with, of the type of what a step makes: inside shard_map that says how they vary."""
    if AxisType.Manual not in mesh_of(head[0]).axis_types:
        return start
    return jax.tree.map(lambda a, zero: jnp.where(False, a, zero), step(start), start)


def _scanned(
    static: _Static, head: _Head, t: Array | None, others: _Others, scale: Array | None
) -> tuple[Array, Gradients]:
    """The same of all tokens, as JAX can differentiate it: a block's logits are made anew for each derivative."""
    dtype = LIBRARY.compute_dtype(head[0])
    # What a scan sums up has the dtype of what it is the derivative of.
    head = head[0], head[1].astype(dtype), None if head[2] is None else head[2].astype(dtype)
    needs, v = static.needs, head[1].shape[0]
    blocks = _blocks(static, head, t, others, scale)

    @jax.checkpoint
    def of_block(i: Array, head: _Head, others: _Others, scale: Array | None) -> tuple[Array, Gradients]:
        rows, factor = blocks._replace(head=head, others=others, scale=scale).block(i)
        return linear.whole(LIBRARY, rows, factor, needs)

    def step(total: list[Array | None], i: Array) -> tuple[list[Array | None], tuple[Array, Array | None]]:
        losses, d = of_block(i, head, others, scale)
        added = [None if a is None else a + b for a, b in zip(total, (d.weight, d.bias), strict=True)]
        return added, (losses, d.hidden)

    zero = [jnp.zeros(head[1].shape, dtype) if needs[1] else None, jnp.zeros((v,), dtype) if needs[2] else None]
    zero = _varying(head, lambda start: step(start, blocks.numbers()[0])[0], zero)
    (d_weight, d_bias), (losses, d_hidden) = lax.scan(step, zero, blocks.numbers())
    return blocks.joined(losses), Gradients(None if d_hidden is None else blocks.joined(d_hidden), d_weight, d_bias)


def _with_rule(function: Callable[..., Any], rule: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of static and other arguments, differentiated as `rule` is; compiled once per shape."""
    differentiable = jax.custom_jvp(function, nondiff_argnums=(0,))

    def jvp(static: _Static, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        return jax.jvp(partial(rule, static), primals, tangents)

    differentiable.defjvp(jvp)
    return jax.jit(differentiable, static_argnums=0)


_walk = _with_rule(_looped, _scanned)
_losses = _with_rule(
    lambda static, head, t, others: _looped(static, head, t, others, None)[0],
    lambda static, head, t, others: _scanned(static, head, t, others, None)[0],
)


def _ending(static: _Static, denominator: Array | None, head: _Head) -> Ending:
    from crossent.problem import Ending

    dtype = LIBRARY.compute_dtype(head[0])
    divisor = denominator if static.denominator is None else static.denominator
    wide = LIBRARY.widest(None)[0]
    return Ending(LIBRARY, None, dtype, wide, static.reduction, divisor, static.token_shape, None, False)


def _finished(static: _Static, head: _Head, t: Array | None, others: _Others) -> Array:
    losses = _losses(static, head, t, others).reshape(static.token_shape)
    return _ending(static, others.denominator, head).finish(losses)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _mean_or_sum(static: _Static, head: _Head, t: Array | None, others: _Others) -> Array:
    """The mean or the sum."""
    return _finished(static, head, t, others)


@partial(_mean_or_sum.defjvp, symbolic_zeros=True)
def _jvp(static: _Static, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Array]:
    head, t, others = primals
    d_head, _, d_others = tangents
    needs = tuple(x is not None and not isinstance(x, SymbolicZero) for x in d_head)
    ending = _ending(static, others.denominator, head)
    dtype = ending.dtype
    scale = _per_token(ending.scale(1.0), head, dtype)
    losses, gradients = _walk(static._replace(needs=needs), head, t, others, scale)
    change = jnp.zeros((), dtype)
    for d, x in zip(gradients, d_head, strict=True):
        if d is not None:
            change = change + jnp.sum(d * x.astype(dtype))
    if any(not isinstance(x, SymbolicZero) for x in d_others if x is not None):
        dense = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype) if isinstance(a, SymbolicZero) else a,
            d_others,
            is_leaf=lambda a: isinstance(a, SymbolicZero),
        )
        change = change + jax.jvp(partial(_finished, static, head, t), (others,), (dense,))[1]
    return ending.finish(losses.reshape(static.token_shape)), change


_reduced = jax.jit(_mean_or_sum, static_argnums=0)
