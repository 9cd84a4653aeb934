"""The verdict of `crossent parity` on a terminal: a table of case x dtype, then what fails, then one line.

A cell says how far the two most distant results are apart: the largest difference in eps, and in brackets as a fraction
of what the contract allows. `Cells` is what the table and the HTML page have in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from crossent_conformance.parity.answers import ERRORS, PARTS, Results
from crossent_conformance.parity.compare import Difference
from crossent_conformance.parity.file import by_case
from crossent_conformance.parity.verdict import Verdict

NAME = 21
WIDTH = 14
MOST_PROBLEMS = 30
"""More problems than these are counted, not told."""


@dataclass(frozen=True)
class Cell:
    """One case in one dtype."""

    status: str
    """"same", "differs", or why nothing was compared: "does not apply", "raises", "alone"."""
    largest: dict[str, dict[str, Any]]
    """By part: eps, fraction, between."""

    @property
    def eps(self) -> float:
        """The largest of the parts."""
        return max((part["eps"] for part in self.largest.values()), default=0.0)

    @property
    def fraction(self) -> float:
        """The largest of the parts."""
        return max((part["fraction"] for part in self.largest.values()), default=0.0)


Cells = dict[tuple[str, str], Cell]


def cells(results: Results, differences: list[Difference]) -> Cells:
    """The table of these differences."""
    largest = by_case(differences)
    found = {}
    for asked in results.asked:
        parts = {
            what: largest[asked.case, asked.dtype, what]
            for what in ("answer", *PARTS)
            if (asked.case, asked.dtype, what) in largest
        }
        answers = asked.answers.values()
        if parts:
            status = "differs" if any(part["fraction"] > 1 for part in parts.values()) else "same"
        elif any(answer.lacks for answer in answers):
            status = "does not apply"
        else:
            status = "raises" if any(answer.error for answer in answers) else "alone"
        found[asked.case, asked.dtype] = Cell(status, parts)
    return found


def number(value: float) -> str:
    """In few characters."""
    if math.isinf(value):
        return "inf"
    return f"{value:.2f}" if 0 < value < 10 else f"{value:.0f}" if value < 1e4 else f"{value:.0e}"


def described(results: Results) -> str:
    """Who was asked, in one line."""
    backends = ", ".join(f"{name} {item['version']}" for name, item in results.backends.items())
    return f"{results.subject['name']} {results.subject['version'] or ''}".rstrip() + f": {backends}"


def errors(verdict: Verdict) -> str:
    """How the refused calls compare, in one line."""
    if not verdict.results.errors:
        return ""
    if not verdict.errors_compared:
        return f"{len(verdict.results.errors)} refused calls, compared with nothing"
    differing = sum(problem.case == ERRORS for problem in verdict.problems)
    whole = f"{verdict.errors_compared} refused calls"
    return f"{whole}: {differing} differ" if differing else f"{whole}: the same type and text"


def text(verdict: Verdict) -> str:
    """The whole report."""
    results, baseline = verdict.results, verdict.baseline
    lines = [described(results)]
    lines += [f"{name}: not covered: {why}" for name, why in results.not_covered.items()]
    if verdict.among or (baseline is None and len(results.backends) > 1):
        lines += ["", "Largest difference between backends, in eps (1 in brackets is what the contract allows):"]
        lines += _table(results, cells(results, verdict.among))
    if baseline is not None:
        lines += ["", f"Largest difference to the baseline of {baseline.created}, {described(baseline)}:"]
        lines += _table(results, cells(results, verdict.against))
    if errors(verdict):
        lines += ["", f"{ERRORS}: {errors(verdict)}"]
    if verdict.problems:
        lines += ["", "What fails:"]
        lines += [f"  {problem.text}" for problem in verdict.problems[:MOST_PROBLEMS]]
    if len(verdict.problems) > MOST_PROBLEMS:
        lines += [f"  and {len(verdict.problems) - MOST_PROBLEMS} more, which --json and --html tell"]
    lines += ["", *(f"Note: {note}." for note in verdict.notes), conclusion(verdict)]
    return "\n".join(lines)


def nothing(verdict: Verdict) -> str:
    """What a run is that has compared nothing."""
    alone = f"; the answers of {next(iter(verdict.results.backends))} are for a later --baseline"
    return "nothing was compared" + (alone if verdict.records else "")


def conclusion(verdict: Verdict) -> str:
    """In one line."""
    results = verdict.results
    everything = [*verdict.among, *verdict.against]
    finite = [item for item in everything if math.isfinite(item.eps)]
    worst = max(finite, key=lambda item: item.eps, default=None)
    told = ""
    if worst is not None and worst.eps == 0:
        told = " No value differs from another."
    elif worst is not None:
        where = worst.eps, worst.case, worst.dtype, worst.what
        pairs = [item.between for item in finite if (item.eps, item.case, item.dtype, item.what) == where]
        who = "; ".join(f"{first} and {second}" for first, second in pairs)
        told = f" Largest: {number(worst.eps)} eps, {worst.case} {worst.dtype} {worst.what}, {who}."
    word = f"{len(verdict.problems)} problems" if len(verdict.problems) != 1 else "1 problem"
    held = f"fails: {word}" if verdict.problems else "parity holds" if verdict.compared else nothing(verdict)
    return f"{results.subject['name']}: {held}.{told} {results.seconds:.0f} seconds, seed {results.seed}."


def _table(results: Results, found: Cells) -> list[str]:
    dtypes = list(dict.fromkeys(asked.dtype for asked in results.asked))
    names = list(dict.fromkeys(asked.case for asked in results.asked))
    lines = [(" " * NAME + "".join(dtype.ljust(WIDTH) for dtype in dtypes)).rstrip()]
    for name in names:
        row = [_cell(found.get((name, dtype))) for dtype in dtypes]
        lines.append((name.ljust(NAME) + "".join(cell.ljust(WIDTH) for cell in row)).rstrip())
    return lines


def _cell(cell: Cell | None) -> str:
    if cell is None or cell.status == "alone":
        return ""
    if cell.status in ("does not apply", "raises"):
        return "no" if cell.status == "does not apply" else cell.status
    if cell.status == "differs":
        return f"FAILS {number(cell.fraction)}"
    return f"{number(cell.eps)} ({number(cell.fraction)})"
