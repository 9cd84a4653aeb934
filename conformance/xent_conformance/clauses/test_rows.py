"""Clause R5: the loss of a row depends on that row alone."""

from __future__ import annotations

import numpy as np
import pytest

from xent_conformance import cases
from xent_conformance.backends import DIRECT, NOT_DOUBLED, Mode


def _same_bits(first, second):
    return np.array_equal(first.view(f"u{first.itemsize}"), second.view(f"u{second.itemsize}"))


@pytest.mark.clause("R5")
@pytest.mark.places(modes=DIRECT)
@pytest.mark.parametrize("V", [3, 37, 1000])
def test_R5_a_row_depends_on_itself_alone(place, subject, V):
    logits, targets = cases.random((700,), V)
    whole = place.evaluate(subject.loss, logits, targets, reduction="none")
    if place.backend.compiles_each_shape:
        order = cases.generator(V).permutation(700)
        moved = place.evaluate(subject.loss, logits[order], targets[order], reduction="none")
        assert _same_bits(moved, whole[order]), "rows elsewhere among 700 differ from themselves"
        return
    for part in (slice(0, 1), slice(3, 4), slice(1, 6), slice(100, 433), slice(699, 700)):
        alone = place.evaluate(subject.loss, logits[part], targets[part], reduction="none")
        assert _same_bits(alone, whole[part]), f"rows {part} alone differ from the same rows among 700"


@pytest.mark.clause("R5")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_R5_other_rows_do_not_matter(place, subject):
    logits, targets = cases.random((60,), 37)
    changed = logits.copy()
    changed[::3] = [1e4, -1e4, 300.0, -60.0, 0.0] * 7 + [1.0, 2.0]
    before = place.evaluate(subject.loss, logits, targets, reduction="none")
    after = place.evaluate(subject.loss, changed, targets, reduction="none")
    kept = np.arange(60) % 3 != 0
    assert _same_bits(before[kept], after[kept])


@pytest.mark.clause("R5")
@pytest.mark.places(modes=(Mode.EAGER,), dtypes=("float32", "float64"), backends=("numpy", "torch"))
def test_R5_threads_do_not_matter(place, subject):
    logits, targets = cases.random((3000,), 257)
    found = []
    for threads in (1, 2, 3):
        with subject.threads(threads):
            found.append(place.evaluate(subject.loss, logits, targets, reduction="none"))
    assert _same_bits(found[0], found[1])
    assert _same_bits(found[0], found[2])
