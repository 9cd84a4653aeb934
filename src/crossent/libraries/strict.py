"""array-api-strict: what the standard guarantees and nothing else, on devices of which some have no float64."""

from __future__ import annotations

import functools
from typing import Any

import array_api_strict

from crossent.libraries.base import Library


class Strict(Library):
    """array-api-strict's arrays."""

    def widest(self, device: Any) -> tuple[Any, Any]:
        """What the device has."""
        return _widest(device, "real floating", "float64", "float32"), _widest(
            device, "signed integer", "int64", "int32"
        )


@functools.cache
def _widest(device: Any, kind: str, *names: str) -> Any:
    there = array_api_strict.__array_namespace_info__().dtypes(device=device, kind=kind)
    return next(dtype for name in names if (dtype := there.get(name)) is not None)


LIBRARY = Strict(array_api_strict)
