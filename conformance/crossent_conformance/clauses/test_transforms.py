"""Clause V12: a temperature and a softcap, and the gradient through them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import DIRECT, ONCE
from crossent_conformance.drawn import SMOOTHING, UNCOMPILED, problems, weighing

TRANSFORMS = {
    "warm": {"temperature": 3.0},
    "cold": {"temperature": 0.7},
    "capped": {"logit_softcap": 5.0},
    "both": {"temperature": 0.625, "logit_softcap": 30.0},
}


def _spared(place, transform, **_others):
    """On a slow backend softcap with temperature stands for the others."""
    return not depth.spares(place) or transform is TRANSFORMS["both"]


@pytest.mark.places(sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_V12_temperature_and_softcap(place, subject, transform):
    problem = cases.gaps(6, (*cases.MILD_GAPS, 5.0, 17.0, 40.0))
    loss, _ = agree.with_oracle(place, subject, *problem, reduction="none", precise=True, **transform)
    agree.every(agree.is_at_least_zero, [loss], what=["loss"])


@pytest.mark.places(modes=ONCE, sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e3])
def test_V12_small_and_large_logits(place, subject, transform, scale):
    logits, targets = cases.random((24,), 5, scale, sure=True)
    agree.with_oracle(place, subject, logits, targets, reduction="none", precise=True, **transform)


@pytest.mark.clause("V12", "S5")
@pytest.mark.places(modes=ONCE, dtypes=("float32", "float64"), sparse=True)
@pytest.mark.parametrize("softcap", [None, 1e17], ids=["plain", "capped"])
def test_V12_a_temperature_far_below_the_logits(place, subject, softcap):
    """A logit over the temperature is rounded by more than exp forgives, unless all see the same rounded number."""
    logits, targets = cases.random((64,), 100, sure=True)
    options = {"temperature": 1e-16, **({} if softcap is None else {"logit_softcap": softcap})}
    agree.with_oracle(place, subject, logits, targets, reduction="none", precise=True, **options)


@pytest.mark.places(modes=ONCE, sparse=True)
def test_V12_a_softcap_far_above_the_logits(place, subject):
    """The hyperbolic tangent is accurate relative to itself: it is multiplied by as much as its angle is small."""
    logits, targets = cases.random((24,), 5, sure=True)
    agree.with_oracle(place, subject, logits, targets, reduction="none", precise=True, logit_softcap=1e5)


@pytest.mark.places(modes=DIRECT, sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("V", [1, 2, 33, 113, 5000, 70000])
def test_V12_vocabularies(place, subject, transform, V):
    if V == 1:
        agree.with_oracle(place, subject, np.array([[3.0], [0.0]]), np.zeros(2, np.int64), **transform)
    else:
        agree.with_oracle(place, subject, *cases.vocabulary(V), reduction="none", **transform)


@pytest.mark.clause("V12", "S2", "S3", "S4")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.125], ids=["plain", "smoothed"])
def test_V12_infinite_logits_and_nan(place, subject, transform, smoothing):
    """Under a softcap an infinite logit is a finite number; NaN stays."""
    inf, nan = np.inf, np.nan
    logits = np.array(
        [[-inf, 1.0, 2.0], [0.5, inf, -1.0], [-inf] * 3, [inf] * 3, [nan, 1.0, 2.0], [1.0, -inf, 0.5], [inf, 0.0, -inf]]
    )
    targets = np.array([0, 1, 2, 0, 1, 0, 2])
    options = {"reduction": "none", "label_smoothing": smoothing, **transform}
    _, d_logits = agree.with_oracle(place, subject, logits, targets, **options)
    if "logit_softcap" in transform and d_logits is not agree.NO_GRADIENT:
        agree.every(agree.is_zero, [d_logits], np.isinf(logits), what=["d_logits"])


@pytest.mark.clause("V12", "S1")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
def test_V12_what_does_not_count(place, subject, algorithm):
    logits = np.array([[1.0, 2.0, -3.0], [np.nan, np.inf, 0.0], [0.5, -np.inf, np.nan]])
    options = {"ignore_index": -100, "weights": np.array([1.0, 1.0, 0.0]), "algorithm": algorithm}
    targets = np.array([2, -100, 0])
    agree.with_oracle(place, subject, logits, targets, reduction="none", temperature=2.0, logit_softcap=3.0, **options)


@pytest.mark.clause("V12", "V7", "V8", "V9", "V10")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V12_with_other_options(place, subject, soft, algorithm):
    agree.serves_soft(place, subject, soft)
    given = {"ignore_index": (None,), "temperature": (0.5, 3.0), "logit_softcap": (None, 4.0)}
    requests = depth.part(cases.covering(soft, algorithm, ("none", "sum"), **given), place)
    agree.each(requests, lambda options: agree.with_oracle(place, subject, *cases.small(soft), **options))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.booleans().flatmap(lambda soft: problems(soft=soft)), SMOOTHING, st.data(), count=60)
def test_V12_any_transform(place, subject, problem, smoothing, data):
    logits, targets = problem
    agree.serves_soft(place, subject, targets.dtype.kind == "f")
    options = data.draw(weighing(logits)) if data.draw(st.booleans()) else {}
    options |= smoothing if data.draw(st.booleans()) else {}
    options["temperature"] = data.draw(st.sampled_from([0.25, 0.7, 1.5, 100.0]))
    if data.draw(st.booleans()):
        options["logit_softcap"] = data.draw(st.sampled_from([0.5, 3.0, 20.0, 50.0]))
    agree.with_oracle(place, subject, logits, targets, reduction="none", **options)
