"""MPI: communicators of mpi4py, through which the memory of NumPy and CuPy arrays goes as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpi4py import MPI

from crossent import libraries
from crossent.libraries.exchange import Exchange
from crossent.types import Array


class Communicator(Exchange):
    """The processes of a communicator."""

    libraries = ("numpy", "cupy")

    def __init__(self, group: Any) -> None:
        """Of mpi4py's."""
        self._of: MPI.Intracomm = group
        self.rank, self.ranks = group.rank, group.size

    def all(self, value: Any) -> list[Any]:
        """As MPI gathers objects."""
        return self._of.allgather(value)

    def numbers(self, number: int) -> list[int]:
        """As MPI gathers memory."""
        found = np.empty(self.ranks, np.int64)
        self._of.Allgather(np.array([number]), found)
        return found.tolist()

    def largest(self, x: Array) -> Array:
        """MPI's maximum."""
        return self._reduced(x, MPI.MAX)

    def total(self, x: Array) -> Array:
        """MPI's sum."""
        return self._reduced(x, MPI.SUM)

    def shared(self, x: Array) -> Array:
        """Nothing here is differentiated."""
        return x

    def _reduced(self, x: Array, operation: MPI.Op) -> Array:
        library = libraries.of(x)
        assert library is not None
        # Reduced where it lies, which so has to be plain memory, and what is queued for it done.
        found = library.xp.asarray(x, copy=True)
        library.wait(found)
        self._of.Allreduce(MPI.IN_PLACE, found, operation)
        return found


def of(group: Any) -> Exchange:
    """That of mpi4py's communicators."""
    if not isinstance(group, MPI.Intracomm):
        raise TypeError(f"group is a {type(group).__name__} of MPI; accepted: an intracommunicator")
    return Communicator(group)
