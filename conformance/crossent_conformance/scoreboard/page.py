"""The page of the scoreboard, as Markdown: which peers were asked what, what failed, by how much.

page(peers, documents, reproduced)      documents: results as JSON, or {"refused": why}, by the peers' labels
"""

from __future__ import annotations

import math
from typing import Any

import jinja2

from crossent_conformance.backends import FLOATS
from crossent_conformance.findings import Finding
from crossent_conformance.peers import Peer
from crossent_conformance.table import number


def page(peers: list[Peer], documents: dict[str, dict[str, Any]], reproduced: list[tuple[Finding, str]]) -> str:
    """The whole page."""
    run = {peer: documents[peer.label] for peer in peers if "subjects" in documents.get(peer.label, {})}
    if not run:
        raise ValueError("there are no results to show")
    first = next(iter(run.values()))
    counts = {clause: [_counts(document, clause) for document in run.values()] for clause in first["contract"]}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossent_conformance"), trim_blocks=True, lstrip_blocks=True, autoescape=False
    )  # what is written is Markdown, of results that this repository's own commands have made
    return environment.get_template("scoreboard.md.j2").render(
        run=run,
        results=first,
        machine=first["machine"],
        missing=[(peer, _why(peer, documents)) for peer in peers if peer not in run],
        clauses={clause: of for clause, of in counts.items() if any(map(any, of))},
        totals=[tuple(map(sum, zip(*of, strict=True))) for of in zip(*counts.values(), strict=True)],
        dtypes={dtype: [_worst(document, dtype) for document in run.values()] for dtype in FLOATS},
        reproduced=reproduced,
        cell=_cell,
    )


def _why(peer: Peer, documents: dict[str, dict[str, Any]]) -> str:
    if peer.label in documents:
        return str(documents[peer.label]["refused"])
    return "not installed" if peer.version is None else "not run"


def _worst(document: dict[str, Any], dtype: str) -> str:
    """The worst error of clause V1; NaN is worse than any."""
    cells = [cell for cell in document["subjects"][0]["cells"] if (cell["clause"], cell["dtype"]) == ("V1", dtype)]
    found = [float(cell["worst"]) for cell in cells if cell["worst"] is not None]
    worst = max(found, key=lambda worst: math.inf if math.isnan(worst) else worst, default=None)
    return "–" if worst is None else number(worst)


def _counts(document: dict[str, Any], clause: str) -> tuple[int, int]:
    cells = [cell for cell in document["subjects"][0]["cells"] if cell["clause"] == clause]
    return sum(cell["held"] for cell in cells), sum(cell["failed"] for cell in cells)


def _cell(how: str, *notes: str) -> str:
    """What a reader has to know, of the notes those that are short."""
    said = "; ".join([how, *(note for note in notes if len(note) < 60)])
    return said.replace("|", "\\|").replace("\n", " ")
