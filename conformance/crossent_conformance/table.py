"""The results on a terminal: the matrix of clause x dtype for each backend, then what fails, smallest input first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType

from crossent_conformance import contract, terminal
from crossent_conformance.results import FAILS, HOLDS, Failure, Results, SubjectResult, values_alone

MOST_FAILURES = 12
"""More failing cells than these are counted, not told."""


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
    if lacks := sorted({reason for cell in cells.values() for reason in cell["lacks"]}):
        yield f"\nWhat does not apply is for want of: {'; '.join(lacks)}"
    failing = [cell for cell in cells.values() if cell["failure"] is not None]
    if failing:
        yield "\nWhat fails, with the smallest input that was found:"
    for cell in failing[:MOST_FAILURES]:
        yield f"\n  {cell['clause']} {cell['backend']} {cell['dtype']}: {_gist(cell['clause'])}"
        yield from (f"    {line}" for line in _failure(Failure(**cell["failure"])))
    if len(failing) > MOST_FAILURES:
        yield f"\n  and {len(failing) - MOST_FAILURES} more cells, which --html and --json tell"
    yield ""


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    worst = f" ({number(cell['worst'])})" if cell["worst"] is not None else ""
    if cell["status"] == HOLDS:
        return f"holds {cell['held']}{worst}"
    if cell["status"] == FAILS:
        return f"FAILS {cell['failed']}/{cell['failed'] + cell['held']}{worst}"
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
        yield from _arrays(given)
        if given["options"]:
            yield "options " + ", ".join(f"{name}={value!r}" for name, value in given["options"].items())
    if failure.what is not None:
        yield f"{failure.what}: expected {failure.expected!r}, given {failure.given!r}"
        yield f"off by {number(failure.error)} times what the contract allows"
    else:
        yield from failure.message.splitlines()[: 12 if failure.kind == "crashes" else 6]


def _arrays(given: dict[str, Any]) -> Iterator[str]:
    """Logits and targets: their numbers, where these are known and few."""
    if given["shape"] is None:
        return
    place = f"{given['dtype']}, {given['mode']}"
    if given["logits"] is not None:
        yield f"logits  {given['logits']} ({place})"
        yield f"targets {given['targets']}"
        return
    yield f"logits of shape {tuple(given['shape'])}, {place}"
    if given.get("targets_shape") is not None:
        yield f"targets of shape {tuple(given['targets_shape'])}, {given['targets_dtype']}"


def _verdict(results: Results) -> str:
    lines = []
    for subject in results.subjects:
        cells, cases = subject.counts(), [case.outcome for case in subject.cases]
        held, failed = cases.count(HOLDS), cases.count(FAILS)
        word = "fails" if subject.fails else "holds" if held else "does not apply"
        if alone := values_alone(subject.backends):
            word += f" (values alone: no gradient was asked for on {', '.join(alone)})"
        lines.append(
            f"{subject.name}: {word}. {held} cases hold, {failed} fail, {len(cases) - held - failed} do not apply; "
            f"of {sum(cells.values())} cells {cells[HOLDS]} hold, {cells[FAILS]} fail."
        )
    if results.not_asked:
        lines.append(f"{', '.join(results.not_asked)} were not asked: --shards 4 asks them, in four processes.")
    done = "" if results.complete else " The run was interrupted: this is what was finished."
    depth = ", thorough" if results.thorough else ""
    return "\n".join([*lines, f"{results.seconds:.0f} seconds, seed {results.seed}{depth}.{done}"])
