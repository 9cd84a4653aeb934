"""Clause A8: calls from many threads at once give, bit for bit, what single calls give."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from xent_conformance import cases
from xent_conformance.backends import Mode

CALLERS = 8


def _at_once(calls):
    """All calls, each in a thread of its own, started together."""
    barrier = threading.Barrier(len(calls))

    def wait_and_call(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(wait_and_call, calls))


@pytest.mark.clause("A8", "R5")
@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize("tokens", [(4,), (300,)], ids=["small", "large"])
def test_A8_calls_at_once(place, subject, tokens):
    V = 600
    inputs = [cases.random(tokens, V, seed=seed) for seed in range(CALLERS)]
    inputs = [(place.put(logits, place.dtype), place.put(targets)) for logits, targets in inputs]
    options = [{}, {"label_smoothing": 0.1}, {"ignore_index": 3, "reduction": "none"}, {"algorithm": "explicit"}] * (
        CALLERS // 4
    )
    calls = [
        lambda x=x, t=t, chosen=chosen: subject.loss_and_grad(x, t, **chosen)
        for (x, t), chosen in zip(inputs, options, strict=True)
    ]
    # The loss alone needs memory that the gradient's has: a place where callers may meet.
    calls += [
        lambda x=x, t=t, chosen=chosen: [subject.loss(x, t, **chosen)]
        for (x, t), chosen in zip(inputs, options, strict=True)
    ]
    alone = [[place.to_numpy(part) for part in call()] for call in calls]
    for _ in range(3):
        together = _at_once(calls)
        for got, expected in zip(together, alone, strict=True):
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(place.to_numpy(a), b)


@pytest.mark.clause("A8")
@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A8_one_input_for_all(place, subject):
    logits, targets = cases.random((300,), 600)
    x, t = place.put(logits, place.dtype), place.put(targets)
    expected = [place.to_numpy(part) for part in subject.loss_and_grad(x, t)]
    for got in _at_once([lambda: subject.loss_and_grad(x, t)] * CALLERS):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(place.to_numpy(a), b)


@pytest.mark.clause("A8")
@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A8_an_error_in_one_thread_is_its_own(place, subject):
    logits, targets = cases.random((300,), 600)
    x, good = place.put(logits, place.dtype), place.put(targets)
    bad = place.put(np.where(np.arange(300) == 200, 600, targets))
    expected = place.to_numpy(subject.loss(x, good))

    def refused():
        with pytest.raises(IndexError, match=r"targets\[200\] is 600"):
            subject.loss(x, bad)

    results = _at_once([refused, lambda: place.to_numpy(subject.loss(x, good))] * (CALLERS // 2))
    assert all(result == expected for result in results[1::2])
