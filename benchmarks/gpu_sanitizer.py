"""compute-sanitizer over `gpu_variants`: accesses outside an allocation, races in shared memory, misused barriers.

`python -m benchmarks.gpu_sanitizer FILE --backend torch-cuda --backend cupy` rewrites FILE after every run. memcheck
runs on every backend, racecheck and synccheck on the first: the kernels are the same. An overrun planted on purpose,
where CuPy can compile one, must be reported, or the tool's silence means nothing. A tool that is not installed, or that
refuses the device, is "not here"; exit code 1 if a run reported errors, did not end, or missed what was planted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_checks import FAILED, NOT_HERE, PASSED
from benchmarks.table import aligned

PROGRAM = "compute-sanitizer"
FOUND = 99
"""The exit code of a run that reported errors."""
REFUSALS = ("Device not supported", "Unable to find a suitable device", "unsupported device")
LIMIT = 150.0
"""Seconds that one run may take."""


def runs(backends: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Tool, backend, and whether an error is planted; the most telling first."""
    chosen = [("memcheck", "cupy", True)] if "cupy" in backends else []
    chosen += [(tool, backends[0], False) for tool in ("memcheck", "racecheck", "synccheck")]
    return chosen + [("memcheck", backend, False) for backend in backends[1:]]


def verdict_of(status: int | None, output: str, *, planted: bool) -> tuple[str, str]:
    """How a run ended, and what it said; status None: it did not end in time."""
    if any(refusal in output for refusal in REFUSALS):
        return NOT_HERE, _telling(output, REFUSALS)
    if status is None:
        return FAILED, "did not end in the time allowed"
    summary = re.search(r"(?:ERROR SUMMARY|RACECHECK SUMMARY): .*", output)
    said = summary.group(0) if summary else _telling(output, ("Error", "error"))
    if planted:
        seen = status == FOUND and "Invalid __global__ write" in output
        return (PASSED, f"the planted overrun was reported; {said}") if seen else (FAILED, f"not reported: {said}")
    if status == 0 and summary is None:
        return FAILED, f"no summary: {said}"
    return (PASSED if status == 0 else FAILED), said if status in (0, FOUND) else f"exit code {status}: {said}"


def _telling(output: str, words: Sequence[str]) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if any(word in line for word in words)] or lines[-1:] or ["no output"]
    return told[0][:300]


def run(tool: str, backend: str, *, planted: bool, small: bool, limit: float) -> dict[str, Any]:
    """One run of the program."""
    command = [PROGRAM, "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "20"]
    command += [sys.executable, "-m", "benchmarks.gpu_variants", "--backend", backend]
    command += ["--small"] * small + ["--plant"] * planted
    start = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit, check=False
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, output = None, (late.stdout or b"").decode(errors="replace")
    print(f"== {' '.join(command)}\n{output}", flush=True)
    verdict, text = verdict_of(status, output, planted=planted)
    name = f"{tool}, {backend}" + (", planted" if planted else "")
    return {"name": name, "verdict": verdict, "text": text, "seconds": round(time.monotonic() - start, 1)}


def lines(result: dict[str, Any]) -> list[str]:
    """A table: a row for each run."""
    rows = [(one["name"], one["verdict"], f"{one['seconds']:.0f} s", one["text"]) for one in result["sanitizer"]]
    return aligned([(PROGRAM, "verdict", "time", "what it said"), *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every tool, save, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_sanitizer", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON to write")
    parser.add_argument("--backend", action="append", required=True)
    parser.add_argument("--small", action="store_true", help="short rows alone")
    parser.add_argument("--seconds", type=float, default=280.0, help="start nothing new after this time")
    given = parser.parse_args(arguments)

    result: dict[str, Any] = {"sanitizer": []}

    def add(one: dict[str, Any]) -> None:
        result["sanitizer"].append(one)
        given.file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    deadline = time.monotonic() + given.seconds
    for tool, backend, planted in runs(given.backend):
        left = deadline - time.monotonic()
        if shutil.which(PROGRAM) is None:
            name = f"{tool}, {backend}" + (", planted" if planted else "")
            add({"name": name, "verdict": NOT_HERE, "text": f"{PROGRAM} is not on PATH", "seconds": 0.0})
        elif left <= 0:
            add({"name": f"{tool}, {backend}", "verdict": FAILED, "text": "not reached in time", "seconds": 0.0})
        else:
            add(run(tool, backend, planted=planted, small=given.small, limit=min(LIMIT, left)))
    print("\n".join(lines(result)))
    return int(any(one["verdict"] == FAILED for one in result["sanitizer"]))


if __name__ == "__main__":
    sys.exit(main())
