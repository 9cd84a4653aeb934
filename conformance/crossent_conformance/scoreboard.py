"""The scoreboard: every peer that is installed, and `crossent` beside them, through the same clauses, as a page.

    python -m crossent_conformance.scoreboard                      `make scoreboard`
    python -m crossent_conformance.scoreboard --results DIR        keeps the results of each as JSON
    python -m crossent_conformance.scoreboard --page --results DIR makes the page of results that are there

One run for each peer, on the backend where it lives, in fresh processes: some have to be imported first. What is not
installed, or could not be run, is named on the page. `page` is made of results alone, and asks nobody.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from crossent_conformance import backends, figure, findings
from crossent_conformance.backends import FLOATS
from crossent_conformance.escaped import escaped
from crossent_conformance.peers import PEERS, Peer
from crossent_conformance.severity import MEANS, WRONG
from crossent_conformance.table import number

CROSSENT = Peer(
    "crossent", "crossent_conformance.subjects_crossent:subject", "crossent", ("numpy", "torch", "jax"), "as it is"
)
WHAT = "The scoreboard: every peer that is installed, and crossent, through the same clauses, as a page."
COLUMNS = (CROSSENT, *PEERS)
PICTURED = "float32"


def main(arguments: list[str] | None = None) -> int:
    """Run what is installed, write the page and its picture."""
    parser = argparse.ArgumentParser(prog="python -m crossent_conformance.scoreboard", description=WHAT)
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="where the page goes")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the results of each run are kept as JSON")
    parser.add_argument("--page", action="store_true", help="make the page of the results that are there, run nothing")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="LABEL", help="run these, as the page's columns call them"
    )
    given = parser.parse_args(arguments)
    known = [peer.label for peer in COLUMNS]
    if unknown := [label for label in given.only if label not in known]:
        parser.error(f"no column is called {unknown[0]!r}; there are {', '.join(known)}")
    if given.page and given.results is None:
        parser.error("--page needs --results")
    if not (given.docs / "findings").is_dir():
        parser.error(f"there is no {given.docs / 'findings'}: run it from the repository, or say --docs")
    with tempfile.TemporaryDirectory() as aside:
        folder = given.results or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        if not given.page:
            for peer in COLUMNS:
                if peer.version is not None and (not given.only or peer.label in given.only):
                    print(escaped(f"{peer.label}: {run(peer, folder)}"), flush=True)
        files = {peer.label: _file(folder, peer) for peer in COLUMNS}
        documents = {label: json.loads(file.read_text("utf-8")) for label, file in files.items() if file.is_file()}
    write(given.docs, documents)
    return 0


def run(peer: Peer, folder: Path) -> str:
    """Put the peer through the clauses; the results, or why there are none, go into the folder as JSON."""
    from crossent_conformance.run import BrokenRunError, Run, Settings
    from crossent_conformance.subject import SubjectError

    usable = [name for name in peer.backends if not isinstance(backends.load(name), str)]
    home = usable if peer is CROSSENT else usable[:1]
    file = _file(folder, peer)
    if not home:
        return _keep(file, f"none of its backends can be used here: {', '.join(peer.backends)}")
    words = ["crossent", "conform", peer.spec, "--backend", *home]
    try:
        results = Run([peer.spec], Settings(backends=tuple(home), command=" ".join(words))).execute()
    except (SubjectError, BrokenRunError) as error:
        return _keep(file, str(error))
    results.write(file)
    counts = results.subjects[0].counts()
    return ", ".join(f"{count} cells {status}" for status, count in counts.items()) + f", {results.seconds:.0f} seconds"


def write(docs: Path, documents: dict[str, dict[str, Any]]) -> None:
    """Write the page and the picture of the results, by the peers' labels."""
    subjects = [document["subjects"][0] for document in documents.values() if "subjects" in document]
    picture = docs / "images" / "scoreboard.svg"
    picture.write_text(figure.error_plot(figure.series({"subjects": subjects}, PICTURED), PICTURED), encoding="utf-8")
    reproduced = [(finding, _outcome(finding)) for finding in findings.found(docs / "findings")]
    (docs / "scoreboard.md").write_text(page(COLUMNS, documents, reproduced), encoding="utf-8")
    print(f"{docs / 'scoreboard.md'}, {picture}")


def _outcome(finding: findings.Finding) -> str:
    if finding.version is None:
        return "not run: not installed"
    done = finding.run()
    return {0: f"reproduces with {finding.version}", 1: f"mended in {finding.version}, or its script failed"}.get(
        done.returncode, f"its script ended with exit code {done.returncode}"
    )


def _file(folder: Path, peer: Peer) -> Path:
    return folder / (peer.label.replace(" ", "-") + ".json")


def _keep(file: Path, why: str) -> str:
    file.write_text(json.dumps({"refused": why}) + "\n", encoding="utf-8")
    return why


def page(
    peers: Sequence[Peer], documents: dict[str, dict[str, Any]], reproduced: list[tuple[findings.Finding, str]]
) -> str:
    """The page, as Markdown, of results as JSON, or {"refused": why}, by the peers' labels."""
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
        means=MEANS,
        dtypes={dtype: [_worst(document, dtype) for document in run.values()] for dtype in FLOATS},
        reproduced=reproduced,
        cell=_cell,
    )


def _why(peer: Peer, documents: dict[str, dict[str, Any]]) -> str:
    if peer.label in documents:
        return escaped(documents[peer.label]["refused"])
    return "not installed" if peer.version is None else "not run"


def _worst(document: dict[str, Any], dtype: str) -> str:
    """The worst error of clause V1; NaN is worse than any."""
    cells = [cell for cell in document["subjects"][0]["cells"] if (cell["clause"], cell["dtype"]) == ("V1", dtype)]
    found = [float(cell["worst"]) for cell in cells if cell["worst"] is not None]
    worst = max(found, key=lambda worst: math.inf if math.isnan(worst) else worst, default=None)
    return "–" if worst is None else number(worst)


def _counts(document: dict[str, Any], clause: str) -> tuple[int, int, bool]:
    """Cases that hold, that fail, and whether one of these is wrong on an ordinary input."""
    cells = [cell for cell in document["subjects"][0]["cells"] if cell["clause"] == clause]
    wrong = any(cell["failed"] and cell["severity"] == WRONG for cell in cells)
    return sum(cell["held"] for cell in cells), sum(cell["failed"] for cell in cells), wrong


def _cell(how: str, *notes: str) -> str:
    """What a reader has to know, of the notes those that are short."""
    said = "; ".join([how, *(note for note in notes if len(note) < 60)])
    return said.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
