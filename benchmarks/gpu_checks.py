"""What holds on a GPU beyond the conformance suite, each check with a verdict and a sentence of what was seen.

`python -m benchmarks.gpu_checks FILE --backend torch-cuda` runs the checks of `gpu_values` and `gpu_queue` in a process
of their own, which a check may take down or hang: that check has then failed, and the others go on in a fresh process.
FILE is rewritten after every check. What cannot be asked of a library or on this machine is "not here", never "passed".
Exit code 1 if a check failed. On a CPU backend, what needs a GPU is "not here".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_queue, gpu_values
from benchmarks.gpu_library import LIBRARIES, NotHereError
from benchmarks.gpu_subject import Subject
from benchmarks.table import aligned

PASSED, FAILED, NOT_HERE = "passed", "failed", "not here"
LIMIT = 100.0
"""Seconds that one check may take, the first one's imports and compilations included."""

Check = Callable[[Subject], str]
CHECKS: dict[str, Check] = {check.__name__: check for check in (*gpu_values.CHECKS, *gpu_queue.CHECKS)}


def verdict_of(check: Check, subject: Subject) -> tuple[str, str]:
    """How a check ended, and its sentence."""
    try:
        return PASSED, check(subject)
    except NotHereError as missing:
        return NOT_HERE, str(missing)
    except Exception as error:  # whatever a library raises is the answer
        return FAILED, " ".join(f"{type(error).__name__}: {error}".split())[:600]


def work(subject: Subject, names: Sequence[str], progress: Path) -> None:
    """Run the checks, telling of each before and after; stop where the device answers no more."""
    with progress.open("a", encoding="utf-8") as file:

        def tell(**what: Any) -> None:
            file.write(json.dumps(what) + "\n")
            file.flush()

        for name in names:
            tell(begun=name)
            start = time.monotonic()
            verdict, text = verdict_of(CHECKS[name], subject)
            tell(name=name, verdict=verdict, text=text, seconds=round(time.monotonic() - start, 2))
            if verdict == FAILED:
                # An illegal address leaves the process's device unusable: a fresh process does the rest.
                subject.library.synchronize()
            subject.library.release()


def supervise(command: Sequence[str], names: Sequence[str], limit: float = LIMIT) -> Iterator[dict[str, Any]]:
    """The results of all checks, from as many processes as it takes; `command` is given the checks and a file."""
    remaining = list(names)
    with tempfile.TemporaryDirectory() as folder:
        for attempt in range(len(names)):
            if not remaining:
                return
            progress = Path(folder) / f"{attempt}.jsonl"
            progress.touch()
            process = subprocess.Popen([*command, "--progress", str(progress), *remaining])
            try:
                lost = yield from _followed(process, progress, remaining, limit)
            finally:
                process.kill()
                process.wait()
            if lost is not None:
                remaining.remove(lost["name"])
                yield lost


def _followed(
    process: subprocess.Popen[bytes], progress: Path, remaining: list[str], limit: float
) -> Generator[dict[str, Any], None, dict[str, Any] | None]:
    """The results of one process, taken off what remains; returns that of the check that it did not come back from."""
    told, begun, last = 0, None, time.monotonic()
    while True:
        ended = process.poll()
        text = progress.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        for one in map(json.loads, lines[told:]):
            begun, last = one.get("begun"), time.monotonic()
            if begun is None:
                remaining.remove(one["name"])
                yield one
        told = len(lines)
        waited = time.monotonic() - last
        if ended is not None or waited > limit:
            break
        time.sleep(0.05)
    if not remaining or (told and begun is None):
        return None
    ending = f"no answer in {limit:g} s" if ended is None else f"the process ended with {ended}"
    return {"name": begun or remaining[0], "verdict": FAILED, "text": ending, "seconds": round(waited, 2)}


def lines(result: dict[str, Any]) -> list[str]:
    """A table: a row for each check."""
    rows = [(one["name"], one["verdict"], f"{one['seconds']:.1f} s") for one in result["checks"]]
    heads = aligned([(f"{result['backend']}, engine {result['engine']}", "verdict", "time"), *rows])
    texts = ["", *(one["text"] for one in result["checks"])]
    return [f"{head}  {text}".rstrip() for head, text in zip(heads, texts, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks in processes, save, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_checks", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="the JSON to write")
    parser.add_argument("--backend", required=True, choices=list(LIBRARIES))
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that the checks themselves work")
    parser.add_argument("--seconds", type=float, default=180.0, help="start nothing new after this time")
    parser.add_argument("--check", action="append", choices=list(CHECKS), help="only this one (repeatable)")
    parser.add_argument("--progress", nargs="+", metavar="FILE CHECK", help="be the process that runs these checks")
    given = parser.parse_args(arguments)

    subject = Subject.of(LIBRARIES[given.backend](), small=given.small)
    if given.progress:
        file, *names = given.progress
        work(subject, names, Path(file))
        return 0
    if given.file is None:
        parser.error("the file to write is missing")

    command = [sys.executable, "-m", "benchmarks.gpu_checks", "--backend", given.backend]
    if given.small:
        command.append("--small")
    names = given.check or list(CHECKS)
    result: dict[str, Any] = {
        "backend": given.backend, "device": subject.library.device(), "engine": subject.engine, "checks": [],
    }  # fmt: skip

    def add(**one: Any) -> None:
        what = (CHECKS[one["name"]].__doc__ or "").partition("\n")[0]
        result["checks"].append(one | {"what": what})
        given.file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    deadline = time.monotonic() + given.seconds
    for one in supervise(command, names):
        add(**one)
        if time.monotonic() > deadline:
            break
    done = {one["name"] for one in result["checks"]}
    for name in names:
        if name not in done:
            add(name=name, verdict=FAILED, text="not reached in the time allowed", seconds=0.0)
    print("\n".join(lines(result)))
    return int(any(one["verdict"] == FAILED for one in result["checks"]))


if __name__ == "__main__":
    sys.exit(main())
