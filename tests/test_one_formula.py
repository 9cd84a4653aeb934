"""One formula: what `math.outcome` makes of statistics, Numba's and CUDA's copies make of them too.

The statistics are random ones, and all special ones beside each other. What may differ is the rounding of each term.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from tests import emulator

from crossent.engines.cuda.argument import Problem
from crossent.libraries import NUMPY
from crossent.math.outcome import outcome
from crossent.math.rows import Coefficients
from crossent.math.statistics import UNIT, KeptApart, RowStatistics, SmoothingSums

NUMBERS = ("loss", "factor", "uniform_term", "target_entry")
COEFFICIENTS = [
    Coefficients(),
    Coefficients(z_loss=0.01),
    Coefficients(z_loss=4.0),
    Coefficients(0.9, 0.1),
    Coefficients(0.7, 0.3, 1),
    Coefficients(0.7, 0.3, 1, 0.02),
    Coefficients(0.0, 1.0),
]
INF, NAN = np.inf, np.nan


def _statistics(kind, dtype):
    """Lines of maximum, others, target, count, mass, weighted gap and own, for as many rows as there are choices."""
    rng = np.random.default_rng(5)
    n = 4096
    maximum = rng.choice([1.0, 30.0, 1e4], n) * rng.standard_normal(n)
    tau = np.where(rng.random(n) < 0.4, 0.0, -(10.0 ** rng.uniform(-6, 2, n)))
    others = np.where(tau == 0, 10.0 ** rng.uniform(-30, 4, n), 1 + 10.0 ** rng.uniform(-7, 4, n))
    count = rng.integers(1, 1000, n).astype(float)
    mass = count if kind == "smoothed" else rng.random(n)
    found = [maximum, others, maximum + tau, count, mass, mass * 100 * rng.random(n) * UNIT]
    # What rows can hold: where the target is not the maximum, S ≥ 1; of nothing but −∞, nothing adds up.
    big = float(np.finfo(dtype).max / 3)
    places = [(m, o, m) for m in (0.0, big, -big) for o in (0.0, 1.0, 1e6)]
    places += [(m, o, m - gap) for m in (0.0, big, -big) for o in (1.0, 1e6) for gap in (2.0, INF)]
    places += [(-INF, 0.0, -INF), *((INF, NAN, t) for t in (INF, 0.0, -INF)), (NAN, NAN, NAN), (NAN, NAN, 0.0)]
    sums = [(0.0, 0.0, 0.0), *((5.0, mass, gap * UNIT) for mass in (5.0, 1e-30, 1e30) for gap in (0.0, 3.0, INF))]
    special = [(*place, *more) for place in places for more in sums]
    with np.errstate(all="ignore"):
        found = np.concatenate([found, np.transpose(special)], axis=1)
        own = rng.choice([0.0, 1.0, 0.3], found.shape[1])
        lines = np.concatenate([found, own[None]]).astype(dtype)
    if kind == "smoothed":
        lines[4] = lines[3]
    # Where the target is the maximum, it is exactly so.
    lines[2] = np.where(np.append(tau == 0, np.zeros(len(special), bool)), lines[0], lines[2])
    return lines[:, : lines.shape[1] // 16 * 16].copy()


def _of_math(kind, lines, weight, scale, c):
    maximum, others, target, *sums, own = lines
    apart = KeptApart(np.zeros(len(own), np.int64), own) if kind == "soft" else None
    found = RowStatistics(maximum, others, target, None if kind == "hard" else SmoothingSums(*sums), apart)
    result = outcome(NUMPY, found, own, weight, scale, c)
    return np.stack([np.broadcast_to(number, own.shape).astype(own.dtype) for number in result])


def _of_numba(kind, lines, weight, scale, c):
    numba = pytest.importorskip("numba")
    from crossent.engines.numba_cpu import outcome as rooms
    from crossent.engines.numba_cpu.elements import load, load_wide, store
    from crossent.engines.numba_cpu.functions import exp
    from crossent.engines.numba_cpu.lanes import lanes
    from crossent.engines.numba_cpu.vectors import format_like

    formula, size = rooms.outcome, lines.itemsize
    the_format = format_like(numba.from_dtype(lines.dtype))

    @numba.njit(error_model="numpy")
    def run(lines, weight, scale, soft, results, coefficients):
        like, n = the_format(), lines.shape[1]
        a, w, s, r = lines.ctypes.data, weight.ctypes.data, scale.ctypes.data, results.ctypes.data
        for i in range(0, n, lanes(like)):
            at = a + i * size
            m, t = load(like, at), load(like, at + 2 * n * size)
            sums = (load(like, at + 3 * n * size), load(like, at + 4 * n * size), load(like, at + 5 * n * size))
            statistics = (m, load(like, at + n * size), exp(t - m), t, *sums)
            own, scales = load(like, at + 6 * n * size), load_wide(like, s + i * 8, lanes(like))
            loss, entry, factor, c = formula(soft, statistics, own, load(like, w + i * size), scales, coefficients)
            store(like, r + i * size, loss)
            store(like, r + (i + n) * size, factor)
            store(like, r + (i + 2 * n) * size, c)
            store(like, r + (i + 3 * n) * size, entry)

    real, results = lines.dtype.type, np.empty((4, lines.shape[1]), lines.dtype)
    coefficients = (*map(real, (c.target_mass, c.smoothing, c.includes_target, c.z_loss)), c.ieee, True)
    run(lines, weight, scale, True if kind == "soft" else None, results, coefficients)
    return results


def _of_cuda(kind, lines, weight, scale, c):
    macros = {
        "FORMAT": lines.dtype.name.capitalize(),
        "TARGETS": {"hard": "HARD", "soft": "SOFT"}.get(kind, "SMOOTHED"),
    }
    macros |= {"LAYOUT": "STRIDED", "PASS": "WALK", "TRANSFORM": "PLAIN", "LANES": 32, "THREADS": 256}
    library = emulator.built(tuple((f"CROSSENT_{name}", value) for name, value in macros.items()), source="formula.cpp")
    results = np.empty((4, lines.shape[1]), lines.dtype)
    lists = {"weight": weight.ctypes.data, "scales": scale.ctypes.data, "scales_row": 1, "scales_format": 1}
    problem = Problem(rows=lines.shape[1], classes=1000, vocabulary=1000, **c._asdict(), **lists)
    library.formula(ctypes.byref(problem), ctypes.c_void_p(lines.ctypes.data), ctypes.c_void_p(results.ctypes.data))
    return results


COPIES = {"numba": _of_numba, "cuda": _of_cuda}
CASES = [
    (kind, c._replace(ieee=ieee))
    for kind in ("hard", "smoothed", "soft")
    for c in COEFFICIENTS
    for ieee in (False, True)
    if (c.smoothing > 0) == (kind == "smoothed")
]


def _sizes(lines, uniform_term, weight, scale, c):
    """How large the terms are that the loss, and the target's entry, are sums of; beside their own size."""
    maximum, others, own = (np.abs(lines[i].astype(float)) for i in (0, 1, 6))
    tau = lines[2].astype(float) - lines[0]
    lse = maximum + 1 + np.log1p(others + np.exp(tau))
    # log Z is small where the target is the maximum; elsewhere it may be one of 1 + a little.
    rounded = np.where(tau == 0, 0.0, np.abs(uniform_term / np.where(scale * weight, scale * weight, 1)) * lines[4])
    entry = np.abs(scale * weight) * (own + 1 + 2 * c.z_loss * lse)
    return [np.abs(weight) * (rounded + c.z_loss * lse**2), entry, 0.0, entry]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("copy", ["numba", pytest.param("cuda", marks=emulator.needed)])
@pytest.mark.parametrize(("kind", "coefficients"), CASES, ids=str)
def test_the_copies_are_the_formula(dtype, copy, kind, coefficients):
    lines = _statistics(kind, dtype)
    rng = np.random.default_rng(6)
    weight = rng.choice([0.0, 1.0, 0.7], lines.shape[1]).astype(dtype)
    scale = rng.choice([1.0, -0.3], lines.shape[1])
    with np.errstate(all="ignore"):
        wanted = _of_math(kind, lines, weight, scale, coefficients)
        found = COPIES[copy](kind, lines, weight, scale, coefficients)
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    with np.errstate(all="ignore"):
        sizes = _sizes(lines, wanted[2], weight, scale, coefficients)
        for name, a, b, size in zip(NUMBERS, found, wanted, sizes, strict=True):
            slack = np.where(np.isinf(b), 0.0, 12 * eps * (np.abs(b) + np.nan_to_num(size, posinf=0.0)) + tiny)
            close = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a.astype(float) - b) <= slack)
            i = np.argmin(close)
            assert close.all(), (name, lines[:, i].tolist(), weight[i], scale[i], a[i], b[i])
