"""The pool of threads that walk blocks of rows. One pool for the process, made when first needed.

Its size is the number of cores this process may use, or XENT_NUM_THREADS. Small work never reaches it. A forked child
makes a pool of its own; a call from one of the pool's threads runs where it is, so callers may be threads themselves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

_lock = threading.Lock()
_local = threading.local()
_pool: ThreadPoolExecutor | None = None


def count() -> int:
    """How many threads large calls use; XENT_NUM_THREADS, else the cores that this process may use."""
    given = os.environ.get("XENT_NUM_THREADS")
    if given is not None:
        if not given.isdecimal() or int(given) < 1:
            raise ValueError(f"XENT_NUM_THREADS is {given!r}; accepted: a whole number of at least 1")
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forget() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _shared(size: int) -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603
    with _lock:
        if _pool is None or _pool._max_workers < size:
            _pool = ThreadPoolExecutor(size, thread_name_prefix="xent")
        return _pool


def _in_pool(work: Callable[[int, int], None], start: int, stop: int) -> None:
    _local.busy = True
    try:
        work(start, stop)
    finally:
        _local.busy = False


def split(work: Callable[[int, int], None], n: int, threads: int) -> None:
    """Call ``work(start, stop)`` for consecutive parts of range(n), at most `threads` of them at a time."""
    threads = min(threads, n)
    if threads <= 1 or getattr(_local, "busy", False):
        work(0, n)
        return
    pool = _shared(threads - 1)
    edges = [n * i // threads for i in range(threads + 1)]
    futures = [pool.submit(_in_pool, work, a, b) for a, b in pairwise(edges[1:])]
    try:
        work(edges[0], edges[1])
    finally:
        for future in futures:
            future.exception()
    for future in futures:
        future.result()
