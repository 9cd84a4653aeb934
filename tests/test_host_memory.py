"""Half precision in host memory: every pattern of bits widens, and every number rounds, as in NumPy and torch.

bfloat16 is kept as its 16 bits, in a matrix of uint16. What can be computed on where it lies is not copied.
"""

from __future__ import annotations

import numpy as np
import pytest

from crossent.engines.host_memory import in_place, load, store

ALL = slice(None)
PATTERNS = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
IS_NAN = ((PATTERNS & 0x7F80) == 0x7F80) & ((PATTERNS & 0x7F) != 0)


def _widened(bits):
    return load(bits.copy(), ALL, ALL, np.empty(bits.shape, np.float32))


def _rounded(numbers, dtype=np.uint16):
    found = np.zeros(numbers.shape, dtype)
    store(found, ALL, ALL, numbers.copy())
    return found


def _halves():
    """Every float16, what lies halfway between two, and the neighbours of that."""
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
    numbers = _halves()[None, :]
    with np.errstate(all="ignore"):
        expected = numbers.astype(np.float16)
        found = _rounded(numbers, dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    there = ~np.isnan(expected)
    np.testing.assert_array_equal(found[there].astype("<f2").view(np.uint16), expected[there].view(np.uint16))


def test_every_bfloat16_widens_as_in_torch_and_comes_back():
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(PATTERNS.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(_widened(PATTERNS).view(np.uint32), expected.view(np.uint32))
    back = _rounded(_widened(PATTERNS))
    np.testing.assert_array_equal(back[~IS_NAN], PATTERNS[~IS_NAN])
    # A signalling NaN may come back quiet, but a NaN it stays.
    assert np.isnan(_widened(back[IS_NAN][None])).all()


def test_float64_is_rounded_to_bfloat16_once():
    exact = PATTERNS[~IS_NAN].view(np.uint16).astype(np.uint32) << 16
    numbers = np.unique(exact.view(np.float32)[np.isfinite(exact.view(np.float32))]).astype(np.float64)
    middles = (numbers[1:] + numbers[:-1]) / 2
    # Nearer to the middle than float32 can tell.
    for side, expected in ((1 - 2.0**-50, numbers[:-1]), (1 + 2.0**-50, numbers[1:])):
        for sign in (1.0, -1.0):
            there = numbers[:-1] > 0
            found = _widened(_rounded(sign * (middles[there] * side)[None]))
            np.testing.assert_array_equal(found[0], sign * expected[there])
    assert np.isnan(_widened(_rounded(np.array([[np.nan, -np.nan]])))).all()
    np.testing.assert_array_equal(_widened(_rounded(np.array([[np.inf, -np.inf, 0.0]])))[0], [np.inf, -np.inf, 0.0])


def test_float32_rounds_as_in_torch():
    """The neighbours of every tie, of every exponent: nearest, ties to even, past the largest to infinity."""
    torch = pytest.importorskip("torch")
    upper = (PATTERNS.astype(np.uint32) << 16).reshape(-1)
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | np.uint32(lower)).reshape(256, 256).view(np.float32)
        with np.errstate(all="ignore"):
            found = _rounded(values)
        expected = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
        is_nan = np.isnan(values)
        np.testing.assert_array_equal(found[~is_nan], expected[~is_nan])


def test_the_nan_of_arithmetic_stays_a_nan():
    with np.errstate(all="ignore"):
        values = np.array([[np.nan, -np.nan, np.inf - np.inf, 0.0]], np.float32)
    assert np.isnan(_widened(_rounded(values))).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">f8", np.uint16])
def test_only_the_block_is_read_and_written(dtype):
    # The upper bits of a float32 are a bfloat16.
    whole = np.arange(24.0, dtype=np.float32).reshape(4, 6)
    data = (whole.view(np.uint32) >> 16).astype(dtype) if dtype is np.uint16 else whole.astype(dtype)
    before, block = data.copy(), (slice(1, 3), slice(2, 5))
    kind = np.float32 if dtype is np.uint16 else np.float64
    np.testing.assert_array_equal(load(data, *block, np.empty((2, 3), kind)), whole[block])
    store(data, *block, np.full((2, 3), 7, kind))
    np.testing.assert_array_equal(load(data, *block, np.empty((2, 3), kind)), 7)
    data[block] = before[block]
    np.testing.assert_array_equal(data, before)


def test_a_block_that_can_be_computed_on_is_not_copied():
    data = np.zeros((4, 6), np.float32)
    assert in_place(data, slice(1, 3), ALL, np.dtype(np.float32)) is not None
    assert np.shares_memory(load(data, slice(1, 3), ALL, np.empty((2, 6), np.float32)), data)
    unfit = [
        (data, slice(1, 4), np.float32),
        (data.T, ALL, np.float32),
        (data[:, ::-1], ALL, np.float32),
        (data, ALL, np.float64),
        (data.astype(">f4"), ALL, np.float32),
    ]
    for array, columns, dtype in unfit:
        assert in_place(array, slice(0, 2), columns, np.dtype(dtype)) is None
