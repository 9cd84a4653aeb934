"""Half precision in host memory: every rounding is NumPy's, whatever the number."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.engines.memory import Memory

EVERY = slice(None)


def _numbers():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.sort(halves[np.isfinite(halves)].astype(np.float32))
    between = (finite[1:] + finite[:-1]) / 2
    near = [np.nextafter(between, np.full_like(between, side)) for side in (-np.inf, np.inf)]
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65519.996, 65520.0, -65536.0, 1e-45, 3e38], np.float32)
    return np.concatenate([halves.astype(np.float32), between, *near, anything, special])


@pytest.mark.parametrize("dtype", ["<f2", ">f2"])
def test_float16_is_rounded_as_numpy_rounds(dtype):
    numbers = _numbers()[None, :]
    with np.errstate(all="ignore"):
        expected = numbers.astype(np.float16)
        found = np.empty(expected.shape, dtype)
        Memory(found, False).store(EVERY, EVERY, numbers.copy())
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(found[there].astype("<f2").view(np.uint16), expected[there].view(np.uint16))
