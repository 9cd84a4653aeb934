"""The two libraries that reach a GPU, as the benchmark needs them: data on the device, event times, float64 answers.

Their CPU counterparts take the same path, with a host clock, so that the whole benchmark can be tried without a GPU.
"""

# ruff: noqa: D102, D107  (what a method does is said once, in Library)
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Calls = list[Callable[[], Any]]

AT_A_TIME = 2**24
"""How many logits are widened to float64 together."""


def _host_times(calls: Calls) -> list[float]:
    found = []
    for call in calls:
        start = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - start))
    return found


class Library:
    """An array library on a device."""

    name: str
    dtypes: tuple[str, ...]

    def itemsize(self, dtype: str) -> int:
        """The bytes of an element."""
        return 4 if dtype == "float32" else 2

    def device(self) -> str:
        """The maker's name of the device."""
        return "cpu"

    def free_memory(self) -> int:
        """The bytes that could be allocated now."""
        return 2**40

    def data(self, n: int, v: int, dtype: str, buffers: int) -> tuple[list[Any], Any, Any]:
        """Logits for each turn (three times standard normal), targets, and memory for a gradient."""
        raise NotImplementedError

    def float64(self, x: Any) -> Any:
        """The same values in float64."""
        raise NotImplementedError

    def exact(self, x: Any, t: Any, rows: int) -> tuple[float, Any]:
        """The mean loss and the first rows of its gradient in float64, without the library's own loss or softmax."""
        raise NotImplementedError

    def times(self, calls: Calls) -> list[float]:
        """The milliseconds that the device took for each call, queued behind one another."""
        return _host_times(calls)

    def release(self) -> None:
        """Give cached memory back, for the library that is measured next."""


class Torch(Library):
    """PyTorch on the CPU."""

    name = "torch"
    dtypes = ("bfloat16", "float32")
    place = "cpu"

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def data(self, n, v, dtype, buffers):
        torch = self.torch
        generator = torch.Generator(device=self.place).manual_seed(1)
        wanted = {"dtype": getattr(torch, dtype), "device": self.place}
        logits = [torch.randn((n, v), generator=generator, **wanted).mul_(3) for _ in range(buffers)]
        targets = torch.randint(v, (n,), generator=generator, device=self.place)
        return logits, targets, torch.zeros((n, v), **wanted)

    def float64(self, x):
        return x.double()

    def exact(self, x, t, rows):
        torch = self.torch
        total, step = 0.0, max(rows, AT_A_TIME // x.shape[1])
        for i in range(0, len(x), step):
            part = x[i : i + step].double()
            total += float((torch.logsumexp(part, 1) - part.gather(1, t[i : i + step, None])[:, 0]).sum())
        part = x[:rows].double()
        gradient = torch.exp(part - torch.logsumexp(part, 1)[:, None])
        gradient[torch.arange(rows, device=x.device), t[:rows]] -= 1
        return total / len(x), gradient / len(x)


class TorchCuda(Torch):
    """PyTorch on a CUDA device."""

    name = "torch-cuda"
    place = "cuda"

    def device(self):
        return self.torch.cuda.get_device_name()

    def free_memory(self):
        return self.torch.cuda.mem_get_info()[0]

    def times(self, calls):
        cuda = self.torch.cuda
        events = [(cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)) for _ in calls]
        cuda.synchronize()
        for call, (start, stop) in zip(calls, events, strict=True):
            start.record()
            call()
            stop.record()
        cuda.synchronize()
        return [start.elapsed_time(stop) for start, stop in events]

    def release(self):
        self.torch.cuda.empty_cache()


class NumPy(Library):
    """NumPy."""

    name = "numpy"
    dtypes: tuple[str, ...] = ("float16", "float32")

    def __init__(self) -> None:
        self.xp: Any = np

    def data(self, n, v, dtype, buffers):
        xp = self.xp
        random = xp.random.default_rng(1)
        logits = []
        for _ in range(buffers):
            x = random.standard_normal((n, v), dtype=xp.float32)
            x *= 3
            logits.append(x.astype(dtype, copy=False))
        return logits, random.integers(0, v, n), xp.zeros((n, v), dtype=dtype)

    def float64(self, x):
        return x.astype(np.float64)

    def exact(self, x, t, rows):
        xp = self.xp
        total, step = 0.0, max(rows, AT_A_TIME // x.shape[1])
        for i in range(0, len(x), step):
            part = x[i : i + step].astype(np.float64)
            own = xp.arange(len(part)), t[i : i + step]
            e = xp.exp(part - part[own][:, None])
            z = xp.sum(e, axis=1)
            total += float(xp.sum(xp.log(z)))
            if i == 0:
                head = e[:rows] / z[:rows, None]
                head[xp.arange(rows), t[:rows]] -= 1
        return total / len(x), head / len(x)


class CuPy(NumPy):
    """CuPy on its current CUDA device."""

    name = "cupy"

    def __init__(self) -> None:
        import cupy

        self.xp = cupy

    def device(self):
        return self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)["name"].decode()

    def free_memory(self):
        return self.xp.cuda.runtime.memGetInfo()[0]

    def times(self, calls):
        cuda = self.xp.cuda
        stream = cuda.get_current_stream()
        events = [(cuda.Event(), cuda.Event()) for _ in calls]
        stream.synchronize()
        for call, (start, stop) in zip(calls, events, strict=True):
            start.record(stream)
            call()
            stop.record(stream)
        stream.synchronize()
        return [cuda.get_elapsed_time(start, stop) for start, stop in events]

    def release(self):
        self.xp.get_default_memory_pool().free_all_blocks()


LIBRARIES: dict[str, type[Library]] = {one.name: one for one in (TorchCuda, CuPy, Torch, NumPy)}
