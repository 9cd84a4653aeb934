"""Clauses R5 and A2 from one call to the next: what was asked before decides nothing, what was given stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases
from crossent_conformance.backends import Mode

WRITABLE = ("numpy", "torch", "torch-cuda", "cupy", "array-api-strict")


def _inputs(place, seed):
    logits, targets = cases.random((6,), 5, seed=seed)
    return place.put(logits, place.dtype), place.put(targets)


def _read(place, results):
    return [np.array(place.to_numpy(array)) for array in results]


@pytest.mark.clause("R5")
@pytest.mark.places(backends=WRITABLE, modes=(Mode.EAGER,))
def test_R5_new_values_in_old_arrays_count(place, subject):
    """A training loop puts every batch into the same memory."""
    x, t = _inputs(place, 1)
    subject.loss(x, t)
    x[...], t[...] = _inputs(place, 2)
    agree.alike(place, place.to_numpy(subject.loss(x, t)), place.to_numpy(subject.loss(*_inputs(place, 2))))


@pytest.mark.clause("R5")
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


@pytest.mark.clause("A2")
@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY))
def test_A2_a_result_stays_as_it_is(place, subject):
    """The gradient of one call is the input of the next."""
    (x, t), (y, u) = _inputs(place, 1), _inputs(place, 2)
    with place.backend.during_call():
        results = subject.loss_and_grad(x, t)
    before = _read(place, results)
    with place.backend.during_call():
        subject.loss_and_grad(y, u)
        subject.loss_and_grad(results[1], t)
    for array, values in zip(_read(place, results), before, strict=True):
        np.testing.assert_array_equal(array, values)
