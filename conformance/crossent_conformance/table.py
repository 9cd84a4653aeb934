"""The results on a terminal: the matrix of clause x dtype for each backend, what fails, what may; lists of cases."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType

from crossent_conformance import contract, known, terminal
from crossent_conformance.results import FAILS, HOLDS, KNOWN, Failure, Results, Standing, SubjectResult, values_alone
from crossent_conformance.severity import EXTREME, GRADES, MEANS, WRONG

MOST_FAULTS = {WRONG: 12, EXTREME: 4}
"""More than these are counted, not told."""
MOST_LACKS = 10
WORDS = {WRONG: "WRONG", EXTREME: "extreme"}
"""What a cell says that fails."""


def text(results: Results) -> str:
    """The whole report."""
    return terminal.text(*(part for subject in results.subjects for part in _subject(subject)), _verdict(results))


def number(value: Any) -> str:
    """A number in few characters."""
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.2f}" if 0.005 <= value < 100 else f"{value:.0e}" if value else "0"
    return str(value)


def _subject(subject: SubjectResult) -> Iterator[RenderableType]:
    yield f"{subject.name} {subject.version or ''}".rstrip()
    yield from (f"  {note}" for note in subject.notes)
    cells = {(cell["clause"], cell["backend"], cell["dtype"]): cell for cell in subject.cells()}
    for backend, described in subject.backends.items():
        yield f"\n{backend} {described['version']} on {described['device']}"
        yield from (f"  {note}" for note in described["notes"] if note not in subject.notes)
        dtypes = [dtype for dtype in described["dtypes"] if any(key[1:] == (backend, dtype) for key in cells)]
        rows = {clause: [cells.get((clause, backend, dtype)) for dtype in dtypes] for clause in contract.clauses()}
        found = [[clause, *map(_cell, row)] for clause, row in rows.items() if any(row)]
        yield terminal.columns(["", *dtypes], found, indent=2)
    yield from (f"{name}: not covered: {why}" for name, why in subject.not_covered.items())
    lacks = Counter(reason for cell in cells.values() for reason in cell["lacks"])
    if lacks:
        more = f"; and {len(lacks) - MOST_LACKS} more" if len(lacks) > MOST_LACKS else ""
        first = (reason for reason, _ in lacks.most_common(MOST_LACKS))
        yield f"\nWhat does not apply is for want of: {'; '.join(first)}{more}"
    yield from _faults(subject)
    yield from _may_fail(subject)
    yield ""


def _may_fail(subject: SubjectResult) -> Iterator[str]:
    """What is known to fail, or allowed to, and what has become of it; an entry of a file in any case."""
    told = [each for each in subject.standing() if each.failed or each.entry.source == known.FILE]
    if told:
        yield "\nNot counted, because it is known to fail or allowed to:"
    told.sort(key=lambda each: each.state != known.BEGINS)
    stories: dict[tuple[str, str], list[Standing]] = {}
    for each in told:
        stories.setdefault((each.entry.source, each.entry.reason), []).append(each)
    for (_, reason), of in stories.items():
        yield f"  {reason}{f' ({of[0].entry.link})' if of[0].entry.link else ''}"
        yield from (f"    {each.entry.where}: {_became(each)}" for each in of)


def _became(standing: Standing) -> str:
    if standing.failed:
        return f"{counted(standing.failed, 'case')} of {standing.failed + standing.held} fail"
    return standing.state.upper() if standing.state == known.BEGINS else standing.state


def _faults(subject: SubjectResult) -> Iterator[str]:
    """What fails, each fault once: first what is wrong on ordinary inputs, the worst first."""
    number = 0
    for grade in GRADES:
        of_grade = [fault for fault in subject.faults() if fault.failure.severity == grade]
        if of_grade:
            clauses = {clause for fault in of_grade for clause in fault.clauses}
            named = ", ".join(clause for clause in contract.clauses() if clause in clauses)
            yield f"\n{MEANS[grade][0].upper()}{MEANS[grade][1:]} ({named})"
        for fault in of_grade[: MOST_FAULTS[grade]]:
            number += 1
            yield f"\n  {number}. {fault.failure.says}"
            others = [clause for clause in fault.clauses if clause != fault.clause]
            beside = f", and {', '.join(others)}" if others else ""
            places: dict[str, list[str]] = {}
            for backend, dtype in fault.places:
                places.setdefault(backend, []).append(dtype)
            seen = "; ".join(f"{backend} {', '.join(dtypes)}" for backend, dtypes in places.items())
            yield f"     {fault.clause}: {_gist(fault.clause)}"
            yield f"     fails in {counted(fault.count, 'case')} of {fault.clause}{beside} ({seen}), as"
            yield from (f"       {line}" for line in _failure(fault.failure))
        if len(of_grade) > MOST_FAULTS[grade]:
            yield f"\n  and {len(of_grade) - MOST_FAULTS[grade]} more, which --html and --json tell"


def listed(cases: list[dict[str, Any]], each: bool) -> str:
    """The cases that there are, a line a test and backend, with its dtypes in their modes; or `each` by itself."""
    tests: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for case in cases:
        name = case["id"] if each else case["id"].partition("[")[0]
        tests.setdefault((case["clause"], name, case["backend"]), []).append(case)
    order = list(contract.clauses())
    rows = []
    for (clause, name, backend), of in sorted(tests.items(), key=lambda item: order.index(item[0][0])):
        dtypes: dict[str, dict[str, None]] = {}
        for case in of:
            dtypes.setdefault(case["mode"], {})[case["dtype"]] = None
        modes: dict[str, list[str]] = {}
        for mode, kinds in dtypes.items():
            modes.setdefault(" ".join(kinds), []).append(mode)
        where = "; ".join(f"{kinds}: {' '.join(of_kinds)}" for kinds, of_kinds in modes.items())
        rows.append([clause, name, backend, str(len(of)), where])
    heads = ["", "case" if each else "test", "backend", "cases", "dtypes and modes"]
    number = sum(len(of) for of in tests.values())
    return terminal.text(
        *contract.in_groups(),
        f"Their words: {contract.page()}\n",
        terminal.columns(heads, rows),
        f"\n{counted(number, 'case')}. What an implementation cannot be asked of them is for a run to find out.",
    )


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    worst = f" ({number(cell['worst'])})" if cell["worst"] is not None else ""
    if cell["status"] == HOLDS:
        return f"holds {cell['held']}{worst}"
    if cell["status"] in (FAILS, KNOWN):
        word = "known" if cell["status"] == KNOWN else WORDS[cell["severity"]]
        return f"{word} {cell['failed']}/{cell['failed'] + cell['held']}{worst}"
    return "does not apply"


def _gist(clause: str) -> str:
    """A clause's first sentence."""
    words = " ".join(contract.clauses()[clause].split())
    return words.partition(". ")[0].rstrip(".") + "."


