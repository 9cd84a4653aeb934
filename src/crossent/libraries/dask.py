"""Dask: graphs of arrays that have no values yet."""

from __future__ import annotations

import math
from typing import Any

import array_api_compat.dask.array

from crossent.libraries.base import AsGraph
from crossent.types import Array


class Dask(AsGraph):
    """Dask's arrays."""

    state = "lazy"
    immutable = True

    def device_name(self, x: Array) -> str | None:
        """There is one."""
        return None

    def take_classes(self, x: Array, ids: Array) -> Array:
        """As sums over one class each: Dask has no index along an axis."""
        numbers = self.xp.arange(x.shape[-1], dtype=ids.dtype)
        zero = self.xp.zeros_like(x)
        hits = (numbers == ids[..., k : k + 1] for k in range(ids.shape[-1]))
        return self.xp.stack([self.xp.sum(self.xp.where(hit, x, zero), axis=-1) for hit in hits], axis=-1)

    def flat(self, x: Array) -> Array:
        """Dask reshapes no array that is empty and has more than one chunk."""
        return super().flat(x) if math.prod(x.shape) else self.xp.zeros((0,), dtype=x.dtype)

    def take_target(self, x: Array, t: Array) -> Array:
        """Dask does not index by two arrays."""
        return self.sum_of_target(x, t)


LIBRARY: Any = Dask(array_api_compat.dask.array)
