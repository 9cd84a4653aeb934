"""From tokens of any shape to rows: views where the strides allow, bounded copies where they do not."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

import crossent
from crossent import views
from crossent.libraries import NUMPY


def _covered(shape, places):
    """The flat token numbers of the places, in order."""
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    return [int(i) for place in places for i in np.asarray(numbers[place] if place else numbers).reshape(-1)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_places_are_all_tokens_in_order(monkeypatch, order, chunk):
    monkeypatch.setattr(views, "CHUNK", chunk)
    x = np.zeros((2, 3, 4, 5)).transpose(order)
    shape = x.shape[:-1]
    places = list(views._places(NUMPY, shape, [x]))
    assert _covered(shape, places) == list(range(int(np.prod(shape))))


def test_one_place_where_a_view_will_do():
    x = np.zeros((2, 3, 4, 5))
    for view in (x, x[:, :, ::2], x[..., ::-1], x[..., 1:3], x[:1], np.broadcast_to(x[0, 0, 0], x.shape), x[:, :, :1]):
        assert list(views._places(NUMPY, view.shape[:-1], [view])) == [()]


@pytest.mark.parametrize(
    ("view", "merges"),
    [
        (np.zeros((6, 5)), True),
        (np.zeros((2, 3, 5)), True),
        (np.zeros((2, 4, 5))[:, :3], False),
        (np.zeros((2, 6, 5))[:, ::2], True),
        (np.zeros((3, 2, 5)).transpose(1, 0, 2), False),
        (np.zeros((3, 1, 5)).transpose(1, 0, 2), True),
        (np.zeros((2, 3, 5))[::-1, ::-1], True),
        (np.zeros((2, 3, 5))[::-1], False),
        (np.zeros((5, 2, 3)).transpose(1, 2, 0), True),
    ],
)
def test_which_axes_merge(view, merges):
    assert views._has_view(NUMPY, view) == merges
    shared = np.shares_memory(view.reshape(-1, view.shape[-1]), view)
    assert shared == merges


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
@pytest.mark.parametrize("in_place", [False, True])
def test_any_order_of_axes_gives_the_same(monkeypatch, order, chunk, in_place):
    monkeypatch.setattr(views, "CHUNK", chunk)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 3, 4, 5)).transpose(order)
    t = rng.integers(0, x.shape[-1], x.shape[:-1])
    g = rng.random(x.shape[:-1])
    options = {"reduction": "none", "weights": rng.random(x.shape[:-1]), "grad_output": g}
    expected = crossent.cross_entropy_and_grad(np.ascontiguousarray(x), t, **options)
    got = crossent.cross_entropy_and_grad(x, t, x if in_place else None, **options)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_a_class_axis_in_the_middle_costs_no_copy_of_the_whole():
    x = np.zeros((8, 2000, 64, 16), np.float32).transpose(0, 2, 3, 1)
    t = np.zeros(x.shape[:-1], np.int8)
    crossent.cross_entropy(x[:1], t[:1])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        crossent.cross_entropy(x, t)
        extra = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert extra < x.nbytes / 4
