"""JAX: parts of a vocabulary on the devices of an axis, inside `shard_map`.

What they do together are JAX's collectives, which JAX differentiates; the derivative of the losses is the contract's,
as in `jax.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from crossent import linear
from crossent.libraries.exchange import UNKNOWN, Exchange
from crossent.libraries.jax import LIBRARY, OF_DEVICE, by_rows
from crossent.math import formula
from crossent.math.parts import Parts, nothing_of, put_together, with_masses
from crossent.math.rows import Coefficients, Head, Rows, over_lines
from crossent.math.statistics import RowStatistics
from crossent.types import Array


class Axis(Exchange):
    """The devices of an axis, by its name."""

    libraries = ("jax",)
    is_traced = True

    def __init__(self, name: Any, fault: Array | float = 0.0) -> None:
        """fault: NaN where the ranges of the parts do not fit, else 0."""
        self.name, self.fault = name, fault

    def of_ranges(self, start: Any, size: Any, check: bool) -> tuple[Exchange, Any]:
        """An exchange of two numbers of each device, where they are compared."""
        if not check:
            # Of plain numbers JAX knows the sum.
            return self, _psum(size, self.name) if isinstance(size, int) else UNKNOWN
        mine = jnp.arange(_psum(1, self.name)) == lax.axis_index(self.name)
        starts, sizes = _psum(
            jnp.where(mine, jnp.stack([jnp.asarray(start), jnp.asarray(size)])[:, None], 0), self.name
        )
        vocabulary = _psum(size, self.name) if isinstance(size, int) else jnp.sum(sizes)
        # Those without classes begin anywhere.
        order = jnp.argsort(jnp.where(sizes == 0, vocabulary, starts))
        starts, sizes = starts[order], sizes[order]
        fits = jnp.all((sizes == 0) | (starts == jnp.cumsum(sizes) - sizes)) & (vocabulary > 0)
        return Axis(self.name, jnp.where(fits, 0.0, jnp.nan)), vocabulary

    def columns(self, x: Array, size: Any, fill: float) -> Array:
        """A size that is not known yet is no shape."""
        if isinstance(size, int):
            return super().columns(x, size, fill)
        return jnp.where(jnp.arange(x.shape[-1]) < size, x, jnp.asarray(fill, x.dtype))

    def largest(self, x: Array) -> Array:
        """JAX's own."""
        return _pmax(lax.stop_gradient(x), self.name)

    def total(self, x: Array) -> Array:
        """JAX's own; NaN of parts that do not fit."""
        return _psum(x, self.name) + jnp.asarray(self.fault, x.dtype)

    def shared(self, x: Array) -> Array:
        """As an array that is another on each device; only shard_map asks which is."""
        return x if OF_DEVICE.is_traced else _varying(x, self.name)


_psum: Any = lax.psum
_pmax: Any = lax.pmax
_varying: Any = partial(lax.pcast, to="varying") if hasattr(lax, "pcast") else getattr(lax, "pvary", None)


def of(group: Any) -> Exchange:
    """That of the name of an axis."""
    try:
        lax.axis_index(group)
    except NameError:
        raise ValueError(
            f"group is {group!r}, an axis that JAX does not know here; accepted: one that the program is within, as in "
            f"jax.shard_map"
        ) from None
    return Axis(group)


class _Static(NamedTuple):
    coefficients: Coefficients
    name: Any
    is_known: bool


class _Given(NamedTuple):
    """The arrays of rows with one axis of tokens, and what is to be known of the part."""

    x: Array
    t: Array | None
    soft: Array | None
    weight: Array | None
    class_weights: Array | None
    first_class: Any
    size: Any
    vocabulary: Any
    fault: Any


_PerRow = tuple[Any, ...]


def _split(rows: Rows) -> tuple[_Static, _Given]:
    parts = rows.parts
    assert parts is not None
    axis: Any = parts.group
    flat = rows.logits.shape[:-1]
    x, t, soft, weight = (
        None if a is None else jnp.reshape(a, (-1, *a.shape[len(flat) :]))
        for a in (rows.logits, rows.targets, rows.soft, rows.weight)
    )
    given = _Given(x, t, soft, weight, rows.class_weights, rows.first_class, parts.size, rows.vocabulary, axis.fault)
    return _Static(rows.coefficients, axis.name, parts.is_known), given


