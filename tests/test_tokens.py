"""What rows tell besides their loss: what is particular to this package, and what becomes of ranks and losses."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

import crossent
from crossent_conformance import backends

X = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, 0.25]])
T = np.array([2, 1])
EVERY = backends.usable()


@pytest.mark.parametrize("backend", EVERY, ids=lambda backend: backend.name)
def test_ranks_and_losses_become_shares_and_bits(backend):
    """On every library, and as lazy as its arrays are."""
    for ranks, k, share in (([0, 2, -1, 1], 1, 1 / 3), ([0, 2, -1, 1], 2, 2 / 3), ([-1, -1], 1, 0.0), ([], 1, 0.0)):
        found = crossent.token_accuracy(backend.asarray(np.array(ranks, dtype=float), "float32"), k)
        assert backend.owns(found)
        assert backend.dtype_name(found) == "float32"
        assert float(backend.to_numpy(found)) == pytest.approx(share)
    spoilt = backend.asarray(np.array([0.0, math.nan, -1.0]), "float32")
    assert np.isnan(backend.to_numpy(crossent.token_accuracy(spoilt)))
    in_bits = crossent.bits(backend.asarray(np.array([math.log(8.0), math.inf]), "float32"))
    assert backend.owns(in_bits)
    np.testing.assert_allclose(backend.to_numpy(in_bits), [3.0, math.inf], rtol=1e-6)


def test_bits_of_numbers():
    assert crossent.bits(math.log(8.0)) == pytest.approx(3.0)
    assert crossent.bits(math.inf) == math.inf


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: crossent.bits("1"), TypeError, "loss is '1'; accepted: a number or a floating array"),
        (lambda: crossent.bits(np.array([1])), TypeError, "loss has dtype int64; accepted: a number, or an array of "),
        (lambda: crossent.token_accuracy([0.0]), TypeError, "rank is list; accepted: a floating array; make an array"),
        (lambda: crossent.token_accuracy(np.array([1])), TypeError, "rank has dtype int64; accepted: float16, "),
        (lambda: crossent.token_accuracy(X[0], 0), ValueError, "k is 0; accepted: "),
        (lambda: crossent.token_accuracy(X[0], 1.5), TypeError, "k is 1.5 (float); accepted: "),
        (lambda: crossent.token_accuracy(X[0], True), TypeError, "k is True (bool); accepted: "),
        (
            lambda: crossent.token_log_probs(X, np.array([[0, 1], [2, 3]])),
            IndexError,
            "token_ids[1, 1] is 3; accepted: 0 to 2 (V = 3)",
        ),
        (
            lambda: crossent.token_log_probs(X, np.array([0, 3])),
            IndexError,
            "token_ids[1] is 3; accepted: 0 to 2 (V = 3)",
        ),
        (
            lambda: crossent.token_statistics(X, np.array([0, 3])),
            IndexError,
            "targets[1] is 3; accepted: 0 to 2 (V = 3)",
        ),
    ],
)
def test_texts_of_refusals(call, kind, text):
    with pytest.raises(kind, match=f"^{re.escape(text)}"):
        call()


def test_what_is_returned_where_no_reduction_is_named():
    assert crossent.entropy(X).shape == (2,)
    assert crossent.kl_divergence(X, X[::-1]).shape == ()
    assert crossent.token_statistics(X, T).most_likely.tolist() == [True, False]
