"""Clauses R1 to R4: what becomes of the tokens' losses."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, Mode

MILLION = 1_000_003


def _has_sequences(place, tokens, reduction):
    if depth.spares(place) and tokens in ((), (2, 1, 3)):
        return False
    return reduction != "sequence" or len(tokens) > 0


@pytest.mark.clause("R1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True, when=_has_sequences)
@pytest.mark.parametrize("tokens", [(), (4,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_R1_shapes(place, subject, tokens, reduction):
    with subject.unassisted():
        loss, d_logits = agree.with_oracle(place, subject, *cases.random(tokens, 5), reduction=reduction)
    assert loss.shape == {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())
    if d_logits is not agree.NO_GRADIENT:
        assert d_logits.shape == (*tokens, 5)


@pytest.mark.clause("R1")
@pytest.mark.places(modes=DIRECT, sparse=True)
def test_R1_mean_is_the_default(place, subject):
    agree.with_oracle(place, subject, *cases.random((6,), 5))


@pytest.mark.clause("R2")
@pytest.mark.places(
    modes=NOT_DOUBLED,
    sparse=True,
    when=lambda place, reduction, soft, denominator: not depth.spares(place) or not soft or denominator is None,
)
@pytest.mark.parametrize("reduction", ["mean", "sequence"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("denominator", [None, "tokens", 7, np.asarray(2.5)], ids=repr)
def test_R2_denominators(place, subject, reduction, soft, denominator):
    agree.serves_soft(place, subject, soft)
    logits, targets = cases.random((3, 4), 5)
    options = {
        "weights": np.array([[0.5, 2.0, 0.0, 1.0], [3.0, 0.25, 1.0, 8.0], [1.0, 1.0, 0.0, 0.5]]),
        "class_weights": np.array([1.0, 0.5, 0.0, 4.0, 0.125]),
    }
    if soft:
        targets = cases.eighths(cases.generator(12).random(logits.shape))
    else:
        options["ignore_index"] = int(targets[1, 1])
    agree.with_oracle(place, subject, logits, targets, reduction=reduction, denominator=denominator, **options)


@pytest.mark.clause("R2")
@pytest.mark.places(
    modes=NOT_DOUBLED,
    sparse=True,
    when=lambda place, options, denominator: not depth.spares(place) or denominator is None or "weights" in options,
)
@pytest.mark.parametrize(
    "options",
    [
        {"weights": np.array([1.0, 0.0, 2.0, 1.0])},
        {"class_weights": np.array([0.5, 2.0, 0.0])},
        {"class_weights": np.array([0.5, 2.0, 0.0]), "label_smoothing": 0.25},
        {"ignore_index": 1},
        {"ignore_index": -100},
    ],
    ids=["weights", "class weights", "smoothed class weights", "ignored", "ignored outside"],
)
@pytest.mark.parametrize("denominator", [None, "tokens"])
def test_R2_only_counted_tokens_divide(place, subject, options, denominator):
    targets = np.array([[0, 1, 2, 1], [2, 2, 0, 0]])
    if options.get("ignore_index") == -100:
        targets = np.array([[0, -100, 2, 1], [2, -100, -100, 0]])
    logits, _ = cases.random((2, 4), 3)
    requests = [{"reduction": reduction, "denominator": denominator} for reduction in ("mean", "sequence")]
    agree.each(requests, lambda request: agree.with_oracle(place, subject, logits, targets, **request, **options))


@pytest.mark.clause("R2", "V7", "V8", "V9")
@pytest.mark.places(modes=(*DIRECT, Mode.TRACED), sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_R2_with_other_options(place, subject, soft):
    agree.serves_soft(place, subject, soft)
    logits, targets = cases.random((2, 3), 5)
    logits = cases.eighths(logits)
    if soft:
        targets = cases.eighths(cases.generator(3).random(logits.shape))
    requests = depth.part(cases.covering(soft, "stable", ("mean", "sequence")), place)
    agree.each(requests, lambda options: agree.with_oracle(place, subject, logits, targets, **options))


@pytest.mark.clause("R3")
@pytest.mark.places(
    modes=NOT_DOUBLED,
    sparse=True,
    when=lambda place, reduction, denominator, options: denominator is None or not depth.spares(place),
)
@pytest.mark.parametrize(
    ("reduction", "denominator"),
    [*((each, None) for each in cases.REDUCTIONS), ("mean", "tokens"), ("sequence", "tokens")],
)
@pytest.mark.parametrize(
    "options",
    [{"ignore_index": 1}, {"weights": np.zeros((2, 3))}, {"class_weights": np.array([1.0, 0.0, 1.0, 1.0])}],
    ids=["ignored", "token weights", "class weights"],
)
def test_R3_nothing_counted(place, subject, reduction, denominator, options):
    logits, _ = cases.random((2, 3), 4)
    targets = np.ones((2, 3), dtype=np.int64)
    options = {**options, "reduction": reduction, "denominator": denominator}
    loss, d_logits = agree.both(place, subject, logits, targets, **options)
    assert (loss == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits == 0).all()


@pytest.mark.clause("R3", "S6")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("tokens", [(0,), (0, 3), (2, 3, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("options", [{}, {"class_weights": np.ones(5)}], ids=["plain", "classes"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_R3_empty_batch(place, subject, reduction, tokens, options, soft):
    agree.serves_soft(place, subject, soft)
    logits = np.zeros((*tokens, 5))
    targets = logits if soft else np.zeros(tokens, dtype=np.int64)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction=reduction, **options)
    assert loss.shape == {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())
    assert (loss == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert d_logits.shape == logits.shape


@pytest.mark.clause("R3")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_R3_an_empty_sequence_among_full_ones(place, subject):
    logits, targets = cases.random((3, 4), 5)
    targets = targets.copy()
    targets[1] = -1
    loss, _ = agree.with_oracle(place, subject, logits, targets, reduction="sequence", ignore_index=-1)
    assert loss[1] == 0


@pytest.mark.clause("R4")
@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY, Mode.TRACED), dtypes=("float64", "float32", "bfloat16"))
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
def test_R4_a_million_tokens(place, subject, reduction):
    distinct, distinct_targets = cases.gaps(4, (-3.0, -1.0, 0.0, 2.0, 6.0, 12.0))
    which = cases.generator(9).integers(0, len(distinct), MILLION)
    counts = np.bincount(which, minlength=len(distinct)).astype(np.float64)
    # A weight that is the number of its occurrences: the oracle sums a million tokens from a dozen.
    exact, _ = oracle.cross_entropy(
        place.round(distinct), distinct_targets, weights=counts, reduction="sum" if reduction == "sum" else "mean"
    )
    loss = place.evaluate(subject.loss, distinct[which], distinct_targets[which], reduction=reduction)
    units.check(loss, exact, place.compute_dtype)


@pytest.mark.clause("R4")
@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY), dtypes=("float32",))
def test_R4_a_million_weights(place, subject):
    logits, targets = cases.random((1,), 3)
    loss = place.evaluate(
        subject.loss, np.repeat(logits, MILLION, axis=0), np.repeat(targets, MILLION), weights=np.full(MILLION, 0.09375)
    )
    exact, _ = oracle.cross_entropy(place.round(logits), targets)
    units.check(loss, exact, place.compute_dtype)
