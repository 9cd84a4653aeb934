"""What the checks ask: `crossent` with one engine, on one library, with rows that any seed gives again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import crossent
from benchmarks.gpu_library import Library


@dataclass(frozen=True)
class Subject:
    """An engine on a library."""

    library: Library
    engine: str
    small: bool
    """Whether sizes are tiny, to see that the checks themselves work."""

    @classmethod
    def of(cls, library: Library, *, small: bool) -> Subject:
        """The fastest engine of the library's arrays."""
        return cls(library, library.engines()[0], small)

    def loss(self, x: Any, t: Any, **options: Any) -> Any:
        """The loss alone; without the check of the targets unless it is asked for."""
        return crossent.cross_entropy(x, t, **{"engine": self.engine, "check_targets": False} | options)

    def both(self, x: Any, t: Any, **options: Any) -> Any:
        """The loss and its gradient, likewise."""
        return crossent.cross_entropy_and_grad(x, t, **{"engine": self.engine, "check_targets": False} | options)

    def rows(self, n: int, v: int, dtype: str, seed: int = 0) -> tuple[Any, Any]:
        """Logits, three times standard normal, and targets."""
        random = np.random.default_rng([seed, n, v])
        logits = 3 * random.standard_normal((n, v), dtype=np.float32)
        return self.library.array(logits, dtype), self.library.array(random.integers(0, v, n), "int64")

    def same_bits(self, found: Any, expected: Any, what: str) -> None:
        """Assert that two arrays are the same to the bit."""
        found, expected = self.library.bits(found), self.library.bits(expected)
        different = int((found != expected).sum())
        assert not different, f"{what}: {different} of {expected.size} values differ"


def alike(found: Any, expected: Any, tolerance: float, what: str) -> None:
    """Assert that host arrays differ by no more than the tolerance, of the largest expected value."""
    found, expected = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    error = float(np.abs(found - expected).max()) / float(np.abs(expected).max())
    assert error <= tolerance, f"{what}: off by {error:.1e} of the largest value; {tolerance:.0e} is allowed"
