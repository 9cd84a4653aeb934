"""What the clean implementation refuses (clauses A3 to A5): every text names what was given and what is accepted."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any

import numpy as np

FLOATS = ("float64", "float32", "float16")
WORDS = {
    "reduction": ("none", "sequence", "mean", "sum"),
    "smoothing": ("others", "uniform"),
    "algorithm": ("stable", "explicit"),
    "engine": ("auto",),
}
LARGEST = sys.float_info.max
SIZES = (1e-18, 1e18)
"""Of temperatures and softcaps."""


def _require(holds: bool, kind: type[Exception], name: str, value: Any, accepted: str) -> None:
    """An error of that kind unless it holds."""
    if not holds:
        raise kind(f"{name} is {_worded(value)}; accepted: {accepted}")


def _worded(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        masked = "a masked array" if isinstance(value, np.ma.MaskedArray) else "an array"
        return f"{masked} of dtype {value.dtype.name} and shape {value.shape}"
    if hasattr(value, "__array_namespace__"):
        return f"an array of {value.__array_namespace__().__name__.replace('_', '-')} among those of numpy"
    return f"{value!r}, of type {type(value).__name__}"


def _array(name: str, value: Any, kinds: str, accepted: str, holds: Callable[[Any], bool] = lambda shape: True) -> None:
    """A plain NumPy array (or scalar) whose dtype is of one of the kinds, else a TypeError; of such a shape."""
    plain = isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.ma.MaskedArray)
    known = plain and value.dtype.kind in kinds and (value.dtype.kind != "f" or value.dtype.name in FLOATS)
    _require(known, TypeError, name, value, accepted)
    _require(holds(value.shape), ValueError, name, value, accepted)


def _number(name: str, value: Any, accepted: str, holds: Callable[[Any], bool] = lambda number: True) -> None:
    _require(isinstance(value, Real) and not isinstance(value, bool), TypeError, name, value, accepted)
    _require(holds(value), ValueError, name, value, accepted)


def names(given: Iterable[str], accepted: list[str]) -> None:
    """TypeError for an option of the loss object that there is not."""
    for name in given:
        _require(name in accepted, TypeError, "an option", name, ", ".join(accepted))


def call(call: Any) -> None:
    """Everything but the values of the targets."""
    accepted = f"an array of shape (..., V), with at least one class, and dtype {', '.join(FLOATS)}"
    _array("logits", call.logits, "f", accepted, lambda shape: shape and (shape[-1] > 0 or 0 in shape[:-1]))
    tokens, V = call.logits.shape[:-1], call.logits.shape[-1]
    accepted = f"an array of integers of shape {tokens}, or of floats of shape {call.logits.shape}"
    _array("targets", call.targets, "iuf", accepted)
    soft = call.targets.dtype.kind == "f"
    fits = call.targets.shape == (call.logits.shape if soft else tokens)
    _require(fits, TypeError if soft else ValueError, "targets", call.targets, accepted)
    if call.weights is not None:
        accepted = f"an array of numbers or bools that broadcasts to {tokens}"
        _array("weights", call.weights, "fiub", accepted, lambda shape: _broadcasts(shape, tokens))
    if call.class_weights is not None:
        accepted = f"an array of numbers of shape ({V},)"
        _array("class_weights", call.class_weights, "fiu", accepted, lambda shape: shape == (V,))
    for name, words in WORDS.items():
        value, accepted = getattr(call, name), ", ".join(map(repr, words))
        _require(isinstance(value, str), TypeError, name, value, accepted)
        _require(value in words, ValueError, name, value, accepted)
    there = call.reduction != "sequence" or tokens != ()
    _require(there, ValueError, "reduction", call.reduction, "targets with an axis of positions")
    _require(isinstance(call.check_targets, bool | np.bool_), TypeError, "check_targets", call.check_targets, "a bool")
    _number("label_smoothing", call.label_smoothing, "a number in [0, 1]", lambda number: 0 <= number <= 1)
    _number("z_loss", call.z_loss, "a finite number of at least 0", lambda number: 0 <= number <= LARGEST)
    accepted = f"a number from {SIZES[0]} to {SIZES[1]}"
    _number("temperature", call.temperature, accepted, lambda number: SIZES[0] <= number <= SIZES[1])
    if call.logit_softcap is not None:
        accepted = f"None, or {accepted}"
        _number("logit_softcap", call.logit_softcap, accepted, lambda number: SIZES[0] <= number <= SIZES[1])
    if call.ignore_index is not None:
        _ignore_index(call.ignore_index, soft)
    if call.denominator is not None:
        accepted = f"'mean' or 'sequence' beside a denominator, not {call.reduction!r}"
        _require(call.reduction in ("mean", "sequence"), ValueError, "denominator", call.denominator, accepted)
        _denominator(call.denominator)


def _broadcasts(shape: tuple[int, ...], tokens: tuple[int, ...]) -> bool:
    fits = (n in (1, m) for n, m in zip(shape[::-1], tokens[::-1], strict=False))
    return len(shape) <= len(tokens) and all(fits)


def _ignore_index(value: Any, soft: bool) -> None:
    accepted = "None or an integer of 64 bits; None with soft targets"
    is_integer = hasattr(value, "__index__") and not isinstance(value, bool | np.bool_ | np.ndarray)
    _require(is_integer, TypeError, "ignore_index", value, accepted)
    _require(-(2**63) <= operator.index(value) < 2**63 and not soft, ValueError, "ignore_index", value, accepted)


def _denominator(value: Any) -> None:
    accepted = "None, 'tokens', a number that is not negative, or an array of one of shape ()"
    if isinstance(value, str):
        _require(value == "tokens", ValueError, "denominator", value, accepted)
    elif isinstance(value, np.ndarray) or hasattr(value, "__array_namespace__"):
        _array("denominator", value, "fiu", accepted, lambda shape: shape == ())
    else:
        _number("denominator", value, accepted, lambda number: 0 <= number <= LARGEST)


def gradient(grad_output: Any, shape: tuple[int, ...]) -> None:
    """A gradient of the loss's shape, or a number for a loss of no dimensions."""
    accepted = f"an array of floats of shape {shape}" + ("" if shape else ", or a number")
    if grad_output is not None and not shape and not hasattr(grad_output, "shape"):
        _number("grad_output", grad_output, accepted)
    elif grad_output is not None:
        _array("grad_output", grad_output, "f", accepted, lambda given: given == shape)


