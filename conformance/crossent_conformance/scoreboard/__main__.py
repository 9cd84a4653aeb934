"""`python -m crossent_conformance.scoreboard`: the runs, one for each peer, and what is written of them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from crossent_conformance import backends, figure, findings
from crossent_conformance.peers import PEERS, Peer
from crossent_conformance.scoreboard.page import page

CROSSENT = Peer(
    "crossent", "crossent_conformance.subjects_crossent:subject", "crossent", ("numpy", "torch", "jax"), "as it is"
)
PICTURED = "float32"


def main(arguments: list[str] | None = None) -> int:
    """Run what is installed, write the page and its picture."""
    what = "The scoreboard: every peer that is installed, and crossent, through the same clauses, as a page."
    parser = argparse.ArgumentParser(prog="python -m crossent_conformance.scoreboard", description=what)
    parser.add_argument("--docs", type=Path, default=Path("docs"), metavar="DIR", help="where the page goes")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the results of each run are kept as JSON")
    parser.add_argument("--page", action="store_true", help="make the page of the results that are there, run nothing")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="LABEL", help="run these, as the page's columns call them"
    )
    given = parser.parse_args(arguments)
    known = [peer.label for peer in (CROSSENT, *PEERS)]
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
            for peer in (CROSSENT, *PEERS):
                if peer.version is not None and (not given.only or peer.label in given.only):
                    print(f"{peer.label}: {run(peer, folder)}", flush=True)
        documents = {peer.label: _read(folder, peer) for peer in (CROSSENT, *PEERS)}
    write(given.docs, {label: document for label, document in documents.items() if document is not None})
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
    peers = [CROSSENT, *PEERS]
    reproduced = [(finding, _outcome(finding)) for finding in findings.found(docs / "findings")]
    (docs / "scoreboard.md").write_text(page(peers, documents, reproduced), encoding="utf-8")
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


def _read(folder: Path, peer: Peer) -> dict[str, Any] | None:
    file = _file(folder, peer)
    document: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return document


if __name__ == "__main__":
    sys.exit(main())
