"""What a kernel takes of a multiprocessor, as ptxas says it; no GPU is asked.

    found = resources(source, (("XENT_GRADIENT", "1"),), "sm_90")["walk"]
    assert not found.spills

`read` takes what `nvcc -Xptxas -v` prints as well.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from xent.engines.cuda import program


class Resources(NamedTuple):
    """Of one kernel. A stack without spills is an array in local memory, or a call that was not inlined."""

    registers: int
    stack: int  # bytes per thread
    spills: int  # bytes per thread that are stored to local memory because no register was left
    shared: int  # bytes per block that the source itself declares


def resources(source: Path, macros: program.Macros, architecture: str) -> dict[str, Resources]:
    """Of every kernel in a source, by name. It is compiled for this, whatever is kept on disk."""
    return read(program.compiled(source, macros, architecture).log)


def read(log: str) -> dict[str, Resources]:
    """Of every kernel in what ptxas says with -v."""
    _, *kernels = re.split(r"Compiling entry function '(\w+)' for '\w+'", log)
    found = dict(zip(kernels[::2], map(_read, kernels[1::2]), strict=True))
    if not found:
        raise ValueError(f"this log names no kernel: {log!r}")
    return found


def _read(words: str) -> Resources:
    # Functions that are called have their own "Function properties" after those of the kernel, and are none.
    stack, stores = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", words).groups()
    shared = re.search(r"(\d+) bytes smem", words)
    registers = re.search(r"Used (\d+) registers", words)[1]
    return Resources(int(registers), int(stack), int(stores), int(shared[1]) if shared else 0)
