"""The verdict of `crossent parity` on a terminal: a table of case x dtype, then what fails, then one line.

A cell says how far the two most distant results are apart: the largest difference in eps, and in brackets as a fraction
of what the contract allows. `cells` is what the table and the HTML page have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from crossent_conformance import terminal
from crossent_conformance.parity.answers import ERRORS, Results
from crossent_conformance.parity.compare import Difference, largest
from crossent_conformance.parity.shown import engines_in_words, worst
from crossent_conformance.parity.verdict import Verdict
from crossent_conformance.table import input_lines, number

MOST_PROBLEMS = 30
"""More problems than these are counted, not told."""
SAME_CODE = "same engine"
"""What a cell says in which the same machine code walked the logits on both sides of every pair."""
PART_NAMES = {"loss": "loss", "d_logits": "grad", "answer": "answer"}


@dataclass(frozen=True)
class Cell:
    """One case in one dtype."""

    status: str
    """"same", "differs", or why nothing was compared: "does not apply", "raises", "alone"."""
    largest: dict[str, dict[str, Any]]
    """By part: eps, fraction, between."""
    same_code: bool = False
    """Whether no two sides of it ran different machine code."""

    def __str__(self) -> str:
        """What the table has."""
        if self.status not in ("same", "differs"):
            return {"alone": "", "does not apply": "no"}.get(self.status, self.status)
        eps, fraction = (max(part[name] for part in self.largest.values()) for name in ("eps", "fraction"))
        if self.status == "differs":
            return f"FAILS {number(fraction)}"
        return f"{number(eps)} ({number(fraction)})" + (f" {SAME_CODE}" if self.same_code else "")


Cells = dict[tuple[str, str], Cell]


def cells(results: Results, differences: list[Difference]) -> Cells:
    """The table of these differences."""
    worst, found = largest(differences), {}
    apart = {(item.case, item.dtype) for item in differences if not item.code}
    for asked in results.asked:
        parts = worst.get((asked.case, asked.dtype), {})
        answers = asked.answers.values()
        if parts:
            status = "differs" if any(part["fraction"] > 1 for part in parts.values()) else "same"
        elif any("lacks" in answer for answer in answers):
            status = "does not apply"
        else:
            status = "raises" if any("raises" in answer for answer in answers) else "alone"
        place = asked.case, asked.dtype
        found[place] = Cell(status, parts, bool(parts) and place not in apart)
    return found


def described(results: Results) -> str:
    """Which implementation was asked on which backends, in one line."""
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
    return terminal.text(*_parts(verdict))


def _parts(verdict: Verdict) -> Iterator[RenderableType]:
    results, baseline = verdict.results, verdict.baseline
    yield described(results)
    yield from (f"engine of {line}" for line in engines_in_words(results))
    yield from (f"{name}: not covered: {why}" for name, why in results.not_covered.items())
    if verdict.among or (baseline is None and len(results.backends) > 1):
        allowed = "1 in brackets is what the contract allows"
        pairs = pairs_of_same_code(verdict)
        same = f";\n{SAME_CODE}: the same machine code walked the logits of {pairs}" if pairs else ""
        yield f"\nLargest difference between backends, in eps ({allowed}){same}:"
        yield _table(results, verdict.among)
    if baseline is not None:
        yield f"\nLargest difference to the baseline of {baseline.created}, {described(baseline)}:"
        yield _table(results, verdict.against)
    if errors(verdict):
        yield f"\n{ERRORS}: {errors(verdict)}"
    if verdict.problems:
        yield "\nWhat fails:"
        yield from (f"  {problem.text}" for problem in verdict.problems[:MOST_PROBLEMS])
    if len(verdict.problems) > MOST_PROBLEMS:
        yield f"  and {len(verdict.problems) - MOST_PROBLEMS} more, which --json and --html tell"
    if (shown := worst(verdict)) is not None:
        yield f"\nThe largest difference: {in_words(shown)}"
        yield from (f"  {line}" for line in input_lines(shown["input"]))
    yield "\n".join(["", *(f"Note: {note}." for note in verdict.notes), conclusion(verdict)])


def pairs_of_same_code(verdict: Verdict) -> str:
    """Which pairs show nothing in some cells, and by which engines."""
    return "; ".join(f"{' and '.join(pair)} ({', '.join(of)})" for pair, (of, _, _) in verdict.same_code.items())


def in_words(shown: dict[str, Any]) -> str:
    """A difference, without its input."""
    how = f"{number(shown['eps'])} eps, {number(shown['fraction'])} of what is allowed"
    how = "not the same" if math.isinf(shown["fraction"]) else how
    between = " and ".join(shown["between"])
    return f"{shown['case']} {shown['dtype']} {shown['what']}, {between}: {how}: {shown['text']}"


def held(verdict: Verdict) -> str:
    """What a run comes to in which nothing fails."""
    cells, tested = verdict.cells
    if verdict.proves:
        partly = f" in {tested} of {cells} cells; in the others the same machine code walked all logits"
        return "parity holds" + (partly if tested < cells and verdict.baseline is None else "")
    said = "parity was not tested by different code" if verdict.compared else "nothing was compared"
    kept = f"; the answers of {', '.join(verdict.results.backends)} are for a later --baseline"
    return said + (kept if verdict.records else "")


def conclusion(verdict: Verdict) -> str:
    """In one line."""
    every = [*verdict.among, *verdict.against]
    finite = [item for item in every if math.isfinite(item.eps)]
    worst = max(finite, key=lambda item: item.eps, default=None)
    told = ""
    if worst is not None and worst.eps == 0:
        told = " No value differs from another."
    elif worst is not None:
        where = worst.eps, worst.case, worst.dtype, worst.what
        pairs = [item.between for item in finite if (item.eps, item.case, item.dtype, item.what) == where]
        said = "; ".join(f"{first} and {second}" for first, second in pairs)
        which = "Largest" if len(finite) == len(every) else "Largest that is finite"
        told = f" {which}: {number(worst.eps)} eps, {worst.case} {worst.dtype} {worst.what}, {said}."
    count = len(verdict.problems)
    failing = f"fails: {count} problem{'s' if count != 1 else ''}"
    results, comes_to = verdict.results, failing if count else held(verdict)
    return f"{results.subject['name']}: {comes_to}.{told} {results.seconds:.0f} seconds, seed {results.seed}."


def _table(results: Results, differences: list[Difference]) -> RenderableType:
    found = cells(results, differences)
    dtypes = list(dict.fromkeys(asked.dtype for asked in results.asked))
    names = dict.fromkeys(asked.case for asked in results.asked)
    rows = [[name, *(str(found.get((name, dtype), "")) for dtype in dtypes)] for name in names]
    return terminal.columns(["", *dtypes], rows)
