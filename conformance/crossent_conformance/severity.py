"""How bad a failure is: wrong on ordinary inputs; or off in few digits, or only on sure rows and extreme logits.

An ordinary token has finite logits of moderate size, none of them far ahead of the others. An error is coarse where it
reaches a digit that a user of the dtype relies on. A failure is WRONG unless it is one of values that are not coarsely
off, or one of tokens that are not ordinary though all their logits are finite, and whose values are infinite, NaN, or
nearly right where losses of 1 are the measure: those are EXTREME.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crossent_conformance.backends import HALF
from crossent_conformance.evidence import Call, Disagreement, Unlike

WRONG, EXTREME = "wrong", "extreme"
GRADES = (WRONG, EXTREME)
MEANS = {
    WRONG: "wrong on ordinary inputs",
    EXTREME: "off in few digits, or only where the model is confident or the logits are extreme",
}
LEAD = 5.0
"""A class that is so far ahead of the others is one that the model is confident of."""
LARGE = 60.0
"""The largest logit of moderate size."""
MANY = 1e6
"""Options as large, or as small, are extreme, too."""
COARSE = {"float64": 1e-3, "float32": 1e-3, "float16": 4e-3, "bfloat16": 32e-3}
"""Relative errors past 1e-3, or past four units in the last place of half precision."""
SPECIAL, REFUSALS = 2, 3
"""Tiers of what is wrong: 0 and 1 are values, and errors, on ordinary inputs; then special inputs, then bad ones."""


def ordinary(call: Call) -> np.ndarray:
    """Which tokens of the call are ordinary."""
    logits = np.asarray(call.logits, dtype=np.float64)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        return np.zeros(logits.shape[:-1], dtype=bool)
    moderate = np.asarray((np.abs(logits) <= LARGE).all(axis=-1))  # false for NaN
    if logits.shape[-1] == 1:
        return moderate
    top = np.partition(logits, -2, axis=-1)[..., -2:]
    with np.errstate(invalid="ignore"):
        ahead = top[..., 1] - top[..., 0] >= LEAD
    if call.targets.shape == logits.shape and call.targets.dtype.kind == "f":
        moderate &= (np.abs(call.targets) <= LARGE).all(axis=-1)
    return np.asarray(moderate & ~ahead & all(map(_is_moderate, call.options.values())))


def _is_moderate(option: Any) -> bool:
    """Whether a number, or an array of them, has no value that is far from 1 and not 0."""
    try:
        size = np.abs(np.asarray(option, dtype=np.float64))
    except (TypeError, ValueError):  # a word, for one
        return True
    return bool(((size == 0) | ((size >= 1 / MANY) & (size <= MANY)) | np.isnan(size)).all())


def spread(tokens: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What holds of tokens, as it holds of a result of that shape: of a sum, where it holds of every token in it."""
    if shape[: tokens.ndim] == tokens.shape:
        return np.broadcast_to(tokens.reshape(tokens.shape + (1,) * (len(shape) - tokens.ndim)), shape)
    if tokens.shape[: len(shape)] == shape:
        return np.asarray(tokens.all(axis=tuple(range(len(shape), tokens.ndim))))
    return np.full(shape, bool(tokens.all()))


def coarse(relative: float | np.ndarray, dtype: str) -> bool | np.ndarray:
    """Whether a relative error is one that a user of the dtype sees."""
    return ~(np.asarray(relative) <= COARSE.get(dtype, 1e-3))


def reach(relative: np.ndarray, error: np.ndarray, exact: np.ndarray, what: str, call: Call | None) -> np.ndarray:
    """Relative errors; in half precision none is larger than it is beside what the dtype resolves: logits, or 1."""
    if call is None or call.dtype not in HALF:
        return relative
    of = exact if what.startswith("d_") else call.logits
    largest = np.abs(np.asarray(of, dtype=np.float64))
    scale = largest[np.isfinite(largest)].max(initial=0.0 if what.startswith("d_") else 1.0)
    return np.where(np.isfinite(error), np.minimum(relative, error / max(scale, 1e-300)), relative)


def plainest(fractions: np.ndarray, relative: np.ndarray, call: Call | None) -> tuple[int, ...]:
    """Which of the entries that are off tells most: the worst of the ordinary tokens, if theirs are coarsely off."""
    if call is not None:
        found = (fractions > 1) & spread(ordinary(call), fractions.shape) & coarse(relative, call.dtype)
        if found.any():
            fractions = np.where(found, relative, -1.0)
    return tuple(map(int, np.unravel_index(int(np.argmax(fractions)), fractions.shape)))


def graded(error: BaseException, kind: str, call: Call | None, dtype: str) -> tuple[str, int, float]:
    """The grade of a failure, its tier, and its relative error: what is told first is smallest, largest."""
    relative = 0.0
    if isinstance(error, Unlike):
        relative = error.relative if isinstance(error, Disagreement) else _apart(error)
        if not coarse(relative, dtype):
            return EXTREME, SPECIAL, relative
    if call is None:
        return WRONG, 1 if kind == "raises" else REFUSALS, 0.0
    index = error.index if isinstance(error, Unlike) else ()
    with np.errstate(invalid="ignore"):
        numbers = not np.isnan(call.logits).any() and not np.isinf(call.logits).any()
    plain = _holds_at(ordinary(call), index)
    first = 0 if plain and not _counts_nothing(call) else SPECIAL
    if isinstance(error, Unlike):
        far = math.isfinite(error.given) and coarse(_apart(error), dtype)
        if numbers and not plain and not far and call.logits.size:
            return EXTREME, SPECIAL, relative
        return WRONG, first, relative
    if kind == "not refused":
        return WRONG, REFUSALS, 0.0
    return WRONG, 1 if plain else SPECIAL, 0.0


def _apart(error: Unlike) -> float:
    """The relative distance of two values that should be the same; losses below 1 count as 1."""
    if not (math.isfinite(error.expected) and math.isfinite(error.given)):
        return 0.0 if error.expected == error.given else math.inf
    return abs(error.given - error.expected) / max(error.scale, abs(error.expected), 1e-300)


def _counts_nothing(call: Call) -> bool:
    """Whether no token of the call counts."""
    weights, of_classes, ignored = (call.options.get(name) for name in ("weights", "class_weights", "ignore_index"))
    t, V = call.targets, call.logits.shape[-1] if call.logits.ndim else 0
    counted = np.ones(t.shape, dtype=bool) if ignored is None else np.asarray(t != ignored)
    if of_classes is not None and t.dtype.kind in "iu" and V:
        counted = counted & (np.asarray(of_classes)[np.clip(t, 0, V - 1)] != 0)
    return not counted.any() or (weights is not None and not np.any(weights))


def _holds_at(tokens: np.ndarray, index: tuple[int, ...]) -> bool:
    if not tokens.size:
        return False
    try:
        return bool(np.all(tokens[index[: tokens.ndim]]))
    except IndexError:
        return bool(tokens.all())
