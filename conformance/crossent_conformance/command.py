"""`crossent conform`: arguments in, reports out; exit code 0: all that applies holds, 1: something fails, 2: misuse.

Reading the arguments imports nothing but the standard library: `configure` is called by every `crossent` command.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crossent_conformance import files

if TYPE_CHECKING:
    from crossent_conformance.results import Results
    from crossent_conformance.run import Listener


class UsageError(Exception):
    """A mistake of the user, in one line."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "subject", nargs="+", metavar="SUBJECT",
        help="the implementation: MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE; several are compared",
    )  # fmt: skip
    parser.add_argument(
        "--backend", nargs="+", action="extend", default=[], metavar="NAME",
        help="whose arrays to test it with (default: those that it takes): numpy, torch, torch-cuda, cupy, jax, dask, "
        "array-api-strict",
    )  # fmt: skip
    parser.add_argument(
        "--clause", nargs="+", action="extend", default=[], metavar="V1", help="clauses of the contract (default: all)"
    )
    parser.add_argument(
        "--case", nargs="+", action="extend", default=[], metavar="NAME", help="tests by name or pattern (default: all)"
    )
    parser.add_argument("--thorough", action="store_true", help="ten times the random cases")
    parser.add_argument("--seed", type=_whole, default=0, metavar="N", help="of the random cases (default: 0)")
    parser.add_argument(
        "--time-limit", type=_seconds, default=60.0, metavar="SECONDS",
        help="a case that takes longer fails (default: 60; with --thorough 600)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=_count, default=0, metavar="N", help="processes (default: one a core, 4 at most)"
    )
    for name, what in (("json", "JSON"), ("html", "one HTML page"), ("junit", "JUnit XML")):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write the results as {what}")


def run(given: argparse.Namespace) -> int:
    """Run the suite as the arguments say, print the report, write the files."""
    check_extras()
    from crossent_conformance import contract, junit, report_html, table
    from crossent_conformance.run import BACKENDS, BrokenRunError, Run, Settings
    from crossent_conformance.subject import SubjectError

    _check_names("backend", given.backend, BACKENDS)
    _check_names("clause", given.clause, tuple(contract.clauses()))
    for name in ("json", "html", "junit"):
        check_file(getattr(given, name))
    limit = given.time_limit * (10 if given.thorough and given.time_limit == 60.0 else 1)
    settings = Settings(
        backends=tuple(dict.fromkeys(given.backend)),
        clauses=tuple(dict.fromkeys(given.clause)),
        cases=tuple(given.case),
        seed=given.seed,
        thorough=given.thorough,
        time_limit=limit,
        workers=given.workers,
        command=_command(given),
    )
    interrupted = False
    with _listening(given.json) as listener:
        work = Run(list(dict.fromkeys(given.subject)), settings, listener)
        try:
            work.execute()
        except KeyboardInterrupt:
            interrupted = True
        except (SubjectError, BrokenRunError) as error:
            raise UsageError(str(error)) from error
    results = work.results
    print(table.text(results))
    written: list[tuple[Path | None, Callable[[], bytes]]] = [
        (given.json, lambda: results.as_text().encode()),
        (given.html, lambda: report_html.page(results.to_json()).encode()),
        (given.junit, lambda: junit.document(results)),
    ]
    write_files(written)
    if interrupted:
        return 130
    if results.fails:
        return 1
    if not any(case.outcome == "holds" for subject in results.subjects for case in subject.cases):
        raise UsageError("nothing that was asked applies to the implementation: see the reasons above")
    return 0


@contextlib.contextmanager
def _listening(file: Path | None) -> Iterator[Listener]:
    """Progress on a terminal, and the JSON on disk every two seconds."""
    if file is not None and files.is_special(file):  # as a pipe, which holds what is written to it once
        file = None
    written = time.monotonic()

    def save(results: Results) -> None:
        nonlocal written
        if file is not None and time.monotonic() - written > 2:
            with contextlib.suppress(OSError):  # if it still cannot be written at the end, that is told
                results.write(file)
            written = time.monotonic()

    if not sys.stderr.isatty():
        yield lambda results, _done, _planned: save(results)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("getting ready", total=None)

        def show(results: Results, done: int, planned: int) -> None:
            failed = sum(case.outcome == "fails" for subject in results.subjects for case in subject.cases[-200:])
            progress.update(task, description=f"cases{', some fail' if failed else ''}", completed=done, total=planned)
            save(results)

        yield show


def _command(given: argparse.Namespace) -> str:
    words = ["crossent", "conform", *given.subject]
    for name in ("backend", "clause", "case"):
        if getattr(given, name):
            words += [f"--{name}", *getattr(given, name)]
    words += ["--thorough"] if given.thorough else []
    words += ["--seed", str(given.seed)] if given.seed else []
    return shlex.join(words)


def check_extras() -> None:
    """Find out before the suite is imported that it can be."""
    import importlib.util

    missing = [name for name in ("pytest", "hypothesis", "mpmath", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"the suite needs what is not installed: pip install {' '.join(missing)}")


def _check_names(what: str, given: list[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}; accepted: {', '.join(known)}")


def check_file(path: Path | None) -> None:
    """Find out before a run that a file can be written after it."""
    if path is not None and (obstacle := files.obstacle(path)) is not None:
        raise UsageError(f"cannot write {path}: {obstacle}")


def write_files(contents: Iterable[tuple[Path | None, Callable[[], bytes]]]) -> None:
    """Write the files that were asked for; one that cannot be written keeps none of the others."""
    problems = []
    for path, content in contents:
        if path is None:
            continue
        try:
            files.write(path, content())
        except OSError as error:
            problems.append(f"cannot write {path}: {error.strerror or error}")
    if problems:
        raise UsageError("; ".join(problems))


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value
