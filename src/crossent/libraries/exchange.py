"""Groups: processes or devices that have parts of a vocabulary, and what they do together. Each kind is in the room of
the library that brings it.
"""

from __future__ import annotations

from typing import Any

from crossent.types import Array

# The vocabulary of shards that nothing has counted: what none of them holds is no class of it.
UNKNOWN = 2**31 - 1


class Exchange:
    """Those of a group; every verb is called by all of them, in the same order."""

    libraries: tuple[str, ...] = ()
    """The names of the libraries whose arrays go through it."""
    is_traced = False
    """Whether one program is traced for all of the group, which so cannot disagree."""
    rank = 0
    ranks = 1

    def is_eager(self) -> bool:
        """Whether values can be looked at now."""
        return not self.is_traced

    def all(self, value: Any) -> list[Any]:
        """What each of them gives, in the order of their ranks."""
        raise NotImplementedError

    def numbers(self, number: int) -> list[int]:
        """The same of one number of 56 bits each, as fast as that goes."""
        raise NotImplementedError

    def columns(self, x: Array, size: Any, fill: float) -> Array:
        """The first `size` columns of an array; where that is not known yet, all, and the others full of `fill`."""
        return x[..., :size]

    def largest(self, x: Array) -> Array:
        """The largest of all, element by element; a constant to automatic differentiation."""
        raise NotImplementedError

    def total(self, x: Array) -> Array:
        """The sum of all, the same bits everywhere; its gradient is that of every summand."""
        raise NotImplementedError

    def shared(self, x: Array) -> Array:
        """`x`, which all have alike; its gradient is the sum of what all find."""
        raise NotImplementedError

    def of_ranges(self, start: Any, size: Any, check: bool) -> tuple[Exchange, Any]:
        """Where `is_traced`: the group of shards of those ranges, and the size of their vocabulary."""
        raise NotImplementedError
