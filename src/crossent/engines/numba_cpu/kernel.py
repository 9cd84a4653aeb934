"""The kernels, compiled for the dtypes of a call when they first appear, and kept on disk; which rows they can walk.

Numba's own cache is not used: it knows neither a damaged file nor one that another user wrote, and of the sources it
looks at one file alone. What it would put there is kept by `kept` instead.
"""

from __future__ import annotations

import functools
import importlib.resources
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.core import serialize
from numba.core.compiler import CompileResult
from numba.core.compiler_lock import global_compiler_lock

import crossent
from crossent.engines import kept
from crossent.engines.compiling import LOGGER, Once, log_if_slow
from crossent.engines.numba_cpu import long_rows, measures, short_rows
from crossent.engines.numba_cpu.measures import MEASURES
from crossent.engines.numba_cpu.vectors import format_of, inline
from crossent.math.rows import LOSS, Rows
from crossent.math.statistics import UNIT
from crossent.types import Array

# The verbs, as the kernels know them.
WALK, STATISTICS, GRADIENT, DESCRIBE, _MEASURE = range(5)
_VERBS = ("walk", "statistics", "gradient", "describe", *MEASURES)
_short, _long, _SHORT = short_rows.walk, long_rows.walk, short_rows.SHORT
_statistics, _gradient, _measure = long_rows.statistics, long_rows.gradient, measures.walk


def _function_of(verb: int) -> Callable[..., None]:
    """The function that Numba compiles."""

    def run(
        logits: Any,
        soft: Any,
        out: Any,
        targets: Any,
        table: Any,
        weight: Any,
        class_weights: Any,
        scales: Any,
        scale: float,
        target_mass: float,
        smoothing: float,
        includes_target: float,
        z_loss: float,
        ieee: bool,
        scale_of_logits: Any,
        cap: Any,
        first_class: int,
        vocabulary: int,
        mixture: float,
        spreads: Any,
        start: int,
        stop: int,
    ) -> None:
        # Of the rows from `start` to `stop`. table: the losses; or the statistics, line after line; or the numbers that
        # make the gradient. out: empty for the losses alone. soft: None for hard targets. weight, class_weights,
        # scales: empty where all are 1, 1 and `scale`. scale_of_logits, cap: see `transform.py`. spreads: what is
        # described, line after line.
        x, x_step, n, v = logits.ctypes.data, logits.strides[0], logits.shape[0], logits.shape[1]
        d, d_step = out.ctypes.data if out.size else 0, out.strides[0]
        formats = (format_of(logits), format_of(table), (scale_of_logits, cap))
        lines = (targets.ctypes.data, table.ctypes.data, _address(weight), _address(class_weights), _address(scales))
        numbers = (target_mass, smoothing, includes_target, z_loss, ieee, weight.size > 0)
        place = (first_class, vocabulary, n * table.itemsize)
        if soft is None:
            matrices = (x, x_step, 0, 0, d, d_step)
            if verb == STATISTICS:
                _statistics(formats, None, matrices, lines, v, place, numbers, start, stop)
            elif verb == GRADIENT:
                _gradient(formats, None, matrices, lines, v, place, numbers, start, stop)
            elif verb == DESCRIBE:
                table_of_spreads = (spreads.ctypes.data, n * table.itemsize)
                _walk(formats, None, matrices, lines, v, scale, numbers, table_of_spreads, start, stop)
            elif verb >= _MEASURE:
                _measure(verb - _MEASURE, formats, None, matrices, lines, v, scale, numbers, mixture, start, stop)
            else:
                _walk(formats, None, matrices, lines, v, scale, numbers, None, start, stop)
        else:
            matrices = (x, x_step, soft.ctypes.data, soft.strides[0], d, d_step)
            if verb == STATISTICS:
                _statistics(formats, format_of(soft), matrices, lines, v, place, numbers, start, stop)
            elif verb == GRADIENT:
                _gradient(formats, format_of(soft), matrices, lines, v, place, numbers, start, stop)
            elif verb >= _MEASURE:
                other = format_of(soft)
                _measure(verb - _MEASURE, formats, other, matrices, lines, v, scale, numbers, mixture, start, stop)
            else:
                _walk(formats, format_of(soft), matrices, lines, v, scale, numbers, None, start, stop)

    return run


