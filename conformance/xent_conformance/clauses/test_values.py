"""Clauses V1 to V4 and V6 to V11: what the loss and its gradient are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xent_conformance import agree, cases, depth, oracle, units
from xent_conformance.backends import DIRECT, HALF, NOT_DOUBLED, Mode

PLAIN = ("none", "sum")
"""Reductions that divide by nothing, for tests whose question is not R2's."""
WEIGHING = {"weights", "class_weights", "z_loss"}
ONCE = (*DIRECT, Mode.TRACED)
"""Modes for tests of many options: how an array lies in memory has nothing to do with them."""


@pytest.mark.clause("V1")
def test_V1_confident_targets(place, subject):
    values = cases.GAPS + (cases.WIDE_GAPS if place.dtype == "float64" else ())
    agree.with_oracle(place, subject, *cases.gaps(10, values), reduction="none")


@pytest.mark.clause("V1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [1, 2, 3, 17, 300])
def test_V1_vocabulary_sizes(place, subject, V):
    agree.with_oracle(place, subject, *cases.random((24,), V, sure=True), reduction="none")


@pytest.mark.clause("V1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("V", [4097, 50257])
def test_V1_large_vocabulary(place, subject, V):
    agree.with_oracle(place, subject, *cases.vocabulary(V, sure=True), reduction="none")


@pytest.mark.clause("V1")
@pytest.mark.places(sparse=True)
def test_V1_large_logits(place, subject):
    logits, targets = cases.random((40,), 10, scale=1.0, seed=1, sure=True)
    logits = np.concatenate([np.clip(4000 * logits, -1e4, 1e4), 1e4 + logits, -1e4 + logits, 30 * logits])
    agree.with_oracle(place, subject, logits, np.tile(targets, 4), reduction="none")


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
        assert abs(float(loss) - math.log(V)) < 0.02


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


def _check_together(place, subject, soft, requests):
    """Options in combinations; a test carries the clause of the option that it always has."""
    logits, targets = cases.random((2, 3), 5)
    logits = cases.eighths(logits)
    if soft:
        targets = cases.eighths(cases.generator(3).random(logits.shape))
    agree.each(
        depth.part(requests, place), lambda options: agree.with_oracle(place, subject, logits, targets, **options)
    )


@pytest.mark.clause("V7")
@pytest.mark.places(sparse=True)
def test_V7_soft_targets(place, subject):
    logits, targets = cases.gaps(6, cases.MILD_GAPS)
    rng = cases.generator(11)
    soft = cases.eighths(rng.random(logits.shape))
    soft[::4] = np.arange(6) == targets[::4, None]
    soft[1] = 0.0
    agree.with_oracle(place, subject, logits, soft, reduction="none")


@pytest.mark.clause("V7")
@pytest.mark.places(sparse=True)
def test_V7_any_numbers_are_soft_targets(place, subject):
    logits = np.linspace(-1.0, 1.0, 8).reshape(2, 4)
    agree.with_oracle(
        place, subject, logits, np.array([[-3.0, 9.0, 0.0, 2.0], [0.5, -0.25, 4.0, 0.0]]), reduction="none"
    )


@pytest.mark.clause("V7")
@pytest.mark.places(sparse=True)
def test_V7_no_mass_on_minus_infinity_counts_as_zero(place, subject):
    logits = np.array([[-np.inf, 1.0, 2.0], [0.5, -np.inf, -np.inf], [3.0, -np.inf, 1.0]])
    soft = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    agree.with_oracle(place, subject, logits, soft, reduction="none")


@pytest.mark.clause("V7", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
def test_V7_with_other_options(place, subject):
    _check_together(place, subject, True, cases.covering(True, "stable", PLAIN, label_smoothing=(0.0,)))


@pytest.mark.clause("V8")
@pytest.mark.places(sparse=True, when=lambda place, smoothing, epsilon, soft: not depth.spares(place) or epsilon == 0.1)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V8_label_smoothing(place, subject, smoothing, epsilon, soft):
    logits, targets = cases.gaps(6, (-20.0, -5.0, 0.0, 1.0, 20.0, 60.0))
    if soft:
        targets = cases.eighths(cases.generator(6).random(logits.shape))
    agree.with_oracle(place, subject, logits, targets, reduction="none", label_smoothing=epsilon, smoothing=smoothing)


@pytest.mark.clause("V8")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V8_only_finite_classes_share(place, subject, smoothing, soft):
    logits, targets = cases.gaps(6, (-20.0, -5.0, 0.0, 1.0, 20.0, 60.0))
    banned = (cases.generator(5).random(logits.shape) < 0.4) & (np.arange(6) != targets[:, None])
    banned[0] = np.arange(6) != targets[0]
    logits = np.where(banned, -np.inf, logits)
    if soft:
        targets = np.where(banned, 0.0, cases.eighths(cases.generator(6).random(logits.shape)))
    agree.with_oracle(place, subject, logits, targets, reduction="none", label_smoothing=0.125, smoothing=smoothing)


@pytest.mark.clause("V8", "S3")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
def test_V8_a_target_at_minus_infinity(place, subject, smoothing):
    logits = np.array([[-np.inf, 1.0, 2.0, 0.5], [0.0, -np.inf, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf, 1.0]])
    options = {"reduction": "none", "label_smoothing": 0.125, "smoothing": smoothing}
    agree.with_oracle(place, subject, logits, np.array([0, 2, 1]), **options)


@pytest.mark.clause("V8")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
def test_V8_all_of_the_mass_is_shared(place, subject, smoothing):
    options = {"reduction": "none", "label_smoothing": 1.0, "smoothing": smoothing}
    agree.with_oracle(place, subject, *cases.random((24,), 5, scale=1.0), **options)


@pytest.mark.clause("V8")
@pytest.mark.places(modes=DIRECT, dtypes=("float32", "float64"))
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
def test_V8_label_smoothing_of_a_large_vocabulary(place, subject, smoothing):
    options = {"reduction": "none", "label_smoothing": 0.1, "smoothing": smoothing}
    agree.with_oracle(place, subject, *cases.vocabulary(5000), **options)


@pytest.mark.clause("V8")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
def test_V8_the_two_conventions_differ_where_they_should(place, subject, smoothing):
    logits, targets = cases.eighths(np.linspace(-2, 2, 5))[None], np.array([1])
    lse = math.log(np.exp(logits).sum())
    surprise = lse - logits[0]
    others = 0.2 / (4 if smoothing == "others" else 5)
    expected = others * surprise.sum() + (0.8 - (others if smoothing == "others" else 0.0)) * surprise[1]
    loss = place.evaluate(subject.loss, logits, targets, reduction="sum", label_smoothing=0.2, smoothing=smoothing)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.clause("V8", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V8_with_other_options(place, subject, soft):
    requests = cases.covering(soft, "stable", PLAIN, label_smoothing=(0.1,), ignore_index=(None,))
    _check_together(place, subject, soft, requests)


@pytest.mark.clause("V9")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    "options",
    [
        {"class_weights": np.array([1.0, 0.5, 0.0, 2.0, 4.0, 0.125])},
        {"weights": np.array([[0.5, 2.0, 0.0, 1.0], [3.0, 0.25, 1.0, 8.0], [1.0, 1.0, 0.0, 0.5]])},
        {"weights": np.array([0.5, 2.0, 0.0, 1.0])},
        {"weights": np.array([[1], [0], [3]])},
        {"weights": np.array([[True, False, True, True]])},
        {"z_loss": 0.0625},
    ],
    ids=["classes", "tokens", "positions", "integers", "mask", "z-loss"],
)
def test_V9_weights_and_z_loss(place, subject, options):
    if place.mode is Mode.BROADCAST and options.get("weights", np.zeros(())).ndim not in (0, 2):
        options = {"weights": np.broadcast_to(options["weights"], (3, 4))}
    logits, targets = cases.gaps(6, cases.MILD_GAPS)
    agree.with_oracle(place, subject, logits.reshape(3, 4, 6), targets.reshape(3, 4), reduction="none", **options)


@pytest.mark.clause("V9")
@pytest.mark.places(sparse=True)
def test_V9_z_loss_of_one_class(place, subject):
    logits = np.array([[0.0], [3.0], [-20.0]])
    agree.with_oracle(place, subject, logits, np.zeros(3, dtype=np.int64), reduction="none", z_loss=0.0625)


@pytest.mark.clause("V9")
@pytest.mark.places(modes=ONCE, sparse=True)
def test_V9_options_together(place, subject):
    requests = cases.covering(False, "stable", PLAIN, label_smoothing=(0.0,), ignore_index=(None,))
    _check_together(place, subject, False, [options for options in requests if options.keys() & WEIGHING])


@pytest.mark.clause("V10")
@pytest.mark.places(sparse=True)
def test_V10_explicit_softmax_clip_log(place, subject):
    logits, targets = cases.gaps(10, (-300.0, -40.0, -24.0, -15.0, -5.0, 0.0, 5.0, 15.0, 30.0))
    loss, _ = agree.with_oracle(place, subject, logits, targets, reduction="none", algorithm="explicit")
    assert loss.max() == pytest.approx(-math.log(1e-10), rel=1e-6)


@pytest.mark.clause("V10", "S2")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V10_of_minus_infinity(place, subject, soft):
    logits = np.array([[-np.inf, 1.0, 2.0], [0.5, -np.inf, -np.inf], [3.0, -np.inf, 1.0], [-np.inf, 0.0, 1.0]])
    targets = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    targets = targets if soft else np.array([1, 0, 2, 0])
    agree.with_oracle(place, subject, logits, targets, reduction="none", algorithm="explicit")


@pytest.mark.clause("V10")
@pytest.mark.places(sparse=True)
def test_V10_a_clipped_target_has_no_gradient(place, subject):
    logits = np.array([[0.0, -40.0, -30.0], [0.0, -40.0, 1.0]])
    _, d_logits = agree.both(place, subject, logits, np.array([1, 2]), reduction="none", algorithm="explicit")
    assert (d_logits[0] == 0).all()
    assert d_logits[1, 2] < 0


@pytest.mark.clause("V10", "V7", "V8", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V10_with_other_options(place, subject, soft):
    _check_together(place, subject, soft, cases.covering(soft, "explicit", PLAIN, ignore_index=(None,)))


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
