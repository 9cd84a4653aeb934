"""`crossent parity`: arguments in, reports out; exit 0: backends agree, 1: they do not, 2: misuse, or a vain run."""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossent_conformance import arguments
from crossent_conformance.arguments import UsageError
from crossent_conformance.backends import BACKENDS, FLOATS, load

if TYPE_CHECKING:
    from crossent_conformance.adapter import Traits, UnderTest
    from crossent_conformance.backends import Backend
    from crossent_conformance.parity.answers import Results

HELP = "the same inputs on several backends, and on an earlier run's"
SLACK = 2.0
"""A difference that grew by more eps since the baseline fails."""
Chosen = dict[str, "tuple[Backend, Traits]"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--subject",
        metavar="SPEC",
        help="the implementation: MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE (default: crossent)",
    )
    for name, what in (
        ("backend", "the array libraries to compare (default: all that can be used here)"),
        ("dtype", "of the logits (default: all that two of the backends, or the baseline, have)"),
        ("case", "cases to ask, by name or pattern (default: all, and the refused calls, 'errors')"),
    ):
        parser.add_argument(f"--{name}", nargs="+", action="extend", default=[], metavar="NAME", help=what)
    parser.add_argument(
        "--engine", nargs="+", action="extend", default=[], metavar="[NAME=]ENGINE",
        help="the engine of each backend, or of the one of that name (default: the subject's choice)",
    )  # fmt: skip
    seeds = "of the inputs (default: the baseline's, or 0)"
    parser.add_argument("--seed", type=arguments.whole, metavar="N", help=seeds)
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with the JSON of an earlier run, too")
    parser.add_argument(
        "--slack", type=_eps, metavar="EPS",
        help="a difference that grew by more since the baseline fails (default: 2)",
    )  # fmt: skip
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="ask nothing: the results are those of an earlier run's JSON"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results and the differences as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as one HTML page")


def _eps(text: str) -> float:
    return arguments.finite(text, lambda value: value >= 0, "a number of at least 0")


@arguments.told
def run(given: argparse.Namespace) -> int:
    """Ask, compare, print the report, write the files."""
    arguments.check_installed("mpmath", "rich", *(("jinja2", "matplotlib") if given.html else ()))
    from crossent_conformance.parity import file, report
    from crossent_conformance.parity.verdict import judge

    names = _names(given.case)
    arguments.check_names("dtype", given.dtype, FLOATS)
    arguments.check_files(given.json, given.html)
    baseline = None if given.baseline is None else file.read(given.baseline)
    if baseline is None and given.slack is not None:
        raise UsageError(f"--slack {given.slack:g} without --baseline; accepted: both, or neither")
    if baseline is not None and given.seed not in (None, baseline.seed):
        raise UsageError(f"the baseline has seed {baseline.seed}, not {given.seed}; accepted: the same seed")
    results = _asked(given, names, baseline) if given.results is None else _of_file(given, names)
    if baseline is not None and baseline.seed != results.seed:
        raise UsageError(f"the baseline has seed {baseline.seed}, not {results.seed}; accepted: the same seed")
    picked = names if given.case else None
    slack = SLACK if given.slack is None else given.slack
    verdict = judge(results, baseline, slack, picked, given.dtype or None)
    print(report.text(verdict))

    def page() -> bytes:
        from crossent_conformance import page

        return page.of_parity(verdict).encode()

    arguments.write_files([(given.json, lambda: file.as_text(verdict).encode()), (given.html, page)])
    if verdict.problems:
        return 1
    if not verdict.proves and not (given.json and verdict.records):
        if not verdict.compared:
            raise UsageError("nothing could be compared: see the table")
        same = "the same machine code walked all logits: see the notes"
        raise UsageError(f"{same}; accepted: another --engine of one, other backends, --baseline, or --json to record")
    return 0


