"""The matrix of the HTML report: clause x (backend, dtype); below a clause that fails, where and with what input.

A cell says its status in words, with how many cases held, failed, do not apply, and the worst error. A failing one
links to its failure, any other opens to what the implementation lacks.
"""

from __future__ import annotations

from typing import Any

from crossent_conformance.contract import GROUPS
from crossent_conformance.report_html.failure import failure
from crossent_conformance.report_html.words import (
    CLASSES,
    FAILS,
    NOT,
    SIGNS,
    breakable,
    clauses_by_status,
    count,
    number,
    prose,
    text,
)

Place = tuple[str, str]


def matrix(subject: dict[str, Any], number_: int, contract: dict[str, str]) -> str:
    """The matrix of one implementation."""
    places = _places(subject)
    cells = {(cell["clause"], _place(cell)): cell for cell in subject["cells"]}
    ids = {key: f"s{number_}f{place}" for place, key in enumerate(cells)}
    rows: list[str] = []
    for group, clauses in _groups(subject, contract).items():
        # Far below the head of the table, its words are needed again.
        heads = "".join(f"<td>{breakable(' '.join(place)) if rows else ''}</td>" for place in places)
        rows.append(f'<tbody><tr class="group"><th scope="rowgroup">{text(group)}</th>{heads}</tr>')
        for clause in clauses:
            row = "".join(_cell(cells.get((clause, place)), ids.get((clause, place))) for place in places)
            rows.append(f"<tr>{_clause(clause, contract)}{row}</tr>")
            failing = [(ids[clause, place], cells[clause, place]) for place in places if _fails(cells, clause, place)]
            if failing:
                rows.append(_failures(clause, failing, subject, contract, len(places)))
        rows.append("</tbody>")
    return (_KEY if number_ == 0 else "") + _box(
        f"Matrix of {subject['name']}", f'<table class="matrix">{_head(places)}{"".join(rows)}</table>'
    )


def glance(subjects: list[dict[str, Any]], contract: dict[str, str]) -> str:
    """One column an implementation: every clause, over all its backends and dtypes."""
    by_status = [clauses_by_status(subject) for subject in subjects]
    status = [{clause: status for status, found in each.items() for clause in found} for each in by_status]
    clauses = sorted({clause for each in status for clause in each}, key=_natural)
    head = "".join(
        f'<th scope="col" class="place"><a href="#s{place}">{breakable(subject["name"])}</a></th>'
        for place, subject in enumerate(subjects)
    )
    rows = []
    for clause in clauses:
        row = "".join(
            f'<td class="cell {CLASSES[each[clause]]}"><b>{SIGNS[each[clause]]} {each[clause]}</b></td>'
            if clause in each
            else _ABSENT
            for each in status
        )
        rows.append(f"<tr>{_clause(clause, contract)}{row}</tr>")
    return _box(
        "Clauses by implementation",
        f'<table class="matrix glance"><thead><tr><th scope="col" class="clause">Clause</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>",
    )


_ABSENT = '<td class="absent"><span aria-hidden="true">·</span><span class="hidden">no case</span></td>'
_KEY = (
    '<p class="small soft"><b>12/1/2 · 0.5</b> reads: 12 cases held, 1 failed, 2 do not apply; the worst error was '
    "0.5, where 1 is what the contract allows. A failing cell leads to its input and values; + opens to what the "
    "implementation lacks; · is a clause that has no case there.</p>"
)


def _box(label: str, table: str) -> str:
    return f'<div class="box" role="region" aria-label="{text(label)}" tabindex="0">{table}</div>'


def _place(cell: dict[str, Any]) -> Place:
    return cell["backend"], cell["dtype"]


def _places(subject: dict[str, Any]) -> list[Place]:
    """The columns: dtypes as the backends list them, where any cell is; then what no backend lists."""
    used = dict.fromkeys(_place(cell) for cell in subject["cells"])
    listed = [(name, dtype) for name, backend in subject["backends"].items() for dtype in backend["dtypes"]]
    return [place for place in listed if place in used] + [place for place in used if place not in listed]


def _natural(clause: str) -> tuple[int, int, str]:
    letters = list(GROUPS)
    place = letters.index(clause[:1]) if clause[:1] in letters else len(letters)
    return place, int(clause[1:]) if clause[1:].isdecimal() else 0, clause