@inline
def _walk(
    formats: Any,
    soft: Any,
    matrices: Any,
    lines: Any,
    v: int,
    scale: float,
    numbers: Any,
    spreads: Any,
    start: int,
    stop: int,
) -> None:
    if v <= _SHORT:
        _short(formats, soft, matrices, lines, v, scale, numbers, spreads, start, stop)
    else:
        _long(formats, soft, matrices, lines, v, scale, numbers, spreads, start, stop)


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
def kernel(name: str, soft: str | None = None, verb: int = WALK, transform: str | None = None) -> Callable[..., None]:
    """The verb compiled for logits and soft targets of the dtypes of those names, or read from the disk.

    transform: "scaled" or "capped" for logits that are.
    """
    real = types.float64 if name == "float64" else types.float32
    matrix = types.Array(_FORMATS[name], 2, "A", readonly=True)
    second = types.none if soft is None else matrix.copy(dtype=_FORMATS[soft])
    numbers = types.Array(real, 1, "C", readonly=True)
    targets, scales = (types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.float64))
    arrays = (
        matrix,
        second,
        matrix.copy(readonly=False),
        targets,
        numbers.copy(readonly=False),
        numbers,
        numbers,
        scales,
    )
    scaled = types.none if transform is None else real
    capped = real if transform == "capped" else types.none
    rest = (types.float64, numbers.copy(readonly=False), types.intp, types.intp)
    kinds = types.void(
        *arrays, types.float64, *[real] * 4, types.boolean, scaled, capped, types.intp, types.intp, *rest
    )
    compiled = numba.njit(nogil=True, error_model="numpy", boundscheck=False)(_function_of(verb))
    path = _path("-".join(filter(None, (_VERBS[verb], name, soft, transform))), compiled)
    if not _load(compiled, path):
        second = "soft targets" if verb < _MEASURE else "logits of a teacher"
        dtypes = name if soft is None else f"{name} logits and {soft} {second}"
        with log_if_slow(f"crossent compiles its kernel for {dtypes}, which takes some seconds"):
            compiled.compile(kinds)
        made = compiled.overloads[kinds.args]
        assert not made.library.has_dynamic_globals, "addresses of this process would be kept"
        kept.keep(path, serialize.dumps(made._reduce()))
    compiled.disable_compile()
    function: Callable[..., None] = compiled
    return function


def _path(stem: str, compiled: Any) -> Path | None:
    """Where a kernel is kept, under a name that changes with the kernels' sources, the compiler and the processor."""
    files = sorted(importlib.resources.files(__package__).iterdir(), key=lambda file: file.name)
    texts = [(file.name, file.read_bytes()) for file in files if file.name.endswith(".py")]
    versions = (crossent.__version__, sys.version, numba.__version__, llvmlite.__version__)
    name = kept.name(stem, texts, UNIT, versions, compiled.targetctx.codegen().magic_tuple())
    return kept.path(f"{name}.nbc", numba.config.CACHE_DIR)


def _load(compiled: Any, path: Path | None) -> bool:
    """Whether what is kept there is now what is run."""
    code = kept.read(path)
    if code is None:
        return False
    try:
        with global_compiler_lock:
            compiled.targetctx.refresh()
            compiled.add_overload(CompileResult._rebuild(compiled.targetctx, *pickle.loads(code)))
    except Exception as error:  # whole, but of another build of the same versions: it raises what it likes
        LOGGER.warning("crossent compiles its kernel anew: %s is of no use (%s: %s)", path, type(error).__name__, error)
        return False
    return True


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
    name = _name(rows.logits)
    if name is None or not (rows.soft is out is None or serves(rows, out)):
        return None
    targets = _NOTHING[_INTEGER] if rows.targets is None else rows.targets
    if not targets.flags.c_contiguous or targets.dtype != _INTEGER:
        targets = line(targets, _INTEGER)
    measure = rows.coefficients.measure
    verb = WALK if measure == LOSS else _MEASURE + MEASURES.index(measure)
    return _part(verb, name, rows, targets, losses, out, scale)


