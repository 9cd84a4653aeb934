"""The compiled engine for host memory beside the array-API engine; beside 60 digits it is V1's, as the suite asks."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from crossent.engines import array_api, host_memory
from crossent.engines.numba_cpu import kernel, native
from crossent.libraries import NUMPY
from crossent.math.rows import Coefficients, Rows

EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
HALVES = ("float16", "bfloat16")
DTYPES = pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(name, marks=pytest.mark.extended) for name in EPS if name != "float32")]
)
COEFFICIENTS = pytest.mark.parametrize(
    "coefficients",
    [
        {},
        {"target_mass": 0.9, "smoothing": 0.1},
        {"target_mass": 0.9, "smoothing": 0.1, "includes_target": 1},
        {"z_loss": 1e-2},
        {"target_mass": 0.8, "smoothing": 0.2, "z_loss": 0.5, "includes_target": 1},
        {"target_mass": 0.0, "smoothing": 1.0},
    ],
    ids=str,
)
IEEE = pytest.mark.parametrize("ieee", [False, True])
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4, 1.0]
EVERY = slice(None)


def real(dtype):
    return np.dtype("float64" if dtype == "float64" else "float32")


def matrix(x, dtype):
    """Numbers as a matrix of the dtype: of bfloat16, as its bits."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return np.asarray(x).astype(dtype)
    bits = np.empty(x.shape, np.uint16)
    host_memory.store(bits, EVERY, EVERY, np.array(x, np.float32, order="C"))
    bits[np.isnan(x)] = 0x7FC0
    return bits


def numbers(x):
    return host_memory.load(x, EVERY, EVERY, np.empty(x.shape, np.float64))


def make_rows(logits, targets, dtype, weight=None, class_weights=None, soft=None, **coefficients):
    def line(x):
        return None if x is None else np.asarray(x, real(dtype))

    targets = None if targets is None else np.asarray(targets)
    c, v = Coefficients(**coefficients), logits.shape[1]
    return Rows(logits, targets, soft, line(weight), line(class_weights), c, 0, v, real(dtype))


