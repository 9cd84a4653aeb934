"""What an engine is: verbs over rows in eager memory. It knows of no option, reduction or shape above a matrix.

Every engine is a module with these functions. `statistics`, a merge and `gradient` give what `walk` gives in one pass;
pieces of a vocabulary that lie apart have no other way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from crossent.math.outcome import Outcome
from crossent.math.rows import Rows
from crossent.math.statistics import Described, RowStatistics
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library


class Engine(Protocol):
    """A way to walk rows of logits. `library` is that of the arrays, which the rows' device has."""

    def problem(self, device: int = 0) -> str | None:
        """Why the engine cannot be used on this machine, on the device of that number; None where it can."""

    def obstacle(self, dtype: str, classes: int, device: int) -> str | None:
        """Why the engine cannot walk logits of that dtype and vocabulary on a device of that number; None where it can.

        What `problem` says of the machine is part of it.
        """

    def walk(self, library: Library, rows: Rows, losses: Array, scale: Array | float | None, out: Array | None) -> None:
        """Write the losses (N,) of whole rows into `losses`, and with `out` (N, V) their gradient, times `scale`."""

    straight: Callable[..., Array | None]
    """Of engines in `select.STRAIGHT`: see `numba_cpu/one_step.py`."""

    def describe(self, library: Library, rows: Rows) -> Described:
        """What whole rows with hard targets tell, without smoothing; their losses have the bits of `walk`."""

    def statistics(self, library: Library, rows: Rows) -> RowStatistics:
        """The statistics of rows, or of a piece of each, in the compute dtype.

        Soft targets that are smoothed need sums over the whole row first, so theirs are of whole rows alone.
        """

    def gradient(self, library: Library, rows: Rows, found: RowStatistics, outcome: Outcome, out: Array) -> None:
        """Write the gradient of a piece of rows, from the statistics and the outcome of the whole rows, into `out`."""
