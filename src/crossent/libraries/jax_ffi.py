"""JAX: the compiled walk of rows as an operation of its programs, which XLA calls where the logits lie.

On a CPU that is the walk of the engine "numba"; on a CUDA device, a handler that launches the engine "cuda"'s kernel.

Whether a program has it is settled when JAX lowers it, which knows what no trace does: the platform, the devices, and
whether the program is exported to run elsewhere. Whatever cannot have it has the formula, of which the operation knows.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, NamedSharding

from crossent.engines import cuda
from crossent.engines.compiling import Once
from crossent.engines.cuda import launch, programs
from crossent.engines.numba_cpu import xla
from crossent.engines.numba_cpu.kernel import transform_of
from crossent.engines.numba_cpu.layout import MEASURE, MEASURES, PACK, SHORT, WALK, Call, Kind
from crossent.math.rows import LOSS, Coefficients, Rows
from crossent.types import Array

_P: Any = jax.sharding.PartitionSpec
_NAMES = {jnp.dtype(name): name for name in ("float32", "float64", "float16", "bfloat16")}
_NOTHING = Call(*[0] * len(Call._fields))
_shaped: Any = jax.ShapeDtypeStruct
_probed: list[Any] = []
# As JAX names the platforms of programs, and as XLA does those of its functions.
_PLATFORMS = {"cpu": "cpu", "cuda": "CUDA"}

Formula = Callable[..., Sequence[Array]]
"""What an operation stands for: a function of its operands."""


@functools.cache
def problem(platform: str = "cpu") -> str | None:
    """Why programs for a platform, "cpu" or "cuda", cannot call machine code in this process; None where they can."""
    if os.name != "posix":
        return "threads that wait for one another do so as on POSIX, which this system is not"
    if platform == "cuda" and (reason := _problem_of_devices()) is not None:
        return reason
    try:
        return interface(platform).problem
    except Exception as error:  # an interface of JAX's that is another than it was raises what it likes
        return f"XLA's foreign functions do not answer as is known: {type(error).__name__}: {error}"


def _problem_of_devices() -> str | None:
    """Why the kernels for CUDA cannot be launched from programs; None where they can, on all devices of the process."""
    try:
        numbers = devices()
    except RuntimeError as error:
        return f"JAX has no CUDA device that is known: {str(error).strip().partition(chr(10))[0]}"
    reason = next(filter(None, map(cuda.problem, numbers)), None)
    try:
        return reason or (launch.functions() and None)
    except RuntimeError as error:
        return str(error)


@functools.cache
def devices() -> tuple[int, ...]:
    """The numbers of the CUDA devices that JAX has in this process, as the driver counts; RuntimeError without any."""
    numbers = [device.local_hardware_id for device in jax.local_devices(backend="cuda")]
    if None in numbers:
        raise RuntimeError("it does not say the numbers of its devices")
    return tuple(sorted(set(numbers)))


@functools.cache
def interface(platform: str) -> xla.Interface:
    """What XLA for that platform says of itself, to a handler that nothing calls."""
    jax.devices(platform)  # only then are handlers asked for their version
    _probed.clear()

    def probe(frame: int) -> None:
        found = xla.asked(frame)
        if found is not None:
            _probed.append(found)

    _name("crossent_probe", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(probe), platform)
    if not _probed:
        raise LookupError("it does not say its version before it calls")
    found: xla.Interface = _probed[-1]
    return found


def _name(name: str, function: Any, platform: str = "cpu", _kept: list[Any] = []) -> None:  # noqa: B006
    """Tell XLA of a function, which stays for as long as the process: XLA may ask for it at any time."""
    _kept.append(function)
    capsule: Any = jax.ffi.pycapsule
    jax.ffi.register_ffi_target(name, capsule(function), platform=_PLATFORMS[platform])


@Once
def _target(kind: Kind) -> str:
    """The name under which XLA knows the handler for rows of that kind."""
    name = f"crossent_{kind.stem.replace('-', '_')}"
    _name(name, ctypes.c_void_p(xla.handler(kind, interface("cpu").version)))
    return name


@Once
def _target_of_launch(name: str, places: tuple[launch.Place, ...]) -> str:
    """The name under which XLA knows the handler that launches the kernel of that name."""
    size = launch.SIZE_OF_CONFIGURATION
    driver = xla.Driver(
        *launch.functions(),
        size=size + launch.SIZE_OF_ATTRIBUTE,
        stream=launch.STREAM,
        more=launch.ATTRIBUTES,
        has_more=launch.ATTRIBUTES + 8,
        begin=size,
    )
    handler = xla.launcher(name, driver, tuple(map(tuple, places)), interface("cuda").version)
    target = f"crossent_cuda_{name}"
    _name(target, ctypes.c_void_p(handler), "cuda")
    return target


walk_p: Any = Primitive("crossent_walk")
"""Operands: the logits (..., V), and what `given` names: targets, soft, weight, scales, each of the shape of the tokens
(soft of that of the logits), and class_weights, (V,) or with the first axes of the tokens ahead. Results: the losses,
and with `gradient` the gradient, times the scales.
"""
walk_p.multiple_results = True


def walk(
    formula: Formula,
    coefficients: Coefficients,
    x: Array,
    operands: dict[str, Array | None],
    *,
    gradient: bool,
) -> Sequence[Array]:
    """The losses of rows, and their gradient. formula: of the same operands, in that order, without those that are
    None; it has to be equal to itself, and is what a program is compiled by its cache for.
    """
    there = {name: a for name, a in operands.items() if a is not None}
    real = _real(x.dtype)
    for name, a in there.items():
        # What is read past the end of an array is no error that anybody would see.
        shape = {"soft": x.shape, "class_weights": x.shape[-1:]}.get(name, x.shape[:-1])
        is_as_it_is = name == "targets" or (name == "soft" and (a.dtype.itemsize == 8) == (real == np.float64))
        there[name] = jnp.broadcast_to(a if is_as_it_is else a.astype(real), shape)
    x, *others = _varying_alike(x, *there.values())
    found: Sequence[Array] = walk_p.bind(
        x, *others, formula=formula, coefficients=coefficients, given=tuple(there), gradient=gradient
    )
    return found


def _real(dtype: Any) -> Any:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _varying_alike(x: Array, *others: Array) -> list[Array]:
    """The same arrays, which inside shard_map vary along the same axes of its mesh; choices that are not made."""
    if AxisType.Manual not in jax.typeof(x).sharding.mesh.axis_types:
        return [x, *others]
    everything = functools.reduce(jnp.add, [jnp.sum(a[..., :0]).astype(np.float32) for a in (x, *others)])
    return [jnp.where(False, everything.astype(a.dtype), a) for a in (x, *others)]


def _abstract(x: Any, *_: Any, gradient: bool, **__: Any) -> list[Any]:
    sharding = NamedSharding(x.sharding.mesh, _P(*x.sharding.spec[: x.ndim - 1]))
    losses = x.update(shape=x.shape[:-1], dtype=_real(x.dtype), sharding=sharding, weak_type=False)
    return [losses, x.update(weak_type=False)] if gradient else [losses]


def _jvp(primals: Sequence[Array], tangents: Sequence[Any], **params: Any) -> tuple[Sequence[Array], Sequence[Array]]:
    """What is walked is differentiated as its formula is."""
    places = [i for i, tangent in enumerate(tangents) if type(tangent) is not ad.Zero]

    def composed(*of: Array) -> Sequence[Array]:
        args = list(primals)
        for i, x in zip(places, of, strict=True):
            args[i] = x
        return _composed(*args, **params)

    changes = [tangents[i] for i in places]
    _, found = jax.jvp(composed, tuple(primals[i] for i in places), tuple(changes))
    return walk_p.bind(*primals, **params), found


def _batched(args: Sequence[Array], dims: Sequence[int | None], **params: Any) -> tuple[Sequence[Array], list[int]]:
    size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)

    def leading(name: str, a: Array, d: int | None) -> Array:
        if d is not None:
            return jnp.moveaxis(a, d, 0)
        is_shared = name == "class_weights" and a.ndim == 1
        return a if is_shared else jnp.broadcast_to(a, (size, *a.shape))

    names = ("logits", *params["given"])
    moved = [leading(name, a, d) for name, a, d in zip(names, args, dims, strict=True)]
    found = walk_p.bind(*moved, **params)
    return found, [0] * len(found)


def _composed(*args: Array, formula: Formula, given: tuple[str, ...], **_: Any) -> Sequence[Array]:
    """The formula of an operation's operands, row by row where class weights have axes of their own."""
    u = args[1 + given.index("class_weights")] if "class_weights" in given else None
    if u is None or u.ndim == 1:
        return formula(*args)
    found: Sequence[Array] = jax.vmap(functools.partial(_composed, formula=formula, given=given))(*args)
    return found


