"""Reports as HTML pages, each a single file: what the templates beside it are filled with.

    of_results(results)     those of `crossent conform`, from their JSON form
    of_parity(verdict)      those of `crossent parity`

A page stands alone: no link leads out of it, and nothing that is to be read needs a script. Whatever comes from the
results is escaped. No status is told by colour alone.
"""

from __future__ import annotations

import json
import math
import re
from functools import cached_property
from itertools import groupby, product
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup, escape

from crossent_conformance import figure, sweep
from crossent_conformance.backends import FLOATS
from crossent_conformance.contract import GROUPS
from crossent_conformance.escaped import escaped
from crossent_conformance.results import FAILS, HOLDS, KNOWN, NOT, values_alone
from crossent_conformance.severity import EXTREME, GRADES, MEANS, WRONG
from crossent_conformance.table import counted

if TYPE_CHECKING:
    from crossent_conformance.parity.verdict import Verdict

Place = tuple[str, str]
SIGNS = {HOLDS: "✓", FAILS: "✕", WRONG: "✕", EXTREME: "!", KNOWN: "○", NOT: "–"}
"""Of statuses, and of the grades of what fails."""
CLASSES = {HOLDS: "holds", FAILS: "fails", WRONG: "fails", EXTREME: "fails extreme", KNOWN: "known", NOT: "not"}
"""Their names in the style sheet."""


def of_results(results: dict[str, Any]) -> str:
    """The report on the results of `crossent conform`: the matrices, the error plots, what was run, the contract."""
    subjects = results["subjects"]
    return _filled(
        "results.html.j2",
        name=subjects[0]["name"] if len(subjects) == 1 else f"{len(subjects)} implementations",
        results=results,
        subjects=[_Subject(subject, at, results["contract"]) for at, subject in enumerate(subjects)],
        plots=_plots(results),
        clauses=_in_groups(results["contract"]),
        ordered=lambda names: sorted(set(names), key=_natural),
        code=lambda words: Markup("<code>{}</code>").format(escaped(words)),
        kinds=sweep.KINDS,
    )


def of_parity(verdict: Verdict) -> str:
    """The report of `crossent parity`: what fails first, then the tables."""
    from crossent_conformance.parity import report, shown
    from crossent_conformance.parity.cases import CASES

    tables: list[tuple[str, report.Cells, set[Place]]] = []
    if verdict.among or verdict.baseline is None:
        tables.append(("Between backends", report.cells(verdict.results, verdict.among), set()))
    if verdict.baseline is not None:
        regressed = {(problem.case, problem.dtype) for problem in verdict.problems if problem.regression}
        title = f"To the baseline of {verdict.baseline.created}"
        tables.append((title, report.cells(verdict.results, verdict.against), regressed))
    about = {name: case.about for name, case in CASES.items()}
    return _filled(
        "parity.html.j2",
        verdict=verdict,
        report=report,
        tables=tables,
        about=about,
        worst=shown.worst(verdict),
        engines=list(shown.engines_in_words(verdict.results)),
    )


