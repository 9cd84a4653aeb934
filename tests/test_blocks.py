"""How the array-API engine walks host memory: blocks and tiles are a matter of speed."""

import numpy as np
import pytest

import crossent
from crossent.engines import array_api


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal((37, 501), dtype=np.float32), rng.integers(0, 501, 37)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 1e-3}, {"ignore_index": 7}])
def test_R5_the_size_of_a_block_does_not_change_a_bit(problem, options, monkeypatch):
    logits, targets = problem
    expected = crossent.cross_entropy_and_grad(logits, targets, reduction="none", **options)
    for size in (1, 5 * logits[0].nbytes, 1 << 30):
        monkeypatch.setattr(array_api, "HOST_BLOCK", size)
        for got, wanted in zip(
            crossent.cross_entropy_and_grad(logits, targets, reduction="none", **options), expected, strict=True
        ):
            assert np.array_equal(got, wanted)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"ignore_index": 7, "z_loss": 1e-2}])
def test_V1_tiles_of_a_row_give_what_the_row_gives(problem, dtype, options, monkeypatch):
    logits, targets = problem[0].astype(dtype), problem[1]
    logits[3, 100:200] = -np.inf
    targets[3] = 5
    targets[4] = 7
    expected = crossent.cross_entropy_and_grad(logits, targets, reduction="none", **options)
    monkeypatch.setattr(array_api, "TILE", 100)
    eps = np.finfo(np.float32 if dtype == np.float16 else dtype).eps
    for in_place in (False, True):
        copy = logits.copy()
        loss, d = crossent.cross_entropy_and_grad(
            copy, targets, copy if in_place else None, reduction="none", **options
        )
        np.testing.assert_allclose(loss, expected[0], rtol=8 * eps)
        spacing = np.finfo(dtype).eps if dtype == np.float16 else 16 * eps
        np.testing.assert_allclose(d, expected[1], rtol=spacing, atol=16 * eps)
        assert np.array_equal(crossent.cross_entropy(logits, targets, reduction="none", **options), loss)