_lower_composed = mlir.lower_fun(_composed, multiple_results=True)


def _lowered(ctx: Any, *operands: Any, **params: Any) -> Any:
    """As a call of machine code where all is in this process and at hand, else as the formula."""
    given, gradient = params["given"], params["gradient"]
    if not _can_call(ctx):
        return _lower_composed(ctx, *operands, **params)
    is_spread = not _is_here(ctx)
    if is_spread and (params["coefficients"].measure != LOSS or not jax_spread().serves(ctx, given)):
        return _lower_composed(ctx, *operands, **params)
    x, shapes = ctx.avals_in[0], dict(zip(given, ctx.avals_in[1:], strict=True))
    is_free = gradient and _may_overwrite(operands[0])
    aliases = {0: 1} if is_free else None
    if _platform(ctx) == "cuda":
        if is_spread or not _is_launched(x, shapes):
            return _lower_composed(ctx, *operands, **params)
        target, words = _launch(params["coefficients"], x, shapes, gradient=gradient)
        operands = (operands[0], *(_as_the_kernel_has(name, a) for name, a in zip(given, operands[1:], strict=True)))
        return jax.ffi.ffi_lowering(target, operand_output_aliases=aliases)(ctx, *operands, call=words)
    kind, call = _call(params["coefficients"], x, shapes)
    arguments, results = ("logits", *given), ("losses", "out") if gradient else ("losses",)
    target, words = _target(kind), xla.attribute(call, arguments, results)
    if not is_spread:
        return jax.ffi.ffi_lowering(target, operand_output_aliases=aliases)(ctx, *operands, call=words)

    def walked(x: Array, *others: Array) -> Sequence[Array]:
        shapes = [x.shape[:-1], x.shape][: len(results)]
        types = [_shaped(shape, a.dtype) for shape, a in zip(shapes, ctx.avals_out, strict=True)]
        found: Sequence[Array] = jax.ffi.ffi_call(target, types, input_output_aliases=aliases)(x, *others, call=words)
        return found

    key = f"{target} {params['coefficients']} {words.tobytes().hex()} {is_free}"
    return jax_spread().lowered(ctx, operands, walked, params["coefficients"], given, key)


