"""Host memory: bfloat16 as its 16 bits, every pattern of them; what can be computed on where it lies."""

from __future__ import annotations

import numpy as np
import pytest

from crossent.engines.memory import Memory

ALL = slice(None)
PATTERNS = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)


def test_every_bfloat16_widens_as_in_torch():
    torch = pytest.importorskip("torch")
    memory = Memory(PATTERNS.copy(), True)
    got = memory.load(ALL, ALL, np.empty((256, 256), np.float32))
    expected = torch.from_numpy(PATTERNS.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_every_bfloat16_comes_back():
    memory = Memory(np.zeros_like(PATTERNS), True)
    memory.store(ALL, ALL, Memory(PATTERNS.copy(), True).load(ALL, ALL, np.empty((256, 256), np.float32)))
    # A signalling NaN may come back quiet, but a NaN it stays.
    is_nan = ((PATTERNS & 0x7F80) == 0x7F80) & ((PATTERNS & 0x7F) != 0)
    np.testing.assert_array_equal(memory.data[~is_nan], PATTERNS[~is_nan])
    assert ((memory.data[is_nan] & 0x7F80) == 0x7F80).all()
    assert (memory.data[is_nan] & 0x7F).all()


def test_float32_rounds_as_in_torch():
    """The neighbours of every tie, of every exponent: nearest, ties to even, past the largest to infinity."""
    torch = pytest.importorskip("torch")
    upper = (PATTERNS.astype(np.uint32) << 16).reshape(-1)
    for lower in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        words = (upper | np.uint32(lower)).reshape(256, 256)
        values = words.view(np.float32)
        memory = Memory(np.zeros_like(PATTERNS), True)
        with np.errstate(all="ignore"):
            memory.store(ALL, ALL, values.copy())
        expected = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
        is_nan = np.isnan(values)
        np.testing.assert_array_equal(memory.data[~is_nan], expected[~is_nan])


def test_the_nan_of_arithmetic_stays_a_nan():
    memory = Memory(np.zeros((1, 4), np.uint16), True)
    with np.errstate(all="ignore"):
        values = np.array([[np.nan, -np.nan, np.inf - np.inf, 0.0]], np.float32)
    memory.store(ALL, ALL, values)
    back = memory.load(ALL, ALL, np.empty((1, 4), np.float32))
    assert np.isnan(back).tolist() == [[True, True, True, False]]


def test_only_the_block_is_read_and_written():
    data = PATTERNS.copy()
    memory = Memory(data, True)
    block = (slice(3, 5), slice(10, 17))
    loaded = memory.load(*block, np.empty((2, 7), np.float32))
    np.testing.assert_array_equal(loaded.view(np.uint32) >> 16, PATTERNS[block])
    memory.store(*block, np.zeros((2, 7), np.float32))
    assert (data[block] == 0).all()
    data[block] = PATTERNS[block]
    np.testing.assert_array_equal(data, PATTERNS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", ">f8"])
def test_blocks_of_numpys_own_dtypes(dtype):
    data = np.arange(24.0).reshape(4, 6).astype(dtype)
    memory = Memory(data, False)
    got = memory.load(slice(1, 3), slice(2, 5), np.empty((2, 3), np.float64))
    np.testing.assert_array_equal(got, data[1:3, 2:5])
    memory.store(slice(1, 3), slice(2, 5), np.full((2, 3), 7.0))
    assert (data[1:3, 2:5] == 7).all()
    assert (data[0] == np.arange(6)).all()


def test_a_block_that_can_be_computed_on_is_not_copied():
    data = np.zeros((4, 6), np.float32)
    assert Memory(data, False).block(slice(1, 3), ALL, np.dtype(np.float32)) is not None
    assert np.shares_memory(Memory(data, False).load(slice(1, 3), ALL, np.empty((2, 6), np.float32)), data)
    unfit = [
        (data, slice(0, 2), slice(1, 4), np.float32),
        (data.T, slice(0, 2), ALL, np.float32),
        (data[:, ::-1], slice(0, 2), ALL, np.float32),
        (data, slice(0, 2), ALL, np.float64),
        (data.astype(">f4"), slice(0, 2), ALL, np.float32),
    ]
    for array, rows, columns, dtype in unfit:
        assert Memory(array, False).block(rows, columns, np.dtype(dtype)) is None
