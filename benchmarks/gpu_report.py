"""The page of a run on a GPU: `python -m benchmarks.gpu_report EVIDENCE.json` writes docs/evidence/DATE-GPU.md.

The record goes beside it as DATE-GPU.json, the pictures into docs/images, and what docs/performance.md shows of a GPU
between its marks is rewritten. A record of a dry run says nothing of a GPU and is refused; `--docs FOLDER` puts any
record's pages elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import evidence, gpu, gpu_plots, report
from benchmarks.gpu_contenders import COPY, FORWARD, GRADIENT, SMOOTHED

BEGIN = "<!-- begin: gpu -->"
GOAL = 0.9
"""The share of the copy that forward and gradient are to reach."""

Record = dict[str, Any]


def name_of(record: Record) -> str:
    """DATE-GPU, for the names of files."""
    gpu_name = record["gpus"][0]["name"] if record["gpus"] else "no GPU"
    return f"{record['date'][:10]}-{re.sub(r'[^a-z0-9]+', '-', gpu_name.lower()).strip('-')}"


def figures_of(record: Record) -> list[dict[str, Any]]:
    """The benchmark's figures of all parts."""
    return [one for part in record["parts"] for one in (part["result"] or {}).get("figures", ())]


def page(record: Record, pictures: Sequence[tuple[Path, str]]) -> str:
    """All that was run, with its verdict."""
    titled = record["gpus"][0]["name"] if record["gpus"] else "No GPU"
    parts = [
        f"# {titled}, {record['date'][:10]}",
        *(["**A dry run on a CPU: it says nothing about a GPU.**"] if record["dry_run_on_cpu"] else []),
        _facts(record),
        f"The record is [{name_of(record)}.json]({name_of(record)}.json).",
        "## Parts",
        markdown(
            ("part", "verdict", "seconds", "what"),
            [
                (one["name"], evidence.verdict(one), str(one["seconds"]), evidence.what(one["result"]))
                for one in record["parts"]
            ],
        ),
        "Each was run, within `benchmarks/run_gpu.sh`, by:",
        "\n".join(["```text", *(f"{one['name']}: {one['command']}" for one in record["parts"]), "```"]),
        *_failed_tests(record),
        *_verdicts(record),
        *_speed(record, pictures),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(record: Record) -> str:
    rows = [
        ("GPU", "; ".join(f"{one['name']}, {one['memory.total']}" for one in record["gpus"]) or "none"),
        ("driver", ", ".join(sorted({one["driver"] for one in record["parts"]} - {""})) or "none"),
        ("host", f"{record['processor']}, {record['cores']} cores"),
        ("versions", f"{record['crossent']}; " + ", ".join(f"{k} {v}" for k, v in record["versions"].items())),
        ("commit", f"{record['commit']}, sources {record['source_sha256'][:16]}"),
        ("date", record["date"]),
    ]
    return markdown(("", ""), rows)


def _failed_tests(record: Record) -> list[str]:
    rows = [
        (part["name"], f"`{one['test']}`", one["message"])
        for part in record["parts"]
        for one in (part["result"] or {}).get("failed", ())
    ]
    return ["## Failed tests", markdown(("part", "test", "message"), rows)] if rows else []


def _verdicts(record: Record) -> list[str]:
    text = []
    for part in record["parts"]:
        result = part["result"] or {}
        if "checks" in result:
            rows = [(one["name"], one["verdict"], one["what"], one["text"]) for one in result["checks"]]
            text += [
                f"## Checks on {result['backend']}, engine {result['engine']}",
                markdown(("check", "verdict", "what is asked", "what was seen"), rows),
            ]
        if "sanitizer" in result:
            rows = [(one["name"], one["verdict"], one["text"]) for one in result["sanitizer"]]
            text += ["## compute-sanitizer", markdown(("run", "verdict", "what it said"), rows)]
    return text


def _speed(record: Record, pictures: Sequence[tuple[Path, str]]) -> list[str]:
    figures = figures_of(record)
    if not figures:
        return []
    text = [
        "## Speed",
        "GB/s, and the share of the copy's GB/s in the same memory: one read of the logits counts for forward, one "
        "read and one write for a gradient and for the copy. Medians of device-event times; the spread is the largest "
        "distance of the quartiles in the row, over the median. *unchecked*: with `check_targets=False`.",
        *(f"![{words}](../images/{path.name})" for path, words in pictures),
        markdown(("backend", "dtype", "question", "smallest share of the copy"), goals(figures)),
    ]
    by_vocabulary = [one for one in figures if one["series"] == gpu.VOCABULARY]
    for backend, dtype in dict.fromkeys((one["backend"], one["dtype"]) for one in by_vocabulary):
        chosen = [one for one in by_vocabulary if (one["backend"], one["dtype"]) == (backend, dtype)]
        smallest = min(one["logits_bytes"] for one in chosen)
        text += [f"### {backend}, {dtype}, {smallest / 2**30:.2f} GiB of logits or more", _rates(chosen)]
    text += _cupy_to_torch(figures)
    missing = gpu.failures(figures)
    if missing:
        text += ["### Not measured", "\n".join(["```text", *missing, "```"])]
    return text


def _cupy_to_torch(figures: list[dict[str, Any]]) -> list[str]:
    ratios = gpu.cupy_to_torch(figures)
    vocabularies = sorted({one["V"] for one in ratios})
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for one in ratios:
        key = one["bits"], one["question"], one["contender"]
        rows.setdefault(key, {})[one["V"]] = f"{one['ratio']:.3f}"
    head = ("logits", "question", "contender", *(f"V={v}" for v in vocabularies))
    table = markdown(head, [(*key, *(cells.get(v, "") for v in vocabularies)) for key, cells in rows.items()])
    return ["### CuPy's time over torch's", table] if rows else []


def goals(figures: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For every question, the smallest share that the fastest engine, unchecked or in place, has at any vocabulary."""
    rows = []
    asked = (
        (FORWARD, ", unchecked", FORWARD),
        (GRADIENT, ", out=, unchecked", GRADIENT),
        (GRADIENT, ", out=logits", f"{GRADIENT}, in place"),
        (SMOOTHED, ", out=", SMOOTHED),
    )
    of_vocabulary = [one for one in figures if one["series"] == gpu.VOCABULARY and one["ours"]]
    for backend, dtype in dict.fromkeys((one["backend"], one["dtype"]) for one in of_vocabulary):
        here = [one for one in of_vocabulary if (one["backend"], one["dtype"]) == (backend, dtype)]
        engine = here[0]["contender"].split()[1].rstrip(",")
        for question, ending, words in asked:
            chosen = [
                one for one in here if (one["question"], one["contender"]) == (question, f"crossent {engine}{ending}")
            ]
            if not chosen:
                continue
            missing = [one for one in chosen if "share_of_copy" not in one]
            if missing:
                share = f"not measured at V={missing[0]['V']}"
            else:
                worst = min(chosen, key=lambda one: one["share_of_copy"])
                verdict = "reached" if worst["share_of_copy"] >= GOAL else "missed"
                share = f"{worst['share_of_copy']:.0%} at V={worst['V']}; {GOAL:.0%} {verdict}"
            rows.append((backend, dtype, words, share))
    return rows


def _rates(figures: list[dict[str, Any]]) -> str:
    vocabularies = sorted({one["V"] for one in figures})
    order = {question: i for i, question in enumerate(("copy", FORWARD, GRADIENT, SMOOTHED))}
    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for one in sorted(figures, key=lambda one: order[one["question"]]):
        rows.setdefault((one["question"], one["contender"]), {})[one["V"]] = one
    text = []
    for (question, contender), cells in rows.items():
        spreads = [
            (one["quartiles_ms"][1] - one["quartiles_ms"][0]) / one["ms"] for one in cells.values() if "ms" in one
        ]
        spread = f"{max(spreads):.1%}" if spreads else ""
        text.append((question, contender, *(_rate(cells.get(v)) for v in vocabularies), spread))
    return markdown(("question", "contender", *(f"V={v}" for v in vocabularies), "spread"), text)


def _rate(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    if "ms" not in one:
        return "–"
    share = f" ({one['share_of_copy']:.0%})" if "share_of_copy" in one and one["contender"] != COPY else ""
    return f"{one['gigabytes_per_second']:.0f}{share}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def shown(record: Record, pictures: Sequence[tuple[Path, str]]) -> str:
    """What the page of all speeds shows of it."""
    name = name_of(record)
    text = [
        f"{record['gpus'][0]['name'] if record['gpus'] else 'No GPU'}, {record['date'][:10]}: "
        f"[all figures, and what was checked](evidence/{name}.md).",
        *(f"![{words}](images/{path.name})" for path, words in pictures),
    ]
    rows = goals(figures_of(record))
    if rows:
        text.append(markdown(("backend", "dtype", "question", "smallest share of the copy"), rows))
    return "\n\n".join(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages and the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__)
    parser.add_argument("file", type=Path, help="the evidence.json of a run")
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="where to write, for any record")
    given = parser.parse_args(arguments)
    record = json.loads(given.file.read_text(encoding="utf-8"))
    if given.docs is None and (record["dry_run_on_cpu"] or not record["gpus"]):
        print(f"{given.file} is of no GPU: {report.DOCS.name}/ stays as it is; --docs FOLDER takes it", file=sys.stderr)
        return 1
    docs, name = given.docs or report.DOCS, name_of(record)
    (docs / "evidence").mkdir(parents=True, exist_ok=True)
    pictures = gpu_plots.draw(figures_of(record), docs / "images", name)
    (docs / "evidence" / f"{name}.md").write_text(page(record, pictures), encoding="utf-8")
    shutil.copyfile(given.file, docs / "evidence" / f"{name}.json")
    speeds = report.replaced((report.DOCS / report.PAGE).read_text(encoding="utf-8"), shown(record, pictures), BEGIN)
    (docs / report.PAGE).write_text(speeds, encoding="utf-8")
    print(f"wrote {docs / 'evidence' / name}.md, .json and {len(pictures)} plots in {docs / 'images'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
