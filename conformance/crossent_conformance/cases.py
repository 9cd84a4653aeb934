"""Inputs: seeded, the same in every run of a seed, shared by backends so that the oracle is asked once.

All are float64 NumPy arrays of logits with integer targets, and not writeable; tests round them to a place's dtype.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache, wraps
from typing import Any

import numpy as np

from crossent_conformance import depth

SEED = depth.SEED
"""The seed of the run."""
GAPS = tuple(
    float(gap) for gap in (-1000, -300, -89, -20, -5, -1, -0.25, 0, 0.25, 1, 5, 10, 15, 17, 20, 25, 30, 40, 60, 69, 80)
)
WIDE_GAPS = (90.0, 120.0, 300.0, 600.0, 680.0)
"""Gaps whose losses only float64 holds."""
MILD_GAPS = (-60.0, -20.0, -5.0, -1.0, 0.0, 1.0)
"""Gaps at which no formula of the loss cancels: for tests whose question is another than V1's."""

REDUCTIONS = ("none", "sequence", "mean", "sum")


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng((20260, *seed, *((SEED,) if SEED else ())))


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Made once for each seed of a run; arrays that no test can spoil for the next."""

    @cache
    def made(_seed: int, *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        for part in result if isinstance(result, tuple) else ():
            part.flags.writeable = False
        return result

    @wraps(function)
    def asked(*args: Any, **kwargs: Any) -> Any:
        return made(SEED, *args, **kwargs)

    return asked


@_remembered
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


@_remembered
def random(
    tokens: tuple[int, ...], V: int, scale: float = 3.0, seed: int = 0, sure: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Random logits. A target is ahead of the other classes by 1 at most, where no formula cancels, unless `sure`."""
    rng = generator(seed, V, *tokens)
    logits, targets = scale * rng.standard_normal((*tokens, V)), np.asarray(rng.integers(0, V, tokens))
    return logits if sure else mild(logits, targets), targets


def mild(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The logits with no target ahead of the other classes by more than 1."""
    if logits.shape[-1] == 1:
        return logits
    is_target = np.arange(logits.shape[-1]) == targets[..., None]
    best = np.where(is_target, -np.inf, logits).max(axis=-1, keepdims=True, initial=-np.inf)
    return np.where(is_target, np.minimum(logits, best + 1), logits)


@_remembered
def vocabulary(V: int, rows: int = 6, seed: int = 0, sure: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a large vocabulary, of some hundred distinct logits; `sure`: every second target is far ahead."""
    rng = generator(seed, V)
    logits = np.round(8 * rng.standard_normal((rows, V)) * 3) / 8
    targets = rng.integers(0, V, rows)
    if sure:
        logits[np.arange(0, rows, 2), targets[::2]] = logits[::2].max(axis=1) + 8.0 * np.arange(1, rows, 2)
    return logits if sure else mild(logits, targets), targets


@_remembered
def head(tokens: tuple[int, ...], width: int, V: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Hidden states, targets, weight and bias of a linear loss, whose logits are of size 1."""
    rng = generator(seed, V, width, *tokens)
    hidden, weight = rng.standard_normal((*tokens, width)), rng.standard_normal((V, width)) / np.sqrt(width)
    return hidden, np.asarray(rng.integers(0, V, tokens)), weight, rng.standard_normal(V) / 2


def small(soft: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Logits of shape (2, 3, 5), and targets, in eighths."""
    logits, targets = random((2, 3), 5)
    return eighths(logits), eighths(generator(9).random(logits.shape)) if soft else targets


def loss_shape(reduction: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the loss of tokens of that shape."""
    return {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())


def scale(reduction: str, tokens: tuple[int, ...] = (2, 3), low: int = -64) -> np.ndarray:
    """A `grad_output`: multiples of 1/32, from low/32 to 2."""
    return np.asarray(generator(4).integers(low, 64, loss_shape(reduction, tokens)) / 32)


def eighths(values: np.ndarray) -> np.ndarray:
    """Rounded to multiples of 1/8, which every dtype of the suite holds up to 32."""
    return np.round(8 * np.asarray(values)) / 8


@_remembered
def covering(
    soft: bool, algorithm: str, reductions: tuple[str, ...] = REDUCTIONS, **only: tuple[Any, ...]
) -> list[dict[str, Any]]:
    """Few combinations of options in which every two values that may meet do meet."""
    return pairwise(
        [options for reduction in reductions for options in combinations(soft, algorithm, reduction, **only)]
    )


def combinations(soft: bool, algorithm: str, reduction: str, **only: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Every combination of the options that the contract allows, for targets of shape (2, 3) in 5 classes.

    `only` narrows the values of an option: label_smoothing=(0.0,).
    """
    choices: dict[str, tuple[Any, ...]] = {
        "weights": (None, np.array([[0.5, 2.0, 0.0], [1.5, 0.25, 1.0]])),
        "class_weights": (None, np.array([1.0, 0.5, 2.0, 0.25, 1.5])),
        "ignore_index": (None,) if soft else (None, 3),
        "label_smoothing": (0.0, 0.1),
        "smoothing": ("others", "uniform"),
        "z_loss": (0.0, 0.01),
        "denominator": (None, "tokens", 2.5) if reduction in ("mean", "sequence") else (None,),
        **only,
    }
    for values in itertools.product(*choices.values()):
        given = {name: value for name, value in zip(choices, values, strict=True) if value is not None}
        if given["label_smoothing"] == 0 and given.pop("smoothing") == "uniform":
            continue
        plain = {"label_smoothing": 0.0, "z_loss": 0.0}
        options = {name: value for name, value in given.items() if not _is(value, plain.get(name))}
        yield {**options, "reduction": reduction, "algorithm": algorithm}


def _is(value: Any, plain: Any) -> bool:
    return not isinstance(value, np.ndarray) and value == plain


def pairwise(combinations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Few of the combinations, in which every two settings that occur together in one occur together still."""
    names = sorted({name for options in combinations for name in options})

    def pairs(options: dict[str, Any]) -> set[tuple]:
        settings = [
            (name, "array" if isinstance(options.get(name), np.ndarray) else str(options.get(name))) for name in names
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
