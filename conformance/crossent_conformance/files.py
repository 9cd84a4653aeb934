"""Files that a run writes when it is over: whether they can be written is known before it begins.

`obstacle` leaves nothing and changes nothing. `write` replaces a file as a whole: who reads it meanwhile sees the old
one or the new one. What is no regular file, as /dev/stdout, is written to as it is.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def obstacle(path: Path) -> str | None:
    """Why the file cannot be written, if so."""
    try:
        if path.is_dir():
            return "it is a directory"
        if not path.parent.is_dir():
            return f"there is no directory {path.parent}"
        if not path.exists():
            target = path.resolve()
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            target.unlink()
        elif is_special(path):
            return None if os.access(path, os.W_OK) else "permission denied"
        else:
            path.open("ab").close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def is_special(path: Path) -> bool:
    """Whether it is there and no file that could be replaced by another."""
    return path.exists() and not path.is_file()


def write(path: Path, content: bytes) -> None:
    """Write the file; OSError where that fails."""
    if is_special(path):
        path.write_bytes(content)
        return
    path = path.resolve()
    beside = path.with_name(f".crossent-{os.getpid()}.part")
    try:
        file = beside.open("wb")
    except OSError:  # the folder takes no new files; the old one may be open to writing all the same
        path.write_bytes(content)
        return
    try:
        with file:
            file.write(content)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
