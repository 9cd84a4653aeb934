"""JAX: the row losses as one function with its own derivative, compiled once per shape.

The derivative is the contract's gradient, not that of the formula of the loss, which would cancel for likely targets.
As a rule of forward differentiation it serves ``grad``, ``jvp``, ``hessian``, ``vmap`` and ``jit`` alike.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import AxisType, NamedSharding

from crossent.engines import select
from crossent.engines.select import CUDA_PROGRAMS, PROGRAMS
from crossent.libraries.base import NO_CONTEXT, Inputs, Library
from crossent.linear import Gradients
from crossent.math import formula
from crossent.math.operations import RUN, Likeliest
from crossent.math.rows import LOSS, Coefficients, Head, Rows
from crossent.math.statistics import Described, RowStatistics
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.problem import Ending

P: Any = jax.sharding.PartitionSpec

_Others = tuple[Array | None, Array | None, Array | None]
_PerRow = tuple[Array | None, ...]
_Result = TypeVar("_Result")

# Bytes of a block of float32 logits.
BLOCK = 1024 * 1024
# Runs of runs of a length that is not known, which two million terms fill.
_RUNS = 7
_HAS_CONTEXTS = hasattr(jax.sharding, "use_abstract_mesh")


class Jax(Library):
    """JAX's arrays, traced or not."""

    immutable = True
    # A jitted function's closure is as readable as ever, but nothing that JAX computes from it there is.
    checks_copies = True
    # The shapes of what is compiled would depend on it.
    leaves_out = False
    walks_rows = True
    """Whether programs may call machine code for the rows of the call."""

    @property
    def engine_guards(self) -> bool:
        """Not where a program turns out to have the formula."""
        return False

    @property
    def composes(self) -> Library | None:
        """Its own, which JAX can always differentiate."""
        return self

    def of_call(self, inputs: Inputs) -> Library:
        """Of arrays on a mesh whose axes are explicit, the library on that mesh; releases before 0.8 refuse them."""
        library: Library = self if inputs.head is None else _OF_HEADS
        for x in inputs:
            if isinstance(x, jax.Array) and AxisType.Explicit in mesh_of(x).axis_types and _HAS_CONTEXTS:
                from crossent.libraries.jax_mesh import OnMesh

                library = OnMesh(mesh_of(x), jax.typeof(inputs.logits).sharding.spec[: inputs.logits.ndim - 1])
                library.walks_rows = inputs.head is None
                break
        return library

    def kind(self, like: Array, dtype: str, classes: int, measure: str) -> select.Kind:
        """Programs of a CPU or of a CUDA device can call machine code for rows that are each in one place."""
        devices = [] if isinstance(like, jax.core.Tracer) else list(like.devices())
        platforms = {device.platform for device in devices} or {jax.default_backend()}
        platform = platforms.pop() if len(platforms) == 1 else ""
        memory, number = {"cpu": PROGRAMS, "gpu": CUDA_PROGRAMS}.get(platform, ""), 0
        if memory == CUDA_PROGRAMS:
            number = (devices or jax.local_devices())[0].local_hardware_id or 0
        refusal = self._refusal(like, memory, len(devices), measure)
        return select.Kind(self.state, memory, number, dtype, classes, measure, refusal)

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """The name of the engine for logits of that dtype and vocabulary, wherever their program will run."""
        kind = self.kind(like, dtype, classes, measure)
        return select.best(*kind) if asked == "auto" else select.asked_for(asked, kind, self.describe(like))

    def _refusal(self, x: Array, memory: str, devices: int, measure: str) -> str | None:
        """Why a program cannot call machine code for rows in such memory of so many devices; None where it can."""
        if not self.walks_rows:
            return "it walks logits, which a linear loss of JAX arrays makes in its own program"
        if not memory:
            return None
        if devices > 1 and memory != PROGRAMS:
            return "of JAX arrays on a GPU it walks those that lie on one device, and these lie on several"
        if AxisType.Manual in (kinds := set(mesh_of(x).axis_types)) and len(kinds) > 1:
            return "inside shard_map it walks what a device has, which needs all axes of the mesh, and these are some"
        if devices != 1 and _has_classes_apart(x):
            return "of JAX arrays it walks rows that have all their classes on one device, and these are spread"
        if devices > 1:
            if jax.process_count() > 1:
                return "of JAX arrays on several devices it walks those of one process, and there are others"
            if measure != LOSS or x.ndim < 2:
                return "of JAX arrays on several devices it walks rows of cross-entropies alone"
        if select.numba_problem() is not None:
            needs = "programs of a GPU call it by machine code that Numba makes"
            return None if memory == PROGRAMS else f"{needs}: {select.numba_problem()}"
        from crossent.libraries import jax_ffi

        return jax_ffi.problem("cpu" if memory == PROGRAMS else "cuda")

    def remark(self, x: Array) -> str | None:
        """What is settled only when a program is divided among its devices."""
        if not isinstance(x, jax.core.Tracer) or is_in_one_place(x) or self.kind(x, "", 0, LOSS).refusal is not None:
            return None
        return "in a program of several devices numba walks rows of cross-entropies that have all their classes on one"

    def readable(self, x: Array) -> bool:
        """Of a transformation's, which stand for values that are supplied later, none; nor what another process has."""
        return not isinstance(x, jax.core.Tracer) and (x.is_fully_addressable or x.is_fully_replicated)

    def device(self, x: Array) -> Any:
        """What is made beside `x` is on all devices of an array that has its place, and else wherever it is used."""
        if isinstance(x, jax.core.Tracer) or not x.committed:
            return None
        sharding = x.sharding
        return NamedSharding(sharding.mesh, P()) if isinstance(sharding, NamedSharding) else x.device

    def is_followed(self, x: Array) -> bool:
        """A transformation's, which must not outlive it."""
        return isinstance(x, jax.core.Tracer)

    def device_name(self, x: Array) -> str | None:
        """All that an array is spread over."""
        return None if isinstance(x, jax.core.Tracer) else ", ".join(sorted(map(str, x.devices())))

    def on_one_device(self, a: Array, b: Array) -> bool:
        """What is not committed to its devices goes wherever the rest is."""
        placed = not any(isinstance(x, jax.core.Tracer) or not x.committed for x in (a, b))
        return not placed or bool(a.devices() == b.devices())

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

    def sum_in_runs(self, x: Array, axis: int | None) -> Array:
        """In a program for any number of terms there are as many runs of runs as a large number has."""
        if _is_known(*x.shape):
            return super().sum_in_runs(x, axis)
        x = self.flat(x) if axis is None else jnp.moveaxis(x, axis, -1)
        run = (*(1 for _ in x.shape[1:]), RUN)
        for _ in range(_RUNS):
            x = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, run, run, "SAME")
        return jnp.sum(x, axis=-1)

    def length(self, wide: Any, n: int) -> Array | float:
        """In a program for any size, an array that knows it when the program runs."""
        return super().length(wide, n) if _is_known(n) else jnp.asarray(n).astype(wide)

    def likeliest(self, x: Array) -> Likeliest:
        """Where they lie on several devices all, as a mask: to find the first, devices would have to meet once more."""
        if is_in_one_place(x):
            return super().likeliest(x)
        found = x == jnp.max(x, axis=1)[:, None]
        more = jnp.sum(found, axis=1, dtype=x.dtype) - 1.0
        return Likeliest(found, more, found & (more == 0)[:, None])

    def one_hot_mask(self, shape: tuple[int, int], t: Array) -> Array:
        """A mask is one already."""
        return t if t.ndim == 2 else super().one_hot_mask(shape, t)

    def take_target(self, x: Array, t: Array) -> Array:
        """An index would gather rows that lie on several devices; of a sum each device has its own part."""
        return super().take_target(x, t) if t.ndim == 1 and is_in_one_place(x) else self.sum_of_target(x, t)

    def take_classes(self, x: Array, ids: Array) -> Array:
        """The same of several."""
        if is_in_one_place(x):
            return super().take_classes(x, ids)
        classes = jnp.arange(x.shape[-1], dtype=ids.dtype)

        def taken(t: Array) -> Array:
            return jnp.sum(jnp.where(classes == t[..., None], x, 0), axis=-1)

        return jax.vmap(taken, -1, -1)(ids)

    def weights_of(self, class_weights: Array, t: Array) -> Array:
        """JAX takes indices of any shape; merged axes of several devices would be gathered."""
        return jnp.take(class_weights, t, axis=0)

    def as_matrix(self, x: Array) -> Array:
        """As they are: merged axes of several devices would be gathered."""
        return x

    def per_token(self, x: Array, tokens: tuple[int, ...]) -> Array:
        """Of the shape of the tokens."""
        return jnp.broadcast_to(x, tokens)

    def losses(self, rows: Rows) -> Array:
        """By the rule below; of the shape of the tokens."""
        if rows.parts is not None:
            of_part: Array = _axis().losses(rows)
            return of_part
        others, how = (rows.soft, rows.weight, rows.class_weights), How(rows.coefficients, rows.engine)
        function = losses if how.walks and is_in_program(rows.logits) else _compiled
        found: Array = function(how, rows.logits, rows.targets, others)
        return found

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """The losses, of the shape of the tokens, and the gradient, times `scale`, in the dtype of the logits."""
        if rows.parts is not None:
            of_part: tuple[Array, Array] = _axis().losses_and_gradient(rows, scale)
            return of_part
        others, how = (rows.soft, rows.weight, rows.class_weights), How(rows.coefficients, rows.engine)
        function = with_gradient if how.walks and is_in_program(rows.logits) else _compiled_gradient
        found: tuple[Array, Array] = function(how, rows.logits, rows.targets, others, scale)
        return found

    def statistics(self, rows: Rows) -> RowStatistics:
        """As a function that JAX differentiates."""
        found: RowStatistics
        found = (_axis().linear_statistics if isinstance(rows.logits, Head) else _axis().statistics)(rows)
        return found

    def described(self, rows: Rows) -> Described:
        """Compiled once per shape; of the shape of the tokens."""
        if isinstance(rows.logits, Head):
            from crossent.libraries import jax_linear

            return jax_linear.described(rows)
        logits = lax.stop_gradient(rows.logits)
        found: Described = _compiled_description(rows.coefficients, logits, rows.targets, rows.weight)
        return found

    def apart(self, a: Array) -> Array:
        """XLA takes its own barriers away before it joins a product with a difference; a choice stays."""
        return jnp.where(jnp.isnan(a), jnp.nan, a)

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """Of float32, with all its digits on every device."""
        return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

    def loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """A mean or a sum that machine code walks is one function with its gradient."""
        from crossent.libraries import jax_reduced

        is_one = 0 not in ending.token_shape and jax_reduced.serves(rows, ending)
        return jax_reduced.loss(rows, ending) if is_one else super().loss(inputs, rows, ending)

    def linear_loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """As one function with its own derivative, compiled once per shape."""
        if rows.parts is not None:
            return ending.of_nothing() if 0 in ending.token_shape else ending.finish(_axis().linear_losses(rows))
        from crossent.libraries import jax_linear

        return ending.of_nothing() if 0 in ending.token_shape else jax_linear.loss(rows, ending)

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, Gradients]:
        """Compiled once per shape."""
        if rows.parts is not None:
            of_part: tuple[Array, Gradients] = _axis().linear_losses_and_gradients(rows, scale, needs)
            return of_part
        from crossent.libraries import jax_linear

        return jax_linear.losses_and_gradients(rows, scale, needs)


