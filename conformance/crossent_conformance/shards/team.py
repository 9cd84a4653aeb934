"""The processes that have the shards, as who asks them sees them: started once, asked together, never left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance.adapter import Traits, UnderTest
from crossent_conformance.backends import Mode
from crossent_conformance.evidence import HungError
from crossent_conformance.shards.groups import GROUPS

KEY = "CROSSENT_CONFORMANCE_KEY"
"""The name of what a process shows to be let in."""
STARTING = 120.0
"""Seconds that the processes may take to import what they need."""
LIMIT = "CROSSENT_CONFORMANCE_TIME_LIMIT"
"""The name of the seconds for an answer; 60 where it is not set. The first may have to compile."""


@dataclass(frozen=True)
class Request:
    """A call, as one of them makes it."""

    verb: str
    ranges: tuple[tuple[int, int], ...]
    check: bool
    dtype: str
    mode: Mode
    traits: Traits
    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]
    counts: bool = False


@dataclass
class Answer:
    """What became of it: arrays, an error or what the implementation lacks; the collectives, where they are counted."""

    parts: tuple[np.ndarray, ...] = ()
    error: str = ""
    text: str = ""
    lacks: str = ""
    gradient: bool = False
    met: list[tuple[str, int]] | None = field(default=None)


class Team:
    """So many processes with an implementation and a backend."""

    def __init__(self, spec: str, backend: str, kind: str, ranks: int, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="crossent-shards-", ignore_cleanup_errors=True)
        self._pipes: dict[int, Connection] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        key = secrets.token_bytes(16)
        folder = self._folder.name
        with Listener(("127.0.0.1", 0), authkey=key) as listener:
            host, port = listener.address
            module = "crossent_conformance.shards.rank"
            command = [sys.executable, "-X", "faulthandler", "-m", module, f"{host}:{port}", spec, backend, kind]
            path = os.pathsep.join([os.getcwd(), *(entry for entry in sys.path if entry)])
            environment = {**os.environ, **environment, "PYTHONPATH": path, KEY: key.hex(), "OMP_NUM_THREADS": "1"}
            commands = GROUPS[kind].commands(ranks, [*command, str(ranks), folder])
            self._log = Path(folder, "log")
            with self._log.open("wb") as log:
                for each in commands:
                    self._processes.append(
                        subprocess.Popen(
                            each,
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=log,
                            env=environment,
                            start_new_session=True,
                        )
                    )
            try:
                self._let_in(listener, 1 if kind == "one" else ranks)
            except BaseException:
                self.end()
                raise

    def _let_in(self, listener: Listener, count: int) -> None:
        come: list[Connection] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                come.extend(listener.accept() for _ in range(count))

        threading.Thread(target=accept, daemon=True).start()
        deadline = time.monotonic() + STARTING
        while len(come) < count and time.monotonic() < deadline:
            if any(process.poll() for process in self._processes):
                raise RuntimeError(f"a process of the shards ended before it was asked: {self._last_words()}")
            time.sleep(0.02)
        if len(come) < count:
            raise HungError(f"the processes of the shards did not start within {STARTING:g} seconds")
        for pipe in come:
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                raise HungError(f"the processes of the shards did not start within {STARTING:g} seconds")
            try:
                self._pipes[pipe.recv()] = pipe
            except EOFError:
                raise RuntimeError(f"a process of the shards ended before it was asked: {self._last_words()}") from None

    def ask(self, requests: list[Request]) -> list[Answer]:
        """The answers to one request of each; HungError where one does not come, after which there is no team."""
        for rank, pipe in self._pipes.items():
            pipe.send(requests[rank])
        found: dict[int, Answer] = {}
        seconds = float(os.environ.get(LIMIT) or 60)
        deadline = time.monotonic() + seconds
        while len(found) < len(self._pipes):
            open_ones = {pipe: rank for rank, pipe in self._pipes.items() if rank not in found}
            ready = wait(list(open_ones), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self.end()
                if any(answer.lacks for answer in found.values()):
                    return list(found.values())
                raise HungError(
                    f"{_ranks(open_ones.values())} did not answer within {seconds:g} seconds"
                    + "".join(f"; rank {rank} raised {found[rank].error}" for rank in found if found[rank].error)
                )
            for pipe, rank in open_ones.items():
                if pipe not in ready:
                    continue
                try:
                    found[rank] = pipe.recv()
                except (EOFError, OSError):
                    last = self._last_words()
                    self.end()
                    raise RuntimeError(f"the process of rank {rank} ended: {last}") from None
                if found[rank].lacks:  # those that are asked what they have may wait for the others
                    deadline = min(deadline, time.monotonic() + 2)
        return [found[rank] for rank in sorted(found)]

    @property
    def is_over(self) -> bool:
        """Whether there are no processes any more."""
        return not self._processes

    def end(self, patience: float = 0.0) -> None:
        """Ask them to go, and see to it that they have after so many seconds."""
        for pipe in self._pipes.values():
            with contextlib.suppress(OSError):
                pipe.send(None)
        deadline = time.monotonic() + patience
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for pipe in self._pipes.values():
            pipe.close()  # who waits for others hears this, too
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    if hasattr(os, "killpg"):
                        os.killpg(process.pid, signal.SIGKILL)  # with what it has started
                    else:
                        process.kill()
            process.wait()
        self._processes, self._pipes = [], {}
        self._folder.cleanup()

    def _last_words(self) -> str:
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
        return self._log.read_text(errors="replace").strip()[-1200:]


def _ranks(ranks: Any) -> str:
    listed = sorted(ranks)
    return f"rank{'s' if len(listed) > 1 else ''} {', '.join(map(str, listed))}"


class Teams:
    """Those of a session: one for each implementation and backend."""

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self._teams: dict[tuple[str, str], tuple[Team, str]] = {}

    def of(self, subject: UnderTest, backend: str) -> tuple[Team, str]:
        """The processes, and how they reach each other; DoesNotApply for an implementation without."""
        key = (subject.spec, backend)
        if key in self._teams and self._teams[key][0].is_over:
            del self._teams[key]
        if key not in self._teams:
            found = subject.sharded(backend)
            environment = {name: value.format(ranks=self.ranks) for name, value in found.environment.items()}
            self._teams[key] = Team(subject.spec, backend, found.group, self.ranks, environment), found.group
        return self._teams[key]

    def end(self) -> None:
        """Of all of them."""
        for team, _ in self._teams.values():
            team.end(patience=5.0)
        self._teams = {}
