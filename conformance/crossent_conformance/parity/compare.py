"""How far two answers to one question are apart, and whether the contract lets them be.

Two results that each keep clause V1 differ by at most the sum of what is allowed to each: `units.Exact.allowed`, and
half a unit in the last place of a dtype that is stored in half precision. A difference is told twice: as a fraction of
that sum, where 1 is the limit, and in eps of the dtype of the arithmetic (of the stored one where that is half),
relative to the exact value or, where terms cancel, to their size. NaN, infinities, shapes, dtypes and errors are the
same or infinitely far apart.

    among(results)                          each backend against each
    against(results, baseline)              each backend now against each backend then
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crossent_conformance import units
from crossent_conformance.backends import HALF
from crossent_conformance.parity.answers import PARTS, Answer, Array, Asked, Results
from crossent_conformance.parity.cases import CASES, Problem
from crossent_conformance.units import Exact

INFINITE = math.inf
Sized = tuple[Exact, np.ndarray]
"""Exact values, and the size of the terms of each."""


@dataclass(frozen=True)
class Difference:
    """Of two answers to a case, or of a part of them."""

    case: str
    dtype: str
    what: str
    """"loss", "d_logits", or "answer"."""
    between: tuple[str, str]
    eps: float
    fraction: float
    text: str
    """What the two have, where the fraction is largest."""

    @property
    def fails(self) -> bool:
        """Whether it is more than the contract allows."""
        return self.fraction > 1

    def __str__(self) -> str:
        """In one line."""
        first, second = self.between
        if math.isinf(self.fraction):
            return f"{self.case} {self.dtype} {self.what}: {first} and {second} are not the same: {self.text}"
        return (
            f"{self.case} {self.dtype} {self.what}: {first} and {second} differ by {self.eps:.3g} eps, "
            f"{self.fraction:.3g} times what is allowed: {self.text}"
        )


def problem_of(asked: Asked, seed: int) -> Problem | None:
    """What was asked; None where this version of the suite would ask something else under that name."""
    case = CASES.get(asked.case)
    problem = None if case is None else case.problem(asked.dtype, seed)
    return problem if problem is not None and problem.fingerprint == asked.fingerprint else None


def among(results: Results) -> list[Difference]:
    """The differences between the backends of one run."""
    return [
        difference
        for asked in results.asked
        for difference in _compared(asked, results.seed, itertools.combinations(asked.answers.items(), 2))
    ]


def against(results: Results, baseline: Results) -> list[Difference]:
    """The differences of each backend now to each backend then, where the same was asked."""
    then = {(asked.case, asked.dtype): asked for asked in baseline.asked}
    found = []
    for asked in results.asked:
        before = then.get((asked.case, asked.dtype))
        if before is not None and before.fingerprint == asked.fingerprint:
            old = [(f"{name} of the baseline", answer) for name, answer in before.answers.items()]
            found += _compared(asked, results.seed, itertools.product(asked.answers.items(), old))
    return found


def _compared(
    asked: Asked, seed: int, pairs: Iterable[tuple[tuple[str, Answer], tuple[str, Answer]]]
) -> list[Difference]:
    problem = problem_of(asked, seed)
    if problem is None:
        return []
    exact = {what: (value, _size_of_terms(value.allowed)) for what, value in problem.exact.items()}
    return [difference for first, second in pairs for difference in _pair(asked, exact, first, second)]


def _pair(
    asked: Asked, exact: dict[str, Sized], first: tuple[str, Answer], second: tuple[str, Answer]
) -> list[Difference]:
    (name, one), (other_name, other) = first, second
    between = name, other_name
    if one.lacks or other.lacks:
        return []
    if one.error or other.error:
        same = one.error is not None and other.error is not None and one.error[0] == other.error[0]
        text = f"{name}: {_outcome(one)}; {other_name}: {_outcome(other)}"
        return [] if same else [Difference(asked.case, asked.dtype, "answer", between, INFINITE, INFINITE, text)]
    found = []
    for what in PARTS:
        if what in one.values and what in other.values:
            eps, fraction, text = _far(one.values[what], other.values[what], *exact[what], asked.dtype, what)
            found.append(Difference(asked.case, asked.dtype, what, between, eps, fraction, text))
    return found


def _outcome(answer: Answer) -> str:
    return f"{answer.error[0]}: {answer.error[1]}" if answer.error else "values"


def _far(one: Array, other: Array, exact: Exact, size: np.ndarray, dtype: str, what: str) -> tuple[float, float, str]:
    if one.values.shape != other.values.shape:
        return INFINITE, INFINITE, f"shapes {one.values.shape} and {other.values.shape}"
    if one.dtype != other.dtype:
        return INFINITE, INFINITE, f"dtypes {one.dtype} and {other.dtype}"
    if one.values.shape != exact.shape:
        return INFINITE, INFINITE, f"both have shape {one.values.shape}, the contract {exact.shape}"
    if one.values.size == 0:
        return 0.0, 0.0, "nothing to compare"
    compute = "float32" if dtype in HALF else dtype
    stored = dtype if what == "d_logits" else compute
    a, b = (np.asarray(part.values, dtype=np.float64) for part in (one, other))
    eps, fractions = _apart(a, b, exact, size, compute, stored)
    where = np.unravel_index(int(fractions.argmax()), fractions.shape)
    text = f"{float(a[where])!r} and {float(b[where])!r}, exactly {float(exact.high[where])!r}"
    if where:
        text += f", at ({', '.join(str(int(i)) for i in where)})"
    return float(eps.max()), float(fractions.max()), text


def _apart(
    a: np.ndarray, b: np.ndarray, exact: Exact, size: np.ndarray, compute: str, stored: str
) -> tuple[np.ndarray, np.ndarray]:
    """Each difference, in eps and as a fraction of what is allowed."""
    high, floor = np.abs(exact.high), units.FLOOR[compute]
    roundings = [
        units.half_ulp(np.maximum(np.abs(got), high), stored) if stored != compute else np.zeros(a.shape)
        for got in (a, b)
    ]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        apart = np.abs(a - b)
        allowed = 2 * exact.allowed * units.EPS[compute] + roundings[0] + roundings[1]
        unit = np.maximum(units.EPS[stored] * np.maximum(high, size), units.SMALLEST[stored])
        eps, fraction = apart / unit, apart / allowed
    tiny = (high < floor) & (exact.allowed > 0)
    for got, rounding in zip((a, b), roundings, strict=True):
        tiny &= np.abs(got) <= floor + rounding
    same = (a == b) | (np.isnan(a) & np.isnan(b)) | tiny
    other = ~same & ~(np.isfinite(a) & np.isfinite(b))
    return np.where(same, 0.0, np.where(other, np.inf, eps)), np.where(same, 0.0, np.where(other, np.inf, fraction))


def _size_of_terms(allowed: np.ndarray) -> np.ndarray:
    """The size s whose allowance, (4 - ln s) s below 1 and 4 s above, is that (large vocabularies aside)."""
    size = allowed / 4
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(30):
            size = np.where(size > 0, allowed / (4 + np.maximum(0.0, -np.log(size))), 0.0)
    return size
