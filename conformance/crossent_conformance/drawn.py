"""What hypothesis draws for the clauses: shapes, logits, targets and options, each kept to what one clause is about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from crossent_conformance import cases
from crossent_conformance.backends import Mode

UNCOMPILED = (Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.LAZY, Mode.STRICTEST)
"""Modes for inputs of any shape: where calls are compiled, each shape would be."""
EXACT = st.integers(-160, 160).map(lambda n: n / 8)
"""Logits that every dtype of the suite holds exactly."""
SPECIAL = st.sampled_from([-math.inf, -math.inf, math.inf, math.nan])
TOKENS = st.lists(st.integers(1, 3), max_size=3).map(tuple)
WEIGHT = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 3.0])
SOFT = st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0])
SMOOTHING = st.fixed_dictionaries(
    {"label_smoothing": st.sampled_from([0.125, 0.25, 0.5]), "smoothing": st.sampled_from(["others", "uniform"])}
)


def filled(draw: Any, shape: tuple[int, ...], elements: st.SearchStrategy[float]) -> np.ndarray:
    """An array of drawn elements."""
    size = math.prod(shape)
    return np.array(draw(st.lists(elements, min_size=size, max_size=size)), dtype=np.float64).reshape(shape)


@st.composite
def problems(
    draw: Any, tokens: st.SearchStrategy[tuple[int, ...]] = TOKENS, soft: bool = False, sure: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Finite logits and targets; unless `sure`, no target is ahead of the other classes by more than 1.

    Soft targets may have their mass anywhere, so that then no class at all is.
    """
    shape, V = draw(tokens), draw(st.integers(1, 6))
    logits = filled(draw, (*shape, V), EXACT)
    size = math.prod(shape)
    targets = draw(st.lists(st.integers(0, V - 1), min_size=size, max_size=size))
    targets = np.array(targets, dtype=np.int64).reshape(shape)
    if not sure:
        logits = cases.mild(logits, logits.argmax(axis=-1) if soft else targets)
    return logits, filled(draw, (*shape, V), SOFT) if soft else targets


@st.composite
def weighing(draw: Any, logits: np.ndarray) -> dict[str, Any]:
    """Token weights, class weights, z-loss: one of them at least."""
    tokens, V = logits.shape[:-1], logits.shape[-1]
    names = draw(st.sets(st.sampled_from(["weights", "class_weights", "z_loss"]), min_size=1))
    options: dict[str, Any] = {}
    if "weights" in names:
        kept = draw(st.integers(0, len(tokens)))
        options["weights"] = filled(draw, tuple(draw(st.sampled_from([n, 1])) for n in tokens[kept:]), WEIGHT)
    if "class_weights" in names:
        options["class_weights"] = filled(draw, (V,), WEIGHT)
    if "z_loss" in names:
        options["z_loss"] = draw(st.sampled_from([0.0625, 1.0]))
    return options


@st.composite
def ignoring(draw: Any, targets: np.ndarray, V: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The targets with some of them ignored, and the options that ignore them; not all of them by class weights."""
    by = draw(st.sampled_from(["index", "index-inside", "weights"]))
    ignored = filled(draw, targets.shape, st.sampled_from([0.0, 1.0])).astype(bool)
    if by == "weights":
        return targets, {"weights": np.where(ignored, 0.0, 1.0)}
    index = draw(st.sampled_from([-100, -1, V, 2**40])) if by == "index" else draw(st.integers(0, V - 1))
    return np.where(ignored, index, targets), {"ignore_index": index}
