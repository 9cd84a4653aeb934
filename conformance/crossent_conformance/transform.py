"""Clause V12 at 60 digits: what a logit becomes, how steeply, and by how much the two may be off.

    y = c tanh(x / (cT)), or x / T where there is no softcap        dy/dx = (1 - (y/c)**2) / T

Every y may be off by a few eps of its size; from the definitions follows that -log p_j may be off by the sum over the
other classes of p_i (|y_i| + |y_j|), and lse by the sum of p_i |y_i|. So may dy/dx, and by three eps for each 1 of the
angle x / (cT) besides: the angle is rounded, and the exponent that is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpmath import mp, mpf

OFF_OVER_T, OFF_BOUNDED = 1.0, 6.0
"""By how many eps of its size a y may be off, without a softcap and with one; and dy/dx, besides its angle's part."""


@dataclass(frozen=True)
class Transform:
    """A temperature and a softcap."""

    temperature: float = 1.0
    softcap: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether logits are what they were."""
        return self.softcap is None and self.temperature == 1.0

    @property
    def off(self) -> float:
        """By how many eps of its size a y may be off."""
        return 0.0 if self.is_plain else OFF_OVER_T if self.softcap is None else OFF_BOUNDED

    def of(self, x: float) -> Any:
        """y of a logit."""
        if self.is_plain:
            return x
        return mpf(x) / mpf(self.temperature) if self.softcap is None else mpf(self.softcap) * mp.tanh(self._angle(x))

    def slope(self, x: float) -> Any:
        """dy/dx."""
        angle = self._angle(x)
        return (mp.sech(angle) ** 2 if mp.isfinite(angle) else mpf(0)) / mpf(self.temperature)

    def slope_off(self, x: float) -> float:
        """By how many eps of its size dy/dx may be off; no number's size is 0."""
        angle = self._angle(x)
        return self.off + 3 * float(abs(angle)) if mp.isfinite(angle) else 0.0

    def _angle(self, x: float) -> Any:
        """What the hyperbolic tangent is taken of; 0 where none is."""
        return mpf(0) if self.softcap is None else mpf(x) / (mpf(self.softcap) * mpf(self.temperature))


PLAIN = Transform()


@dataclass(frozen=True)
class Moved:
    """What comes of a row whose transformed logits are off, in eps: of each -log p_j, and of lse."""

    surprises: list[float]
    lse: float


def moved(transform: Transform, values: list[Any], p: list[Any], counts: list[int]) -> Moved:
    """Of a row's groups of like classes, by their y, their probabilities and how many classes each has."""
    if transform.is_plain:
        return Moved([0.0] * len(p), 0.0)
    sizes = [float(abs(y)) if mp.isfinite(y) else 0.0 for y in values]
    mass = [float(probability) for probability in p]
    surprises = []
    for g, size in enumerate(sizes):
        # All classes but one of this group.
        others = [c - (h == g) for h, c in enumerate(counts)]
        apart = sum(c * part * (other + size) for c, part, other in zip(others, mass, sizes, strict=True))
        surprises.append(transform.off * apart)
    return Moved(surprises, transform.off * sum(c * q * size for c, q, size in zip(counts, mass, sizes, strict=True)))