def _axis() -> Any:
    from crossent.libraries import jax_axis

    return jax_axis


LIBRARY = Jax(jnp, "jax")
_OF_HEADS = Jax(jnp, "jax", LIBRARY)
_OF_HEADS.walks_rows = False


def _rows(coefficients: Coefficients, per_row: _PerRow, class_weights: Array | None) -> Rows:
    x: Any
    x, t, soft, weight = per_row
    return Rows(x, t, soft, weight, class_weights, coefficients, 0, x.shape[1], LIBRARY.compute_dtype(x))


def mesh_of(x: Array) -> Any:
    """The mesh that the type of an array names, without axes where it names none."""
    return jax.typeof(x).sharding.mesh


def _has_classes_apart(x: Array) -> bool:
    """Whether the classes of logits are known to lie on several devices."""
    if not isinstance(x, jax.core.Tracer):
        return len(x.devices()) > 1 and 0 not in x.shape and bool(x.sharding.shard_shape(x.shape)[-1] != x.shape[-1])
    spec = jax.typeof(x).sharding.spec
    return len(spec) == x.ndim and spec[-1] is not None


def _is_known(*lengths: Any) -> bool:
    """Whether none of the lengths of a program is a symbol."""
    return all(isinstance(n, int) for n in lengths)


class _OfDevice(threading.local):
    """Whether what this thread traces is what each device does with what it has, besides shard_map's."""

    is_traced = False


