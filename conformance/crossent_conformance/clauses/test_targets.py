"""Clause A4: a target outside the vocabulary is refused by name before anything is written, or its row is NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from crossent_conformance import agree, depth, texts
from crossent_conformance.backends import Mode
from crossent_conformance.evidence import NotRefusedError
from crossent_conformance.refused import LOGITS, SEQUENCES, TARGETS
from crossent_conformance.subject import DoesNotApply

READABLE = (Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST)
UNREADABLE = (Mode.TRACED, Mode.LAZY)


def _check(call, position, value, classes, alone=None):
    """The call is refused by an error that names the target; `alone` is the call without any other bad target."""
    text = str(agree.refusal(call, IndexError))
    lacks = texts.lacks_of_target(text, position, value, classes)
    if lacks and alone is not None:
        try:
            agree.refusal(alone, IndexError)
        except NotRefusedError as accepted:
            raise NotRefusedError(f"the target {value} at {list(position)} is {accepted}") from None
        except (DoesNotApply, AssertionError):  # the error that there is says enough
            pass
    if lacks:
        raise AssertionError(f"the error does not name {lacks}: {text}")


CALLS = {
    "loss": lambda subject, x, t: subject.loss(x, t),
    "gradient": lambda subject, x, t: subject.loss_and_grad(x, t),
    "object": lambda subject, x, t: subject.loss_object().forward(x, t),
}


@pytest.mark.places(modes=READABLE, sparse=True)
@pytest.mark.parametrize("value", [-1, 4, 5, -4, -100, 2**31 - 1, -(2**31), 2**40])
@pytest.mark.parametrize("call", CALLS)
def test_A4_the_first_offending_target_is_named(place, subject, value, call):
    targets = TARGETS.copy()
    targets[2], targets[5] = value, 77
    x, t = place.pair(LOGITS, targets)
    targets[5] = TARGETS[5]
    alone = place.put(targets)
    _check(lambda: CALLS[call](subject, x, t), (2,), value, 4, lambda: CALLS[call](subject, x, alone))


@pytest.mark.places(modes=READABLE, sparse=True)
@pytest.mark.parametrize("value", [-1, 4, -4, -100, 2**31 - 1, -(2**31)])
def test_A4_an_ignored_target_does_not_offend(place, subject, value):
    targets = TARGETS.copy()
    targets[2] = value
    x = place.put(LOGITS, place.dtype)
    subject.loss(x, place.put(targets), ignore_index=value)
    targets[5] = 77
    _check(lambda: subject.loss(x, place.put(targets), ignore_index=value), (5,), 77, 4)


@pytest.mark.places(modes=READABLE, dtypes=("float32",))
@pytest.mark.parametrize("tokens", [(), (3,), (2, 3), (2, 1, 2)], ids=str)
def test_A4_any_rank(place, subject, tokens):
    targets = np.zeros(tokens, dtype=np.int64)
    targets[(-1,) * len(tokens)] = 4
    x, t = place.put(np.zeros((*tokens, 4)), place.dtype), place.put(targets)
    with subject.unassisted():
        _check(lambda: subject.loss(x, t), tuple(length - 1 for length in tokens), 4, 4)


@pytest.mark.places(
    modes=(Mode.EAGER, Mode.STRICTEST), backends=("numpy", "torch", "torch-cuda", "cupy", "array-api-strict")
)
@pytest.mark.parametrize("memory", ["apart", "logits"])
def test_A4_nothing_is_written_before_the_error(place, subject, memory):
    x = place.put(LOGITS, place.dtype)
    out = place.put(np.full(LOGITS.shape, 7.0), place.dtype) if memory == "apart" else x
    before = np.array(place.to_numpy(out))
    targets = TARGETS.copy()
    targets[5] = 4
    agree.refusal(lambda: subject.loss_and_grad(x, place.put(targets), out=out), IndexError)
    agree.unchanged(place.to_numpy(out), before, "out, and raised an error")


@pytest.mark.places(
    modes=(*READABLE, *UNREADABLE),
    sparse=True,
    when=lambda place, options, value: not depth.spares(place) or value in (-1, 4) or (not options and value != -4),
)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.125},
        {"weights": np.array([1.0, 0.5, 2.0, 1.0, 1.0, 4.0])},
        {"class_weights": np.array([1.0, 0.5, 2.0, 0.25])},
        {"algorithm": "explicit"},
        {"z_loss": 0.5},
    ],
    ids=["plain", "smoothed", "weights", "classes", "explicit", "z"],
)
@pytest.mark.parametrize("value", [-1, 4, -4, -100, 2**31 - 1, -(2**63)])
def test_A4_where_nothing_is_read_the_row_is_nan(place, subject, options, value):
    targets = TARGETS.copy()
    targets[2] = value
    options = {**options, "reduction": "none", "check_targets": False}
    clean = agree.both(place, subject, LOGITS, TARGETS, **options)
    results = agree.both(place, subject, LOGITS, targets, **options)
    for got in results:
        if got is not agree.NO_GRADIENT:
            agree.every(np.isnan, [got], 2, what=["the result"])
    agree.both_alike(place, results, clean, rows=np.arange(6) != 2)


@pytest.mark.clause("S1", "A4")
@pytest.mark.places(modes=(*READABLE, *UNREADABLE), sparse=True)
@pytest.mark.parametrize("value", [-1, 4, -100, 2**31 - 1, -(2**63)])
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.parametrize("classes", [False, True], ids=["tokens", "and classes"])
def test_S1_a_token_without_weight_may_have_any_target(place, subject, value, checked, classes):
    """What does not count is not looked at: neither is it an error, nor NaN."""
    targets = TARGETS.copy()
    targets[2] = value
    weights = np.array([1.0, 0.5, 0.0, 1.0, 1.0, 4.0])
    options = {"weights": weights, "check_targets": checked}
    if classes:
        options["class_weights"] = np.array([1.0, 0.5, 2.0, 0.25])
    for reduction in ("none", "mean"):
        clean = agree.both(place, subject, LOGITS, TARGETS, reduction=reduction, **options)
        agree.both_alike(place, agree.both(place, subject, LOGITS, targets, reduction=reduction, **options), clean)


@pytest.mark.places(modes=READABLE, dtypes=("float32",))
def test_A4_the_targets_of_tokens_that_weigh_are_checked(place, subject):
    targets = TARGETS.copy()
    targets[[2, 4]] = -100
    weights = place.put(np.array([1.0, 0.5, 0.0, 1.0, 1.0, 4.0]), place.compute_dtype)
    x, t = place.pair(LOGITS, targets)
    _check(lambda: subject.loss(x, t, weights=weights), (4,), -100, 4)


@pytest.mark.places(modes=UNREADABLE, sparse=True)
@pytest.mark.parametrize(
    "options",
    [{}, {"ignore_index": 1}, {"ignore_index": -100}, {"label_smoothing": 0.25}],
    ids=["plain", "ignore", "ignore-outside", "smoothed"],
)
def test_A4_tracing_and_laziness_cannot_raise(place, subject, options):
    targets = TARGETS.copy()
    targets[3] = 4
    loss, d_logits = agree.both(place, subject, LOGITS, targets, reduction="none", **options)
    bad = np.arange(6) == 3
    agree.same(np.isnan(loss).tolist(), bad.tolist(), "which losses are NaN")
    if d_logits is not agree.NO_GRADIENT:
        agree.same(np.isnan(d_logits).all(axis=1).tolist(), bad.tolist(), "which tokens' gradients are NaN")
        agree.same(np.isnan(d_logits).any(axis=1).tolist(), bad.tolist(), "which tokens' gradients have a NaN")
    agree.every(np.isnan, [place.evaluate(subject.loss, LOGITS, targets, **options)], what=["the mean loss"])


@pytest.mark.places(backends=("jax", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A4_under_vmap_the_row_is_nan(place, subject):
    targets = TARGETS.reshape(2, 3).copy()
    targets[1, 0] = -1
    x, t = place.put(SEQUENCES, place.dtype), place.put(targets)
    vmap = place.backend.jax.vmap if place.backend.name == "jax" else place.backend.torch.func.vmap
    loss = vmap(lambda a, b: subject.loss(a, b, reduction="none"))(x, t)
    agree.same(np.isnan(place.to_numpy(loss)).tolist(), [[False] * 3, [True, False, False]], "which losses are NaN")


def _drawn(data):
    """Targets, most of them in range, and an ignore_index that may be among them; the positions that offend."""
    values = st.one_of(st.integers(0, 4), st.integers(0, 4), st.integers(-(2**63), 2**63 - 1))
    targets = np.array(data.draw(st.lists(values, min_size=1, max_size=6)), dtype=np.int64)
    some = [st.none(), st.sampled_from([-100, -1, 255]), st.sampled_from(targets.tolist())]
    ignored = data.draw(st.one_of(*some))
    bad = [i for i, value in enumerate(targets.tolist()) if not 0 <= value < 5 and value != ignored]
    return np.linspace(-2.0, 2.0, 5 * len(targets)).reshape(-1, 5), targets, ignored, bad


@pytest.mark.places(modes=READABLE, dtypes=("float32",))
@depth.examples(st.data(), count=60)
def test_A4_any_integers_as_targets(place, subject, data):
    """Refused with the first offending position, or right: there is nothing between."""
    logits, targets, ignored, bad = _drawn(data)
    x, t = place.put(logits, place.dtype), place.put(targets)
    options = {} if ignored is None else {"ignore_index": ignored}
    if bad:
        alone = targets.copy()
        alone[bad[1:]] = 0
        u = place.put(alone)
        first = int(targets[bad[0]])
        _check(lambda: subject.loss(x, t, **options), (bad[0],), first, 5, lambda: subject.loss(x, u, **options))
    else:
        agree.every(np.isfinite, [place.to_numpy(subject.loss(x, t, **options))], what=["the loss"])


@pytest.mark.places(modes=READABLE, dtypes=("float32",))
@depth.examples(st.data(), count=60)
def test_A4_any_integers_as_unchecked_targets(place, subject, data):
    logits, targets, ignored, bad = _drawn(data)
    assume(bad)
    options = {"reduction": "none", "check_targets": False} | ({} if ignored is None else {"ignore_index": ignored})
    loss = place.evaluate(subject.loss, logits, targets, **options)
    agree.same(np.flatnonzero(np.isnan(loss)).tolist(), bad, "the places of losses that are NaN")
