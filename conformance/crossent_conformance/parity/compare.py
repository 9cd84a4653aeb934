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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent_conformance import units
from crossent_conformance.backends import HALF
from crossent_conformance.parity.answers import PARTS, Answer, Array, Asked, Results
from crossent_conformance.parity.cases import CASES, Problem
from crossent_conformance.units import Exact

Sized = tuple[Exact, np.ndarray]
"""Exact values, and the size of the terms of each."""
Far = tuple[float, float, str, tuple[int, ...] | None]
"""In eps, as a fraction of what is allowed, what the two have where that is largest, and where, if anywhere."""


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
    at: tuple[int, ...] | None
    """The entry that the text is of; None for an answer as a whole."""
    code: str = ""
    """The engine, where the same machine code answered on both sides."""

    @property
    def fails(self) -> bool:
        """Whether it is more than the contract allows."""
        return self.fraction > 1

    def __str__(self) -> str:
        """In one line."""
        how = f"differ by {self.eps:.3g} eps, {self.fraction:.3g} times what is allowed"
        how = "are not the same" if math.isinf(self.fraction) else how
        return f"{self.case} {self.dtype} {self.what}: {' and '.join(self.between)} {how}: {self.text}"


def problem_of(asked: Asked, seed: int) -> Problem | None:
    """What was asked; None where this version of the suite would ask something else under that name."""
    problem = CASES[asked.case].problem(asked.dtype, seed) if asked.case in CASES else None
    return problem if problem is not None and problem.fingerprint == asked.inputs else None


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
        if before is not None and before.inputs == asked.inputs:
            old = [(f"{name} of the baseline", answer) for name, answer in before.answers.items()]
            found += _compared(asked, results.seed, itertools.product(asked.answers.items(), old))
    return found


def _compared(
    asked: Asked, seed: int, pairs: Iterable[tuple[tuple[str, Answer], tuple[str, Answer]]]
) -> list[Difference]:
    problem = problem_of(asked, seed)
    if problem is None:
        return []
    sized = {what: (exact, _size_of_terms(exact.allowed)) for what, exact in problem.exact.items()}
    return [
        Difference(asked.case, asked.dtype, what, (first[0], second[0]), *far, _code(asked, first[0], second[0]))
        for first, second in pairs
        for what, far in _parts(asked.dtype, sized, first, second)
    ]


def _code(asked: Asked, first: str, second: str) -> str:
    engine = asked.engines.get(first, "")
    return engine if engine == asked.engines.get(second) else ""


def _parts(
    dtype: str, sized: dict[str, Sized], first: tuple[str, Answer], second: tuple[str, Answer]
) -> Iterator[tuple[str, Far]]:
    """What of two answers can be compared, and how far it is apart."""
    one, other = first[1], second[1]
    if "lacks" in one or "lacks" in other:
        return
    if "raises" in one or "raises" in other:
        if one.get("raises", ("values",))[0] != other.get("raises", ("values",))[0]:
            said = (f"{name}: {': '.join(answer.get('raises', ('values',)))}" for name, answer in (first, second))
            yield "answer", (math.inf, math.inf, "; ".join(said), None)
        return
    for what in PARTS:
        if what in one and what in other:
            yield what, _far(one[what], other[what], *sized[what], dtype, what)


def largest(differences: Iterable[Difference]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """The largest eps and the largest fraction of each case and dtype, by part, and which two are that far apart."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for item in differences:
        parts = found.setdefault((item.case, item.dtype), {})
        before = parts.get(item.what, {"eps": -1.0, "fraction": -1.0})
        parts[item.what] = {
            "eps": max(item.eps, before["eps"]),
            "fraction": max(item.fraction, before["fraction"]),
            "between": list(item.between) if item.fraction > before["fraction"] else before["between"],
        }
    return found


def _far(one: Array, other: Array, exact: Exact, size: np.ndarray, dtype: str, what: str) -> Far:
    a, b = (np.asarray(part.values, dtype=np.float64) for part in (one, other))
    if a.shape != b.shape:
        return math.inf, math.inf, f"shapes {a.shape} and {b.shape}", None
    if one.dtype != other.dtype:
        return math.inf, math.inf, f"dtypes {one.dtype} and {other.dtype}", None
    if a.shape != exact.shape:
        return math.inf, math.inf, f"both have shape {a.shape}, the contract {exact.shape}", None
    if a.size == 0:
        return 0.0, 0.0, "nothing to compare", None
    compute = "float32" if dtype in HALF else dtype
    eps, fractions = _apart(a, b, exact, size, compute, dtype if what == "d_logits" else compute)
    where = tuple(map(int, np.unravel_index(int(fractions.argmax()), fractions.shape)))
    text = f"{float(a[where])!r} and {float(b[where])!r}, exactly {float(exact.high[where])!r}"
    if where:
        text += f", at ({', '.join(map(str, where))})"
    return float(eps.max()), float(fractions.max()), text, where


def _apart(a: np.ndarray, b: np.ndarray, exact: Exact, size: np.ndarray, compute: str, stored: str) -> np.ndarray:
    """Each difference, in eps and as a fraction of what is allowed."""
    high, floor = np.abs(exact.high), units.FLOOR[compute]
    roundings = [
        units.half_ulp(np.maximum(np.abs(got), high), stored) if stored != compute else np.zeros(a.shape)
        for got in (a, b)
    ]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        allowed = 2 * exact.allowed * units.EPS[compute] + roundings[0] + roundings[1]
        unit = np.maximum(units.EPS[stored] * np.maximum(high, size), units.SMALLEST[stored])
        apart = np.abs(a - b) / np.stack([unit, allowed])
    tiny = (high < floor) & (exact.allowed > 0)
    for got, rounding in zip((a, b), roundings, strict=True):
        tiny &= np.abs(got) <= floor + rounding
    same = (a == b) | (np.isnan(a) & np.isnan(b)) | tiny
    return np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), apart, np.inf))


def _size_of_terms(allowed: np.ndarray) -> np.ndarray:
    """The size s whose allowance, (4 - ln s) s below 1 and 4 s above, is that (large vocabularies aside)."""
    size = allowed / 4
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(30):
            size = np.where(size > 0, allowed / (4 + np.maximum(0.0, -np.log(size))), 0.0)
    return size