OF_DEVICE = _OfDevice()


@contextmanager
def of_each_device() -> Iterator[None]:
    """Within, arrays are those that a device has."""
    before, OF_DEVICE.is_traced = OF_DEVICE.is_traced, True
    try:
        yield
    finally:
        OF_DEVICE.is_traced = before


def is_in_one_place(x: Array) -> bool:
    """Whether `x` has no part on another device: there is no other, or each has been given its own."""
    return jax.device_count() == 1 or OF_DEVICE.is_traced or set(mesh_of(x).axis_types) == {AxisType.Manual}


def is_in_program(x: Array) -> bool:
    """Whether what is done to `x` becomes part of a program, which sees best what becomes of its memory if it is not a
    program of its own in there.
    """
    return isinstance(x, jax.core.Tracer) and isinstance(jnp.zeros(()), jax.core.Tracer)


def by_rows(function: Callable[[_PerRow], _Result], per_row: _PerRow) -> _Result:
    """`function` of matrices of rows and of what rows have, for arrays whose first axes are those of the tokens.

    Axes that lie on several devices are not merged, which would gather them, and their rows not walked in turn.
    """
    x: Array = per_row[0]
    *tokens, v = x.shape
    if not is_in_one_place(x) and len(tokens) > 1:
        return jax.vmap(partial(by_rows, function))(per_row)
    n, k = math.prod(tokens), len(tokens)
    rows = jax.tree.map(lambda a: jnp.reshape(a, (n, *a.shape[k:])), per_row)
    height = max(1, BLOCK // (4 * max(v, 1))) if _is_known(v) else 1
    is_whole = not _is_known(n, v) or n <= 2 * height or jax.default_backend() != "cpu" or not is_in_one_place(x)
    results = function(rows) if is_whole else _in_blocks(function, rows, height)
    shaped: _Result = jax.tree.map(lambda a: jnp.reshape(a, (*tokens, *a.shape[1:])), results)
    return shaped


def _in_blocks(function: Callable[[_PerRow], _Result], per_row: _PerRow, height: int) -> _Result:
    """`function` of arrays whose first axis is the rows, a block of rows at a time.

    XLA keeps no temporary in the cache by itself, and makes some of the size of the logits. The last block overlaps the
    one before it, so that all have one shape and a row's result does not depend on where it lies.
    """
    x: Array = per_row[0]
    n = x.shape[0]

    def block(i: Array, results: _Result) -> _Result:
        start = jnp.minimum(i * height, n - height)
        part = function(jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, height), per_row))
        merged: _Result = jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, start, 0), results, part)
        return merged

    # Zeros with the type of results: inside shard_map that says along which axes they vary.
    one = function(jax.tree.map(lambda a: a[:1], per_row))
    empty = jax.tree.map(lambda a: jnp.broadcast_to(jnp.where(False, a, 0), (n, *a.shape[1:])), one)
    results: _Result = lax.fori_loop(0, -(-n // height), block, empty)
    return results


class How(NamedTuple):
    """What of a call is no array: what its rows have in common, and the engine that walks them."""

    coefficients: Coefficients
    engine: str

    @property
    def walks(self) -> bool:
        """Whether machine code does."""
        return self.engine != "array_api"

    @property
    def composed(self) -> How:
        """The same by the formula."""
        return self._replace(engine="array_api")


class _Losses(NamedTuple):
    """The formula of an operation; equal to another of the same call."""

    coefficients: Coefficients
    given: tuple[str, ...]

    def __call__(self, x: Array, *operands: Array) -> Sequence[Array]:
        """The losses."""
        found = dict(zip(self.given, operands, strict=True))
        others = found.get("soft"), found.get("weight"), found.get("class_weights")
        return [_formula(How(self.coefficients, "array_api"), x, found.get("targets"), others)]


class _LossesAndGradient(NamedTuple):
    """The same with the gradient."""

    coefficients: Coefficients
    given: tuple[str, ...]

    def __call__(self, x: Array, *operands: Array) -> Sequence[Array]:
        """The losses and the gradient."""
        found = dict(zip(self.given, operands, strict=True))
        others = found.get("soft"), found.get("weight"), found.get("class_weights")
        how = How(self.coefficients, "array_api")
        return with_gradient(how, x, found.get("targets"), others, found["scales"])


def _walked(how: How, x: Array, t: Array | None, others: _Others, scale: Array | None) -> Sequence[Array]:
    from crossent.libraries import jax_ffi

    soft, weight, class_weights = others
    operands = {"targets": t, "soft": soft, "weight": weight, "class_weights": class_weights, "scales": scale}
    kind: Any = _Losses if scale is None else _LossesAndGradient
    formula = kind(how.coefficients, tuple(name for name, a in operands.items() if a is not None))
    return jax_ffi.walk(formula, how.coefficients, x, operands, gradient=scale is not None)


def _formula(how: How, x: Array, t: Array | None, others: _Others) -> Array:
    if how.walks:
        return _walked(how, x, t, others, None)[0]
    soft, weight, class_weights = others

    def losses_of(rows: _PerRow) -> Array:
        return formula.whole(LIBRARY, _rows(how.coefficients, rows, class_weights))

    return by_rows(losses_of, (x, t, soft, weight))


def with_gradient(how: How, x: Array, t: Array | None, others: _Others, scale: Array | float) -> tuple[Array, Array]:
    """The losses of the shape of the tokens, and the gradient, times `scale`, in the dtype of the logits."""
    scale = jnp.broadcast_to(jnp.asarray(scale, LIBRARY.compute_dtype(x)), x.shape[:-1])
    if how.walks:
        loss, d = _walked(how, x, t, others, scale)
        return loss, d
    soft, weight, class_weights = others

    def pair_of(rows: _PerRow) -> tuple[Array, Array]:
        *per_row, scale = rows
        return formula.whole_with_gradient(LIBRARY, _rows(how.coefficients, tuple(per_row), class_weights), scale)

    return by_rows(pair_of, (x, t, soft, weight, scale))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def losses(how: How, x: Array, t: Array | None, others: _Others) -> Array:
    """The losses of the shape of the tokens, with a derivative of their own."""
    return _formula(how, x, t, others)


@partial(losses.defjvp, symbolic_zeros=True)
def _jvp(how: How, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Array, Array]:
    x, t, others = primals
    dx, _, d_others = tangents
    wider = wide(how, x)
    loss, d = with_gradient(how, wider, t, others, jnp.ones((), loss_dtype(x)))
    change = jnp.zeros_like(loss)
    if not isinstance(dx, SymbolicZero):
        change = jnp.sum(d.astype(loss.dtype) * dx.astype(loss.dtype), axis=-1)
    if any(not isinstance(a, SymbolicZero) for a in d_others if a is not None):
        # The loss is a plain function of target distribution and weights: its formula may be differentiated as it is.
        _, more = jax.jvp(partial(_formula, how.composed, wider, t), (others,), (dense(d_others),))
        change = change + more
    return loss, change


def wide(how: How, x: Array) -> Array:
    """Logits whose gradient is not rounded, or past its dtype, before it is multiplied with what follows the loss."""
    narrow = np.float16 if how.walks else jnp.bfloat16
    return x.astype(jnp.float32) if x.dtype in (narrow, np.float16) else x


def loss_dtype(x: Array) -> Any:
    """That of the losses of such logits."""
    return LIBRARY.compute_dtype(x)


def dense(tangents: Any) -> Any:
    """Tangents with zeros in place of symbols."""
    return jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype) if isinstance(a, SymbolicZero) else a,
        tangents,
        is_leaf=lambda a: isinstance(a, SymbolicZero),
    )


_compiled = jax.jit(losses, static_argnums=0)
_compiled_gradient = jax.jit(with_gradient, static_argnums=0)


@partial(jax.jit, static_argnums=0)
def _compiled_description(coefficients: Coefficients, x: Array, t: Array, weight: Array | None) -> Described:
    def described(rows: _PerRow) -> Described:
        return formula.describe(LIBRARY, _rows(coefficients, rows, None))

    return by_rows(described, (x, t, None, weight))
