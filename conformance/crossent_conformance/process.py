"""A process of a run, as its parent has it: it answers one message at a time, or hangs, or ends.

hired = Worker(settings)
hired.send(job, seconds); hired.receive()           a job goes on its way; the next answer, where one has come
hired.hang(seconds), hired.crash                    why none comes: an `End`
hired.answer()                                      the next answer, or the end, waited for
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from crossent_conformance import frames, witness, worker

STARTING = 180.0
"""Seconds that one may take to import the backends and to collect the cases."""
_numbers = itertools.count()


@dataclass
class End:
    """How a worker ended, or that it does not answer."""

    kind: str
    why: str
    record: str
    """The file of the last call."""

    def input(self, mode: str = "") -> dict[str, Any] | None:
        """The last call that the implementation was handed."""
        return witness.read(self.record, mode)

    def __str__(self) -> str:
        """In one line."""
        last = self.input()
        called = f"{witness.in_words(last)}: " if last is not None else ""
        return called + " | ".join(line.strip() for line in self.why.splitlines() if line.strip())


class Worker:
    """A process that answers one message at a time."""

    def __init__(self, settings: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        stem = os.path.join(settings["folder"], str(next(_numbers)))
        self.log, self.record = f"{stem}.log", f"{stem}.call"
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=worker.main, args=(theirs, settings, self.log, self.record), daemon=True)
        with _no_interruption():
            self.process.start()
        theirs.close()
        self.jobs: deque[Any] = deque()
        self.spec: str | None = None
        self.file: str | None = None
        self.ready = False
        self.deadline = time.monotonic() + STARTING

    def send(self, job: Any, limit: float) -> None:
        self.jobs.append(job)
        self.deadline = time.monotonic() + limit
        self.pipe.send((job.what, job.argument))

    def receive(self) -> tuple[str, Any]:
        """Its next answer; EOFError or OSError where it is gone."""
        answer: tuple[str, Any] = self.pipe.recv()
        if answer[0] == "subject":
            self.file = answer[1]["file"]
        return answer

    def answer(self) -> tuple[str, Any] | End:
        """Its next answer, waited for; how it ended where there is none."""
        limit = self.deadline - time.monotonic()
        if not self.pipe.poll(max(0.0, limit)):
            return self.hang(limit) if self.process.is_alive() else self.crash
        try:
            return self.receive()
        except (EOFError, OSError):
            return self.crash

    @property
    def crash(self) -> End:
        """What is known of its end."""
        self.process.join(5)
        code = self.process.exitcode
        log = Path(self.log)
        last = frames.crashed(log.read_text(errors="replace") if log.exists() else "", self.file)
        words = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return End("crashes", f"the process ended with {words}" + (f"\n{last}" if last else ""), self.record)

    def hang(self, limit: float) -> End:
        """That it does not answer in time."""
        return End("hangs", f"no answer within {limit:g} seconds", self.record)

    def end(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.process.kill()
        self.process.join(5)
        self.pipe.close()


@contextlib.contextmanager
def _no_interruption() -> Iterator[None]:
    """A process that is started within hears no Ctrl-C, not even while it imports; this one does, afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would undo it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
