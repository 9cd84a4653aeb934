"""The page of the scoreboard, as Markdown: who was asked what, what failed, by how much.

page(peers, documents, reproduced)      documents: results as JSON, or {"refused": why}, by the peers' labels
"""

from __future__ import annotations

import math
from typing import Any

from crossent_conformance.findings import Finding
from crossent_conformance.peers import Peer
from crossent_conformance.table import number

PAGE = """# Scoreboard

<!-- Made by `make scoreboard`: edits are lost. -->

Other people's cross-entropies against the [contract](specification.md), clause by clause, and `crossent` with them. The
contract is this project's: to fail a clause is to differ from it, which a peer may well mean to. Where a peer
contradicts its own documentation, it is among the [findings](#findings).

{when}; seed {seed}. `make scoreboard` makes this page; [conformance.md](conformance.md) says what a run consists of.

## Who

{who}
{missing}
## What holds

Failing cases of those that apply, over all dtypes and ways to hand arrays over. “–” does not apply: there is no such
option, dtype or gradient.

{matrix}

## By how much

The worst error of a loss or a gradient entry in the cases of clause V1, as a multiple of what the contract allows: 1 is
the limit, inf is NaN or an infinity where there is none.

{worst}

Relative errors in float32, one logit ahead of seven equal ones by the gap; at 1, no digit is right:

![Relative error of loss and target gradient against the confidence gap](images/scoreboard.svg)

## Findings

What a peer does against its own documentation; each page has a reproduction of a few lines.

{findings}
"""
DTYPES = ("float64", "float32", "float16", "bfloat16")


def page(peers: list[Peer], documents: dict[str, dict[str, Any]], reproduced: list[tuple[Finding, str]]) -> str:
    """The whole page."""
    run = {peer: documents[peer.label] for peer in peers if "subjects" in documents.get(peer.label, {})}
    missing = [(peer, _why(peer, documents)) for peer in peers if peer not in run]
    if not run:
        raise ValueError("there are no results to show")
    any_run = next(iter(run.values()))
    machine = any_run["machine"]
    return PAGE.format(
        when=f"{any_run['created'][:10]}, Python {machine['python']}, {machine['system']}, {machine['cores']} cores",
        seed=any_run["seed"],
        who=_who(run),
        missing=f"\n{_missing(missing)}\n" if missing else "",
        matrix=_matrix(run),
        worst=_worst(run),
        findings=_findings(reproduced),
    )


def _why(peer: Peer, documents: dict[str, dict[str, Any]]) -> str:
    if peer.label in documents:
        return str(documents[peer.label]["refused"])
    return "not installed" if peer.version is None else "not run"


def _who(run: dict[Peer, dict[str, Any]]) -> str:
    rows = ["| | implementation | version | asked on | how |", "|---|---|---|---|---|"]
    for peer, document in run.items():
        subject = document["subjects"][0]
        places = ", ".join(
            f"{name} {described['version']} ({described['device']})" for name, described in subject["backends"].items()
        )
        notes = "; ".join([peer.how, *(note for note in subject["notes"] if len(note) < 60)])
        rows.append(f"| {peer.label} | `{subject['name']}` | {subject['version'] or '–'} | {places} | {_cell(notes)} |")
    return "\n".join(rows)


def _missing(missing: list[tuple[Peer, str]]) -> str:
    return "Not here: " + "; ".join(f"{peer.label} ({why})" for peer, why in missing) + "."


def _matrix(run: dict[Peer, dict[str, Any]]) -> str:
    clauses = list(next(iter(run.values()))["contract"])
    rows = [_row("", [peer.label for peer in run]), "|" + "---|" * (len(run) + 1)]
    for clause in clauses:
        counts = [_counts(document, clause) for document in run.values()]
        if any(held or failed for held, failed in counts):
            words = [
                f"**fails {failed} of {failed + held}**" if failed else "holds" if held else "–"
                for held, failed in counts
            ]
            rows.append(_row(f"[{clause}](specification.md)", words))
    totals = [
        tuple(map(sum, zip(*(_counts(document, clause) for clause in clauses), strict=True)))
        for document in run.values()
    ]
    rows.append(_row("cases", [f"{failed} of {failed + held} fail" for held, failed in totals]))
    return "\n".join(rows)


def _worst(run: dict[Peer, dict[str, Any]]) -> str:
    rows = [_row("", [peer.label for peer in run]), "|" + "---|" * (len(run) + 1)]
    for dtype in DTYPES:
        cells = [_of_dtype(document, dtype) for document in run.values()]
        rows.append(_row(dtype, ["–" if worst is None else number(worst) for worst in cells]))
    return "\n".join(rows)


def _of_dtype(document: dict[str, Any], dtype: str) -> float | None:
    found = [
        float(cell["worst"])
        for cell in document["subjects"][0]["cells"]
        if cell["clause"] == "V1" and cell["dtype"] == dtype and cell["worst"] is not None
    ]
    return max(found, key=lambda worst: math.inf if math.isnan(worst) else worst, default=None)


def _counts(document: dict[str, Any], clause: str) -> tuple[int, int]:
    cells = [cell for cell in document["subjects"][0]["cells"] if cell["clause"] == clause]
    return sum(cell["held"] for cell in cells), sum(cell["failed"] for cell in cells)


def _findings(reproduced: list[tuple[Finding, str]]) -> str:
    return "\n".join(
        f"- [{finding.name}](findings/{finding.name}.md) ({finding.package}): {outcome}"
        for finding, outcome in reproduced
    )


def _row(first: str, cells: list[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
