"""One table out of all measurements of a run, with ratios to torch and to the copy of the logits in the same run.

`python -m benchmarks.table FILE` prints it again from the JSON that `pytest benchmarks --benchmark-json=FILE` writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.contenders import COPY, TORCH
from benchmarks.questions import QUESTIONS


@dataclass(frozen=True)
class Measurement:
    """What one contender took for one question on one size."""

    question: str
    size: str
    contender: str
    nbytes: int
    seconds: float | None = None
    peak_bytes: int | None = None

    def as_json(self) -> dict[str, str | float | None]:
        """What `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: dict[str, object]) -> Measurement:
        """From the `extra_info` of a pytest-benchmark record."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})  # type: ignore[arg-type]

    @property
    def gigabytes_per_second(self) -> float:
        """The logits' bytes that the question has to move (for the copy: one read, one write) over the time."""
        traffic = 2 if self.contender == COPY else QUESTIONS[self.question].traffic
        return traffic * self.nbytes / self.seconds / 1e9


def lines(measurements: Iterable[Measurement]) -> list[str]:
    """The whole table."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for one in measurements:
        groups.setdefault((one.question, one.size), []).append(one)
    text = []
    for (question, size), group in groups.items():
        if text:
            text.append("")
        text.append(f"{QUESTIONS[question].title}, {size} float32")
        if group[0].peak_bytes is not None:
            text += _memory(group)
        elif QUESTIONS[question].traffic:
            text += _large(group)
        else:
            text += _small(group)
    return text


def _seconds_of(group: list[Measurement], contender: str) -> float | None:
    return next((one.seconds for one in group if one.contender == contender), None)


def _ratio(seconds: float | None, base: float | None) -> str:
    return "" if seconds is None or base is None else f"{seconds / base:.2f}"


def _large(group: list[Measurement]) -> list[str]:
    torch, copy = _seconds_of(group, TORCH), _seconds_of(group, COPY)
    rate = next((one.gigabytes_per_second for one in group if one.contender == COPY), None)
    rows = [("", "ms", "/ torch", "/ copy", "GB/s", "of copy's")]
    for one in group:
        speed = one.gigabytes_per_second
        share = "" if rate is None else f"{speed / rate:.0%}"
        ratios = _ratio(one.seconds, torch), _ratio(one.seconds, copy)
        rows.append((one.contender, f"{1e3 * one.seconds:.1f}", *ratios, f"{speed:.1f}", share))
    return aligned(rows)


def _small(group: list[Measurement]) -> list[str]:
    torch = _seconds_of(group, TORCH)
    rows = [("", "µs", "/ torch")]
    rows += [(one.contender, f"{1e6 * one.seconds:.1f}", _ratio(one.seconds, torch)) for one in group]
    return aligned(rows)


def _memory(group: list[Measurement]) -> list[str]:
    rows = [("", "MiB", "/ logits")]
    rows += [(one.contender, f"{one.peak_bytes / 2**20:.1f}", f"{one.peak_bytes / one.nbytes:.2f}") for one in group]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the table of a JSON file."""
    if len(arguments) != 1:
        print("usage: python -m benchmarks.table FILE", file=sys.stderr)
        return 2
    records = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))["benchmarks"]
    print("\n".join(lines(Measurement.of_json(one["extra_info"]) for one in records)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
