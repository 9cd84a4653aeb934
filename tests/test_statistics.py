"""Row statistics are a monoid: merging is associative and commutative, and pieces say what the whole says.

That the verbs of each engine make such pieces is `test_verbs.py`; here are the orders in which they merge, and the
pieces that hold nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crossent.libraries import NUMPY
from crossent.math import formula, statistics
from crossent.math.rows import Coefficients, Rows

V = 24
KINDS = pytest.mark.parametrize("kind", ["plain", "smoothed", "soft"])


@pytest.fixture(autouse=True)
def _infinities_are_nothing_to_warn_of():
    with np.errstate(all="ignore"):
        yield


def _rows(kind="plain"):
    rng = np.random.default_rng(3)
    x, t = 20 * rng.standard_normal((6, V)), rng.integers(0, V, 6)
    x[1, :8] = -np.inf  # a piece of nothing
    x[2, 8:] = -np.inf  # all but one piece
    x[3, np.arange(V) != t[3]] = -np.inf  # all but the target
    x[4] = 1e4
    x[5] = -1e308 + 1e307 * rng.standard_normal(V)
    q = rng.random((6, V)) if kind == "soft" else None
    if kind == "soft":
        q[x == -np.inf] = 0
    c = Coefficients(0.9, 0.1) if kind == "smoothed" else Coefficients()
    return Rows(x, None if kind == "soft" else t, q, None, None, c, 0, V, np.dtype(float))


def _pieces(rows, edges):
    """The statistics of the columns between the edges."""
    found = []
    for a, b in itertools.pairwise(edges):
        piece = rows.columns(a, b, rows.logits[:, a:b].copy())
        found.append(
            formula.statistics_of(NUMPY, piece._replace(soft=None if rows.soft is None else rows.soft[:, a:b]))
        )
    return found


def _merge(*pieces):
    return statistics.merge(NUMPY, list(pieces))


def _numbers(s):
    if s.apart is None:
        return [s.maximum, s.others, s.target, *(s.sums or [])]
    # Nothing asks how many classes soft targets have, nor which class is kept apart of rows that hold nothing.
    place = np.where(s.maximum == -np.inf, -1, s.apart.place)
    return [s.maximum, s.others, s.target, *s.sums[1:], place, s.apart.mass]


def _close(a, b, rtol=1e-14):
    for first, second in zip(_numbers(a), _numbers(b), strict=True):
        np.testing.assert_allclose(first, second, rtol=rtol, atol=1e-15)


@KINDS
@pytest.mark.parametrize("edges", [[0, 12, V], [0, 8, 16, V], [0, 1, 2, 23, V], list(range(V + 1))], ids=len)
def test_merging_pieces_gives_the_whole(kind, edges):
    rows = _rows(kind)
    _close(_merge(*_pieces(rows, edges)), *_pieces(rows, [0, V]))


@KINDS
def test_merge_is_commutative_and_associative(kind):
    rows = _rows(kind)
    if kind == "soft":
        # Of classes that are equally likely, the first piece's is kept apart.
        rows.logits[4] += np.arange(V)
    a, b, c = _pieces(rows, [0, 8, 16, V])
    for first, second in itertools.permutations((a, b, c), 2):
        _close(_merge(first, second), _merge(second, first), rtol=0)
    _close(_merge(_merge(a, b), c), _merge(a, _merge(b, c)))
    for order in itertools.permutations((a, b, c)):
        _close(_merge(*order), _merge(a, b, c))


@pytest.mark.parametrize("kind", ["plain", "smoothed"])
def test_an_empty_piece_adds_nothing(kind):
    rows = _rows(kind)
    (whole,) = _pieces(rows, [0, V])
    padded = np.concatenate([rows.logits, np.full((6, 5), -np.inf)], axis=1)
    _, nothing = _pieces(rows._replace(logits=padded, vocabulary=V + 5), [0, V, V + 5])
    _close(_merge(whole, nothing), whole)
    _close(_merge(nothing, whole), whole)
    twice = _merge(nothing, nothing)
    assert (twice.maximum == -np.inf).all()
    assert (twice.others == 0).all()
    assert (twice.target == -np.inf).all()


def test_one_piece_is_itself():
    (whole,) = _pieces(_rows(), [0, V])
    assert _merge(whole) is whole


def test_not_a_number_is_not_lost():
    rows = _rows()
    rows.logits[0, 20] = np.nan
    assert np.isnan(_merge(*_pieces(rows, [0, 8, 16, V])).maximum).tolist() == [True] + [False] * 5
