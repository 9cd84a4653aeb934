"""The questions of clauses S1 to S6: a function for each clause, of the dtype of the logits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crossent_conformance.units import LARGEST, SMALLEST
from crossent_conformance.vectors.questions import ALL, NONE, WIDE, Question, draw, eighths, mild

NAN = float("nan")
INFINITY = float("inf")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "others": {"label_smoothing": 0.125},
    "uniform": {"label_smoothing": 0.125, "smoothing": "uniform"},
    "z-loss": {"z_loss": 0.0625},
    "class-weights": {"class_weights": np.array([1.0, 0.5, 2.0, 0.25])},
    "explicit": {"algorithm": "explicit"},
}
STABLE = {name: options for name, options in OPTIONS.items() if name != "explicit"}
SOME = np.array([0.5, -1.0, 2.0, 1.25])
FOUR = np.arange(4)


def _special(*kinds: float) -> tuple[np.ndarray, np.ndarray]:
    """Each special value off the target, on it, beside another, everywhere; after each such row an ordinary one."""
    rows, targets = [], []
    for kind in kinds:
        for chosen, target in (([1], 2), ([1], 1), ([0, 3], 2), ([0, 1, 3], 0), ([0, 1, 2, 3], 3)):
            row = SOME.copy()
            row[chosen] = kind
            rows += [row, np.roll(SOME, target)]
            targets += [target, (target + 1) % 4]
    return np.array(rows), np.array(targets)


def s1(dtype: str) -> Iterator[Question]:
    """Tokens that do not count."""
    logits, targets = _special(NAN, INFINITY, -INFINITY)
    odd = np.arange(len(targets)) % 2 == 1
    for name, options in OPTIONS.items():
        about = "NaN and infinities in ignored rows: zero loss, zero gradient."
        given = NONE | options | {"ignore_index": -100}
        yield Question(f"ignored-{name}", about, logits, np.where(odd, targets, -100), given)
    yield Question(
        "weight-0", "The same by a token weight of 0.", logits, targets, NONE | {"weights": odd.astype(np.float64)}
    )
    yield Question(
        "class-weight-0",
        "The same by a class weight of 0.",
        logits,
        np.where(odd, 2, 1),
        NONE | {"class_weights": np.array([1.0, 0.0, 2.0, 0.5])},
    )
    yield Question(
        "mean", "Ignored rows leave a mean clean.", logits, np.where(odd, targets, 7), {"ignore_index": 7}
    )  # fmt: skip


def s2(dtype: str) -> Iterator[Question]:
    """-inf off the target."""
    logits = np.array([[-INFINITY, 1.0, 2.0, 0.5], [0.0, -INFINITY, -INFINITY, 1.0], [-INFINITY, 2.0, -INFINITY, 1.0]])
    for name, options in OPTIONS.items():
        about = "Logits of -inf off the target: no probability, no gradient, no NaN."
        yield Question(f"some-{name}", about, logits, np.array([2, 3, 1]), NONE | options)
    for name, options in STABLE.items():
        about = "All but the target at -inf."
        yield Question(f"all-{name}", about, np.where(np.eye(4), 3.0, -INFINITY), FOUR, NONE | options)
    blocks = eighths(draw("S2").logits(3, 6))
    blocks[0, :3], blocks[1, 4:], blocks[2, :5] = -INFINITY, -INFINITY, -INFINITY
    yield Question(
        "blocks",
        "9000 classes, whole blocks of them at -inf.",
        blocks,
        np.array([8999, 0, 8999]),
        columns=[1, 4000, 191, 3807, 1000, 1],
    )


def s3(dtype: str) -> Iterator[Question]:
    """-inf on the target."""
    logits = np.array([[-INFINITY, 1.0, 2.0, 0.5], [0.0, -INFINITY, -INFINITY, 1.0], [*[-INFINITY] * 3, 1.0]])
    for name, options in STABLE.items():
        about = "The target at -inf: infinite loss, and the gradient's limit."
        yield Question(name, about, logits, np.array([0, 2, 1]), NONE | options)
    soft = np.array([[0.25, 0.25, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]])
    yield Question("soft", "Mass of soft targets on a logit of -inf.", logits[:2], soft)


def s4(dtype: str) -> Iterator[Question]:
    """NaN and +inf."""
    logits, targets = _special(NAN, INFINITY)
    nothing = np.full((1, 4), -INFINITY)
    logits, targets = np.concatenate([logits, nothing]), np.append(targets, 2)
    for name, options in OPTIONS.items():
        about = "NaN or +inf in a row, or nothing but -inf: NaN there, and in no other row."
        yield Question(name, about, logits, targets, NONE | options)
    soft = np.where(targets[:, None] == FOUR, 0.75, 0.125)
    yield Question("soft", "The same, with soft targets.", logits, soft)
    logits, targets = mild("S4", 3, 4, V=3)
    logits[1, 2, 1] = NAN
    for reduction in ("sequence", "mean", "sum"):
        about = "One NaN: that sequence or the whole is NaN, the gradients of other rows are not."
        yield Question(reduction, about, logits, targets, {"reduction": reduction})


def s5(dtype: str) -> Iterator[Question]:
    """Finite logits of any size."""
    top, bottom = LARGEST[dtype], SMALLEST[dtype]
    for name, about, values in (
        ("largest", "As large as the dtype holds: infinite only where the loss is.", (-top, 0.0, top / 2, top)),
        ("smallest", "As small as the dtype holds.", (-bottom, 0.0, bottom)),
    ):
        pairs = np.array(list(itertools.product(values, repeat=2)))
        logits = np.concatenate([pairs, np.roll(pairs, 1, axis=0)[:, :1]], axis=1)
        yield Question(name, about, logits, np.zeros(len(pairs), dtype=np.int64))


def s6(dtype: str) -> Iterator[Question]:
    """One class."""
    logits = np.array([[0.0], [3.0], [-1e4], [20.0]])
    for name, options in OPTIONS.items():
        given = NONE | ({"class_weights": np.array([0.5])} if "class_weights" in options else options)
        yield Question(name, "One class: nothing to lose.", logits, np.zeros(4, dtype=np.int64), given)
        yield Question(f"{name}-soft", "One class, soft targets.", logits, np.ones((4, 1)), given)


CLAUSES: dict[str, tuple[Callable[[str], Iterator[Question]], tuple[str, ...]]] = {
    "S1": (s1, ("float32",)),
    "S2": (s2, WIDE),
    "S3": (s3, WIDE),
    "S4": (s4, ("float32",)),
    "S5": (s5, ALL),
    "S6": (s6, ("float32",)),
}