def jax_spread() -> Any:
    """What serves programs of several devices, when there is one."""
    from crossent.libraries import jax_spread

    return jax_spread


def _can_call(ctx: Any) -> bool:
    module = ctx.module_context
    platforms = tuple(module.platforms)
    if module.lowering_parameters.for_export or platforms not in (("cpu",), ("cuda",)):
        return False
    return problem(*platforms) is None and all(isinstance(n, int) for aval in ctx.avals_in for n in aval.shape)


def _is_here(ctx: Any) -> bool:
    """Whether what is lowered is the program of one device."""
    context = ctx.module_context.axis_context
    manual = getattr(context, "manual_axes", None)
    if manual is not None:
        return set(manual) == set(context.mesh.axis_names)
    return bool(getattr(context, "num_devices", 1) == 1)


def _platform(ctx: Any) -> str:
    """The only platform of a program that is here."""
    (platform,) = ctx.module_context.platforms
    return str(platform)


def _is_launched(x: Any, shapes: dict[str, Any]) -> bool:
    """Whether there is a launch for such logits: there are some, one line of class weights, and all devices serve."""
    u, v = shapes.get("class_weights"), x.shape[-1]
    if 0 in x.shape or (u is not None and u.ndim > 1):
        return False
    return all(cuda.obstacle(_NAMES[x.dtype], v, device) is None for device in devices())


