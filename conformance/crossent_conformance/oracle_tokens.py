"""Reference values of what rows tell besides their loss (clauses T1 to T4), at 60 digits and from the definitions.

    log_probs(logits, ids, **options)                                     of one class a token or of several
    entropy(logits, **options), log_sum_exp(logits, **options)
    kl_divergence(logits, teacher_logits, dtype=, direction=, mixture=, **options)

Each gives the values and the gradient of the logits, with the reductions of `oracle.cross_entropy`. What is allowed to
a divergence has a part of the second order in eps, and so depends on the compute dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from mpmath import mp, mpf

from crossent_conformance import oracle
from crossent_conformance.oracle import INFINITY, NAN, Row
from crossent_conformance.transform import Transform, moved
from crossent_conformance.units import EPS, Exact, allowance

Measured = tuple[Any, float, list[Any], list[float]]
"""A row's value and what is allowed to it, and the same of each group of classes in the gradient."""


@dataclass(frozen=True)
class _Side:
    """The distribution of a row's groups of like classes, and by how much its numbers may be off, in eps."""

    y: list[Any]
    p: list[Any]
    rest: list[Any]
    """1 − p."""
    surprise: list[Any]
    """−log p."""
    off: list[float]
    """Of each log p, by V1 and V12."""
    moved: list[float]
    """The part of V12."""
    transform: Transform

    @property
    def sizes(self) -> list[float]:
        return [float(abs(y)) if mp.isfinite(y) else 0.0 for y in self.y]


def _side(x: list[float], counts: list[int], transform: Transform) -> _Side:
    y = [transform.of(value) for value in x]
    weight, total, others = oracle.masses(y, counts)
    p, rest = [e / total for e in weight], [e / total for e in others]
    surprises = list(map(oracle.surprise, others, weight))
    moves = moved(transform, y, p, counts).surprises
    off = [_v1(sum(counts), s) + move for s, move in zip(surprises, moves, strict=True)]
    return _Side(y, p, rest, surprises, off, moves, transform)


def _v1(V: int, value: Any) -> float:
    """What V1 allows a term of that size."""
    size = float(abs(value))
    return allowance(V, size) * size if 0 < size < math.inf else 0.0


def _g(V: int, probability: Any) -> float:
    """V1's relative error of an entry of that probability."""
    return allowance(V, float(probability))


def _sum(counts: list[int], terms: Any) -> Any:
    return mp.fsum(c * term for c, term in zip(counts, terms, strict=True))


def _entropy(row: _Side, counts: list[int]) -> Measured:
    """Σ p·s, where s = −log p, and p·(s − H)."""
    V, p, s = sum(counts), row.p, [mpf(0) if s == INFINITY else s for s in row.surprise]
    H = _sum(counts, map(mp.fmul, p, s))
    gradient = [a * (b - H) for a, b in zip(p, s, strict=True)]
    moved_by = row.transform.off * float(_sum(counts, map(mp.fmul, map(abs, gradient), row.sizes)))
    off_of_H = _v1(V, H) + moved_by
    terms = zip(p, gradient, row.off, row.moved, strict=True)
    allowed = [(_g(V, a) + move) * float(abs(d)) + float(a) * (off + off_of_H) for a, d, off, move in terms]
    return H, off_of_H, gradient, allowed


def _log_sum_exp(row: _Side, counts: list[int]) -> Measured:
    """max + log Z, and p."""
    V, largest, log_z = sum(counts), max(row.y), min(row.surprise)
    moved_by = row.transform.off * float(_sum(counts, map(mp.fmul, row.p, row.sizes)))
    allowed = [_v1(V, p) + move * float(p) for p, move in zip(row.p, row.moved, strict=True)]
    return largest + log_z, allowance(V) * float(abs(largest) + log_z) + moved_by, list(row.p), allowed


