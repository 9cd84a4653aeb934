"""What the clean implementation refuses (clauses A3 to A5): every text names what was given and what is accepted."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

FLOATS = ("float64", "float32", "float16")


def _refuse(kind: type[Exception], given: str, accepted: str) -> None:
    raise kind(f"{given}; accepted: {accepted}")


def _worded(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype.name} and shape {value.shape}"
    return f"{value!r}, of type {type(value).__name__}"


def _array(name: str, value: Any, kinds: str, accepted: str) -> None:
    """TypeError unless the value is a plain NumPy array (or scalar) whose dtype is of one of the kinds."""
    if not isinstance(value, np.ndarray | np.generic):
        if hasattr(value, "__array_namespace__"):
            library = value.__array_namespace__().__name__.replace("_", "-")
            _refuse(TypeError, f"{name} is a {library} array and logits is a numpy array", "one library")
        _refuse(TypeError, f"{name} is {_worded(value)}", accepted)
    if isinstance(value, np.ma.MaskedArray):
        _refuse(TypeError, f"{name} is a masked array", f"{accepted}, without a mask")
    if value.dtype.kind not in kinds or (value.dtype.kind == "f" and value.dtype.name not in FLOATS):
        _refuse(TypeError, f"{name} has dtype {value.dtype.name} and shape {value.shape}", accepted)


def _number(name: str, value: Any, accepted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        _refuse(TypeError, f"{name} is {_worded(value)}", accepted)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _word(name: str, value: Any, words: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in words:
        kind = ValueError if isinstance(value, str) else TypeError
        _refuse(kind, f"{name} is {_worded(value)}", ", ".join(map(repr, words)))


def names(given: Iterable[str], accepted: list[str]) -> None:
    """TypeError for an option of the loss object that there is not."""
    for name in given:
        if name not in accepted:
            _refuse(TypeError, f"there is no option {name!r}", ", ".join(accepted))


def call(call: Any) -> None:
    """Everything but the values of the targets."""
    _arrays(call.logits, call.targets)
    V, tokens, soft = call.logits.shape[-1], call.logits.shape[:-1], call.targets.dtype.kind == "f"
    if V == 0 and 0 not in tokens:
        _refuse(ValueError, f"logits has shape {call.logits.shape}", "at least one class")
    if call.weights is not None:
        accepted = f"an array of numbers or bools that broadcasts to {tokens}"
        _array("weights", call.weights, "fiub", accepted)
        shape = call.weights.shape
        if len(shape) > len(tokens) or any(n not in (1, m) for n, m in zip(shape[::-1], tokens[::-1], strict=False)):
            _refuse(ValueError, f"weights has shape {shape}", accepted)
    if call.class_weights is not None:
        accepted = f"an array of numbers of shape ({V},)"
        _array("class_weights", call.class_weights, "fiu", accepted)
        if call.class_weights.shape != (V,):
            _refuse(ValueError, f"class_weights has shape {call.class_weights.shape}", accepted)
    _word("reduction", call.reduction, ("none", "sequence", "mean", "sum"))
    if call.reduction == "sequence" and not tokens:
        _refuse(ValueError, "reduction is 'sequence' for targets of shape ()", "targets with an axis of positions")
    _word("smoothing", call.smoothing, ("others", "uniform"))
    _word("algorithm", call.algorithm, ("stable", "explicit"))
    _word("engine", call.engine, ("auto",))
    if not isinstance(call.check_targets, bool | np.bool_):
        _refuse(TypeError, f"check_targets is {_worded(call.check_targets)}", "True, False")
    if not 0 <= _number("label_smoothing", call.label_smoothing, "a number in [0, 1]") <= 1:
        _refuse(ValueError, f"label_smoothing is {call.label_smoothing!r}", "a number in [0, 1]")
    if not 0 <= _number("z_loss", call.z_loss, "a finite number of at least 0") < math.inf:
        _refuse(ValueError, f"z_loss is {call.z_loss!r}", "a finite number of at least 0")
    if call.ignore_index is not None:
        _ignore_index(call.ignore_index, soft)
    if call.denominator is not None:
        _denominator(call.denominator, call.reduction)


def _arrays(logits: Any, targets: Any) -> None:
    _array("logits", logits, "f", f"an array of shape (..., V) and dtype {', '.join(FLOATS)}")
    accepted = "an array of integers of shape (...), or of floats of shape (..., V), for logits of shape (..., V)"
    if not logits.shape:
        _refuse(ValueError, "logits has shape ()", "shape (..., V)")
    tokens = logits.shape[:-1]
    accepted = f"an array of integers of shape {tokens}, or of floats of shape {logits.shape}"
    _array("targets", targets, "iuf", accepted)
    if targets.shape != (logits.shape if targets.dtype.kind == "f" else tokens):
        kind = TypeError if targets.dtype.kind == "f" else ValueError
        _refuse(kind, f"targets has dtype {targets.dtype.name} and shape {targets.shape}", accepted)


def _ignore_index(value: Any, soft: bool) -> None:
    accepted = "None or an integer of 64 bits"
    try:
        if isinstance(value, bool | np.bool_ | np.ndarray):
            raise TypeError
        index = operator.index(value)
    except TypeError:
        _refuse(TypeError, f"ignore_index is {_worded(value)}", accepted)
    if not -(2**63) <= index < 2**63:
        _refuse(ValueError, f"ignore_index is {index}", accepted)
    if soft:
        _refuse(ValueError, f"ignore_index is {index} with soft targets", "None with soft targets")


def _denominator(value: Any, reduction: str) -> None:
    accepted = "None, 'tokens', a positive number, or an array of one of shape ()"
    if reduction not in ("mean", "sequence"):
        _refuse(ValueError, f"denominator is {_worded(value)} with reduction {reduction!r}", "'mean', 'sequence'")
    if isinstance(value, str):
        if value != "tokens":
            _refuse(ValueError, f"denominator is {value!r}", accepted)
    elif isinstance(value, np.ndarray) or hasattr(value, "__array_namespace__"):
        _array("denominator", value, "fiu", accepted)
        if value.shape:
            _refuse(ValueError, f"denominator has shape {value.shape}", accepted)
    elif not 0 < _number("denominator", value, accepted) < math.inf:
        _refuse(ValueError, f"denominator is {value!r}", accepted)


def gradient(grad_output: Any, shape: tuple[int, ...]) -> None:
    """A gradient of the loss's shape, or a number for a loss of no dimensions."""
    if grad_output is None:
        return
    accepted = f"an array of floats of shape {shape}" + ("" if shape else ", or a number")
    if not shape and not hasattr(grad_output, "shape"):
        _number("grad_output", grad_output, accepted)
        return
    _array("grad_output", grad_output, "f", accepted)
    if grad_output.shape != shape:
        _refuse(ValueError, f"grad_output has shape {grad_output.shape}", accepted)


