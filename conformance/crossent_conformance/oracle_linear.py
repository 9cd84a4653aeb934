"""Reference values of the linear loss (clause L1), from products that are summed up exactly.

    exact = cross_entropy(hidden, targets, weight=w, bias=b, **options)
    exact.loss, exact.d_hidden, exact.d_weight, exact.d_bias

takes what `oracle` takes, hidden states in the place of logits. Numbers of a matrix are whole multiples of one power of
two, so Python's integers multiply and add them without any rounding. Logits are rounded once to float64, half a unit of
the (D + 4) that each is allowed; products with the gradient have its 60 digits as two floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from mpmath import mp, mpf

from crossent_conformance import oracle
from crossent_conformance.units import Exact


@dataclass(frozen=True)
class Linear:
    """The loss and its gradients, under the names by which reports call them."""

    loss: Exact
    d_hidden: Exact
    d_weight: Exact
    d_bias: Exact


def _as_integers(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The values as integers, times a power of two."""
    ratios = [value.as_integer_ratio() for value in values.reshape(-1).tolist()]
    exponent = max((denominator.bit_length() - 1 for _, denominator in ratios), default=0)
    whole = [numerator << (exponent + 1 - denominator.bit_length()) for numerator, denominator in ratios]
    return np.array(whole, dtype=object).reshape(values.shape), exponent


def _product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a·b as the sum of two float64 arrays; infinities and NaN as floating-point arithmetic has them."""
    with np.errstate(all="ignore"):
        plain = a @ b
    (whole, e), (other, f) = (_as_integers(np.where(np.isfinite(x), x, 0.0)) for x in (a, b))
    exact = [mp.ldexp(mpf(int(number)), -e - f) for number in np.reshape(whole @ other, -1)]
    high = np.array([float(number) for number in exact]).reshape(plain.shape)
    low = np.array([float(number - float(number)) for number in exact]).reshape(plain.shape)
    # Sums of finite numbers that are past the dtype on the way alone are exact; of others, the signs of what is not.
    spoilt = ~np.isfinite(a).all(axis=1)[:, None] | ~np.isfinite(b).all(axis=0)[None, :]
    return np.where(spoilt, plain, high), np.where(spoilt, 0.0, low)


@lru_cache(maxsize=64)
def _logits(hidden: bytes, weight: bytes, bias: bytes, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits (N, V) and by how much each row's may be off, in eps."""
    h, w = (np.frombuffer(part).reshape(-1, width) for part in (hidden, weight))
    b = np.frombuffer(bias)
    # The bias is one more product.
    h_1, w_1 = np.concatenate([h, np.ones((len(h), 1))], axis=1), np.concatenate([w, b[:, None]], axis=1)
    logits, _ = _product(h_1, w_1.T)
    with np.errstate(all="ignore"):
        sizes = np.abs(h_1) @ np.abs(w_1).T
    sizes = np.where(np.isfinite(logits) & np.isfinite(sizes), sizes, 0.0)
    return logits, (width + 4) * sizes.max(axis=1, initial=0.0)


def _of_products(d: Exact, other: np.ndarray) -> Exact:
    """The sums of products of the gradient with what it is multiplied by."""
    high, low = _product(d.high, other)
    with np.errstate(all="ignore"):
        low = low + d.low @ other
        sizes = np.abs(d.high) @ np.abs(other)
        allowed = d.allowed @ np.abs(other) + (len(other) + 4) * sizes
    return Exact(high, low, np.where(np.isfinite(allowed), allowed, 0.0))


def cross_entropy(
    hidden: np.ndarray,
    targets: np.ndarray,
    *,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    classes: int | None = None,
    **options: Any,
) -> Linear:
    """The loss and its gradients with respect to hidden states, weight and bias."""
    hidden, weight = (np.ascontiguousarray(x, dtype=np.float64) for x in (hidden, weight))
    tokens, (rest, width) = hidden.shape[:-1], weight.shape
    b = np.zeros(rest) if bias is None else np.ascontiguousarray(bias, dtype=np.float64)
    V = rest if classes is None else classes
    w, b = weight[:V], b[:V]
    logits, off = _logits(hidden.tobytes(), w.tobytes(), b.tobytes(), width)
    loss, d = oracle.cross_entropy(
        logits.reshape(*tokens, V), targets, **options, off=off.reshape(tokens) if tokens else off[0]
    )
    d = d.moved(lambda part: part.reshape(-1, V))
    # What does not count has no part in anything, whatever it holds.
    counts = ((d.high != 0) | (d.allowed > 0)).any(axis=1)[:, None]
    h = np.where(counts, hidden.reshape(-1, width), 0.0)
    of_hidden = _of_products(d, w).moved(lambda part: np.where(counts, part, 0.0).reshape(hidden.shape))
    turned = d.moved(np.transpose)
    of_weight, of_bias = _of_products(turned, h), _of_products(turned, np.ones((math.prod(tokens), 1)))
    return Linear(loss, of_hidden, _with_rest(of_weight, rest), _with_rest(of_bias[:, 0], rest))


def _with_rest(exact: Exact, rows: int) -> Exact:
    """Zeros for the rows past the classes."""
    pad = [(0, rows - len(exact.high)), *[(0, 0)] * (exact.high.ndim - 1)]
    return exact.moved(lambda part: np.pad(part, pad))
