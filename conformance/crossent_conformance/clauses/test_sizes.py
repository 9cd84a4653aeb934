"""Clauses S5 and S6: finite logits of any size, one class and none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crossent_conformance import agree, oracle, units
from crossent_conformance.backends import NOT_DOUBLED


def _infinite_only_where_the_loss_is(place, subject, logits, targets, **options):
    exact, _ = oracle.cross_entropy(logits, targets, reduction="none", **options)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    assert not np.isnan(loss).any()
    assert np.isfinite(loss[exact.high <= units.LARGEST[place.dtype]]).all()
    if d_logits is not agree.NO_GRADIENT:
        assert np.isfinite(d_logits).all()


@pytest.mark.clause("S5")
def test_S5_finite_logits_of_any_size(place, subject):
    largest = units.LARGEST[place.dtype]
    values = [-largest, -largest / 4, 0.0, 1.0, largest / 2, largest]
    logits = np.array(list(itertools.product(values, repeat=3)))
    for target in range(3):
        _infinite_only_where_the_loss_is(place, subject, logits, np.full(len(logits), target))


@pytest.mark.clause("S5")
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


@pytest.mark.clause("S5")
def test_S5_tiny_logits(place, subject):
    smallest = units.SMALLEST[place.dtype]
    logits = np.array(list(itertools.product([-smallest, 0.0, smallest], repeat=3)))
    agree.with_oracle(place, subject, logits, np.zeros(len(logits), dtype=np.int64), reduction="none")


@pytest.mark.clause("S6")
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
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    assert (loss == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits == 0).all()


@pytest.mark.clause("S6", "R3")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_S6_no_classes_and_no_tokens(place, subject, reduction):
    loss, d_logits = agree.both(place, subject, np.zeros((0, 0)), np.zeros((0,), dtype=np.int64), reduction=reduction)
    assert (loss == 0).all()
    assert loss.shape == ((0,) if reduction == "none" else ())
    if d_logits is not agree.NO_GRADIENT:
        assert d_logits.shape == (0, 0)
