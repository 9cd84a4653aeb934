"""The compiled engine for host memory: one fused walk over rows of logits, on all cores.

A row is read from memory once, if it fits the second-level cache; extra memory is some kilobytes of stack. The
formulas are those of `statistics` and `objective`. The bits of a row are a function of its own values, its length and
its dtypes, and of nothing else: the order of every sum is written down, and no block, part, alignment or neighbour has
a say.

    kernel.py                   compiled when first needed, kept on disk; which rows it can walk
    wide.py, tiles.py           rows of many columns: vectors along a row
    narrow.py, transposes.py    short rows: one in each lane
    outcome.py, functions.py    the formulas; exp, log1p and sums
    vectors.py, lanes.py, elements.py    vectors as a type of Numba's; their lanes; their elements in memory
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from crossent.arrays import Array, Namespace
from crossent.engines import rows as block_of
from crossent.engines import threads
from crossent.engines.memory import Memory, in_host
from crossent.engines.numba_cpu.kernel import problem, serves, work
from crossent.engines.numba_cpu.wide import BLOCK
from crossent.engines.rows import Rows

__all__ = ["problem", "run", "serves", "work"]

# Logits below which a second thread costs more than it saves.
SMALL = 1 << 17


def run(xp: Namespace, rows: Rows, losses: Array, scale: Array | float = 1.0, out: Array | None = None) -> None:
    """Write the losses (N,) of rows in host memory into `losses`, and with `out` (N, V) their gradient into it."""
    rows, losses, scale, gradient = in_host(rows, losses, scale, out)
    n, v = rows.logits.data.shape
    if n:
        walk = work if serves(rows, gradient) else partial(partial, _copied)
        threads.split(walk(rows, losses, scale, gradient), n, 1 if n * v < SMALL else threads.get_num_threads())


def _copied(rows: Rows, losses: Array, scale: Array | float, out: Memory | None, start: int, stop: int) -> None:
    """Walk rows whose elements do not lie side by side, or are not as this processor has them, through copies."""
    data = rows.logits.data
    height = max(1, BLOCK // (data.shape[1] * data.itemsize))
    for i in range(start, stop, height):
        j = min(i + height, stop)
        logits = _packed(rows.logits, i, j)
        soft = None if rows.soft is None else _packed(rows.soft, i, j, losses.dtype)
        part = rows.part(i, j, logits, soft)
        # The gradient goes over the copy.
        work(part, losses[i:j], block_of.of_rows(scale, i, j), None if out is None else logits)(0, j - i)
        if out is not None:
            out.data[i:j] = logits.data


def _packed(memory: Memory, start: int, stop: int, dtype: Any = None) -> Memory:
    """Rows side by side and as this processor has them, in their own dtype or another."""
    part = memory.data[start:stop]
    if dtype is None:
        return Memory(np.array(part, dtype=part.dtype.newbyteorder("="), order="C"), memory.bits)
    rows, columns = slice(start, stop), slice(None)
    return Memory(np.array(memory.load(rows, columns, np.empty(part.shape, dtype)), order="C"), False)
