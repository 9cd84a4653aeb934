"""A process of its own for calls that may take too much memory: the suite lives on, and hears why the call did not.

    result = confined.run("crossent_conformance.many", "numpy", "file.py:function", seconds=50)

runs the module's `main` with the arguments in a fresh Python and gives the JSON that it prints. There, `limit()` lets
the process take so much more memory than it has, and no more, where the system can (Linux).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from crossent_conformance import frames

GIB = 1 << 30


class ConfinedError(Exception):
    """The process gave no result; the message says what is known."""


def run(module: str, *arguments: str, seconds: float) -> Any:
    """What the module's `main` prints, read as JSON."""
    # What the subject imports is looked for where this process would look.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-m", module, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise ConfinedError(f"no answer within {seconds:g} seconds") from None
    if done.returncode != 0:
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise ConfinedError(f"the process ended with {ended}: {frames.crashed(done.stderr, None)}")
    return json.loads(done.stdout.splitlines()[-1])


def limit(more: int = 3 * GIB) -> None:
    """From now on this process may take so many bytes more."""
    if sys.platform != "linux":
        return
    import resource

    # Not the address space: every thread reserves some of that without using it.
    allowed = status("VmData") + more
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
