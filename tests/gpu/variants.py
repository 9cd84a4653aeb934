"""A few calls of every variant of the engine, for a checker that makes each of them a hundred times slower.

`python -m tests.gpu.variants BACKEND` runs them and compares nothing but that all is finite: values are the business of
the suite. Every array has memory of its own, so that a checker sees what goes past its end. `--plant` writes past the
end of one on purpose (CuPy alone), as the proof that the checker sees that.
"""

from __future__ import annotations

import itertools
import os
import sys

import numpy as np
from tests.gpu import subject

from crossent.engines import cuda
from crossent.engines.cuda import program

SHORT = ((5, 1), (5, 7), (9, 33), (4, 1000), (4, 1001))
LONG = ((3, 4096), (3, 4099), (2, 32768), (2, 50257), (2, 131072), (2, 131075), (1, 300001))
"""Rows and vocabulary: from a warp to more than a cluster of blocks holds, rows at every alignment."""
PLANTED = 'extern "C" __global__ void planted(float* x, int n) { x[n + threadIdx.x] = 1.0f; }'


def compiled(variant, architecture):
    """The bytes of a variant's program, which stays on the disk."""
    return len(program.cubin(cuda.SOURCE, variant.macros, architecture))


def calls(gpu):
    """The name and the results of every call."""
    for dtype, (n, v) in itertools.product(gpu.backend.dtypes, SHORT if gpu.small else (*SHORT, *LONG)):
        x, t = gpu.rows(n, v, dtype)
        yield f"{dtype} {n}x{v} loss", (gpu.loss(x, t),)
        yield f"{dtype} {n}x{v} gradient", gpu.both(x, t)
        yield f"{dtype} {n}x{v} in place", gpu.both(x, t, out=x)
        yield f"{dtype} {n}x{v} told", gpu.told(x, t)[:5]
    sizes = ((4, 1001), (2, 50257), (1, 131075))[: 1 if gpu.small else None]
    for dtype, (n, v) in itertools.product(("float32", gpu.half), sizes):
        x, t = gpu.rows(n, v, dtype)
        soft = np.random.default_rng(1).random((n, v), dtype=np.float32)
        soft = gpu.backend.asarray(soft / soft.sum(1, keepdims=True), dtype)
        weights = gpu.backend.asarray(np.linspace(0.5, 2, v), "float32")
        for options in (
            {"label_smoothing": 0.1},
            {"label_smoothing": 0.1, "smoothing": "uniform"},
            {"z_loss": 1e-4, "reduction": "none"},
            {"class_weights": weights, "label_smoothing": 0.1},
            {"ignore_index": int(gpu.numpy(t)[0]), "reduction": "sum"},
            {"check_targets": True},
        ):
            yield f"{dtype} {n}x{v} {', '.join(options)}", gpu.both(x, t, **options)
        yield f"{dtype} {n}x{v} soft", gpu.both(x, soft)
        for measure in ("entropy", "forward", "reverse", "jensen-shannon"):
            yield f"{dtype} {n}x{v} {measure}", gpu.measured(x, soft, measure)
        wide = gpu.backend.asarray(np.zeros((n, v + 3)), dtype)[:, 1 : v + 1]
        yield f"{dtype} {n}x{v} strided", gpu.both(wide, t, out=wide)
        gpu.both(x, gpu.backend.asarray(np.array([-1, v, 2**40, 0][:n]), "int64"))
        gpu.device.synchronize()


def main(name, *plant):
    """Run every variant once."""
    # torch reads this when its allocator starts.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    gpu = subject.of(name)
    if name == "cupy":
        gpu.device.cuda.set_allocator(None)
        gpu.device.cuda.set_pinned_memory_allocator(None)
    if plant:
        memory = gpu.device.zeros(128)
        gpu.device.cupy.RawKernel(PLANTED, "planted")((1,), (1,), (memory, np.int32(memory.size)))
        gpu.device.synchronize()
        return
    count = 0
    for what, result in calls(gpu):
        gpu.device.synchronize()
        assert all(np.isfinite(gpu.numpy(part)).all() for part in result), f"{what}: not finite"
        count += 1
    print(f"{count} calls")


if __name__ == "__main__":
    main(*sys.argv[1:])
