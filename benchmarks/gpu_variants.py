"""A few calls of every variant of the engine, for a checker that makes each of them a hundred times slower.

`python -m benchmarks.gpu_variants --backend torch-cuda` runs them and compares nothing but that all is finite: the
values are the business of the suite and of `gpu_checks`. Every array has memory of its own, so that a checker sees what
goes past its end. `--plant` writes past the end of one on purpose, as the proof that the checker sees that.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.gpu_library import LIBRARIES, CuPy, Library
from benchmarks.gpu_subject import Subject

SHORT = ((5, 1), (5, 7), (9, 33), (4, 1000), (4, 1001))
LONG = ((3, 4096), (3, 4099), (2, 32768), (2, 50257), (2, 131072), (2, 131075), (1, 300001))
"""Rows and vocabulary: from a warp to more than a cluster of blocks holds, rows at every alignment."""
PLANTED = r"""
extern "C" __global__ void planted(float* x, int n) { x[n + threadIdx.x] = 1.0f; }
"""


def calls(library: Library, *, small: bool) -> Iterator[tuple[str, Any]]:
    """The name and the results of every call."""
    subject = Subject.of(library, small=small)
    sizes = SHORT if small else (*SHORT, *LONG)
    for dtype, (n, v) in itertools.product(library.all_dtypes, sizes):
        x, t = subject.rows(n, v, dtype)
        name = f"{dtype} {n}x{v}"
        yield f"{name} loss", subject.loss(x, t)
        yield f"{name} gradient", subject.both(x, t)
        yield f"{name} in place", subject.both(x, t, out=x)
    for dtype, (n, v) in itertools.product(("float32", library.dtypes[0]), ((4, 1001), (2, 50257), (1, 131075))):
        if small and v > 1001:
            continue
        x, t = subject.rows(n, v, dtype)
        name = f"{dtype} {n}x{v}"
        computed = "float32"
        spread = np.random.default_rng(1).random((n, v), dtype=np.float32)
        soft = library.array(spread / spread.sum(1, keepdims=True), dtype)
        weights = library.array(np.linspace(0.5, 2, v), computed)
        yield f"{name} smoothed", subject.both(x, t, label_smoothing=0.1)
        yield f"{name} smoothed uniformly", subject.both(x, t, label_smoothing=0.1, smoothing="uniform")
        yield f"{name} z-loss", subject.both(x, t, z_loss=1e-4, reduction="none")
        yield f"{name} class weights", subject.both(x, t, class_weights=weights, label_smoothing=0.1)
        yield f"{name} soft", subject.both(x, soft)
        yield f"{name} ignored", subject.both(x, t, ignore_index=int(library.numpy(t)[0]), reduction="sum")
        yield f"{name} checked", subject.both(x, t, check_targets=True)
        wide = library.array(np.zeros((n, v + 3), dtype=np.float32), dtype)
        yield f"{name} strided", subject.both(wide[:, 1 : v + 1], t, out=wide[:, 1 : v + 1])
        outside = library.array(np.array([-1, v, 2**40, 0][:n]), "int64")
        subject.both(x, outside)
        library.synchronize()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every variant once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_variants", description=__doc__)
    parser.add_argument("--backend", required=True, choices=list(LIBRARIES))
    parser.add_argument("--small", action="store_true", help="short rows alone")
    parser.add_argument("--plant", action="store_true", help="write past the end of an array instead (CuPy alone)")
    given = parser.parse_args(arguments)

    # torch reads this when its allocator starts.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    library = LIBRARIES[given.backend]()
    if isinstance(library, CuPy):
        library.xp.cuda.set_allocator(None)
        library.xp.cuda.set_pinned_memory_allocator(None)
    if given.plant:
        if not isinstance(library, CuPy):
            parser.error(f"--plant needs --backend cupy, not {given.backend}")
        memory = library.xp.zeros(128, dtype=np.float32)
        library.xp.RawKernel(PLANTED, "planted")((1,), (1,), (memory, np.int32(memory.size)))
        library.synchronize()
        return 0
    count = 0
    for name, result in calls(library, small=given.small):
        parts = result if isinstance(result, tuple) else (result,)
        library.synchronize()
        assert all(np.isfinite(library.numpy(part)).all() for part in parts), f"{name}: not finite"
        count += 1
    print(f"{count} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
