"""Plans of the CUDA engine: every one can be launched, and what decides a row's bits is decided by the row."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests import emulator

from crossent.engines.cuda import SOURCE, argument, plan
from crossent.engines.cuda.launch import Properties
from crossent.engines.cuda.memory import Matrix
from crossent.engines.cuda.plan import Variant

H100 = Properties("sm_90", multiprocessors=132, shared=232448, clusters=True)
A100 = Properties("sm_80", multiprocessors=108, shared=166912, clusters=False)
RTX = Properties("sm_89", multiprocessors=24, shared=101376, clusters=False)
# A slice of an H100 that is shared among several users.
SLICE = Properties("sm_90", multiprocessors=14, shared=232448, clusters=True)
DEVICES = (H100, A100, RTX, SLICE)
FORMATS = ("bfloat16", "float16", "float32", "float64")
ITEMSIZE = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
SPREADS = plan.TARGETS[4:]
WRITING = ("walk", "gradient")


class Kernel:
    """What a device says of a kernel: clusters of more than `largest` blocks do not fit."""

    def __init__(self, device, largest):
        self.device, self.largest = device, largest

    def blocks_per_multiprocessor(self, threads, shared=0):
        assert threads % 32 == 0
        assert shared <= self.device.shared
        by_shared = self.device.shared // shared if shared else 32
        return max(1, min(2048 // threads, by_shared))

    def active_clusters(self, threads, cluster, shared=0):
        if cluster > self.largest:
            return 0
        assert cluster == 1 or self.device.clusters
        return self.blocks_per_multiprocessor(threads, shared) * self.device.multiprocessors // cluster


KERNELS = {(device, largest): Kernel(device, largest) for device in DEVICES for largest in (1, 8, 16)}


@st.composite
def matrices(draw, format, shape):
    """A matrix of that shape somewhere in memory."""
    rows, classes = shape
    address = 1 << 20 | draw(st.integers(0, 15)) * ITEMSIZE[format]
    row = draw(st.sampled_from([classes, classes + 1, -(-classes // 16) * 16, -classes, 0]))
    column = draw(st.sampled_from([1, 1, 1, 2, -1, 0, rows]))
    return Matrix(address, row, column, shape, format)


@st.composite
def problems(draw):
    """A device, what is asked of it, and where its matrices lie."""
    device = draw(st.sampled_from(DEVICES))
    format = draw(st.sampled_from(FORMATS))
    targets = draw(st.sampled_from(plan.TARGETS))
    classes = min(draw(_sizes(2_000_000)), plan.most_classes(format, device))
    return device, format, targets, draw(_sizes(1_000_000)), classes


def _sizes(largest):
    """Numbers of every magnitude."""
    return st.integers(0, largest.bit_length() - 1).flatmap(
        lambda bits: st.integers(1 << bits, min(2 << bits, largest))
    )


def drawn_variant(data, format, targets, rows, classes, verbs=plan.VERBS):
    x, d = (data.draw(matrices(format, (rows, classes))) for _ in range(2))
    verb = data.draw(st.sampled_from([verb for verb in verbs if verb in plan.verbs_of(targets)]))
    return plan.variant(x, d if verb in WRITING else None, targets, verb)


@pytest.mark.extended
@settings(max_examples=600, deadline=None)
@given(problems(), st.sampled_from([1, 8, 16]), st.data())
def test_every_plan_can_be_launched(problem, largest, data):
    device, format, targets, rows, classes = problem
    chosen = drawn_variant(data, format, targets, rows, classes)
    assert chosen in plan.all_variants()
    shape, pieces = plan.plan(chosen, rows, classes, KERNELS[device, largest], device)

    assert shape.cluster in (1, 2, 4, 8, 16)
    assert shape.cluster == 1 or device.clusters
    assert 0 < shape.blocks < 1 << 31
    assert shape.blocks % shape.cluster == 0
    assert shape.threads % 32 == 0
    assert 0 < shape.threads <= chosen.threads
    assert 0 <= shape.shared <= device.shared

    warps = shape.threads // 32 * shape.cluster
    assert pieces >= 1
    if pieces == 1:
        assert shape.cluster == 1
        assert targets in SPREADS or classes <= chosen.width
        # No block without a row.
        assert (shape.blocks - 1) * shape.threads < rows * chosen.lanes
    elif targets in SPREADS:
        assert pieces == warps
        assert shape.cluster <= min(largest, 8)
    else:
        assert shape.cluster <= largest
        assert (pieces - 1) * chosen.width < classes <= pieces * chosen.width
        assert chosen.lanes == 32
        # A warp less in each block would not do for the pieces, or some warps have several.
        assert (shape.threads // 32 - 1) * shape.cluster < pieces
        assert shape.cluster < 2 * pieces
        assert shape.blocks <= shape.cluster * rows
        most = chosen.threads // 32 * (largest if device.clusters else 1)
        if chosen.verb == "walk" and pieces <= most:
            assert pieces <= warps, "a tile that the registers would hold is read twice"


@settings(max_examples=300, deadline=None)
@given(problems(), st.sampled_from([("losses", "walk", "describe"), ("statistics",), ("gradient",)]), st.data())
def test_what_decides_the_bits_of_a_row_is_decided_by_the_row(problem, verbs, data):
    device, format, targets, _, classes = problem
    assume(set(verbs) & set(plan.verbs_of(targets)))
    found = set()
    for _ in range(4):
        rows, largest = data.draw(_sizes(1_000_000)), data.draw(st.sampled_from([8, 16]))
        chosen = drawn_variant(data, format, targets, rows, classes, verbs)
        shape, pieces = plan.plan(chosen, rows, classes, KERNELS[device, largest], device)
        threads = (shape.threads, shape.cluster) if targets in SPREADS and pieces > 1 else None
        found.add((chosen.format, chosen.targets, chosen.lanes, chosen.width, pieces, threads))
    assert len(found) == 1


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FORMATS), st.sampled_from(plan.TARGETS), st.data())
@example("float64", "SMOOTHED", None)
def test_the_longest_row_that_a_device_walks(format, targets, data):
    device = H100 if data is None else data.draw(st.sampled_from(DEVICES))
    most = plan.most_classes(format, device)
    assert most > 500_000
    for verb in plan.verbs_of(targets):
        x = Matrix(1 << 20, most, 1, (3, most), format)
        chosen = plan.variant(x, x if verb in WRITING else None, targets, verb)
        shape, _ = plan.plan(chosen, 3, most, KERNELS[device, 16], device)
        assert shape.shared <= device.shared


def matrix(rows, classes, format="bfloat16", address=1 << 20, **steps):
    return Matrix(address, **{"row": classes, "column": 1, **steps}, shape=(rows, classes), format=format)


@pytest.mark.parametrize(
    ("logits", "out", "layout"),
    [
        (matrix(9, 4096), None, "ALIGNED"),
        (matrix(9, 4096), matrix(9, 4096), "ALIGNED"),
        (matrix(9, 4096), matrix(9, 4096, address=(1 << 20) + 2), "STRIDED"),
        (matrix(9, 4096, address=(1 << 20) + 2), matrix(9, 4096, address=(1 << 21) + 2), "UNALIGNED"),
        (matrix(9, 4097), None, "UNALIGNED"),
        (matrix(9, 4097), matrix(9, 4097), "UNALIGNED"),
        # A gradient in memory of its own, of logits that were cut out of longer rows.
        (matrix(9, 4097, row=4104), matrix(9, 4097), "STRIDED"),
        (matrix(9, 4096, row=4104), matrix(9, 4096), "ALIGNED"),
        (matrix(9, 4096, row=0), None, "ALIGNED"),
        (matrix(9, 4096, row=-4096), matrix(9, 4096), "ALIGNED"),
        (matrix(9, 4096, row=1, column=9), None, "STRIDED"),
        (matrix(9, 4096), matrix(9, 4096, row=1, column=9), "STRIDED"),
        (matrix(9, 4096), matrix(9, 4096, row=8192, column=2), "STRIDED"),
        # A row of one class has no steps.
        (matrix(9, 1, row=3, column=7), matrix(9, 1, row=3, column=0), "UNALIGNED"),
        # One row begins where it begins, whatever the step to the next.
        (matrix(1, 4097), None, "ALIGNED"),
        (matrix(1, 4097, row=1), matrix(1, 4097), "ALIGNED"),
        (matrix(1, 4097, address=(1 << 20) + 6), matrix(1, 4097, row=5, address=(1 << 21) + 6), "UNALIGNED"),
    ],
)
def test_layouts(logits, out, layout):
    verb = "losses" if out is None else "walk"
    assert plan.variant(logits, out, "HARD", verb).layout == layout
    assert plan.variant(logits, out, "SOFT", verb).layout == "STRIDED"


@pytest.mark.parametrize(
    ("format", "classes", "lanes"),
    [("bfloat16", 32, 1), ("bfloat16", 33, 8), ("bfloat16", 512, 8), ("bfloat16", 513, 32), ("float32", 17, 8)],
)
def test_short_rows_have_few_lanes(format, classes, lanes):
    chosen = plan.variant(matrix(9, classes, format), None, "HARD", "losses")
    assert chosen.lanes == lanes
    assert chosen.layout == ("ALIGNED" if lanes == 32 and classes % 8 == 0 else "UNALIGNED")


def planned(rows, classes, format="bfloat16", targets="HARD", gradient=True, device=H100, largest=16):
    x = matrix(rows, classes, format)
    chosen = plan.variant(x, x if gradient else None, targets, "walk" if gradient else "losses")
    return plan.plan(chosen, rows, classes, KERNELS[device, largest], device)


def test_plans_of_an_h100():
    # A vocabulary of 128 thousand in bfloat16: 64 tiles, four blocks of 16 warps, all of them held in registers.
    shape, pieces = planned(8192, 131072)
    assert (pieces, shape.cluster, shape.threads) == (64, 4, 512)
    # Without a gradient nothing has to be held: eight warps go over the tiles, and blocks need no clusters.
    shape, pieces = planned(8192, 131072, gradient=False)
    assert (pieces, shape.cluster, shape.threads) == (64, 1, 256)
    # Few rows are shared out among more blocks.
    assert planned(8, 131072)[0].cluster == 16
    assert planned(8, 131072, gradient=False)[0].cluster == 16
    assert planned(8, 131072, gradient=False, largest=8)[0].cluster == 8
    assert planned(8, 131072, gradient=False, device=A100)[0].cluster == 1
    # A short row belongs to a lane or a few.
    assert planned(10_000, 10)[0].blocks == -(-10_000 // 128)


def test_where_no_cluster_runs_at_all_blocks_walk_alone():
    shape, _ = planned(8, 131072, largest=1)
    assert shape.cluster == 1


@emulator.needed
def test_the_kernel_has_the_same_numbers(tmp_path):
    """A structure's places, a tile's width and what a piece takes of shared memory: C++ and Python have them twice."""
    claims = [f"sizeof(Problem) == {argument.ctypes.sizeof(argument.Problem)}"]
    for name, kind in argument.Problem._fields_:
        field = getattr(argument.Problem, name)
        claims += [
            f"offsetof(Problem, {name}) == {field.offset}",
            f"sizeof(Problem::{name}) == {field.size}",
            f"std::is_floating_point<decltype(Problem::{name})>::value == {int(kind is argument.ctypes.c_double)}",
            f"std::is_pointer<decltype(Problem::{name})>::value == {int(kind is argument.ctypes.c_void_p)}",
        ]
    for chosen in plan.all_variants():
        macros = dict(chosen.macros)
        format, spreads = macros["CROSSENT_FORMAT"], str(chosen.describes).lower()
        claims.append(f"{format}::COUNT == {chosen.in_granule}")
        if chosen.targets in SPREADS:
            claims.append(f"2 * sizeof(Message) == {plan._entry(chosen)}")
        else:
            claims += [
                f"Tile<{format}, {chosen.layout}, {chosen.lanes}, {chosen.targets}, {spreads}, "
                f"{chosen.transform}>::WIDTH == {chosen.width}",
                f"2 * sizeof(Part<{format}::Real, {spreads}>) == {plan._entry(chosen)}",
            ]
    some = Variant("float32", "STRIDED", "HARD", "losses", 32)
    text = ['#define CROSSENT_MACHINE "machine.h"', *(f"#define {name} {value}" for name, value in some.macros)]
    text += ["#include <cstddef>", "#include <type_traits>", '#include "kernel.cu"']
    text += [f'static_assert({claim}, "");' for claim in claims]
    (tmp_path / "claims.cpp").write_text("\n".join(text))
    command = [emulator.COMPILER, "-std=c++17", "-fsyntax-only", "-w", f"-I{emulator.HERE}", f"-I{SOURCE.parent}"]
    done = subprocess.run([*command, tmp_path / "claims.cpp"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