def output(out: Any, logits: np.ndarray) -> None:
    """Memory that can take the gradient."""
    if out is None:
        return
    accepted = f"None, or a writeable array of shape {logits.shape} and dtype {logits.dtype.name}"
    _array("out", out, "f", accepted)
    _require(out.dtype == logits.dtype, TypeError, "out", out, accepted)
    _require(out.shape == logits.shape, ValueError, "out", out, accepted)
    _require(out.flags.writeable, ValueError, "out", out, f"{accepted}: it is read-only")
    reach = out.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1):
        _require(stride >= reach, ValueError, "out", out, f"{accepted}: its elements share memory")
        reach = reach + stride * (length - 1)


def linear(hidden: Any, weight: Any, bias: Any, classes: Any, memory: Any, needs: Any) -> None:
    """What the linear loss has besides."""
    accepted = f"an array of shape (..., D), and dtype {', '.join(FLOATS)}"
    _array("hidden", hidden, "f", accepted, lambda shape: len(shape) > 0)
    width, none = hidden.shape[-1], 0 in hidden.shape[:-1]
    accepted = f"an array of floats of shape (V, {width}), V of at least 1"
    fits = lambda shape: len(shape) == 2 and shape[1] == width and (shape[0] > 0 or none)  # noqa: E731
    _array("weight", weight, "f", accepted, fits)
    V = len(weight)
    if bias is not None:
        _array("bias", bias, "f", f"None, or an array of floats of shape ({V},)", lambda shape: shape == (V,))
    for name, value, most in (("classes", classes, V), ("memory", memory, sys.maxsize)):
        if value is not None:
            accepted = f"None, or a whole number of at least 1 and at most {most}"
            is_whole = hasattr(value, "__index__") and not isinstance(value, bool | np.bool_)
            _require(is_whole, TypeError, name, value, accepted)
            _require(1 <= operator.index(value) <= most, ValueError, name, value, accepted)
    accepted = "a tuple of some of 'hidden', 'weight', 'bias'"
    _require(isinstance(needs, tuple), TypeError, "needs", needs, accepted)
    _require(set(needs) <= {"hidden", "weight", "bias"}, ValueError, "needs", needs, accepted)


