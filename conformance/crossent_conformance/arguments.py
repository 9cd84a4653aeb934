"""What the suite's commands share: kinds of arguments, mistakes of the user, files that are written at the end."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from crossent_conformance import files
from crossent_conformance.escaped import escaped
from crossent_conformance.known import near


class UsageError(Exception):
    """A mistake of the user, in one line."""


Command = Callable[[argparse.Namespace], int]


def told(work: Command) -> Command:
    """The command, with a mistake told in one line and exit code 2."""

    @functools.wraps(work)
    def run(given: argparse.Namespace) -> int:
        try:
            return work(given)
        except UsageError as error:
            print(f"crossent: {escaped(str(error))}", file=sys.stderr)
            return 2

    return run


def whole(text: str, least: int = 0) -> int:
    """A whole number."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def count(text: str) -> int:
    """How many of something there are to be."""
    return whole(text, 1)


def finite(text: str, accepted: Callable[[float], bool], words: str) -> float:
    """A finite number that is accepted; the words say which are."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and accepted(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not {words}")
    return value


def check_installed(*packages: str) -> None:
    """Find out before the suite is imported that it can be."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"the suite needs what is not installed: pip install {' '.join(missing)}")


def check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Find out before a run that there is what is asked for."""
    known = tuple(known)
    for name in given:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}{near(name, known)}; accepted: {', '.join(known)}")


def check_files(*paths: Path | None) -> None:
    """Find out before a run that its files can be written after it."""
    for path in paths:
        if path is not None and (obstacle := files.obstacle(path)) is not None:
            raise UsageError(f"cannot write {path}: {obstacle}")


def write_files(contents: Iterable[tuple[Path | None, Callable[[], bytes]]]) -> None:
    """Write the files that were asked for; one that cannot be written keeps none of the others."""
    problems = []
    for path, content in contents:
        try:
            if path is not None:
                files.write(path, content())
        except OSError as error:
            problems.append(f"cannot write {path}: {error.strerror or error}")
    if problems:
        raise UsageError("; ".join(problems))


def words(command: str, given: argparse.Namespace, *names: str) -> str:
    """The command line again, of the arguments that decide the results."""
    found = ["crossent", command, *getattr(given, "subjects", ())]
    for name in names:
        value = getattr(given, name)
        if value not in (None, False, []):
            listed = value if isinstance(value, list) else [] if value is True else [value]
            found += [f"--{name}", *map(str, listed)]
    return shlex.join(found)
