"""The record of a run on a GPU: one JSON file that is whole after every part, and the table that ends the run.

python -m benchmarks.evidence backends [--cpu]                    the backends to run on, one a line
python -m benchmarks.evidence begin FILE --commit C [--cpu] B...  machine, versions, date, commit; or the record that is
                                                                  there, if it is of the same
python -m benchmarks.evidence part FILE NAME --status N ...       add a part and what it wrote
python -m benchmarks.evidence table FILE                          print everything; exit code 1 if a part failed
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import gpu, gpu_checks, gpu_sanitizer, host
from benchmarks.table import aligned
from crossent.info import BACKENDS, versions

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "numpy", "array-api-compat", "cupy", "cupy-cuda12x", "cupy-cuda13x", "torch", "triton", "jax", "jaxlib",
    "jax-cuda12-plugin", "jax-cuda13-plugin", "cuda-core", "cuda-bindings", "nvidia-cuda-nvrtc",
    "nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime", "liger-kernel", "quack-kernels", "numba", "pytest", "hypothesis",
    "mpmath",
)  # fmt: skip
SOURCES = (".py", ".cu", ".cuh", ".h", ".hpp", ".cpp")
SAME = ("commit", "source_sha256", "dry_run_on_cpu", "gpus", "versions")
"""What a record is of: parts of two that differ in one of these do not belong together."""
TIMED_OUT = 124
NAMED_FAILURES = 50


def usable_backends(*, cpu: bool) -> list[str]:
    """The backends whose arrays lie on a GPU here; for a run without one, NumPy."""
    if cpu:
        return ["numpy"]
    candidates = [name for name in ("cupy", "torch-cuda", "jax") if BACKENDS[name].problem() is None]
    return [name for name in candidates if BACKENDS[name].device_name() != "cpu"]


def gpus() -> list[dict[str, str]]:
    """What the driver says of the GPUs."""
    if shutil.which("nvidia-smi") is None:
        return []
    keys = ("name", "driver_version", "memory.total", "compute_cap")
    command = ["nvidia-smi", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    rows = done.stdout.strip().splitlines() if done.returncode == 0 else []
    return [dict(zip(keys, (cell.strip() for cell in row.split(",")), strict=False)) for row in rows]


def digest_of_sources() -> str:
    """SHA-256 over the sources of `crossent`, for trees that come without their history."""
    digest = hashlib.sha256()
    for path in sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in SOURCES):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def begin(commit: str, backends: Sequence[str], *, cpu: bool) -> dict[str, Any]:
    """The record before the first part."""
    return {
        "crossent": versions(),
        "commit": commit,
        "source_sha256": digest_of_sources(),
        "date": _now(),
        "dry_run_on_cpu": cpu,
        "gpus": gpus(),
        "processor": host.processor(),
        "cores": os.cpu_count(),
        "versions": host.package_versions(PACKAGES),
        "backends": {name: BACKENDS[name].device_name() for name in backends},
        "parts": [],
    }


def without_places(value: Any, places: Sequence[str]) -> Any:
    """The same without the folders of one machine, which a published record has no use for."""
    if isinstance(value, dict):
        return {key: without_places(one, places) for key, one in value.items()}
    if isinstance(value, list):
        return [without_places(one, places) for one in value]
    if isinstance(value, str):
        for place in places:
            value = value.replace(f"{place}/", "")
    return value


def differences(record: dict[str, Any], fresh: dict[str, Any]) -> list[str]:
    """Why a record cannot take what is run now: what it is of, and what is here."""
    return [
        f"{key} is {was!r} in the record and {now!r} here"
        for key in SAME
        for was, now in [(_kind(record.get(key)), _kind(fresh[key]))]
        if was != now
    ]


def _kind(value: Any) -> Any:
    """GPUs without their driver, which every part names: machines of one kind may differ in it."""
    if not isinstance(value, list):
        return value
    return [{key: one[key] for key in one if key != "driver_version"} for one in value]


def _driver() -> str:
    return ", ".join(sorted({one["driver_version"] for one in gpus()}))


def result_of(path: Path) -> Any:
    """What a part wrote: JSON as it is, JUnit XML as counts and failures; None if it wrote nothing that can be read."""
    try:
        if path.suffix == ".xml":
            return _tests(ElementTree.parse(path).getroot())
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def _tests(root: ElementTree.Element) -> dict[str, Any]:
    suites = list(root.iter("testsuite"))
    counts = {
        key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    }
    failed = []
    for case in root.iter("testcase"):
        for verdict in (*case.findall("failure"), *case.findall("error")):
            message = " ".join(verdict.get("message", "").split())[:300]
            failed.append({"test": f"{case.get('classname')}::{case.get('name')}", "message": message})
    return counts | {"failed": failed[:NAMED_FAILURES]}


def lines(record: dict[str, Any]) -> list[str]:
    """The record for people."""
    gpu_names = "; ".join(", ".join(one.values()) for one in record["gpus"]) or "no GPU"
    text = [
        f"{record['date']}  {record['crossent']}, commit {record['commit']}",
        f"{gpu_names}; {record['processor']}, {record['cores']} cores",
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "",
    ]
    rows = [("part", "verdict", "seconds", "what")]
    rows += [(one["name"], verdict(one), f"{one['seconds']}", what(one["result"])) for one in record["parts"]]
    text += aligned(rows)
    for part in record["parts"]:
        result = part["result"]
        if result and "figures" in result:
            text += ["", *gpu.lines(result["figures"]), *gpu.failures(result["figures"])]
        elif result and "checks" in result:
            text += ["", *gpu_checks.lines(result)]
        elif result and "sanitizer" in result:
            text += ["", *gpu_sanitizer.lines(result)]
        elif result and "failed" in result:
            text += [f"  {one['test']}: {one['message']}" for one in result["failed"]]
    return text


def verdict(part: dict[str, Any]) -> str:
    """How a part ended."""
    if part["status"] == TIMED_OUT:
        return f"stopped at {part['limit']} s" if part["limit"] else "not reached"
    if part["status"]:
        return f"failed ({part['status']})"
    asked = _asked(part["result"])
    return "not here" if asked and all(one["verdict"] == gpu_checks.NOT_HERE for one in asked) else "passed"


def _asked(result: Any) -> list[dict[str, Any]]:
    """The single verdicts of a part that is made of such."""
    return (result or {}).get("checks") or (result or {}).get("sanitizer") or []


def what(result: Any) -> str:
    """A part's result in a few words."""
    if not result:
        return "no result"
    if asked := _asked(result):
        verdicts = [one["verdict"] for one in asked]
        kinds = (gpu_checks.PASSED, gpu_checks.FAILED, gpu_checks.NOT_HERE)
        return ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)
    if "figures" in result:
        measured = sum("ms" in one for one in result["figures"])
        return f"{measured} of {len(result['figures'])} figures"
    if "tests" in result:
        return ", ".join(f"{result[key]} {key}" for key in ("tests", "failures", "errors", "skipped"))
    if "backends" in result:
        return "; ".join(
            f"{one['backend']} {one['first_loss']:.3f} to {one['last_loss']:.3f}" for one in result["backends"]
        )
    return ""


