"""JAX on a CPU: the walk of rows in programs of several devices, each of which walks the rows that it has.

Where a program's arrays are spread is settled when XLA divides it among the devices, long after JAX has lowered it. It
asks then what of an operation becomes what each device does: where rows are whole, a call of machine code; where their
classes are spread, what `jax_axis.py` has for these, with its two sums among the devices.
"""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.interpreters import mlir
from jax.sharding import Mesh, NamedSharding

from crossent.libraries import jax_axis
from crossent.libraries.jax import LIBRARY, P, of_each_device
from crossent.math.parts import Parts
from crossent.math.rows import Coefficients, Rows
from crossent.types import Array

_Function = Callable[..., Sequence[Array]]
# Of the axes of a mesh that is made here.
_NAME = "crossent_{}"
_wide: Any = jax.enable_x64
_partitioned: Any = custom_partitioning
_psum: Any = lax.psum


def lowered(
    ctx: Any, operands: Sequence[Any], walk: _Function, coefficients: Coefficients, given: tuple[str, ...], key: str
) -> Any:
    """The operation of `jax_ffi.py`, as one that XLA asks about. walk: the call of machine code, of what a device has.
    key: what tells the walk from another of the same operands and results.
    """
    module = ctx.module_context
    devices, shapes, results = _devices(module), ctx.avals_in, ctx.avals_out
    v, is_wide = shapes[0].shape[-1], jax.config.jax_enable_x64  # type: ignore[attr-defined]

    def stand_in(*_: Array) -> Sequence[Array]:
        return tuple(jnp.zeros(a.shape, a.dtype) for a in results)

    def partition(_: Any, args: Sequence[Any], out: Sequence[Any]) -> Any:
        mesh, *places = _places(devices, args[0])
        if not any(places):
            # Whatever has whole logits has the rows of the losses that are wanted.
            mesh, *places = *_places(devices, out[0]), ()
        *tokens, classes = places
        of_rows, of_logits, of_classes = P(*tokens), P(*places), P(classes)
        specs = {"logits": of_logits, "soft": of_logits, "class_weights": of_classes}
        arguments = [NamedSharding(mesh, specs.get(name, of_rows)) for name in ("logits", *given)]
        found = [NamedSharding(mesh, spec) for spec, _ in zip((of_rows, of_logits), out, strict=False)]
        function = _of_parts(coefficients, given, results, v, classes) if classes else walk

        def local(*args: Array) -> tuple[Array, ...]:
            # XLA asks on a thread of its own, where settings of the caller's are not.
            with _wide(is_wide), of_each_device():
                return tuple(function(*args))

        return mesh, local, tuple(found), tuple(arguments)

    def infer(_: Any, args: Sequence[Any], out: Sequence[Any]) -> Any:
        mesh, *places = _places(devices, args[0])
        return tuple(NamedSharding(mesh, P(*places[: len(a.shape)])) for a in out)

    call = _partitioned(stand_in)
    call.def_partition(
        partition,
        infer_sharding_from_operands=infer,
        decode_shardings=False,  # by the mesh of the caller's context, if there is one, which may be another
        sharding_rule=_rule(shapes, given, results),
    )
    # Of devices JAX tells few programs; here they are numbers, the same in all.
    context = dataclasses.replace(module.axis_context, device_assignment=devices, abstract_mesh=None)
    ctx = ctx.replace(module_context=module.replace(axis_context=context))
    found = mlir.lower_fun(lambda *args: tuple(call(*args)), multiple_results=True)(ctx, *operands)
    # What a program that JAX keeps is found by again.
    text = mlir.ir.StringAttr.get(key)
    found[0].owner.attributes["mhlo.frontend_attributes"] = mlir.ir.DictAttr.get({"crossent": text})
    return found


def serves(ctx: Any, given: tuple[str, ...]) -> bool:
    """Whether an operation is one that is served here, in a program of several devices of this process."""
    context, (x, *others) = ctx.module_context.axis_context, ctx.avals_in
    if not hasattr(context, "device_assignment") or jax.process_count() > 1 or x.ndim < 2 or 0 in x.shape:
        return False
    if "class_weights" in given and others[given.index("class_weights")].ndim > 1:
        return False
    return bool(1 < context.num_devices <= len(jax.devices("cpu")))


def _devices(module: Any) -> tuple[Any, ...]:
    return tuple(jax.devices("cpu")[: module.axis_context.num_devices])


def _rule(shapes: Sequence[Any], given: tuple[str, ...], results: Sequence[Any]) -> str:
    """Which axes of operands and results are the same, as Shardy is told it."""
    letters = string.ascii_lowercase
    tokens, v = " ".join(letters[: shapes[0].ndim - 1]), "z"
    axes = {"logits": f"{tokens} {v}", "soft": f"{tokens} {v}", "class_weights": v}
    arguments = ", ".join(axes.get(name, tokens) for name in ("logits", *given))
    return f"{arguments} -> {', '.join((tokens, f'{tokens} {v}')[: len(results)])}"


def _places(devices: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
    """A mesh of the devices in their order, and for each axis of an array the names of those that it is spread over."""
    n, k = len(devices), len(x.shape)
    shape = (n,) * k  # which every tiling divides
    where = x.sharding.devices_indices_map(shape)
    starts = [[part.start or 0 for part in where[device]] for device in devices]
    for sizes in _orders(_primes(n)):
        names = [_NAME.format(i) for i in range(len(sizes))]
        mesh = Mesh(np.reshape(np.array(devices, object), sizes), names)
        places: list[tuple[str, ...]] = []
        for axis in range(k):
            steps = [(starts[math.prod(sizes[i + 1 :])][axis], name) for i, name in enumerate(names)]
            places.append(tuple(name for step, name in sorted(steps, reverse=True) if step))
        used = [name for place in places for name in place]
        if len(set(used)) == len(used) and NamedSharding(mesh, P(*places)).devices_indices_map(shape) == where:
            return mesh, *places
    return mesh, *[()] * k


def _primes(n: int) -> tuple[int, ...]:
    for p in range(2, n + 1):
        if n % p == 0:
            return (p, *_primes(n // p))
    return ()


def _orders(numbers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Each order of numbers, once."""
    if not numbers:
        yield ()
    for first in dict.fromkeys(numbers):
        i = numbers.index(first)
        for rest in _orders(numbers[:i] + numbers[i + 1 :]):
            yield (first, *rest)


def _of_parts(
    coefficients: Coefficients, given: tuple[str, ...], results: Sequence[Any], v: int, names: tuple[str, ...]
) -> _Function:
    """What a device does that has some classes of its rows."""

    def function(x: Array, *operands: Array) -> Sequence[Array]:
        found: dict[str, Any] = dict(zip(given, operands, strict=True))
        axis, width = jax_axis.Axis(names), x.shape[-1]
        start, size = lax.axis_index(names) * width, width
        if v != width * _psum(1, names):
            # The last devices have columns that are no classes.
            size = jnp.clip(v - start, 0, width)
            x = axis.columns(x, size, -math.inf)
            found |= {name: axis.columns(found[name], size, 0.0) for name in ("soft", "class_weights") if name in found}
        rows = Rows(
            x,
            found.get("targets"),
            found.get("soft"),
            found.get("weight"),
            found.get("class_weights"),
            coefficients,
            start,
            v,
            LIBRARY.compute_dtype(x),
            parts=Parts(axis, size, True),
        )
        made: Sequence[Array]
        made = jax_axis.losses_and_gradient(rows, found["scales"]) if "scales" in found else [jax_axis.losses(rows)]
        return [a.astype(like.dtype) for a, like in zip(made, results, strict=True)]

    return function
