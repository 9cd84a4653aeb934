"""Clauses V7 to V10: soft targets, label smoothing, weights, z-loss and the explicit algorithm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import DIRECT, ONCE, Mode
from crossent_conformance.drawn import SMOOTHING, UNCOMPILED, problems, weighing

PLAIN = ("none", "sum")
"""Reductions that divide by nothing, for tests whose question is not R2's."""
WEIGHING = {"weights", "class_weights", "z_loss"}


def _check_together(place, subject, soft, requests):
    """Options in combinations; a test carries the clause of the option that it always has."""
    problem = cases.small(soft)
    agree.each(depth.part(requests, place), lambda options: agree.with_oracle(place, subject, *problem, **options))


@pytest.mark.places(sparse=True)
def test_V7_soft_targets(place, subject):
    logits, targets = cases.gaps(6, cases.MILD_GAPS)
    rng = cases.generator(11)
    soft = cases.eighths(rng.random(logits.shape))
    soft[::4] = np.arange(6) == targets[::4, None]
    soft[1] = 0.0
    agree.with_oracle(place, subject, logits, soft, reduction="none")


@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    ("logits", "soft"),
    [
        (np.linspace(-1.0, 1.0, 8).reshape(2, 4), [[-3.0, 9.0, 0.0, 2.0], [0.5, -0.25, 4.0, 0.0]]),
        (
            [[-np.inf, 1.0, 2.0], [0.5, -np.inf, -np.inf], [3.0, -np.inf, 1.0]],
            [[0, 0.25, 0.75], [1, 0, 0], [0.5, 0, 0]],
        ),
    ],
    ids=["any-numbers", "no-mass-on-minus-infinity"],
)
def test_V7_soft_targets_out_of_the_ordinary(place, subject, logits, soft):
    agree.with_oracle(place, subject, np.array(logits), np.array(soft), reduction="none")


@pytest.mark.clause("V7", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
def test_V7_with_other_options(place, subject):
    _check_together(place, subject, True, cases.covering(True, "stable", PLAIN, label_smoothing=(0.0,)))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(soft=True), st.sampled_from(["none", "sum"]), count=40)
def test_V7_any_soft_targets(place, subject, problem, reduction):
    agree.with_oracle(place, subject, *problem, reduction=reduction)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(), count=30)
def test_V7_one_hot_targets_are_hard_targets(place, subject, problem):
    logits, targets = problem
    one_hot = (np.arange(logits.shape[-1]) == targets[..., None]).astype(np.float64)
    exact_loss, exact = oracle.cross_entropy(logits, targets, reduction="none")
    loss, d_logits = agree.both(place, subject, logits, one_hot, reduction="none")
    agree.loss(place, loss, exact_loss)
    soft = oracle.cross_entropy(logits, one_hot, reduction="none")[1]
    # The target's entry of soft targets is allowed what a sum of two terms is.
    agree.gradient(place, d_logits, units.Exact(exact.high, exact.low, np.maximum(exact.allowed, soft.allowed)))


def _to_smooth(kind, soft):
    """Logits and targets for V8."""
    logits, targets = cases.gaps(6, (-20.0, -5.0, 0.0, 1.0, 20.0, 60.0))
    given = cases.eighths(cases.generator(6).random(logits.shape)) if soft else targets
    if kind == "finite":
        return logits, given
    banned = (cases.generator(5).random(logits.shape) < 0.4) & (np.arange(6) != targets[:, None])
    banned[0] = np.arange(6) != targets[0]
    return np.where(banned, -np.inf, logits), np.where(banned, 0.0, given) if soft else targets


@pytest.mark.places(sparse=True, when=lambda place, epsilon, **_others: not depth.spares(place) or epsilon != 0.5)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
@pytest.mark.parametrize(("kind", "epsilon"), [("finite", 0.1), ("finite", 0.5), ("some-finite", 0.125)])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V8_only_finite_classes_share(place, subject, smoothing, kind, epsilon, soft):
    agree.serves_soft(place, subject, soft)
    options = {"reduction": "none", "label_smoothing": epsilon, "smoothing": smoothing}
    agree.with_oracle(place, subject, *_to_smooth(kind, soft), **options)


