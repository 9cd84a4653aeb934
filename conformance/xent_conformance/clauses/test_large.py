"""Clauses A7 and A10: more logits than a 32-bit index can count, and no memory but what the contract allows.

Peaks are those of the whole process, measured in a fresh one: see `xent_conformance.peak_memory`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from xent_conformance import cases
from xent_conformance.backends import Mode

MIB = 1 << 20
BLOCK = 8 * MIB
"""What is allowed for one block of logits, its intermediate results and the rows' numbers."""


@pytest.mark.clause("A7", "R5")
@pytest.mark.places(backends=("numpy", "torch", "torch-cuda", "cupy"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A7_more_logits_than_32_bits_count(place, subject):
    """One row, seen again and again through a stride of 0: the walk is whole, the memory small."""
    V, N = 40_000, 54_000
    assert N * V > 2**31
    logits, _ = cases.random((1,), V)
    row = place.put(logits, place.dtype)
    targets = cases.generator(7).integers(0, V, N).astype(np.int32)
    ends = np.r_[0:3, N - 3 : N]
    targets[ends] = [0, V - 1, 5, 0, 7, V - 1]
    many = row.expand(N, V) if place.backend.name.startswith("torch") else np.broadcast_to(row, (N, V))
    loss = place.to_numpy(subject.loss(many, place.put(targets), reduction="none"))
    assert loss.shape == (N,)
    some = np.r_[ends, N // 2 : N // 2 + 5]
    few = row.expand(len(some), V) if place.backend.name.startswith("torch") else np.broadcast_to(row, (len(some), V))
    expected = place.to_numpy(subject.loss(few, place.put(targets[some]), reduction="none"))
    np.testing.assert_array_equal(loss[some], expected)


@cache
def _peaks(library: str, subject: str) -> dict[str, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "xent_conformance.peak_memory", library, subject],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SCENARIOS = [
    f"{dtype}-{shape}-{what}"
    for dtype in ("float32", "half")
    for shape in ("tokens", "classes")
    for what in ("loss", "smoothed", "weighted", "gradient", "in-place", "object")
]
EXTRA = [f"float32-tokens-{what}" for what in ("soft", "explicit", "soft-in-place", "explicit-in-place", "transposed")]


@pytest.mark.clause("A10")
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("scenario", SCENARIOS + EXTRA)
def test_A10_extra_memory(place, scenario, pytestconfig):
    measured = _peaks(place.backend.name, pytestconfig.getoption("--subject"))[scenario]
    assert measured["extra"] <= measured["gradient"] + BLOCK, (
        f"{measured['extra'] / MIB:.1f} MiB more than before the call"
    )


@pytest.mark.clause("A10")
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A10_the_measurement_sees_a_copy(place, pytestconfig):
    measured = _peaks(place.backend.name, pytestconfig.getoption("--subject"))["copy"]
    assert measured["extra"] >= 0.9 * measured["logits"]
