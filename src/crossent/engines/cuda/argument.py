"""The argument of a launch, as the kernel has it in `problem.cuh`, made of rows."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Final

from crossent.engines.cuda.memory import Matrix, side_by_side
from crossent.math.rows import Coefficients, Rows
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

POINTERS = (
    "logits", "soft", "gradient", "targets", "losses", "weight", "class_weights", "found", "apart", "numbers", "scales",
)  # fmt: skip
_STEPS = ("logits_row", "logits_column", "soft_row", "soft_column", "gradient_row", "gradient_column")
_WIDE = (*_STEPS, "scales_row", "rows", "first_class", "vocabulary")
_NUMBERS = (
    "scale",
    "target_mass",
    "smoothing",
    "z_loss",
    "inverse_temperature",
    "scale_of_logits",
    "softcap",
    "mixture",
)
_WORDS = ("classes", "includes_target", "ieee", "soft_format", "scales_format", "pieces", "cluster_log2")

# How the kernel numbers the formats of what it reads beside the logits.
FORMATS: Final = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}


class Problem(ctypes.Structure):
    """The kernel's only argument. Addresses are of a device's memory, strides in elements."""

    kept: list[Any]
    """The arrays that have to live until the launch."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_longlong) for name in _WIDE),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_int) for name in _WORDS),
    ]


def problem_of(library: Library, rows: Rows, logits: Matrix, **others: Array | float | Matrix | None) -> Problem:
    """The problem of those rows, without its pieces. `kept` has the arrays that have to live until the launch.

    others: numbers per row, by the names of the structure's pointers; `scale`; the matrices `soft` and `gradient`.
    """
    problem = problem_of_logits(rows.coefficients, logits, rows.first_class, rows.vocabulary)
    problem.kept = []
    others = {"targets": rows.targets, "weight": rows.weight, "class_weights": rows.class_weights, **others}
    scale: Any = others.pop("scale", None)
    if isinstance(scale, (int, float)):
        problem.scale = scale
    elif scale is not None:
        if library.strides(scale) == (0,):  # one number for all, as of the gradient of a sum
            scale = scale[0]
        problem.scales_row = 0 if scale.ndim == 0 else 1
        problem.scales_format = FORMATS[library.dtype_name(scale)]
        others["scales"] = scale
    for name, x in others.items():
        if isinstance(x, Matrix):
            place_matrix(problem, name, x)
        elif x is not None:
            array, address = side_by_side(library, x)
            problem.kept.append(array)
            setattr(problem, name, address)
    return problem


def problem_of_logits(c: Coefficients, logits: Matrix, first_class: int, vocabulary: int) -> Problem:
    """The problem of those logits, without anything beside them."""
    return Problem(
        logits=logits.address,
        logits_row=logits.row,
        logits_column=logits.column,
        rows=logits.shape[0],
        classes=logits.shape[1],
        first_class=first_class,
        vocabulary=vocabulary,
        target_mass=c.target_mass,
        smoothing=c.smoothing,
        z_loss=c.z_loss,
        inverse_temperature=c.inverse_temperature,
        scale_of_logits=c.inverse_temperature / (c.softcap or 1.0),
        softcap=c.softcap,
        mixture=c.mixture,
        includes_target=c.includes_target,
        ieee=c.ieee,
    )


def place_matrix(problem: Problem, name: str, x: Matrix) -> None:
    """Say where a matrix beside the logits lies: "soft" or "gradient"."""
    setattr(problem, name, x.address)
    setattr(problem, f"{name}_row", x.row)
    setattr(problem, f"{name}_column", x.column)
    if name == "soft":
        problem.soft_format = FORMATS[x.format]
