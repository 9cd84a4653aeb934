"""Every input error, raised the same way for every backend: the same type and text, naming what was given and accepted.

Nothing here looks at the values of logits or weights; the only values read are those of targets, in `targets_in_range`.
"""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any

import numpy as np

from crossent.arrays import (
    FLOATS,
    Array,
    Namespace,
    any_outside,
    device_name,
    dtype_name,
    is_array,
    is_captured,
    is_dense,
    is_immutable,
    is_lazy,
    is_symbolic,
    is_torch,
    library,
    namespace,
    strides_of,
)

REDUCTIONS = ("mean", "sum", "none", "sequence")
SMOOTHINGS = ("others", "uniform")
ALGORITHMS = ("stable", "explicit")

_INTEGERS = ("int", "uint")


def shape_of(name: str, x: Array) -> tuple[int, ...]:
    """The shape of the argument `name`; ValueError where a lazy array does not know it."""
    shape = tuple(x.shape)
    if is_lazy(x) and any(type(n) is float for n in shape):
        raise ValueError(f"{name} has the unknown shape {shape}; accepted: a shape of known lengths")
    return shape


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(_INTEGERS)


def is_array_argument(name: str, x: object, accepted: str) -> None:
    """TypeError unless `x` is an array that this package serves."""
    if type(x) is np.ndarray:
        return
    if not is_array(x):
        raise TypeError(f"{name} is {type(x).__name__}; accepted: {accepted}")
    if not is_dense(x):
        raise TypeError(f"{name} is a sparse, nested or opaque tensor; accepted: {accepted}, dense")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; accepted: a plain array")


def same_place(name: str, x: Array, logits: Array) -> None:
    """TypeError unless `x` is of the library of `logits`, ValueError unless it is on its device."""
    if type(x) is type(logits) and (type(x) is np.ndarray or (is_torch(x) and x.device == logits.device)):
        return
    if namespace(x) is not namespace(logits):
        raise TypeError(
            f"{name} is a {library(x)} array and logits is a {library(logits)} array; accepted: one library"
        )
    here, there = device_name(x), device_name(logits)
    if here != there and here is not None and there is not None:
        raise ValueError(f"{name} is on device {here} and logits is on device {there}; accepted: one device")


def logits_alone(logits: Array) -> tuple[tuple[int, ...], str]:
    """The shape of the logits and the name of their dtype."""
    is_array_argument("logits", logits, "an array of shape (..., V)")
    dtype = dtype_name(logits.dtype)
    if dtype not in FLOATS:
        raise TypeError(f"logits has dtype {dtype}; accepted: {', '.join(FLOATS)}")
    shape = shape_of("logits", logits)
    if not shape:
        raise ValueError("logits has shape (); accepted: (..., V)")
    return shape, dtype


def logits_and_targets(logits: Array, targets: Array) -> tuple[tuple[int, ...], str, bool]:
    """The shape of the logits, the name of their dtype, and whether the targets are soft."""
    shape, dtype = logits_alone(logits)
    is_array_argument("targets", targets, "an integer array of shape (...), or a floating one of shape (..., V)")
    same_place("targets", targets, logits)
    t_shape, t_dtype = shape_of("targets", targets), dtype_name(targets.dtype)
    accepted = f"any integer dtype of shape {shape[:-1]}, or a floating dtype of shape {shape} (soft targets)"
    given = f"targets has dtype {t_dtype} and shape {t_shape} for logits of shape {shape}"
    if t_dtype in FLOATS:
        if t_shape != shape:
            raise TypeError(f"{given}; accepted: {accepted}")
        soft = True
    elif _is_integer(t_dtype):
        if t_shape != shape[:-1]:
            raise ValueError(f"{given}; accepted: {accepted}")
        soft = False
    else:
        raise TypeError(f"{given}; accepted: {accepted}")
    if shape[-1] == 0 and 0 not in shape[:-1]:
        raise ValueError(f"logits has shape {shape}, a vocabulary of 0 classes; accepted: V of at least 1")
    return shape, dtype, soft


def number(name: str, value: Any, accepted: str) -> float:
    """`value` as a float; TypeError unless it is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {_shown(value)}; accepted: {accepted}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is a number past the range of float64; accepted: {accepted}") from None


def _shown(value: Any) -> str:
    if is_array(value) and not isinstance(value, np.generic):
        return f"an array of dtype {dtype_name(value.dtype)} and shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})" if not isinstance(value, (str, type(None))) else repr(value)


def choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of the accepted words; TypeError unless it is a word."""
    if type(value) is str and value in accepted:
        return
    words = ", ".join(map(repr, accepted))
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} is {_shown(value)}; accepted: {words}")


