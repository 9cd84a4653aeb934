"""A CuPy array or torch tensor on a CUDA device as a kernel sees it: an address, steps, a device, a stream."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from crossent.arrays import Array, Namespace, dtype_name, is_torch

_ITEMSIZES: Final = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


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
        return _ITEMSIZES[self.format]


def address(x: Array) -> int:
    """Where the first element of `x` lies."""
    return int(x.data_ptr() if is_torch(x) else x.data.ptr)


def format_of(x: Array) -> str:
    """The name of the dtype of `x`."""
    return _name(x.dtype)


# Looking it up anew takes as long as half a launch.
_name = functools.cache(dtype_name)


def matrix(x: Array) -> Matrix:
    """A two-dimensional array as a kernel sees it."""
    row, column = _steps(x)
    rows, classes = x.shape
    return Matrix(address(x), row, column, (rows, classes), format_of(x))


def _steps(x: Array) -> tuple[int, ...]:
    return x.stride() if is_torch(x) else tuple(step // x.itemsize for step in x.strides)


def is_plain(x: Array) -> bool:
    """Whether the memory of `x` holds its elements as they are, each at a multiple of its size: no view that negates as
    it is read, none of a field of records."""
    if is_torch(x):
        return not (x.is_neg() or x.data_ptr() % x.itemsize)
    return not (x.data.ptr % x.itemsize or any(step % x.itemsize for step in x.strides))


def is_one_number(x: Array) -> bool:
    """Whether `x`, of one dimension, is one number for all: the gradient of a sum, say."""
    return _steps(x) == (0,)


def copy(xp: Namespace, x: Array) -> Array:
    """The elements of `x` in memory of their own, on the same device."""
    return xp.asarray(x, copy=True)


def side_by_side(xp: Namespace, x: Array) -> Array:
    """`x`, of one dimension or none, with its elements side by side; a copy where they are not."""
    if (x.ndim == 0 or x.shape[0] <= 1 or _steps(x) == (1,)) and is_plain(x):
        return x
    return copy(xp, x)


def place(x: Array) -> tuple[int, int]:
    """The number of the device of `x`, and the address of its library's current stream there."""
    if is_torch(x):
        index: int = x.device.index
        return index, _stream_of_torch()(index)
    number: int = x.device.id
    return number, sys.modules["cupy"].cuda.get_current_stream(number).ptr


@functools.cache
def _stream_of_torch() -> Callable[[int], int]:
    """What says the address of torch's current stream on a device."""
    torch: Any = sys.modules["torch"]
    # What torch's compiler and Triton ask. The public function makes an object, which takes longer than a launch.
    raw: Callable[[int], int] | None = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    return raw or (lambda index: int(torch.cuda.current_stream(index).cuda_stream))
