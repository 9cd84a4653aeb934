"""The kernels, compiled for the dtypes of a call when they first appear, and kept on disk; which rows they can walk.

Numba reads a compiled function from the disk where neither the source file nor the processor has changed. It looks at
this file alone, so what is compiled holds a fingerprint of the other rooms.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import types

from crossent.engines.compiling import LOGGER, Once, log_if_slow
from crossent.engines.numba_cpu import long_rows, short_rows
from crossent.engines.numba_cpu.vectors import format_of, inline
from crossent.math.rows import Coefficients, Rows
from crossent.types import Array

_short, _long, _SHORT = short_rows.walk, long_rows.walk, short_rows.SHORT
_statistics, _gradient = long_rows.statistics, long_rows.gradient


# The functions that Numba compiles. Each keeps the fingerprint, so that new text makes what is on the disk stale.


def _walk_of(source: str) -> Callable[..., None]:
    def walk(
        logits: Any,
        soft: Any,
        out: Any,
        targets: Any,
        losses: Any,
        weight: Any,
        class_weights: Any,
        scales: Any,
        scale: float,
        target_mass: float,
        smoothing: float,
        includes_target: float,
        z_loss: float,
        ieee: bool,
        start: int,
        stop: int,
    ) -> None:
        # The losses of the rows from `start` to `stop`, and their gradient where `out` is not empty.
        # soft: None for hard targets. weight, class_weights, scales: empty where all are 1, 1 and `scale`.
        source  # noqa: B018
        x, d = logits.ctypes.data, out.ctypes.data if out.size else 0
        x_step, d_step = logits.strides[0], out.strides[0]
        lines = (targets.ctypes.data, losses.ctypes.data, _address(weight), _address(class_weights), _address(scales))
        coefficients = (target_mass, smoothing, includes_target, z_loss, ieee, weight.size > 0)
        formats = (format_of(logits), format_of(losses))
        v = logits.shape[1]
        if soft is None:
            matrices = (x, x_step, 0, 0, d, d_step)
            _walk_memory(formats, None, matrices, lines, v, scale, coefficients, start, stop)
        else:
            matrices = (x, x_step, soft.ctypes.data, soft.strides[0], d, d_step)
            _walk_memory(formats, format_of(soft), matrices, lines, v, scale, coefficients, start, stop)

    return walk


def _statistics_of(source: str) -> Callable[..., None]:
    def statistics(
        logits: Any,
        soft: Any,
        targets: Any,
        found: Any,
        class_weights: Any,
        target_mass: float,
        smoothing: float,
        includes_target: float,
        z_loss: float,
        ieee: bool,
        first_class: int,
        vocabulary: int,
        start: int,
        stop: int,
    ) -> None:
        # found: a line for each number of `long_rows.statistics`.
        source  # noqa: B018
        x, x_step, v = logits.ctypes.data, logits.strides[0], logits.shape[1]
        lines = (targets.ctypes.data, _address(class_weights), found.ctypes.data, found.strides[0])
        c = (target_mass, smoothing, includes_target, z_loss, ieee, False)
        x_format, format = format_of(logits), format_of(found)
        if soft is None:
            m = (x, x_step, 0, 0)
            _statistics(x_format, None, format, m, lines, v, c, first_class, vocabulary, start, stop)
        else:
            m = (x, x_step, soft.ctypes.data, soft.strides[0])
            _statistics(x_format, format_of(soft), format, m, lines, v, c, first_class, vocabulary, start, stop)

    return statistics


def _gradient_of(source: str) -> Callable[..., None]:
    def gradient(
        logits: Any,
        soft: Any,
        out: Any,
        targets: Any,
        numbers: Any,
        weight: Any,
        class_weights: Any,
        target_mass: float,
        smoothing: float,
        includes_target: float,
        z_loss: float,
        ieee: bool,
        first_class: int,
        start: int,
        stop: int,
    ) -> None:
        # numbers: a line for each number of `long_rows.gradient`.
        source  # noqa: B018
        x, x_step, d, d_step = logits.ctypes.data, logits.strides[0], out.ctypes.data, out.strides[0]
        lines = (
            targets.ctypes.data,
            _address(weight),
            _address(class_weights),
            numbers.ctypes.data,
            numbers.strides[0],
        )
        c = (target_mass, smoothing, includes_target, z_loss, ieee, weight.size > 0)
        v, x_format, format = logits.shape[1], format_of(logits), format_of(numbers)
        if soft is None:
            m = (x, x_step, 0, 0, d, d_step)
            _gradient(x_format, None, format, m, lines, v, c, first_class, start, stop)
        else:
            m = (x, x_step, soft.ctypes.data, soft.strides[0], d, d_step)
            _gradient(x_format, format_of(soft), format, m, lines, v, c, first_class, start, stop)

    return gradient


@functools.cache
def _source() -> str:
    """A fingerprint of the text of the kernels."""
    text = b""
    with contextlib.suppress(OSError):
        for path in sorted(Path(__file__).parent.glob("*.py")):
            text += path.read_bytes()
    return hashlib.sha256(text).hexdigest()


@inline
def _walk_memory(
    formats: Any, soft: Any, matrices: Any, lines: Any, v: int, scale: float, coefficients: Any, start: int, stop: int
) -> None:
    logits, losses = formats
    if v <= _SHORT:
        _short(logits, soft, losses, matrices, lines, v, scale, coefficients, start, stop)
    else:
        _long(logits, soft, losses, matrices, lines, v, scale, coefficients, start, stop)


@inline
def _address(line: Any) -> int:
    """Where an array of one number per row or class begins; 0 where there is none."""
    return line.ctypes.data if line.size else 0


# The formats that elements of a matrix have for the kernel: bfloat16 comes as uint16 bits, float16 as int16 bits.
_FORMATS = {"float32": types.float32, "float64": types.float64, "bfloat16": types.uint16, "float16": types.int16}
_SINGLE, _DOUBLE, _INTEGER = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_NAMES = {_SINGLE: "float32", _DOUBLE: "float64", np.dtype(np.float16): "float16", np.dtype(np.uint16): "bfloat16"}
_NO_GRADIENT = {name: np.empty((0, 0), str(kind)) for name, kind in _FORMATS.items()}
_NOTHING = {dtype: np.empty(0, dtype) for dtype in (_SINGLE, _DOUBLE, _INTEGER)}


@Once
def kernel(name: str, soft: str | None = None, verb: str = "walk") -> Callable[..., None]:
    """The verb compiled for logits and soft targets of the dtypes of those names, or read from the disk."""
    element = _FORMATS[name]
    real = types.float64 if name == "float64" else types.float32
    matrix = types.Array(element, 2, "A", readonly=True)
    out = matrix.copy(readonly=False)
    second = types.none if soft is None else matrix.copy(dtype=_FORMATS[soft])
    numbers = types.Array(real, 1, "C", readonly=True)
    table = types.Array(real, 2, "C")
    integers = types.Array(types.int64, 1, "C", readonly=True)
    scales = types.Array(types.float64, 1, "C", readonly=True)
    coefficients = (*[real] * 4, types.boolean)
    place = types.intp
    given: dict[str, tuple[Callable[[str], Callable[..., None]], tuple[Any, ...]]] = {
        "walk": (
            _walk_of,
            (out, integers, numbers.copy(readonly=False), numbers, numbers, scales, types.float64, *coefficients),
        ),
        "statistics": (
            _statistics_of,
            (integers.copy(readonly=False), table, numbers, *coefficients, place, place),
        ),
        "gradient": (_gradient_of, (out, integers, table, numbers, numbers, *coefficients, place)),
    }
    make, others = given[verb]
    kinds = types.void(matrix, second, *others, place, place)
    function = make(_source())
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    dtypes = name if soft is None else f"{name} logits and {soft} soft targets"
    compiled: Callable[..., None]
    with log_if_slow(f"crossent compiles its kernel for {dtypes}, which takes some seconds"):
        try:
            compiled = numba.njit([kinds], cache=True, **options)(function)
        except Exception as error:
            # No folder to keep it in, a full disk, another user's files, a damaged one: each raises what it likes.
            LOGGER.warning("crossent can not keep its kernel on disk (%s: %s)", type(error).__name__, error)
            compiled = numba.njit([kinds], **options)(function)
    return compiled


def problem() -> str | None:
    """Why the kernel cannot run here; None where it can."""
    if numba.config.DISABLE_JIT:
        return "Numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    name = llvmlite.binding.get_default_triple().split("-")[0]
    features = llvmlite.binding.get_host_cpu_features()
    if name in ("aarch64", "arm64") or (name == "x86_64" and features.get("fma") and features.get("f16c")):
        return None
    return f"this processor ({name}) has no fused multiply-add, or no float16 in hardware"


def serves(rows: Rows, out: Array | None) -> bool:
    """Whether the kernels can walk these rows of host memory: any step from row to row, but elements side by side."""
    logits, soft = rows.logits, rows.soft
    if _name(logits) is None:
        return False
    if soft is not None and (_name(soft) is None or (soft.itemsize == 8) != (logits.itemsize == 8)):
        return False
    return out is None or (_name(out) is not None and out.dtype == logits.dtype)


def _name(data: Array) -> str | None:
    """The name of a matrix's dtype; None where its elements are not side by side, or not as this processor has them."""
    size = data.itemsize
    if (data.strides[1] == size or data.shape[1] == 1) and data.flags.aligned:
        return _NAMES.get(data.dtype)
    return None


