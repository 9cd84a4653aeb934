"""What a launch is told, as the kernel has it in `problem.cuh`, from the rows that the engine was given."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from crossent.arrays import Array, Namespace
from crossent.engines.cuda import memory
from crossent.engines.cuda.memory import Matrix
from crossent.engines.rows import Rows

_POINTERS = ("logits", "soft", "gradient", "targets", "losses", "weight", "class_weights", "scales")
_STEPS = ("logits_row", "logits_column", "soft_row", "soft_column", "gradient_row", "gradient_column")
_WIDE = (*_STEPS, "scales_row", "rows")
_NUMBERS = ("scale", "keep", "spread", "square")
_WORDS = ("classes", "share", "limits", "soft_format", "scales_format", "pieces", "cluster_log2")

# How the kernel numbers the formats of what it reads beside the logits.
_FORMATS: Final = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}


class Problem(ctypes.Structure):
    """The kernel's only argument. Addresses are of a device's memory, strides in elements."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_longlong) for name in _WIDE),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_int) for name in _WORDS),
    ]


def problem_of(
    xp: Namespace, rows: Rows, logits: Matrix, losses: Array, scale: Array | float, out: Matrix | None
) -> tuple[Problem, list[Any]]:
    """The problem of walking those rows, without its pieces; and the arrays that have to live until the launch."""
    c = rows.coefficients
    kept: list[Any] = []

    def line(x: Array | None) -> int | None:
        """Where a number for each row, or for each class, begins: side by side."""
        if x is None:
            return None
        kept.append(memory.side_by_side(xp, x))
        return memory.address(kept[-1])

    problem = Problem(
        logits=logits.address,
        logits_row=logits.row,
        logits_column=logits.column,
        targets=line(rows.targets),
        losses=memory.address(losses),
        weight=line(rows.weight),
        class_weights=line(rows.class_weights),
        rows=logits.shape[0],
        classes=logits.shape[1],
        keep=c.keep,
        spread=c.spread,
        square=c.square,
        share=c.share,
        limits=c.limits,
    )
    if rows.soft is not None:
        soft = memory.matrix(rows.soft)
        problem.soft, problem.soft_row, problem.soft_column = soft.address, soft.row, soft.column
        problem.soft_format = _FORMATS[soft.format]
    if out is not None:
        problem.gradient, problem.gradient_row, problem.gradient_column = out.address, out.row, out.column
    if isinstance(scale, (int, float)):
        problem.scale = scale
    else:
        if scale.ndim and memory.is_one_number(scale):
            scale = scale[0]
        problem.scales = line(scale)
        problem.scales_row = 0 if scale.ndim == 0 else 1
        problem.scales_format = _FORMATS[memory.format_of(scale)]
    return problem, kept
