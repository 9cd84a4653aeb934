"""The engine for any array library. It walks host memory in blocks that fit the cache, on all cores; the memory of a
device in large blocks; traced and lazy arrays as a whole.

The sum over a row never depends on the block or the thread that holds the row: blocks are whole rows, and rows too long
for the cache are summed in tiles of one fixed width.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from crossent import arrays, statistics
from crossent.arithmetic import cast
from crossent.arrays import (
    Array,
    Namespace,
    compute_dtype,
    computes_in_place,
    dtype_name,
    namespace,
    on_gpu,
)
from crossent.engines import rows as block_of
from crossent.engines import threads
from crossent.engines.memory import Memory, in_host
from crossent.engines.rows import Rows

# Bytes of a block in the compute dtype. In host memory it is to stay in a core's L2 cache between passes; but threads
# take turns in the interpreter between NumPy's calls, so blocks as small as 256 KB halve the speed of two threads.
HOST_BLOCK = 640 * 1024
DEVICE_BLOCK = 128 * 1024 * 1024
# Columns of a tile, for rows that are longer. Part of the result's bits: see above.
TILE = 65536
# Logits below which a second thread costs more than it saves.
SMALL = 1 << 16


def whole(xp: Namespace, rows: Rows) -> Array:
    """The losses of traced or lazy rows, all at once."""
    return block_of.losses(xp, _widened(xp, rows))


def whole_with_gradient(xp: Namespace, rows: Rows, scale: Array | float) -> tuple[Array, Array]:
    """The losses and the gradient, in the dtype of the logits, of traced or lazy rows, all at once."""
    loss, d = block_of.losses_and_gradient(xp, _widened(xp, rows), scale)
    return loss, cast(xp, d, rows.logits.dtype)


def _widened(xp: Namespace, rows: Rows) -> Rows:
    dtype = compute_dtype(xp, dtype_name(rows.logits.dtype))
    soft = None if rows.soft is None else cast(xp, rows.soft, dtype)
    return rows.part(0, rows.logits.shape[0], cast(xp, rows.logits, dtype), soft)


def run(xp: Namespace, rows: Rows, losses: Array, scale: Array | float = 1.0, out: Array | None = None) -> None:
    """Write the losses (N,) of rows in eager memory into `losses`, and with `out` (N, V) their gradient into it."""
    if not arrays.is_host_memory(rows.logits):
        _walk_device(xp, rows, losses, scale, out)
        return
    _walk_host(*in_host(rows, losses, scale, out))


def _walk_device(xp: Namespace, rows: Rows, losses: Array, scale: Array | float, out: Array | None) -> None:
    x = rows.logits
    n, v = x.shape
    height = max(1, (DEVICE_BLOCK if on_gpu(x) else 64 * HOST_BLOCK) // (4 * max(v, 1)))
    in_place = out is not None and computes_in_place(xp) and out.dtype == losses.dtype
    for i in range(0, n, height):
        j = min(i + height, n)
        part = _widened(xp, rows.part(i, j, x[i:j, :], None if rows.soft is None else rows.soft[i:j, :]))
        if out is None:
            losses[i:j] = block_of.losses(xp, part)
            continue
        target = out[i:j, :] if in_place else None
        losses[i:j], d = block_of.losses_and_gradient(xp, part, block_of.of_rows(scale, i, j), target)
        if not in_place:
            out[i:j, :] = cast(xp, d, out.dtype)


def _walk_host(rows: Rows, losses: Array, scale: Array | float, out: Memory | None) -> None:
    n, v = rows.logits.data.shape
    if not n:
        return
    tiled = rows.soft is None and v > TILE and not rows.coefficients.floor
    work = partial(_tiles if tiled else _blocks, rows, losses, scale, out)
    threads.split(work, n, 1 if n * v < SMALL else threads.get_num_threads())


def _blocks(rows: Rows, losses: Array, scale: Array | float, out: Memory | None, start: int, stop: int) -> None:
    xp = namespace(losses)
    logits: Memory = rows.logits
    v = logits.data.shape[1]
    # The explicit algorithm makes many temporaries of a block's size.
    size = HOST_BLOCK // 4 if rows.coefficients.floor else HOST_BLOCK
    height = max(1, min(stop - start, size // (v * losses.itemsize)))
    scratch = np.empty((height, v), losses.dtype)
    columns = slice(None)
    with np.errstate(all="ignore"):
        for i in range(start, stop, height):
            j = min(i + height, stop)
            block = slice(i, j)
            if rows.coefficients.limits and rows.weight is not None and not rows.weight[block].any():
                losses[block] = 0
                if out is not None:
                    out.data[block] = 0
                continue
            memory = scratch[: j - i]
            soft = None if rows.soft is None else rows.soft.load(block, columns, np.empty_like(memory))
            part = rows.part(i, j, logits.load(block, columns, memory), soft)
            if out is None:
                losses[block] = block_of.losses(xp, part, memory)
                continue
            target = out.block(block, columns, losses.dtype)
            memory = memory if target is None else target
            losses[block], d = block_of.losses_and_gradient(xp, part, block_of.of_rows(scale, i, j), memory)
            if target is None:
                out.store(block, columns, d)


def _tiles(rows: Rows, losses: Array, scale: Array | float, out: Memory | None, start: int, stop: int) -> None:
    xp = namespace(losses)
    logits: Memory = rows.logits
    v = logits.data.shape[1]
    scratch = np.empty((1, TILE), losses.dtype)
    edges = [(a, min(a + TILE, v)) for a in range(0, v, TILE)]
    with np.errstate(all="ignore"):
        for i in range(start, stop):
            block = slice(i, i + 1)
            row = rows.part(i, i + 1, logits, None)
            if rows.coefficients.limits and row.weight is not None and not row.weight.any():
                losses[block] = 0
                if out is not None:
                    out.data[block] = 0
                continue
            pieces = []
            for a, b in edges:
                memory = scratch[:, : b - a]
                x = logits.load(block, slice(a, b), memory)
                pieces.append(block_of.statistics_of_piece(xp, x, a, row, memory))
            found = statistics.merge(xp, pieces)
            result = block_of.outcome(xp, found, row, block_of.of_rows(scale, i, i + 1))
            losses[block] = result.loss
            if out is None:
                continue
            for a, b in edges:
                columns = slice(a, b)
                memory = scratch[:, : b - a]
                x = logits.load(block, columns, memory)
                target = out.block(block, columns, losses.dtype)
                d = block_of.gradient_of_piece(
                    xp, x, a, found.maximum, result, row, memory if target is None else target
                )
                if target is None:
                    out.store(block, columns, d)
