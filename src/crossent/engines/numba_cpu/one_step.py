"""Rows of plain arrays with hard targets, in one step: targets checked, rows walked, losses added up.

A call of one part of rows is one call of the kernel; of several, the parts are shared out among threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from crossent.engines import threads
from crossent.engines.host_memory import WITHIN
from crossent.engines.numba_cpu.kernel import kernel, transform_of
from crossent.engines.numba_cpu.layout import PACK, SHORT, SMALL, WALK, Kind, height_of
from crossent.math.rows import Coefficients, Straight
from crossent.types import Array

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Kernels that have been used, so that a small call need not ask for one.
_used: dict[tuple[str, str | None, bool], Callable[[bytes], int]] = {}


def walk(
    given: Straight,
    c: Coefficients,
    ignored: int | None,
    checked: bool,
    divisor: float,
    keeps: bool,
    scale: float | None = None,
    out: int = 0,
    out_step: int = 0,
    spares: bool = False,
) -> Array | None:
    """The losses (N,), or with `keeps` false their sum over the divisor, as an array of NumPy's.

    None for a target outside of the vocabulary, with `checked`, and with IEEE arithmetic for one that is ignored.
    divisor: 0 for how many rows count. scale: of the gradient; out, out_step: where it goes, as logits are given;
    spares: whether nothing may be written there for None.
    """
    dtype, n, v, x, x_step, t, t_size, within = given
    transform, scale_of_logits, cap = transform_of(c)
    is_short = v <= SHORT
    run = _used.get((dtype, transform, is_short))
    if run is None:
        run = _used[dtype, transform, is_short] = kernel(Kind(WALK, dtype, None, transform, is_short))
    real = _DOUBLE if dtype == "float64" else _SINGLE
    value = np.empty(n if keeps else (), real)
    height = height_of(v)
    factor = (1.0 if scale is None else scale) * c.inverse_temperature
    target_mass, smoothing, includes_target, z_loss, ieee, *_ = c
    ignores, own = ignored is not None, id(value)

    def words(divisor: float, sums: int, single: int, walks: bool, start: int, stop: int) -> bytes:
        return PACK(
            x, x_step, 0, 0, out, out_step, t, t_size, checked, ignores, ignored or 0, own if keeps else 0, 0, sums,
            single, 0, 0, 0, 0, within, WITHIN, v, 0, v, ieee, walks, factor, divisor, target_mass, smoothing,
            includes_target, z_loss, scale_of_logits, cap, 0.5, start, stop,
        )  # fmt: skip

    if n <= height:
        return None if run(words(divisor, 0, 0 if keeps else own, True, 0, n)) else value
    parts = -(-n // height)
    sums = np.empty((parts, 2))
    workers = threads.get_num_threads() if n * v >= SMALL else 1
    outside: list[int] = []

    def part(divisor: float, walks: bool, first: int, last: int) -> None:
        call = words(divisor, id(sums), 0, walks, first * height, min(last * height, n))
        if run(call):
            outside.append(first)

    if (ignores and divisor == 0.0) or (spares and (checked or ieee)):
        threads.split(partial(part, 1.0, False), parts, workers)
        if outside:
            return None
    if divisor == 0.0:
        divisor = max(float(sums[:, 1].sum()), 1.0) if ignores else float(n)
    threads.split(partial(part, divisor, True), parts, workers)
    if outside:
        return None
    if not keeps:
        with np.errstate(all="ignore"):
            value[...] = np.add.reduce(sums[:, 0])
    return value