def _groups(subject: dict[str, Any], contract: dict[str, str]) -> dict[str, list[str]]:
    """The clauses that have a cell, in the contract's order, by the words of their letter."""
    order = {clause: place for place, clause in enumerate(contract)}
    found: dict[str, list[str]] = {}
    clauses = {cell["clause"] for cell in subject["cells"]}
    for clause in sorted(clauses, key=lambda clause: (_natural(clause)[0], order.get(clause, len(order)), clause)):
        found.setdefault(GROUPS.get(clause[:1], "Other"), []).append(clause)
    return found


def _head(places: list[Place]) -> str:
    spans: list[tuple[str, int]] = []
    for backend, _ in places:
        same = bool(spans) and spans[-1][0] == backend
        spans[-1:] = [(backend, spans[-1][1] + 1)] if same else [*spans[-1:], (backend, 1)]
    backends = "".join(
        f'<th scope="colgroup" colspan="{wide}" class="backend"><span>{text(name)}</span></th>' for name, wide in spans
    )
    dtypes = "".join(f'<th scope="col" class="place">{text(dtype)}</th>' for _, dtype in places)
    corner = '<th scope="col" rowspan="2" class="clause">Clause</th>'
    return f"<thead><tr>{corner}{backends}</tr><tr>{dtypes}</tr></thead>"


def _clause(clause: str, contract: dict[str, str]) -> str:
    gist = " ".join(contract.get(clause, "").split())
    return (
        f'<th scope="row" class="clause"><a href="#c-{text(clause)}">{text(clause)}</a>'
        f'<span class="gist">{prose(gist)}</span></th>'
    )


def _fails(cells: dict[tuple[str, Place], dict[str, Any]], clause: str, place: Place) -> bool:
    return (clause, place) in cells and cells[clause, place]["status"] == FAILS


def _cell(cell: dict[str, Any] | None, identity: str | None) -> str:
    if cell is None:
        return _ABSENT
    status = cell["status"]
    counts = f"{cell['held']}/{cell['failed']}/{cell['not_applicable']}"
    words = f"{cell['held']} held, {cell['failed']} failed, {cell['not_applicable']} do not apply"
    if cell["worst"] is not None and status != NOT:
        counts += f" ·\N{NO-BREAK SPACE}{number(cell['worst'])}"
        words += f", worst error {number(cell['worst'])}"
    said = (
        f"<b>{SIGNS[status]} {status}</b>"
        f'<span class="counts" aria-hidden="true">{text(counts)}</span><span class="hidden">{text(words)}</span>'
    )
    if status == FAILS:
        said = f'<a href="#{identity}">{said}</a>'
    elif cell["lacks"]:
        said = f"<details><summary>{said}</summary>{_lacks(cell)}</details>"
    return f'<td class="cell {CLASSES[status]}">{said}</td>'


def _lacks(cell: dict[str, Any]) -> str:
    return "<ul>" + "".join(f"<li>{breakable(reason)}</li>" for reason in cell["lacks"]) + "</ul>"


def _failures(
    clause: str,
    failing: list[tuple[str, dict[str, Any]]],
    subject: dict[str, Any],
    contract: dict[str, str],
    wide: int,
) -> str:
    """The row below a clause that fails: one failure for every cell of it."""
    where = ", ".join(" ".join(_place(cell)) for _, cell in failing)
    told = [failure(cell, identity, subject["cases"], contract) for identity, cell in failing]
    if len(failing) > 1:
        told = [
            f"<details><summary>{text(' '.join(_place(cell)))}: {_gist(cell)}</summary>{each}</details>"
            for each, (_, cell) in zip(told, failing, strict=True)
        ]
    return (
        f'<tr class="why"><td colspan="{wide + 1}"><div class="across"><details><summary>'
        f"{text(clause)}: what fails on {text(where)}</summary>"
        f"{''.join(told)}</details></div></td></tr>"
    )


def _gist(cell: dict[str, Any]) -> str:
    known = cell["failure"]
    return f"{count(cell['failed'], 'case')} failed" + ("" if known is None else f", {text(known['kind'])}")
