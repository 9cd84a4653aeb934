"""Two answers to one question: what counts as alike, and what is said of those that are not."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from crossent_conformance import agree, backends, evidence, subject, units
from crossent_conformance.places import Place

PLACE = Place(backends.load("numpy"), "float32", backends.Mode.EAGER)


def apart(first, second, **more):
    with pytest.raises(evidence.Unlike) as caught:
        agree.alike(PLACE, first, second, **more)
    return caught.value


def test_the_place_and_both_values_are_named():
    expected = np.linspace(0.0, 1.0, 400).reshape(200, 2)
    given = expected.copy()
    given[150, 1] = np.nan
    given[3, 0] += 0.5
    found = apart(given, expected, what="d_logits")
    assert str(found) == (
        f"d_logits: 2 of 400 are not what the other call gave, at (150, 1): expected {expected[150, 1]}, given nan"
    )
    assert (found.expected, np.isnan(found.given)) == (expected[150, 1], True)


def test_a_place_among_some_rows_is_its_place_among_all():
    expected = np.arange(8.0)
    given = expected.copy()
    given[5] = np.inf
    given[2] = -1.0
    assert "at (5,): expected 5.0, given inf" in str(apart(given, expected, rows=slice(1, None, 2)))
    assert "at (2,): expected 2.0, given -1.0" in str(apart(given, expected, rows=np.arange(8) % 2 == 0))
    agree.alike(PLACE, given, expected, rows=[0, 1, 3])
    assert "at (): expected 1.0, given 2.0" in str(apart(np.asarray(2.0), np.asarray(1.0)))
    with pytest.raises(AssertionError, match=r"loss: shape \(2,\), where the other call gave \(3,\)"):
        agree.alike(PLACE, np.ones(2), np.ones(3), what="loss")


EPS = units.EPS["float32"]


@pytest.mark.parametrize(
    ("given", "expected", "is_alike"),
    [
        ([1 + 31 * EPS], [1.0], True),  # 16 relative to itself, and as many to the largest
        ([1 + 33 * EPS], [1.0], False),
        ([16 * EPS, 4.0], [0.0, 1.0], False),
        ([63 * EPS, 4.0], [0.0, 4.0], True),
        ([65 * EPS, 4.0], [0.0, 4.0], False),
        ([EPS, np.inf], [0.0, np.inf], False),  # what is not finite is no size
        ([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], True),
        ([np.inf], [-np.inf], False),
        ([np.nan], [np.inf], False),
        ([], [], True),
    ],
)
def test_what_is_alike(given, expected, is_alike):
    with contextlib.nullcontext() if is_alike else pytest.raises(evidence.Unlike):
        agree.alike(PLACE, np.array(given), np.array(expected))


def test_equal_in_value_or_in_every_bit():
    agree.equal(np.array([0.0, np.nan]), np.array([-0.0, np.nan]))
    with pytest.raises(evidence.Unlike, match=r"loss: 1 of 2 .* at \(0,\): expected -0.0, given 0.0"):
        agree.equal(np.array([0.0, np.nan]), np.array([-0.0, np.nan]), what="loss", bits=True)
    with pytest.raises(evidence.Unlike, match=r"at \(1,\): expected 2.0, given nan"):
        agree.equal(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(AssertionError, match="shape"):
        agree.equal(np.ones(2), np.ones(1))


def test_to_find_out_about_soft_targets_is_not_the_tests_call():
    evidence.forget()
    evidence.record_call(np.ones((1, 2)), np.array([1]))
    agree.serves_soft(PLACE, subject.load("crossent_conformance.reference:subject"))
    assert evidence.last_call().logits.shape == (1, 2)