def _rows(static: _Static, given: _Given, per_row: _PerRow) -> Rows:
    x, t, soft, weight = per_row
    parts = Parts(Axis(static.name, given.fault), given.size, static.is_known)
    rows = Rows(x, t, soft, weight, given.class_weights, static.coefficients, given.first_class, given.vocabulary, None)
    return formula.widened(LIBRARY, rows._replace(dtype=LIBRARY.compute_dtype(x), parts=parts))


def statistics(rows: Rows) -> RowStatistics:
    """The statistics (N,) of whole rows, a function that JAX differentiates."""
    return _statistics(*_split(rows))


def _statistics(static: _Static, given: _Given) -> RowStatistics:
    def of_part(rows: Rows) -> RowStatistics:
        if not rows.logits.shape[1]:
            return nothing_of(LIBRARY, rows)
        c = static._replace(coefficients=rows.coefficients)
        of_rows = given._replace(class_weights=rows.class_weights)

        def of_block(per_row: _PerRow) -> RowStatistics:
            return formula.statistics_of(LIBRARY, _rows(c, of_rows, per_row))

        return by_rows(of_block, (rows.logits, rows.targets, rows.soft, rows.weight))

    whole = _rows(static, given, given[:4])
    return put_together(LIBRARY, whole._replace(logits=given.x, soft=given.soft), of_part)


def losses(rows: Rows) -> Array:
    """The losses, of the shape of the tokens, by a rule of their own."""
    static, given = _split(rows)
    found = rows.found if rows.found is not None else _statistics(static, given)
    return jnp.reshape(_losses(static, given, found), rows.logits.shape[:-1])


def losses_and_gradient(rows: Rows, scale: Array | float) -> tuple[Array, Array]:
    """The same, and the gradient, times `scale`, in the dtype of the logits."""
    static, given = _split(rows)
    found = rows.found if rows.found is not None else _statistics(static, given)
    shape = rows.logits.shape
    scale = jnp.reshape(jnp.broadcast_to(scale, shape[:-1]), (-1,))
    loss, d = _with_gradient(static, given, found, scale)
    return jnp.reshape(loss, shape[:-1]), jnp.reshape(d, shape)


def _formula(static: _Static, given: _Given, found: RowStatistics) -> Array:
    return formula.outcome_of(LIBRARY, found, _rows(static, given, given[:4]), None).loss


def _with_gradient(static: _Static, given: _Given, found: RowStatistics, scale: Array) -> tuple[Array, Array]:
    outcome = formula.outcome_of(LIBRARY, found, _rows(static, given, given[:4]), scale)
    numbers = tuple(jnp.broadcast_to(a, outcome.loss.shape) for a in outcome[1:])

    def of_block(block: _PerRow) -> Array:
        *per_row, found, numbers = block
        rows = with_masses(LIBRARY, _rows(static, given, tuple(per_row)), found.shares)
        d = formula.gradient_of(
            LIBRARY, rows, found, outcome._replace(factor=numbers[0], uniform_term=numbers[1], target_entry=numbers[2])
        )
        return LIBRARY.narrowed(d, per_row[0])

    d = given.x if not given.x.shape[1] else by_rows(of_block, (*given[:4], found, numbers))
    return outcome.loss, d


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _losses(static: _Static, given: _Given, found: RowStatistics) -> Array:
    return _formula(static, given, found)


@partial(_losses.defjvp, symbolic_zeros=True)
def _jvp(static: _Static, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Array]:
    """What follows from the statistics is part of the derivative by logits, soft targets and weights."""
    given, found = primals
    d_given, _ = tangents
    wide = given._replace(x=LIBRARY.widened(given.x, LIBRARY.compute_dtype(given.x)))
    loss, d = _with_gradient(static, wide, found, jnp.ones((), wide.x.dtype))
    change = jnp.zeros_like(loss)
    if not isinstance(d_given.x, SymbolicZero):
        change = _psum(jnp.sum(d * d_given.x.astype(d.dtype), axis=-1), static.name)
    others, d_others = given[2:5], d_given[2:5]
    if any(not isinstance(a, SymbolicZero) for a in d_others if a is not None):
        dense = jax.tree.map(
            lambda a: jnp.zeros(a.shape, a.dtype) if isinstance(a, SymbolicZero) else a,
            d_others,
            is_leaf=lambda a: isinstance(a, SymbolicZero),
        )

        def of(soft: Array | None, weight: Array | None, class_weights: Array | None) -> Array:
            again = wide._replace(soft=soft, weight=weight, class_weights=class_weights)
            return _formula(static, again, _statistics(static, again))

        change = change + jax.jvp(of, others, dense)[1]
    return loss, change