def _divergence(
    student: _Side, teacher: _Side, counts: list[int], *, direction: str, mixture: float, eps: float
) -> Measured:
    """Clause T3's sums and what is allowed to them."""
    V, p, q = sum(counts), student.p, teacher.p
    off = [x + y for x, y in zip(student.off, teacher.off, strict=True)]
    # q − p of a nearly certain class, too.
    pairs = zip(p, q, student.rest, teacher.rest, strict=True)
    apart = [u - v if x > 0.5 and y > 0.5 else y - x for x, y, u, v in pairs]
    distance = [float(abs(d)) for d in apart]
    second = eps / 2 * float(_sum(counts, (max(x, y) * o * o for x, y, o in zip(p, q, off, strict=True))))

    def kl(a: list[Any], logs: list[Any], off_a: list[float], off_b: list[float], part: float) -> tuple[Any, float]:
        """Σ a·log(a/b), and by how much it may be off, where |a − b| is that part of |p − q|."""
        value = _sum(counts, (x * log if x else 0 for x, log in zip(a, logs, strict=True)))
        if value == INFINITY:
            return value, 0.0
        terms = zip(a, logs, distance, off_a, off_b, strict=True)
        first = _sum(counts, ((x * abs(log) * o if x else 0) + part * d * u for x, log, d, o, u in terms))
        return value, _v1(V, value) + float(first) + second

    def entries(numbers: list[Any], more: list[float], sizes: list[Any] = p) -> Measured:
        return (
            value,
            allowed,
            numbers,
            [_g(V, x) * float(abs(d)) + o for x, d, o in zip(sizes, numbers, more, strict=True)],
        )

    if direction != "jensen-shannon":
        either = zip(student.surprise, teacher.surprise, strict=True)
        log_ratio = [mpf(0) if u == v else u - v for u, v in either]
    if direction == "forward":
        value, allowed = kl(q, log_ratio, teacher.off, student.off, 1.0)
        more = [float(x * o + y * u) for x, y, o, u in zip(p, q, student.off, teacher.off, strict=True)]
        return entries([-d for d in apart], more, list(map(max, p, q)))
    if direction == "reverse":
        logs = [-log for log in log_ratio]
        value, allowed = kl(p, logs, student.off, teacher.off, 1.0)
        numbers = [x * (log - value) if x else mpf(0) for x, log in zip(p, logs, strict=True)]
        return entries(numbers, [float(x) * (o + allowed) for x, o in zip(p, off, strict=True)])
    b = mpf(mixture)
    share = [b * y / (b * y + (1 - b) * x) if x or y else mpf(0) for x, y in zip(p, q, strict=True)]
    off_m = [float(s * u + (1 - s) * o) for s, o, u in zip(share, student.off, teacher.off, strict=True)]
    logs_p = [-mp.log1p(b * d / x) if x else mpf(0) for x, d in zip(p, apart, strict=True)]
    logs_q = [-mp.log1p((b - 1) * d / y) if y else mpf(0) for y, d in zip(q, apart, strict=True)]
    (of_p, off_of_p), (of_q, _) = kl(p, logs_p, student.off, off_m, mixture), kl(q, logs_q, teacher.off, off_m, 1.0)
    value = b * of_q + (1 - b) * of_p
    terms = zip(p, q, logs_p, logs_q, student.off, teacher.off, distance, strict=True)
    first = _sum(counts, (b * y * abs(v) * u + (1 - b) * x * abs(k) * o + 4 * d for x, y, k, v, o, u, d in terms))
    allowed = _v1(V, value) + float(first) + float(b * (1 - b)) * second
    numbers = [(1 - b) * x * (log - of_p) for x, log in zip(p, logs_p, strict=True)]
    of_entries = zip(p, share, off, distance, strict=True)
    return entries(numbers, [float((1 - b) * x) * (float(s) * o + off_of_p) + 4 * d for x, s, o, d in of_entries])


