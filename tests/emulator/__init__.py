"""The CUDA engine on a CPU: its kernel, plans and launches, with fibers for threads and host memory for a device's.

`machine.h` and `emulator.cpp` say how. What only a GPU can show is left out: the instructions of `machine.cuh`, and
NVIDIA's driver.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import random
import shutil
import subprocess
import tempfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from crossent.engines import cuda
from crossent.engines.cuda import launch
from crossent.libraries.numpy import NumPy

HERE = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
needed = pytest.mark.skipif(
    COMPILER is None and not os.environ.get("CROSSENT_REQUIRE_EMULATOR"),
    reason="there is no C++ compiler for the emulator; CROSSENT_REQUIRE_EMULATOR makes that a failure",
)
_busy = threading.Lock()
CONTEXT = 0x1000
DEVICE = launch.Properties("sm_90", multiprocessors=3, shared=232448, clusters=True)


class Kernel:
    """A walk, compiled for the CPU; the stand-in for `launch.Kernel`."""

    def __init__(self, chosen, source=cuda.SOURCE):
        self.chosen = chosen
        self.place = launch.Place(CONTEXT, zlib.crc32(repr(chosen).encode()))
        self.shapes = []
        self._launch = built(chosen.macros, source.parent).launch
        self._launch.restype = None

    def blocks_per_multiprocessor(self, threads, shared=0):
        return 2

    def active_clusters(self, threads, cluster, shared=0):
        return max(1, 6 // cluster)

    def launch(self, shape, argument, stream):
        self.shapes.append(shape)
        trouble = ctypes.create_string_buffer(200)
        # ctypes lets other threads go on, and the emulator is one GPU that has one launch at a time.
        with _busy:
            self._launch(
                ctypes.byref(argument),
                ctypes.c_longlong(shape.blocks),
                shape.threads,
                shape.cluster,
                shape.shared,
                ctypes.c_ulonglong(random.getrandbits(64)),
                trouble,
                len(trouble),
            )
        if trouble.value:
            raise AssertionError(f"{trouble.value.decode()} ({self.chosen}, {shape})")


class NumPyOnDevice(NumPy):
    """NumPy's arrays as arrays of a CUDA device."""

    def memory_of(self, device):
        return "cuda", 0

    def stream(self, x):
        return 0, 0


NUMPY = NumPyOnDevice(np)


def install(monkeypatch, device=DEVICE, source=cuda.SOURCE):
    """Take torch's CPU tensors for a CUDA device's, as `NUMPY` takes NumPy's arrays, and let the emulator run launches.

    Returns the kernels by their walks, as they come to be used.
    """
    kernels = {}

    def kernel(chosen, number):
        if chosen not in kernels:
            kernels[chosen] = Kernel(chosen, source)
        return kernels[chosen]

    if importlib.util.find_spec("torch") is not None:
        from crossent.libraries.torch.tensors import Torch

        monkeypatch.setattr(Torch, "memory_of", lambda self, device: ("cuda", 0))
        monkeypatch.setattr(Torch, "stream", lambda self, x: (0, 0))
    monkeypatch.setattr(launch, "properties", lambda number: device)
    monkeypatch.setattr(cuda, "problem", lambda number=0: None)
    monkeypatch.setattr(cuda, "_kernel", kernel)
    return kernels


@functools.cache
def built(macros, sources=cuda.SOURCE.parent, source="emulator.cpp"):
    """The emulator built with those macros. Processes that run at the same time share what they build."""
    texts = [path.read_bytes() for path in (*sorted(sources.glob("*.cu*")), *sorted(HERE.glob("*.[hc]*")))]
    key = hashlib.sha256(repr((macros, texts, source, COMPILER)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"crossent-emulator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{key}.so"
    if not path.exists():
        made = folder / f"{key}-{os.getpid()}.so"
        command = [
            COMPILER,
            "-std=c++17",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-Wno-unused",
            "-shared",
            "-fPIC",
        ]
        command += [f"-I{HERE}", f"-I{sources}", *(f"-D{name}={value}" for name, value in macros)]
        done = subprocess.run([*command, HERE / source, "-o", made], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        made.replace(path)
    return ctypes.CDLL(str(path))
