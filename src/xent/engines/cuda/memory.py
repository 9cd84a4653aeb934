"""A CuPy array or torch tensor on a CUDA device as a kernel sees it: an address, steps, a device, a stream."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from xent.arrays import Array, Namespace, dtype_name, is_torch


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
        return {"float64": 8, "float32": 4}.get(self.format, 2)


def address(x: Array) -> int:
    """Where the first element of `x` lies."""
    return int(x.data_ptr() if is_torch(x) else x.data.ptr)


def format_of(x: Array) -> str:
    """The name of the dtype of `x`."""
    return dtype_name(x.dtype)


def matrix(x: Array) -> Matrix:
    """A two-dimensional array as a kernel sees it."""
    row, column = _steps(x)
    return Matrix(address(x), row, column, (x.shape[0], x.shape[1]), format_of(x))


def _steps(x: Array) -> tuple[int, ...]:
    return x.stride() if is_torch(x) else tuple(step // x.itemsize for step in x.strides)


def is_plain(x: Array) -> bool:
    """Whether the memory of `x` holds its elements as they are: no view that negates as it is read, none between
    elements."""
    if is_torch(x):
        return not x.is_neg()
    return bool(x.data.ptr % x.itemsize == 0 and all(step % x.itemsize == 0 for step in x.strides))


def side_by_side(xp: Namespace, x: Array) -> Array:
    """`x`, of one dimension or none, with its elements side by side; a copy where they are not."""
    if is_plain(x) and (x.ndim == 0 or x.shape[0] <= 1 or _steps(x) == (1,)):
        return x
    return xp.asarray(x, copy=True)


def place(x: Array) -> tuple[int, int]:
    """The number of the device of `x`, and the address of its library's current stream there."""
    if is_torch(x):
        torch: Any = sys.modules["torch"]
        index: int = x.device.index
        return index, torch._C._cuda_getCurrentRawStream(index)
    device = x.device
    current = sys.modules["cupy"].cuda.get_current_stream(device.id)
    return device.id, current.ptr
