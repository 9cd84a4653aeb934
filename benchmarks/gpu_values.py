"""The checks of what a call computes, reads and writes: values against the oracle, memory beside the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

import crossent
from benchmarks.gpu_library import NotHereError
from benchmarks.gpu_subject import Subject, alike
from crossent_conformance import oracle, units

COMPUTED = {"float64": "float64"}
"""The dtype of the arithmetic, where it is not float32."""
GUARDS = 8
"""Elements between two rows, at least."""
LENGTHS = (1, 7, 1000, 1001, 4099, 50257, 131073)
"""Of rows that are looked at between guards; odd ones begin at any alignment."""


def engine_serves_every_dtype(subject: Subject) -> str:
    """engine="auto" takes the library's fastest engine, in every dtype of the logits."""
    if not subject.library.on_gpu:
        raise NotHereError("which engine serves a CPU is the business of test_select.py")
    taken = {}
    for dtype in subject.library.all_dtypes:
        x, _ = subject.rows(2, 5, dtype)
        taken[dtype] = crossent.explain(x)
        first = taken[dtype].partition("\n")[0]
        assert f"engine {subject.engine!r}" in first, f"{dtype}: not {subject.engine}; {taken[dtype]}"
    return f"{subject.engine} in {', '.join(taken)}"


def accuracy(subject: Subject) -> str:
    """Loss and gradient are within the contract's bound of the suite's 60-digit oracle, row by row."""
    told = []
    for dtype in subject.library.all_dtypes:
        worst = {"loss": 0.0, "d_logits": 0.0}
        count = 0
        for rows, targets in _telling_rows(subject, dtype):
            exact = oracle.cross_entropy(subject.library.numpy(rows), targets, reduction="none")
            found = subject.both(rows, subject.library.array(targets, "int64"), reduction="none")
            for what, got, expected in zip(worst, found, exact, strict=True):
                computed = COMPUTED.get(dtype, "float32")
                stored = dtype if what == "d_logits" else computed
                fractions = units.errors(subject.library.numpy(got), expected, computed, stored)
                worst[what] = max(worst[what], float(fractions.max()))
            count += len(targets)
        assert max(worst.values()) <= 1, f"{dtype}: {worst} of what is allowed"
        told.append(f"{dtype} {worst['loss']:.2f}, {worst['d_logits']:.2f} ({count} rows)")
    return "worst error of loss, of gradient, as a fraction of what is allowed: " + "; ".join(told)


def _telling_rows(subject: Subject, dtype: str) -> list[tuple[Any, np.ndarray]]:
    """Rows of any length, targets far ahead and far behind. Long rows repeat a few values: the oracle counts them."""
    random = np.random.default_rng(5)
    many = 20 if subject.small else 500
    found = []
    for v in (2, 17, 64):
        x = 3 * random.standard_normal((many, v))
        t = random.integers(0, v, many)
        x[np.arange(many), t] += random.choice([0, 5, 17, 20, 30, 80, -5, -60], many)
        found.append((x, t))
    for v in (1000, 4099) if subject.small else (1000, 4099, 32768, 50257, 131073, 262144):
        values = 4 * random.standard_normal(48)
        found.append((random.choice(values, (4, v)), random.integers(0, v, 4)))
    return [(subject.library.array(x, dtype), t) for x, t in found]


def rows_know_nothing_of_each_other(subject: Subject) -> str:
    """A row has the same bits alone and among others, at any alignment, in place and not, and every time."""
    library = subject.library
    lengths = (33, 1001) if subject.small else (33, 1001, 4096, 32768, 50257, 131072, 262144)
    for dtype in library.all_dtypes:
        for v in lengths:
            n = 9
            x, t = subject.rows(n, v, dtype)
            loss, gradient = subject.both(x, t, reduction="none")
            again = subject.both(x, t, reduction="none")
            alone = [subject.both(x[i : i + 1], t[i : i + 1], reduction="none") for i in range(n)]
            shifted = _guarded(subject, library.bits(x), dtype, offset=1)
            elsewhere = subject.both(shifted, t, reduction="none")
            only_loss = subject.loss(x, t, reduction="none")
            name = f"{dtype}, V={v}"
            for part, expected in enumerate((loss, gradient)):
                subject.same_bits(again[part], expected, f"{name}, the second time")
                subject.same_bits(elsewhere[part], expected, f"{name}, at another alignment")
                for i in range(n):
                    subject.same_bits(alone[i][part], expected[i : i + 1], f"{name}, row {i} alone")
            subject.same_bits(only_loss, loss, f"{name}, without a gradient")
            in_place = subject.both(x, t, reduction="none", out=x)
            subject.same_bits(in_place[1], gradient, f"{name}, in place")
    return f"rows of {', '.join(map(str, lengths))} in {', '.join(library.all_dtypes)}"


