"""The clauses S for inputs as hypothesis thinks of them: special logits anywhere, compared with ordinary ones there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from crossent_conformance import agree, depth, oracle, units
from crossent_conformance.backends import Mode
from crossent_conformance.drawn import SPECIAL, filled, ignoring, problems

DIRECT = (Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.LAZY, Mode.STRICTEST)
"""Modes that compile nothing by shape."""
SOME_TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)
LOW = -1e4


def _strewn(data, logits, kinds, share=3):
    """The logits with special ones among them."""
    chosen = filled(data.draw, logits.shape, st.sampled_from([0.0] * share + [1.0])).astype(bool)
    return np.where(chosen, filled(data.draw, logits.shape, kinds), logits)


@pytest.mark.clause("S1")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(SOME_TOKENS), st.data(), count=50)
def test_S1_anything_in_ignored_rows(place, subject, problem, data):
    logits, targets = problem
    targets, options = data.draw(ignoring(targets, logits.shape[-1]))
    ignored = options["weights"] == 0 if "weights" in options else targets == options["ignore_index"]
    assume(ignored.any())
    special = np.where(ignored[..., None], _strewn(data, logits, SPECIAL, share=1), logits)
    options["reduction"] = data.draw(st.sampled_from(["none", "sum", "mean"]))
    clean, (loss, d_logits) = (agree.both(place, subject, x, targets, **options) for x in (logits, special))
    agree.both_alike(place, (loss, d_logits), clean)
    assert options["reduction"] != "none" or (loss[ignored] == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits[ignored] == 0).all()


@pytest.mark.clause("S2")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(SOME_TOKENS), st.data(), count=50)
def test_S2_minus_infinity_anywhere_off_the_target(place, subject, problem, data):
    logits, targets = problem
    is_target = np.arange(logits.shape[-1]) == targets[..., None]
    special = np.where(is_target, logits, _strewn(data, logits, st.just(-math.inf), share=1))
    low = np.where(np.isfinite(special), special, LOW)
    expected, (loss, d_logits) = (agree.both(place, subject, x, targets, reduction="none") for x in (low, special))
    agree.both_alike(place, (loss, d_logits), expected)
    assert np.isfinite(loss).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits[np.isneginf(special)] == 0).all()


@pytest.mark.clause("S3")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(SOME_TOKENS), st.data(), count=30)
def test_S3_minus_infinity_on_the_target(place, subject, problem, data):
    logits, targets = problem
    V = logits.shape[-1]
    assume(V > 1)
    special = np.where(np.arange(V) == targets[..., None], -math.inf, logits)
    low = np.where(np.isfinite(special), special, LOW)
    _, expected = agree.both(place, subject, low, targets, reduction="none")
    loss, d_logits = agree.both(place, subject, special, targets, reduction="none")
    assert np.isposinf(loss).all()
    if d_logits is not agree.NO_GRADIENT:
        agree.alike(place, d_logits, expected, what="d_logits")


@pytest.mark.clause("S4")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(
    st.booleans().flatmap(lambda soft: problems(st.integers(2, 4).map(lambda n: (n,)), soft=soft)), st.data(), count=50
)
def test_S4_nan_and_infinity_anywhere(place, subject, problem, data):
    logits, targets = problem
    agree.serves_soft(place, subject, targets.dtype.kind == "f")
    rows = filled(data.draw, logits.shape[:1], st.sampled_from([0.0, 1.0])).astype(bool)
    assume(rows.any())
    special = logits.copy()
    special[rows] = _strewn(data, logits[rows], SPECIAL, share=1)
    special[rows, data.draw(st.integers(0, logits.shape[1] - 1))] = data.draw(st.sampled_from([math.nan, math.inf]))
    clean, results = (agree.both(place, subject, x, targets, reduction="none") for x in (logits, special))
    agree.both_alike(place, results, clean, rows=~rows)
    for part in results:
        if part is not agree.NO_GRADIENT:
            assert np.isnan(part[rows]).all()


@pytest.mark.clause("S5")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.data(), count=60)
def test_S5_finite_logits_of_any_size(place, subject, data):
    """Never NaN; infinite only where the true loss is past the dtype."""
    largest = units.LARGEST[place.dtype]
    sizes = st.one_of(
        st.floats(-1e4, 1e4), st.floats(-largest, largest), st.sampled_from([largest, -largest, 0.0, -0.0, 1e-38])
    )
    V = data.draw(st.integers(1, 9))
    logits = place.round(filled(data.draw, (3, V), sizes))
    assume(np.isfinite(logits).all())
    targets = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=3, max_size=3)))
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none")
    assert not np.isnan(loss).any()
    exact, _ = oracle.cross_entropy(logits, targets, reduction="none")
    assert (exact.high[np.isinf(loss)] >= 0.999 * units.LARGEST[place.dtype]).all()
    if d_logits is not agree.NO_GRADIENT:
        assert np.isfinite(d_logits).all()


@pytest.mark.clause("S6")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), count=20)
def test_S6_one_class_of_any_size(place, subject, values):
    logits = np.array(values)[:, None]
    loss, d_logits = agree.both(place, subject, logits, np.zeros(len(values), dtype=np.int64), reduction="none")
    assert (loss == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits == 0).all()
