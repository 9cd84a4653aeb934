"""Clauses R1 to R6: what becomes of the tokens' losses."""

from __future__ import annotations

import numpy as np
import pytest

from xent_conformance import agree, cases, depth, oracle, units
from xent_conformance.backends import DIRECT, NOT_DOUBLED, Mode

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
@pytest.mark.parametrize("tokens", [(0,), (0, 3), (2, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_R3_empty_batch(place, subject, reduction, tokens, soft):
    logits = np.zeros((*tokens, 5))
    targets = logits if soft else np.zeros(tokens, dtype=np.int64)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction=reduction)
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


def _same_bits(first, second):
    return np.array_equal(first.view(f"u{first.itemsize}"), second.view(f"u{second.itemsize}"))


@pytest.mark.clause("R5")
@pytest.mark.places(modes=DIRECT)
@pytest.mark.parametrize("V", [3, 37, 1000])
def test_R5_a_row_depends_on_itself_alone(place, subject, V):
    logits, targets = cases.random((700,), V)
    whole = place.evaluate(subject.loss, logits, targets, reduction="none")
    if place.backend.compiles_each_shape:
        order = cases.generator(V).permutation(700)
        moved = place.evaluate(subject.loss, logits[order], targets[order], reduction="none")
        assert _same_bits(moved, whole[order]), "rows elsewhere among 700 differ from themselves"
        return
    for part in (slice(0, 1), slice(3, 4), slice(1, 6), slice(100, 433), slice(699, 700)):
        alone = place.evaluate(subject.loss, logits[part], targets[part], reduction="none")
        assert _same_bits(alone, whole[part]), f"rows {part} alone differ from the same rows among 700"


@pytest.mark.clause("R5")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_R5_other_rows_do_not_matter(place, subject):
    logits, targets = cases.random((60,), 37)
    changed = logits.copy()
    changed[::3] = [1e4, -1e4, 300.0, -60.0, 0.0] * 7 + [1.0, 2.0]
    before = place.evaluate(subject.loss, logits, targets, reduction="none")
    after = place.evaluate(subject.loss, changed, targets, reduction="none")
    kept = np.arange(60) % 3 != 0
    assert _same_bits(before[kept], after[kept])


@pytest.mark.clause("R5")
@pytest.mark.places(modes=(Mode.EAGER,), dtypes=("float32", "float64"), backends=("numpy", "torch"))
def test_R5_threads_do_not_matter(place, subject):
    logits, targets = cases.random((3000,), 257)
    found = []
    for threads in (1, 2, 3):
        with subject.threads(threads):
            found.append(place.evaluate(subject.loss, logits, targets, reduction="none"))
    assert _same_bits(found[0], found[1])
    assert _same_bits(found[0], found[2])


def _gradient_with_oracle(place, subject, logits, targets, **options):
    """As agree.with_oracle; but without a gradient there is nothing to scale."""
    _, d_logits = agree.with_oracle(place, subject, logits, targets, **options)
    assert d_logits.shape == logits.shape


def _scale(reduction, low=-64):
    shape = {"none": (2, 3), "sequence": (2,)}.get(reduction, ())
    return np.asarray(cases.generator(4).integers(low, 64, shape) / 32)


@pytest.mark.clause("R6")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_R6_grad_output_scales_the_gradient(place, subject, reduction):
    options = {"reduction": reduction, "grad_output": _scale(reduction)}
    _gradient_with_oracle(place, subject, *cases.random((2, 3), 5), **options)


@pytest.mark.clause("R6")
@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_R6_grad_output_may_be_a_number(place, subject, reduction):
    _gradient_with_oracle(place, subject, *cases.random((2, 3), 5), reduction=reduction, grad_output=-1.5)


@pytest.mark.clause("R6", "V7", "V8", "V9", "V10", "R2")
@pytest.mark.places(
    modes=(*DIRECT, Mode.TRACED),
    dtypes=("float32",),
    when=lambda place, soft, algorithm: not depth.spares(place) or algorithm == "stable",
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
def test_R6_with_other_options(place, subject, soft, algorithm):
    logits, targets = cases.random((2, 3), 5)
    logits = cases.eighths(logits)
    if soft:
        targets = cases.eighths(cases.generator(3).random(logits.shape))
    requests = [
        {**options, "grad_output": _scale(options["reduction"], low=16)}
        for options in depth.part(cases.covering(soft, algorithm), place)
    ]
    agree.each(requests, lambda options: _gradient_with_oracle(place, subject, logits, targets, **options))


@pytest.mark.clause("R6")
@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_R6_backward_of_the_loss_object(place, subject, reduction):
    logits, targets = cases.random((2, 3), 5)
    rounded = place.round(logits)

    def forward_and_backward(logits, targets, grad_output=None):
        loss_fn = subject.loss_object(reduction=reduction)
        loss = loss_fn.forward(logits, targets)
        return loss, loss_fn.backward(grad_output)

    for scale in (None, _scale(reduction, low=1)):
        exact_loss, exact = oracle.cross_entropy(rounded, targets, reduction=reduction, grad_output=scale)
        loss, d_logits = place.evaluate(forward_and_backward, rounded, targets, grad_output=scale)
        agree.loss(place, loss, exact_loss)
        agree.gradient(place, d_logits, exact)
