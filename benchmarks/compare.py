"""Is the working tree slower than a revision? Both are measured in turn, in fresh processes, and compared pair by pair.

`python -m benchmarks.compare BASE [--sizes S] [--pairs P] [--threshold T]`. Both revisions answer the same questions,
those of `one_revision`, with the same libraries. Exit code 1 if one of them takes the new revision longer (`pairs` says
when), 2 if there is nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from benchmarks.pairs import SLOWER, THRESHOLD, Comparison, order
from benchmarks.problem import Problem
from benchmarks.table import aligned

ROOT = Path(__file__).resolve().parent.parent
SIZES = "8x16,8x100,512x50257"
PAIRS = 7
SECONDS = 600
"""How long one process may take."""

Times = dict[str, float | None]


class CannotCompareError(Exception):
    """Printed as one line, exit code 2."""


def unpacked(revision: str, folder: Path) -> Path:
    """The sources of a revision in a folder. From an archive: a worktree would outlive an interruption."""
    done = subprocess.run(["git", "archive", revision, "src"], cwd=ROOT, capture_output=True, check=False)
    if done.returncode != 0:
        raise CannotCompareError(done.stderr.decode(errors="replace").strip().splitlines()[0])
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        if hasattr(tarfile, "data_filter"):  # since 3.11.4; the archive is git's own
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    return folder / "src"


def times_of(source: Path, sizes: Sequence[str]) -> Times:
    """What a fresh process with these sources takes."""
    command = [sys.executable, "-m", "benchmarks.one_revision", str(source), *sizes]
    paths = [str(source), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}, capture_output=True, text=True,
        timeout=SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise CannotCompareError(f"{source} failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
    return json.loads(done.stdout)


def alternated(sources: dict[str, Path], sizes: Sequence[str], pairs: int) -> dict[str, list[Times]]:
    """The times of each revision, one for each pair."""
    found: dict[str, list[Times]] = {name: [] for name in sources}
    for done, name in enumerate(order(pairs), 1):
        found[name].append(times_of(sources[name], sizes))
        print(f"\r{done} of {2 * pairs} processes", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found


def comparisons(base: Sequence[Times], new: Sequence[Times]) -> dict[str, Comparison | None]:
    """Of each question that the new revision answers; None where the base does not."""
    found = {}
    for name in [name for name, value in new[0].items() if value is not None]:
        before, after = [times.get(name) for times in base], [times[name] for times in new]
        found[name] = None if None in before else Comparison.of(before, after)  # type: ignore[arg-type]
    return found


def lines(found: dict[str, Comparison | None], threshold: float) -> list[str]:
    """A row for each question: new and old time, the ratio of every pair, their median, the spread, the verdict."""
    pairs = next((len(one.ratios) for one in found.values() if one is not None), 0)
    rows = [("new / base", "µs", "µs", *(f"{i + 1}." for i in range(pairs)), "median", "spread", "slower", "")]
    for name, one in found.items():
        if one is None:
            rows.append((name, *[""] * (pairs + 5), "not in the base"))
        else:
            low, high = one.spread
            rows.append(
                (
                    name, *(f"{time:,.1f}" for time in reversed(one.microseconds)),
                    *(f"{ratio:.2f}" for ratio in one.ratios), f"{one.median:.2f}", f"{low:.2f} to {high:.2f}",
                    f"{one.slower} of {pairs}", one.verdict(threshold),
                )
            )  # fmt: skip
    return aligned(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("base", help="a revision of this repository")
    parser.add_argument("--sizes", default=SIZES, help="rows x vocabulary, separated by commas (%(default)s)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how often both are measured (%(default)s)")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="ratio that counts (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        sizes = [str(Problem.parse(size)) for size in given.sizes.split(",")]
    except ValueError as error:
        parser.error(str(error))
    if given.pairs < 1:
        parser.error("--pairs must be at least 1")

    try:
        with tempfile.TemporaryDirectory() as folder:
            sources = {"base": unpacked(given.base, Path(folder)), "new": ROOT / "src"}
            found = alternated(sources, sizes, given.pairs)
    except CannotCompareError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    judged = comparisons(found["base"], found["new"])
    print("\n".join(lines(judged, given.threshold)))
    return int(any(one is not None and one.verdict(given.threshold) == SLOWER for one in judged.values()))


if __name__ == "__main__":
    sys.exit(main())