@pytest.mark.clause("V8", "S3")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
@pytest.mark.parametrize("all_of_it", [False, True], ids=["target-at-minus-infinity", "all-of-the-mass"])
def test_V8_a_target_that_keeps_nothing(place, subject, smoothing, all_of_it):
    logits = np.array([[-np.inf, 1.0, 2.0, 0.5], [0.0, -np.inf, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf, 1.0]])
    problem = cases.random((24,), 5, scale=1.0) if all_of_it else (logits, np.array([0, 2, 1]))
    options = {"reduction": "none", "label_smoothing": 1.0 if all_of_it else 0.125, "smoothing": smoothing}
    agree.with_oracle(place, subject, *problem, **options)


@pytest.mark.places(modes=DIRECT, dtypes=("float32", "float64"))
@pytest.mark.parametrize("smoothing", ["others", "uniform"])
def test_V8_label_smoothing_of_a_large_vocabulary(place, subject, smoothing):
    options = {"reduction": "none", "label_smoothing": 0.1, "smoothing": smoothing}
    agree.with_oracle(place, subject, *cases.vocabulary(5000), **options)


@pytest.mark.clause("V8", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V8_with_other_options(place, subject, soft):
    agree.serves_soft(place, subject, soft)
    requests = cases.covering(soft, "stable", PLAIN, label_smoothing=(0.1,), ignore_index=(None,))
    _check_together(place, subject, soft, requests)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.booleans().flatmap(lambda soft: problems(soft=soft)), SMOOTHING, st.data(), count=60)
def test_V8_any_smoothing(place, subject, problem, smoothing, data):
    logits, targets = problem
    agree.serves_soft(place, subject, targets.dtype.kind == "f")
    options = data.draw(weighing(logits)) if data.draw(st.booleans()) else {}
    reduction = data.draw(st.sampled_from(["none", "sum"]))
    agree.with_oracle(place, subject, logits, targets, reduction=reduction, **smoothing, **options)


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


@pytest.mark.places(sparse=True)
def test_V9_z_loss_of_one_class(place, subject):
    logits = np.array([[0.0], [3.0], [-20.0]])
    agree.with_oracle(place, subject, logits, np.zeros(3, dtype=np.int64), reduction="none", z_loss=0.0625)


@pytest.mark.places(modes=ONCE, sparse=True)
def test_V9_options_together(place, subject):
    requests = cases.covering(False, "stable", PLAIN, label_smoothing=(0.0,), ignore_index=(None,))
    _check_together(place, subject, False, [options for options in requests if options.keys() & WEIGHING])


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(), st.data(), count=60)
def test_V9_any_weights(place, subject, problem, data):
    logits, targets = problem
    reduction = data.draw(st.sampled_from(["none", "sum"]))
    agree.with_oracle(place, subject, logits, targets, reduction=reduction, **data.draw(weighing(logits)))


@pytest.mark.places(sparse=True)
def test_V10_explicit_softmax_clip_log(place, subject):
    logits, targets = cases.gaps(10, (-300.0, -40.0, -24.0, -15.0, -5.0, 0.0, 5.0, 15.0, 30.0))
    loss, _ = agree.with_oracle(place, subject, logits, targets, reduction="none", algorithm="explicit")
    agree.near(loss.max(), -math.log(1e-10), what="the largest loss", rtol=1e-6, by="-log of 1e-10 is")


@pytest.mark.clause("V10", "S2")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V10_of_minus_infinity(place, subject, soft):
    agree.serves_soft(place, subject, soft)
    logits = np.array([[-np.inf, 1.0, 2.0], [0.5, -np.inf, -np.inf], [3.0, -np.inf, 1.0], [-np.inf, 0.0, 1.0]])
    targets = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    targets = targets if soft else np.array([1, 0, 2, 0])
    agree.with_oracle(place, subject, logits, targets, reduction="none", algorithm="explicit")


@pytest.mark.clause("V10", "V7", "V8", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V10_with_other_options(place, subject, soft):
    agree.serves_soft(place, subject, soft)
    _check_together(place, subject, soft, cases.covering(soft, "explicit", PLAIN, ignore_index=(None,)))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.booleans().flatmap(lambda soft: problems(soft=soft, sure=True)), count=40)
def test_V10_any_row(place, subject, problem):
    agree.serves_soft(place, subject, problem[1].dtype.kind == "f")
    agree.with_oracle(place, subject, *problem, reduction="none", algorithm="explicit")