def walk(
    rows: Rows, losses: Array, scale: Array | float | None, out: Array | None
) -> Callable[[int, int], None] | None:
    """A function of (start, stop) that writes the losses of those rows, and with `out` their gradient.

    losses: (N,), contiguous, of the compute dtype. scale: a number, 0-d or (N,). Parts of the rows may be walked at the
    same time, in any order. None for rows that `serves` does not accept.
    """
    logits, soft, soft_name = rows.logits, None, None
    name = _name(logits)
    if name is None or not (rows.soft is out is None or serves(rows, out)):
        return None
    if name == "float16":
        logits = logits.view(np.int16)
    if rows.soft is not None:
        soft, soft_name = _bits(rows.soft)
    targets = _NOTHING[_INTEGER] if rows.targets is None else rows.targets
    if not targets.flags.c_contiguous or targets.dtype != _INTEGER:
        targets = line(targets, _INTEGER)
    real, c = losses.dtype, rows.coefficients
    nothing, no_scales = _NOTHING[real], _NOTHING[_DOUBLE]
    factor = 1.0
    if type(scale) is float:
        factor = scale
    elif scale is not None:
        if not isinstance(scale, float) and scale.ndim:
            no_scales = line(scale, _DOUBLE)
        else:
            factor = float(scale)
    return functools.partial(
        _walks.get((name, soft_name)) or _walk_kernel(name, soft_name),
        logits,
        soft,
        _NO_GRADIENT[name] if out is None else _bits(out)[0],
        targets,
        losses,
        nothing if rows.weight is None else line(rows.weight, real),
        nothing if rows.class_weights is None else line(rows.class_weights, real),
        no_scales,
        factor,
        c.target_mass,
        c.smoothing,
        c.includes_target,
        c.z_loss,
        c.ieee,
    )


