"""The results on a terminal: the matrix of clause x dtype for each backend, then what fails, smallest input first."""

from __future__ import annotations

import math
from typing import Any

from crossent_conformance import contract
from crossent_conformance.results import FAILS, HOLDS, Failure, Results, SubjectResult

WIDTH = 21
MOST_FAILURES = 12
"""More failing cells than these are counted, not told."""


def text(results: Results) -> str:
    """The whole report."""
    parts = [_subject(subject) for subject in results.subjects]
    return "\n\n".join([*parts, _verdict(results)])


def number(value: Any) -> str:
    """A number in few characters."""
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.2f}" if 0.005 <= value < 100 else f"{value:.0e}" if value else "0"
    return str(value)


def _subject(subject: SubjectResult) -> str:
    lines = [f"{subject.name} {subject.version or ''}".rstrip()]
    lines += [f"  {note}" for note in subject.notes]
    cells = {(cell["clause"], cell["backend"], cell["dtype"]): cell for cell in subject.cells()}
    for backend, described in subject.backends.items():
        dtypes = [dtype for dtype in described["dtypes"] if any(key[1:] == (backend, dtype) for key in cells)]
        lines += ["", f"{backend} {described['version']} on {described['device']}"]
        lines += [f"  {note}" for note in described["notes"] if note not in subject.notes]
        lines += [("      " + "".join(dtype.ljust(WIDTH) for dtype in dtypes)).rstrip()]
        for clause in contract.clauses():
            row = [cells.get((clause, backend, dtype)) for dtype in dtypes]
            if any(row):
                lines.append(f"  {clause:4}" + "".join(_cell(cell).ljust(WIDTH) for cell in row).rstrip())
    for name, why in subject.not_covered.items():
        lines.append(f"{name}: not covered: {why}")
    lacks = sorted({reason for cell in cells.values() for reason in cell["lacks"]})
    if lacks:
        lines += ["", f"What does not apply is for want of: {'; '.join(lacks)}"]
    failing = [cell for cell in cells.values() if cell["failure"] is not None]
    if failing:
        lines += ["", "What fails, with the smallest input that was found:"]
    for cell in failing[:MOST_FAILURES]:
        lines += ["", f"  {cell['clause']} {cell['backend']} {cell['dtype']}: {_gist(cell['clause'])}"]
        lines += [f"    {line}" for line in _failure(Failure(**cell["failure"]))]
    if len(failing) > MOST_FAILURES:
        lines += ["", f"  and {len(failing) - MOST_FAILURES} more cells, which --html and --json tell"]
    return "\n".join(lines)


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


def _failure(failure: Failure) -> list[str]:
    lines = [f"{failure.case} {failure.kind}"]
    if failure.input is not None:
        given = failure.input
        lines += [f"the last call was of {given['function']}"] if given.get("function") else []
        lines += _arrays(given)
        if given["options"]:
            lines.append("options " + ", ".join(f"{name}={value!r}" for name, value in given["options"].items()))
    if failure.what is not None:
        lines.append(f"{failure.what}: expected {failure.expected!r}, given {failure.given!r}")
        lines.append(f"off by {number(failure.error)} times what the contract allows")
    else:
        lines += failure.message.splitlines()[: 12 if failure.kind == "crashes" else 6]
    return lines


def _arrays(given: dict[str, Any]) -> list[str]:
    """Logits and targets: their numbers, where these are known and few."""
    if given["shape"] is None:
        return []
    place = f"{given['dtype']}, {given['mode']}"
    if given["logits"] is not None:
        return [f"logits  {given['logits']} ({place})", f"targets {given['targets']}"]
    lines = [f"logits of shape {tuple(given['shape'])}, {place}"]
    if given.get("targets_shape") is not None:
        lines.append(f"targets of shape {tuple(given['targets_shape'])}, {given['targets_dtype']}")
    return lines


def _verdict(results: Results) -> str:
    lines = []
    for subject in results.subjects:
        counts = subject.counts()
        cases = [case.outcome for case in subject.cases]
        word = "fails" if subject.fails else "holds" if HOLDS in cases else "does not apply"
        lines.append(
            f"{subject.name}: {word}. {cases.count(HOLDS)} cases hold, {cases.count(FAILS)} fail, "
            f"{len(cases) - cases.count(HOLDS) - cases.count(FAILS)} do not apply; "
            f"of {sum(counts.values())} cells {counts[HOLDS]} hold, {counts[FAILS]} fail."
        )
    done = "" if results.complete else " The run was interrupted: this is what was finished."
    depth = ", thorough" if results.thorough else ""
    return "\n".join([*lines, f"{results.seconds:.0f} seconds, seed {results.seed}{depth}.{done}"])
