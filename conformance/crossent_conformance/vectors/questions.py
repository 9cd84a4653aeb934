"""What a test vector asks, before anything is answered: named inputs, in numbers of no library's random generator.

    Question("confident", "The target ahead ...", logits, targets, {"label_smoothing": 0.5})

Logits and targets are as the call gets them, but for repetition: `rows=[3, 1]` and `columns=[1, 400]` say how often
each of the rows (along the one axis of tokens) and each of the classes is repeated, in place. So a million tokens, or
a vocabulary of fifty thousand, take a dozen numbers. Targets count classes after the repetition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossent_conformance.repeatable import Draw

ALL = ("float64", "float32", "float16", "bfloat16")
WIDE = ("float64", "float32")
NONE: dict[str, Any] = {"reduction": "none"}


@dataclass(frozen=True)
class Question:
    """One call, to be rounded to the dtypes of its clause."""

    name: str
    about: str
    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any] = field(default_factory=lambda: dict(NONE))
    rows: list[int] | None = None
    columns: list[int] | None = None
    soft_dtype: str | None = None
    """The dtype of soft targets, where it is not that of the logits."""
    never_negative: bool = False
    """Whether the vector says that no loss may be below 0 (V2)."""
    sums_to_zero: bool = False
    """Whether it says how far a gradient row may be from a sum of 0 (V4)."""
    perplexity: bool = False
    """Whether it has the perplexity of each loss (V11)."""


def draw(label: str) -> Draw:
    """Numbers that the label decides."""
    return Draw(f"vectors/{label}")


def eighths(values: np.ndarray) -> np.ndarray:
    """The nearest multiples of 1/8."""
    return np.floor(8 * values + 0.5) / 8


def ahead(gaps: tuple[float, ...], V: int, label: str = "") -> tuple[np.ndarray, np.ndarray]:
    """One row per gap: the target ahead of equal logits, or, with a label, of the largest of scattered ones."""
    rows = np.arange(len(gaps))
    targets = (3 * rows + 1) % V
    logits = eighths(draw(label).logits(len(gaps), V)) if label else np.zeros((len(gaps), V))
    logits[rows, targets] = -np.inf
    logits -= logits.max(axis=1, keepdims=True)
    logits[rows, targets] = gaps
    return logits, targets


def mild(label: str, *tokens: int, V: int) -> tuple[np.ndarray, np.ndarray]:
    """Small logits in multiples of 1/8, which every dtype holds, with any targets."""
    numbers = draw(label)
    return eighths(numbers.logits(*tokens, V)), numbers.targets(*tokens, V=V)
