"""A matrix in a CUDA device's memory as a kernel sees it: an address, steps, a format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

ITEMSIZES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


class Matrix(NamedTuple):
    """A matrix in a device's memory; steps are in elements, from row to row and from column to column."""

    address: int
    row: int
    column: int
    shape: tuple[int, int]
    format: str

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return ITEMSIZES[self.format]


def matrix(library: Library, x: Array) -> Matrix | None:
    """A two-dimensional array as a kernel sees it.

    None where its memory does not hold its elements as they are, each at a multiple of its size: a view that negates as
    it is read, a field of records.
    """
    memory = library.memory(x)
    if memory is None:
        return None
    address, (row, column), shape, size = memory
    if address % size or row % size or column % size:
        return None
    rows, classes = shape
    return Matrix(address, row // size, column // size, (rows, classes), library.dtype_name(x))


def copy(library: Library, x: Array) -> Array:
    """The elements of `x` in memory of their own, on the same device."""
    return library.xp.asarray(x, copy=True)


def side_by_side(library: Library, x: Array) -> tuple[Array, int]:
    """`x`, of one dimension or none, with its elements side by side, and where: a copy where they are not."""
    memory = library.memory(x)
    if memory is not None:
        apart = memory.shape[:1] > (1,) and memory.strides[0] != memory.itemsize
    if memory is None or apart or memory.address % memory.itemsize:
        x = copy(library, x)
        memory = library.memory(x)
        assert memory is not None
    return x, memory.address
