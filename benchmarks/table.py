"""One table for each question out of all measurements of a run, with ratios to torch and to the copy in the same run.

`python -m benchmarks.table FILE` prints them again from the JSON that `pytest benchmarks --json FILE` writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import host, linear, questions
from benchmarks.contenders import COPY, TORCH
from benchmarks.measurement import Measurement, Run
from benchmarks.problem import Problem
from benchmarks.questions import QUESTIONS

Row = tuple[str, ...]


def lines(measurements: Iterable[Measurement]) -> list[str]:
    """All tables."""
    text: list[str] = []
    for title, rows in tables(measurements):
        text += ["", title, *rows] if text else [title, *rows]
    return text


def tables(measurements: Iterable[Measurement]) -> list[tuple[str, list[str]]]:
    """The title and the lines of each question's table, in the order of the questions."""
    found = list(measurements)
    asked = [(question, [one for one in found if one.question == question.name]) for question in QUESTIONS.values()]
    return [(question.title, aligned(_ROWS[question.kind](of))) for question, of in asked if of]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        (
            "  "
            + "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
            )
        ).rstrip()
        for row in rows
    ]


def _by_size(head: Row, found: list[Measurement], row: Callable[[Measurement, list[Measurement]], Row]) -> list[Row]:
    """The rows of each problem under its title; a row is made of a measurement and all others on the same problem."""
    rows = [("", *head)]
    for size in dict.fromkeys(one.size for one in found):
        group = [one for one in found if one.size == size]
        rows.append((Problem.parse(size).title, *[""] * len(head)))
        rows += [(f"  {cells[0]}", *cells[1:]) for cells in (row(one, group) for one in group)]
    return rows


def _figure(x: float) -> str:
    return f"{x:.1f}" if x >= 10 else f"{x:.3g}"


def _seconds_of(group: list[Measurement], contender: str) -> float | None:
    return next((one.seconds for one in group if one.contender == contender), None)


def _ratio(seconds: float, base: float | None) -> str:
    return "" if base is None else f"{seconds / base:.2f}"


def _speed(found: list[Measurement]) -> list[Row]:
    def row(one: Measurement, group: list[Measurement]) -> Row:
        copy = next((one for one in group if one.contender == COPY), None)
        speed = one.gigabytes_per_second
        return (
            one.contender,
            _figure(1e3 * one.seconds),
            _ratio(one.seconds, _seconds_of(group, TORCH)),
            _ratio(one.seconds, _seconds_of(group, COPY)),
            f"{speed:.1f}",
            "" if copy is None else f"{speed / copy.gigabytes_per_second:.0%}",
        )

    return _by_size(("ms", "/ torch", "/ copy", "GB/s", "of copy's"), found, row)


def _linear(found: list[Measurement]) -> list[Row]:
    def row(one: Measurement, group: list[Measurement]) -> Row:
        library = "jax" if "jax" in one.contender else "torch"
        products = [it.seconds for it in group if it.contender.startswith(f"products by {library}")]
        return (
            one.contender,
            _figure(1e3 * one.seconds),
            _ratio(one.seconds, min(products, default=None)),
            _ratio(one.seconds, _seconds_of(group, linear.TORCH_CHUNKED)),
            _ratio(one.seconds, _seconds_of(group, TORCH)),
        )

    return _by_size(("ms", "/ products", "/ chunked", "/ torch"), found, row)


def _tokens(found: list[Measurement]) -> list[Row]:
    bases = QUESTIONS[found[0].question].bases

    def row(one: Measurement, group: list[Measurement]) -> Row:
        with_gradient = ", gradient" if "gradient" in one.contender else ""
        over = (_seconds_of(group, f"{base}{with_gradient}") or _seconds_of(group, base) for _, base in bases)
        return one.contender, _figure(1e3 * one.seconds), *(_ratio(one.seconds, base) for base in over)

    return _by_size(("ms", *(f"/ {name}" for name, _ in bases)), found, row)


def _call(found: list[Measurement]) -> list[Row]:
    def row(one: Measurement, group: list[Measurement]) -> Row:
        return one.contender, _figure(1e6 * one.seconds), _ratio(one.seconds, _seconds_of(group, TORCH))

    return _by_size(("µs", "/ torch"), found, row)


def _memory(found: list[Measurement]) -> list[Row]:
    def row(one: Measurement, group: list[Measurement]) -> Row:
        return one.contender, f"{one.peak_bytes / 2**20:.1f}", f"{one.peak_bytes / one.problem.nbytes:.2f}"

    return _by_size(("MiB", "/ logits"), found, row)


def _threads(found: list[Measurement]) -> list[Row]:
    def row(one: Measurement, group: list[Measurement]) -> Row:
        alone = next((it.seconds for it in group if (it.contender, it.threads) == (one.contender, 1)), None)
        speed_up = "" if alone is None else f"{alone / one.seconds:.2f}"
        return (
            one.contender, str(one.threads), _figure(1e3 * one.seconds), speed_up, f"{one.gigabytes_per_second:.1f}",
        )  # fmt: skip

    return _by_size(("threads", "ms", "speed-up", "GB/s"), found, row)


def _scaling(letter: str) -> Callable[[list[Measurement]], list[Row]]:
    def rows(found: list[Measurement]) -> list[Row]:
        sizes = list(dict.fromkeys(one.size for one in found))
        columns = [f"{letter}={getattr(Problem.parse(size), letter.lower())}" for size in sizes]
        text = [("ns per logit", *columns, "worst / best")]
        for contender in dict.fromkeys(one.contender for one in found):
            times = {one.size: one.ns_per_logit for one in found if one.contender == contender}
            cells = [f"{times[size]:.3g}" if size in times else "" for size in sizes]
            text.append((contender, *cells, f"{max(times.values()) / min(times.values()):.1f}"))
        return text

    return rows


_ROWS: dict[str, Callable[[list[Measurement]], list[Row]]] = {
    questions.SPEED: _speed,
    questions.CALL: _call,
    questions.SCALING_V: _scaling("V"),
    questions.SCALING_N: _scaling("N"),
    questions.THREADS: _threads,
    questions.MEMORY: _memory,
    questions.LINEAR: _linear,
    questions.TOKENS: _tokens,
}


def main(arguments: Sequence[str]) -> int:
    """Print the tables of a JSON file."""
    if len(arguments) != 1:
        print("usage: python -m benchmarks.table FILE", file=sys.stderr)
        return 2
    run = Run.load(Path(arguments[0]))
    print("\n".join([*host.lines(run.host), "", *lines(run.measurements)]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
