"""CuPy: arrays in the memory of CUDA devices, one of which is current."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import array_api_compat.cupy
import cupy

from crossent import views
from crossent.libraries.base import Library
from crossent.types import Array


class CuPy(Library):
    """CuPy's arrays."""

    in_place = True

    def device_name(self, x: Array) -> str | None:
        """As CuPy prints a device."""
        return str(x.device)

    def memory_of(self, device: Any) -> tuple[str, int]:
        """That of a CUDA device."""
        return "cuda", device.id

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """CuPy computes on its current device, wherever arrays lie: theirs is made the current one.

        A device keeps what was current before, and threads that share a call may not share that.
        """
        device: AbstractContextManager[Any] = cupy.cuda.Device(x.device.id)
        return device

    def is_captured(self, x: Array) -> bool:
        """One stream of each device; only that of the array's own may be captured."""
        return bool(cupy.cuda.get_current_stream(x.device.id).is_capturing())

    def stream(self, x: Array) -> tuple[int, int]:
        """The current stream of the device of `x`."""
        number: int = x.device.id
        return number, cupy.cuda.get_current_stream(number).ptr

    def wait(self, x: Array) -> None:
        """For what is queued on the current stream."""
        cupy.cuda.get_current_stream(x.device.id).synchronize()

    def memory(self, x: Array) -> views.Memory | None:
        """As CuPy tells."""
        return views.Memory(x.data.ptr, x.strides, x.shape, x.itemsize)

    def strides(self, x: Array) -> tuple[int, ...] | None:
        """In bytes."""
        strides: tuple[int, ...] = x.strides
        return strides


LIBRARY = CuPy(array_api_compat.cupy)