def walked(rows, scale=1.0, gradient=True, out=None, parts=1):
    n = rows.logits.shape[0]
    losses = np.full(n, 77, rows.dtype)
    if gradient and out is None:
        out = np.full(rows.logits.shape, 77, rows.logits.dtype)
    walk = kernel.walk(rows, losses, scale, out)
    for i in range(parts):
        walk(n * i // parts, n * (i + 1) // parts)
    return losses, out


def compare(rows, dtype, scale=1.0, tolerance=12):
    with np.errstate(all="ignore"):
        loss, d = walked(rows, scale)
        wanted_loss, wanted = np.empty_like(loss), np.empty_like(d)
        array_api.walk(NUMPY, rows, wanted_loss, scale, wanted)
        np.testing.assert_array_equal(walked(rows, gradient=False)[0], loss)
        eps = EPS[rows.dtype.name]
        np.testing.assert_allclose(loss, wanted_loss, rtol=tolerance * eps, atol=tolerance * eps)
        d, wanted = numbers(d), numbers(wanted)
        np.testing.assert_array_equal(np.isnan(d), np.isnan(wanted))
        rounding = tolerance * eps + (EPS[dtype] if dtype in HALVES else 0)
        floor = 1e-7 if dtype == "float16" else 0
        size = np.nanmax(np.where(np.isfinite(wanted), np.abs(wanted), 0), axis=1, keepdims=True, initial=0)
        if rows.coefficients.smoothing or rows.soft is not None:
            # What is shared out is subtracted from a probability that may be as large.
            size = np.maximum(size, np.broadcast_to(np.abs(scale), loss.shape)[:, None] * 6.0)
        slack = rounding * np.abs(wanted) + tolerance * eps * np.maximum(size, 1e-30) + floor
        close = (d == wanted) | np.isnan(wanted) | (np.abs(d - wanted) <= slack)
        assert close.all(), np.argwhere(~close)[:5]


def soft_of(rng, n, v):
    return rng.gamma(0.3, size=(n, v)) / v


@DTYPES
@COEFFICIENTS
@IEEE
def test_random_rows_are_those_of_the_array_api_engine(dtype, coefficients, ieee):
    rng = np.random.default_rng(3)
    widths = [1, 2, 3, 5, 8, 15, 16, 17, 31, 47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 200, 1000, 4096, 4097, 9001]
    for v in widths[coefficients.get("target_mass") == 0.0 :]:
        n = int(rng.integers(1, 40)) if v < 1000 else 3
        logits = matrix(4 * rng.standard_normal((n, v)), dtype)
        targets = rng.integers(0, v, n)
        weight, u = rng.choice([0.0, 0.5, 1.0, 3.0], n), rng.uniform(0.1, 2.0, v)
        for w, c in ((None, None), (weight, None), (None, u), (weight, u)):
            rows = make_rows(logits, targets, dtype, w, c, ieee=ieee, **coefficients)
            for scale in (1.0, np.asarray(0.25), rng.standard_normal(n)):
                compare(rows, dtype, scale)


def special(rng, v):
    """Rows from no special value at all to nothing else."""
    n = 64 if v < 1000 else 24
    x = 3 * rng.standard_normal((n, v))
    for i in range(n):
        k = (0, 1, 2, v // 2, v)[i % 5]
        places = rng.choice(v, min(k, v), replace=False)
        x[i, places] = rng.choice(SPECIAL, min(k, v)) if i % 2 else rng.choice(SPECIAL)
    return x, rng.choice([0.0, 1.0, np.nan, 2.0], n), rng.choice([0.0, 1.0, 2.0], v)


@DTYPES
@COEFFICIENTS
@IEEE
def test_special_values_are_where_the_array_api_engine_has_them(dtype, coefficients, ieee):
    rng = np.random.default_rng(4)
    for v in (1, 2, 3, 16, 40, 49, 70, 200, 4100):
        x, weight, u = special(rng, v)
        targets, logits = rng.integers(0, v, len(x)), matrix(x, dtype)
        for w, c in ((None, None), (weight, None), (None, u), (weight, u)):
            rows = make_rows(logits, targets, dtype, w, c, ieee=ieee, **coefficients)
            for scale in (1.0, rng.standard_normal(len(x))):
                compare(rows, dtype, scale)


SOFT_DTYPES = [(name, name) for name in EPS if name != "float32"]
SOFT_DTYPES = [*SOFT_DTYPES, ("bfloat16", "float32"), ("float32", "float16")]


@pytest.mark.parametrize(
    ("dtype", "soft_dtype"),
    [("float32", "float32"), *(pytest.param(*pair, marks=pytest.mark.extended) for pair in SOFT_DTYPES)],
)
@COEFFICIENTS
@IEEE
def test_soft_targets_are_those_of_the_array_api_engine(dtype, soft_dtype, coefficients, ieee):
    rng = np.random.default_rng(5)
    for v in (1, 2, 3, 8, 16, 17, 40, 128, 129, 300, 4096, 4097, 9001):
        n = int(rng.integers(1, 40)) if v < 1000 else 3
        logits, q = matrix(4 * rng.standard_normal((n, v)), dtype), soft_of(rng, n, v)
        q[rng.random((n, v)) < 0.2] = 0.0
        q[0] = 0.0
        q[0, v // 3] = 1.0
        weight, u = rng.choice([0.0, 0.5, 1.0, 3.0], n), rng.uniform(0.1, 2.0, v)
        for w, c in ((None, None), (weight, u)):
            rows = make_rows(logits, None, dtype, w, c, matrix(q, soft_dtype), ieee=ieee, **coefficients)
            for scale in (1.0, rng.standard_normal(n)):
                compare(rows, dtype, scale)


@DTYPES
@COEFFICIENTS
@IEEE
def test_special_values_of_soft_targets(dtype, coefficients, ieee):
    rng = np.random.default_rng(6)
    for v in (1, 2, 3, 16, 40, 129, 200, 4100):
        x, weight, u = special(rng, v)
        q = soft_of(rng, *x.shape)
        for i in range(len(x)):
            if i % 3:
                q[i, rng.random(v) < 0.5] = 0.0
                q[i, x[i] == -np.inf] *= rng.choice([0.0, 1.0])
            if i % 7 == 0:
                # An infinite mass beside a z-loss overflows sooner or later; the engines need not agree when.
                q[i, rng.integers(v)] = rng.choice([np.nan, -0.5 if coefficients.get("z_loss") else np.inf, -0.5])
        for w, c in ((None, None), (weight, u)):
            rows = make_rows(matrix(x, dtype), None, dtype, w, c, matrix(q, dtype), ieee=ieee, **coefficients)
            compare(rows, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_V1_a_million_columns(dtype):
    rng = np.random.default_rng(8)
    v, t = 1_500_000, 77
    for values in (rng.standard_normal(v), np.full(v, -0.3), np.linspace(-8, 8, v)):
        x = values.astype(dtype)
        wide = x.astype(np.longdouble)
        wide = np.exp(wide - wide.max())
        true = np.log(wide.sum()) - (x[t].astype(np.longdouble) - x.max())
        loss, d = walked(make_rows(x[None], [t], dtype))
        assert abs(loss[0] - true) <= 4 * EPS[dtype] * true
        p = wide / wide.sum()
        assert (np.abs(d[0] - p) <= (12 - np.log(p.min())) * EPS[dtype] * p)[np.arange(v) != t].all()


@DTYPES
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("coefficients", [{}, {"target_mass": 0.9, "smoothing": 0.1, "z_loss": 0.1}], ids=str)
@pytest.mark.parametrize("v", [1, 2, 3, 4, 7, 16, 33, 127, 128, 129, 500, 5000])
def test_R5_the_bits_of_a_row_depend_on_that_row_alone(dtype, soft, coefficients, v):
    rng = np.random.default_rng(9)
    n = 37
    x = matrix(4 * rng.standard_normal((n, v)), dtype)
    q = matrix(rng.random((n, v)), dtype) if soft else None
    targets, weight, u = rng.integers(0, v, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, v)
    scale = rng.standard_normal(n)

    def bits(rows, out=None, parts=1, scale=scale):
        loss, d = walked(rows, scale, out=out, parts=parts)
        return loss.tobytes(), np.ascontiguousarray(d).tobytes()

    rows = make_rows(x, None if soft else targets, dtype, weight, u, q, **coefficients)
    loss, d = walked(rows, scale)
    wanted = loss.tobytes(), d.tobytes()
    for parts in (2, 5, 37):
        assert bits(rows, parts=parts) == wanted
    # Alone.
    for i in (0, 5, 36):
        one = rows.part(i, i + 1, x[i : i + 1], None if q is None else q[i : i + 1])
        assert bits(one, scale=scale[i : i + 1]) == (loss[i : i + 1].tobytes(), d[i : i + 1].tobytes())
    # Rows at any alignment, apart from each other, backwards, and over themselves.
    padded = np.zeros((n, v + 3), x.dtype)
    for view in (padded[:, 1 : v + 1], padded[:, 2 : v + 2], padded[::-1, 3 : v + 3]):
        view[...] = x
        strided = rows._replace(logits=view)
        assert bits(strided) == wanted
        assert bits(strided, out=view) == wanted
    assert np.count_nonzero(padded[:, 0]) == 0


@DTYPES
@pytest.mark.parametrize("v", [1, 2, 3, 4, 5, 8, 9, 16, 17, 100, 128, 129, 200, 4100])
def test_A2_nothing_outside_the_rows_is_written(dtype, v):
    rng = np.random.default_rng(10)
    for n in (1, 2, 15, 16, 17, 33):
        x = matrix(rng.standard_normal((n, v)), dtype)
        frame = np.full((n + 2) * (v + 5) + 64, 77, x.dtype)
        rows, before = make_rows(x, rng.integers(0, v, n), dtype, rng.choice([0.0, 1.0], n)), x.copy()
        for step in (v, v + 5):
            frame[...] = 77
            inside = np.lib.stride_tricks.as_strided(frame[32:], (n, v), (step * frame.itemsize, frame.itemsize))
            losses = np.full(n + 8, 77, rows.dtype)
            kernel.walk(rows, losses[4:-4], 1.0, inside)(0, n)
            assert np.array_equal(x, before)
            assert (losses[:4] == 77).all()
            assert (losses[-4:] == 77).all()
            inside[...] = 77
            assert (frame == 77).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_gradients_are_rounded_to_nearest_even(dtype):
    rng = np.random.default_rng(11)
    x, targets = matrix(rng.standard_normal((64, 300)), dtype), rng.integers(0, 300, 64)
    exact = walked(make_rows(numbers(x).astype(np.float32), targets, "float32"))[1]
    assert np.array_equal(walked(make_rows(x, targets, dtype))[1], matrix(exact, dtype))


def test_A2_inputs_may_be_read_only_strided_broadcast_and_unaligned():
    x = np.broadcast_to(np.linspace(-1, 1, 200, dtype=np.float32), (20, 200))
    weight, u = np.broadcast_to(np.float32(0.5), (20,)), np.ones(400, np.float32)[::2]
    targets = np.arange(40, dtype=np.int32)[::2]
    scale = np.zeros(161, np.uint8)[1:].view(np.float64)
    scale[:] = 2.0
    for array in (x, weight, targets, scale, u):
        array.flags.writeable = False
    rows = make_rows(x, targets, "float32", weight, u)
    loss, d = walked(rows, scale)
    plain = make_rows(x.copy(), targets.astype(np.int64), "float32", np.full(20, 0.5), np.ones(200))
    wanted_loss, wanted = walked(plain, 2.0)
    assert np.array_equal(loss, wanted_loss)
    assert np.array_equal(d, wanted)
    assert np.array_equal(walked(rows, gradient=False)[0], loss)


def test_what_is_walked_as_it_lies():
    x = np.zeros((4, 6), np.float32)

    def accepts(x, out=None):
        return kernel.walk(make_rows(x, np.zeros(4, int), x.dtype), np.zeros(4, x.dtype), 1.0, out) is not None

    for served in ((x,), (x[::2],), (x[::-1, 1:5], x[:, :4]), (np.broadcast_to(x[:1], (4, 6)),)):
        assert accepts(*served)
    unaligned = np.zeros(97, np.uint8)[1:].view(np.float32).reshape(4, 6)
    for refused in ((x[:, ::2],), (x.T,), (x, x.T), (x.astype(">f4"),), (x.astype(np.longdouble),), (unaligned,)):
        assert not accepts(*refused)


CHANGES = {
    "package": lambda monkeypatch: monkeypatch.setattr("crossent.__version__", "0"),
    "compiler": lambda monkeypatch: monkeypatch.setattr(native.metadata, "version", lambda name: "0"),
    "settings": lambda monkeypatch: monkeypatch.setenv("NUMBA_OPT", "2"),
    "processor": lambda monkeypatch: monkeypatch.setattr(native, "_processor", lambda: ("", "", "")),
    "machine code": lambda monkeypatch: monkeypatch.setattr("llvmlite.__version__", "0"),
    "python": lambda monkeypatch: monkeypatch.setattr("sys.version", "0"),
    "sources": lambda monkeypatch: monkeypatch.setattr(Path, "read_bytes", lambda self: self.name.encode()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_kernel_is_made_from_is_in_the_name_under_which_it_is_kept(monkeypatch, tmp_path, change):
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path))
    before = native._path("walk")
    assert before == native._path("walk") != native._path("statistics")
    change(monkeypatch)
    assert native._path("walk") != before