# The kernels of `walk`, so that a small call need not ask for one.
_walks: dict[tuple[str, str | None], Callable[..., None]] = {}


def _walk_kernel(name: str, soft_name: str | None) -> Callable[..., None]:
    found = _walks[name, soft_name] = kernel(name, soft_name)
    return found


def statistics(rows: Rows, targets: Array, found: Array) -> Callable[[int, int], None]:
    """A function of (start, stop) that writes the statistics of those rows, or pieces of rows, into `found` (7, N)."""
    logits, name = _bits(rows.logits)
    soft, soft_name = (None, None) if rows.soft is None else _bits(rows.soft)
    u = _NOTHING[found.dtype] if rows.class_weights is None else line(rows.class_weights, found.dtype)
    given = (logits, soft, targets, found, u, *_numbers(rows.coefficients), rows.first_class, rows.vocabulary)
    return functools.partial(kernel(name, soft_name, "statistics"), *given)


def gradient(rows: Rows, targets: Array, numbers: Array, out: Array) -> Callable[[int, int], None]:
    """A function of (start, stop) that writes the gradient of those rows, or pieces of rows, from `numbers` (4, N)."""
    logits, name = _bits(rows.logits)
    soft, soft_name = (None, None) if rows.soft is None else _bits(rows.soft)
    nothing = _NOTHING[numbers.dtype]
    weight = nothing if rows.weight is None else line(rows.weight, numbers.dtype)
    u = nothing if rows.class_weights is None else line(rows.class_weights, numbers.dtype)
    given = (logits, soft, _bits(out)[0], targets, numbers, weight, u, *_numbers(rows.coefficients), rows.first_class)
    return functools.partial(kernel(name, soft_name, "gradient"), *given)


def _numbers(c: Coefficients) -> tuple[Any, ...]:
    return c.target_mass, c.smoothing, c.includes_target, c.z_loss, c.ieee


def _bits(data: Array) -> tuple[Array, str]:
    """A matrix in a format that the kernel knows, and the name of its dtype."""
    name = _NAMES[data.dtype]
    return data.view(np.int16) if name == "float16" else data, name


def line(x: Array, dtype: Any) -> Array:
    """A number per row, or per class, side by side."""
    flags = x.flags
    return x if x.dtype == dtype and flags.c_contiguous and flags.aligned else np.array(x, dtype, order="C")
