"""The compiled engine for CUDA memory: CuPy arrays, torch CUDA tensors, and what programs have there.

A row is read once, and its gradient written from what registers hold; extra memory is a loss, a target and a weight
for each row. The formulas are those of `crossent.math`. The bits of a row are a function of its own
values, its length and its dtypes; of targets that are more than one class, and beside a teacher, of the device's
clusters too.

    here.py               whether it can be used on this machine
    memory.py             what arrays are to a kernel
    argument.py           the argument of a launch
    plan.py               which walk is compiled, and how many threads run it
    program.py            from macros and an architecture to a cubin: NVRTC, and what is kept on disk
    launch.py             from a cubin to a kernel that runs on a stream; what a device has
    programs.py           launches that are planned before there are addresses, for programs that are compiled
    kernel.cu, *.cuh      the kernel

Nothing of NVIDIA's is imported, and no driver is touched, before a call asks for it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossent.engines.cuda import launch, memory, plan, program
from crossent.engines.cuda.argument import Problem, problem_of
from crossent.engines.cuda.here import problem
from crossent.engines.cuda.plan import Variant
from crossent.math.outcome import Outcome
from crossent.math.rows import LOSS, Rows
from crossent.math.statistics import LINES, Described, RowStatistics, Spread, of_table
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

__all__ = ["describe", "gradient", "obstacle", "problem", "statistics", "walk"]

SOURCE = Path(__file__).with_name("kernel.cu")


def obstacle(dtype: str, classes: int, device: int) -> str | None:
    """Why the engine cannot walk such logits, which are in the memory of that device; None where it can."""
    reason = problem(device)
    if reason is None:
        most = plan.most_classes(dtype, launch.properties(device))
        if classes > most:
            reason = f"its rows have {most} classes at most on this device, and these have {classes}"
    return reason


# All of what the verbs do is queued on the current stream of the logits' library; nothing waits for the device.


def walk(library: Library, rows: Rows, losses: Array, scale: Array | float | None, out: Array | None) -> None:
    """Write the losses (N,) of whole rows into `losses`, and with `out` (N, V) their gradient, times `scale`."""
    _launch(library, rows, "losses" if out is None else "walk", out, losses=losses, scale=scale)


def describe(library: Library, rows: Rows) -> Described:
    """What whole rows with hard targets tell; the table's lines are those of the kernel's `store_spread`."""
    n = rows.logits.shape[0]
    losses, table = (library.empty(count * n, rows.dtype, rows.logits) for count in (1, 4))
    _launch(library, rows, "describe", None, losses=losses, found=table)
    maximum, *spread = (table[i * n : (i + 1) * n] for i in range(4))
    return Described(losses, maximum, Spread(*spread))


def statistics(library: Library, rows: Rows) -> RowStatistics:
    """The statistics of rows, or of a piece of each."""
    x = rows.logits
    n = x.shape[0]
    found = library.empty(LINES * n, rows.dtype, x)
    apart = None if rows.soft is None else library.empty(n, library.xp.int64, x)
    _launch(library, rows._replace(weight=None), "statistics", None, found=found, apart=apart)
    spreads = apart is not None or rows.coefficients.smoothing != 0.0
    return of_table(library.xp.reshape(found, (LINES, n)), apart, spreads)


def gradient(library: Library, rows: Rows, found: RowStatistics, outcome: Outcome, out: Array) -> None:
    """Write the gradient of a piece of rows, from the statistics and the outcome of the whole rows, into `out`."""
    xp, maximum = library.xp, found.maximum
    uniform_term = outcome.uniform_term
    if isinstance(uniform_term, float):
        uniform_term = xp.full_like(maximum, uniform_term)
    numbers = xp.concat([maximum, outcome.factor, uniform_term, outcome.target_entry])
    if found.apart is not None:
        rows = rows._replace(targets=found.apart.place)
    _launch(library, rows, "gradient", out, numbers=numbers)


def _launch(library: Library, rows: Rows, verb: str, out: Array | None, **others: Any) -> None:
    if not rows.logits.shape[0]:
        return
    x, logits = _readable(library, rows.logits)
    read, soft = (None, None) if rows.soft is None else _readable(library, rows.soft)
    rows = rows._replace(logits=x, soft=read)
    d = None if out is None else memory.matrix(library, out)
    if out is not None and d is None:
        made = library.xp.empty_like(out)
        _launch(library, rows, verb, made, **others)
        out[...] = made
        return
    device, stream = library.stream(rows.logits)
    _, loaded, found = planned(rows, verb, logits, d, device)
    argument = problem_of(library, rows, logits, soft=soft, gradient=d, **others)
    share_out(argument, found)
    # Memory that is given back afterwards is used again by what is queued on the same stream later.
    loaded.launch(found.shape, argument, stream)


def planned(
    rows: Rows, verb: str, logits: memory.Matrix, d: memory.Matrix | None, device: int
) -> tuple[Variant, launch.Kernel, plan.Plan]:
    """Which walk those rows have, its kernel on that device, and how many threads run it."""
    chosen = plan.variant(logits, d, _targets(rows), verb, _transform(rows))
    loaded = _kernel(chosen, device)
    return chosen, loaded, plan.plan(chosen, *logits.shape, loaded, launch.properties(device))


def share_out(argument: Problem, found: plan.Plan) -> None:
    """Tell the kernel in which pieces it walks a row."""
    argument.pieces, argument.cluster_log2 = found.pieces, found.shape.cluster.bit_length() - 1


def _readable(library: Library, x: Array) -> tuple[Array, memory.Matrix]:
    """A matrix as a kernel sees it: of a copy where its memory does not hold its elements as they are."""
    found = memory.matrix(library, x)
    if found is None:
        x = memory.copy(library, x)
        found = memory.matrix(library, x)
        assert found is not None
    return x, found


def _targets(rows: Rows) -> str:
    """What rows have, in the kernel's words."""
    if rows.coefficients.measure != LOSS:
        return rows.coefficients.measure.upper().replace("-", "_")
    if rows.soft is not None:
        return "SOFT"
    if not rows.coefficients.smoothing:
        return "HARD"
    return "SMOOTHED" if rows.class_weights is None else "SPREAD"


def _transform(rows: Rows) -> str:
    if rows.coefficients.softcap:
        return "CAPPED"
    return "PLAIN" if rows.coefficients.inverse_temperature == 1.0 else "SCALED"


@functools.cache
def _kernel(chosen: Variant, device: int) -> launch.Kernel:
    """The kernel for that walk, loaded on that device; compiled where it is not kept."""
    architecture = launch.properties(device).architecture
    return launch.kernel(program.cubin(SOURCE, chosen.macros, architecture), device)