class _Subject:
    """What a page says of one implementation, besides what lies in the JSON."""

    def __init__(self, found: dict[str, Any], at: int, contract: dict[str, str]) -> None:
        self.found, self.id = found, f"s{at}"
        self.cells = {(cell["clause"], (cell["backend"], cell["dtype"])): cell for cell in found["cells"]}
        self.ids = {key: f"{self.id}f{place}" for place, key in enumerate(self.cells)}
        statuses: dict[str, set[str]] = {}
        for (clause, _), cell in self.cells.items():
            statuses.setdefault(clause, set()).add(status(cell))
        order_of = [*GRADES, KNOWN, HOLDS, NOT].index
        self.status = {clause: min(of, key=order_of) for clause, of in statuses.items()}
        """Of each clause: the worst grade of what fails, else whether anything holds, else nothing applies."""
        order = {clause: place for place, clause in enumerate(contract)}
        clauses = sorted(self.status, key=lambda clause: (_natural(clause)[0], order.get(clause, len(order)), clause))
        self.groups = _in_groups(clauses)
        self.missing = [clause for clause in contract if clause not in self.status]
        used = dict.fromkeys(place for _, place in self.cells)
        listed = [(name, dtype) for name, backend in found["backends"].items() for dtype in backend["dtypes"]]
        self.places: list[Place] = [place for place in listed if place in used]
        self.places += [place for place in used if place not in listed]
        self.dtypes = list(dict.fromkeys(dtype for _, dtype in self.places))
        self.spans = [(name, len(list(same))) for name, same in groupby(backend for backend, _ in self.places)]

    def clauses(self, *statuses: str) -> list[str]:
        """Those of such a status."""
        return [clause for clause, found in self.status.items() if found in statuses]

    @property
    def verdict(self) -> tuple[str, str]:
        """Its status, and what is said of it in one line."""
        failing, holding, known = len(self.clauses(*GRADES)), len(self.clauses(HOLDS)), len(self.clauses(KNOWN))
        if failing:
            by_grade = ((self.clauses(grade), MEANS[grade]) for grade in GRADES)
            grades = ", ".join(f"{len(clauses)} {means}" for clauses, means in by_grade if clauses)
            applying = counted(failing + holding + known, "clause")
            return FAILS, f"fails {failing} of the {applying} that apply: {grades}" + (
                f"; {known} as is known" if known else ""
            )
        if known:
            return KNOWN, f"nothing fails but what is known to, of {counted(known, 'clause')}; {holding} hold"
        if holding:
            alone = values_alone(self.found["backends"])
            of = f", values alone: no gradient was asked for on {', '.join(alone)}" if alone else ""
            return HOLDS, f"all that applies holds: {counted(holding, 'clause')}{of}"
        return NOT, "nothing that was asked applies"

    @property
    def faults(self) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        """What is wrong, by its grade: the name on the page of the failure that is told, and the fault."""
        found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        for name, _, fault in self._told:
            found.setdefault(fault["severity"], []).append((name, fault))
        return found

    @cached_property
    def _told(self) -> list[tuple[str, tuple[str, Place], dict[str, Any]]]:
        """Of each fault: its name on the page, its cell's if that tells the same failure; its cell; the fault."""
        places = {case["id"]: (case["backend"], case["dtype"]) for case in reversed(self.found["cases"])}
        told = []
        for at, fault in enumerate(self.found["faults"]):
            key = fault["clause"], places[fault["case"]]
            is_shown = self.cells[key]["failure"] == fault["failure"]
            told.append((self.ids[key] if is_shown else f"{self.ids[key]}-{at}", key, fault))
        return told

    def behind(self, clause: str, place: Place) -> list[tuple[str, dict[str, Any]]]:
        """Of a cell, the faults that are told by another failure than the cell's own, as cells of theirs."""
        key = clause, place
        return [
            (name, {**self.cells[key], **{of: fault[of] for of in ("severity", "failure")}})
            for name, at, fault in self._told
            if at == key and name != self.ids[key]
        ]

    def failing(self, clause: str) -> list[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
        """The failing cells of a clause: name on the page, cell, the failing cases beside the one that is shown."""
        found = []
        for place in self.places:
            cell = self.cells.get((clause, place))
            if cell is not None and cell["status"] in (FAILS, KNOWN):
                shown = f"::{(cell['failure'] or {}).get('case')}"
                others = [
                    case
                    for case in self.found["cases"]
                    if (case["outcome"], case["clause"], case["backend"], case["dtype"]) == (FAILS, clause, *place)
                    and not case["id"].endswith(shown)
                ]
                found.append((self.ids[clause, place], cell, others))
        return found


def status(cell: dict[str, Any]) -> str:
    """A cell's status, of one that fails its grade."""
    found: str = cell["severity"] or WRONG if cell["status"] == FAILS else cell["status"]
    return found


def input_rows(given: dict[str, Any]) -> list[tuple[str, str, list[tuple[Any, bool]], Any]] | None:
    """An input, a line a token: its name, what the line is of, entries and whether the target's, the target.

    Soft targets are in a second line. None for what is not of the shape that was recorded.
    """
    rows = []
    try:
        for index in product(*map(range, given["shape"][:-1])):
            row, target = _at(given["logits"], index), _at(given["targets"], index)
            if len(row) != given["shape"][-1]:
                return None
            token, soft = ", ".join(map(str, index)) or "0", isinstance(target, list)
            last = "soft, below" if soft else "" if target is None else target
            rows.append((token, "logit", [(value, j == target) for j, value in enumerate(row)], last))
            if soft:
                rows.append((token, "target", [(value, False) for value in target], ""))
    except (TypeError, IndexError, KeyError):
        return None
    return rows


def _at(values: Any, index: tuple[int, ...]) -> Any:
    for place in index if values is not None else ():
        values = values[place]
    return values


def _plots(results: dict[str, Any]) -> list[tuple[str, Markup, list[tuple[str, list[tuple[str, str] | None]]]]]:
    """By dtype: the picture, and the same in words for those who do not see it."""
    subjects = results["subjects"]
    found = dict.fromkeys(
        curve["dtype"] for subject in subjects for curve in subject.get("curves") or () if curve["errors"]
    )
    plots = []
    for dtype in sorted(found, key=lambda dtype: [*FLOATS, dtype].index(dtype)):
        lines = figure.series(results, dtype)
        of_line: dict[str, dict[str, figure.Series]] = {}
        for line in sorted(lines, key=lambda line: line.number):
            of_line.setdefault(line.label, {})[line.what] = line
        rows = [(label, [_worst(of.get(what), dtype) for what in sweep.KINDS]) for label, of in of_line.items()]
        plots.append((dtype, Markup(figure.error_plot(lines, dtype)), rows))
    return plots


def _worst(line: figure.Series | None, dtype: str) -> tuple[str, str] | None:
    """A line's largest error, and where it leaves what is allowed."""
    if line is None:
        return None
    limits = sweep.allowed(line.gaps, line.what, dtype)
    known = [entry for entry in zip(line.values(), line.gaps, limits, strict=True) if not math.isnan(entry[0])]
    if not known:
        return None
    error, gap, _ = max(known, key=lambda entry: (entry[0], -entry[1]))
    beyond = [gap for error, gap, limit in known if error > limit]
    largest = f"{number(error)} at gap {gap}" if math.isfinite(error) else f"NaN or infinite at gap {gap}"
    return largest, f"at {len(beyond)} of {len(known)} gaps, first at {beyond[0]}" if beyond else "nowhere"


def _natural(clause: str) -> tuple[int, int, str]:
    letters = list(GROUPS)
    place = letters.index(clause[:1]) if clause[:1] in letters else len(letters)
    return place, int(clause[1:]) if clause[1:].isdecimal() else 0, clause


def _in_groups(clauses: Any) -> dict[str, list[str]]:
    """The clauses by the words of their letter."""
    found: dict[str, list[str]] = {}
    for clause in clauses:
        found.setdefault(GROUPS.get(clause[:1], "Other"), []).append(clause)
    return found


# ---- words


def number(value: Any) -> str:
    """An error in few characters; nothing for none."""
    if value is None:
        return ""
    value = float(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    if value == 0 or 0.005 <= value < 100:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if 100 <= value < 10_000:
        return f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def _plainly(value: Any) -> str:
    """A number, or numbers, as Python prints them."""
    return value if isinstance(value, str) else json.dumps(value).replace('"', "")


def _breakable(value: Any) -> Markup:
    """A dotted name that may be broken after dots and underscores."""
    return Markup(re.sub(r"([._:/])(?=\w)", r"\1<wbr>", str(escape(escaped(str(value))))))


def _prose(value: Any) -> Markup:
    """The contract's words, with `code` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(escaped(str(value))))))


def _filled(template: str, **values: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossent_conformance"),
        autoescape=True,
        finalize=lambda value: escaped(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "plainly": _plainly, "breakable": _breakable, "prose": _prose}
    environment.globals |= {"SIGNS": SIGNS, "CLASSES": CLASSES, "counted": counted, "input_rows": input_rows}
    environment.globals |= {"GRADES": GRADES, "MEANS": MEANS, "status": status}
    return environment.get_template(template).render(**values)
