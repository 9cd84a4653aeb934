"""The engine for any array library. It walks NumPy's memory in blocks that fit the cache, on all cores; any other in
large blocks.

The sum over a row never depends on the block or the thread that holds the row: blocks are whole rows, and rows too long
for the cache are summed in tiles of one fixed width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from crossent.engines import host_memory, threads
from crossent.math import formula
from crossent.math import statistics as row_statistics
from crossent.math.outcome import Outcome
from crossent.math.rows import Rows, cut_lines, of_rows
from crossent.math.statistics import Described, RowStatistics
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

# Bytes of a block in the compute dtype. In host memory it is to stay in a core's L2 cache between passes; but threads
# take turns in the interpreter between NumPy's calls, so blocks as small as 256 KB halve the speed of two threads.
HOST_BLOCK = 640 * 1024
DEVICE_BLOCK = 128 * 1024 * 1024
# Columns of a tile, for rows that are longer. Part of the result's bits: see above.
TILE = 65536
# Logits below which a second thread costs more than it saves.
SMALL = 1 << 16
_EVERY = slice(None)


def problem(device: int = 0) -> str | None:
    """It can be used anywhere."""
    return None


def obstacle(dtype: str, classes: int, device: int) -> str | None:
    """It walks anything."""
    return None


def walk(library: Library, rows: Rows, losses: Array, scale: Array | float | None, out: Array | None) -> None:
    """Write the losses (N,) of whole rows into `losses`, and with `out` (N, V) their gradient, times `scale`."""
    n, v = rows.logits.shape
    if not isinstance(rows.logits, np.ndarray):
        _walk_device(library, rows, losses, scale, out)
    elif n:
        tiled = v > TILE and formula.is_in_pieces(rows)
        work = partial(_tiles if tiled else _blocks, library, rows, losses, scale, out)
        threads.split(work, n, 1 if n * v < SMALL else threads.get_num_threads())


def describe(library: Library, rows: Rows) -> Described:
    """What whole rows with hard targets tell, a block at a time."""
    n, v = rows.logits.shape
    in_host = isinstance(rows.logits, np.ndarray)
    width = TILE if in_host else max(v, 1)
    # Some arrays of the size of a block are made at a time.
    height = max(1, (HOST_BLOCK if in_host else DEVICE_BLOCK) // (8 * 4 * min(width, max(v, 1))))
    parts = []
    for i in range(0, max(n, 1), height):
        j = min(i + height, n)
        block = rows.part(i, j, rows.logits[i:j, :], None)
        threshold = formula.target_logits(library, block)
        pieces = []
        for a in range(0, v, width):
            piece = formula.widened(library, block.columns(a, a + width, block.logits[:, a : a + width]))
            pieces.append(formula.statistics_of(library, piece, None, threshold))
        parts.append(formula.described(library, pieces, block))
    return formula.joined(library, parts)


def statistics(library: Library, rows: Rows) -> RowStatistics:
    """The statistics of rows, or of a piece of each, a block at a time."""
    return formula.joined(library, [formula.statistics_of(library, part) for _, _, part in _widened(library, rows)])


def gradient(library: Library, rows: Rows, found: RowStatistics, outcome: Outcome, out: Array) -> None:
    """Write the gradient of a piece of rows, from the statistics and the outcome of the whole rows, into `out`."""
    for i, j, part in _widened(library, rows):
        block = out[i:j, :]
        d = formula.gradient_of(library, part, cut_lines(found, i, j), cut_lines(outcome, i, j))
        block[...] = library.narrowed(d, block)


def _widened(library: Library, rows: Rows) -> Iterator[tuple[int, int, Rows]]:
    """Blocks of rows in the compute dtype, and where they begin and end; of no rows, one of none."""
    x = rows.logits
    n, v = x.shape
    size = (HOST_BLOCK if isinstance(x, np.ndarray) else DEVICE_BLOCK) // 8
    height = max(1, size // (max(v, 1) * formula.temporaries(rows)))
    for i in range(0, max(n, 1), height):
        j = min(i + height, n)
        soft = None if rows.soft is None else rows.soft[i:j, :]
        yield i, j, formula.widened(library, rows.part(i, j, x[i:j, :], soft))


def _walk_device(library: Library, rows: Rows, losses: Array, scale: Array | float | None, out: Array | None) -> None:
    x = rows.logits
    n, v = x.shape
    height = max(1, DEVICE_BLOCK // (4 * max(v, 1)))
    in_place = out is not None and library.in_place and out.dtype == losses.dtype
    for i in range(0, n, height):
        j = min(i + height, n)
        part = rows.part(i, j, x[i:j, :], None if rows.soft is None else rows.soft[i:j, :])
        part = formula.widened(library, part)
        if out is None or scale is None:
            losses[i:j] = formula.losses(library, part)
            continue
        target = out[i:j, :] if in_place else None
        losses[i:j], d = formula.losses_and_gradient(library, part, of_rows(scale, i, j), target)
        if not in_place:
            out[i:j, :] = library.narrowed(d, out)


def _clear_if_weightless(rows: Rows, block: slice, losses: Array, out: Array | None) -> bool:
    """Whether no row of a block weighs anything: they are not looked at."""
    if rows.coefficients.ieee or rows.weight is None or rows.weight[block].any():
        return False
    losses[block] = 0
    if out is not None:
        out[block] = 0
    return True


def _blocks(
    library: Library,
    rows: Rows,
    losses: Array,
    scale: Array | float | None,
    out: Array | None,
    start: int,
    stop: int,
) -> None:
    x = rows.logits
    v = x.shape[1]
    height = max(1, min(stop - start, HOST_BLOCK // (v * losses.itemsize * formula.temporaries(rows))))
    scratch = np.empty((height, v), losses.dtype)
    with np.errstate(all="ignore"):
        for i in range(start, stop, height):
            j = min(i + height, stop)
            block = slice(i, j)
            if _clear_if_weightless(rows, block, losses, out):
                continue
            memory = scratch[: j - i]
            soft = rows.soft
            if soft is not None:
                soft = host_memory.load(soft, block, _EVERY, np.empty_like(memory))
            part = rows.part(i, j, host_memory.load(x, block, _EVERY, memory), soft)
            if out is None or scale is None:
                losses[block] = formula.losses(library, part, memory)
                continue
            target = host_memory.in_place(out, block, _EVERY, losses.dtype)
            memory = memory if target is None else target
            losses[block], d = formula.losses_and_gradient(library, part, of_rows(scale, i, j), memory)
            if target is None:
                host_memory.store(out, block, _EVERY, d)


def _tiles(
    library: Library,
    rows: Rows,
    losses: Array,
    scale: Array | float | None,
    out: Array | None,
    start: int,
    stop: int,
) -> None:
    x = rows.logits
    v = x.shape[1]
    scratch = np.empty((1, TILE), losses.dtype)
    edges = [(a, min(a + TILE, v)) for a in range(0, v, TILE)]
    with np.errstate(all="ignore"):
        for i in range(start, stop):
            block = slice(i, i + 1)
            if _clear_if_weightless(rows, block, losses, out):
                continue
            row = rows.part(i, i + 1, x[block], None)
            pieces = []
            for a, b in edges:
                memory = scratch[:, : b - a]
                piece = row.columns(a, b, host_memory.load(x, block, slice(a, b), memory))
                pieces.append(formula.statistics_of(library, piece, memory))
            found = row_statistics.merge(library, pieces)
            result = formula.outcome_of(library, found, row, None if scale is None else of_rows(scale, i, i + 1))
            losses[block] = result.loss
            if out is None:
                continue
            for a, b in edges:
                columns = slice(a, b)
                memory = scratch[:, : b - a]
                piece = row.columns(a, b, host_memory.load(x, block, columns, memory))
                target = host_memory.in_place(out, block, columns, losses.dtype)
                d = formula.gradient_of(library, piece, found, result, memory if target is None else target)
                if target is None:
                    host_memory.store(out, block, columns, d)
