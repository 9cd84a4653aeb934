"""How the array-API engine walks host memory: blocks and tiles are a matter of speed."""

import numpy as np
import pytest

import crossent
from crossent.engines import array_api

OPTIONS = {
    "plain": {},
    "others-z": {"label_smoothing": 0.1, "z_loss": 1e-3},
    "uniform-classes": {"label_smoothing": 0.3, "smoothing": "uniform", "class_weights": True},
    "z-ignore": {"z_loss": 0.01, "ignore_index": 7},
}


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def call(request):
    """A call of the engine with some options, none of which reduces."""
    options = {**request.param, "reduction": "none", "engine": "array_api"}

    def call(x, t, out=None):
        u = {"class_weights": np.linspace(0, 2, x.shape[1]).astype(x.dtype)} if "class_weights" in options else {}
        return crossent.cross_entropy_and_grad(x, t, out, **{**options, **u})

    return call


def _inputs(dtype=np.float32):
    """Rows with a likely target, an ignored one, and some that hold nothing or nonsense."""
    rng = np.random.default_rng(0)
    x, t = (3 * rng.standard_normal((11, 103))).astype(dtype), rng.integers(0, 103, 11)
    x[0, t[0]] = 40
    x[1, :20], x[2, 50:60] = -np.inf, np.nan
    x[3, np.arange(103) != t[3]] = -np.inf
    t[4] = 7
    return x, t


def test_R5_the_size_of_a_block_does_not_change_a_bit(call, monkeypatch):
    x, t = _inputs()
    expected = call(x, t)
    for size in (1, 5 * x[0].nbytes, 1 << 30):
        monkeypatch.setattr(array_api, "HOST_BLOCK", size)
        for got, wanted in zip(call(x, t), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("tile", [1, 10, 102])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_V1_tiles_of_a_row_give_what_the_row_gives(call, dtype, tile, monkeypatch):
    x, t = _inputs(dtype)
    expected = call(x, t)
    monkeypatch.setattr(array_api, "TILE", tile)
    eps = np.finfo(np.float32 if dtype == np.float16 else dtype).eps
    for given, out in ((x, None), (over := x.copy(), over)):
        loss, d = call(given, t, out)
        np.testing.assert_allclose(loss, expected[0], rtol=40 * eps)
        np.testing.assert_allclose(d, expected[1], rtol=max(np.finfo(dtype).eps, 80 * eps), atol=16 * eps)
        assert out is None or d is out
