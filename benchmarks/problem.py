"""The data of a benchmark: random logits and targets of one size, and the exact answer, computed without `xent`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CHECKED_ROWS = 4
"""How many gradient rows are compared with the exact ones."""


@dataclass(frozen=True)
class Problem:
    """N rows of V float32 logits."""

    n: int
    v: int

    @classmethod
    def parse(cls, text: str) -> Problem:
        """From a size like ``2048x50257``."""
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a size; accepted: rows x vocabulary, like 2048x50257")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.n}x{self.v}"

    @property
    def nbytes(self) -> int:
        """The bytes of the logits."""
        return 4 * self.n * self.v

    @cached_property
    def logits(self) -> np.ndarray:
        """Three times standard normal: neither flat nor settled. Nobody may write to it."""
        x = np.empty((self.n, self.v), dtype=np.float32)
        np.random.default_rng(1).standard_normal(out=x, dtype=np.float32)
        x *= 3
        x.flags.writeable = False
        return x

    @cached_property
    def targets(self) -> np.ndarray:
        """Uniform over the vocabulary."""
        t = np.random.default_rng(2).integers(0, self.v, self.n)
        t.flags.writeable = False
        return t

    @cached_property
    def exact(self) -> tuple[float, np.ndarray]:
        """The mean loss, and the first rows of its gradient, in float64, a few rows at a time."""
        total = 0.0
        head = np.empty((min(CHECKED_ROWS, self.n), self.v))
        for start in range(0, self.n, CHECKED_ROWS):
            rows = slice(start, start + CHECKED_ROWS)
            x = self.logits[rows].astype(np.float64)
            x -= x[np.arange(len(x)), self.targets[rows]][:, None]
            e = np.exp(x)
            z = e.sum(axis=1)
            total += float(np.log(z).sum())
            if start == 0:
                head[...] = e / z[:, None]
                head[np.arange(len(head)), self.targets[rows]] -= 1
                head /= self.n
        return total / self.n, head

    def check(self, loss: float, gradient_head: np.ndarray | None) -> None:
        """A wrong answer has no speed: raise for one."""
        exact_loss, exact_head = self.exact
        if not abs(loss - exact_loss) <= 1e-4 * exact_loss:
            raise AssertionError(f"mean loss {loss}, exact {exact_loss}")
        if gradient_head is not None:
            error = np.max(np.abs(gradient_head - exact_head))
            if not error <= 1e-4 / self.n:
                raise AssertionError(f"gradient off by {error}, of entries up to {1 / self.n}")
