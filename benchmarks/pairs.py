"""What pairs of times say: two revisions measured in turn, so that a noisy machine disturbs both alike.

A change counts where the median of the ratios, pair by pair, is past a threshold, and so many pairs agree on its
direction as chance alone rarely brings about: 6 of 7, 10 of 13. A disturbed process or two move neither. Fewer than
four pairs show nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

THRESHOLD = 1.1
CHANCE = 0.07
"""How often so many pairs may agree where nothing has changed."""
SLOWER, FASTER, SAME, UNCLEAR = "SLOWER", "faster", "no change seen", "unclear"


@dataclass(frozen=True)
class Comparison:
    """Ratios of the new revision's time to the base's, one for each pair."""

    ratios: tuple[float, ...]
    microseconds: tuple[float, float] = (0.0, 0.0)
    """The medians of the base's times and of the new revision's."""

    @classmethod
    def of(cls, base: Sequence[float], new: Sequence[float]) -> Comparison:
        """From the times of each pair."""
        ratios = tuple(after / before for before, after in zip(base, new, strict=True))
        return cls(ratios, (1e6 * statistics.median(base), 1e6 * statistics.median(new)))

    @property
    def median(self) -> float:
        """The ratio that counts."""
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest ratio without the outermost seventh at either end."""
        ordered = sorted(self.ratios)
        out = len(ordered) // 7
        return ordered[out], ordered[-1 - out]

    @property
    def slower(self) -> int:
        """How many pairs say that the new revision is slower."""
        return sum(ratio > 1 for ratio in self.ratios)

    def verdict(self, threshold: float = THRESHOLD) -> str:
        """One of the four words; "unclear" is a median past the threshold that too few pairs share."""
        if 1 / threshold <= self.median <= threshold:
            return SAME
        n, up = len(self.ratios), self.median > 1
        if by_chance(self.slower if up else n - self.slower, n) > CHANCE:
            return UNCLEAR
        return SLOWER if up else FASTER


def by_chance(agreeing: int, pairs: int) -> float:
    """How likely at least so many of the pairs point in a given direction where either is as likely."""
    return sum(math.comb(pairs, k) for k in range(agreeing, pairs + 1)) / 2**pairs


def order(pairs: int) -> list[str]:
    """Who goes when: base new, new base, base new, …, so that a machine that warms up or tires favours neither."""
    return [name for i in range(pairs) for name in (("base", "new") if i % 2 == 0 else ("new", "base"))]
