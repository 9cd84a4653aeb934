"""Numbers that every machine and every version of every library makes alike, for inputs that have to be the same.

NumPy's generators and functions may change between versions. These numbers are made of SHAKE-128's bytes by whole
numbers and powers of two alone, and rounded to a dtype by `rounded`, not by the backend that is asked.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np


class Draw:
    """Numbers of a case."""

    def __init__(self, label: str) -> None:
        """The label decides them all."""
        self._label = label
        self._drawn = 0

    def words(self, count: int) -> np.ndarray:
        """Whole numbers of 64 bits."""
        self._drawn += 1
        source = hashlib.shake_128(f"{self._label}/{self._drawn}".encode())
        return np.frombuffer(source.digest(8 * count), dtype="<u8").astype(np.uint64)

    def logits(self, *shape: int, scale: float = 2.0) -> np.ndarray:
        """Bell-shaped numbers between -4 and 4, of standard deviation 1.15, times a power of two."""
        parts = self.words(4 * int(np.prod(shape))).reshape(4, *shape) >> np.uint64(13)
        return (parts.astype(np.int64).sum(axis=0) - 2**52).astype(np.float64) * (scale * 2.0**-50)

    def eighths(self, *shape: int) -> np.ndarray:
        """Few distinct numbers between -16 and 16, which every dtype holds."""
        return np.floor(self.logits(*shape, scale=32.0)) / 8

    def targets(self, *shape: int, V: int) -> np.ndarray:
        """Classes."""
        return (self.words(int(np.prod(shape))) % np.uint64(V)).astype(np.int64).reshape(shape)

    def weights(self, *shape: int) -> np.ndarray:
        """Numbers from 1/8 to 2."""
        return (self.words(int(np.prod(shape))) % np.uint64(16) + np.uint64(1)).astype(np.float64).reshape(shape) / 8

    def distributions(self, *shape: int) -> np.ndarray:
        """Probabilities that sum to one, in every dtype."""
        parts = (self.words(int(np.prod(shape))) % np.uint64(64 // shape[-1])).astype(np.float64).reshape(shape)
        parts[..., -1] = 64 - parts[..., :-1].sum(axis=-1)
        return parts / 64


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest values that the dtype holds, ties to even, as float64; every NaN is the same NaN."""
    with np.errstate(over="ignore"):
        near = np.asarray(values, dtype="float32" if dtype == "bfloat16" else dtype)
    if dtype == "bfloat16":
        bits = near.view(np.uint32)
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        near = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    return np.where(np.isnan(values), float("nan"), near.astype(np.float64))


def fingerprint(logits: np.ndarray, targets: np.ndarray, options: dict[str, Any]) -> str:
    """Of an input: it is the same if the numbers are."""
    found = hashlib.sha256()
    for name, value in (("logits", logits), ("targets", targets), *sorted(options.items())):
        if isinstance(value, np.ndarray):
            kind = "<f8" if value.dtype.kind == "f" else "<i8"
            found.update(json.dumps([name, kind, list(value.shape)]).encode())
            found.update(np.ascontiguousarray(value, dtype=kind).tobytes())
        else:
            found.update(json.dumps([name, value]).encode())
    return found.hexdigest()[:32]
