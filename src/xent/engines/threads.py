"""The pool of threads that walk blocks of rows. One pool for the process, made when first needed.

Its size is the number of cores this process may use, or XENT_NUM_THREADS. Small work never reaches it. A forked child
makes a pool of its own; a call from one of the pool's threads runs where it is, so callers may be threads themselves.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
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


def split(work: Callable[[int, int], None], n: int, threads: int) -> None:
    """Call ``work(start, stop)`` for consecutive parts of range(n), at most `threads` of them at a time."""
    threads = min(threads, n)
    if threads <= 1 or getattr(_local, "busy", False):
        work(0, n)
        return
    # More parts than threads, taken as they become free: a core that other processes slow down takes fewer.
    count_of_parts = min(n, 4 * threads)
    parts = deque(pairwise(n * i // count_of_parts for i in range(count_of_parts + 1)))
    helpers = []
    # An interpreter that is on its way out starts no threads, but still answers calls from those that it has.
    with contextlib.suppress(RuntimeError):
        pool = _shared(threads - 1)
        helpers += [pool.submit(_help, work, parts) for _ in range(threads - 1)]
    try:
        _drain(work, parts)
    finally:
        parts.clear()
        # A helper that has not begun is not needed any more, and may stand behind other callers' work.
        started = [helper for helper in helpers if not helper.cancel()]
        for helper in started:
            helper.exception()
    for helper in started:
        helper.result()


def _drain(work: Callable[[int, int], None], parts: deque[tuple[int, int]]) -> None:
    while True:
        try:
            start, stop = parts.popleft()
        except IndexError:
            return
        work(start, stop)


def _help(work: Callable[[int, int], None], parts: deque[tuple[int, int]]) -> None:
    _local.busy = True
    try:
        _drain(work, parts)
    finally:
        _local.busy = False
