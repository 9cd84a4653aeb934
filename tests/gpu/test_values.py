"""What a call computes, reads and writes where a GPU's engine takes other ways than the suite's small arrays show."""

from __future__ import annotations

import numpy as np
import pytest
from tests.gpu.subject import NAN

import crossent
from crossent_conformance import oracle, units

pytestmark = pytest.mark.gpu
lengths = pytest.mark.lengths
OFFSETS = (0, 1, 3)


def test_the_compiled_engine_serves_every_dtype(gpu, dtype):
    """Without a word of the caller's; what it cannot serve would be asked of another engine by all other tests."""
    first = crossent.explain(gpu.rows(2, 5, dtype)[0]).partition("\n")[0]
    assert f"engine {gpu.engine!r}" in first


@lengths(1000, 4099, 32768, 50257, 131073, 262144)
def test_long_rows_are_within_the_contracts_bound(gpu, dtype, v, record_property):
    """V1 of the 60-digit oracle. Rows repeat a few values: the oracle counts them."""
    random = np.random.default_rng(5)
    rows = gpu.backend.asarray(random.choice(4 * random.standard_normal(48), (4, v)), dtype)
    targets = random.integers(0, v, 4)
    exact = oracle.cross_entropy(gpu.numpy(rows), targets, reduction="none")
    found = gpu.both(rows, gpu.backend.asarray(targets, "int64"), reduction="none")
    computed = "float64" if dtype == "float64" else "float32"
    for what, stored, got, expected in zip(("loss", "gradient"), (computed, dtype), found, exact, strict=True):
        worst = float(units.errors(gpu.numpy(got), expected, computed, stored).max())
        record_property("seen", f"{what} at {worst:.2f} of what is allowed")
        assert worst <= 1, what


@lengths(33, 1001, 4096, 32768, 50257, 131072, 262144)
def test_rows_know_nothing_of_each_other(gpu, dtype, v):
    """R5: the same bits alone and among others, at any alignment, in place and not, with a gradient and without."""
    x, t = gpu.rows(9, v, dtype)
    expected = gpu.both(x, t, reduction="none")
    _, shifted = gpu.guarded(gpu.bits(x), dtype, 1)
    for part in range(2):
        gpu.same_bits(gpu.both(x, t, reduction="none")[part], expected[part], "the second time")
        gpu.same_bits(gpu.both(shifted, t, reduction="none")[part], expected[part], "at another alignment")
        for i in range(9):
            alone = gpu.both(x[i : i + 1], t[i : i + 1], reduction="none")
            gpu.same_bits(alone[part], expected[part][i : i + 1], f"row {i} alone")
    gpu.same_bits(gpu.loss(x, t, reduction="none"), expected[0], "without a gradient")
    gpu.same_bits(gpu.both(x, t, reduction="none", out=x)[1], expected[1], "in place")


def _log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@lengths(33, 1001, 4096, 50257, 131072, 262144)
def test_what_rows_tell_besides_their_loss(gpu, dtype, v):
    """The loss has the bits of `cross_entropy`; the rest is float64's, to what a logit is rounded by."""
    x, t = gpu.rows(9, v, dtype)
    found = gpu.told(x, t)
    gpu.same_bits(found.loss, gpu.loss(x, t, reduction="none"), "the loss")
    logits, targets, eps = gpu.numpy(x), gpu.numpy(t), units.EPS["float64" if dtype == "float64" else "float32"]
    log_p, own = _log_softmax(logits), logits[np.arange(9), targets]
    entropy = -(np.exp(log_p) * log_p).sum(1)
    most = (logits - log_p).max(1)
    for what, got, expected in (("entropy", found.entropy, entropy), ("log_sum_exp", found.log_sum_exp, most)):
        assert np.abs(gpu.numpy(got) - expected).max() <= 64 * eps * (1 + np.abs(logits).max()), what
    assert (gpu.numpy(found.rank) == (logits > own[:, None]).sum(1)).all(), "rank"


@lengths(33, 1001, 4096, 50257, 131072, 262144)
@pytest.mark.parametrize("measure", ["entropy", "forward", "reverse", "jensen-shannon"])
def test_measures_are_those_of_float64(gpu, dtype, v, measure):
    """And a row has the same bits alone, in place, and without a gradient."""
    x, _ = gpu.rows(5, v, dtype)
    teacher, _ = gpu.rows(5, v, gpu.half, 1)
    values, d = gpu.measured(x, teacher, measure)
    log_p, log_q = _log_softmax(gpu.numpy(x)), _log_softmax(gpu.numpy(teacher))
    p, q = np.exp(log_p), np.exp(log_q)
    if measure == "entropy":
        exact = -(p * log_p).sum(1, keepdims=True)
        slope = -p * (log_p + exact)
    elif measure == "forward":
        exact, slope = (q * (log_q - log_p)).sum(1, keepdims=True), p - q
    else:
        share = 1.0 if measure == "reverse" else 0.5
        log_m = log_q if measure == "reverse" else np.logaddexp(log_p, log_q) - np.log(2)
        exact = (p * (log_p - log_m)).sum(1, keepdims=True)
        slope = share * p * (log_p - log_m - exact)
        if share != 1:
            exact = 0.5 * exact + 0.5 * (q * (log_q - log_m)).sum(1, keepdims=True)
    eps = units.EPS["float64" if dtype == "float64" else "float32"]
    assert np.abs(gpu.numpy(values) - exact[:, 0]).max() <= 512 * eps * (1 + np.abs(exact).max()), "value"
    limit = 512 * eps * np.abs(slope).max() + 2 * units.EPS[dtype] * np.abs(slope) + units.SMALLEST[dtype]
    assert (np.abs(gpu.numpy(d) - slope) <= limit).all(), "gradient"
    gpu.same_bits(gpu.measure(x, teacher, measure), values, "without a gradient")
    for i in range(5):
        alone = gpu.measured(gpu.copy(x[i : i + 1]), teacher[i : i + 1], measure)
        gpu.same_bits(alone[0], values[i : i + 1], f"row {i} alone")
        gpu.same_bits(alone[1], d[i : i + 1], f"row {i} alone")
    gpu.same_bits(gpu.measured(x, teacher, measure, out=x)[1], d, "in place")