def _launch(c: Coefficients, x: Any, shapes: dict[str, Any], *, gradient: bool) -> tuple[str, Any]:
    """The name of the handler that launches a kernel, and what the program holds of the launch."""
    v = x.shape[-1]
    names = {"logits": x, **shapes}
    formats = {name: _NAMES[a.dtype] for name, a in names.items() if a.dtype in _NAMES}
    t, soft, weight, u = (shapes.get(name) for name in ("targets", "soft", "weight", "class_weights"))
    rows = Rows(x, t, soft, weight, u, c, 0, v, x.dtype, "cuda")
    planned = programs.planned(rows, (math.prod(x.shape[:-1]), v), formats, devices(), gradient=gradient)
    results = ("losses", "gradient") if gradient else ("losses",)
    words = [planned.words[name] for name in (*names, *results)]
    return _target_of_launch(planned.name, planned.places), xla.launches(planned.lines, words)


def _as_the_kernel_has(name: str, operand: Any) -> Any:
    """An operand of a program, of which targets are widened: to 64 bits, which JAX has where it is asked for them."""
    from jax.extend.mlir import ir
    from jax.extend.mlir.dialects import stablehlo

    kind, word = ir.RankedTensorType(operand.type), ir.IntegerType.get_signless(64)
    if name != "targets" or kind.element_type == word:
        return operand
    return stablehlo.convert(ir.RankedTensorType.get(kind.shape, word), operand)


def _call(c: Coefficients, x: Any, shapes: dict[str, Any]) -> tuple[Kind, bytes]:
    """What a kernel is compiled for, and the words of a call without its addresses."""
    v, size, real = x.shape[-1], x.dtype.itemsize, _real(x.dtype).itemsize
    soft, targets = shapes.get("soft"), shapes.get("targets")
    transform, scale_of_logits, cap = transform_of(c)
    call = _NOTHING._replace(
        logits_step=v * size,
        soft_step=0 if soft is None else v * soft.dtype.itemsize,
        out_step=v * size,
        targets_size=0 if targets is None else targets.dtype.itemsize,
        scales=real,
        classes=v,
        vocabulary=v,
        ieee=c.ieee,
        walks=1,
        scale=c.inverse_temperature,
        divisor=1.0,
        target_mass=c.target_mass,
        smoothing=c.smoothing,
        includes_target=c.includes_target,
        z_loss=c.z_loss,
        scale_of_logits=scale_of_logits,
        cap=cap,
        mixture=c.mixture,
    )
    second = None if soft is None else _NAMES[soft.dtype]
    verb = WALK if c.measure == LOSS else MEASURE + MEASURES.index(c.measure)
    return Kind(verb, _NAMES[x.dtype], second, transform, v <= SHORT and verb == WALK), PACK(*call)


def _may_overwrite(x: Any) -> bool:
    """Whether the memory of logits is likely free once they are walked: a donated argument's, or what a program makes.

    What is not is copied by XLA, which costs more than a new buffer.
    """
    maker = x.owner
    while hasattr(maker, "operands"):
        name = maker.operation.name
        if name != "stablehlo.reshape":
            return bool(name != "stablehlo.constant")
        x = maker.operands[0]
        maker = x.owner
    # A block of instructions, of which the logits are an argument.
    function = maker.owner.operation
    if function.name != "func.func" or "arg_attrs" not in function.attributes:
        return False
    attributes = function.attributes["arg_attrs"][x.arg_number]
    return "tf.aliasing_output" in attributes or "jax.buffer_donor" in attributes


def _register() -> None:
    walk_p.def_abstract_eval(_abstract)
    walk_p.def_impl(_composed)
    ad.primitive_jvps[walk_p] = _jvp
    batching.primitive_batchers[walk_p] = _batched
    register: Any = mlir.register_lowering
    try:
        # Lowered where it stands: a function around it would hide whose memory the logits are.
        register(walk_p, _lowered, cacheable=False)
    except TypeError:  # before JAX had a cache of them
        register(walk_p, _lowered)


_register()