def _guarded(subject: Subject, bits: np.ndarray, dtype: str, *, offset: int) -> Any:
    """The rows with NaN before, between and after them; the offset moves every row off its alignment."""
    n, v = bits.shape
    wide = np.full((n + 2, v + offset + GUARDS), _nan(bits.dtype, dtype), dtype=bits.dtype)
    wide[1:-1, offset : offset + v] = bits
    return subject.library.from_bits(wide, dtype)[1 : n + 1, offset : offset + v]


def _nan(unsigned: np.dtype, dtype: str) -> int:
    """The bits of a NaN that no arithmetic gives."""
    return {"float64": 0x7FF8_0000_0000_1234, "float32": 0x7FC0_1234, "float16": 0x7E34, "bfloat16": 0x7FD2}[dtype]


def nothing_outside_the_rows(subject: Subject) -> str:
    """Guards between, before and after the rows are neither read as logits nor written by a gradient into `out`."""
    library = subject.library
    lengths = LENGTHS[:5] if subject.small else LENGTHS
    for dtype in library.all_dtypes:
        for v in lengths:
            x, t = subject.rows(5, v, dtype)
            expected = subject.both(x, t, reduction="none")
            bits = library.bits(x)
            for offset in (0, 1, 3):
                name = f"{dtype}, V={v}, offset {offset}"
                logits = _guarded(subject, bits, dtype, offset=offset)
                guard = _nan(bits.dtype, dtype)
                wide = np.full((7, v + offset + GUARDS), guard, dtype=bits.dtype)
                memory = library.from_bits(wide, dtype)
                found = subject.both(logits, t, reduction="none", out=memory[1:6, offset : offset + v])
                subject.same_bits(found[0], expected[0], f"loss, {name}")
                wide[1:6, offset : offset + v] = library.bits(expected[1])
                written = library.bits(memory) != wide
                rows = written[1:6, offset : offset + v]
                assert not rows.any(), f"{name}: {int(rows.sum())} values of the gradient are wrong"
                assert not written.any(), f"{name}: {int(written.sum())} elements outside the rows were written"
    return f"rows of {', '.join(map(str, lengths))}, three alignments, {', '.join(library.all_dtypes)}"


def ignored_rows(subject: Subject) -> str:
    """What lies in ignored rows does not matter: their loss and gradient are 0, and the other rows keep their bits."""
    library = subject.library
    lengths = (7, 1001) if subject.small else (7, 1001, 32768, 50257, 262144)
    for dtype in library.all_dtypes:
        for v in lengths:
            x, t = subject.rows(6, v, dtype)
            bits, targets = library.bits(x), library.numpy(t).copy()
            targets[1::2] = -100
            marked = library.array(targets, "int64")
            expected = subject.both(x, marked, reduction="none", ignore_index=-100)
            bits[1::2] = _nan(bits.dtype, dtype)
            poisoned = library.from_bits(bits, dtype)
            for way in ("fresh", "in place"):
                out = {} if way == "fresh" else {"out": poisoned}
                found = subject.both(poisoned, marked, reduction="none", ignore_index=-100, **out)
                for part, (got, wanted) in enumerate(zip(found, expected, strict=True)):
                    name = f"{('loss', 'gradient')[part]}, {dtype}, V={v}, {way}"
                    subject.same_bits(got, wanted, name)
                    assert not library.numpy(got)[1::2].any(), f"{name}: not 0 where ignored"
    return f"rows of {', '.join(map(str, lengths))} of NaN, {', '.join(library.all_dtypes)}"


def targets_outside(subject: Subject) -> str:
    """Unchecked targets outside the vocabulary make their own rows NaN, and touch no memory beside the rows."""
    library = subject.library
    lengths = (5, 1001) if subject.small else (5, 1001, 50257, 262144)
    wrong = (-1, 2**31, -(2**62), 2**62, 10**9)
    for dtype in library.all_dtypes:
        for v in lengths:
            x, t = subject.rows(2 * len(wrong) + 2, v, dtype)
            expected = subject.both(x, t, reduction="none")
            targets = library.numpy(t).copy()
            targets[1 : 2 * len(wrong) : 2] = wrong
            targets[-1] = v
            bad = np.zeros(len(targets), dtype=bool)
            bad[1::2] = True
            bits = library.bits(x)
            guard = _nan(bits.dtype, dtype)
            wide = np.full((len(bits) + 2, v + GUARDS), guard, dtype=bits.dtype)
            memory = library.from_bits(wide, dtype)
            out = memory[1:-1, 1 : 1 + v]
            loss, gradient = subject.both(x, library.array(targets, "int64"), reduction="none", out=out)
            name = f"{dtype}, V={v}"
            assert np.isnan(library.numpy(loss)[bad]).all(), f"{name}: a loss that is not NaN"
            assert np.isnan(library.numpy(gradient)[bad]).all(), f"{name}: a gradient that is not NaN"
            subject.same_bits(loss[::2], expected[0][::2], f"{name}, other losses")
            subject.same_bits(gradient[::2], expected[1][::2], f"{name}, other gradients")
            found = library.bits(memory)
            found[1:-1, 1 : 1 + v] = guard
            outside = int((found != guard).sum())
            assert not outside, f"{name}: {outside} elements outside the rows were written"
    return f"{', '.join(map(str, wrong))} and V, {', '.join(library.all_dtypes)}"


