"""The kernel, compiled for the dtypes of a call when they first appear, and kept on disk; which rows it can walk.

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

from crossent.arrays import Array
from crossent.engines.compiling import LOGGER, Once, told
from crossent.engines.memory import Memory
from crossent.engines.numba_cpu import narrow, wide
from crossent.engines.numba_cpu.vectors import format_of, inline
from crossent.engines.rows import Rows

_narrow, _wide, _NARROW = narrow.walk, wide.walk, narrow.NARROW


def _walk_of(source: str) -> Callable[..., None]:
    """The function that Numba compiles; it keeps the fingerprint, so that new text makes what is on the disk stale."""

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
        keep: float,
        spread: float,
        share: float,
        square: float,
        limits: bool,
        start: int,
        stop: int,
    ) -> None:
        # The losses of the rows from `start` to `stop`, and their gradient where `out` is not empty.
        # soft: None for hard targets. weight, class_weights, scales: empty where all are 1, 1 and `scale`.
        source  # noqa: B018
        x, d = logits.ctypes.data, out.ctypes.data if out.size else 0
        x_step, d_step = logits.strides[0], out.strides[0]
        lines = (targets.ctypes.data, losses.ctypes.data, _address(weight), _address(class_weights), _address(scales))
        coefficients = (keep, spread, share, square, limits, weight.size > 0)
        formats = (format_of(logits), format_of(losses))
        v = logits.shape[1]
        if soft is None:
            matrices = (x, x_step, 0, 0, d, d_step)
            _walk_memory(formats, None, matrices, lines, v, scale, coefficients, start, stop)
        else:
            matrices = (x, x_step, soft.ctypes.data, soft.strides[0], d, d_step)
            _walk_memory(formats, format_of(soft), matrices, lines, v, scale, coefficients, start, stop)

    return walk


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
    if v <= _NARROW:
        _narrow(logits, soft, losses, matrices, lines, v, scale, coefficients, start, stop)
    else:
        _wide(logits, soft, losses, matrices, lines, v, scale, coefficients, start, stop)


@inline
def _address(line: Any) -> int:
    """Where an array of one number per row or class begins; 0 where there is none."""
    return line.ctypes.data if line.size else 0


# The formats that elements of a matrix have for the kernel: bfloat16 comes as uint16 bits, float16 as int16 bits.
_FORMATS = {"float32": types.float32, "float64": types.float64, "bfloat16": types.uint16, "float16": types.int16}
_NAMES = {np.dtype(name): name for name in ("float32", "float64", "float16")}
_NO_GRADIENT = {name: np.empty((0, 0), str(kind)) for name, kind in _FORMATS.items()}
_SINGLE, _DOUBLE, _INTEGER = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_NOTHING = {dtype: np.empty(0, dtype) for dtype in (_SINGLE, _DOUBLE, _INTEGER)}


@Once
def kernel(name: str, soft: str | None = None) -> Callable[..., None]:
    """The walk compiled for logits and soft targets of the dtypes of those names, or read from the disk."""
    element = _FORMATS[name]
    real = types.float64 if name == "float64" else types.float32
    matrix = types.Array(element, 2, "A", readonly=True)
    numbers = types.Array(real, 1, "C", readonly=True)
    kinds = types.void(
        matrix,
        types.none if soft is None else matrix.copy(dtype=_FORMATS[soft]),
        matrix.copy(readonly=False),
        types.Array(types.int64, 1, "C", readonly=True),
        numbers.copy(readonly=False),
        numbers,
        numbers,
        types.Array(types.float64, 1, "C", readonly=True),
        types.float64,
        *[real] * 4,
        types.boolean,
        types.intp,
        types.intp,
    )
    walk = _walk_of(_source())
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    dtypes = name if soft is None else f"{name} logits and {soft} soft targets"
    compiled: Callable[..., None]
    with told(f"crossent compiles its kernel for {dtypes}, which takes some seconds"):
        try:
            compiled = numba.njit([kinds], cache=True, **options)(walk)
        except Exception as error:
            # No folder to keep it in, a full disk, another user's files, a damaged one: each raises what it likes.
            LOGGER.warning("crossent can not keep its kernel on disk (%s: %s)", type(error).__name__, error)
            compiled = numba.njit([kinds], **options)(walk)
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


def serves(rows: Rows, out: Memory | None) -> bool:
    """Whether `work` can walk these rows of host memory: any step from row to row, but elements side by side."""
    logits, soft = rows.logits, rows.soft
    if rows.coefficients.floor or not _is_plain(logits):
        return False
    if soft is not None and not (_is_plain(soft) and _is_double(soft) == _is_double(logits)):
        return False
    return out is None or (_is_plain(out) and out.data.dtype == logits.data.dtype)


def _is_plain(memory: Memory) -> bool:
    data, is_bfloat16 = memory
    dtype = data.dtype
    side_by_side = data.strides[1] == dtype.itemsize or data.shape[1] == 1
    return side_by_side and data.flags.aligned and (is_bfloat16 or dtype in _NAMES)


def _is_double(memory: Memory) -> bool:
    return bool(memory.data.dtype == np.float64)


def work(rows: Rows, losses: Array, scale: Array | float, out: Memory | None) -> Callable[[int, int], None]:
    """A function of (start, stop) that writes the losses of those rows, and with `out` their gradient.

    rows: as `serves` accepts them. losses: (N,), contiguous, of the compute dtype. scale: a number, 0-d or (N,). Parts
    of the rows may be walked at the same time, in any order.
    """
    logits, name = _bits(rows.logits)
    soft, soft_name = (None, None) if rows.soft is None else _bits(rows.soft)
    real = losses.dtype
    per_row = not isinstance(scale, float) and scale.ndim == 1
    c = rows.coefficients
    return functools.partial(
        kernel(name, soft_name),
        logits,
        soft,
        _NO_GRADIENT[name] if out is None else _bits(out)[0],
        _line(rows.targets, _INTEGER),
        losses,
        _line(rows.weight, real),
        _line(rows.class_weights, real),
        _line(scale if per_row else None, _DOUBLE),
        1.0 if per_row else float(scale),
        c.keep,
        c.spread,
        float(c.share),
        c.square,
        c.limits,
    )


def _bits(memory: Memory) -> tuple[Array, str]:
    """A matrix in a format that the kernel knows, and the name of its dtype."""
    data, is_bfloat16 = memory
    if is_bfloat16:
        return data, "bfloat16"
    name = _NAMES[data.dtype]
    return data.view(np.int16) if name == "float16" else data, name


def _line(x: Array | None, dtype: Any) -> Array:
    """A number per row, or per class, side by side; nothing where there is none."""
    if x is None:
        return _NOTHING[dtype]
    flags = x.flags
    return x if x.dtype == dtype and flags.c_contiguous and flags.aligned else np.array(x, dtype, order="C")
