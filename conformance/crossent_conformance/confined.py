"""A process of its own for calls that may take too much memory: the suite lives on, and hears why the call did not.

    result = confined.run("crossent_conformance.many", "numpy", "file.py:function")

runs the module's `main` with the arguments in a fresh Python and gives the JSON that it prints. There, `limit()` lets
the process take so much more memory than it has, and no more, where the system can (Linux). What cannot end within the
time limit of a case at the subject's speed is for `main` to leave out (`UnderTest.affords`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from crossent_conformance import depth, frames
from crossent_conformance.evidence import HungError

MORE = 3 << 30
"""Bytes that it may take besides those that it has."""
STARTING = 30.0
"""Seconds in which a process may import what it needs."""


class ConfinedError(Exception):
    """The process gave no result; the message says what is known."""


def run(module: str, *arguments: str) -> Any:
    """What the module's `main` prints, read as JSON."""
    # What the subject imports is looked for where this process would look.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    limit = min(depth.TIME_LIMIT, 600.0)
    environment = {**os.environ, "PYTHONPATH": path, "CROSSENT_CONFORMANCE_TIME_LIMIT": str(limit)}
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", module, *arguments],
            capture_output=True,
            text=True,
            timeout=STARTING + limit,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise HungError(f"no answer within {limit:g} seconds") from None
    if done.returncode != 0:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise ConfinedError(f"the process ended with {ended}: {frames.crashed(done.stderr, None)}")
    return json.loads(done.stdout.splitlines()[-1])


def limit() -> None:
    """From now on this process may take MORE, and no more."""
    if sys.platform != "linux":
        return
    import resource

    # Not the address space: every thread reserves some of that without using it.
    allowed = status("VmData") + MORE
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (allowed if most == -1 else min(allowed, most), most))


def is_for_memory(error: Exception) -> bool:
    """Whether an error says that there was not enough memory, in the ways of NumPy, torch and CUDA."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in ("allocate memory", "out of memory", "enough memory")
    )


def status(field: str) -> int:
    """A size in bytes, of those that Linux tells of a process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")
