"""Errors in the contract's units (clause V1), and no wider anywhere.

A term of size `magnitude` that stems from a sum of V exponentials may be off by (4 + v + g) eps of the compute dtype,
relative to itself: v = max(0, log2(V / 4096)), and g = |ln magnitude| where it is below 1. The oracle adds this up
over the terms of a result's definition; `Exact` carries the sum beside the value. What is stored in half precision
may be off by half a unit in the last place of the stored dtype besides. Results below 1e-30 (float64: 1e-300) need
only be as small.

    check(got, exact, dtype, stored=None)    asserts it, or raises a `Disagreement`, and notes the worst for the report
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from crossent_conformance import severity
from crossent_conformance.evidence import Compared, Disagreement, last_call

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
SMALLEST = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
LARGEST = {
    "float64": math.ldexp(2 - 2.0**-52, 1023),
    "float32": math.ldexp(2 - 2.0**-23, 127),
    "float16": 65504.0,
    "bfloat16": math.ldexp(2 - 2.0**-7, 127),
}
FLOOR = {"float64": 1e-300, "float32": 1e-30}

worst_seen: list[float] = []
"""The worst error of every `check` since the list was last cleared; conftest reads and clears it per test."""


@dataclass(frozen=True)
class Exact:
    """Reference values as the sum of two float64 arrays, and the error allowed to each, in eps of the compute dtype."""

    high: np.ndarray
    low: np.ndarray
    allowed: np.ndarray
    times: float = field(default=1.0, kw_only=True)
    """How much wider the allowance is than that of values in the dtype of the arithmetic."""

    def __getitem__(self, index) -> Exact:
        """A part of the values."""
        return self.moved(lambda part: part[index])

    def moved(self, by: Callable[[np.ndarray], np.ndarray]) -> Exact:
        """The values in another shape or order."""
        return Exact(by(self.high), by(self.low), by(self.allowed), times=self.times)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.high.shape


def allowance(V: int, magnitude: float = 1.0) -> float:
    """V1's (4 + v + g), for a term of that size."""
    return 4.0 + max(0.0, math.log2(V / 4096)) + (max(0.0, -math.log(magnitude)) if magnitude > 0 else 0.0)


def half_ulp(values: np.ndarray, dtype: str) -> np.ndarray:
    """Half the distance between neighbours of the dtype, at the values."""
    _, exponents = np.frexp(np.where(np.isfinite(values), values, 0.0))
    return np.maximum(np.ldexp(EPS[dtype], exponents - 1), SMALLEST[dtype]) / 2


def errors(got: np.ndarray, exact: Exact, dtype: str, stored: str | None = None) -> np.ndarray:
    """Each error as a fraction of what is allowed: 1 is the limit, inf a wrong or missing NaN or infinity."""
    stored = stored or dtype
    got = np.asarray(got, dtype=np.float64)
    if got.shape != exact.shape:
        raise AssertionError(f"the result has shape {got.shape}; accepted: {exact.shape}")
    expected = np.where(np.abs(exact.high) > LARGEST[stored], np.copysign(np.inf, exact.high), exact.high)
    expected = np.where(np.isnan(exact.high), np.nan, expected)
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.abs((got - exact.high) - exact.low)
        rounding = half_ulp(np.maximum(np.abs(got), np.abs(exact.high)), stored) if stored != dtype else 0.0
        allowed = exact.allowed * EPS[dtype] + rounding
        fraction = np.where(error == 0, 0.0, error / allowed)
    tiny = (np.abs(exact.high) < FLOOR[dtype]) & (np.abs(got) <= FLOOR[dtype] + rounding)
    fraction = np.where(tiny & (exact.allowed > 0), 0.0, fraction)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(finite & np.isfinite(got), fraction, np.where(same, 0.0, np.inf))


def check(got: np.ndarray, exact: Exact, dtype: str, stored: str | None = None, what: str = "loss") -> None:
    """Assert that every error is within what the contract allows; `what` is "loss" or "d_logits"."""
    fractions = errors(got, exact, dtype, stored)
    if fractions.size == 0:
        return
    worst = float(fractions.max())
    worst_seen.append(worst)
    if worst > 1:
        got = np.asarray(got, dtype=np.float64)
        with np.errstate(all="ignore"):
            error = np.abs((got - exact.high) - exact.low)
            relative = np.where(error == 0, 0.0, 4 * error / exact.allowed * exact.times)
        relative = severity.reach(relative, error, exact.high, what, last_call())
        relative = np.where(np.isposinf(fractions), np.inf, relative)
        index = severity.plainest(fractions, relative, last_call())
        raise Disagreement(
            f"{what}: {int((fractions > 1).sum())} of {fractions.size} values are off by more than allowed, the worst "
            f"by {worst:.3g} times the allowed error; at {index}: {float(got[index])!r}, "
            f"exactly {float(exact.high[index])!r}",
            what=what,
            index=index,
            error=float(fractions[index]),
            relative=float(relative[index]),
            whole=Compared(got, exact.high, fractions > 1),
        )
