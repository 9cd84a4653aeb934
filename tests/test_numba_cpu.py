"""The compiled engine beside the array-API engine, and beside 40 digits."""

import mpmath
import numpy as np
import pytest

pytest.importorskip("numba")

from crossent.engines import array_api, threads
from crossent.engines.memory import Memory
from crossent.engines.numba_cpu import serves, work
from crossent.engines.rows import Rows
from crossent.objective import Coefficients

DTYPES = ("float32", *(pytest.param(name, marks=pytest.mark.extended) for name in ("float64", "float16", "bfloat16")))
EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}
WIDTHS = [1, 2, 3, 5, 8, 15, 16, 17, 31, 47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 200, 1000, 4096, 4097, 9001]


def real(dtype):
    return np.float64 if dtype == "float64" else np.float32


def memory(x, dtype):
    """Numbers as a matrix of the dtype."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        rounded[np.isnan(x)] = 0x7FC0
        return Memory(rounded, True)
    with np.errstate(over="ignore"):
        return Memory(np.asarray(x).astype(dtype), False)


def numbers(m):
    if m.bits:
        return (m.data.astype(np.uint32) << 16).view(np.float32)
    return m.data.astype(np.float32) if m.data.dtype == np.float16 else m.data


def make_rows(logits, targets, dtype, weight=None, class_weights=None, soft=None, **coefficients):
    def line(x):
        return None if x is None else np.asarray(x, real(dtype))

    return Rows(
        logits,
        None if soft else np.asarray(targets),
        soft,
        line(weight),
        line(class_weights),
        Coefficients(**coefficients),
    )


def walked(rows, dtype, scale=1.0, gradient=True, out=None, parts=1):
    n = rows.logits.data.shape[0]
    losses = np.full(n, 77.0, real(dtype))
    if gradient and out is None:
        out = Memory(np.full(rows.logits.data.shape, 77, rows.logits.data.dtype), rows.logits.bits)
    assert serves(rows, out)
    walk = work(rows, losses, scale, out)
    for i in range(parts):
        walk(n * i // parts, n * (i + 1) // parts)
    return losses, None if out is None else out.data


def expected(rows, dtype, scale=1.0):
    losses = np.empty(rows.logits.data.shape[0], real(dtype))
    out = Memory(np.empty_like(rows.logits.data), rows.logits.bits)
    array_api._walk_host(rows, losses, scale, out)
    return losses, out.data


COEFFICIENTS = [
    {},
    {"keep": 0.9, "spread": 0.1},
    {"keep": 0.9, "spread": 0.1, "share": 1},
    {"square": 1e-2},
    {"keep": 0.8, "spread": 0.2, "square": 0.5, "share": 1},
    {"keep": 0.0, "spread": 1.0},
]


def compare(rows, dtype, scale=1.0, tolerance=12):
    with np.errstate(all="ignore"):
        loss, d = walked(rows, dtype, scale)
        wanted_loss, wanted = expected(rows, dtype, scale)
        only = walked(rows, dtype, gradient=False)[0]
        np.testing.assert_array_equal(only, loss)
        eps = np.finfo(real(dtype)).eps
        np.testing.assert_array_equal(np.isnan(loss), np.isnan(wanted_loss))
        np.testing.assert_allclose(loss, wanted_loss, rtol=tolerance * eps, atol=tolerance * eps)
        d, wanted = (numbers(Memory(x, rows.logits.bits)).astype(np.float64) for x in (d, wanted))
        np.testing.assert_array_equal(np.isnan(d), np.isnan(wanted))
        rounding = tolerance * eps + (EPS[dtype] if dtype in ("float16", "bfloat16") else 0)
        floor = 1e-7 if dtype == "float16" else 0
        size = np.nanmax(np.where(np.isfinite(wanted), np.abs(wanted), 0), axis=1, keepdims=True, initial=0)
        if rows.coefficients.spread or rows.soft:
            # What is shared out is subtracted from a probability that may be as large.
            size = np.maximum(size, np.broadcast_to(np.abs(scale), loss.shape)[:, None] * 6.0)
        slack = rounding * np.abs(wanted) + tolerance * eps * np.maximum(size, 1e-30) + floor
        same = (d == wanted) | np.isnan(wanted)
        assert (same | (np.abs(d - wanted) <= slack)).all(), np.argwhere(~(same | (np.abs(d - wanted) <= slack)))[:5]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("limits", [True, False])
def test_random_rows_are_those_of_the_array_api_engine(dtype, coefficients, limits):
    rng = np.random.default_rng(3)
    for v in WIDTHS:
        if v == 1 and coefficients.get("keep") == 0.0:
            continue
        n = int(rng.integers(1, 40)) if v < 1000 else 3
        logits = memory(4 * rng.standard_normal((n, v)), dtype)
        targets = rng.integers(0, v, n)
        weight = rng.choice([0.0, 0.5, 1.0, 3.0], n)
        u = rng.uniform(0.1, 2.0, v)
        for w, c in ((None, None), (weight, None), (None, u), (weight, u)):
            rows = make_rows(logits, targets, dtype, w, c, limits=limits, **coefficients)
            for scale in (1.0, np.asarray(0.25), rng.standard_normal(n)):
                compare(rows, dtype, scale)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("limits", [True, False])
def test_special_values_are_where_the_array_api_engine_has_them(dtype, coefficients, limits):
    rng = np.random.default_rng(4)
    for v in (1, 2, 3, 16, 40, 49, 70, 200, 4100):
        n = 64 if v < 1000 else 24
        x = 3 * rng.standard_normal((n, v))
        for i in range(n):
            # From no special value at all to a row of nothing else.
            k = (0, 1, 2, v // 2, v)[i % 5]
            places = rng.choice(v, min(k, v), replace=False)
            x[i, places] = rng.choice(SPECIAL, min(k, v)) if i % 2 else rng.choice(SPECIAL)
        targets = rng.integers(0, v, n)
        weight = rng.choice([0.0, 1.0, np.nan, 2.0], n)
        u = rng.choice([0.0, 1.0, 2.0], v)
        logits = memory(x, dtype)
        for w, c in ((None, None), (weight, None), (None, u), (weight, u)):
            rows = make_rows(logits, targets, dtype, w, c, limits=limits, **coefficients)
            for scale in (1.0, rng.standard_normal(n)):
                compare(rows, dtype, scale)


SOFT_DTYPES = [
    ("float32", "float32"),
    *(
        pytest.param(*pair, marks=pytest.mark.extended)
        for pair in [
            *((name, name) for name in EPS if name != "float32"),
            ("bfloat16", "float32"),
            ("float32", "float16"),
        ]
    ),
]


@pytest.mark.parametrize(("dtype", "soft_dtype"), SOFT_DTYPES)
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("limits", [True, False])
def test_soft_targets_are_those_of_the_array_api_engine(dtype, soft_dtype, coefficients, limits):
    rng = np.random.default_rng(5)
    for v in (1, 2, 3, 8, 16, 17, 40, 128, 129, 300, 4096, 4097, 9001):
        n = int(rng.integers(1, 40)) if v < 1000 else 3
        logits = memory(4 * rng.standard_normal((n, v)), dtype)
        q = rng.gamma(0.3, size=(n, v)) / v
        q[rng.random((n, v)) < 0.2] = 0.0
        q[0] = 0.0
        q[0, v // 3] = 1.0
        soft = memory(q, soft_dtype)
        weight = rng.choice([0.0, 0.5, 1.0, 3.0], n)
        u = rng.uniform(0.1, 2.0, v)
        for w, c in ((None, None), (weight, u)):
            rows = make_rows(logits, None, dtype, w, c, soft, limits=limits, **coefficients)
            for scale in (1.0, rng.standard_normal(n)):
                compare(rows, dtype, scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("limits", [True, False])
def test_special_values_of_soft_targets(dtype, coefficients, limits):
    rng = np.random.default_rng(6)
    for v in (1, 2, 3, 16, 40, 129, 200, 4100):
        n = 64 if v < 1000 else 24
        x = 3 * rng.standard_normal((n, v))
        q = rng.gamma(0.3, size=(n, v)) / v
        for i in range(n):
            k = (0, 1, 2, v // 2, v)[i % 5]
            places = rng.choice(v, min(k, v), replace=False)
            x[i, places] = rng.choice(SPECIAL, min(k, v)) if i % 2 else rng.choice(SPECIAL)
            if i % 3:
                q[i, rng.random(v) < 0.5] = 0.0
                q[i, x[i] == -np.inf] *= rng.choice([0.0, 1.0])
            if i % 7 == 0:
                # An infinite mass beside a z-loss overflows sooner or later; the engines need not agree when.
                q[i, rng.integers(v)] = rng.choice([np.nan, -0.5 if coefficients.get("square") else np.inf, -0.5])
        weight = rng.choice([0.0, 1.0, np.nan, 2.0], n)
        u = rng.choice([0.0, 1.0, 2.0], v)
        for w, c in ((None, None), (weight, u)):
            rows = make_rows(memory(x, dtype), None, dtype, w, c, memory(q, dtype), limits=limits, **coefficients)
            compare(rows, dtype)


def oracle(x, t):
    """Loss and gradient of one row of hard targets in 60 digits."""
    with mpmath.workdps(60):
        m = mpmath.mpf(float(max(x)))
        e = [mpmath.exp(mpmath.mpf(float(a)) - m) for a in x]
        others = mpmath.fsum(a for j, a in enumerate(e) if j != t)
        z = others + e[t]
        loss = m - mpmath.mpf(float(x[t])) + (mpmath.log1p(others) if e[t] == 1 else mpmath.log(z))
        d = [a / z for a in e]
        d[t] = -others / z
        return loss, d


def row_of(kind, v, rng, dtype):
    x = rng.standard_normal(v) * {"spread": 3, "far": 3000, "flat": 0, "close": 1e-4, "ahead": 1}[kind]
    t = int(rng.integers(v))
    if kind == "flat":
        x += 1.7
        x[t] += rng.uniform(-30, 30)
    elif kind == "ahead":
        x[t] += rng.uniform(5, 60 if dtype == "float32" else 600)
    return x, t


@pytest.mark.extended  # the suite asks the same of V1, of fewer rows
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["spread", "far", "flat", "close", "ahead"])
def test_V1_losses_and_gradients_are_accurate(dtype, kind):
    rng = np.random.default_rng(7)
    eps, least = (2.0**-23, 1e-30) if dtype == "float32" else (2.0**-52, 1e-300)
    worst = 0.0
    for v in [
        1,
        2,
        3,
        5,
        16,
        17,
        64,
        100,
        128,
        129,
        200,
        257,
        1000,
        4096,
        4100,
        12000,
        *([50257] if dtype == "float32" else []),
    ]:
        x, t = row_of(kind, v, rng, dtype)
        x = x.astype(dtype)
        rows = make_rows(Memory(x[None], False), [t], dtype)
        loss, d = walked(rows, dtype)
        true_loss, true_d = oracle(x, t)
        allowed = 4 + max(0.0, np.log2(v / 4096))
        for got, true in [(loss[0], true_loss), *zip(d[0], true_d, strict=True)]:
            if abs(true) < least:
                assert abs(got) <= 2 * least
                continue
            error = abs((mpmath.mpf(float(got)) - true) / true) / eps
            g = abs(mpmath.log(abs(true))) if abs(true) < 1 else 0
            worst = max(worst, float(error / (allowed + g)))
            assert error <= allowed + g, (v, got, true)
        assert loss[0] >= 0
        assert not np.signbit(loss[0])
    print(f"worst share of the allowed error: {worst:.2f}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_V1_a_million_columns(dtype):
    rng = np.random.default_rng(8)
    v = 1_500_000
    for values in (rng.standard_normal(v), np.full(v, -0.3), np.linspace(-8, 8, v)):
        x = values.astype(dtype)
        wide = x.astype(np.longdouble)
        t = 77
        wide = np.exp(wide - wide.max())
        true = np.log(wide.sum()) - (x[t].astype(np.longdouble) - x.max())
        rows = make_rows(Memory(x[None], False), [t], dtype)
        loss, d = walked(rows, dtype)
        eps = np.finfo(dtype).eps
        assert abs(loss[0] - true) <= 4 * eps * true
        p = wide / wide.sum()
        assert (np.abs(d[0] - p)[np.arange(v) != t] <= (12 - np.log(p.min())) * eps * p[np.arange(v) != t]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("coefficients", [{}, {"keep": 0.9, "spread": 0.1, "square": 0.1}])
@pytest.mark.parametrize("v", [1, 2, 3, 4, 7, 16, 33, 127, 128, 129, 500, 5000])
def test_R5_the_bits_of_a_row_depend_on_that_row_alone(dtype, soft, coefficients, v):
    rng = np.random.default_rng(9)
    n = 37
    x = memory(4 * rng.standard_normal((n, v)), dtype)
    q = memory(rng.random((n, v)), dtype) if soft else None
    targets, weight, u = rng.integers(0, v, n), rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, v)
    scale = rng.standard_normal(n)

    def bits(rows, out=None, parts=1, scale=scale):
        loss, d = walked(rows, dtype, scale, out=out, parts=parts)
        return loss.tobytes(), np.ascontiguousarray(d).tobytes()

    def rows_from(logits, soft, at=slice(None)):
        return make_rows(logits, targets[at], dtype, weight[at], u, soft, **coefficients)

    rows = rows_from(x, q)
    loss, d = walked(rows, dtype, scale)
    wanted = loss.tobytes(), d.tobytes()
    for parts in (2, 5, 37):
        assert bits(rows, parts=parts) == wanted
    # Alone.
    for i in (0, 5, 36):
        at = slice(i, i + 1)
        one = rows_from(Memory(x.data[at], x.bits), None if q is None else Memory(q.data[at], q.bits), at)
        assert bits(one, scale=scale[at]) == (loss[at].tobytes(), d[at].tobytes())
    # Rows at any alignment, apart from each other, backwards, and over themselves.
    padded = np.zeros((n, v + 3), x.data.dtype)
    for view in (padded[:, 1 : v + 1], padded[:, 2 : v + 2], padded[::-1, 3 : v + 3]):
        view[...] = x.data
        strided = rows_from(Memory(view, x.bits), q)
        assert bits(strided) == wanted
        assert bits(strided, out=strided.logits) == wanted
    assert np.count_nonzero(padded[:, 0]) == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [1, 2, 3, 4, 5, 8, 9, 16, 17, 100, 128, 129, 200, 4100])
def test_A2_nothing_outside_the_rows_is_written(dtype, v):
    rng = np.random.default_rng(10)
    for n in (1, 2, 15, 16, 17, 33):
        x = memory(rng.standard_normal((n, v)), dtype)
        frame = np.full((n + 2) * (v + 5) + 64, 77, x.data.dtype)
        for step in (v, v + 5):
            frame[...] = 77
            inside = np.lib.stride_tricks.as_strided(frame[32:], (n, v), (step * frame.itemsize, frame.itemsize))
            weight = rng.choice([0.0, 1.0], n)
            losses = np.full(n + 8, 77.0, real(dtype))
            rows = make_rows(x, rng.integers(0, v, n), dtype, weight)
            before = x.data.copy()
            work(rows, losses[4:-4], 1.0, Memory(inside, x.bits))(0, n)
            assert np.array_equal(x.data, before)
            assert (losses[:4] == 77).all()
            assert (losses[-4:] == 77).all()
            inside[...] = 77
            assert (frame == 77).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [3, 200])
def test_A4_a_target_outside_the_row_is_a_row_of_nan(dtype, v):
    x = memory(np.zeros((5, v)), dtype)
    rows = make_rows(x, [-1, 0, v, 2**62, -(2**62)], dtype, class_weights=np.ones(v))
    loss, d = walked(rows, dtype)
    assert np.isnan(loss).tolist() == [True, False, True, True, True]
    assert np.isnan(numbers(Memory(d, x.bits))).all(axis=1).tolist() == [True, False, True, True, True]


def test_gradients_are_rounded_to_nearest_even():
    rng = np.random.default_rng(11)
    for dtype in ("float16", "bfloat16"):
        x = memory(rng.standard_normal((64, 300)), dtype)
        targets = rng.integers(0, 300, 64)
        d = walked(make_rows(x, targets, dtype), dtype)[1]
        exact = walked(make_rows(Memory(numbers(x), False), targets, "float32"), "float32")[1]
        assert np.array_equal(d, memory(exact, dtype).data)


def test_S1_rows_of_weight_0_are_zero_whatever_they_hold():
    for v in (5, 300):
        x = np.full((20, v), np.nan, np.float32)
        x[3] = np.inf
        loss, d = walked(make_rows(Memory(x, False), np.zeros(20, int), "float32", np.zeros(20)), "float32")
        assert (loss == 0).all()
        assert (d == 0).all()


def test_A2_inputs_may_be_read_only_strided_broadcast_and_unaligned():
    x = np.broadcast_to(np.linspace(-1, 1, 200, dtype=np.float32), (20, 200))
    weight = np.broadcast_to(np.float32(0.5), (20,))
    targets = np.arange(40, dtype=np.int32)[::2]
    scale = np.zeros(161, np.uint8)[1:].view(np.float64)
    scale[:] = 2.0
    u = np.ones(400, np.float32)[::2]
    for array in (x, weight, targets, scale, u):
        array.flags.writeable = False
    rows = make_rows(Memory(x, False), targets, "float32", class_weights=u)._replace(weight=weight, class_weights=u)
    loss, d = walked(rows, "float32", scale)
    plain = make_rows(Memory(x.copy(), False), targets.astype(np.int64), "float32", np.full(20, 0.5), np.ones(200))
    wanted_loss, wanted = walked(plain, "float32", 2.0)
    assert np.array_equal(loss, wanted_loss)
    assert np.array_equal(d, wanted)
    assert np.array_equal(walked(rows, "float32", gradient=False)[0], loss)


def test_what_is_served():
    x = np.zeros((4, 6), np.float32)

    def accepts(x, out=None, **coefficients):
        rows = make_rows(Memory(x, False), np.zeros(len(x), int), "float32", **coefficients)
        return serves(rows, None if out is None else Memory(out, False))

    assert accepts(x)
    assert accepts(x[::2])
    assert accepts(x[::-1, 1:5], x[:, :4])
    assert accepts(np.broadcast_to(x[:1], (4, 6)))
    assert not accepts(x[:, ::2])
    assert not accepts(x.T)
    assert not accepts(x, x.T)
    assert not accepts(x, floor=1e-10)
    assert not accepts(x.astype(">f4"))
    assert not accepts(x.astype(np.longdouble))
    unaligned = np.zeros(97, np.uint8)[1:].view(np.float32).reshape(4, 6)
    assert not accepts(unaligned)


def test_threads_give_the_same():
    rng = np.random.default_rng(12)
    x = rng.standard_normal((501, 1003), dtype=np.float32)
    rows = make_rows(Memory(x, False), rng.integers(0, 1003, 501), "float32")
    loss, d = walked(rows, "float32")
    losses, out = np.empty_like(loss), np.empty_like(d)
    threads.split(work(rows, losses, 1.0, Memory(out, False)), 501, 4)
    assert np.array_equal(losses, loss)
    assert np.array_equal(out, d)
