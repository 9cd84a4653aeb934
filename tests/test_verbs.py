"""Every engine's three verbs: the merged statistics of pieces, and their gradients, are what the walk gives at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tests import emulator

from crossent.engines import select
from crossent.libraries.numpy import NUMPY
from crossent.math import formula, statistics
from crossent.math.rows import Coefficients, Rows

OPTIONS = {
    "plain": {},
    "weights": {"weight": True},
    "smoothed": {"target_mass": 0.9, "smoothing": 0.1},
    "uniform-z": {"target_mass": 0.9, "smoothing": 0.1, "includes_target": 1, "z_loss": 0.01},
    "classes": {"target_mass": 0.9, "smoothing": 0.1, "class_weights": True},
    "ieee": {"target_mass": 0.9, "smoothing": 0.1, "includes_target": 1, "ieee": True, "class_weights": True},
    "scaled": {"inverse_temperature": 0.625, "weight": True},
    "capped": {"softcap": 6.0, "inverse_temperature": 1.5},
    "capped-smoothed": {"softcap": 6.0, "target_mass": 0.9, "smoothing": 0.1, "z_loss": 0.01},
    "capped-soft": {"softcap": 6.0, "soft": True, "class_weights": True},
    "soft": {"soft": True},
    "soft-classes": {"soft": True, "class_weights": True, "z_loss": 0.01},
    "soft-smoothed": {"soft": True, "target_mass": 0.9, "smoothing": 0.1},
}
# A row in one piece, in even ones, with a first class alone, in single classes at the end.
CUTS = {"whole": [], "halves": [100], "uneven": [1, 90, 198, 199], "many": list(range(16, 200, 16))}


@pytest.fixture(params=["array_api", "numba", pytest.param("cuda", marks=emulator.needed)])
def engine(request, monkeypatch):
    """An engine and the library of the arrays that it walks; CUDA's on the emulator."""
    if request.param == "numba":
        assert select.numba_problem() is None
    if request.param == "cuda":
        emulator.install(monkeypatch)
        return select.engine("cuda"), emulator.NUMPY
    return select.engine(request.param), NUMPY


def _rows(dtype, *, soft=False, weight=False, class_weights=False, ieee=False, **coefficients):
    rng = np.random.default_rng(11)
    n, v = 9, 200
    x = (4 * rng.standard_normal((n, v))).astype(dtype)
    if not ieee:
        x[0, :] = -np.inf
        x[0, 7] = 1
        x[1, 90:] = -np.inf
    t = rng.integers(0, v, n)
    t[0], t[1], t[2] = 7, 3, np.argmax(x[2])
    x[3, t[3]] = 60
    q = None
    if soft:
        q = rng.random((n, v)).astype(dtype)
        q[x == -np.inf] = 0
        q /= q.sum(1, keepdims=True)
    real = np.dtype("float64" if dtype == "float64" else "float32")
    w = np.linspace(0, 2, n).astype(real) if weight else None
    u = np.linspace(0.5, 2, v).astype(real) if class_weights else None
    return Rows(x, None if soft else t, q, w, u, Coefficients(**coefficients, ieee=ieee), 0, v, real)


def _pieces(rows, cuts):
    edges = [0, *cuts, rows.vocabulary]
    for a, b in pairwise(edges):
        piece = rows.columns(a, b, np.ascontiguousarray(rows.logits[:, a:b]))
        yield slice(a, b), piece._replace(soft=None if rows.soft is None else np.ascontiguousarray(rows.soft[:, a:b]))


@pytest.mark.parametrize("dtype", ["float32", "float64", pytest.param("float16", marks=pytest.mark.extended)])
# The masses of smoothed soft targets need sums over the whole row.
@pytest.mark.parametrize(
    ("options", "cuts"), [(o, c) for o in OPTIONS for c in CUTS if o != "soft-smoothed" or c == "whole"]
)
def test_the_halves_are_the_walk(engine, dtype, options, cuts):
    walker, library = engine
    rows = _rows(dtype, **OPTIONS[options])
    n = rows.logits.shape[0]
    losses, d, scale = np.empty(n, rows.dtype), np.empty_like(rows.logits), np.linspace(0.5, 2, n)
    with np.errstate(all="ignore"):
        walker.walk(library, rows, losses, scale, d)
        pieces = list(_pieces(rows, CUTS[cuts]))
        found = statistics.merge(library, [walker.statistics(library, piece) for _, piece in pieces])
        outcome = formula.outcome_of(library, found, rows, scale)
        made = np.empty_like(d)
        for columns, piece in pieces:
            part = np.empty_like(piece.logits)
            walker.gradient(library, piece, found, outcome, part)
            made[:, columns] = part
    eps = np.finfo(rows.dtype).eps
    np.testing.assert_allclose(outcome.loss, losses, rtol=16 * eps, atol=0)
    tiny = np.finfo(dtype).eps
    np.testing.assert_allclose(made.astype(float), d.astype(float), rtol=64 * tiny, atol=4 * tiny * np.abs(scale).max())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_target_elsewhere_is_not_held_and_one_outside_is_nan(engine, dtype):
    walker, library = engine
    rows = _rows(dtype)
    targets = rows.targets.copy()
    targets[:4] = [-1, 200, 0, 199]
    piece = rows._replace(targets=targets, logits=rows.logits[:, 50:60].copy(), first_class=50)
    with np.errstate(all="ignore"):
        target = walker.statistics(library, piece).target
    assert np.isnan(target[:2]).all()
    assert (target[2:4] == -np.inf).all()
    held = (targets >= 50) & (targets < 60)
    np.testing.assert_array_equal(target[held], rows.logits[held, targets[held]])
    assert (target[4:][~held[4:]] == -np.inf).all()
