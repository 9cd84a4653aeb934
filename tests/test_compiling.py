"""What the engines that compile share: nothing is made twice, and who waits is told."""

import importlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from crossent.engines.compiling import Once


def test_what_raises_is_tried_again():
    tried = []

    @Once
    def make(name):
        tried.append(name)
        if len(tried) == 1:
            raise RuntimeError(name)
        return [name]

    with pytest.raises(RuntimeError, match="a"):
        make("a")
    made = make("a")
    assert made is make("a")
    assert make("b") == ["b"]
    assert tried == ["a", "a", "b"]
    make.forget()
    assert make("a") is not made


def test_one_thread_makes_and_the_others_wait():
    together, go_on, found, tried = threading.Barrier(9), threading.Event(), [], []

    @Once
    def make():
        tried.append(threading.get_ident())
        go_on.wait()
        return object()

    def ask():
        together.wait()
        found.append(make())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    together.wait()
    go_on.set()
    for thread in threads:
        thread.join()
    assert len(tried) == 1
    assert len(set(map(id, found))) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_waits_for_what_a_thread_makes():
    """In a fresh interpreter, since forking one with many libraries' threads is not safe in itself."""
    program = """
        import os, signal, sys, threading, time, warnings
        from crossent.engines.compiling import Once
        begun, lock = threading.Event(), threading.Lock()

        @Once
        def make(name):
            with lock:  # as a compiler has its own
                begun.set()
                time.sleep(0.2)
            return name

        thread = threading.Thread(target=make, args="a")
        thread.start()
        begun.wait()
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if not child:
            signal.alarm(10)
            os._exit(0 if make._made == {("a",): "a"} and make("b") == "b" else 3)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or make("c") != "c")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["cuda.launch.kernel", "cuda.program.cubin", "numba_cpu.kernel.kernel"])
def test_engines_make_their_kernels_so(name):
    if name.startswith("numba"):
        pytest.importorskip("numba")
    module, _, made = name.rpartition(".")
    assert isinstance(getattr(importlib.import_module(f"crossent.engines.{module}"), made), Once)
