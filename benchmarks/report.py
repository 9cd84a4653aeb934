"""The page of a run: `python -m benchmarks.report FILE` rewrites docs/performance.md between its marks, and the plots.

FILE is what `pytest benchmarks --json FILE` wrote. What is not the whole benchmark does not reach the page;
`--docs FOLDER` puts any run into a copy of the page elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import host, plots, table
from benchmarks.measurement import Run

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = "performance.md"
BEGIN, END = "<!-- begin: make bench -->", "<!-- end -->"


def generated(run: Run, pictures: Sequence[tuple[Path, str]]) -> str:
    """The part between the marks."""
    parts = [
        _fenced([*host.lines(run.host), f"{run.command} ({run.seconds / 60:.1f} minutes)"]),
        *(f"![{words}](images/{path.name})" for path, words in pictures),
    ]
    for title, rows in table.tables(run.measurements):
        parts += [f"### {title[0].upper()}{title[1:]}", _fenced(rows)]
    return "\n\n".join(parts)


def _fenced(lines: Sequence[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def replaced(page: str, part: str, mark: str = BEGIN) -> str:
    """The page with another generated part after a mark."""
    before, begin, rest = page.partition(mark)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {mark} with {END} after it")
    return f"{before}{mark}\n\n{part}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON of a run")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="where to write, for any run")
    given = parser.parse_args(arguments)
    run = Run.load(given.file)
    if given.docs is None and run.shortcomings:
        print(f"{PAGE} stays as it is: {'; '.join(run.shortcomings)}", file=sys.stderr)
        return 1
    folder = given.docs or DOCS
    pictures = plots.draw(run.measurements, folder / "images")
    page = replaced((DOCS / PAGE).read_text(encoding="utf-8"), generated(run, pictures))
    (folder / PAGE).write_text(page, encoding="utf-8")
    print(f"wrote {folder / PAGE} and {len(pictures)} plots in {folder / 'images'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