def outputs(out: Any, likes: tuple[Any, ...]) -> None:
    """Memory for the gradients of hidden states, weight and bias."""
    if out is None:
        return
    accepted = "None, or a tuple of three arrays or None, which share no memory"
    _require(isinstance(out, tuple) and len(out) == len(likes), TypeError, "out", out, accepted)
    given: list[Any] = []
    for there, like in zip(out, likes, strict=True):
        _require(there is None or like is not None, ValueError, "out", there, "None without a bias")
        output(there, like)
        apart = not any(np.may_share_memory(there, other) for other in given)
        _require(apart, ValueError, "out", there, accepted)
        given += [] if there is None else [there]


def targets(targets: np.ndarray, bad: np.ndarray, V: int, ignore_index: int | None) -> None:
    """IndexError for the first target that is neither a class nor ignored."""
    if not bad.any():
        return
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    accepted = f"0 to {V - 1} (V = {V})" + ("" if ignore_index is None else f", or ignore_index = {ignore_index}")
    raise IndexError(f"targets{list(where) if where else ''} is {int(targets[where])}; accepted: {accepted}")


def token_ids(logits: Any, ids: Any, name: str = "token_ids") -> None:
    """Classes of logits, one for each row; or several, where they are no targets."""
    accepted = f"an array of shape (..., V), with at least one class, and dtype {', '.join(FLOATS)}"
    _array("logits", logits, "f", accepted, lambda shape: shape and (shape[-1] > 0 or 0 in shape[:-1]))
    tokens, several = logits.shape[:-1], name == "token_ids"
    accepted = f"an array of integers of shape {tokens}" + several * f", or {(*tokens, 'K')} for several of each token"
    fits = lambda shape: shape == tokens or (several and shape[:-1] == tokens and shape[-1] > 0)  # noqa: E731
    _array(name, ids, "iu", accepted, fits)


def teacher(teacher_logits: Any, logits: np.ndarray) -> None:
    """Logits of the same shape."""
    accepted = f"an array of floats of shape {logits.shape}"
    _array("teacher_logits", teacher_logits, "f", accepted, lambda shape: shape == logits.shape)


def direction(word: Any, mixture: Any) -> None:
    """Which of the divergences."""
    accepted = "'forward', 'reverse', 'jensen-shannon'"
    _require(isinstance(word, str), TypeError, "direction", word, accepted)
    _require(word in ("forward", "reverse", "jensen-shannon"), ValueError, "direction", word, accepted)
    _number("mixture", mixture, "a number between 0 and 1", lambda number: 0 < number < 1)


def next_token(logits: Any, token_ids: Any) -> None:
    """Logits (..., T, V) and integers (..., T), with a position at least."""
    accepted = "an array of floats of shape (..., T, V), T of at least 1"
    _array("logits", logits, "f", accepted, lambda shape: len(shape) > 1 and shape[-2] > 0)
    accepted = f"an array of integers of shape {logits.shape[:-1]}"
    _array("token_ids", token_ids, "iu", accepted, lambda shape: shape == logits.shape[:-1])


def perplexity(loss: Any) -> None:
    """A number, or an array of floats."""
    accepted = "a number or an array of floats"
    if isinstance(loss, np.ndarray | np.generic) or hasattr(loss, "__array_namespace__"):
        _array("loss", loss, "f", accepted)
    else:
        _number("loss", loss, accepted)
