"""Clause A2 of what comes out: `out` receives the gradient, whatever its memory has to do with that of the inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import Mode
from crossent_conformance.clauses.test_layouts import OPTIONS, STRIDES, sliced
from crossent_conformance.refused import MUTABLE


def _check(place, result, out, expected):
    """What came back, and what `out` holds now."""
    for got, value in zip(place.copies([*result, out]), [*expected, expected[1]], strict=True):
        agree.alike(place, got, value)


def _out_of(place, x, kind):
    """Memory for the gradient of `x` by kind, the logits to call with, and what must not change around it."""
    if kind == "own":
        return x, x, None
    if kind == "apart":
        return x, place.put(np.full(x.shape, 7.0), place.dtype), None
    wide = place.put(np.full((2 * x.shape[0], x.shape[1] + 2, x.shape[2] + 1), 7.0), place.dtype)
    if kind == "strided":
        return x, wide[1::2, 1:-1, 1:], wide
    wide[:2, 1:-1, 1:] = x
    logits = wide[:2, 1:-1, 1:]
    return logits, (wide[1:3, 1:-1, 1:] if kind == "next-row" else wide[:2, 1:-1, :-1]), None


def _is_a_view(place, kind, options):
    return kind in ("own", "apart") or place.backend.name in STRIDES


@pytest.mark.places(backends=MUTABLE, modes=(Mode.EAGER, Mode.STRICTEST), when=_is_a_view)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", ["own", "apart", "strided", "next-row", "next-class"])
def test_A2_out(place, subject, kind, options):
    (x, t), options = place.pair(*cases.small()), place.options(options)
    expected = place.copies(subject.loss_and_grad(x, t, **options))
    x, out, around = _out_of(place, x, kind)
    _check(place, subject.loss_and_grad(x, t, out=out, **options), out, expected)
    if around is not None:
        left = np.array(place.to_numpy(around))
        left[1::2, 1:-1, 1:] = 7
        agree.within(left, left == 7, "7: it is not part of out", what="the memory around out")


@pytest.mark.places(backends=("numpy", "cupy"), modes=(Mode.EAGER,))
def test_A2_out_that_runs_backwards_through_the_logits(place, subject):
    x, t = place.pair(*cases.random((6,), 5))
    expected, out = place.copies(subject.loss_and_grad(x, t)), x[::-1]
    _check(place, subject.loss_and_grad(x, t, out=out), out, expected)


@pytest.mark.places(backends=MUTABLE, modes=(Mode.EAGER, Mode.STRICTEST))
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.25}, {"algorithm": "explicit"}], ids=["plain", "smoothed", "explicit"]
)
def test_A2_out_that_is_the_soft_targets(place, subject, options):
    agree.serves_soft(place, subject)
    x, q = place.pair(*cases.small(soft=True))
    expected = place.copies(subject.loss_and_grad(x, q, **options))
    _check(place, subject.loss_and_grad(x, q, out=q, **options), q, expected)


@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,), dtypes=("float32", "float64"))
@pytest.mark.parametrize("name", ["weights", "class_weights", "grad_output"])
def test_A2_out_that_holds_another_argument(place, subject, name):
    """A view of `out` as weights is read before it is overwritten."""
    x, t = place.pair(*cases.random((5,), 5))
    memory = place.put(np.tile(np.arange(1.0, 6.0), (5, 1)), place.dtype)
    alone = place.put(np.arange(1.0, 6.0), place.dtype)
    expected = place.copies(subject.loss_and_grad(x, t, reduction="none", **{name: alone}))
    _check(place, subject.loss_and_grad(x, t, reduction="none", out=memory, **{name: memory[0]}), memory, expected)


@pytest.mark.clause("A2", "R2")
@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,), dtypes=("float64",))
def test_A2_out_that_holds_the_denominator(place, subject):
    x, t = place.pair(*cases.random((4,), 5))
    expected = place.copies(subject.loss_and_grad(x, t, denominator=3.0))
    memory = place.put(np.full((4, 5), 3.0), place.dtype)
    _check(place, subject.loss_and_grad(x, t, denominator=memory[2, 2, ...], out=memory), memory, expected)


@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,), dtypes=("float64",))
def test_A2_out_that_holds_the_targets(place, subject):
    logits, targets = cases.random((4,), 5)
    x = place.put(logits, place.dtype)
    expected = place.copies(subject.loss_and_grad(x, place.put(targets)))
    integers = place.put(np.tile(targets[:, None], (1, 5)))
    out = integers.view(x.dtype)
    _check(place, subject.loss_and_grad(x, integers[:, 3], out=out), out, expected)


@pytest.mark.places(modes=(Mode.EAGER,), backends=STRIDES, sparse=True)
@depth.examples(st.data(), count=60)
def test_A2_out_that_is_any_slice_of_an_array(place, subject, data):
    """Nothing is written past `out`."""
    x, alone, whole, t = sliced(place, subject, data)
    expected = place.copies(subject.loss_and_grad(alone, t))
    before = np.array(place.to_numpy(whole))
    filled = place.put(np.full(tuple(x.shape), 7.0), place.dtype)
    _check(place, subject.loss_and_grad(x, t, out=x), x, expected)
    x[...] = filled
    inside = np.array(place.to_numpy(whole)) == 7
    x[...] = alone
    agree.unchanged(np.array(place.to_numpy(whole))[~inside], before[~inside], "the memory around out")


@pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY))
def test_A2_a_result_stays_as_it_is(place, subject):
    """The gradient of one call is the input of the next."""
    (x, t), (y, u) = (place.pair(*cases.random((6,), 5, seed=seed)) for seed in (1, 2))
    with place.backend.during_call():
        results = subject.loss_and_grad(x, t)
    before = place.copies(results)
    with place.backend.during_call():
        subject.loss_and_grad(y, u)
        subject.loss_and_grad(results[1], t)
    for array, values in zip(place.copies(results), before, strict=True):
        agree.unchanged(array, values, "an input")
