"""What the first call of a process costs, over importing NumPy: `python -m benchmarks.first_call`.

Kernels are compiled for a dtype into an empty folder, and read from it by processes that come later. Everything is in
processes of their own, the median of seven, but for what is compiled, which is done once.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

ROUNDS = 7
_CALL = """
import time, numpy as np
start = time.perf_counter()
{imports}
x, t = np.zeros({shape}, {dtype!r}), np.zeros({shape}[0], np.int64)
{call}
print(time.perf_counter() - start)
"""
SHAPES = {"V = 100": (8, 100), "V = 1000": (8, 1000)}


def _seconds(imports: str, call: str, shape: tuple[int, int], folder: str, dtype: str = "float32") -> float:
    program = _CALL.format(imports=imports, call=call, shape=shape, dtype=dtype)
    environment = os.environ | {"CROSSENT_CACHE_DIR": folder}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300, env=environment
    )
    return float(done.stdout)


def _show(name: str, seconds: float) -> None:
    print(f"{name:<44}{seconds:6.2f} s", flush=True)


def main() -> None:
    """Print a table."""
    ours = ("import crossent", "crossent.cross_entropy(x, t, engine='numba')")
    others = {
        "crossent, engine='array_api'": ("import crossent", "crossent.cross_entropy(x, t, engine='array_api')"),
        "import numba": ("import numba", ""),
        "import torch": ("import torch", ""),
    }
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float64", "float16"):
            for columns, shape in SHAPES.items():
                print(
                    f"{f'compiled: {dtype}, {columns}':<44}{_seconds(*ours, shape, folder, dtype):6.2f} s", flush=True
                )
        rows = {f"crossent, read from the disk: {columns}": (*ours, shape) for columns, shape in SHAPES.items()}
        rows |= {name: (*program, SHAPES["V = 100"]) for name, program in others.items()}
        for name, row in rows.items():
            _show(name, statistics.median(_seconds(*row, folder) for _ in range(ROUNDS)))


if __name__ == "__main__":
    main()