def _asked(given: argparse.Namespace, names: list[str], baseline: Results | None) -> Results:
    from rich.console import Console

    from crossent_conformance import subject
    from crossent_conformance.parity import answers
    from crossent_conformance.results import machine

    try:
        under_test = subject.load(given.subject or subject.DEFAULT)
    except subject.SubjectError as error:
        raise UsageError(str(error)) from error
    chosen, not_covered = _backends(under_test, list(dict.fromkeys(given.backend)))
    engines = _engines(under_test, chosen, given.engine)
    records = len(chosen) == 1 and given.json is not None  # for a later --baseline
    if baseline is None and len(chosen) < 2 and not records:
        found = ", ".join(chosen) or "no backend"
        why = "".join(f"; {name}: {reason}" for name, reason in not_covered.items())
        accepted = "two backends, --baseline, or --json to record one for a later --baseline"
        raise UsageError(f"{found} alone has nothing to be compared with{why}; accepted: {accepted}")
    seed = given.seed if given.seed is not None else baseline.seed if baseline is not None else 0
    dtypes = _dtypes(chosen, given.dtype, baseline)
    results = answers.Results(
        subject={"name": under_test.name, "spec": under_test.spec, "version": under_test.version},
        seed=seed,
        backends={name: answers.described(*on) for name, on in chosen.items()},
        not_covered=not_covered,
        machine=machine(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=arguments.words("parity", given, "subject", "seed", "baseline", "backend", "engine", "dtype", "case"),
    )
    console = Console(stderr=True)
    with console.status("") as status:  # on a terminal: the case that is being asked; elsewhere a line each
        tell = status.update if console.is_terminal else partial(print, file=sys.stderr, flush=True)
        answers.ask_all(under_test, chosen, dtypes, names, results, tell, engines)
    return results


def _of_file(given: argparse.Namespace, names: list[str]) -> Results:
    """The results in a file, narrowed to what was asked for."""
    from crossent_conformance.parity import answers, file

    if given.subject is not None or given.seed is not None or given.engine:
        own = "--results has a subject, a seed and engines of its own"
        raise UsageError(f"{own}; accepted: without --subject, --seed and --engine")
    results = file.read(given.results)
    for name in given.backend:
        if name not in results.backends:
            raise UsageError(f"{given.results} has no backend {name!r}; accepted: {', '.join(results.backends)}")
    kept, dtypes = given.backend or results.backends, given.dtype or FLOATS

    def of_kept(found: dict[str, Any]) -> dict[str, Any]:
        return {name: found[name] for name in found if name in kept}

    asked = [item for item in results.asked if (item.case in names or not given.case) and item.dtype in dtypes]
    return replace(
        results,
        backends=of_kept(results.backends),
        asked=[replace(item, answers=of_kept(item.answers), engines=of_kept(item.engines)) for item in asked],
        errors={call: of_kept(refusals) for call, refusals in results.errors.items() if answers.ERRORS in names},
    )


def _names(patterns: list[str]) -> list[str]:
    from crossent_conformance.parity.answers import NAMES

    for pattern in patterns:
        if not fnmatch.filter(NAMES, pattern):
            raise UsageError(f"no case is called {pattern!r}; accepted: {', '.join(NAMES)}")
    return [name for name in NAMES if not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _backends(under_test: UnderTest, asked: list[str]) -> tuple[Chosen, dict[str, str]]:
    """The backends that can be used, and why the others cannot; one that was asked for has to."""
    from crossent_conformance import probe

    arguments.check_names("backend", asked, BACKENDS)
    chosen, not_covered = {}, {}
    for name in asked or BACKENDS:
        backend = load(name)
        if isinstance(backend, str):
            not_covered[name] = backend
            continue
        traits = probe.examine(under_test, backend)
        if traits.dtypes:
            chosen[name] = backend, traits
        else:
            not_covered[name] = f"{under_test.name} does not take its arrays: {traits.refusal}"
    if asked and not_covered:
        raise UsageError("; ".join(f"backend {name}: {reason}" for name, reason in not_covered.items()))
    return chosen, not_covered


def _engines(under_test: UnderTest, chosen: Chosen, asked: list[str]) -> dict[str, str]:
    """The engine of each backend that has to have one; it can serve in one of its dtypes at least."""
    named: dict[str, str] = {}
    for word in asked:
        name, _, engine = word.rpartition("=")
        if not under_test.engines:
            raise UsageError(f"{under_test.name} tells of no engines; accepted: without --engine")
        arguments.check_names("engine", [engine], under_test.engines)
        if "=" in word:
            arguments.check_names("backend of --engine", [name], chosen)
        if name in named:
            raise UsageError(f"--engine {' '.join(asked)}: two for {name or 'all'}; accepted: one")
        named[name] = engine
    found = {name: named.get(name, named.get("", "")) for name in chosen if name in named or "" in named}
    for name, engine in found.items():
        reasons = {each: _refusal(under_test, *chosen[name], each) for each in under_test.engines}
        if reasons[engine]:
            accepted = ", ".join(each for each, reason in reasons.items() if not reason)
            raise UsageError(f"backend {name}: {reasons[engine]}; accepted: {accepted}")
    return found


def _refusal(under_test: UnderTest, backend: Backend, traits: Traits, engine: str) -> str:
    """Why the engine cannot serve the backend in any dtype; "" where it can."""
    from crossent_conformance import probe

    reasons = []
    for dtype in traits.dtypes:
        arrays = backend.asarray(probe.LOGITS, dtype), backend.asarray(probe.TARGETS, "int64")
        try:
            under_test.engine(*arrays, engine=engine)
        except NotImplementedError as missing:
            reasons.append(str(missing))
        else:
            return ""
    return reasons[0]


def _dtypes(chosen: Chosen, asked: list[str], baseline: Results | None) -> list[str]:
    """The dtypes in which something can be compared; of one backend without a baseline, all that can be recorded."""
    holders = {dtype: [name for name, (_, traits) in chosen.items() if dtype in traits.dtypes] for dtype in FLOATS}
    before = {item.dtype for item in baseline.asked} if baseline is not None else set()
    fewest = 2 if len(chosen) > 1 or baseline is not None else 1
    found = [dtype for dtype in FLOATS if len(holders[dtype]) >= fewest or (holders[dtype] and dtype in before)]
    for dtype in asked:
        if dtype not in found:
            who = ", ".join(holders[dtype]) or "none"
            raise UsageError(f"{dtype} cannot be compared: of the backends, {who} has it; accepted: {', '.join(found)}")
    if not found:
        raise UsageError(f"{', '.join(chosen)} have no dtype in common")
    return [dtype for dtype in found if not asked or dtype in asked]
