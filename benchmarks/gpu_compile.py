"""Every variant of the CUDA engine's kernel for the device that is here, compiled on all cores and kept on disk.

`python -m benchmarks.gpu_compile` saves the parts of a run, which would each compile one variant after another, time
that a lent GPU is too dear for. It changes no result: what is missing is compiled when it is asked for.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from crossent.engines import cuda
from crossent.engines.cuda import launch, plan, program


def compile_one(variant: plan.Variant, architecture: str) -> int:
    """The bytes of one program."""
    return len(program.cubin(cuda.SOURCE, variant.macros, architecture))


def main() -> int:
    """Compile them all; exit code 1 where the engine cannot be used."""
    problem = cuda.problem()
    if problem is not None:
        print(f"nothing to compile: {problem}", file=sys.stderr)
        return 1
    architecture = launch.properties(0).architecture
    variants = plan.all_variants()
    start = time.monotonic()
    # A process that has met the driver is not to be forked.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        sizes = list(pool.map(compile_one, variants, [architecture] * len(variants)))
    print(f"{len(sizes)} programs for {architecture}, {sum(sizes) / 1e6:.1f} MB, in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
