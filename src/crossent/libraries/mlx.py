"""MLX: arrays that are computed when they are read, on the default device, of which a GPU has no float64.

MLX knows neither the standard's `device` nor its `copy`, and no dtype of a sum.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import mlx.core as mx

from crossent.libraries.base import NO_CONTEXT, AsGraph, InRuns
from crossent.types import Array


class _Namespace(InRuns):
    """What the standard has, of MLX."""

    def astype(self, x: Array, dtype: Any, *, copy: bool = True) -> Array:
        return x.astype(dtype)

    def argmax(self, x: Array, *, axis: int | None = None) -> Array:
        return mx.argmax(x, axis=axis).astype(mx.int64)

    def exp(self, x: Array) -> Array:
        # MLX has no more digits of it in float64 than in float32, but of a power.
        return mx.power(mx.array(math.e, mx.float64), x) if x.dtype == mx.float64 else mx.exp(x)

    def arange(self, stop: int, *, dtype: Any, device: Any) -> Array:
        return mx.arange(stop, dtype=dtype)

    def empty(self, shape: tuple[int, ...], *, dtype: Any, device: Any) -> Array:
        return mx.zeros(shape, dtype=dtype)

    def full(self, shape: tuple[int, ...], value: float, *, dtype: Any, device: Any) -> Array:
        return mx.full(shape, value, dtype=dtype)

    def ones(self, shape: tuple[int, ...], *, dtype: Any, device: Any) -> Array:
        return mx.ones(shape, dtype=dtype)


class MLX(AsGraph):
    """MLX's arrays."""

    def readable(self, x: Array) -> bool:
        """Not while MLX compiles or vectorises what is done to it."""
        try:
            memoryview(x)
        except (RuntimeError, ValueError):  # one of them, by version
            return False
        return True

    def device(self, x: Array) -> Any:
        """The default one: an array lies where it is computed."""
        return mx.default_device()

    def device_name(self, x: Array) -> str | None:
        """Arrays are on none."""
        return None

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """MLX does not warn."""
        return NO_CONTEXT

    def widest(self, device: Any) -> tuple[Any, Any]:
        """float32 on a GPU."""
        return (mx.float64 if device.type == mx.cpu else mx.float32), mx.int64

    def stop_gradient(self, x: Array) -> Array:
        """MLX's own."""
        return mx.stop_gradient(x)


LIBRARY = MLX(_Namespace(mx))
