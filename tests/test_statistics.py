"""Row statistics are a monoid: merging is associative and commutative, and pieces say what the whole says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from array_api_compat import numpy as xp

from crossent import objective, statistics
from crossent.engines import array_api
from crossent.objective import Coefficients
from crossent.statistics import RowStatistics


def _pieces(x, t, edges, masses=False):
    """The statistics of the columns between the edges of rows `x` with targets `t`."""
    found = []
    for a, b in itertools.pairwise(edges):
        part = x[:, a:b].copy()
        local = t - a
        held = (local >= 0) & (local < b - a)
        mass = None
        if masses:
            mass = objective.class_masses(xp, part, None, Coefficients(keep=0.9, spread=0.1))
        with np.errstate(all="ignore"):
            found.append(statistics.of_rows(xp, part, np.where(held, local, 0), held=held, masses=mass)[0])
    return found


def _numbers(s: RowStatistics) -> list:
    return [s.maximum, s.others, s.target, *(s.spread or [])]


def _close(a: RowStatistics, b: RowStatistics, rtol=1e-14):
    for first, second in zip(_numbers(a), _numbers(b), strict=True):
        np.testing.assert_allclose(first, second, rtol=rtol, atol=1e-15)


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    x, t = 20 * rng.standard_normal((6, 24)), rng.integers(0, 24, 6)
    x[1, :8] = -np.inf  # a piece of nothing
    x[2, 8:] = -np.inf  # all but one piece
    x[3, np.arange(24) != t[3]] = -np.inf  # all but the target
    x[4] = 1e4
    x[5] = -1e308 + 1e307 * rng.standard_normal(24)
    return x, t


@pytest.mark.parametrize("masses", [False, True], ids=["plain", "spread"])
def test_merging_pieces_gives_the_whole(rows, masses):
    x, t = rows
    (whole,) = _pieces(x, t, [0, 24], masses)
    for edges in ([0, 12, 24], [0, 8, 16, 24], [0, 1, 2, 23, 24], list(range(25))):
        pieces = _pieces(x, t, edges, masses)
        with np.errstate(all="ignore"):
            _close(statistics.merge(xp, pieces), whole)


@pytest.mark.parametrize("masses", [False, True], ids=["plain", "spread"])
def test_merge_is_commutative_and_associative(rows, masses):
    a, b, c = _pieces(*rows, [0, 8, 16, 24], masses)

    def merge(*pieces):
        with np.errstate(all="ignore"):
            return statistics.merge(xp, list(pieces))

    for first, second in itertools.permutations((a, b, c), 2):
        _close(merge(first, second), merge(second, first), rtol=0)
    _close(merge(merge(a, b), c), merge(a, merge(b, c)))
    for order in itertools.permutations((a, b, c)):
        _close(merge(*order), merge(a, b, c))


@pytest.mark.parametrize("masses", [False, True], ids=["plain", "spread"])
def test_an_empty_piece_adds_nothing(rows, masses):
    x, t = rows
    (whole,) = _pieces(x, t, [0, 24], masses)
    padded = np.concatenate([x, np.full((6, 5), -np.inf)], axis=1)
    _, nothing = _pieces(padded, t, [0, 24, 29], masses)
    with np.errstate(all="ignore"):
        for merged in (statistics.merge(xp, [whole, nothing]), statistics.merge(xp, [nothing, whole])):
            _close(merged, whole)
        twice = statistics.merge(xp, [nothing, nothing])
    assert (twice.maximum == -np.inf).all()
    assert (twice.others == 0).all()
    assert (twice.target == -np.inf).all()


def test_one_piece_is_itself(rows):
    (whole,) = _pieces(*rows, [0, 24])
    assert statistics.merge(xp, [whole]) is whole


def test_not_a_number_is_not_lost(rows):
    x, t = rows
    x[0, 20] = np.nan
    pieces = _pieces(x, t, [0, 8, 16, 24])
    with np.errstate(all="ignore"):
        merged = statistics.merge(xp, pieces)
    assert np.isnan(merged.maximum).tolist() == [True] + [False] * 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"label_smoothing": 0.3, "smoothing": "uniform", "class_weights": True},
        {"z_loss": 0.01, "ignore_index": 3},
        {"class_weights": True},
    ],
    ids=["plain", "others", "uniform-classes", "z-ignore", "classes"],
)
def test_rows_in_tiles_are_rows_in_one_piece(monkeypatch, dtype, options):
    import crossent

    rng = np.random.default_rng(5)
    x = (5 * rng.standard_normal((7, 103))).astype(dtype)
    t = rng.integers(0, 103, 7)
    x[0, t[0]] = 40
    x[1, :20] = -np.inf
    x[2, 50:60] = np.nan
    x[3, np.arange(103) != t[3]] = -np.inf
    if options.get("class_weights"):
        options = {**options, "class_weights": rng.random(103).astype(dtype)}
    whole = crossent.cross_entropy_and_grad(x, t, reduction="none", **options)
    eps = np.finfo(dtype).eps
    for tile in (1, 10, 64, 102):
        monkeypatch.setattr(array_api, "TILE", tile)
        for out in (None, x.copy()):
            given = x if out is None else out
            loss, d_logits = crossent.cross_entropy_and_grad(given, t, out, reduction="none", **options)
            np.testing.assert_allclose(loss, whole[0], rtol=40 * eps)
            np.testing.assert_allclose(d_logits, whole[1], rtol=80 * eps, atol=eps / 8)
        np.testing.assert_array_equal(crossent.cross_entropy(x, t, reduction="none", **options), loss)