@lengths(1, 7, 1000, 1001, 4099, 50257, 131073)
def test_nothing_outside_the_rows_is_read_or_written(gpu, dtype, v):
    """A2: guards lie between, before and after the rows of the logits and of `out`."""
    x, t = gpu.rows(5, v, dtype)
    expected = gpu.both(x, t, reduction="none")
    right = gpu.bits(expected[1])
    for offset in OFFSETS:
        _, logits = gpu.guarded(gpu.bits(x), dtype, offset)
        memory, out = gpu.guarded(np.zeros_like(right), dtype, offset)
        found = gpu.both(logits, t, reduction="none", out=out)
        gpu.same_bits(found[0], expected[0], f"loss, offset {offset}")
        gpu.same_bits(
            memory, gpu.guarded(right, dtype, offset)[0], f"gradient and what lies around it, offset {offset}"
        )


@lengths(7, 1001, 32768, 50257, 262144)
@pytest.mark.parametrize("way", ["fresh", "in place"])
def test_what_lies_in_ignored_rows_does_not_matter(gpu, dtype, v, way):
    x, t = gpu.rows(6, v, dtype)
    bits, targets = gpu.bits(x), gpu.numpy(t).copy()
    targets[1::2] = -100
    marked = gpu.backend.asarray(targets, "int64")
    expected = gpu.both(x, marked, reduction="none", ignore_index=-100)
    bits[1::2] = NAN[dtype]
    poisoned = gpu.from_bits(bits, dtype)
    out = {} if way == "fresh" else {"out": poisoned}
    found = gpu.both(poisoned, marked, reduction="none", ignore_index=-100, **out)
    for got, wanted in zip(found, expected, strict=True):
        gpu.same_bits(got, wanted, "beside rows of NaN")
        assert not gpu.numpy(got)[1::2].any()


@lengths(5, 1001, 50257, 262144)
def test_unchecked_targets_outside_make_their_own_rows_nan(gpu, dtype, v):
    """A4; they touch no memory beside the rows either."""
    wrong = np.array([-1, 2**31, -(2**62), 2**62, 10**9, v])
    x, t = gpu.rows(2 * len(wrong), v, dtype)
    expected = gpu.both(x, t, reduction="none")
    targets = gpu.numpy(t).copy()
    targets[1::2] = wrong
    memory, out = gpu.guarded(gpu.bits(x), dtype, 1)
    found = gpu.both(x, gpu.backend.asarray(targets, "int64"), reduction="none", out=out)
    for got, wanted in zip(found, expected, strict=True):
        assert np.isnan(gpu.numpy(got)[1::2]).all(), "not NaN"
        gpu.same_bits(got[::2], wanted[::2], "other rows")
    gpu.same_bits(memory, gpu.guarded(gpu.bits(found[1]), dtype, 1)[0], "outside the rows")


def test_more_than_2_31_logits(gpu, record_property):
    """5 GB, gradient in place: rows at both ends and past the 2**31st logit are what they are among few."""
    n, v = 40000, 65537
    if gpu.small or gpu.device.memory()[0] < 5 * n * v:
        pytest.skip("too little memory")
    block, t = n // 10, gpu.backend.asarray(np.random.default_rng(9).integers(0, v, n), "int64")
    part, _ = gpu.rows(block, v, gpu.half)
    # Ten times the same block, each time larger: no two rows are alike, and few numbers have to be drawn.
    x = gpu.backend.asarray(np.zeros((n, 1)), gpu.half) * part[:1]
    for k in range(10):
        x[k * block : (k + 1) * block] = part * (1 + k / 16)
    past = 2**31 // v
    seen = sorted({0, 1, past - 1, past, past + 1, past + 2, 36000, n - 2, n - 1})
    expected = {i: gpu.both(gpu.copy(x[i : i + 1]), t[i : i + 1], reduction="none") for i in seen}
    losses = gpu.copy(gpu.loss(x, t, reduction="none"))
    found = gpu.both(x, t, reduction="none", out=x)
    gpu.same_bits(found[0], losses, "with a gradient and without")
    assert np.isfinite(gpu.numpy(losses)).all()
    for i, wanted in expected.items():
        for got, right in zip(found, wanted, strict=True):
            gpu.same_bits(got[i : i + 1], right, f"row {i}")
    record_property("seen", f"{n * v / 2**31:.2f} times 2**31 logits of {gpu.half}; rows {', '.join(map(str, seen))}")


def test_more_rows_than_a_grid_has_blocks_in_a_dimension(gpu):
    n, v = (3000, 3) if gpu.small else (2_000_003, 33)
    x, t = gpu.rows(n, v, "float32")
    found = gpu.both(x, t, reduction="none")
    for i in np.unique(np.r_[0, 65534:65537, 131071:131073, n // 2, n - 1] % n).tolist():
        expected = gpu.both(x[i : i + 1], t[i : i + 1], reduction="none")
        for got, wanted in zip(found, expected, strict=True):
            gpu.same_bits(got[i : i + 1], wanted, f"row {i}")
    assert not np.isnan(gpu.numpy(found[0])).any()
