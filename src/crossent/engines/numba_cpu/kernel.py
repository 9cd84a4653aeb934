"""Calls of the compiled kernels: which one a call is for, which rows it can walk, and the words that it is told.

Kernels are made for the dtypes of a call when they first appear, see `native.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crossent.engines.compiling import Once
from crossent.engines.host_memory import WITHIN
from crossent.engines.numba_cpu import native
from crossent.engines.numba_cpu.layout import (
    BY_LENGTH,
    DESCRIBE,
    GRADIENT,
    MEASURE,
    MEASURES,
    PACK,
    SHORT,
    STATISTICS,
    TRANSFORMS,
    WALK,
    Kind,
)
from crossent.math.measures import DIRECTIONS
from crossent.math.rows import LOSS, Coefficients, Rows
from crossent.types import Array

_SINGLE, _DOUBLE, _INTEGER = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_NAMES = {_SINGLE: "float32", _DOUBLE: "float64", np.dtype(np.float16): "float16", np.dtype(np.uint16): "bfloat16"}


@Once
def kernel(kind: Kind) -> Callable[[bytes], int]:
    """The kernel of a kind, compiled or read from the disk."""

    def make(name: str) -> bytes:
        from crossent.engines.numba_cpu import program

        return program.machine_code(kind, name)

    return native.function(kind.stem, kind.words, make)


def kinds(dtype: str, everything: bool) -> list[Kind]:
    """What losses of logits of a dtype need; or all that may be asked of them, beside arrays of the same dtype."""
    if not everything:
        return [Kind(WALK, dtype, short=short) for short in (False, True)]
    alone, beside = (None,), (None, dtype)
    seconds = {WALK: beside, DESCRIBE: alone, STATISTICS: beside, GRADIENT: beside}
    seconds |= {MEASURE + i: (dtype if name in DIRECTIONS else None,) for i, name in enumerate(MEASURES)}
    return [
        Kind(verb, dtype, second, transform, short)
        for verb, of_verb in seconds.items()
        for second in of_verb
        for transform in (None, *TRANSFORMS)
        for short in ((False, True) if verb in BY_LENGTH else (False,))
    ]


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
    measure = rows.coefficients.measure
    verb = WALK if measure == LOSS else MEASURE + MEASURES.index(measure)
    targets = None if rows.targets is None else line(rows.targets, _INTEGER)
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


def transform_of(c: Coefficients) -> tuple[str | None, float, float]:
    """What a kernel does to the logits that it loads, with which scale and cap."""
    if c.softcap:
        return "capped", 2.0 * c.inverse_temperature / c.softcap, c.softcap
    return None if c.inverse_temperature == 1.0 else "scaled", c.inverse_temperature, 0.0


def _part(
    verb: int,
    name: str,
    rows: Rows,
    targets: Array | None,
    table: Array,
    out: Array | None,
    scale: Array | float | None,
    spreads: Array | None = None,
) -> Callable[[int, int], None]:
    logits, soft, real, c = rows.logits, rows.soft, table.dtype, rows.coefficients
    n, v = logits.shape
    scales, factor = None, 1.0
    if type(scale) is float:
        factor = scale
    elif scale is not None:
        if not isinstance(scale, float) and scale.ndim:
            scales = line(scale, _DOUBLE)
        else:
            factor = float(scale)
    transform, scale_of_logits, cap = transform_of(c)
    if c.inverse_temperature != 1.0:
        factor, scales = factor * c.inverse_temperature, None if scales is None else scales * c.inverse_temperature
    weight = None if rows.weight is None else line(rows.weight, real)
    class_weights = None if rows.class_weights is None else line(rows.class_weights, real)
    is_short = v <= SHORT and verb in BY_LENGTH
    run = kernel(Kind(verb, name, None if soft is None else _NAMES[soft.dtype], transform, is_short))
    # The arrays themselves, which have to live as long as the call.
    given = (logits, soft, out, targets, table, weight, class_weights, scales, spreads)
    x, q, d, t, lines, w, u, s, more = [0 if each is None else id(each) for each in given]
    words = (
        *(x, logits.strides[0], q, 0 if soft is None else soft.strides[0], d, 0 if out is None else out.strides[0]),
        *(t, 0 if targets is None else 8, 0, 0, 0, lines, n * table.itemsize, 0, 0, w, u, s, more, WITHIN, WITHIN),
        *(v, rows.first_class, rows.vocabulary, c.ieee, 1, factor, 1.0, *c[:4], scale_of_logits, cap, c.mixture),
    )

    def part(start: int, stop: int, _arrays: Any = given) -> None:
        run(PACK(*words, start, stop))

    return part


def line(x: Array, dtype: Any) -> Array:
    """A number per row, or per class, side by side."""
    flags = x.flags
    return x if x.dtype == dtype and flags.c_contiguous and flags.aligned else np.array(x, dtype, order="C")
