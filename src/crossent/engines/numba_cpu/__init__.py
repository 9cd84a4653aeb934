"""The compiled engine for host memory: one fused walk over rows of logits, on all cores.

A row is read from memory once, if it fits the second-level cache; extra memory is some kilobytes of stack. The
formulas are those of `crossent.math`. The bits of a row are a function of its own values, its length and
its dtypes, and of nothing else: the order of every sum is written down, and no block, part, alignment or neighbour has
a say.

    one_step.py                 calls of plain arrays, in one step
    kernel.py, layout.py        calls of what is compiled: which rows it can walk, the words that it is told
    native.py, program.py       machine code: kept on disk and loaded; made by Numba when it is first needed
    long_rows.py, tiles.py      rows of many columns: vectors along a row
    short_rows.py, transposes.py   short rows: one in each lane
    xla.py, ffi.py              calls from programs of XLA's: its structures; what reads them, and shares rows out
    launching.py                the same for a device, whose driver launches the kernel of another engine
    measures.py                 what is measured beside the loss: entropies and divergences
    outcome.py, transform.py, functions.py    the formulas; exp, tanh, log1p and sums
    vectors.py, lanes.py, elements.py    vectors as a type of Numba's; their lanes; their elements in memory
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from crossent.engines import host_memory, threads
from crossent.engines.numba_cpu import kernel, native, one_step
from crossent.engines.numba_cpu.layout import BLOCK, SMALL
from crossent.math.outcome import Outcome
from crossent.math.rows import Rows, of_rows
from crossent.math.statistics import LINES, Described, RowStatistics, Spread, of_table
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

_EVERY = slice(None)
straight, folder, is_kept = one_step.walk, native.folder, native.is_kept


def problem(device: int = 0) -> str | None:
    """Why the engine cannot be used on this machine; None where it can."""
    return native.problem()


def obstacle(dtype: str, classes: int, device: int) -> str | None:
    """It walks any dtype and vocabulary."""
    return None


def kernels(dtype: str, everything: bool) -> list[tuple[str, Callable[[], object]]]:
    """The names of the kernels for logits of that dtype, those of losses or all, and what makes each."""
    return [(kind.stem, partial(kernel.kernel, kind)) for kind in kernel.kinds(dtype, everything)]


def of_programs() -> list[tuple[str, Callable[[], object]]]:
    """The same of what JAX's programs need besides."""
    from crossent.engines.numba_cpu import xla

    return xla.of_programs()


def walk(library: Library, rows: Rows, losses: Array, scale: Array | float | None, out: Array | None) -> None:
    """Write the losses (N,) of whole rows into `losses`, and with `out` (N, V) their gradient, times `scale`."""
    n, v = rows.logits.shape
    if not n:
        return
    # Elements that do not lie side by side, or are not as this processor has them, are walked through copies.
    work = kernel.walk(rows, losses, scale, out) or partial(_copied, rows, losses, scale, out)
    if n * v < SMALL:
        work(0, n)
    else:
        threads.split(work, n, threads.get_num_threads())


def describe(library: Library, rows: Rows) -> Described:
    """What whole rows with hard targets tell; the table's lines are those of `kernel.describe`."""
    rows = _plain(rows, rows.dtype)
    n, v = rows.logits.shape
    losses, spreads = np.empty(n, rows.dtype), np.empty((4, n), rows.dtype)
    work = kernel.describe(rows, losses, spreads.ravel())
    if n * v < SMALL:
        work(0, n)
    else:
        threads.split(work, n, threads.get_num_threads())
    maximum, *spread = spreads
    return Described(losses, maximum, Spread(*spread))


def statistics(library: Library, rows: Rows) -> RowStatistics:
    """The statistics of rows, or of a piece of each."""
    dtype = rows.dtype
    rows = _plain(rows, dtype)
    n = rows.logits.shape[0]
    found = np.empty((LINES, n), dtype)
    targets = np.empty(n, np.int64) if rows.targets is None else kernel.line(rows.targets, np.dtype(np.int64))
    if n:
        threads.split(kernel.statistics(rows, targets, found.ravel()), n, threads.get_num_threads())
    is_soft = rows.soft is not None
    return of_table(found, targets if is_soft else None, is_soft or rows.coefficients.smoothing != 0.0)


def gradient(library: Library, rows: Rows, found: RowStatistics, outcome: Outcome, out: Array) -> None:
    """Write the gradient of a piece of rows, from the statistics and the outcome of the whole rows, into `out`."""
    dtype = rows.dtype
    rows = _plain(rows, dtype)
    n = rows.logits.shape[0]
    numbers = np.empty((4, n), dtype)
    for i, x in enumerate((found.maximum, outcome.factor, outcome.uniform_term, outcome.target_entry)):
        numbers[i] = x
    targets = kernel.line(rows.targets if found.apart is None else found.apart.place, np.dtype(np.int64))
    d = out if kernel.serves(rows, out) else np.empty(out.shape, rows.logits.dtype)
    if n:
        threads.split(kernel.gradient(rows, targets, numbers.ravel(), d), n, threads.get_num_threads())
    if d is not out:
        out[...] = d


def _plain(rows: Rows, dtype: Any) -> Rows:
    if kernel.serves(rows, None):
        return rows
    soft = None if rows.soft is None else _packed(rows.soft, _EVERY, dtype)
    return rows._replace(logits=_packed(rows.logits, _EVERY), soft=soft)


def _copied(rows: Rows, losses: Array, scale: Array | float | None, out: Array | None, start: int, stop: int) -> None:
    data = rows.logits
    height = max(1, BLOCK // (data.shape[1] * data.itemsize))
    for i in range(start, stop, height):
        j = min(i + height, stop)
        logits = _packed(data, slice(i, j))
        soft = None if rows.soft is None else _packed(rows.soft, slice(i, j), losses.dtype)
        part = rows.part(i, j, logits, soft)
        # The gradient goes over the copy.
        factor = None if scale is None else of_rows(scale, i, j)
        work = kernel.walk(part, losses[i:j], factor, None if out is None else logits)
        assert work is not None
        work(0, j - i)
        if out is not None:
            out[i:j] = logits


def _packed(data: Array, rows: slice, dtype: Any = None) -> Array:
    """Rows side by side and as this processor has them, in their own dtype or another."""
    part = data[rows]
    if dtype is None or part.dtype == dtype:
        return np.array(part, dtype=part.dtype.newbyteorder("="), order="C")
    return np.array(host_memory.load(part, _EVERY, _EVERY, np.empty(part.shape, dtype)), order="C")
