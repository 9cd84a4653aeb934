"""`crossent conform`: arguments in, reports out; exit code 0: all that applies holds, 1: something fails, 2: misuse.

What is known to fail, or allowed to, is no failure; a known failure that holds is one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crossent_conformance import arguments, contract, files, known
from crossent_conformance.arguments import UsageError
from crossent_conformance.backends import BACKENDS
from crossent_conformance.escaped import escaped

if TYPE_CHECKING:
    from crossent_conformance.results import Results
    from crossent_conformance.run import Ended, Listener

HELP = "test any cross-entropy against the contract, clause by clause"
PACKAGES = ("pytest", "hypothesis", "mpmath", "rich")
"""What no run can do without; the reports need more."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    groups = "\n".join(f"  {group}" for group in contract.in_groups())
    parser.epilog = f"clauses:\n{groups}\ntheir words: {contract.page()}\ntheir tests: crossent conform --list"
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT",
        help="the implementation: MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE; several are compared",
    )  # fmt: skip
    for name, metavar, what in (
        ("backend", "NAME", f"whose arrays to test it with (default: those that it takes): {', '.join(BACKENDS)}"),
        ("clause", "V1", "clauses of the contract (default: all)"),
        ("case", "NAME", "tests by name or pattern (default: all)"),
        ("exclude", "V1", "clauses and tests to leave out"),
        ("allow", "V1", "clauses and tests whose failures are reported and do not count"),
    ):
        parser.add_argument(f"--{name}", nargs="+", action="extend", default=[], metavar=metavar, help=what)
    parser.add_argument(
        "--profile",
        choices=list(known.PROFILES),
        default="",
        help="do not count what the profile is without; framework: what no framework promises",
    )
    parser.add_argument(
        "--known",
        type=Path,
        metavar="FILE",
        help="the known failures (default: NAME.known.toml beside NAME.py of the implementation)",
    )
    parser.add_argument("--list", action="store_true", help="list the tests that there are, and run nothing")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="each test in one dtype and mode of a backend, few random inputs, no long ones",
    )
    parser.add_argument(
        "--shards", type=arguments.count, default=0, metavar="N",
        help="processes with a shard of the vocabulary each, for P1 to P4 (default: these are not asked)",
    )  # fmt: skip
    parser.add_argument("--thorough", action="store_true", help="ten times the random cases")
    parser.add_argument("--seed", type=arguments.whole, default=0, metavar="N", help="of the random cases (default: 0)")
    parser.add_argument(
        "--time-limit", type=_seconds, default=60.0, metavar="SECONDS",
        help="a case that takes longer fails (default: 60; with --thorough 600)",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=arguments.count, default=0, metavar="N", help="processes (default: one a core, 4 at most)"
    )
    for name, what in (("json", "JSON"), ("html", "one HTML page"), ("junit", "JUnit XML")):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"write the results as {what}")


def _seconds(text: str) -> float:
    return arguments.finite(text, lambda value: value > 0, "a number of seconds above 0")


@arguments.told
def run(given: argparse.Namespace) -> int:
    """Run the suite as the arguments say, print the report, write the files."""
    arguments.check_installed(*PACKAGES, *(("jinja2", "matplotlib") if given.html else ()))
    from crossent_conformance import junit, table
    from crossent_conformance.run import BrokenRunError, Run, Settings
    from crossent_conformance.subject import SubjectError

    arguments.check_names("backend", given.backend, BACKENDS)
    arguments.check_names("clause", given.clause, contract.clauses())
    if not (given.subjects or given.list):
        raise UsageError("the following arguments are required: SUBJECT")
    if given.quick and given.thorough:
        raise UsageError("--quick and --thorough; accepted: one of them")
    in_shards = [clause for clause in given.clause if clause.startswith(contract.SHARDS)]
    if in_shards and not given.shards:
        raise UsageError(f"--clause {' '.join(in_shards)} without --shards; accepted: --shards N, as --shards 4")
    arguments.check_files(given.json, given.html, given.junit)
    settings = Settings(
        backends=tuple(dict.fromkeys(given.backend)),
        clauses=tuple(dict.fromkeys(given.clause)),
        cases=tuple(given.case),
        exclude=tuple(given.exclude),
        allow=tuple(given.allow),
        profile=given.profile,
        known=given.known,
        quick=given.quick,
        seed=given.seed,
        thorough=given.thorough,
        time_limit=given.time_limit * (10 if given.thorough and given.time_limit == 60.0 else 1),
        workers=given.workers,
        shards=given.shards,
        command=arguments.words(
            "conform",
            given,
            "backend",
            "clause",
            "case",
            "exclude",
            "allow",
            "quick",
            "thorough",
            *(name for name in ("profile", "known", "shards", "seed") if getattr(given, name)),
        ),
    )
    try:
        for option, names in (("--case", given.case), ("--exclude", given.exclude), ("--allow", given.allow)):
            known.check(option, names)
        if given.list:
            print(table.listed(Run([], settings).cases(), each=bool(given.case)))
            return 0
    except (known.KnownError, SubjectError, BrokenRunError) as error:
        raise UsageError(str(error)) from error
    interrupted = False
    with _listening(given.json) as listener:
        work = Run(list(dict.fromkeys(given.subjects)), settings, listener)
        try:
            work.execute()
        except KeyboardInterrupt:
            interrupted = True
        except (known.KnownError, SubjectError, BrokenRunError) as error:
            raise UsageError(str(error)) from error
    results = work.results
    print(table.text(results))
    arguments.write_files(
        [
            (given.json, lambda: results.as_text().encode()),
            (given.html, lambda: _page(results)),
            (given.junit, lambda: junit.document(results)),
        ]
    )
    if interrupted:
        return 130
    if results.fails:
        return 1
    if not any(case.outcome != "does not apply" for subject in results.subjects for case in subject.cases):
        raise UsageError("nothing that was asked applies to the implementation: see the reasons above")
    return 0


def _page(results: Results) -> bytes:
    from crossent_conformance import page

    return page.of_results(results.to_json()).encode()


@contextlib.contextmanager
def _listening(file: Path | None) -> Iterator[Listener]:
    """Progress on a terminal, and the JSON on disk every two seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if file is not None and files.is_special(file):  # as a pipe, which holds what is written to it once
        file = None
    written = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = sys.stderr.isatty() and sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task("getting ready", total=None)

        def listen(results: Results, done: int, planned: int, ended: Ended | None) -> None:
            nonlocal written
            failed = sum(case.counts for subject in results.subjects for case in subject.cases[-200:])
            what = "small inputs of what fails" if results.complete else f"cases{', some fail' if failed else ''}"
            progress.update(task, description=what, completed=done, total=planned)
            if ended is not None and not shown:
                subject, clause, backend = ended
                of = f"{subject.name}: " if len(results.subjects) > 1 else ""
                print(
                    escaped(f"{of}{clause} {backend}: {subject.said_of(clause, backend)}"), file=sys.stderr, flush=True
                )
            if file is not None and time.monotonic() - written > 2:
                with contextlib.suppress(OSError):  # if it still cannot be written at the end, that is told
                    results.write(file)
                written = time.monotonic()

        yield listen
