"""Clause R5: the loss of a row depends on that row alone, and not on what was asked before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, Mode
from crossent_conformance.drawn import problems
from crossent_conformance.refused import MUTABLE


@pytest.mark.places(modes=DIRECT)
@pytest.mark.parametrize("V", [3, 37, 1000])
def test_R5_a_row_depends_on_itself_alone(place, subject, V):
    logits, targets = cases.random((700,), V)
    whole = place.evaluate(subject.loss, logits, targets, reduction="none")
    if place.backend.compiles_each_shape:
        order = cases.generator(V).permutation(700)
        moved = place.evaluate(subject.loss, logits[order], targets[order], reduction="none")
        agree.equal(moved, whole[order], what="rows elsewhere among 700", bits=True)
        return
    for part in (slice(0, 1), slice(3, 4), slice(1, 6), slice(100, 433), slice(699, 700)):
        alone = place.evaluate(subject.loss, logits[part], targets[part], reduction="none")
        agree.equal(alone, whole[part], what=f"rows {part} of 700 alone", bits=True)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_R5_other_rows_do_not_matter(place, subject):
    logits, targets = cases.random((60,), 37)
    changed = logits.copy()
    changed[::3] = [1e4, -1e4, 300.0, -60.0, 0.0] * 7 + [1.0, 2.0]
    before = place.evaluate(subject.loss, logits, targets, reduction="none")
    after = place.evaluate(subject.loss, changed, targets, reduction="none")
    kept = np.arange(60) % 3 != 0
    agree.equal(after[kept], before[kept], what="rows beside others", bits=True)


@pytest.mark.places(modes=(Mode.EAGER,), dtypes=("float32", "float64"), backends=("numpy", "torch"))
def test_R5_threads_do_not_matter(place, subject):
    logits, targets = cases.random((3000,), 257)
    found = []
    for threads in (1, 2, 3):
        with subject.threads(threads):
            found.append(place.evaluate(subject.loss, logits, targets, reduction="none"))
    for count, losses in zip((2, 3), found[1:], strict=True):
        agree.equal(losses, found[0], what=f"loss with {count} threads", bits=True)


@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST), sparse=True)
@depth.examples(
    problems(tokens=st.just((4,)), sure=True), st.lists(st.integers(0, 3), min_size=1, max_size=6), count=40
)
def test_R5_a_row_knows_nothing_of_its_company(place, subject, problem, order):
    """Reordered, repeated, alone: the same bits."""
    logits, targets = problem
    # XLA chooses the order of a sum for each shape.
    order = np.resize(order, 4) if place.backend.compiles_each_shape else np.array(order)
    loss = place.evaluate(subject.loss, logits, targets, reduction="none")
    again = place.evaluate(subject.loss, logits[order], targets[order], reduction="none")
    agree.equal(again, loss[order], what="loss")


@pytest.mark.places(backends=MUTABLE, modes=(Mode.EAGER,))
def test_R5_new_values_in_old_arrays_count(place, subject):
    """A training loop puts every batch into the same memory."""
    x, t = place.pair(*cases.random((6,), 5, seed=1))
    subject.loss(x, t)
    others = place.pair(*cases.random((6,), 5, seed=2))
    x[...], t[...] = others
    agree.alike(place, subject.loss(x, t), subject.loss(*others))


@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY))
@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 4.0])},
        {"weights": np.array([1.0, 0.5, 2.0, 0.25, 4.0, 0.0])},
        {"ignore_index": 2},
        {"label_smoothing": 0.25},
        {"z_loss": 0.5},
        {"algorithm": "explicit"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_R5_options_hold_for_one_call(place, subject, options):
    logits, targets = cases.random((6,), 5)
    before = place.evaluate(subject.loss, logits, targets)
    place.evaluate(subject.loss, logits, targets, **options)
    agree.alike(place, place.evaluate(subject.loss, logits, targets), before)
