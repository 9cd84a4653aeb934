"""The pool of threads: every part once, errors come out, callers may be threads, a forked child can go on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from functools import partial

import numpy as np
import pytest

from crossent.engines import threads


def _parts(n, count):
    lock, seen = threading.Lock(), []

    def work(start, stop):
        with lock:
            seen.append((start, stop))

    threads.split(work, n, count)
    return sorted(seen)


@pytest.mark.parametrize(("n", "count"), [(1, 4), (2, 4), (7, 2), (7, 3), (1000, 8), (5, 1)])
def test_every_row_once(n, count):
    parts = _parts(n, count)
    assert [i for start, stop in parts for i in range(start, stop)] == list(range(n))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_more_at_a_time_than_asked_for(count):
    lock, running, most = threading.Lock(), [0], [0]

    def work(start, stop):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.002)
        with lock:
            running[0] -= 1

    threads.split(work, 40, count)
    assert most[0] == count


@pytest.mark.parametrize("bad", [0, 5, 9])
def test_an_error_in_any_part_comes_out_when_nothing_runs_any_more(bad):
    lock, running = threading.Lock(), [0]

    def work(start, stop):
        with lock:
            running[0] += 1
        try:
            time.sleep(0.001)
            if start <= bad < stop:
                raise ZeroDivisionError("here")
        finally:
            with lock:
                running[0] -= 1

    with pytest.raises(ZeroDivisionError, match="here"):
        threads.split(work, 10, 2)
    assert running[0] == 0
    assert [i for start, stop in _parts(10, 2) for i in range(start, stop)] == list(range(10))


def test_a_call_from_a_thread_of_the_pool_runs_where_it_is():
    lock, outer, inner = threading.Lock(), [], []

    def nested(start, stop):
        with lock:
            inner.append((start, stop, threading.current_thread().name))

    def work(start, stop):
        time.sleep(0.002)
        name = threading.current_thread().name
        if name.startswith("crossent"):
            outer.append(name)
            threads.split(nested, 10, 4)

    threads.split(work, 8, 2)
    assert outer
    assert [part[:2] for part in inner] == [(0, 10)] * len(outer)
    assert {part[2] for part in inner} == set(outer)


def test_a_call_that_has_ended_keeps_nothing_alive():
    """Nor where every thread of the pool is busy with other callers' work, and its own still waits for one."""
    go_on, size = threading.Event(), threads._shared(1)._max_workers
    busy = [threads._shared(size).submit(go_on.wait) for _ in range(size)]
    kept = np.zeros(3)
    gone = weakref.ref(kept)
    threads.split(partial(lambda x, start, stop: None, kept), 40, 2)
    del kept
    try:
        assert gone() is None
    finally:
        go_on.set()
    assert all(each.result() for each in busy)


def test_many_callers_share_the_pool():
    results = []
    callers = [threading.Thread(target=lambda: results.append(_parts(100, 4))) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=30)
    assert len(results) == 16
    assert all([i for a, b in parts for i in range(a, b)] == list(range(100)) for parts in results)


@pytest.mark.parametrize(("given", "expected"), [("1", 1), ("7", 7), ("", os.cpu_count())])
def test_the_environment_says_how_many(monkeypatch, given, expected):
    monkeypatch.setenv("CROSSENT_NUM_THREADS", given)
    assert threads.get_num_threads() == expected


@pytest.mark.parametrize("given", ["0", "-1", "two", " ", "1.5"])
def test_a_wrong_number_of_threads_is_named(monkeypatch, given):
    monkeypatch.setenv("CROSSENT_NUM_THREADS", given)
    with pytest.raises(ValueError, match=rf"CROSSENT_NUM_THREADS is '{given}'; accepted: "):
        threads.get_num_threads()


def test_without_the_environment_the_cores_of_this_process(monkeypatch):
    monkeypatch.delenv("CROSSENT_NUM_THREADS", raising=False)
    assert 1 <= threads.get_num_threads() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_computes_too():
    """In a fresh interpreter, since forking one with many libraries' threads is not safe in itself."""
    program = """
        import os, sys, warnings
        import numpy as np
        os.environ["CROSSENT_NUM_THREADS"] = "4"
        import crossent
        rng = np.random.default_rng(0)
        x, t = rng.standard_normal((400, 600)).astype(np.float32), rng.integers(0, 600, 400)
        expected = crossent.cross_entropy(x, t, reduction="none")
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if not child:
            import signal
            signal.alarm(20)
            same = np.array_equal(crossent.cross_entropy(x, t, reduction="none"), expected)
            os._exit(0 if same else 3)
        _, status = os.waitpid(child, 0)
        assert np.array_equal(crossent.cross_entropy(x, t, reduction="none"), expected)
        sys.exit(os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_large_call_outlives_the_main_thread():
    program = """
import threading, time
import numpy as np, crossent
logits, targets = np.zeros((300, 5000), np.float32), np.zeros(300, int)
def late():
    time.sleep(0.3)
    print(round(float(crossent.cross_entropy(logits, targets)), 3))
threading.Thread(target=late).start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("8.517\n", "")
