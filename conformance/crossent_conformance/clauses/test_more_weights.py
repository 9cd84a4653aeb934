"""Clause R4 of the denominator: the sum of a million weights, too, is accurate."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases, oracle
from crossent_conformance.backends import Mode

MILLION = 1_000_003
WEIGHT = float(np.float32(0.1))
"""Its multiples are no numbers of float32: a running sum is off in the third digit."""


@pytest.mark.clause("R4", "R2")
@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY), dtypes=("float32", "float64"))
@pytest.mark.parametrize("kind", ["tokens", "classes"])
def test_R4_a_million_weights_that_are_no_round_numbers(place, subject, kind):
    logits, _ = cases.random((1,), 3)
    options = {"weights": np.full(MILLION, WEIGHT)} if kind == "tokens" else {"class_weights": np.full(3, WEIGHT)}
    targets = np.zeros(MILLION, dtype=np.int64)
    loss = place.evaluate(subject.loss, np.repeat(logits, MILLION, axis=0), targets, **options)
    exact, _ = oracle.cross_entropy(place.round(logits), targets[:1])
    agree.loss(place, loss, exact)