def smoothing_and_z_loss(label_smoothing: Any, smoothing: Any, z_loss: Any) -> None:
    """The numbers of label smoothing and z-loss."""
    accepted = "a number from 0 to 1"
    if not 0.0 <= number("label_smoothing", label_smoothing, accepted) <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing!r}; accepted: {accepted}")
    choice("smoothing", smoothing, SMOOTHINGS)
    accepted = "a finite number that is not negative"
    if not 0.0 <= number("z_loss", z_loss, accepted) < math.inf:
        raise ValueError(f"z_loss is {z_loss!r}; accepted: {accepted}")


def ignored_index(ignore_index: Any, soft: bool) -> int | None:
    """The ignored target as an int, or None."""
    if ignore_index is None:
        return None
    if isinstance(ignore_index, (bool, np.bool_)) or (
        is_array(ignore_index) and not isinstance(ignore_index, np.integer)
    ):
        raise TypeError(f"ignore_index is {_shown(ignore_index)}; accepted: None or an integer")
    try:
        index = operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index is {_shown(ignore_index)}; accepted: None or an integer") from None
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"ignore_index is {index}; accepted: an integer from -2**63 to 2**63 - 1")
    if soft:
        raise ValueError(f"ignore_index is {index} with soft targets; accepted: integer targets, or weights=")
    return index


def token_weights(weights: Any, logits: Array, tokens: tuple[int, ...]) -> None:
    """Weights that are numbers or arrays broadcastable to the shape of the tokens."""
    if weights is None:
        return
    accepted = f"a bool, integer or floating array broadcastable to {tokens}"
    is_array_argument("weights", weights, accepted)
    same_place("weights", weights, logits)
    shape, dtype = shape_of("weights", weights), dtype_name(weights.dtype)
    if dtype not in FLOATS and dtype != "bool" and not _is_integer(dtype):
        raise TypeError(f"weights has dtype {dtype}; accepted: {accepted}")
    # Neither all() nor zip(): torch 2.9 traces no all() of symbolic sizes, and no zip() of different lengths.
    fits = len(shape) <= len(tokens)
    for i in range(-1, -len(shape) - 1, -1):
        fits = fits and shape[i] in (1, tokens[i])
    if not fits:
        raise ValueError(f"weights has shape {shape}; accepted: {accepted}")


def class_weights(weights: Any, logits: Array, vocabulary: int) -> None:
    """Class weights of shape (V,)."""
    if weights is None:
        return
    accepted = f"an integer or floating array of shape ({vocabulary},)"
    is_array_argument("class_weights", weights, accepted)
    same_place("class_weights", weights, logits)
    shape, dtype = shape_of("class_weights", weights), dtype_name(weights.dtype)
    if dtype not in FLOATS and not _is_integer(dtype):
        raise TypeError(f"class_weights has dtype {dtype}; accepted: {accepted}")
    if shape != (vocabulary,):
        raise ValueError(f"class_weights has shape {shape}; accepted: {accepted}")


def denominator(value: Any, reduction: str, logits: Array) -> None:
    """A denominator: None, "tokens", a number, or an array of no dimensions."""
    if value is None:
        return
    accepted = '"tokens", a number above 0, or an array of shape ()'
    if reduction not in ("mean", "sequence"):
        raise ValueError(f"denominator is {_shown(value)} with reduction {reduction!r}; accepted: 'mean' or 'sequence'")
    if isinstance(value, str):
        if value != "tokens":
            raise ValueError(f"denominator is {value!r}; accepted: {accepted}")
    elif is_array(value) and not isinstance(value, np.generic):
        same_place("denominator", value, logits)
        dtype = dtype_name(value.dtype)
        if dtype not in FLOATS and not _is_integer(dtype):
            raise TypeError(f"denominator has dtype {dtype}; accepted: {accepted}")
        if shape_of("denominator", value):
            raise ValueError(f"denominator has shape {tuple(value.shape)}; accepted: {accepted}")
    elif not is_symbolic(value) and not 0.0 < number("denominator", value, accepted) < math.inf:
        raise ValueError(f"denominator is {value!r}; accepted: {accepted}")


def reduction_of_tokens(reduction: Any, tokens: tuple[int, ...]) -> None:
    """The word, and that a mean over sequences has a sequence to go over."""
    choice("reduction", reduction, REDUCTIONS)
    if reduction == "sequence" and not tokens:
        raise ValueError("reduction is 'sequence' with targets of shape (); accepted: targets of shape (..., sequence)")


