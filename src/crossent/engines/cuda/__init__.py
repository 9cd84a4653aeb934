"""The compiled engine for CUDA memory: CuPy arrays and torch CUDA tensors.

A row is read once, and its gradient written from what registers hold; extra memory is a loss, a target and a weight
for each row. The formulas are those of `statistics` and `objective`. The bits of a row are a function of its own
values, its length and its dtypes.

    here.py               whether it can be used on this machine
    memory.py             what arrays are to a kernel
    argument.py           what a launch is told
    plan.py               which walk is compiled, and how many threads run it
    program.py            from macros and an architecture to a cubin: NVRTC, and what is kept on disk
    launch.py             from a cubin to a kernel that runs on a stream; what a device has
    kernel.cu, *.cuh      the kernel

Nothing of NVIDIA's is imported, and no driver is touched, before a call asks for it.
"""

from __future__ import annotations

import functools
from pathlib import Path

from crossent.arrays import Array, Namespace
from crossent.engines.cuda import launch, memory, plan, program
from crossent.engines.cuda.argument import problem_of
from crossent.engines.cuda.here import problem
from crossent.engines.cuda.plan import Variant
from crossent.engines.rows import Rows

__all__ = ["obstacle", "problem", "run"]

SOURCE = Path(__file__).with_name("kernel.cu")


def obstacle(logits: Array) -> str | None:
    """Why the engine cannot walk these logits, which are in the memory of a CUDA device; None where it can."""
    device = memory.place(logits)[0]
    reason = problem(device)
    if reason is None:
        most = plan.most_classes(memory.format_of(logits), launch.properties(device))
        if logits.shape[-1] > most:
            reason = f"its rows have {most} classes at most on this device, and these have {logits.shape[-1]}"
    return reason


def run(xp: Namespace, rows: Rows, losses: Array, scale: Array | float = 1.0, out: Array | None = None) -> None:
    """Write the losses (N,) of rows on a device into `losses`, and with `out` (N, V) their gradient into it.

    All of it is queued on the current stream of the logits' library; nothing waits for the device.
    """
    if not rows.logits.shape[0]:
        return
    if not memory.is_plain(rows.logits):
        rows = rows._replace(logits=memory.copy(xp, rows.logits))
    if rows.soft is not None and not memory.is_plain(rows.soft):
        rows = rows._replace(soft=memory.copy(xp, rows.soft))
    if out is not None and not memory.is_plain(out):
        made = xp.empty_like(out)
        run(xp, rows, losses, scale, made)
        out[...] = made
        return
    device, stream = memory.place(rows.logits)
    logits, d = memory.matrix(rows.logits), None if out is None else memory.matrix(out)
    chosen = plan.variant(logits, d, _targets(rows))
    loaded = _kernel(chosen, device)
    found = plan.plan(chosen, *logits.shape, loaded, launch.properties(device))
    argument, kept = problem_of(xp, rows, logits, losses, scale, d)
    argument.pieces, argument.cluster_log2 = found.pieces, found.shape.cluster.bit_length() - 1
    loaded.launch(found.shape, argument, stream)
    # Memory that is given back now is used again by what is queued on the same stream later.
    del kept


def _targets(rows: Rows) -> str:
    if rows.soft is not None:
        return "SOFT"
    if not rows.coefficients.spread:
        return "HARD"
    return "SMOOTHED" if rows.class_weights is None else "SPREAD"


@functools.cache
def _kernel(chosen: Variant, device: int) -> launch.Kernel:
    """The kernel for that walk, loaded on that device; compiled where it is not kept."""
    architecture = launch.properties(device).architecture
    return launch.kernel(program.cubin(SOURCE, chosen.macros, architecture), device)