@lru_cache(maxsize=50_000)
def _row(sides: tuple[bytes, ...], transform: Transform, measure: Callable[..., Measured]) -> Row:
    """The measure of a row, of one distribution or of two; the gradient is that of the first one's logits."""
    xs = [np.frombuffer(side) for side in sides]
    bounded = transform.softcap is not None
    if any(np.isnan(x).any() or (not bounded and (np.isposinf(x).any() or np.isneginf(x).all())) for x in xs):
        return Row(NAN, 0.0, [NAN], [0.0], np.zeros(xs[0].size, dtype=np.intp))
    groups, group_of_class, c = np.unique(np.stack(xs, axis=1), axis=0, return_inverse=True, return_counts=True)
    counts = c.tolist()
    value, allowed, gradient, own = measure(*(_side(x.tolist(), counts, transform) for x in groups.T), counts)
    for g, x_of_group in enumerate(groups[:, 0].tolist()):
        steep, off = transform.slope(x_of_group), transform.slope_off(x_of_group)
        if mp.isfinite(gradient[g]):
            own[g] = float(steep) * (own[g] + off * float(abs(gradient[g])))
        gradient[g] *= steep
    return Row(value, allowed, gradient, own, group_of_class.reshape(-1))


def _of_rows(
    measure: Callable[..., Measured],
    *sides: np.ndarray,
    weights: Any = None,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    **ending: Any,
) -> tuple[Exact, Exact]:
    shape = sides[0].shape
    spread = np.broadcast_to(np.asarray(1.0 if weights is None else weights, dtype=np.float64), shape[:-1]).reshape(-1)
    rows = [np.ascontiguousarray(side, dtype=np.float64).reshape(-1, shape[-1]) for side in sides]
    transform = Transform(temperature, logit_softcap)
    found = [
        _row(tuple(x.tobytes() for x in row), transform, measure) if w else None
        for w, *row in zip(spread.tolist(), *rows, strict=True)
    ]
    return oracle.assembled(shape, found, spread.tolist(), list(map(mpf, spread.tolist())), **ending)


entropy = partial(_of_rows, _entropy)
log_sum_exp = partial(_of_rows, _log_sum_exp)


@lru_cache(maxsize=64)
def _of_directions(direction: str, mixture: float, eps: float) -> Callable[..., Measured]:
    """One object for each, by which rows are remembered."""
    return partial(_divergence, direction=direction, mixture=mixture, eps=eps)


def kl_divergence(
    logits: np.ndarray,
    teacher_logits: np.ndarray,
    *,
    dtype: str,
    direction: str = "forward",
    mixture: float = 0.5,
    **options: Any,
) -> tuple[Exact, Exact]:
    """The divergence, and its gradient with respect to the student's logits."""
    return _of_rows(_of_directions(direction, mixture, EPS[dtype]), logits, teacher_logits, **options)


def log_probs(
    logits: np.ndarray, ids: np.ndarray, *, weights: Any = None, grad_output: Any = None, **options: Any
) -> tuple[Exact, Exact]:
    """The negatives of losses, and the gradient: the sum of those of the ids of a token."""
    several = ids.ndim == logits.ndim
    if several:
        logits = np.broadcast_to(logits[..., None, :], (*ids.shape, logits.shape[-1]))
        weights = None if weights is None else np.asarray(weights)[..., None]
    loss, d = oracle.cross_entropy(logits, ids, weights=weights, grad_output=grad_output, reduction="none", **options)
    if several:
        d = _summed(d)
    return Exact(-loss.high, -loss.low, loss.allowed), Exact(-d.high, -d.low, d.allowed)


def _summed(d: Exact) -> Exact:
    """The sum over the last axis but one, as two floats again."""
    parts = np.concatenate([d.high, d.low], axis=-2)
    if not np.isfinite(parts).all():
        return Exact(parts.sum(axis=-2), np.zeros(parts.sum(axis=-2).shape), d.allowed.sum(axis=-2))
    high = np.apply_along_axis(math.fsum, -2, parts)
    low = np.apply_along_axis(math.fsum, -2, np.concatenate([parts, -high[..., None, :]], axis=-2))
    return Exact(high, low, d.allowed.sum(axis=-2))


BY_NAME: dict[str, Callable[..., tuple[Exact, Exact]]] = {
    "token_log_probs": log_probs,
    "entropy": entropy,
    "kl_divergence": kl_divergence,
}