def output(out: Any, logits: np.ndarray) -> None:
    """Memory that can take the gradient."""
    if out is None:
        return
    accepted = f"None, or a writeable array of shape {logits.shape} and dtype {logits.dtype.name}"
    _array("out", out, "f", accepted)
    if out.dtype.name != logits.dtype.name:
        _refuse(TypeError, f"out has dtype {out.dtype.name}", accepted)
    if out.shape != logits.shape:
        _refuse(ValueError, f"out has shape {out.shape}", accepted)
    if not out.flags.writeable:
        _refuse(ValueError, "out is read-only", accepted)
    reach = out.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1):
        if stride < reach:
            _refuse(ValueError, "out has elements that share memory", accepted)
        reach = reach + stride * (length - 1)


def targets(targets: np.ndarray, bad: np.ndarray, V: int, ignore_index: int | None) -> None:
    """IndexError for the first target that is neither a class nor ignored."""
    if not bad.any():
        return
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    accepted = f"0 to {V - 1} (V = {V})" + ("" if ignore_index is None else f", or ignore_index = {ignore_index}")
    _refuse(IndexError, f"targets{list(where) if where else ''} is {int(targets[where])}", accepted)


def next_token(logits: Any, token_ids: Any) -> None:
    """Logits (..., T, V) and integers (..., T), with a position at least."""
    _array("logits", logits, "f", "an array of floats of shape (..., T, V)")
    _array("token_ids", token_ids, "iu", "an array of integers of shape (..., T)")
    if logits.ndim < 2 or logits.shape[-2] == 0:
        _refuse(ValueError, f"logits has shape {logits.shape}", "shape (..., T, V), T of at least 1")
    if token_ids.shape != logits.shape[:-1]:
        _refuse(ValueError, f"token_ids has shape {token_ids.shape}", f"shape {logits.shape[:-1]}")


def perplexity(loss: Any) -> None:
    """A number, or an array of floats."""
    accepted = "a number or an array of floats"
    if isinstance(loss, np.ndarray | np.generic) or hasattr(loss, "__array_namespace__"):
        _array("loss", loss, "f", accepted)
    else:
        _number("loss", loss, accepted)