def more_than_2_31_logits(subject: Subject) -> str:
    """40000 x 65537 logits (5 GB), gradient in place: rows at both ends and past the 2**31st logit against float64."""
    library = subject.library
    if not library.on_gpu:
        raise NotHereError("5 GB, and minutes, without a GPU")
    n, v = 40000, 65537
    dtype = "bfloat16" if "bfloat16" in library.all_dtypes else "float16"
    needed = int(2.5 * n * v * 2)
    block = n // 10
    if library.free_memory() < needed:
        raise NotHereError(f"{library.free_memory() / 1e9:.0f} GB free, {needed / 1e9:.0f} GB needed")
    # Ten times the same block, each time larger: no two rows are alike, and no generator has to make so many numbers.
    (part,), _, _ = library.data(block, v, dtype, 1)
    x = library.empty(n, v, dtype)
    for k in range(10):
        x[k * block : (k + 1) * block] = part * (1 + k / 16)
    t = library.array(np.random.default_rng(9).integers(0, v, n), "int64")
    past = 2**31 // v
    looked_at = sorted({0, 1, past - 1, past, past + 1, past + 2, 36000, n - 2, n - 1})
    exact = {}
    for i in looked_at:
        loss, gradient = library.exact(x[i : i + 1], t[i : i + 1], 1)
        exact[i] = loss, library.numpy(gradient)[0]
    losses = library.numpy(subject.loss(x, t, reduction="none"))
    both, gradients = subject.both(x, t, reduction="none", out=x)
    library.synchronize()
    in_place = library.numpy(both)
    assert np.isfinite(losses).all(), f"{int((~np.isfinite(losses)).sum())} losses are not finite"
    assert (losses == in_place).all(), "the losses differ with and without a gradient"
    for i, (loss, gradient) in exact.items():
        # V1: 4 + log2(V / 4096) eps of float32, and in a gradient one more for each unit of its entry's logarithm; then
        # it is rounded to the dtype of the logits, below whose normal numbers that is half of the smallest.
        alike(losses[i], loss, 8 * 2.0**-23, f"loss of row {i}")
        half_ulp, smallest = (2.0**-8, 1e-30) if dtype == "bfloat16" else (2.0**-11, 2.0**-25)
        rtol = half_ulp + (8 + np.log(1 / 1e-30)) * 2.0**-23
        np.testing.assert_allclose(
            library.numpy(gradients[i]), gradient, rtol=rtol, atol=smallest, err_msg=f"gradient of row {i}"
        )
    return f"{dtype}, {n * v / 2**31:.2f} times 2**31; rows {', '.join(map(str, looked_at))}"


def many_rows(subject: Subject) -> str:
    """More rows than a grid has blocks in its second dimension: each has the loss that it has among few."""
    library = subject.library
    n, v = (3000, 3) if subject.small else (2_000_003, 33)
    x, t = subject.rows(n, v, "float32")
    loss, gradient = subject.both(x, t, reduction="none")
    few = np.unique(np.r_[0, 65534:65537, 131071:131073, n // 2, n - 1] % n)
    for i in few.tolist():
        expected = subject.both(x[i : i + 1], t[i : i + 1], reduction="none")
        subject.same_bits(loss[i : i + 1], expected[0], f"loss of row {i}")
        subject.same_bits(gradient[i : i + 1], expected[1], f"gradient of row {i}")
    assert not np.isnan(library.numpy(loss)).any(), "a loss is NaN"
    return f"{n} rows of {v}"


CHECKS = (
    engine_serves_every_dtype,
    accuracy,
    rows_know_nothing_of_each_other,
    nothing_outside_the_rows,
    ignored_rows,
    targets_outside,
    more_than_2_31_logits,
    many_rows,
)
