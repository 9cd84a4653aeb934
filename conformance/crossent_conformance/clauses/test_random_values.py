"""The clauses V and R for inputs as hypothesis thinks of them.

A test draws what its clause is about, and beyond that only options that other clauses have been asked about alone.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import HALF, Mode
from crossent_conformance.drawn import EXACT, SMOOTHING, filled, ignoring, problems, weighing

DIRECT = (Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.LAZY, Mode.STRICTEST)
"""Modes that compile nothing by shape."""


@pytest.mark.clause("V1")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(tokens=st.just((2,)), sure=True), count=80)
def test_V1_any_row(place, subject, problem):
    agree.with_oracle(place, subject, *problem, reduction="none", precise=True)


@pytest.mark.clause("V2")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.data(), count=60)
def test_V2_any_row(place, subject, data):
    V = data.draw(st.integers(1, 9))
    logits = filled(data.draw, (3, V), st.one_of(st.floats(-1e4, 1e4), EXACT))
    targets = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=3, max_size=3)))
    loss = place.evaluate(subject.loss, logits, targets, reduction="none")
    assert (loss >= 0).all()


@pytest.mark.clause("V3")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(tokens=st.just((3,))), st.sampled_from([-64.0, 8.0, 1024.0, 4096.0, -8192.0]), count=30)
def test_V3_any_exact_shift(place, subject, problem, shift):
    logits, targets = problem
    logits = np.round(logits) if place.dtype in HALF else logits
    assume((place.round(logits + shift) == logits + shift).all())
    exact_loss, exact = oracle.cross_entropy(logits, targets, reduction="none")
    loss, d_logits = agree.both(place, subject, logits + shift, targets, reduction="none")
    agree.loss(place, loss, exact_loss)
    agree.gradient(place, d_logits, exact)


@pytest.mark.clause("V4")
@pytest.mark.places(modes=DIRECT, sparse=True)
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
    _, d_logits = agree.both(place, subject, logits, targets, reduction="none")
    d_logits = d_logits.astype(np.float64)
    largest = np.abs(d_logits).max(axis=1)
    allowed = np.array([units.allowance(V, size) * size for size in largest]) * units.EPS[place.compute_dtype]
    allowed += units.FLOOR[place.compute_dtype] * V
    if place.dtype in HALF:
        allowed += units.half_ulp(d_logits, place.dtype).sum(axis=1)
    # Summed exactly: the sum of a row must not add a rounding of its own.
    assert (np.abs([math.fsum(row) for row in d_logits.tolist()]) <= allowed).all()


@pytest.mark.clause("V7")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(soft=True), st.sampled_from(["none", "sum"]), count=40)
def test_V7_any_soft_targets(place, subject, problem, reduction):
    agree.with_oracle(place, subject, *problem, reduction=reduction)


@pytest.mark.clause("V7")
@pytest.mark.places(modes=DIRECT, sparse=True)
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


@pytest.mark.clause("V8")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.booleans().flatmap(lambda soft: problems(soft=soft)), SMOOTHING, st.data(), count=60)
def test_V8_any_smoothing(place, subject, problem, smoothing, data):
    logits, targets = problem
    agree.serves_soft(place, subject, targets.dtype.kind == "f")
    options = data.draw(weighing(logits)) if data.draw(st.booleans()) else {}
    reduction = data.draw(st.sampled_from(["none", "sum"]))
    agree.with_oracle(place, subject, logits, targets, reduction=reduction, **smoothing, **options)


@pytest.mark.clause("V9")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(), st.data(), count=60)
def test_V9_any_weights(place, subject, problem, data):
    logits, targets = problem
    reduction = data.draw(st.sampled_from(["none", "sum"]))
    agree.with_oracle(place, subject, logits, targets, reduction=reduction, **data.draw(weighing(logits)))


@pytest.mark.clause("V10")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.booleans().flatmap(lambda soft: problems(soft=soft, sure=True)), count=40)
def test_V10_any_row(place, subject, problem):
    agree.serves_soft(place, subject, problem[1].dtype.kind == "f")
    agree.with_oracle(place, subject, *problem, reduction="none", algorithm="explicit")


@pytest.mark.clause("V11")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.one_of(st.floats(0, 1e6), st.sampled_from([math.inf, math.nan])), count=30)
def test_V11_perplexity_of_any_loss(place, subject, loss):
    loss = float(np.asarray(loss, dtype=place.compute_dtype))
    with np.errstate(over="ignore"):
        expected = float(np.exp(np.asarray(loss, dtype=place.compute_dtype)))
        exact = float(np.exp(np.asarray(loss)))
    got = float(place.to_numpy(subject.perplexity(place.put(np.asarray(loss), place.compute_dtype))))
    size = max(1.0, min(loss, 100.0))
    np.testing.assert_allclose(got, expected, rtol=16 * units.EPS[place.compute_dtype] * size)
    np.testing.assert_allclose(float(subject.perplexity(loss)), exact, rtol=16 * units.EPS["float64"] * size)


@pytest.mark.clause("R2")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)), st.data(), count=60)
def test_R2_any_mean(place, subject, problem, data):
    logits, targets = problem
    options = {
        "reduction": data.draw(st.sampled_from(["mean", "mean", "sequence"])),
        "denominator": data.draw(st.sampled_from([None, None, "tokens", 2, 0.5])),
    }
    if data.draw(st.booleans()):
        targets, ignored = data.draw(ignoring(targets, logits.shape[-1]))
        options |= ignored
    if data.draw(st.booleans()):
        options["class_weights"] = filled(data.draw, logits.shape[-1:], st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    agree.with_oracle(place, subject, logits, targets, **options)


@pytest.mark.clause("R3", "S6")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(
    st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(lambda lengths: 0 in lengths),
    st.integers(1, 4),
    st.sampled_from(cases.REDUCTIONS),
    st.booleans(),
    count=30,
)
def test_R3_any_shape_of_no_tokens(place, subject, tokens, V, reduction, soft):
    agree.serves_soft(place, subject, soft)
    tokens = tuple(tokens)
    logits = np.zeros((*tokens, V))
    loss, d_logits = agree.both(
        place, subject, logits, logits if soft else np.zeros(tokens, dtype=np.int64), reduction=reduction
    )
    assert loss.shape == {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())
    assert (loss == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert d_logits.shape == logits.shape


@pytest.mark.clause("R5")
@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST), sparse=True)
@depth.examples(
    problems(tokens=st.just((4,)), sure=True), st.lists(st.integers(0, 3), min_size=1, max_size=6), count=40
)
def test_R5_a_row_knows_nothing_of_its_company(place, subject, problem, order):
    """Reordered, repeated, alone: the same bits."""
    logits, targets = problem
    # XLA chooses the order of a sum for each shape.
    order = np.resize(order, 4) if place.backend.compiles_each_shape else np.array(order)
    loss = place.evaluate(subject.loss, logits, targets, reduction="none")
    again = place.evaluate(subject.loss, logits[order], targets[order], reduction="none")
    agree.equal(again, loss[order], what="loss")


@pytest.mark.clause("R6")
@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(problems(), st.data(), count=30)
def test_R6_any_grad_output(place, subject, problem, data):
    logits, targets = problem
    tokens = logits.shape[:-1]
    reduction = data.draw(st.sampled_from(["none", "sum", "mean", "sequence"] if tokens else ["none", "sum", "mean"]))
    shape = {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())
    scale = filled(data.draw, shape, st.sampled_from([0.5, 1.0, 1.5, -2.0, 0.0]))
    _, d_logits = agree.with_oracle(place, subject, logits, targets, reduction=reduction, grad_output=scale)
    assert d_logits.shape == logits.shape
