"""Clauses S5 and S6: finite logits of any size, and one class."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from crossent_conformance import agree, depth, oracle, units
from crossent_conformance.backends import NOT_DOUBLED
from crossent_conformance.drawn import UNCOMPILED, filled


def _infinite_only_where_the_loss_is(place, subject, logits, targets, near=1.0, **options):
    """Never NaN; `near` is the part of the dtype's range in which the rounding of a loss may not reach its end."""
    exact, _ = oracle.cross_entropy(logits, targets, reduction="none", **options)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    agree.within(loss, ~np.isnan(loss), "a number", what="loss")
    agree.every(np.isfinite, [loss], exact.high <= near * units.LARGEST[place.dtype], what=["loss"])
    agree.every(np.isfinite, [d_logits], what=["d_logits"])


def test_S5_finite_logits_of_any_size(place, subject):
    largest = units.LARGEST[place.dtype]
    values = [-largest, -largest / 4, 0.0, 1.0, largest / 2, largest]
    logits = np.array(list(itertools.product(values, repeat=3)))
    for target in range(3):
        _infinite_only_where_the_loss_is(place, subject, logits, np.full(len(logits), target))


@pytest.mark.places(sparse=True, modes=NOT_DOUBLED)
@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.125}, {"label_smoothing": 0.125, "smoothing": "uniform"}, {"algorithm": "explicit"}],
    ids=["others", "uniform", "explicit"],
)
def test_S5_finite_logits_of_any_size_with_options(place, subject, options):
    largest = units.LARGEST[place.dtype]
    logits = np.array(list(itertools.product([-largest, 0.0, largest / 4, largest], repeat=3)))
    _infinite_only_where_the_loss_is(place, subject, logits, np.zeros(len(logits), dtype=np.int64), **options)


PAST = {
    "all on the others": {"label_smoothing": 1.0},
    "others": {"label_smoothing": 0.875},
    "uniform": {"label_smoothing": 0.875, "smoothing": "uniform"},
    "weights": {"weights": np.array([0.125])},
    "class weights": {"class_weights": np.array([0.125, 0.125, 0.0])},
    "all": {
        "label_smoothing": 0.25,
        "weights": np.array([0.125]),
        "class_weights": np.array([0.25, 0.5, 0.125]),
    },
}


@pytest.mark.places(sparse=True, modes=NOT_DOUBLED)
@pytest.mark.parametrize("options", PAST.values(), ids=PAST)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_S5_what_is_past_the_dtype_on_the_way_alone(place, subject, options, soft):
    """Logits that are further apart than the dtype reaches, and a part of it in the loss."""
    agree.serves_soft(place, subject, soft)
    largest = 0.75 * units.LARGEST[place.dtype]
    logits = np.array([[largest, -largest, 0.0], [largest, largest, -largest], [-largest, largest, largest]])
    targets = np.array([[0.0, 0.125, 0.0], [0.0625, 0.0, 0.0625], [0.125, 0.0, 0.0]]) if soft else np.array([1, 2, 0])
    agree.with_oracle(place, subject, logits, targets, reduction="none", **options)


@pytest.mark.places(sparse=True, modes=NOT_DOUBLED)
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
def test_S5_the_gradient_of_z_loss_is_scaled_before_it_ends(place, subject, algorithm):
    largest = 0.75 * units.LARGEST[place.dtype]
    logits, targets = np.array([[largest, -largest, 0.0], [-largest, 0.0, 0.0]]), np.array([0, 1])
    for z_loss, scale in ((0.75, 0.5), (0.5, 1.25), (0.125, 2.0)):
        options = {"z_loss": z_loss, "algorithm": algorithm, "reduction": "sum", "grad_output": scale}
        d_logits = agree.both(place, subject, logits, targets, **options)[1]
        exact = oracle.cross_entropy(place.round(logits), targets, **options)[1]
        agree.gradient(place, d_logits, exact)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.data(), count=60)
def test_S5_any_finite_logits(place, subject, data):
    largest = units.LARGEST[place.dtype]
    sizes = st.one_of(
        st.floats(-1e4, 1e4), st.floats(-largest, largest), st.sampled_from([largest, -largest, 0.0, -0.0, 1e-38])
    )
    V = data.draw(st.integers(1, 9))
    logits = place.round(filled(data.draw, (3, V), sizes))
    assume(np.isfinite(logits).all())
    targets = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=3, max_size=3)))
    _infinite_only_where_the_loss_is(place, subject, logits, targets, near=0.999)


def test_S5_tiny_logits(place, subject):
    smallest = units.SMALLEST[place.dtype]
    logits = np.array(list(itertools.product([-smallest, 0.0, smallest], repeat=3)))
    agree.with_oracle(place, subject, logits, np.zeros(len(logits), dtype=np.int64), reduction="none")


@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.125}, {"class_weights": np.array([0.5])}, {"algorithm": "explicit"}],
    ids=["plain", "smoothed", "class weights", "explicit"],
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_S6_one_class(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    logits = np.array([[0.0], [3.0], [-1e4], [20.0]])
    targets = np.ones((4, 1)) if soft else np.zeros(4, dtype=np.int64)
    agree.every(agree.is_zero, agree.both(place, subject, logits, targets, reduction="none", **options))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), count=20)
def test_S6_one_class_of_any_size(place, subject, values):
    logits, targets = np.array(values)[:, None], np.zeros(len(values), dtype=np.int64)
    agree.every(agree.is_zero, agree.both(place, subject, logits, targets, reduction="none"))