# --- hidden states ----------------------------------------------------------------------------------------------------


def linear_statistics(rows: Rows) -> RowStatistics:
    """The statistics (N,) of whole rows, of whose classes a `Head` makes a part, a block of tokens at a time."""
    flat = linear.flat(LIBRARY, rows)
    if rows.soft is not None and rows.coefficients.smoothing:
        # They are as large as the logits.
        return statistics(linear.filled(LIBRARY, rows))

    def of_block(rows: Rows) -> RowStatistics:
        return formula.statistics_of(LIBRARY, formula.widened(LIBRARY, rows))

    return put_together(LIBRARY, flat, lambda rows: _by_blocks(rows, of_block))


def linear_losses(rows: Rows) -> Array:
    """The losses (N,) of a `Head`, a block of tokens at a time, whose logits are made again for each derivative."""
    found = linear_statistics(rows) if rows.found is None else rows.found
    return _by_blocks(linear.flat(LIBRARY, rows)._replace(found=found), losses)


def linear_losses_and_gradients(
    rows: Rows, scale: Array | float, needs: tuple[bool, ...]
) -> tuple[Array, linear.Gradients]:
    """The same, and the gradients that are needed, times `scale`."""
    head: Head = rows.logits
    given = [None if x is None else x.astype(rows.dtype) for x in (head.hidden, head.weight, head.bias)]

    def of(*made: Any) -> Array:
        hidden, weight, bias = made
        return linear_losses(rows._replace(logits=head._replace(hidden=hidden, weight=weight, bias=bias)))

    loss, pull = jax.vjp(of, *given)
    found = pull(jnp.reshape(jnp.broadcast_to(scale, head.hidden.shape[:-1]), (-1,)).astype(loss.dtype))
    d_hidden, *others = (d if need else None for d, need in zip(found, needs, strict=True))
    return loss, linear.Gradients(
        None if d_hidden is None else jnp.reshape(d_hidden, (-1, d_hidden.shape[-1])), *others
    )


def _by_blocks(rows: Rows, function: Callable[[Rows], Any]) -> Any:
    """`function` of rows with their logits, made for as many tokens at a time as the workspace has room for."""
    head: Head = rows.logits
    n, width = head.hidden.shape
    weight = head.weight.astype(rows.dtype)
    bias = None if head.bias is None else head.bias.astype(rows.dtype)
    assert rows.parts is not None
    # Here, so that what the devices find for hidden states is added up once.
    hidden = rows.parts.group.shared(head.hidden.astype(rows.dtype))
    if rows.weight is not None:
        hidden = LIBRARY.clear_rows(hidden, rows.weight == 0, None)

    @jax.checkpoint
    def of_block(which: Array, hidden: Array, weight: Array, bias: Array | None) -> Any:
        def taken(x: Array | None) -> Array | None:
            return None if x is None else jnp.take(x, which, axis=0)

        x = LIBRARY.product(taken(hidden), weight.T, None)
        soft, found = taken(rows.soft), over_lines(taken, rows.found)
        x = x if bias is None else x + bias
        block = rows._replace(logits=x, targets=taken(rows.targets), soft=soft, weight=taken(rows.weight), found=found)
        return function(block)

    height = min(n, max(1, head.memory // (weight.dtype.itemsize * (weight.shape[0] + 2 * width))))
    count = -(-n // height)
    which = jnp.minimum(jnp.reshape(jnp.arange(count * height), (count, height)), n - 1)
    if count == 1:
        return of_block(which[0], hidden, weight, bias)
    made = lax.map(lambda which: of_block(which, hidden, weight, bias), which)
    return jax.tree.map(lambda a: jnp.reshape(a, (count * height, *a.shape[2:]))[:n], made)
