"""Clauses V1 to V4, V6 and V11: what the loss and its gradient are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import DIRECT, HALF, NOT_DOUBLED
from crossent_conformance.drawn import EXACT, UNCOMPILED, filled, problems


def test_V1_confident_targets(place, subject):
    values = cases.GAPS + (cases.WIDE_GAPS if place.dtype == "float64" else ())
    agree.with_oracle(place, subject, *cases.gaps(10, values), reduction="none", precise=True)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [1, 2, 3, 17, 300])
def test_V1_vocabulary_sizes(place, subject, V):
    agree.with_oracle(place, subject, *cases.random((24,), V, sure=True), reduction="none", precise=True)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [4097, 50257])
def test_V1_large_vocabulary(place, subject, V):
    agree.with_oracle(place, subject, *cases.vocabulary(V, sure=True), reduction="none", precise=True)


@pytest.mark.places(sparse=True)
def test_V1_large_logits(place, subject):
    logits, targets = cases.random((40,), 10, scale=1.0, seed=1, sure=True)
    logits = np.concatenate([np.clip(4000 * logits, -1e4, 1e4), 1e4 + logits, -1e4 + logits, 30 * logits])
    agree.with_oracle(place, subject, logits, np.tile(targets, 4), reduction="none", precise=True)


TILED = 9000
STAIRS = 2.0 * (np.arange(TILED) // 250) - 60.0
PROFILES = {
    "ascending": STAIRS,
    "descending": STAIRS[::-1],
    "last": np.where(np.arange(TILED) == TILED - 1, 120.0, STAIRS - 60.0),
    "first": np.where(np.arange(TILED) == 0, 120.0, STAIRS - 60.0),
    "cliff": np.where(np.arange(TILED) < TILED // 2, -4000.0, 4000.0),
    "far-below": np.where(np.arange(TILED) < TILED // 2, 0.0, -4000.0),
}
"""Rows that are looked at tile by tile, of a few distinct values, which every dtype of the suite holds."""


@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("profile", PROFILES)
def test_V1_a_maximum_anywhere_in_a_large_vocabulary(place, subject, profile):
    targets = np.array([0, TILED // 2 - 1, TILED // 2, TILED - 1])
    logits = np.tile(PROFILES[profile], (4, 1))
    agree.with_oracle(place, subject, logits, targets, reduction="none", precise=True)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(tokens=st.just((2,)), sure=True), count=80)
def test_V1_any_row(place, subject, problem):
    agree.with_oracle(place, subject, *problem, reduction="none", precise=True)


@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1}, {"algorithm": "explicit"}], ids=["plain", "smoothed", "explicit"]
)
def test_V2_never_negative(place, subject, options):
    logits, targets = cases.gaps(10, tuple(np.arange(0.0, 800.0, 4.0).tolist()))
    logits = np.concatenate([logits, logits + 100, logits - 1000])
    loss = place.evaluate(subject.loss, logits, np.tile(targets, 3), reduction="none", **options)
    agree.every(agree.is_at_least_zero, [loss], what=["loss"])


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.data(), count=60)
def test_V2_any_row(place, subject, data):
    V = data.draw(st.integers(1, 9))
    logits = filled(data.draw, (3, V), st.one_of(st.floats(-1e4, 1e4), EXACT))
    targets = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=3, max_size=3)))
    loss = place.evaluate(subject.loss, logits, targets, reduction="none")
    agree.every(agree.is_at_least_zero, [loss], what=["loss"])


def _check_shifted(place, subject, logits, targets, shift):
    exact_loss, exact = oracle.cross_entropy(logits, targets, reduction="none")
    loss, d_logits = agree.both(place, subject, logits + shift, targets, reduction="none")
    agree.loss(place, loss, exact_loss)
    agree.gradient(place, d_logits, exact)


@pytest.mark.places(sparse=True)
def test_V3_shift(place, subject):
    logits, targets = cases.gaps(10, cases.MILD_GAPS[1:])
    logits = np.round(logits) if place.dtype in HALF else cases.eighths(logits)
    for shift in (2.0, -4.0) if place.dtype in HALF else (100.0, -1000.0, 10_000.0):
        assert (place.round(logits + shift) == logits + shift).all(), "the case must be exact in the dtype"
        _check_shifted(place, subject, logits, targets, shift)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(tokens=st.just((3,))), st.sampled_from([-64.0, 8.0, 1024.0, 4096.0, -8192.0]), count=30)
def test_V3_any_exact_shift(place, subject, problem, shift):
    logits, targets = problem
    logits = np.round(logits) if place.dtype in HALF else logits
    assume((place.round(logits + shift) == logits + shift).all())
    _check_shifted(place, subject, logits, targets, shift)


def _check_sums(place, subject, logits, targets, floor=0.0):
    _, d_logits = agree.both(place, subject, logits, targets, reduction="none")
    d_logits = d_logits.astype(np.float64)
    V = d_logits.shape[1]
    largest = np.abs(d_logits).max(axis=1)
    allowed = np.array([units.allowance(V, size) * size for size in largest]) * units.EPS[place.compute_dtype]
    if place.dtype in HALF:
        allowed += units.half_ulp(d_logits, place.dtype).sum(axis=1)
    # Summed exactly: the sum of a row must not add a rounding of its own.
    sums = np.array([math.fsum(row) for row in d_logits.tolist()])
    agree.within(sums, np.abs(sums) <= allowed + floor * V, "0, but for roundings", what="the sum of d_logits")


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [2, 10, 1000])
def test_V4_gradient_rows_sum_to_zero(place, subject, V):
    gaps = (-40.0, -5.0, 0.0, 3.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0)
    _check_sums(place, subject, *cases.gaps(V, gaps))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(
    st.sampled_from([1, 2, 3, 8, 65, 400]),
    st.integers(0, 2**32 - 1),
    st.floats(0.0, 60.0),
    st.floats(-80.0, 80.0),
    count=80,
    always=((8, 0, 0.0, 20.0), (237, 0, 0.0, 0.0)),
)
def test_V4_rows_of_the_gradient_sum_to_zero(place, subject, V, seed, scale, gap):
    rng = np.random.default_rng(seed)
    logits, targets = scale * rng.standard_normal((3, V)), rng.integers(0, V, 3)
    logits[np.arange(3), targets] = logits.max(axis=1) + gap
    logits = place.round(np.clip(logits, -1e4, 1e4))
    _check_sums(place, subject, logits, targets, floor=units.FLOOR[place.compute_dtype])


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_V6_random_logits_give_about_log_V(place, subject):
    for V in (10, 1000):
        loss = place.evaluate(subject.loss, *cases.random((64,), V, scale=0.05))
        near = abs(float(loss) - math.log(V)) < 0.02 + 8 * units.EPS[place.dtype]
        agree.within(loss, near, f"about log {V}, {math.log(V):.4f}", what="the mean loss")


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_V6_confident_right_logits_give_about_zero(place, subject):
    _, targets = cases.random((64,), 100)
    loss = place.evaluate(subject.loss, 20.0 * (np.arange(100) == targets[:, None]), targets)
    agree.within(loss, 0 <= float(loss) < 1e-6, "from 0 to 1e-6", what="the mean loss")


@pytest.mark.places(sparse=True)
def test_V6_raising_the_target_lowers_the_loss(place, subject):
    logits = np.zeros((81, 7))
    logits[:, 2] = np.arange(-15, 66)
    loss = place.evaluate(subject.loss, logits, np.full(81, 2), reduction="none")
    steps = np.diff(loss)
    agree.every(agree.is_at_most_zero, [steps], what=["the change of the loss by a larger target"])
    steps = steps[:20]  # past a gap of 5 that is a question of accuracy: V1's
    agree.within(steps, steps < 0, "less than 0", what="the change of the loss by a larger target")


@pytest.mark.places(sparse=True, modes=NOT_DOUBLED)
def test_V11_perplexity(place, subject):
    """Overflow is infinity."""
    loss = np.array([0.0, 0.5, 3.25, 10.5, 80.0, 1e4, np.inf])
    with np.errstate(over="ignore"):
        exact = np.exp(loss)
    got = place.to_numpy(subject.perplexity(place.put(loss, place.compute_dtype)))
    # exp is the library's own; half a unit in the last place of the loss is all that is promised of it.
    agree.near(got, exact, what="perplexity", rtol=4 * units.EPS[place.compute_dtype] * 80, by="exp of the loss is")


@pytest.mark.places(sparse=True, modes=DIRECT)
def test_V11_perplexity_of_a_mean_loss(place, subject):
    logits, targets = cases.random((6,), 5)
    loss = place.call(subject.loss, logits, targets)
    found = subject.perplexity(loss)
    place.check_owned(found)
    exact = math.exp(float(place.to_numpy(loss)))
    agree.near(float(place.to_numpy(found)), exact, what="perplexity", rtol=1e-6, by="exp of the loss is")


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.one_of(st.floats(0, 1e6), st.sampled_from([math.inf, math.nan])), count=30)
def test_V11_perplexity_of_any_loss(place, subject, loss):
    loss = float(np.asarray(loss, dtype=place.compute_dtype))
    with np.errstate(over="ignore"):
        expected = float(np.exp(np.asarray(loss, dtype=place.compute_dtype)))
        exact = float(np.exp(np.asarray(loss)))
    got = float(place.to_numpy(subject.perplexity(place.put(np.asarray(loss), place.compute_dtype))))
    size = max(1.0, min(loss, 100.0))
    agree.near(got, expected, what="perplexity", rtol=16 * units.EPS[place.compute_dtype] * size, by="exp is")
    found = float(subject.perplexity(loss))
    agree.near(found, exact, what="perplexity of a float", rtol=16 * units.EPS["float64"] * size, by="exp is")
