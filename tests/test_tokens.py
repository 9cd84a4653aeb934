"""What rows tell besides their loss: what is particular to this package, and what becomes of ranks and losses."""

from __future__ import annotations

import math
import re
from functools import partial

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
    some = [0, 2, -1, 1]
    for ranks, k, share in ((some, 1, 1 / 3), (some, 2, 2 / 3), (some, 10**400, 1), ([-1, -1], 1, 0), ([], 1, 0)):
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


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("function", [crossent.bits, crossent.perplexity])
def test_bits_and_perplexities_keep_their_dtype(function, dtype):
    dtype = getattr(pytest.importorskip("ml_dtypes") if dtype == "bfloat16" else np, dtype)
    for x in (np.zeros(2, dtype), dtype(0)):
        assert function(x).dtype == dtype
        assert type(function(x)) is type(x)


@pytest.mark.parametrize("kind", [int, float, np.int64, np.uint8, np.float32, np.float64, "bfloat16"])
@pytest.mark.parametrize("backend", EVERY, ids=lambda backend: backend.name)
def test_any_number_is_the_gradient_of_what_follows(backend, kind):
    number = (getattr(pytest.importorskip("ml_dtypes"), kind) if kind == "bfloat16" else kind)(2)
    x, other, head = (backend.asarray(a, "float32") for a in (X, X[::-1].copy(), np.eye(3)))
    t = backend.asarray(T, "int64")
    for call in (
        partial(crossent.cross_entropy_and_grad, x, t),
        partial(crossent.entropy_and_grad, x, reduction="mean"),
        partial(crossent.kl_divergence_and_grad, x, other),
        partial(crossent.token_log_probs_and_grad, x[0, ...], t[0, ...]),
        lambda grad_output=None: (0, crossent.linear_cross_entropy_and_grad(x, head, t, None, grad_output)[1][0]),
    ):
        np.testing.assert_array_equal(backend.to_numpy(call(grad_output=number)[1]), 2 * backend.to_numpy(call()[1]))


@pytest.mark.parametrize("name", ["numpy", "jax"])
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_ids_of_few_bits(name, dtype):
    ml_dtypes, make = (
        pytest.importorskip("ml_dtypes"),
        pytest.importorskip("jax.numpy" if name == "jax" else name).asarray,
    )
    ids = make(np.array([[0, 1]] * 2).astype(getattr(ml_dtypes, dtype)))
    expected = crossent.token_log_probs(X, np.array([[0, 1]] * 2))
    np.testing.assert_allclose(crossent.token_log_probs(make(X), ids), expected, rtol=1e-6)
    for ignored, left in ((0, [1]), (16, [0, 1]), (-9, [0, 1])):
        found = crossent.cross_entropy(make(X), ids[0], ignore_index=ignored)
        np.testing.assert_allclose(found, -expected[left, left].mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: crossent.bits("1"), TypeError, "loss is '1'; accepted: a number or a floating array"),
        (lambda: crossent.bits(np.array([1])), TypeError, "loss has dtype int64; accepted: a number, or an array of "),
        (lambda: crossent.token_accuracy([0.0]), TypeError, "rank is list; accepted: a floating array; make an array"),
        (lambda: crossent.token_accuracy(np.array([1])), TypeError, "rank has dtype int64; accepted: float16, "),
        (lambda: crossent.token_accuracy(X[0], 0), ValueError, "k is 0; accepted: a whole number of at least 1"),
        (lambda: crossent.token_accuracy(X[0], None), TypeError, "k is None; accepted: a whole number of at least 1"),
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
        *(
            (
                lambda t=t: crossent.token_statistics(X, t),
                TypeError if t.dtype == float else ValueError,
                f"targets has dtype {t.dtype} and shape {t.shape} for logits of shape (2, 3); "
                f"accepted: any integer dtype of shape (2,){more}$",
            )
            for t, more in ((np.zeros((2, 2), int), ""), (np.zeros((2, 3)), "; of one-hot rows their argmax"))
        ),
        (
            lambda: crossent.linear_token_statistics(X, X, np.zeros((2, 2))),
            TypeError,
            "targets has dtype float64 and shape (2, 2) for logits of shape (2, 2); "
            "accepted: any integer dtype of shape (2,); of one-hot rows their argmax$",
        ),
        (
            lambda: crossent.token_statistics(X, [0, 1]),
            TypeError,
            "targets is list; accepted: an integer array of shape (...); make an array",
        ),
        (
            lambda: crossent.entropy(X[0], reduction="sequence"),
            ValueError,
            "reduction is 'sequence' with tokens of shape (); accepted: tokens of shape (..., sequence)$",
        ),
    ],
)
def test_texts_of_refusals(call, kind, text):
    end = "$" if text.endswith("$") else ""
    with pytest.raises(kind, match=f"^{re.escape(text.removesuffix('$'))}{end}"):
        call()


def test_what_is_returned_where_no_reduction_is_named():
    assert crossent.entropy(X).shape == (2,)
    assert crossent.kl_divergence(X, X[::-1]).shape == ()
    assert crossent.token_statistics(X, T).most_likely.tolist() == [True, False]


@pytest.mark.parametrize("v", [4, 4 * 12])
def test_what_is_left_out_is_nothing_to_warn_of(v):
    """Where a library computes later, NumPy's own settings hold, and here warnings are errors."""
    array = pytest.importorskip("dask.array")
    x = np.resize([0.5, -np.inf, 2.0, -np.inf, 3.0], (5, v))
    x, ids, y = (
        array.from_array(x, chunks=4),
        array.from_array(np.array([[0, 1]] * 5)),
        array.from_array(x[::-1].copy()),
    )
    found = [*crossent.token_statistics(x, ids[:, 1]), crossent.token_log_probs(x, ids), *crossent.entropy_and_grad(x)]
    for direction in ("forward", "reverse", "jensen-shannon"):
        options = {"direction": direction, "reduction": "none"}
        found += [*crossent.kl_divergence_and_grad(x, x, **options), *crossent.kl_divergence_and_grad(x, y, **options)]
    for each in found:
        each.compute(scheduler="synchronous")
