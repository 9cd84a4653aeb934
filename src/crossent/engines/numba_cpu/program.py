"""What Numba compiles: from the words of a call to the walks, as a function of C's. Nothing else imports Numba.

The rows of a call are walked a part at a time, of a height that depends on the number of columns alone: the targets of
a part are read and checked, its rows walked, and its losses added up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import compiler, config, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from crossent.engines.numba_cpu import long_rows, measures, short_rows
from crossent.engines.numba_cpu.elements import (
    count_outside,
    load_double,
    load_first,
    load_int32,
    load_place,
    mark_others,
    scratch,
    store_double,
    store_one,
    store_place,
)
from crossent.engines.numba_cpu.functions import added, sum_of_lanes
from crossent.engines.numba_cpu.lanes import itemsize, lanes, widened
from crossent.engines.numba_cpu.layout import DESCRIBE, GRADIENT, MEASURE, MOST, STATISTICS, WALK, WORD, Kind
from crossent.engines.numba_cpu.layout import height_of as _height_of
from crossent.engines.numba_cpu.vectors import format_like, inline, vector_like

# The formats that elements of a matrix have for the kernel: bfloat16 comes as uint16 bits, float16 as int16 bits.
_FORMATS: dict[str, Any] = {
    "float32": types.float32,
    "float64": types.float64,
    "bfloat16": types.uint16,
    "float16": types.int16,
}
# What LLVM may call instead of a loop, and what handlers of XLA's take of the system; every process has it.
_LIBRARY = frozenset(("memcpy", "memmove", "memset", "malloc", "free", "sched_yield", "madvise", "strncat"))
_TARGETS, _WEIGHTS = MOST * 8, MOST * 8
height_of = inline(_height_of)

_logits, _logits_step, _soft, _soft_step = (WORD[name] for name in ("logits", "logits_step", "soft", "soft_step"))
_out, _out_step, _line = (WORD[name] for name in ("out", "out_step", "line"))
_within, _within_own = WORD["within"], WORD["within_own"]
_targets, _targets_size, _checked = (WORD[name] for name in ("targets", "targets_size", "checked"))
_ignores, _ignored, _losses, _sums, _value = (WORD[name] for name in ("ignores", "ignored", "losses", "sums", "value"))
_weight, _class_weights, _scales, _spreads = (WORD[name] for name in ("weight", "class_weights", "scales", "spreads"))
_classes, _first_class, _vocabulary, _ieee = (WORD[name] for name in ("classes", "first_class", "vocabulary", "ieee"))
_walks, _scale, _divisor, _mixture = (WORD[name] for name in ("walks", "scale", "divisor", "mixture"))
_target_mass, _smoothing, _includes_target, _z_loss = (
    WORD[name] for name in ("target_mass", "smoothing", "includes_target", "z_loss")
)
_scale_of_logits, _cap, _start, _stop = (WORD[name] for name in ("scale_of_logits", "cap", "start", "stop"))


@inline
def _address(call: int, word: int) -> int:
    """Of an array, 0 where there is none: the word itself, or what stands at a place in the object that it names."""
    named, within = load_place(call + word), load_place(call + _within)
    return load_place(named + within) if named != 0 and within != 0 else named


@inline
def _own(call: int, word: int) -> int:
    """The same of what the caller has made for results."""
    named, within = load_place(call + word), load_place(call + _within_own)
    return load_place(named + within) if named != 0 and within != 0 else named


@inline
def _matrices(call: int) -> tuple[int, int, int, int, int, int]:
    return (
        _address(call, _logits),
        load_place(call + _logits_step),
        _address(call, _soft),
        load_place(call + _soft_step),
        _address(call, _out),
        load_place(call + _out_step),
    )


@inline
def _read_targets(call: int, losses: Any, i: int, live: int, table: int, weights: int) -> tuple[int, int, int, int]:
    """The targets of `live` rows from number `i` on: how many are outside of the vocabulary, and how many rows count.

    Besides, the addresses of these targets as int64, and of the rows' weights where some do not count (else 0).
    """
    given, size = _address(call, _targets), load_place(call + _targets_size)
    given += i * size
    if size == 4:
        for k in range(live):
            store_place(table + 8 * k, load_int32(given + 4 * k))
        given = table
    ignores, ignored, n = load_place(call + _ignores) != 0, load_place(call + _ignored), lanes(losses)
    outside, kept = 0, live
    if load_place(call + _checked) != 0:
        stop = load_place(call + _vocabulary)
        for k in range(0, live, n):
            outside += count_outside(losses, given + 8 * k, live - k, stop, ignores, ignored)
    if ignores:
        kept = 0
        for k in range(0, live, n):
            kept += mark_others(losses, given + 8 * k, live - k, ignored, weights + k * itemsize(losses))
    return outside, kept, given, weights if kept < live else 0


@inline
def _sum(losses: Any, line: int, live: int, by: float) -> float:
    """Of losses, each of which is divided before it is added: their sum may be past the widest float."""
    n, size, part = lanes(losses), itemsize(losses), 1.0 / by
    high = low = widened(vector_like(losses, 0.0))
    for k in range(0, live, n):
        term = widened(load_first(losses, line + k * size, live - k, 0.0)) * part
        if size == 8:
            high, low = added(high, low, term)
        else:
            high = high + term
    return sum_of_lanes(high, low)


def _function_of(kind: Kind) -> Callable[[int], int]:
    """The function of the address of a call's words. It returns how many targets are not accepted."""
    logits = format_like(_FORMATS[kind.dtype])
    losses = format_like(_FORMATS["float64" if kind.dtype == "float64" else "float32"])
    second = None if kind.soft is None else format_like(_FORMATS[kind.soft])
    real, verb, walk_of = np.float64 if kind.dtype == "float64" else np.float32, kind.verb, long_rows.walk
    if kind.short:
        walk_of = short_rows.walk
    scaled, capped = kind.transform is not None, kind.transform == "capped"
    statistics, gradient, measure = long_rows.statistics, long_rows.gradient, measures.walk

    @inline
    def numbers_of(call: int, weighs: bool) -> Any:
        return (
            real(load_double(call + _target_mass)),
            real(load_double(call + _smoothing)),
            real(load_double(call + _includes_target)),
            real(load_double(call + _z_loss)),
            load_place(call + _ieee) != 0,
            weighs,
        )

    if capped:

        @inline
        def formats_of(call: int) -> Any:
            transform = (real(load_double(call + _scale_of_logits)), real(load_double(call + _cap)))
            return logits(), losses(), transform

    elif scaled:

        @inline
        def formats_of(call: int) -> Any:
            return logits(), losses(), (real(load_double(call + _scale_of_logits)), None)

    else:

        @inline
        def formats_of(call: int) -> Any:
            return logits(), losses(), (None, None)

    if second is None:

        @inline
        def soft_of() -> Any:
            return None

    else:

        @inline
        def soft_of() -> Any:
            return second()

    def halves(call: int) -> int:
        formats, soft, weight = formats_of(call), soft_of(), _address(call, _weight)
        table, u = _own(call, _losses), _address(call, _class_weights)
        lines = (_address(call, _targets), table, weight, u, 0)
        v, numbers = load_place(call + _classes), numbers_of(call, weight != 0)
        place = (load_place(call + _first_class), load_place(call + _vocabulary), load_place(call + _line))
        start, stop = load_place(call + _start), load_place(call + _stop)
        if verb == STATISTICS:
            statistics(formats, soft, _matrices(call), lines, v, place, numbers, start, stop)
        else:
            gradient(formats, soft, _matrices(call), lines, v, place, numbers, start, stop)
        return 0

    def of_measure(call: int) -> int:
        formats, soft, weight = formats_of(call), soft_of(), _address(call, _weight)
        lines = (0, _own(call, _losses), weight, 0, _address(call, _scales))
        v, numbers, mixture = load_place(call + _classes), numbers_of(call, weight != 0), load_double(call + _mixture)
        start, stop, scale = load_place(call + _start), load_place(call + _stop), load_double(call + _scale)
        measure(verb - MEASURE, formats, soft, _matrices(call), lines, v, scale, numbers, mixture, start, stop)
        return 0

    def described(call: int) -> int:
        formats, spreads = formats_of(call), (_own(call, _spreads), load_place(call + _line))
        lines = (_address(call, _targets), _own(call, _losses), _address(call, _weight), 0, 0)
        v, numbers = load_place(call + _classes), numbers_of(call, _address(call, _weight) != 0)
        start, stop = load_place(call + _start), load_place(call + _stop)
        walk_of(formats, None, _matrices(call), lines, v, 0.0, numbers, spreads, start, stop)
        return 0

    def walk(call: int) -> int:
        formats, soft = formats_of(call), soft_of()
        size = itemsize(formats[1])
        x, x_step, q, q_step, d, d_step = _matrices(call)
        loss, u = _own(call, _losses), _address(call, _class_weights)
        weight, scales, v = _address(call, _weight), _address(call, _scales), load_place(call + _classes)
        sums, value, divisor = _own(call, _sums), _own(call, _value), load_double(call + _divisor)
        has_targets, walks = load_place(call + _targets_size) != 0, load_place(call + _walks) != 0
        ieee = load_place(call + _ieee) != 0
        start, stop, outside, height = load_place(call + _start), load_place(call + _stop), 0, height_of(v)
        targets, weights, own_losses = scratch(_TARGETS), scratch(_WEIGHTS), scratch(_WEIGHTS)
        i = start
        while i < stop:
            live = min(height, stop - i)
            wrong, kept, t, w = 0, live, 0, 0
            if has_targets:
                wrong, kept, t, w = _read_targets(call, formats[1], i, live, targets, weights)
            if ieee:
                # A row that does not count is no row of weight 0 there, whatever it holds.
                wrong += live - kept
            outside += wrong
            if sums != 0:
                store_double(sums + 16 * (i // height) + 8, float(kept))
            if not walks or wrong != 0:
                i += live
                continue
            if weight != 0:
                w = weight + i * size
            line = loss + i * size if loss != 0 else own_losses
            by = float(max(kept, 1)) if divisor == 0.0 else divisor
            lines = (t, line, w, u, scales + 8 * i if scales != 0 else 0)
            matrices = (x + i * x_step, x_step, q + i * q_step, q_step, d + i * d_step if d != 0 else 0, d_step)
            scale = load_double(call + _scale) / by
            walk_of(formats, soft, matrices, lines, v, scale, numbers_of(call, w != 0), None, 0, live)
            if sums != 0 or value != 0:
                total = _sum(formats[1], line, live, by)
                if sums != 0:
                    store_double(sums + 16 * (i // height), total)
                if value != 0:
                    store_one(formats[1], value, real(total))
            i += live
        return outside

    if verb == WALK:
        return walk
    if verb == DESCRIBE:
        return described
    return halves if verb in (STATISTICS, GRADIENT) else of_measure


def machine_code(kind: Kind, name: str) -> bytes:
    """An object file with the kernel of that kind, as a function of that name of C's: int64 from int64."""
    return object_file(_function_of(kind), name)


def object_file(function: Callable[[int], int], name: str) -> bytes:
    """An object file with a function of an int64, as one of that name of C's."""
    with global_compiler_lock:
        target, typing = cpu_target.target_context, cpu_target.typing_context
        flags = compiler.Flags()
        flags.no_cpython_wrapper = flags.no_cfunc_wrapper = flags.no_compile = True
        flags.error_model = "numpy"
        with _parts_as_they_are():
            made = compiler.compile_extra(typing, target, function, (types.intp,), types.intp, flags, {})
        library = made.library
        _export(target, library, made.fndesc, name)
        library.enable_object_caching()
        library.finalize()
        unknown = {line.split("@")[1].split("(")[0] for line in library.get_llvm_str().splitlines() if _declares(line)}
        assert unknown <= _LIBRARY, f"functions of this process would be kept: {unknown}"
        code: bytes = library._get_compiled_object()
        return code


@contextlib.contextmanager
def _parts_as_they_are() -> Iterator[None]:
    """Functions that become parts of another are optimised there, and hardly before, where it would be time lost."""
    chosen = config.OPT
    config.OPT = type(chosen)(min(int(chosen), 1))
    try:
        yield
    finally:
        config.OPT = chosen


def _declares(line: str) -> bool:
    return line.startswith("declare") and "@llvm." not in line


def _export(target: Any, library: Any, described: Any, name: str) -> None:
    """A function of C's around one of Numba's, which has a convention of its own."""
    module, word = library.create_ir_module(name), ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(word, [word]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    inner = target.declare_function(module, described)
    _, result = target.call_conv.call_function(builder, inner, described.restype, described.argtypes, function.args)
    builder.ret(result)
    library.add_ir_module(module)
