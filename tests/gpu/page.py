"""The page of a run on a GPU: `python -m tests.gpu.page evidence.jsonl` writes docs/evidence/DATE-GPU.md.

The log goes beside it as DATE-GPU.jsonl, the pictures into docs/images, and what docs/performance.md shows of a GPU
between its marks is rewritten. A log of a dry run says nothing of a GPU and is refused; `--docs FOLDER` puts any log's
pages elsewhere.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, report, table
from benchmarks.contenders import COPY
from benchmarks.measurement import Measurement
from tests.gpu import log
from tests.gpu.log import Part

BEGIN = "<!-- begin: gpu -->"
GOAL = 0.9
"""The share of the copy's GB/s that forward and gradient are to reach."""
GOALS = (
    ("gpu-forward", ", unchecked"), ("gpu-gradient", ", out=, unchecked"), ("gpu-gradient", ", out=logits"),
    ("gpu-options", ", out="),
)  # fmt: skip
SHARES = ("question", "contender", "smallest share of the copy's GB/s")
Row = Sequence[str]


def measurements(parts: dict[str, Part]) -> list[Measurement]:
    """Those of all parts."""
    seen = [one["seen"] for part in parts.values() for one in part.tests.values()]
    return [Measurement(**one["measurement"]) for one in seen if "measurement" in one]


def goals(found: list[Measurement]) -> list[Row]:
    """The smallest share of the copy's GB/s that the compiled engine has at any size, asked in the leanest ways."""
    copies = {(one.question, one.size): one.gigabytes_per_second for one in found if one.contender == COPY}
    shares: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for one in found:
        ways = [ending for question, ending in GOALS if question == one.question]
        if one.contender.startswith("crossent") and one.contender.partition(", cuda")[2] in ways:
            share = one.gigabytes_per_second / copies.get((one.question, one.size), math.inf)
            shares.setdefault((one.question, one.contender), []).append((share, one.size))
    rows = []
    for names, (share, size) in ((names, min(of)) for names, of in shares.items()):
        verdict = "reached" if share >= GOAL else "missed"
        rows.append((*names, f"{share:.0%} at {size}; {GOAL:.0%} {verdict}"))
    return rows


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """A table; nothing where it would be empty."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) if rows else ""


def page(name: str, facts: dict[str, Any], parts: dict[str, Part], pictures: Sequence[tuple[Path, str]]) -> str:
    """All that was asked, with its verdict."""
    tests = [(f"`{test}`", one) for part in parts.values() for test, one in part.tests.items()]
    found = measurements(parts)
    said = {
        word: [(test, one["text"]) for test, one in tests if one["outcome"] == word] for word in ("failed", "skipped")
    }
    seen = [(test, one["outcome"], one["seen"]["seen"]) for test, one in tests if "seen" in one["seen"]]
    asked = [(key, one.verdict, f"{one.seconds:.0f}", one.counts) for key, one in parts.items()]
    sections = {
        "Parts": [markdown(("part", "verdict", "seconds", "tests"), asked)],
        "Commands": ["\n".join(["```text", *(f"{key}: {one.command}" for key, one in parts.items()), "```"])],
        "Failed": [markdown(("test", "what it said"), said["failed"])],
        "Not here": [markdown(("test", "why"), said["skipped"])],
        "What was seen": [markdown(("test", "verdict", "seen"), seen)],
    }
    if found:
        sections["Speed"] = [
            "Medians of 31 calls by the device's own clock, with a cache that holds something else; the quartiles of a "
            f"figure are at most {max(one.spread or 0.0 for one in found):.1%} apart. *unchecked*: with "
            "`check_targets=False`; *all ignored*: rows whose logits need not be read, so that its GB/s are of what "
            "was not moved.",
            *(f"![{words}](../images/{path.name})" for path, words in pictures),
            markdown(SHARES, goals(found)),
            "\n".join(["```text", *table.lines(found), "```"]),
        ]
    head = [
        f"# {', '.join(facts['gpus']) or 'No GPU'}, {facts['date'][:10]}",
        *(["**A dry run on a CPU: it says nothing about a GPU.**"] if facts["dry_run_on_cpu"] else []),
        markdown(("", ""), [(key, _text(value)) for key, value in facts.items()]),
        f"The log is [{name}.jsonl]({name}.jsonl).",
    ]
    body = [part for title, texts in sections.items() if any(texts) for part in (f"## {title}", *filter(None, texts))]
    return "\n\n".join([*head, *body]) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, the pictures, and what the page of all speeds shows."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.page", description=__doc__)
    parser.add_argument("file", type=Path, help="the evidence.jsonl of a run")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="where to write, for any log")
    given = parser.parse_args(arguments)
    runs, parts = log.read(given.file)
    facts = runs[-1]
    if given.docs is None and (facts["dry_run_on_cpu"] or not facts["gpus"]):
        print(f"{given.file} is of no GPU: docs/ stays as it is; --docs FOLDER takes it", file=sys.stderr)
        return 1
    docs = given.docs or report.DOCS
    gpu = facts["gpus"][0].partition(",")[0] if facts["gpus"] else "no GPU"
    name = f"{facts['date'][:10]}-{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}"
    (docs / "evidence").mkdir(parents=True, exist_ok=True)
    pictures = plots.draw(measurements(parts), docs / "images", name)
    (docs / "evidence" / f"{name}.md").write_text(page(name, facts, parts, pictures), encoding="utf-8")
    shutil.copyfile(given.file, docs / "evidence" / f"{name}.jsonl")
    shown = [
        f"{gpu}, {facts['date'][:10]}: [all figures, and what was checked](evidence/{name}.md).",
        *(f"![{words}](images/{path.name})" for path, words in pictures),
        markdown(SHARES, goals(measurements(parts))),
    ]
    speeds = (report.DOCS / report.PAGE).read_text(encoding="utf-8")
    (docs / report.PAGE).write_text(report.replaced(speeds, "\n\n".join(filter(None, shown)), BEGIN), encoding="utf-8")
    print(f"wrote {docs / 'evidence' / name}.md, .jsonl and {len(pictures)} plots in {docs / 'images'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
