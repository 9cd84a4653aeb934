"""The queue, the clock and the memory of a GPU, as the benchmarks and `tests/gpu` need them from torch and from CuPy.

A library is imported when its device is made, and no other file here names an event, a stream or a pool of memory.
"""

# ruff: noqa: D102, D107  (what a method does is said once, by Device)
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np

CACHE = 2**28
"""Bytes, more than any cache; an H200's second-level cache has 60 MB."""
HEAD_START = 0.02
"""Seconds for which the device is kept busy before the first timed call, so that it never waits for the host."""
CYCLES_PER_SECOND = 2e9
"""Not fewer than any GPU's, so that a delay counted in cycles is never shorter than was asked for."""


class Device:
    """A GPU through one library. Each library answers, in the same words:

    synchronize()       wait for the device; raises what went wrong there
    delay(seconds)      queue a kernel on the current stream that takes at least so long
    event()             queue a mark on the current stream; passed(event): whether the device has come to it
    seconds(a, b)       the device's time between two marks
    zeros(count)        so many float32; release(): give cached memory back
    stream()            a new stream, current within the context, which does not wait for the default one
    captured(call)      what replays the kernels of a call, captured in a graph after a warm-up
    extra_memory(call)  the most bytes that the library's allocator had to find during a call beyond those in use before
    memory()            the device's free bytes, and those that the library's allocator holds
    count(), on(index)  how many devices there are; another one, current within the context
    """

    scratch: Any = None

    def no_waiting(self) -> AbstractContextManager[Any]:
        """A context in which the library itself raises when it makes the host wait, where it can."""
        return contextlib.nullcontext()

    def flush(self) -> None:
        """Put something else into the device's cache, by reading: what is written would have to leave it later."""
        if self.scratch is None:
            self.scratch = self.zeros(CACHE // 4)
        self.scratch.max()

    def times(self, call: Callable[[], Any], rounds: int, put_back: Callable[[], Any] | None = None) -> list[float]:
        """The device's seconds for each of some calls, queued behind one another; what goes before each is untimed."""
        self.synchronize()
        self.delay(HEAD_START)
        marks = []
        for _ in range(rounds):
            if put_back is not None:
                put_back()
            self.flush()
            start = self.event()
            call()
            marks.append((start, self.event()))
        self.synchronize()
        return [self.seconds(*pair) for pair in marks]

    def outside_memory(self, call: Callable[[], Any]) -> int:
        """The bytes of the device that a call left taken beyond what the library's allocator took from it."""
        self.synchronize()
        before = sum(self.memory())
        call()
        self.synchronize()
        return before - sum(self.memory())


class TorchDevice(Device):
    """PyTorch's current CUDA device."""

    def __init__(self) -> None:
        import torch

        self.torch, self.cuda = torch, torch.cuda

    def synchronize(self):
        self.cuda.synchronize()

    def delay(self, seconds):
        self.cuda._sleep(int(seconds * CYCLES_PER_SECOND))

    def event(self):
        event = self.cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, event):
        return event.query()

    def seconds(self, start, stop):
        return 1e-3 * start.elapsed_time(stop)

    def zeros(self, count):
        return self.torch.zeros(count, device="cuda")

    def release(self):
        self.scratch = None
        self.cuda.empty_cache()

    def stream(self):
        return self.cuda.stream(self.cuda.Stream())

    @contextlib.contextmanager
    def no_waiting(self) -> Iterator[None]:
        before = self.cuda.get_sync_debug_mode()
        self.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            self.cuda.set_sync_debug_mode(before)

    def captured(self, call):
        with self.stream():
            call()
        self.synchronize()
        graph = self.cuda.CUDAGraph()
        with self.cuda.graph(graph):
            kept = call()  # what the graph writes to must outlive it

        def replay(_kept: Any = kept) -> None:
            graph.replay()

        return replay

    def extra_memory(self, call):
        self.synchronize()
        self.cuda.reset_peak_memory_stats()
        before = self.cuda.memory_allocated()
        call()
        self.synchronize()
        return self.cuda.max_memory_allocated() - before

    def memory(self):
        return self.cuda.mem_get_info()[0], self.cuda.memory_reserved()

    def count(self):
        return self.cuda.device_count()

    def on(self, index):
        return self.cuda.device(index)


_SPIN = r"""
extern "C" __global__ void spin(unsigned long long nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while (now - start < nanoseconds);
}
"""


class CupyDevice(Device):
    """CuPy's current CUDA device."""

    def __init__(self) -> None:
        import cupy

        self.cupy, self.cuda = cupy, cupy.cuda
        self.pool = cupy.get_default_memory_pool()
        self.spin = cupy.RawKernel(_SPIN, "spin")

    def synchronize(self):
        self.cuda.Device().synchronize()

    def delay(self, seconds):
        self.spin((1,), (1,), (np.uint64(int(seconds * 1e9)),))

    def event(self):
        event = self.cuda.Event()
        event.record()
        return event

    def passed(self, event):
        return event.done

    def seconds(self, start, stop):
        return 1e-3 * self.cuda.get_elapsed_time(start, stop)

    def zeros(self, count):
        return self.cupy.zeros(count, dtype=np.float32)

    def release(self):
        self.scratch = None
        self.pool.free_all_blocks()

    def stream(self):
        return self.cuda.Stream(non_blocking=True)

    def captured(self, call):
        stream = self.stream()
        with stream:
            # The pool keeps blocks for each stream: after this, capturing needs none from the driver.
            call()
            stream.synchronize()
            stream.begin_capture()
            kept = call()
            graph = stream.end_capture()

        def replay(_kept: Any = kept) -> None:
            graph.launch(stream)
            stream.synchronize()

        return replay

    def extra_memory(self, call):
        self.synchronize()
        self.pool.free_all_blocks()
        before = self.pool.total_bytes()
        call()
        self.synchronize()
        # With nothing free in the pool, what it has grown by is what was in use at once.
        return self.pool.total_bytes() - before

    def memory(self):
        return self.cuda.runtime.memGetInfo()[0], self.pool.total_bytes()

    def count(self):
        return self.cuda.runtime.getDeviceCount()

    def on(self, index):
        return self.cuda.Device(index)


DEVICES: dict[str, type[Device]] = {"torch-cuda": TorchDevice, "cupy": CupyDevice}
"""By the name of the backend."""


@cache
def device(backend: str) -> Device:
    """The device of a backend, the same each time."""
    return DEVICES[backend]()
