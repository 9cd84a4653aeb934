"""The CUDA engine's kernel, run on a CPU by the emulator: its bits, its memory, its barriers.

The suite, run on the emulator by `test_cuda_conformance.py`, says whether the numbers are right, and the emulator that
no row of weight 0 is read. Here is what the contract says of bits (R5), and that the emulator sees what it is there to
see: the last tests break the kernel.
"""

from __future__ import annotations

import shutil

import pytest
from tests import emulator

from crossent.engines import cuda
from crossent.math.rows import Coefficients, Rows
from crossent_conformance import oracle, units

torch = pytest.importorskip("torch")
from crossent.libraries.torch.library import TORCH  # noqa: E402

pytestmark = [emulator.needed, pytest.mark.extended]

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
PLAIN, SMOOTHED = Coefficients(), Coefficients(target_mass=0.9, smoothing=0.1)
SMALL = emulator.DEVICE._replace(clusters=False, multiprocessors=1)
LARGE = emulator.DEVICE._replace(multiprocessors=132)


def name(dtype):
    return str(dtype).removeprefix("torch.")


def make(dtype, n, v, seed=0, **rows):
    """Rows of which every other has a likely target: its loss is small, and shows the last bits of a sum."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, v, generator=generator) * 3
    t = torch.randint(0, v, (n,), generator=generator)
    x[torch.arange(0, n, 2), t[::2]] += 20
    return Rows(x.to(dtype), t, None, None, None, PLAIN, 0, v, compute(dtype))._replace(**rows)


def compute(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def walk(rows, out=None, scale=0.37):
    """The losses and the gradient, in `out` where it is given."""
    losses = torch.full(rows.logits.shape[:1], torch.nan, dtype=rows.dtype)
    out = torch.full_like(rows.logits, torch.nan) if out is None else out
    cuda.walk(TORCH, rows, losses, scale, out)
    return losses, out


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def kernels(monkeypatch):
    return emulator.install(monkeypatch)


SIZES = [3, 70, 1001, 5003, 17001]
OPTIONS = {
    "plain": {},
    "smoothed": {"coefficients": SMOOTHED},
    "classes": {"coefficients": SMOOTHED, "class_weights": "classes"},
    "soft": {"soft": "soft", "targets": None},
    "capped": {"coefficients": Coefficients(softcap=8.0, inverse_temperature=0.75)},
}


def with_options(rows, options):
    n, v = rows.logits.shape
    dtype = rows.logits.dtype
    given = dict(options)
    if "class_weights" in given:
        given["class_weights"] = torch.linspace(0.5, 2.0, v, dtype=compute(dtype))
    if "soft" in given:
        given["soft"] = torch.softmax(torch.arange(n * v, dtype=torch.float32).reshape(n, v) % 7, 1).to(dtype)
    return rows._replace(**given)


@pytest.mark.clause("R5")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("v", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_the_order_in_which_threads_run_changes_no_bit(kernels, dtype, v, options):
    rows = with_options(make(dtype, 5, v), options)
    first = walk(rows)
    assert not torch.isnan(first[0]).any()
    assert all(same(first, walk(rows)) for _ in range(4))


@pytest.mark.clause("R5")
@pytest.mark.parametrize("v", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_a_row_has_the_same_bits_wherever_it_lies(kernels, dtype, v):
    rows = make(dtype, 4, v)
    losses, d = walk(rows)
    alone = torch.empty_like(losses)
    cuda.walk(TORCH, rows, alone, None, None)
    assert torch.equal(alone, losses), "a loss without a gradient is another"
    for step, first in ((v, 1), (v + 1, 3), (v + 5, 0), (2 * v + 16 - 2 * v % 16, 0)):
        memory = torch.full((4 * step + 64,), float("nan"), dtype=dtype)
        begin = -(memory.data_ptr() // memory.itemsize) % 16 + first
        moved = memory[begin:].as_strided((4, v), (step, 1))
        moved.copy_(rows.logits)
        assert same(walk(rows._replace(logits=moved)), (losses, d)), (step, first)
        # The gradient over the logits.
        assert same(walk(rows._replace(logits=moved), out=moved), (losses, d)), (step, first)
    spaced = torch.full((4, 2 * v), float("nan"), dtype=dtype)[:, ::2]
    spaced.copy_(rows.logits)
    assert same(walk(rows._replace(logits=spaced)), (losses, d))
    assert same(walk(rows._replace(logits=spaced.T.contiguous().T)), (losses, d))
    if dtype != torch.float64:
        layouts = {chosen.layout for chosen in kernels}
        assert layouts == ({"UNALIGNED", "STRIDED"} if v < 1001 else {"ALIGNED", "UNALIGNED", "STRIDED"})


@pytest.mark.clause("R5")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("v", [70, 5003, 40000])
def test_a_row_has_the_same_bits_whatever_its_neighbours(kernels, v, options):
    rows = with_options(make(torch.float32, 9, v), options)
    losses, d = walk(rows)
    for i in (0, 4, 8):
        soft = None if rows.soft is None else rows.soft[i : i + 1]
        alone = rows.part(i, i + 1, rows.logits[i : i + 1], soft)
        assert same(walk(alone), (losses[i : i + 1], d[i : i + 1]))


@pytest.mark.clause("R5")
@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["smoothed"]], ids=["plain", "smoothed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("v", [5000, 41001])
def test_a_row_has_the_same_bits_however_many_blocks_share_it(monkeypatch, dtype, v, options):
    rows = with_options(make(dtype, 3, v), options)
    found, clusters = [], []
    for device in (SMALL, emulator.DEVICE, LARGE):
        kernels = emulator.install(monkeypatch, device)
        found.append(walk(rows))
        clusters += [shape.cluster for kernel in kernels.values() for shape in kernel.shapes]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert min(clusters) == 1
    assert max(clusters) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
def test_what_registers_do_not_hold_is_read_again(monkeypatch, dtype):
    kernels = emulator.install(monkeypatch, SMALL)
    rows = make(dtype, 2, 70001)
    losses, d = walk(rows, scale=1.0)
    (kernel,) = kernels.values()
    warps = kernel.shapes[0].threads // 32
    assert warps * kernel.chosen.width < 70001
    exact, exact_d = oracle.cross_entropy(rows.logits.double().numpy(), rows.targets.numpy(), reduction="none")
    units.check(losses.numpy(), exact, "float32")
    units.check(d.double().numpy(), exact_d, "float32", name(dtype), "d_logits")


@pytest.mark.clause("A4")
@pytest.mark.parametrize("v", [3, 5003])
@pytest.mark.parametrize("coefficients", [PLAIN, SMOOTHED], ids=["plain", "smoothed"])
def test_a_target_outside_makes_its_row_nan(kernels, v, coefficients):
    rows = make(torch.float32, 5, v, coefficients=coefficients)
    whole = walk(rows)
    targets = rows.targets.clone()
    targets[1], targets[3] = -1, v
    losses, d = walk(rows._replace(targets=targets))
    assert torch.isnan(losses[[1, 3]]).all()
    assert torch.isnan(d[[1, 3]]).all()
    kept = [0, 2, 4]
    assert torch.equal(losses[kept], whole[0][kept])
    assert torch.equal(d[kept], whole[1][kept])


# What is done to the kernel, and what the emulator must say of it: nothing but that the bits are not the right ones, or
# some words. The rows are 9 of bfloat16, at any address.
BROKEN = {
    "a barrier is missing": ("exchange.cuh", "        sync_cluster(blocks);\n", "", None),
    "one table for all turns": ("exchange.cuh", "        turn ^= 1;\n", "", None),
    "warps change places": (
        "hard.cuh",
        "exchange.send(piece, found);",
        "exchange.send(piece < 2 ? 1 - piece : piece, found);",
        None,
    ),
    "a granule past the end": ("tile.cuh", "place + COUNT <= room;", "place < room;", "read of 16 bytes"),
    "a granule before the row": ("tile.cuh", "(LAYOUT != UNALIGNED || place >= 0) && ", "", "no multiple of 16|bytes"),
    "rows begin elsewhere": ("rows.cuh", "sizeof(Bits) % COUNT", "sizeof(Bits) % 2", "no multiple of 16"),
    "a slot is not the next lane's": ("tile.cuh", "if (i < ahead) slots[i] = next;", "", None),
    "the target is counted": ("tile.cuh", "is_target ? Real(0) : e", "e", None),
    "the tail is not written": ("tile.cuh", "d.put_some(place_of(k), x, room);\n            }", "}", None),
    "the head is written twice": ("rows.cuh", "if (j + i >= 0 && j + i < stop) put(", "if (j + i < stop) put(", None),
    "an ignored row is read": ("hard.cuh", "is_row && !is_ignored<Real>(problem, row)", "is_row", "read of"),
    "lanes go different ways": ("hard.cuh", "row - (together ? 0 : team::before())", "row", "wait for a barrier"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_the_emulator_sees_what_is_broken(monkeypatch, tmp_path, broken):
    file, old, new, words = broken
    sources = shutil.copytree(cuda.SOURCE.parent, tmp_path / "cuda", ignore=shutil.ignore_patterns("*.py*", "__*"))
    text = (sources / file).read_text(encoding="utf-8")
    assert old in text
    (sources / file).write_text(text.replace(old, new), encoding="utf-8")
    few = "lanes" in old or "before" in old
    rows = make(torch.bfloat16, 9, 7 if few else 9003, weight=torch.tensor([1.0, 0.0, *[1.0] * 7]))

    def seen(source):
        emulator.install(monkeypatch, source=source)
        return walk(rows)

    whole = seen(cuda.SOURCE)
    if words is None:
        try:
            found = [seen(sources / "kernel.cu") for _ in range(6)]
        except AssertionError:
            return
        assert not all(same(whole, one) for one in found)
    else:
        with pytest.raises(AssertionError, match=words):
            seen(sources / "kernel.cu")
