"""Clauses A7, A10 and L4: more logits than a 32-bit index can count, and no memory but what the contract allows.

On a CPU both are asked in processes of their own (`confined`): see `many` and `peak_memory`.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest

from crossent_conformance import agree, confined, linear, many
from crossent_conformance.backends import Mode
from crossent_conformance.peak_memory import HALF, LINEAR, MAIN, MEMORY, SLOWER
from crossent_conformance.subject import DoesNotApply

MIB = 1 << 20
BLOCK = 8 * MIB
"""What is allowed for one block of logits, its intermediate results and the rows' numbers."""


def _given(result):
    """The result of another process, unless it is none."""
    if "lacks" in result:
        raise DoesNotApply(result["lacks"])
    assert "raised" not in result, result["raised"]
    return result


def _takes(place, subject, dtype):
    """Find out before a process is started that it would have something to ask."""
    kind = HALF[place.backend.name] if dtype == "half" else dtype
    if kind not in subject.traits.dtypes:
        raise DoesNotApply(f"logits of {kind}")


def _check(place, compared):
    agree.alike(place, np.array(compared["found"]), np.array(compared["expected"]))


@pytest.mark.elsewhere
@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A7_more_logits_than_32_bits_count(place, subject):
    _check(place, _given(confined.run("crossent_conformance.many", place.backend.name, subject.spec)))


@pytest.mark.places(backends=("torch-cuda",), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A7_more_logits_than_32_bits_count_on_a_device(place, subject):
    try:
        compared = many.compare(subject, place.backend)
    except Exception as error:
        if confined.is_for_memory(error):
            raise DoesNotApply(f"more memory than here: {error}") from error
        raise
    _check(place, compared)


@cache
def _peaks(backend: str, dtype: str, shape: str, spec: str) -> dict[str, dict[str, int]]:
    found = confined.run("crossent_conformance.peak_memory", backend, dtype, shape, spec)
    assert found["copy"]["extra"] > 0.9 * found["copy"]["logits"] > BLOCK, "the measurement sees no copy of the logits"
    return found


SCENARIOS = [
    *((dtype, shape, what) for dtype in ("float32", "half") for shape in ("tokens", "classes") for what in MAIN),
    *(("float32", "tokens", what) for what in SLOWER),
]


@pytest.mark.elsewhere
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.places(backends=("numpy", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("scenario", SCENARIOS, ids="-".join)
def test_A10_extra_memory(place, subject, scenario):
    dtype, shape, what = scenario
    _takes(place, subject, dtype)
    measured = _given(_peaks(place.backend.name, dtype, shape, subject.spec)[what])
    assert measured["extra"] <= measured["gradient"] + BLOCK, (
        f"{measured['extra'] / MIB:.1f} MiB more than before the call"
    )


@cache
def _peaks_of_linear(backend: str, dtype: str, spec: str) -> dict[str, dict[str, int]]:
    return confined.run("crossent_conformance.peak_memory", backend, dtype, "linear", spec)


@pytest.mark.elsewhere
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.places(
    backends=("numpy", "torch"),
    modes=(Mode.EAGER,),
    dtypes=("float32",),
    when=lambda place, what, dtype: what != "backward" or place.backend.name == "torch",
)
@pytest.mark.parametrize("dtype", ["float32", "half"])
@pytest.mark.parametrize("what", LINEAR)
def test_L4_extra_memory(place, subject, what, dtype):
    _takes(place, subject, dtype)
    if linear.found(subject, "linear") is None and linear.found(subject, "linear_and_grad") is None:
        raise DoesNotApply(linear.LACK)
    measured = _given(_peaks_of_linear(place.backend.name, dtype, subject.spec)[what])
    assert measured["extra"] <= measured["gradient"] + MEMORY + BLOCK, (
        f"{measured['extra'] / MIB:.1f} MiB more than before the call"
    )