def _save(file: Path, record: dict[str, Any]) -> None:
    """In one step, so that an interruption leaves the record before it."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    fresh.replace(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence")
    commands = parser.add_subparsers(dest="command", required=True)
    named = commands.add_parser("backends")
    named.add_argument("--cpu", action="store_true")
    first = commands.add_parser("begin")
    first.add_argument("file", type=Path)
    first.add_argument("backends", nargs="+")
    first.add_argument("--commit", required=True)
    first.add_argument("--cpu", action="store_true")
    part = commands.add_parser("part")
    part.add_argument("file", type=Path)
    part.add_argument("name")
    part.add_argument("--status", type=int, required=True)
    part.add_argument("--seconds", type=int, required=True)
    part.add_argument("--limit", type=int, required=True)
    part.add_argument("--command-line", required=True)
    part.add_argument("--result", type=Path, required=True)
    commands.add_parser("table").add_argument("file", type=Path)
    given = parser.parse_args(arguments)

    if given.command == "backends":
        print("\n".join(usable_backends(cpu=given.cpu)))
        return 0
    if given.command == "begin":
        fresh = begin(given.commit, given.backends, cpu=given.cpu)
        if given.file.exists():
            different = differences(json.loads(given.file.read_text(encoding="utf-8")), fresh)
            if different:
                print(f"{given.file} is of another run: {'; '.join(different)}", file=sys.stderr)
            return int(bool(different))
        _save(given.file, fresh)
        return 0
    record = json.loads(given.file.read_text(encoding="utf-8"))
    if given.command == "part":
        result = result_of(given.result)
        # A part that wrote nothing has not passed, whatever it returned.
        status = given.status or int(result is None)
        # Asked for again, a part stands for itself alone.
        record["parts"] = [one for one in record["parts"] if one["name"] != given.name]
        # From the innermost: where parts write, where the record is, the tree, the interpreter, its packages.
        places = [*map(str, (given.result.parent, given.file.parent, ROOT, Path(sys.executable).parent)), sys.prefix]
        part = {
            "name": given.name, "date": _now(), "driver": _driver(), "command": given.command_line.strip(),
            "status": status, "seconds": given.seconds, "limit": given.limit, "result": result,
        }  # fmt: skip
        record["parts"].append(without_places(part, places))
        _save(given.file, record)
        return status
    print("\n".join(lines(record)))
    return int(any(one["status"] for one in record["parts"]))


if __name__ == "__main__":
    sys.exit(main())
