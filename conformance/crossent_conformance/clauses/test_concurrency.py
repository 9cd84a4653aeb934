"""Clause A8: calls from many threads at once give what single calls give."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import Mode
from crossent_conformance.subject import DoesNotApply

CALLERS = 8


def _at_once(place, calls):
    """All calls, each in a thread of its own, started together."""
    barrier = threading.Barrier(len(calls))

    def wait_and_call(call):
        barrier.wait()
        result = call()
        place.backend.settle(result)
        return result

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(wait_and_call, calls))


OPTIONS = {
    "mean": {},
    "smoothed": {"label_smoothing": 0.1},
    "ignoring": {"ignore_index": 3, "reduction": "none"},
    "explicit": {"algorithm": "explicit"},
}


def _loss_and_grad(subject, x, t, options):
    return subject.loss_and_grad(x, t, **options)


def _loss(subject, x, t, options):
    # The loss alone needs memory that the gradient's has: a place where callers may meet.
    return (subject.loss(x, t, **options),)


@pytest.mark.clause("A8", "R5")
@pytest.mark.places(
    modes=(Mode.EAGER, Mode.LAZY),
    dtypes=("float32", "bfloat16"),
    when=lambda place, tokens, function: not depth.spares(place) or (tokens == (4,) and place.dtype == "float32"),
)
@pytest.mark.parametrize("tokens", [(4,), (300,)], ids=["small", "large"])
@pytest.mark.parametrize("function", [_loss, _loss_and_grad], ids=["loss", "gradient"])
def test_A8_calls_at_once(place, subject, tokens, function):
    inputs = [cases.random(tokens, 600, seed=seed) for seed in range(CALLERS)]
    inputs = [(place.put(logits, place.dtype), place.put(targets)) for logits, targets in inputs]
    function(subject, *inputs[0], {})  # what cannot be asked at all does not apply
    served = [options for options in OPTIONS.values() if _applies(partial(function, subject, *inputs[0], options))]
    calls = [partial(function, subject, x, t, served[i % len(served)]) for i, (x, t) in enumerate(inputs * 2)]
    alone = [place.copies(call()) for call in calls]
    for _ in range(3):
        for got, expected in zip(_at_once(place, calls), alone, strict=True):
            agree.all_alike(place, got, expected)


def _applies(call):
    try:
        call()
    except DoesNotApply:
        return False
    return True


@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("function", [_loss, _loss_and_grad], ids=["loss", "gradient"])
def test_A8_one_input_for_all(place, subject, function):
    x, t = place.pair(*cases.random((300,), 600))
    expected = place.copies(function(subject, x, t, {}))
    for got in _at_once(place, [lambda: function(subject, x, t, {})] * CALLERS):
        agree.all_alike(place, got, expected)


@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A8_an_error_in_one_thread_is_its_own(place, subject):
    logits, targets = cases.random((300,), 600)
    x, good = place.put(logits, place.dtype), place.put(targets)
    expected = place.to_numpy(subject.loss(x, good))
    short = place.put(targets[:299])

    def refused():
        return agree.refusal(lambda: subject.loss(x, short), Exception)

    results = _at_once(place, [refused, lambda: place.to_numpy(subject.loss(x, good))] * (CALLERS // 2))
    for result in results[1::2]:
        agree.alike(place, result, expected)
