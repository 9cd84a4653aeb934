"""Clauses V1 to V4, V6 and V11: what the loss and its gradient are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crossent_conformance import agree, cases, oracle, units
from crossent_conformance.backends import DIRECT, HALF, NOT_DOUBLED


@pytest.mark.clause("V1")
def test_V1_confident_targets(place, subject):
    values = cases.GAPS + (cases.WIDE_GAPS if place.dtype == "float64" else ())
    agree.with_oracle(place, subject, *cases.gaps(10, values), reduction="none", precise=True)


@pytest.mark.clause("V1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [1, 2, 3, 17, 300])
def test_V1_vocabulary_sizes(place, subject, V):
    agree.with_oracle(place, subject, *cases.random((24,), V, sure=True), reduction="none", precise=True)


@pytest.mark.clause("V1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [4097, 50257])
def test_V1_large_vocabulary(place, subject, V):
    agree.with_oracle(place, subject, *cases.vocabulary(V, sure=True), reduction="none", precise=True)


@pytest.mark.clause("V1")
@pytest.mark.places(sparse=True)
def test_V1_large_logits(place, subject):
    logits, targets = cases.random((40,), 10, scale=1.0, seed=1, sure=True)
    logits = np.concatenate([np.clip(4000 * logits, -1e4, 1e4), 1e4 + logits, -1e4 + logits, 30 * logits])
    agree.with_oracle(place, subject, logits, np.tile(targets, 4), reduction="none", precise=True)


@pytest.mark.clause("V2")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"algorithm": "explicit"}], ids=["plain", "smoothed", "explicit"]
)
def test_V2_never_negative(place, subject, options):
    logits, targets = cases.gaps(10, tuple(np.arange(0.0, 800.0, 4.0).tolist()))
    logits = np.concatenate([logits, logits + 100, logits - 1000])
    loss = place.evaluate(subject.loss, logits, np.tile(targets, 3), reduction="none", **options)
    assert (loss >= 0).all()


@pytest.mark.clause("V3")
@pytest.mark.places(sparse=True)
def test_V3_shift(place, subject):
    logits, targets = cases.gaps(10, cases.MILD_GAPS[1:])
    logits = np.round(logits) if place.dtype in HALF else cases.eighths(logits)
    exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, reduction="none")
    for shift in (2.0, -4.0) if place.dtype in HALF else (100.0, -1000.0, 10_000.0):
        shifted = logits + shift
        assert (place.round(shifted) == shifted).all(), "the case must be exact in the dtype"
        loss, d_logits = agree.both(place, subject, shifted, targets, reduction="none")
        agree.loss(place, loss, exact_loss)
        agree.gradient(place, d_logits, exact_gradient)


@pytest.mark.clause("V4")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [2, 10, 1000])
def test_V4_gradient_rows_sum_to_zero(place, subject, V):
    logits, targets = cases.gaps(V, (-40.0, -5.0, 0.0, 3.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0))
    _, d_logits = agree.both(place, subject, logits, targets, reduction="none")
    d_logits = d_logits.astype(np.float64)
    largest = np.abs(d_logits).max(axis=1)
    allowed = np.array([units.allowance(V, size) * size for size in largest]) * units.EPS[place.compute_dtype]
    if place.dtype in HALF:
        allowed += units.half_ulp(d_logits, place.dtype).sum(axis=1)
    sums = np.array([math.fsum(row) for row in d_logits.tolist()])  # the test's own rounding is not on trial
    assert (np.abs(sums) <= allowed).all()


@pytest.mark.clause("V6")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_V6_random_logits_give_about_log_V(place, subject):
    for V in (10, 1000):
        loss = place.evaluate(subject.loss, *cases.random((64,), V, scale=0.05))
        assert abs(float(loss) - math.log(V)) < 0.02 + 8 * units.EPS[place.dtype]


@pytest.mark.clause("V6")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_V6_confident_right_logits_give_about_zero(place, subject):
    _, targets = cases.random((64,), 100)
    loss = place.evaluate(subject.loss, 20.0 * (np.arange(100) == targets[:, None]), targets)
    assert 0 <= float(loss) < 1e-6


@pytest.mark.clause("V6")
@pytest.mark.places(sparse=True)
def test_V6_raising_the_target_lowers_the_loss(place, subject):
    logits = np.zeros((81, 7))
    logits[:, 2] = np.arange(-15, 66)
    loss = place.evaluate(subject.loss, logits, np.full(81, 2), reduction="none")
    assert (np.diff(loss) <= 0).all()
    assert (np.diff(loss[:21]) < 0).all()  # past a gap of 5 that is a question of accuracy: V1's


@pytest.mark.clause("V11")
@pytest.mark.places(sparse=True, modes=NOT_DOUBLED)
def test_V11_perplexity(place, subject):
    loss = np.array([0.0, 0.5, 3.25, 10.5, 80.0])
    exact = np.exp(loss)
    got = place.to_numpy(subject.perplexity(place.put(loss, place.compute_dtype)))
    # exp is the library's own; half a unit in the last place of the loss is all that is promised of it.
    np.testing.assert_allclose(got, exact, rtol=4 * units.EPS[place.compute_dtype] * 80)


@pytest.mark.clause("V11")
@pytest.mark.places(sparse=True, modes=DIRECT)
def test_V11_perplexity_overflows_to_infinity(place, subject):
    for loss in (np.array([1.0, 1e4, np.inf]), np.asarray(1e5)):
        got = place.to_numpy(subject.perplexity(place.put(loss, place.compute_dtype)))
        assert (np.isposinf(got) == (loss > 1e3)).all()
        assert not np.isnan(got).any()


@pytest.mark.clause("V11")
@pytest.mark.places(sparse=True, modes=DIRECT)
def test_V11_perplexity_of_a_mean_loss(place, subject):
    logits, targets = cases.random((6,), 5)
    loss = place.call(subject.loss, logits, targets)
    assert place.backend.owns(subject.perplexity(loss))
    got = float(place.to_numpy(subject.perplexity(loss)))
    assert got == pytest.approx(math.exp(float(place.to_numpy(loss))), rel=1e-6)
