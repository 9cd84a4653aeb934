"""What a kernel takes of a multiprocessor, as ptxas says it, and its instructions; no GPU is asked.

    found = resources(source, (("CROSSENT_GRADIENT", "1"),), "sm_90")["walk"]
    assert not found.spills

`read` takes what `nvcc -Xptxas -v` prints as well.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from crossent.engines.cuda import program

HERE = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.bindings") is not None
needs_nvrtc = pytest.mark.skipif(
    not (HERE or os.environ.get("CROSSENT_REQUIRE_NVRTC")),
    reason="NVRTC is not here; CROSSENT_REQUIRE_NVRTC makes that a failure",
)


class Resources(NamedTuple):
    """Of one kernel. A stack without spills is an array in local memory, or a call that was not inlined."""

    registers: int
    stack: int  # bytes per thread
    spills: int  # bytes per thread that are stored to local memory because no register was left
    shared: int  # bytes per block that the source itself declares


def resources(source: Path, macros: program.Macros, architecture: str) -> dict[str, Resources]:
    """Of every kernel in a source, by name. A test run finds what an earlier one compiled of the same texts."""
    folder = Path(tempfile.gettempdir()) / f"crossent-ptxas-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{program.name_of_made(source, macros, architecture)}.log"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        made.write_text(program.compiled(source, macros, architecture).log)
        made.replace(path)
    return read(path.read_text())


def resources_with_nvcc(nvcc: str, source: Path, macros: program.Macros, architecture: str, to: Path):
    """The same by NVIDIA's other compiler; the cubin goes to that folder."""
    options = [nvcc, *program._options(macros, architecture), "--cubin", source, "-o", to / "made.cubin"]
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return read(done.stderr)


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


def tool(name: str) -> str | None:
    """NVIDIA's tool of that name: on the path, where the toolkit is put, or in a Python package that brings it."""
    folders = [Path("/usr/local/cuda/bin")]
    for package, inside in (("nvidia", "cu13/bin"), ("triton", "backends/nvidia/bin")):
        spec = importlib.util.find_spec(package)
        folders += [Path(folder) / inside for folder in (spec.submodule_search_locations if spec else [])]
    candidates = (shutil.which(name), *(shutil.which(name, path=folder) for folder in folders))
    return next(filter(None, candidates), None)


def instructions(disassembler: str, cubin: Path) -> Counter[str]:
    """How often each instruction occurs in what nvdisasm reads."""
    done = subprocess.run([disassembler, "-c", cubin], capture_output=True, text=True, check=True)
    found = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", done.stdout))
    assert found["EXIT"], "this is no disassembly"
    return found
