"""The questions of clauses V1 to V4 and V6 to V11: a function for each clause, of the dtype of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crossent_conformance.vectors.questions import ALL, NONE, WIDE, Question, ahead, draw, eighths, mild

INFINITY = float("inf")
GAPS = (-1000.0, -300.0, -89.0, -20.0, -5.0, -1.0, -0.25, 0.0, 0.25, 1.0, 5.0, 10.0, 15.0, 17.0, 20.0, 25.0, 30.0,
        40.0, 60.0, 69.0)  # fmt: skip
"""How far the target is ahead: losses from 1000 down to 1e-30."""
WIDE_GAPS = (80.0, 90.0, 120.0, 300.0, 600.0, 680.0)
"""Losses that only float64 has to hold."""
MILD_GAPS = (-60.0, -5.0, -1.0, 0.0, 1.0, 20.0)
CLASS_WEIGHTS = np.array([1.0, 0.5, 0.25, 2.0, 4.0, 0.125])
ONE_WITHOUT = np.where(CLASS_WEIGHTS == 2, 0, CLASS_WEIGHTS)
SMOOTHINGS = ("others", "uniform")


def _soft(label: str, *shape: int) -> np.ndarray:
    return draw(label).weights(*shape) / 2


def v1(dtype: str) -> Iterator[Question]:
    """Hard targets."""
    gaps = GAPS + (WIDE_GAPS if dtype == "float64" else ())
    yield Question(
        "confident", "A target ahead of nine equal logits, or behind: log(1 + x) loses what is small.", *ahead(gaps, 10)
    )
    yield Question("scattered", "The same gaps to the largest of scattered logits.", *ahead(gaps, 7, "V1 scattered"))
    for V in (2, 3, 17):
        numbers = draw(f"V1 classes {V}")
        yield Question(f"classes-{V}", f"Ordinary rows of {V} classes.", numbers.logits(5, V), numbers.targets(5, V=V))
    numbers = draw("V1 large")
    logits, targets = numbers.logits(12, 5), numbers.targets(12, V=5)
    offsets = np.repeat([10_000.0 - 8, -10_000.0 + 8, 0.0], 4)[:, None]
    scales = np.repeat([1.0, 1.0, 1024.0], 4)[:, None]
    yield Question(
        "large", "Logits near 1e4, near -1e4 and between: exp overflows.", offsets + scales * logits, targets
    )
    for V in (4097, 50257):
        yield _vocabulary("vocabulary", V)


def _vocabulary(name: str, V: int, **options: Any) -> Question:
    """A large vocabulary: two targets in the middle and at the end, and thirty logits with their copies."""
    logits = eighths(2 * draw(f"V1 vocabulary {V}").logits(4, 32))
    logits[2, 15], logits[3, 31] = 24.0, 40.0
    copies = (V - 2) // 30
    columns = [copies] * 15 + [1] + [copies] * 14 + [V - 2 - 29 * copies, 1]
    middle, end = 15 * copies, V - 1
    return Question(
        f"{name}-{V}",
        f"{V} classes, the target in the middle or the last, twice ahead: the sum of many, and the end of a block.",
        logits,
        np.array([middle, end, middle, end]),
        NONE | options,
        columns=columns,
    )


def v2(dtype: str) -> Iterator[Question]:
    """Never negative."""
    logits, targets = ahead(tuple(float(gap) for gap in range(0, 400, 25)), 3, "V2")
    logits[::2] += 96.0
    logits[1::4] -= 1000.0
    for name, options in (
        ("plain", {}),
        ("smoothed", {"label_smoothing": 0.125}),
        ("explicit", {"algorithm": "explicit"}),
    ):
        yield Question(
            name,
            "Targets more and more ahead: rounding must not make a loss negative.",
            logits,
            targets,
            NONE | options,
            never_negative=True,
        )


def v3(dtype: str) -> Iterator[Question]:
    """Shift."""
    logits, targets = ahead((-60.0, -20.0, -5.0, -1.0, 0.0, 1.0, 7.0), 5, "V3")
    half = dtype not in WIDE
    logits = np.floor(logits) if half else logits
    for shift in (0.0, 2.0, -4.0) if half else (0.0, 100.0, -1000.0, 10_000.0):
        yield Question(
            f"shift-{shift:+.0f}",
            f"Logits plus {shift:.0f}, which the dtype holds exactly: all cases of V3 have the same results.",
            logits + shift,
            targets,
        )


def v4(dtype: str) -> Iterator[Question]:
    """Rows of the gradient sum to zero."""
    gaps = (-40.0, -5.0, 0.0, 3.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0)
    about = "The gradient row sums to zero, also where the target's probability goes to 1."
    for V in (2, 10):
        yield Question(f"classes-{V}", about, *ahead(gaps, V, f"V4 {V}"), sums_to_zero=True)
    logits, targets = ahead(gaps, 4, "V4 1000")
    order = np.argsort(np.arange(4) != targets[:, None], axis=1, kind="stable")
    logits = np.take_along_axis(logits, order, axis=1)
    yield Question(
        "classes-1000",
        about,
        logits,
        np.zeros(len(gaps), dtype=np.int64),
        columns=[1, 200, 300, 499],
        sums_to_zero=True,
    )


def v6(dtype: str) -> Iterator[Question]:
    """Sanity."""
    numbers = draw("V6")
    yield Question(
        "random", "Small random logits: about log 10.", numbers.logits(8, 10) / 32, numbers.targets(8, V=10), {}
    )
    yield Question(
        "random-1000", "Small random logits: about log 1000.", numbers.logits(8, 11) / 32, np.full(8, 400), {},
        columns=[100] * 4 + [1, 99] + [100] * 5,
    )  # fmt: skip
    targets = np.arange(6)
    yield Question("confident", "Confident and right: about 0.", 20.0 * np.eye(6), targets, {})
    rising = np.zeros((25, 3))
    rising[:, 2] = np.arange(-12, 13)
    yield Question("rising", "The target's logit rises by 1 a row: the loss falls.", rising, np.full(25, 2))


def v7(dtype: str) -> Iterator[Question]:
    """Soft targets."""
    logits, targets = ahead(MILD_GAPS, 6, "V7")
    soft = _soft("V7 soft", 6, 6)
    soft[0], soft[1] = np.arange(6) == targets[0], 0.0
    yield Question("rows", "Rows need not sum to one; the first is one-hot, the second zero.", logits, soft)
    yield Question(
        "any-numbers",
        "Negative targets, and far from a sum of one.",
        np.arange(8.0).reshape(2, 4) / 4 - 1,
        np.array([[-3.0, 9.0, 0.0, 2.0], [0.5, -0.25, 4.0, 0.0]]),
    )
    yield Question(
        "zero-times-infinity",
        "No mass on a logit of -inf: 0 times infinity is 0.",
        np.array([[-INFINITY, 1.0, 2.0], [0.5, -INFINITY, -INFINITY], [3.0, -INFINITY, 1.0]]),
        np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]]),
    )
    yield Question(
        "together",
        "Both weights, z-loss, the sum.",
        logits[2:].reshape(2, 2, 6),
        soft[2:].reshape(2, 2, 6),
        {
            "reduction": "sum",
            "weights": np.array([[0.5, 2.0], [0.0, 1.5]]),
            "class_weights": CLASS_WEIGHTS,
            "z_loss": 0.0625,
        },
    )


def v8(dtype: str) -> Iterator[Question]:
    """Label smoothing."""
    logits, targets = ahead((-20.0, -5.0, 0.0, 5.0, 20.0, 60.0), 6, "V8")
    soft = _soft("V8 soft", 6, 6)
    banned = draw("V8 banned").targets(6, 6, V=5) < 2
    banned[0] = True
    banned[np.arange(6), targets] = False
    for smoothing in SMOOTHINGS:
        for epsilon in (0.1, 0.5):
            options = NONE | {"label_smoothing": epsilon, "smoothing": smoothing}
            yield Question(f"{smoothing}-{epsilon}", "Hard targets, smoothed.", logits, targets, options)
        options = NONE | {"label_smoothing": 0.125, "smoothing": smoothing}
        yield Question(f"{smoothing}-soft", "Soft targets, smoothed; rows do not sum to one.", logits, soft, options)
        yield Question(
            f"{smoothing}-finite",
            "Only classes with a finite logit share; the first row has one such class.",
            np.where(banned, -INFINITY, logits),
            targets,
            options,
        )
        yield Question(
            f"{smoothing}-finite-soft",
            "The same, with soft targets.",
            np.where(banned, -INFINITY, logits),
            np.where(banned, 0.0, soft),
            options,
        )
        yield Question(
            f"{smoothing}-weights",
            "Class weights multiply the smoothed terms, too.",
            logits,
            targets,
            options | {"class_weights": CLASS_WEIGHTS},
        )
        yield _vocabulary(smoothing, 5000, label_smoothing=0.1, smoothing=smoothing)


def v9(dtype: str) -> Iterator[Question]:
    """Weights and z-loss."""
    logits, targets = ahead(MILD_GAPS, 6, "V9")
    logits, targets = logits.reshape(2, 3, 6), targets.reshape(2, 3)
    weights = np.array([[0.5, 2.0, 0.0], [3.0, 1.0, 0.25]])
    for name, about, options in (
        ("classes", "A weight for each class; one is 0.", {"class_weights": ONE_WITHOUT}),
        ("tokens", "A weight for each token; one is 0.", {"weights": weights}),
        ("negative", "Negative weights.", {"weights": -weights, "class_weights": CLASS_WEIGHTS - 2.25}),
        ("z-loss", "The square of lse, times 1/16.", {"z_loss": 0.0625}),
        ("together", "All of them.", {"weights": weights, "class_weights": CLASS_WEIGHTS, "z_loss": 0.0625}),
    ):  # fmt: skip
        yield Question(name, about, logits, targets, NONE | options)
    one_class = np.array([[0.0], [3.0], [-20.0]])
    yield Question(
        "z-loss-one-class", "With one class z-loss is all there is.", one_class, np.zeros(3, dtype=np.int64),
        NONE | {"z_loss": 0.0625},
    )  # fmt: skip


def v10(dtype: str) -> Iterator[Question]:
    """Softmax, clip, logarithm."""
    options = NONE | {"algorithm": "explicit"}
    gaps = (-300.0, -40.0, -24.0, -15.0, -5.0, 0.0, 5.0, 15.0, 30.0)
    yield Question(
        "clipped", "Past -log 1e-10 the loss is a constant and has no gradient.", *ahead(gaps, 6, "V10"), options
    )
    yield Question(
        "smoothed",
        "Smoothed: each term is clipped by itself.",
        *ahead(gaps, 6, "V10"),
        options | {"label_smoothing": 0.125},
    )
    logits = np.array([[-INFINITY, 1.0, 2.0], [0.5, -INFINITY, -INFINITY], [-INFINITY, 0.0, 1.0]])
    yield Question("infinite", "Logits of -inf, also on the target: clipped.", logits, np.array([1, 0, 0]), options)
    yield Question(
        "infinite-soft",
        "The same, with soft targets.",
        logits,
        np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]),
        options,
    )


def v11(dtype: str) -> Iterator[Question]:
    """Perplexity."""
    logits, targets = ahead((-1000.0, -60.0, -5.0, 0.0, 5.0, 40.0), 4)
    yield Question(
        "tokens", "exp of each loss; the first is past the dtype: infinity.", logits, targets, perplexity=True
    )
    yield Question("mean", "exp of a mean.", *mild("V11", 6, V=5), {}, perplexity=True)


CLAUSES: dict[str, tuple[Callable[[str], Iterator[Question]], tuple[str, ...]]] = {
    "V1": (v1, ALL),
    "V2": (v2, WIDE),
    "V3": (v3, ALL),
    "V4": (v4, ALL),
    "V6": (v6, WIDE),
    "V7": (v7, ALL),
    "V8": (v8, WIDE),
    "V9": (v9, ALL),
    "V10": (v10, WIDE),
    "V11": (v11, WIDE),
}
