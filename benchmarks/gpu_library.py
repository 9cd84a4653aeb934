"""The two libraries that reach a GPU, as the benchmark and the checks need them.

Their CPU counterparts take the same path, with a host clock, so that all of it can be tried without a GPU; what only a
GPU has (streams, a queue, captured graphs) is `NotHereError` on them.
"""

# ruff: noqa: D102, D107  (what a method does is said once, in Library)
from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

Calls = list[Callable[[], Any]]

AT_A_TIME = 2**24
"""How many logits are drawn, or widened to float64, together."""
MORE_THAN_ANY_CACHE = 2**28
"""Bytes; an H200's second-level cache has 60 MB."""
HEAD_START = 0.02
"""Seconds for which the device is kept busy before the first timed call, so that it never waits for the host."""
CYCLES_PER_SECOND = 2e9
"""Not fewer than any GPU's, so that a delay counted in cycles is never shorter than was asked for."""


class NotHereError(Exception):
    """The library, or this machine, has nothing of the kind; the message says what."""


def _host_times(calls: Calls, before: Callable[[], Any] | None) -> list[float]:
    found = []
    for call in calls:
        if before is not None:
            before()
        start = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - start))
    return found


class Library:
    """An array library on a device."""

    name: str
    dtypes: tuple[str, ...]
    """Those of the benchmark."""
    all_dtypes: tuple[str, ...]
    on_gpu = False
    cache_bytes = 0
    """More than the device's cache holds; 0 where that is of no interest."""

    def itemsize(self, dtype: str) -> int:
        """The bytes of an element."""
        return {"float64": 8, "float32": 4}.get(dtype, 2)

    def engines(self) -> tuple[str, ...]:
        """The engines of `crossent` to look at, the fastest first; on a GPU, the compiled one whether here or not."""
        return ("cuda", "array_api") if self.on_gpu else ("array_api",)

    def device(self) -> str:
        """The maker's name of the device."""
        return "cpu"

    def free_memory(self) -> int:
        """The bytes that could be allocated now."""
        return 2**40

    def data(self, n: int, v: int, dtype: str, buffers: int) -> tuple[list[Any], Any, Any]:
        """Logits for each turn (three times standard normal), targets, and memory for a gradient."""
        raise NotImplementedError

    def empty(self, n: int, v: int, dtype: str) -> Any:
        """Memory for logits, whatever is in it."""
        raise NotImplementedError

    def array(self, values: np.ndarray, dtype: str) -> Any:
        """An array of the library on its device."""
        raise NotImplementedError

    def numpy(self, x: Any) -> np.ndarray:
        """The values on the host; bfloat16 as float32."""
        raise NotImplementedError

    def bits(self, x: Any) -> np.ndarray:
        """The values as unsigned integers, so that NaN equals itself and -0 is not 0."""
        raise NotImplementedError

    def from_bits(self, bits: np.ndarray, dtype: str) -> Any:
        """The array whose bits they are."""
        raise NotImplementedError

    def float64(self, x: Any) -> Any:
        """The same values in float64."""
        raise NotImplementedError

    def exact(self, x: Any, t: Any, rows: int, smoothing: float = 0.0) -> tuple[float, Any]:
        """The mean loss and the first rows of its gradient in float64, without the library's own loss or softmax.

        `smoothing` is what every class gets in equal shares.
        """
        raise NotImplementedError

    def times(self, calls: Calls, before: Callable[[], Any] | None = None) -> list[float]:
        """The milliseconds that the device took for each call, queued behind one another; `before` goes untimed."""
        return _host_times(calls, before)

    def flush(self) -> None:
        """Put something else into the device's cache, by reading: what is written would have to leave it later."""

    def release(self) -> None:
        """Give cached memory back, for the library that is measured next."""

    def synchronize(self) -> None:
        """Wait for the device; raises what went wrong there."""

    def delay(self, seconds: float) -> None:
        """Queue a kernel on the current stream that takes at least so long."""
        raise NotHereError("no queue without a GPU")

    def marker(self) -> Callable[[], bool]:
        """Queue a mark on the current stream; called, it says whether the device has come to it."""
        raise NotHereError("no queue without a GPU")

    def stream(self) -> AbstractContextManager[Any]:
        """A new stream, current within, which does not wait for the default one."""
        raise NotHereError("no streams without a GPU")

    def no_waiting(self) -> AbstractContextManager[Any]:
        """A context in which the library itself raises when it makes the host wait, where it can."""
        return contextlib.nullcontext()

    def captured(self, call: Callable[[], Any]) -> Callable[[], None]:
        """What replays the kernels of a call, captured in a graph after a warm-up."""
        raise NotHereError("no graphs without a GPU")

    def extra_memory(self, call: Callable[[], Any]) -> int:
        """The most bytes that the library's allocator had to find during a call beyond those in use before."""
        raise NotImplementedError

    def outside_memory(self, call: Callable[[], Any]) -> int:
        """The bytes of the device that a call left taken beyond what the library's allocator took from it."""
        raise NotImplementedError

    def devices(self) -> int:
        """How many there are."""
        return 1

    def on_device(self, index: int) -> AbstractContextManager[Any]:
        """Another device, current within."""
        raise NotHereError("one device here")


