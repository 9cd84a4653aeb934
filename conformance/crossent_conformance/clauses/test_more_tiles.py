"""Clause V1 of rows that are looked at tile by tile: wherever the largest logit is, however far above the others."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree
from crossent_conformance.backends import DIRECT

V = 9000


def _row(kind):
    """Logits of a few distinct values, which every dtype of the suite holds."""
    stairs = 2.0 * (np.arange(V) // 250) - 60.0
    return {
        "ascending": stairs,
        "descending": stairs[::-1],
        "last": np.where(np.arange(V) == V - 1, 120.0, stairs - 60.0),
        "first": np.where(np.arange(V) == 0, 120.0, stairs - 60.0),
        "cliff": np.where(np.arange(V) < V // 2, -4000.0, 4000.0),
        "far-below": np.where(np.arange(V) < V // 2, 0.0, -4000.0),
    }[kind]


@pytest.mark.clause("V1")
@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("kind", ["ascending", "descending", "last", "first", "cliff", "far-below"])
def test_V1_a_maximum_anywhere_in_a_large_vocabulary(place, subject, kind):
    targets = np.array([0, V // 2 - 1, V // 2, V - 1])
    agree.with_oracle(place, subject, np.tile(_row(kind), (4, 1)), targets, reduction="none", precise=True)