def flag(name: str, value: Any) -> None:
    """TypeError unless `value` is a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {_shown(value)}; accepted: True or False")


def gradient_of_loss(grad_output: Any, logits: Array, shape: tuple[int, ...]) -> None:
    """A gradient of the loss's shape; for a loss of no dimensions a number will do."""
    if grad_output is None:
        return
    accepted = f"a floating array of shape {shape}" + ("" if shape else ", or a number")
    if not shape and not is_array(grad_output):
        number("grad_output", grad_output, accepted)
        return
    is_array_argument("grad_output", grad_output, accepted)
    same_place("grad_output", grad_output, logits)
    dtype = dtype_name(grad_output.dtype)
    if dtype not in FLOATS:
        raise TypeError(f"grad_output has dtype {dtype}; accepted: {accepted}")
    if shape_of("grad_output", grad_output) != shape:
        raise ValueError(f"grad_output has shape {tuple(grad_output.shape)}; accepted: {accepted}")


def output(out: Any, logits: Array) -> None:
    """An array that can take the gradient: of the library, device, shape and dtype of logits, and writeable."""
    if out is None:
        return
    shape, dtype = tuple(logits.shape), dtype_name(logits.dtype)
    accepted = f"None, or a writeable array of dtype {dtype} and shape {shape}"
    is_array_argument("out", out, accepted)
    same_place("out", out, logits)
    if is_immutable(out):
        raise ValueError("out is an array of a library whose arrays are immutable; accepted: None")
    if dtype_name(out.dtype) != dtype:
        raise TypeError(f"out has dtype {dtype_name(out.dtype)}; accepted: {accepted}")
    if tuple(out.shape) != shape:
        raise ValueError(f"out has shape {tuple(out.shape)}; accepted: {accepted}")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError(f"out is read-only; accepted: {accepted}")
    if _overlaps_itself(shape, strides_of(out) or (), out.itemsize if isinstance(out, np.ndarray) else 1):
        raise ValueError(f"out has elements that share memory, as a broadcast view has; accepted: {accepted}")
    if getattr(out, "requires_grad", False):
        raise ValueError(f"out requires a gradient of its own; accepted: {accepted}")


def _overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> bool:
    """Whether a step along some axis stays within what the axes of smaller steps cover; no other layout is in use."""
    reach = size
    for step, n in sorted((abs(step), n) for step, n in zip(strides, shape, strict=False) if n > 1):
        if step < reach:
            return 0 not in shape
        reach += step * (n - 1)
    return False


def targets_in_range(xp: Namespace, targets: Array, classes: Array, vocabulary: int, ignore_index: int | None) -> None:
    """IndexError naming the first target whose class is none of the vocabulary: it waits for the device, once.

    classes: the targets as signed integers, with a class of the vocabulary for those that are ignored.
    """
    if not any_outside(xp, classes, vocabulary):
        return
    flat = xp.reshape(xp.astype((classes < 0) | (classes >= vocabulary), xp.uint8), (-1,))
    shape = tuple(targets.shape)
    where = tuple(int(i) for i in np.unravel_index(int(xp.argmax(flat)), shape)) if shape else ()
    name = f"targets[{', '.join(map(str, where))}]" if where else "targets"
    accepted = f"0 to {vocabulary - 1} (V = {vocabulary})"
    if ignore_index is not None:
        accepted += f", or ignore_index = {ignore_index}"
    raise IndexError(f"{name} is {int(targets[where])}; accepted: {accepted}")


def captured(targets: Array) -> None:
    """RuntimeError where a CUDA graph is being recorded, in which nobody can wait for the targets."""
    if is_captured(targets):
        raise RuntimeError(
            "targets cannot be checked while a CUDA graph is captured, since that waits for the device; "
            "accepted: check_targets=False"
        )


def options(
    reduction: Any, label_smoothing: Any, smoothing: Any, z_loss: Any, algorithm: Any, check_targets: Any
) -> None:
    """The options that no array decides."""
    choice("reduction", reduction, REDUCTIONS)
    smoothing_and_z_loss(label_smoothing, smoothing, z_loss)
    choice("algorithm", algorithm, ALGORITHMS)
    flag("check_targets", check_targets)


def next_token(logits: Array, token_ids: Array) -> None:
    """Logits (..., T, V) and the integer token_ids (..., T), T at least 1."""
    is_array_argument("logits", logits, "a floating array of shape (..., T, V)")
    is_array_argument("token_ids", token_ids, "an integer array of shape (..., T)")
    same_place("token_ids", token_ids, logits)
    shape, ids = shape_of("logits", logits), shape_of("token_ids", token_ids)
    dtype = dtype_name(logits.dtype)
    if dtype not in FLOATS:
        raise TypeError(f"logits has dtype {dtype}; accepted: {', '.join(FLOATS)}")
    if len(shape) < 2 or shape[-2] == 0:
        raise ValueError(f"logits has shape {shape}; accepted: (..., T, V) with T of at least 1")
    dtype = dtype_name(token_ids.dtype)
    if not _is_integer(dtype):
        raise TypeError(f"token_ids has dtype {dtype}; accepted: any integer dtype")
    if ids != shape[:-1]:
        raise ValueError(f"token_ids has shape {ids} for logits of shape {shape}; accepted: {shape[:-1]}")
