"""What the engines that compile keep on disk. It is run, so it is read only where no other user can have written it.

CROSSENT_CACHE_DIR is the folder; without it, that is `crossent` in the user's folder for caches. At the end of a file
stands a digest of its name and of what is before: a damaged file, or one under another's name, is made anew. Whatever
happens there costs time, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Final

from crossent.engines.compiling import LOGGER

# The bytes at the end of a file. Tools that read cubins take no notice of them.
_DIGEST: Final = hashlib.sha256().digest_size
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_said: set[str] = set()


def name(stem: str, *made_from: Any) -> str:
    """A name that changes with all that the code is made from."""
    return f"{stem}-{hashlib.sha256(repr(made_from).encode()).hexdigest()[:32]}"


def path(file: str, otherwise: str | None = None) -> Path | None:
    """Where a file is kept; None where there is no folder, or one that other users write to.

    otherwise: the folder unless CROSSENT_CACHE_DIR says.
    """
    try:
        found = _folder(otherwise)
        with contextlib.suppress(FileNotFoundError):
            state = os.stat(found)
            if not stat.S_ISDIR(state.st_mode):
                raise NotADirectoryError(f"{found} is not a folder")
            _check(found, state)
    except (OSError, RuntimeError) as error:  # a user without a home
        _say_once(_unkept(error))
        return None
    return found / file


def read(path: Path | None) -> bytes | None:
    """What is kept there; None where there is nothing, or something damaged, or what another user may have written."""
    if path is None:
        return None
    try:
        with open(path, "rb", opener=_opened) as file:
            state = os.fstat(file.fileno())
            _check(path, state)
            # A pipe or a device is as a damaged file: it may have no end.
            kept = file.read() if stat.S_ISREG(state.st_mode) else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        _say_once(_unkept(error))
        return None
    code, digest = kept[:-_DIGEST], kept[-_DIGEST:]
    if _digest(path, code) == digest:
        return code
    _say_once(f"crossent compiles its kernel anew: {path} is damaged")
    return None


def keep(path: Path | None, code: bytes) -> None:
    """Write a file under its name at once and whole, whatever other processes write or read there."""
    if path is None:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code + _digest(path, code))
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        _say_once(_unkept(error))


def _folder(otherwise: str | None) -> Path:
    asked = os.environ.get("CROSSENT_CACHE_DIR") or otherwise
    if asked:
        return Path(asked).expanduser()
    caches = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return Path(caches or "~/.cache").expanduser() / "crossent"


def _opened(path: str, flags: int) -> int:
    """A pipe, too, without a wait for who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check(path: Path, found: os.stat_result) -> None:
    """PermissionError where a user other than this one and the administrator can have written that file or folder."""
    if not hasattr(os, "geteuid"):  # Windows: folders for caches belong to their user, and modes say nothing
        return
    if found.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{path} belongs to another user, number {found.st_uid}")
    # In a sticky folder others may add files, which are theirs, and touch none of this user's.
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & _OTHERS_WRITE and not sticky:
        raise PermissionError(f"{path} can be written by other users (chmod go-w)")


def _digest(path: Path, code: bytes) -> bytes:
    return hashlib.sha256(path.name.encode() + code).digest()


def _unkept(error: Exception) -> str:
    return f"crossent can not keep its kernel on disk ({type(error).__name__}: {error})"


def _say_once(words: str) -> None:
    if words not in _said:
        _said.add(words)
        LOGGER.warning("%s", words)
