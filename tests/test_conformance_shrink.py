"""A failing input of the suite made small: what is left is what shows the fault, and nothing else."""

from __future__ import annotations

import time

import numpy as np
import pytest

from crossent_conformance import agree, backends, cases, evidence, shrink, subject, units
from crossent_conformance.adapter import UnderTest
from crossent_conformance.places import Place

PLACE = Place(backends.load("numpy"), "float32", backends.Mode.EAGER)


def _rows(logits, targets):
    """The loss by log-softmax, which rounds 1 - p for targets that are nearly certain."""
    x = logits - logits.max(-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]


def _reduced(rows, reduction):
    return {"none": rows, "mean": np.asarray(rows.mean()), "sum": np.asarray(rows.sum())}[reduction]


def log_softmax(logits, targets, *, reduction="mean"):
    return _reduced(_rows(logits, targets), reduction)


def weights_forgotten(logits, targets, *, reduction="mean", class_weights=None, label_smoothing=0.0, ignore_index=None):
    return _reduced(_rows(logits, targets), reduction)


def smoothing_of_the_wrong_sign(logits, targets, *, reduction="mean", label_smoothing=0.0):
    return _reduced(_rows(logits, targets) * np.float32(1 - label_smoothing), reduction)


def _fault(function, logits, targets, **options):
    under_test = UnderTest(function, "a test")
    evidence.forget()
    with pytest.raises(evidence.Disagreement) as caught:
        agree.with_oracle(PLACE, under_test, logits, targets, **options)
    return under_test, caught.value


def test_what_a_disagreement_carries():
    logits, targets = cases.gaps(10, (-5.0, 20.0))
    _, found = _fault(log_softmax, logits, targets, reduction="none")
    assert (found.what, found.index) == ("loss", (2,)) or found.index == (3,)
    assert found.given != found.expected
    assert found.error > 1
    assert found.call.options == {"reduction": "none"}
    np.testing.assert_array_equal(found.call.logits, PLACE.round(logits))
    np.testing.assert_array_equal(found.call.targets, targets)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_cancelling_loss_needs_two_classes(reduction):
    logits, targets = cases.gaps(1000, (-20.0, 0.0, 17.0))
    logits = logits[4:] if reduction == "sum" else logits
    under_test, found = _fault(log_softmax, logits, targets[-len(logits) :], reduction=reduction)
    small = shrink.smallest(PLACE, under_test, found, seconds=20)
    assert small.call.logits.shape == (1, 2)
    assert small.call.options == {"reduction": "none"}
    assert (small.call.logits == np.round(small.call.logits)).all()
    assert small.call.logits[0, small.call.targets[0]] > small.call.logits[0, 1 - small.call.targets[0]] + 1
    assert small.error > 1
    _fault(log_softmax, small.call.logits, small.call.targets, **small.call.options)  # and it is a failure


def test_an_option_that_shows_the_fault_stays():
    logits, targets = cases.random((2, 3), 5)
    options = {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "reduction": "sum", "ignore_index": -100}
    under_test, found = _fault(weights_forgotten, logits, targets, **options)
    small = shrink.smallest(PLACE, under_test, found, seconds=20)
    assert small.call.logits.shape[0] == 1
    assert small.call.options.keys() == {"reduction", "class_weights"}
    assert small.call.options["class_weights"].shape == small.call.logits.shape[1:]


def test_a_class_that_is_ignored_by_its_number_keeps_its_meaning():
    logits, _ = cases.random((6,), 8)
    targets = np.array([1, 7, 3, 7, 0, 2])
    options = {"ignore_index": 7, "reduction": "none"}
    under_test, found = _fault(weights_forgotten, logits, targets, **options)
    small = shrink.smallest(PLACE, under_test, found, seconds=20)
    assert small.call.logits.shape[0] == 1
    assert small.call.targets.tolist() == [small.call.options["ignore_index"]]
    assert small.expected == 0
    assert small.call.targets[0] < small.call.logits.shape[1] <= 2


def test_soft_targets_lose_classes_too():
    def halved(logits, targets, *, reduction="mean"):
        x = logits - logits.max(-1, keepdims=True)
        return _reduced(-(targets * (x - np.log(np.exp(x).sum(-1, keepdims=True)))).sum(-1) / 2, reduction)

    soft = cases.eighths(cases.generator(3).random((4, 6)))
    under_test, found = _fault(halved, cases.random((4,), 6)[0], soft)
    small = shrink.smallest(PLACE, under_test, found, seconds=20)
    assert small.call.logits.shape == small.call.targets.shape
    assert small.call.logits.shape[0] == 1
    assert small.call.logits.shape[1] == 2


def test_a_failure_that_does_not_come_again_stays_as_it_is():
    logits, targets = cases.random((4,), 5)
    under_test, found = _fault(smoothing_of_the_wrong_sign, logits, targets, label_smoothing=0.5, smoothing="others")
    fine = UnderTest(log_softmax, "a test")
    assert shrink.smallest(PLACE, fine, found) is found
    assert shrink.smallest(PLACE, under_test, found, seconds=0.0) is found


def test_the_search_is_bounded_and_leaves_the_worst_error_alone():
    logits, targets = cases.vocabulary(50257, sure=True)
    under_test, found = _fault(log_softmax, logits, targets, reduction="none")
    units.worst_seen[:] = [0.5]
    started = time.monotonic()
    small = shrink.smallest(PLACE, under_test, found, seconds=1.0)
    assert time.monotonic() - started < 20
    assert units.worst_seen == [0.5]
    assert small.call.logits.size < logits.size


def test_a_refusal_is_no_smaller_input():
    """What the implementation cannot be asked, or raises, is not the same failure."""

    def picky(logits, targets, *, reduction="mean"):
        if reduction == "none" or len(logits) < 4:
            raise subject.DoesNotApply("fewer rows")
        return log_softmax(logits, targets, reduction=reduction)

    logits, targets = cases.gaps(4, (17.0, 17.0, 17.0))
    under_test, found = _fault(picky, logits, targets, reduction="sum")
    small = shrink.smallest(PLACE, under_test, found, seconds=20)
    assert len(small.call.logits) == 4
