"""The questions of clauses R1 to R4 and R6: a function for each clause, of the dtype of the logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crossent_conformance.vectors.questions import WIDE, Question, ahead, draw, mild

REDUCTIONS = ("none", "sequence", "mean", "sum")
WEIGHTS = np.array([[0.5, 2.0, 0.0, 1.0], [3.0, 0.25, 1.0, 8.0]])
CLASS_WEIGHTS = np.array([1.0, 0.5, 0.0, 4.0, 0.125])
MILLION = 1_000_003


def r1(dtype: str) -> Iterator[Question]:
    """Reductions."""
    for tokens in ((), (4,), (2, 3), (2, 1, 3)):
        for reduction in REDUCTIONS:
            if tokens or reduction != "sequence":
                name = f"{reduction}-{'x'.join(map(str, tokens)) or '0d'}"
                about = f"The shape of {reduction!r} for tokens {tokens}."
                yield Question(name, about, *mild(f"R1 {tokens}", *tokens, V=3), {"reduction": reduction})
    yield Question("default", "The mean is the default.", *mild("R1", 5, V=3), {})


def r2(dtype: str) -> Iterator[Question]:
    """Denominators."""
    logits, targets = mild("R2", 2, 4, V=5)
    soft = draw("R2 soft").weights(2, 4, 5) / 2
    weighted: dict[str, Any] = {"weights": WEIGHTS, "class_weights": CLASS_WEIGHTS}
    for reduction, (name, denominator) in itertools.product(
        ("mean", "sequence"), (("weights", None), ("tokens", "tokens"), ("number", 2.5))
    ):
        options: dict[str, Any] = {"reduction": reduction, **weighted}
        if denominator is not None:
            options["denominator"] = denominator
        about = "What weighted tokens are divided by; class 3 is ignored, one token and class 2 have weight 0."
        yield Question(f"{reduction}-{name}", about, logits, targets, options | {"ignore_index": 3})
        about = "Soft targets: a token's weight is its token weight alone."
        yield Question(f"{reduction}-{name}-soft", about, logits, soft, options)
    yield Question(
        "ignored",
        "Ignored tokens are not divided by.",
        logits,
        np.where(targets == targets[0, 0], -100, targets),
        {"ignore_index": -100},
    )
    yield Question(
        "smoothed",
        "A token counts by its target's class weight, with label smoothing too.",
        logits,
        targets,
        {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.25},
    )


def r3(dtype: str) -> Iterator[Question]:
    """Nothing counted."""
    logits, _ = mild("R3", 2, 3, V=4)
    ones = np.ones((2, 3), dtype=np.int64)
    for name, options in (
        ("ignored", {"ignore_index": 1}),
        ("weights", {"weights": np.zeros((2, 3))}),
        ("class-weights", {"class_weights": np.array([1.0, 0.0, 1.0, 1.0])}),
    ):
        for reduction in REDUCTIONS:
            about = "Nothing counts: 0, not 0 / 0."
            yield Question(f"{name}-{reduction}", about, logits, ones, {"reduction": reduction, **options})
    for tokens in ((0,), (0, 3), (2, 0)):
        for reduction in REDUCTIONS:
            yield Question(
                f"empty-{'x'.join(map(str, tokens))}-{reduction}",
                f"No tokens, of shape {tokens}.",
                np.zeros((*tokens, 5)),
                np.zeros(tokens, dtype=np.int64),
                {"reduction": reduction},
            )
    logits, targets = mild("R3 sequences", 3, 4, V=5)
    targets[1] = -1
    yield Question(
        "empty-sequence", "A sequence of ignored tokens among full ones.", logits, targets,
        {"reduction": "sequence", "ignore_index": -1},
    )  # fmt: skip


def r4(dtype: str) -> Iterator[Question]:
    """A million tokens."""
    logits, targets = ahead((-3.0, -1.0, 0.0, 2.0, 6.0, 12.0), 4, "R4")
    counts = [170_000, 160_000, 230_001, 140_002, 200_000, 100_000]
    for reduction in ("mean", "sum", "sequence"):
        about = "A million tokens: float32 sums that are added up one by one lose digits."
        yield Question(reduction, about, logits, targets, {"reduction": reduction}, rows=counts)
    yield Question(
        "weights",
        "A million equal weights cancel.",
        logits[:1],
        targets[:1],
        {"weights": np.array([0.09375])},
        rows=[MILLION],
    )


def r6(dtype: str) -> Iterator[Question]:
    """The gradient's scale."""
    logits, targets = mild("R6", 2, 3, V=5)
    scale = np.array([[-2.0, 0.5, 1.25], [0.0, 3.0, -0.0625]])
    for reduction in REDUCTIONS:
        given = {"none": scale, "sequence": scale[:, 0] + 0.5}.get(reduction, np.asarray(-1.5))
        options: dict[str, Any] = {"reduction": reduction, "grad_output": given}
        yield Question(reduction, "The gradient is scaled, the loss is not.", logits, targets, options)
    options = {"reduction": "sequence", "grad_output": scale[:, 1], "weights": WEIGHTS[:, :3], "ignore_index": 2}
    yield Question("together", "Scaled where tokens are weighted and ignored.", logits, targets, options)


CLAUSES: dict[str, tuple[Callable[[str], Iterator[Question]], tuple[str, ...]]] = {
    "R1": (r1, WIDE),
    "R2": (r2, WIDE),
    "R3": (r3, ("float32",)),
    "R4": (r4, ("float64", "float32", "bfloat16")),
    "R6": (r6, WIDE),
}
