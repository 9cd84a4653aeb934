"""The pool of threads that walk blocks of rows. One pool for the process, made when first needed.

Its size is what `set_num_threads` says, else CROSSENT_NUM_THREADS, else the number of cores this process may use. Small
work never reaches it. A forked child makes a pool of its own; a call from one of the pool's threads runs where it is,
so callers may be threads themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Final

from crossent.engines.environment import NUM_THREADS, setting

_lock = threading.Lock()
_local = threading.local()
_pool: ThreadPoolExecutor | None = None
_chosen: int | None = None
CHOSEN: Final = ctypes.c_int64(0)
"""The same for machine code, which reads it where it lies: 0 for None."""


def set_num_threads(number: int | None) -> None:
    """Say how many threads a large call in host memory uses, in this process and from now on.

    Parameters
    ----------
    number
        A whole number of at least 1, or None: as the environment's CROSSENT_NUM_THREADS says, or else one for each core
        that this process may use. Results do not depend on it.

    Raises
    ------
    TypeError, ValueError
        For anything else.

    Examples
    --------
    >>> set_num_threads(1)
    >>> get_num_threads()
    1
    >>> set_num_threads(None)
    """
    global _chosen  # noqa: PLW0603
    accepted = "None or a whole number of at least 1"
    if number is not None:
        if isinstance(number, bool):
            raise TypeError(f"number is {number!r} (bool); accepted: {accepted}")
        try:
            number = operator.index(number)
        except TypeError:
            raise TypeError(f"number is {number!r} ({type(number).__name__}); accepted: {accepted}") from None
        if number < 1:
            raise ValueError(f"number is {number}; accepted: {accepted}")
    _chosen = number
    CHOSEN.value = number or 0


def get_num_threads() -> int:
    """How many threads a large call in host memory uses: see `set_num_threads`.

    Raises
    ------
    ValueError
        Where CROSSENT_NUM_THREADS is no whole number of at least 1.

    Examples
    --------
    >>> get_num_threads() >= 1
    True
    """
    return number_of_environment() if _chosen is None else _chosen


def told() -> str | int | None:
    """What says how many threads there are: what was chosen, else the environment; None for neither."""
    return setting(NUM_THREADS) if _chosen is None else _chosen


def check(told: str | int | None) -> None:
    """ValueError where the environment tells what is no number of threads."""
    if type(told) is str and told and (not told.isdecimal() or int(told) < 1):
        raise ValueError(f"{NUM_THREADS} is {told!r}; accepted: a whole number of at least 1")


def number_of_environment() -> int:
    """How many threads there are where none have been chosen."""
    given = setting(NUM_THREADS)
    check(given)
    if given:
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
            _pool = ThreadPoolExecutor(size, thread_name_prefix="crossent")
        return _pool


def split(work: Callable[[int, int], None], n: int, threads: int) -> None:
    """Call ``work(start, stop)`` for consecutive parts of range(n), at most `threads` of them at a time."""
    threads = min(threads, n)
    if threads <= 1 or getattr(_local, "busy", False):
        work(0, n)
        return
    # More parts than threads, taken as they become free: a core that other processes slow down takes fewer.
    count_of_parts = min(n, 4 * threads)
    edges = pairwise(n * i // count_of_parts for i in range(count_of_parts + 1))
    # What a helper knows is cleared in the end: one that never begins stays in the pool's queue for a while.
    parts = deque(partial(work, start, stop) for start, stop in edges)
    helpers = []
    # An interpreter that is on its way out starts no threads, but still answers calls from those that it has.
    with contextlib.suppress(RuntimeError):
        pool = _shared(threads - 1)
        helpers += [pool.submit(_help, parts) for _ in range(threads - 1)]
    try:
        _drain(parts)
    finally:
        parts.clear()
        # A helper that has not begun is not needed any more, and may stand behind other callers' work.
        started = [helper for helper in helpers if not helper.cancel()]
        for helper in started:
            helper.exception()
    for helper in started:
        helper.result()


def _drain(parts: deque[partial[None]]) -> None:
    while True:
        try:
            part = parts.popleft()
        except IndexError:
            return
        part()


def _help(parts: deque[partial[None]]) -> None:
    _local.busy = True
    try:
        _drain(parts)
    finally:
        _local.busy = False
