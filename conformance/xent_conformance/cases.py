"""Inputs: seeded, the same in every run, shared by backends so that the oracle is asked once.

All are float64 NumPy arrays of logits with integer targets; tests round them to a place's dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

GAPS = tuple(
    float(gap) for gap in (-1000, -300, -89, -20, -5, -1, -0.25, 0, 0.25, 1, 5, 10, 15, 17, 20, 25, 30, 40, 60, 69, 80)
)
WIDE_GAPS = (90.0, 120.0, 300.0, 600.0, 680.0)
"""Gaps whose losses only float64 holds."""

REDUCTIONS = ("none", "sequence", "mean", "sum")


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng((20260, *seed))


@cache
def gaps(V: int = 10, values: tuple[float, ...] = GAPS) -> tuple[np.ndarray, np.ndarray]:
    """Two rows per gap: the target ahead of equal logits, and of logits scattered below their largest."""
    rng = generator(V)
    company = np.zeros((2 * len(values), V))
    company[1::2] = -3.0 * rng.random((len(values), V))
    targets = rng.integers(0, V, 2 * len(values))
    target = (np.arange(2 * len(values)), targets)
    company[1::2] -= (
        np.where(np.arange(V) == targets[1::2, None], -np.inf, company[1::2]).max(axis=1, keepdims=True) if V > 1 else 0
    )
    company[target] = np.repeat(values, 2)
    return company, targets


@cache
def random(tokens: tuple[int, ...], V: int, scale: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(seed, V, *tokens)
    return scale * rng.standard_normal((*tokens, V)), rng.integers(0, V, tokens)


@cache
def vocabulary(V: int, rows: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a large vocabulary, of some hundred distinct logits; in every second row the target is far ahead."""
    rng = generator(seed, V)
    logits = np.round(8 * rng.standard_normal((rows, V)) * 3) / 8
    targets = rng.integers(0, V, rows)
    logits[np.arange(0, rows, 2), targets[::2]] = logits[::2].max(axis=1) + 8.0 * np.arange(1, rows, 2)
    return logits, targets


def eighths(values: np.ndarray) -> np.ndarray:
    """Rounded to multiples of 1/8, which every dtype of the suite holds up to 32."""
    return np.round(8 * np.asarray(values)) / 8


@cache
def covering(soft: bool, algorithm: str, reductions: tuple[str, ...] = REDUCTIONS) -> list[dict[str, Any]]:
    """Few combinations of options in which every two values that may meet do meet."""
    return pairwise([options for reduction in reductions for options in combinations(soft, algorithm, reduction)])


def combinations(soft: bool, algorithm: str, reduction: str) -> Iterator[dict[str, Any]]:
    """Every combination of the options that the contract allows, for targets of shape (2, 3) in 5 classes."""
    rng = generator(7)
    choices: dict[str, tuple[Any, ...]] = {
        "weights": (None, np.array([[0.5, 2.0, 0.0], [1.5, 0.25, 1.0]])),
        "class_weights": (None, np.array([1.0, 0.5, 2.0, 0.25, 1.5])),
        "ignore_index": (None,) if soft else (None, 3),
        "label_smoothing": (0.0, 0.1),
        "smoothing": ("others", "uniform"),
        "z_loss": (0.0, 0.01),
        "denominator": (None, "tokens", 2.5) if reduction in ("mean", "sequence") else (None,),
    }
    shape = {"none": (2, 3), "sequence": (2,)}.get(reduction, ())
    for values in itertools.product(*choices.values()):
        options = {name: value for name, value in zip(choices, values, strict=True) if value is not None}
        if options["label_smoothing"] == 0 and options["smoothing"] == "uniform":
            continue
        yield {
            **options,
            "reduction": reduction,
            "algorithm": algorithm,
            "grad_output": np.asarray(rng.integers(32, 96, shape) / 64),
        }


def pairwise(combinations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Few of the combinations, in which every two settings that occur together in one occur together still."""

    def pairs(options: dict[str, Any]) -> set[tuple]:
        settings = [
            (name, str(value) if not isinstance(value, np.ndarray) else "array")
            for name, value in sorted(options.items())
            if name != "grad_output"
        ]
        return set(itertools.combinations(settings, 2))

    pairs_of = [pairs(options) for options in combinations]
    left = set().union(*pairs_of)
    chosen = []
    while left:
        best = max(range(len(combinations)), key=lambda i: len(pairs_of[i] & left))
        chosen.append(combinations[best])
        left -= pairs_of[best]
    return chosen