def _failure(failure: Failure) -> Iterator[str]:
    yield f"{failure.case} {failure.kind}"
    given = failure.input
    if given is not None:
        if given.get("function"):
            yield f"the last call was of {given['function']}"
        yield from input_lines(given)
    if failure.what is not None:
        yield f"{failure.what}: expected {failure.expected!r}, given {failure.given!r}"
        yield f"off by {number(failure.error)} times what the contract allows"
    else:
        lines = failure.message.splitlines()[: 12 if failure.kind == "crashes" else 6]
        yield from lines[1:] if lines and lines[0].strip() == failure.says else lines


def input_lines(given: dict[str, Any]) -> Iterator[str]:
    """Logits and targets, with their numbers where these are known and few, and the options."""
    yield from _arrays(given)
    if given["options"]:
        yield "options " + ", ".join(f"{name}={value!r}" for name, value in given["options"].items())


def _arrays(given: dict[str, Any]) -> Iterator[str]:
    if given["shape"] is None:
        return
    place = f"{given['dtype']}, {given['mode']}"
    if given["logits"] is not None:
        yield f"logits  {given['logits']} ({place})"
        yield f"targets {given['targets']}"
        return
    yield f"logits of shape {tuple(given['shape'])}, {place}"
    if "row" in given:
        yield "at {at} they are {logits}, the target {target}".format_map(given["row"])
    if given.get("targets_shape") is not None:
        yield f"targets of shape {tuple(given['targets_shape'])}, {given['targets_dtype']}"


def counted(n: int, what: str) -> str:
    """So many of something."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _verdict(results: Results) -> str:
    lines = []
    for subject in results.subjects:
        cells, cases = subject.counts(), [case.outcome for case in subject.cases]
        held, failed = cases.count(HOLDS), cases.count(FAILS)
        known_to = failed - sum(case.counts for case in subject.cases)
        word = "fails" if subject.fails else "holds" if held else "does not apply"
        word += "" if results.complete else " as far as it was asked"
        if known_to:
            word += ", but for what may fail" if word.startswith("holds") else ""
        if alone := values_alone(subject.backends):
            word += f" (values alone: no gradient was asked for on {', '.join(alone)})"
        lines.append(
            f"{subject.name}: {word}. {held} cases hold, {failed} fail"
            + (f" ({known_to} of them known or allowed to)" if known_to else "")
            + f", {len(cases) - held - failed} do not apply; of {sum(cells.values())} cells {cells[HOLDS]} hold, "
            f"{cells[FAILS]} fail."
        )
        failing = ((grade, subject.failing(grade)) for grade in GRADES)
        lines += [f"{counted(len(of), 'clause')} {MEANS[grade]}: {', '.join(of)}." for grade, of in failing if of]
        if subject.begins:
            names = "; ".join(entry.where for entry in subject.begins)
            lines.append(f"Known failures begin to hold, and are to be taken out of their file: {names}.")
    if results.profile:
        lines.append(f"Profile {results.profile}: what it is without was asked, and does not count where it fails.")
    if results.allowed:
        lines.append(f"Allowed to fail: {', '.join(results.allowed)}.")
    if results.excluded:
        lines.append(f"Left out: {', '.join(results.excluded)}. Nothing is known of these.")
    if results.quick:
        lines.append(
            "A quick run: each test in one dtype and mode of a backend, few random inputs, nothing that takes long."
        )
    if results.not_asked:
        lines.append(f"{', '.join(results.not_asked)} were not asked: --shards 4 asks them, in four processes.")
    done = "" if results.complete else " The run was interrupted: this is what was finished."
    depth = ", thorough" if results.thorough else ""
    return "\n".join([*lines, f"{results.seconds:.0f} seconds, seed {results.seed}{depth}.{done}"])