class Torch(Library):
    """PyTorch on the CPU."""

    name = "torch"
    dtypes = ("bfloat16", "float32")
    all_dtypes = ("float32", "bfloat16", "float16", "float64")
    place = "cpu"

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self._integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}

    def data(self, n, v, dtype, buffers):
        torch = self.torch
        generator = torch.Generator(device=self.place).manual_seed(1)
        wanted = {"dtype": getattr(torch, dtype), "device": self.place}
        logits = [torch.randn((n, v), generator=generator, **wanted).mul_(3) for _ in range(buffers)]
        targets = torch.randint(v, (n,), generator=generator, device=self.place)
        return logits, targets, torch.zeros((n, v), **wanted)

    def empty(self, n, v, dtype):
        return self.torch.empty((n, v), dtype=getattr(self.torch, dtype), device=self.place)

    def array(self, values, dtype):
        return self.torch.tensor(values, dtype=getattr(self.torch, dtype), device=self.place)

    def numpy(self, x):
        x = x.detach().cpu()
        return (x.float() if x.dtype == self.torch.bfloat16 else x).numpy()

    def bits(self, x):
        x = x.detach().contiguous()
        return x.view(self._integers[x.element_size()]).cpu().numpy().view(f"u{x.element_size()}")

    def from_bits(self, bits, dtype):
        signed = self.torch.tensor(bits.view(f"i{bits.itemsize}"), device=self.place)
        return signed.view(getattr(self.torch, dtype))

    def float64(self, x):
        return x.double()

    def exact(self, x, t, rows, smoothing=0.0):
        torch = self.torch
        v, total, step = x.shape[1], 0.0, max(rows, AT_A_TIME // x.shape[1])
        for i in range(0, len(x), step):
            part = x[i : i + step].double()
            own = part.gather(1, t[i : i + step, None])[:, 0]
            own = (1 - smoothing) * own + smoothing * part.mean(1)
            total += float((torch.logsumexp(part, 1) - own).sum())
        part = x[:rows].double()
        gradient = torch.exp(part - torch.logsumexp(part, 1)[:, None]) - smoothing / v
        gradient[torch.arange(len(part), device=x.device), t[:rows]] -= 1 - smoothing
        return total / len(x), gradient / len(x)


class TorchCuda(Torch):
    """PyTorch on a CUDA device."""

    name = "torch-cuda"
    place = "cuda"
    on_gpu = True
    cache_bytes = MORE_THAN_ANY_CACHE

    def __init__(self) -> None:
        super().__init__()
        self._scratch = None

    def device(self):
        return self.torch.cuda.get_device_name()

    def free_memory(self):
        return self.torch.cuda.mem_get_info()[0]

    def times(self, calls, before=None):
        cuda = self.torch.cuda
        events = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in calls]
        cuda.synchronize()
        self.delay(HEAD_START)
        for call, (start, stop) in zip(calls, events, strict=True):
            if before is not None:
                before()
            start.record()
            call()
            stop.record()
        cuda.synchronize()
        return [start.elapsed_time(stop) for start, stop in events]

    def flush(self):
        if self._scratch is None:
            self._scratch = self.torch.zeros(MORE_THAN_ANY_CACHE // 4, device=self.place)
        self._scratch.max()

    def release(self):
        self._scratch = None
        self.torch.cuda.empty_cache()

    def synchronize(self):
        self.torch.cuda.synchronize()

    def delay(self, seconds):
        self.torch.cuda._sleep(int(seconds * CYCLES_PER_SECOND))

    def marker(self):
        event = self.torch.cuda.Event()
        event.record()
        return event.query

    def stream(self):
        return self.torch.cuda.stream(self.torch.cuda.Stream())

    @contextlib.contextmanager
    def no_waiting(self) -> Iterator[None]:
        cuda = self.torch.cuda
        before = cuda.get_sync_debug_mode()
        cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            cuda.set_sync_debug_mode(before)

    def captured(self, call):
        cuda = self.torch.cuda
        with self.stream():
            call()
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            kept = call()  # what the graph writes to must outlive it

        def replay(_kept: Any = kept) -> None:
            graph.replay()

        return replay

    def extra_memory(self, call):
        cuda = self.torch.cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        call()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before

    def outside_memory(self, call):
        cuda = self.torch.cuda
        cuda.synchronize()
        before = cuda.mem_get_info()[0] + cuda.memory_reserved()
        call()
        cuda.synchronize()
        return before - cuda.mem_get_info()[0] - cuda.memory_reserved()

    def devices(self):
        return self.torch.cuda.device_count()

    def on_device(self, index):
        return self.torch.cuda.device(index)


class NumPy(Library):
    """NumPy."""

    name = "numpy"
    dtypes: tuple[str, ...] = ("float16", "float32")
    all_dtypes = ("float32", "float16", "float64")

    def __init__(self) -> None:
        self.xp: Any = np

    def data(self, n, v, dtype, buffers):
        xp = self.xp
        random = xp.random.default_rng(1)
        logits, step = [], max(1, AT_A_TIME // v)
        for _ in range(buffers):
            x = xp.empty((n, v), dtype=dtype)
            for i in range(0, n, step):
                x[i : i + step] = 3 * random.standard_normal((min(step, n - i), v), dtype=xp.float32)
            logits.append(x)
        return logits, random.integers(0, v, n), xp.zeros((n, v), dtype=dtype)

    def empty(self, n, v, dtype):
        return self.xp.empty((n, v), dtype=dtype)

    def array(self, values, dtype):
        return self.xp.array(values, dtype=dtype)

    def numpy(self, x):
        return np.asarray(x)

    def bits(self, x):
        x = np.ascontiguousarray(self.numpy(x))
        return x.view(f"u{x.itemsize}")

    def from_bits(self, bits, dtype):
        return self.xp.array(bits).view(dtype)

    def float64(self, x):
        return x.astype(np.float64)

    def exact(self, x, t, rows, smoothing=0.0):
        xp = self.xp
        v, total, step = x.shape[1], 0.0, max(rows, AT_A_TIME // x.shape[1])
        for i in range(0, len(x), step):
            part = x[i : i + step].astype(np.float64)
            own = xp.arange(len(part)), t[i : i + step]
            e = xp.exp(part - part[own][:, None])
            z = xp.sum(e, axis=1)
            total += float(xp.sum(xp.log(z)))
            if smoothing:
                total += smoothing * float(xp.sum(part[own] - xp.mean(part, axis=1)))
            if i == 0:
                head = e[:rows] / z[:rows, None] - smoothing / v
                head[xp.arange(len(head)), t[:rows]] -= 1 - smoothing
        return total / len(x), head / len(x)


_SPIN = r"""
extern "C" __global__ void spin(unsigned long long nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while (now - start < nanoseconds);
}
"""


class CuPy(NumPy):
    """CuPy on its current CUDA device."""

    name = "cupy"
    on_gpu = True
    cache_bytes = MORE_THAN_ANY_CACHE

    def __init__(self) -> None:
        import cupy

        self.xp = cupy
        self._scratch = None
        self._spin = cupy.RawKernel(_SPIN, "spin")

    def device(self):
        return self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)["name"].decode()

    def free_memory(self):
        return self.xp.cuda.runtime.memGetInfo()[0]

    def numpy(self, x):
        return self.xp.asnumpy(x)

    def times(self, calls, before=None):
        cuda = self.xp.cuda
        stream = cuda.get_current_stream()
        events = [(cuda.Event(), cuda.Event()) for _ in calls]
        stream.synchronize()
        self.delay(HEAD_START)
        for call, (start, stop) in zip(calls, events, strict=True):
            if before is not None:
                before()
            start.record(stream)
            call()
            stop.record(stream)
        stream.synchronize()
        return [cuda.get_elapsed_time(start, stop) for start, stop in events]

    def flush(self):
        if self._scratch is None:
            self._scratch = self.xp.zeros(MORE_THAN_ANY_CACHE // 4, dtype=np.float32)
        self._scratch.max()

    def release(self):
        self._scratch = None
        self.xp.get_default_memory_pool().free_all_blocks()

    def synchronize(self):
        self.xp.cuda.Device().synchronize()

    def delay(self, seconds):
        self._spin((1,), (1,), (np.uint64(int(seconds * 1e9)),))

    def marker(self):
        event = self.xp.cuda.Event(disable_timing=True)
        event.record()
        return lambda: event.done

    def stream(self):
        return self.xp.cuda.Stream(non_blocking=True)

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
        pool = self.xp.get_default_memory_pool()
        self.synchronize()
        pool.free_all_blocks()
        before = pool.total_bytes()
        call()
        self.synchronize()
        # With nothing free in the pool, what it has grown by is what was in use at once.
        return pool.total_bytes() - before

    def outside_memory(self, call):
        pool = self.xp.get_default_memory_pool()
        self.synchronize()
        before = self.free_memory() + pool.total_bytes()
        call()
        self.synchronize()
        return before - self.free_memory() - pool.total_bytes()

    def devices(self):
        return self.xp.cuda.runtime.getDeviceCount()

    def on_device(self, index):
        return self.xp.cuda.Device(index)


LIBRARIES: dict[str, type[Library]] = {one.name: one for one in (TorchCuda, CuPy, Torch, NumPy)}
