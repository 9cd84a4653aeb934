"""How far the output layer and its loss raise the memory of a process, measured in one of its own.

    python -m crossent.train.memory BACKEND V HIDDEN TOKENS logits|linear

prints the bytes: the largest resident memory of the process less the least, looked at again and again while the loss
and its gradients of hidden states, weight and bias are made many times over. The hidden states, the parameters, a
backend's own code and its compiled programs are there all the time and do not count; the gradients do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossent.info import BACKENDS, Backend
from crossent.train import output

WARM_UPS, SECONDS, PAUSE = 3, 1.0, 2e-4
# The C library of Linux otherwise keeps arrays that are freed, and they would not be seen to come again.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}
_STATM = Path("/proc/self/statm")


def peak(backend: Backend, V: int, hidden: int, tokens: int, linear: bool) -> int | None:
    """The bytes; None where arrays are not in this machine's memory, or the system does not say what is resident."""
    if backend.device_name() != "cpu":
        return None
    way = "linear" if linear else "logits"
    command = [sys.executable, "-m", __name__, backend.name, *map(str, (V, hidden, tokens)), way]
    done = subprocess.run(command, env=os.environ | RETURNING, stdout=subprocess.PIPE, check=True)
    found: int | None = json.loads(done.stdout)
    return found


def resident() -> int | None:
    """The bytes of this process that are in memory now; None where the system does not say."""
    if _STATM.exists():
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return 1024 * int(done.stdout)


def rise(step: Callable[[], None], seconds: float = SECONDS) -> int | None:
    """How far a step raises the resident memory, seen in so many seconds of it."""
    for _ in range(WARM_UPS):
        step()
    seen, stop = [resident()], threading.Event()

    def look() -> None:
        while not stop.wait(PAUSE):
            seen.append(resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            step()
    finally:
        stop.set()
        watcher.join()
    known = [size for size in seen if size is not None]
    return max(known) - min(known) if known else None


def step_of(backend: Backend, V: int, hidden: int, tokens: int, linear: bool) -> Callable[[], None]:
    """The loss of as many tokens and its gradients, from hidden states on."""
    random = np.random.default_rng(0)
    shapes = ((tokens, hidden), (V, hidden), (V,))
    h, weight, bias = (backend.array(random.standard_normal(shape).astype(np.float32)) for shape in shapes)
    targets = backend.array(random.integers(0, V, tokens).astype(np.int32))

    def step() -> None:
        loss_fn = output.loss(backend.namespace(), linear)
        float(loss_fn.forward(h, weight, targets, bias))
        for d in loss_fn.backward():
            float(d[(0,) * d.ndim])  # waits until it is there

    return step


def main() -> None:
    """Print what one backend needs."""
    name, *sizes, way = sys.argv[1:]
    V, hidden, tokens = map(int, sizes)
    print(json.dumps(rise(step_of(BACKENDS[name], V, hidden, tokens, way == "linear"))))


if __name__ == "__main__":
    main()
