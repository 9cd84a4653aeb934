"""Clauses R1 to R4: what becomes of the tokens' losses, of none too (S6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, ONCE, Mode
from crossent_conformance.drawn import UNCOMPILED, filled, ignoring, problems

MILLION = 1_000_003


def _has_sequences(place, tokens, reduction):
    if depth.spares(place) and tokens in ((), (2, 1, 3)):
        return False
    return reduction != "sequence" or len(tokens) > 0


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True, when=_has_sequences)
@pytest.mark.parametrize("tokens", [(), (4,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_R1_shapes(place, subject, tokens, reduction):
    with subject.unassisted():
        loss, d_logits = agree.with_oracle(place, subject, *cases.random(tokens, 5), reduction=reduction)
    agree.same(loss.shape, cases.loss_shape(reduction, tokens), "the shape of the loss")
    if d_logits is not agree.NO_GRADIENT:
        agree.same(d_logits.shape, (*tokens, 5), "the shape of the gradient")


@pytest.mark.places(modes=DIRECT, sparse=True)
def test_R1_mean_is_the_default(place, subject):
    agree.with_oracle(place, subject, *cases.random((6,), 5))


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


@pytest.mark.clause("R2", "S5")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sequence"])
@pytest.mark.parametrize("kind", ["tokens", "tokens of soft targets", "classes"])
@pytest.mark.parametrize("end", ["largest", "smallest"])
def test_R2_weights_at_the_ends_of_the_dtype(place, subject, reduction, kind, end):
    """Their sum, and the products with losses, are past the dtype; the mean is not."""
    soft = kind == "tokens of soft targets"
    agree.serves_soft(place, subject, soft)
    dtype = place.compute_dtype
    # XLA takes numbers below the normal ones for 0.
    smallest = float(np.finfo(dtype).tiny) if place.backend.name == "jax" else units.SMALLEST[dtype]
    weight = 0.75 * units.LARGEST[dtype] if end == "largest" else 2.0**20 * smallest
    logits, targets = cases.random((2, 4), 5)
    if soft:
        targets = cases.eighths(cases.generator(3).random(logits.shape))
    if kind != "classes":
        options = {"weights": np.array([[1.0, 0.5, 1.0, 0.0], [0.25, 1.0, 1.0, 1.0]]) * weight}
    else:
        options = {"class_weights": np.array([1.0, 0.5, 0.25, 1.0, 0.5]) * weight}
    agree.with_oracle(place, subject, logits, targets, reduction=reduction, **options)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_R2_what_an_ignored_token_weighs_is_nothing(place, subject):
    logits, targets = cases.random((2, 3), 5)
    targets = targets.copy()
    targets[0, 1] = -1
    weights = np.array([[1.0, 0.75 * units.LARGEST[place.compute_dtype], 2.0], [0.5, 1.0, 1.0]])
    agree.with_oracle(place, subject, logits, targets, weights=weights, ignore_index=-1)


@pytest.mark.clause("R2", "V7", "V8", "V9")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_R2_with_other_options(place, subject, soft):
    agree.serves_soft(place, subject, soft)
    problem = cases.small(soft)
    requests = depth.part(cases.covering(soft, "stable", ("mean", "sequence")), place)
    agree.each(requests, lambda options: agree.with_oracle(place, subject, *problem, **options))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
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


def _check_nothing(place, subject, logits, targets, **options):
    """Loss and gradient are zero, and of their shapes."""
    results = agree.both(place, subject, logits, targets, **options)
    agree.every(agree.is_zero, results)
    shapes = cases.loss_shape(options["reduction"], logits.shape[:-1]), logits.shape
    for part, shape in zip(results, shapes, strict=True):
        if part is not agree.NO_GRADIENT:
            agree.same(part.shape, shape, "a shape")


@pytest.mark.places(
    modes=NOT_DOUBLED,
    sparse=True,
    when=lambda place, reduction, denominator, options: denominator is None or not depth.spares(place),
)
@pytest.mark.parametrize(
    ("reduction", "denominator"),
    [
        *((each, None) for each in cases.REDUCTIONS),
        *((each, by) for each in ("mean", "sequence") for by in ("tokens", 0, 0.0, np.asarray(0.0))),
    ],
)
@pytest.mark.parametrize(
    "options",
    [{"ignore_index": 1}, {"weights": np.zeros((2, 3))}, {"class_weights": np.array([1.0, 0.0, 1.0, 1.0])}],
    ids=["ignored", "token weights", "class weights"],
)
def test_R3_nothing_counted(place, subject, reduction, denominator, options):
    logits, _ = cases.random((2, 3), 4)
    targets = np.ones((2, 3), dtype=np.int64)
    _check_nothing(place, subject, logits, targets, reduction=reduction, denominator=denominator, **options)


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
    _check_nothing(place, subject, logits, targets, reduction=reduction, **options)


@pytest.mark.clause("R3", "S6")
@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(
    st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(lambda lengths: 0 in lengths),
    st.integers(1, 4),
    st.sampled_from(cases.REDUCTIONS),
    st.booleans(),
    count=30,
)
def test_R3_any_shape_of_no_tokens(place, subject, tokens, V, reduction, soft):
    agree.serves_soft(place, subject, soft)
    logits = np.zeros((*tokens, V))
    targets = logits if soft else np.zeros(tokens, dtype=np.int64)
    _check_nothing(place, subject, logits, targets, reduction=reduction)


@pytest.mark.clause("S6", "R3")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_S6_no_classes_and_no_tokens(place, subject, reduction):
    _check_nothing(place, subject, np.zeros((0, 0)), np.zeros((0,), dtype=np.int64), reduction=reduction)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_R3_an_empty_sequence_among_full_ones(place, subject):
    logits, targets = cases.random((3, 4), 5)
    targets = targets.copy()
    targets[1] = -1
    loss, _ = agree.with_oracle(place, subject, logits, targets, reduction="sequence", ignore_index=-1)
    agree.every(agree.is_zero, [loss], 1, what=["loss"])


@pytest.mark.places(
    modes=(Mode.EAGER, Mode.LAZY, Mode.TRACED, Mode.STRICTEST), dtypes=("float64", "float32", "bfloat16")
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
@pytest.mark.long
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


@pytest.mark.clause("R4", "R2")
@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY, Mode.STRICTEST), dtypes=("float32", "float64"))
@pytest.mark.parametrize("kind", ["tokens", "classes"])
def test_R4_a_million_weights_that_are_no_round_numbers(place, subject, kind):
    """A running sum in float32 of multiples of such a weight is off in the third digit."""
    logits, _ = cases.random((1,), 3)
    weight = float(np.float32(0.1))
    options = {"weights": np.full(MILLION, weight)} if kind == "tokens" else {"class_weights": np.full(3, weight)}
    targets = np.zeros(MILLION, dtype=np.int64)
    loss = place.evaluate(subject.loss, np.repeat(logits, MILLION, axis=0), targets, **options)
    exact, _ = oracle.cross_entropy(place.round(logits), targets[:1])
    agree.loss(place, loss, exact)