def describe(rows: Rows, losses: Array, spreads: Array) -> Callable[[int, int], None]:
    """A function of (start, stop) that writes the losses of those rows, and into the table `spreads` (4·N,) what else
    there is to tell of them: the maximum, Z − 1, the moment, and how many logits are above the target.
    """
    return _part(DESCRIBE, _NAMES[rows.logits.dtype], rows, line(rows.targets, _INTEGER), losses, None, None, spreads)


def statistics(rows: Rows, targets: Array, found: Array) -> Callable[[int, int], None]:
    """A function of (start, stop) that writes the statistics of rows, or of pieces of them, into the table `found`."""
    return _part(STATISTICS, _NAMES[rows.logits.dtype], rows._replace(weight=None), targets, found, None, None)


def gradient(rows: Rows, targets: Array, numbers: Array, out: Array) -> Callable[[int, int], None]:
    """A function of (start, stop) that writes the gradient of those rows, or pieces of rows, from `numbers` (4·N,)."""
    return _part(GRADIENT, _NAMES[rows.logits.dtype], rows, targets, numbers, out, None)


# Kernels that have been used, so that a small call need not ask for one.
_used: dict[tuple[str, str | None, int, str | None], Callable[..., None]] = {}


def _part(
    verb: int,
    name: str,
    rows: Rows,
    targets: Array,
    table: Array,
    out: Array | None,
    scale: Array | float | None,
    spreads: Array | None = None,
) -> Callable[[int, int], None]:
    logits, soft, soft_name = rows.logits, None, None
    if name == "float16":
        logits = logits.view(np.int16)
    if rows.soft is not None:
        soft, soft_name = _bits(rows.soft)
    real, c = table.dtype, rows.coefficients
    nothing, scales, factor = _NOTHING[real], _NOTHING[_DOUBLE], 1.0
    if type(scale) is float:
        factor = scale
    elif scale is not None:
        if not isinstance(scale, float) and scale.ndim:
            scales = line(scale, _DOUBLE)
        else:
            factor = float(scale)
    transform = scale_of_logits = cap = None
    if c.softcap:
        transform, scale_of_logits, cap = "capped", 2.0 * c.inverse_temperature / c.softcap, c.softcap
    elif c.inverse_temperature != 1.0:
        transform, scale_of_logits = "scaled", c.inverse_temperature
    if c.inverse_temperature != 1.0:
        factor, scales = factor * c.inverse_temperature, scales * c.inverse_temperature
    kind = (name, soft_name, verb, transform)
    used = _used.get(kind)
    if used is None:
        used = _used[kind] = kernel(*kind)
    return functools.partial(
        used,
        logits,
        soft,
        _NO_GRADIENT[name] if out is None else _bits(out)[0],
        targets,
        table,
        nothing if rows.weight is None else line(rows.weight, real),
        nothing if rows.class_weights is None else line(rows.class_weights, real),
        scales,
        factor,
        c.target_mass,
        c.smoothing,
        c.includes_target,
        c.z_loss,
        c.ieee,
        scale_of_logits,
        cap,
        rows.first_class,
        rows.vocabulary,
        c.mixture,
        nothing if spreads is None else spreads,
    )


def _bits(data: Array) -> tuple[Array, str]:
    """A matrix in a format that the kernel knows, and the name of its dtype."""
    name = _NAMES[data.dtype]
    return data.view(np.int16) if name == "float16" else data, name


def line(x: Array, dtype: Any) -> Array:
    """A number per row, or per class, side by side."""
    flags = x.flags
    return x if x.dtype == dtype and flags.c_contiguous and flags.aligned else np.array(x, dtype, order="C")
