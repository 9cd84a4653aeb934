"""Everything that only a GPU can show, in parts, without a network: the one script to call on a lent machine.

`python3 tests/gpu/run.py [OUTPUT]` asks what the log in OUTPUT does not answer yet, in at most ten minutes, and
installs nothing; called again with the same folder it goes on where it was cut off, up to the test. OUTPUT (else $OUT,
else gpu-evidence in the repository) gets evidence.jsonl and run.log. Exit code 0: all is answered and passed; 1:
something failed, or is left for another call; 2: it cannot start; 3: no CUDA backend is here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "src", ROOT / "conformance", ROOT)
sys.path[:0] = [str(path) for path in SOURCES if str(path) not in sys.path]
NEEDED = ("numpy", "array_api_compat", "hypothesis", "mpmath", "pytest", "pytest_timeout", "pytest_benchmark")
SAME = ("commit", "source_sha256", "dry_run_on_cpu", "gpus", "versions")
"""What a log is of: answers of two that differ in one of these do not belong together."""
PACKAGES = (
    "numpy", "array-api-compat", "cupy-cuda12x", "cupy-cuda13x", "torch", "triton", "jax", "jaxlib", "cuda-bindings",
    "nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12", "liger-kernel", "quack-kernels", "apex", "pytest", "hypothesis",
)  # fmt: skip
# What warns of a later version is not that machine's to decide; every other warning stays an error.
PYTEST = (
    "-q", "-p", "tests.gpu.run", "-p", "no:cacheprovider", "--timeout=100", "--timeout-method=thread",
    "-W", "default::DeprecationWarning", "-W", "default::PendingDeprecationWarning", "-W", "default::FutureWarning",
)  # fmt: skip
ASKED = "CROSSENT_ASKED"
"""Names a file with the log and the tests that it answers, for pytest, whose plugin this module is."""
COMPILE = "compile"
"""The part whose answer is in the caches alone, which last as long as a call."""
GRACE = 10


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Deselect what is answered."""
    answered = set(json.loads(Path(os.environ[ASKED]).read_text(encoding="utf-8"))["answered"])
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in answered])
    items[:] = [item for item in items if item.nodeid not in answered]


def pytest_configure(config: Any) -> None:
    """Where the results arrive, they are written: not in the workers of xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Results(Path(os.environ[ASKED])))


class _Results:
    """Into the log as they come; what has begun goes into the file of what is asked, which pytest's end removes."""

    def __init__(self, asked: Path) -> None:
        self.asked = asked
        self.told = json.loads(asked.read_text(encoding="utf-8"))

    def pytest_runtest_logreport(self, report: Any) -> None:
        from tests.gpu import log as logs

        begun = self.told["begun"]
        if report.when == "setup" and report.passed:
            begun.append(report.nodeid)
        elif report.when != "teardown" or not report.passed:
            begun[:] = [name for name in begun if name != report.nodeid]
            seen = {name: value for name, value in report.user_properties if name == "measurement"}
            words = [str(value) for name, value in report.user_properties if name == "seen"]
            logs.append(Path(self.told["log"]), {
                "test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2),
                "text": "" if report.passed else logs.said(report.longrepr),
                "seen": seen | ({"seen": "; ".join(words)} if words else {}),
            })  # fmt: skip
        self.asked.write_text(json.dumps(self.told), encoding="utf-8")

    def pytest_collectreport(self, report: Any) -> None:
        from tests.gpu import log as logs

        if report.failed:
            logs.append(Path(self.told["log"]), logs.failure(report.nodeid, logs.said(report.longrepr)))

    def pytest_sessionfinish(self) -> None:
        self.asked.unlink()


def parts(backends: Sequence[str], *, dry: bool) -> dict[str, list[str]]:
    """The arguments of pytest for each part, the most telling first."""
    # One worker, which may crash or hang and is replaced; or many, as most of the suite's time is the oracle's.
    alone = ["-n", "1"] if importlib.util.find_spec("xdist") else []
    many = ["-n", str(min(8, (os.cpu_count() or 1) // 2 + 1))] if alone and not dry else alone
    narrow = ["-k", "test_R1_shapes and eager"] if dry else []
    found = {
        COMPILE: ["tests/gpu/test_machine.py", "-k", "compiles"],
        "checks": ["tests/gpu/test_values.py", "tests/gpu/test_queue.py", *alone],
    }
    for backend in backends:
        if backend != "jax":
            found[f"conformance-{backend}"] = ["conformance", "--backend", backend, *many, *narrow]
    found["benchmarks"] = ["benchmarks", "--benchmark-only", "-k", "gpu"]
    if dry:  # the engine that is here
        acted = ["-k", "gpu-gradient and cupy and array_api", "--sizes", "64x300", "-p", "tests.gpu.acted"]
        found["benchmarks"] = ["benchmarks", "--benchmark-only", *acted]
    found["machine"] = ["tests/gpu/test_machine.py", "-k", "not compiles", *alone]
    if "jax" in backends:  # last, because compiling every cell of the matrix takes longest
        found["jax"] = ["tests/gpu/test_jax.py", *alone]
        found["conformance-jax"] = ["conformance", "--backend", "jax", *many]
    return found


def facts(backends: Sequence[str], *, dry: bool) -> dict[str, Any]:
    """What is run, and on what."""
    from benchmarks import host

    digest = hashlib.sha256()
    for path in sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in (".py", ".cuh")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "crossent": host.subject(), "commit": os.environ.get("CROSSENT_COMMIT") or _commit(),
        "source_sha256": digest.hexdigest(), "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "dry_run_on_cpu": dry, "gpus": _nvidia_smi("name,memory.total,compute_cap"),
        "driver": ", ".join(sorted(set(_nvidia_smi("driver_version")))), "processor": host.processor(),
        "cores": os.cpu_count(), "versions": host.package_versions(PACKAGES), "backends": list(backends),
    }  # fmt: skip


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str:
    commit = _output("git", "rev-parse", "HEAD")
    if commit is None:
        return "unknown"
    return f"{commit}-dirty" if _output("git", "--no-optional-locks", "status", "--porcelain") else commit


def _nvidia_smi(keys: str) -> list[str]:
    return (_output("nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader") or "").splitlines()


def environment(scratch: Path, *, dry: bool) -> dict[str, str]:
    """Compilers and libraries keep their caches in the scratch folder, not in the home folder or the repository."""
    names = ("CROSSENT_CACHE_DIR", "CUDA_CACHE_PATH", "CUPY_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    names += ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "HYPOTHESIS_STORAGE_DIRECTORY", "XDG_CACHE_HOME")
    found = os.environ | {name: str(scratch / name.lower()) for name in names}
    found["PYTHONPATH"] = os.pathsep.join([*map(str, SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])])
    # JAX would take three quarters of the memory that the other libraries need.
    found |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    found["PATH"] += f"{os.pathsep}/usr/local/cuda/bin"  # where CUDA's installer puts compute-sanitizer
    if dry:
        found |= {"CROSSENT_ACTED_GPU": "1", "CROSSENT_ENGINE": "array_api", "OMP_NUM_THREADS": "1"}
    return found


def ask(name: str, arguments: Sequence[str], log: Path, scratch: Path, deadline: float, dry: bool) -> None:
    """Run a part, again where it ended before its end, as long as that brings answers and there is time."""
    from tests.gpu import log as logs

    asked = scratch / "asked.json"
    while True:
        answered = sorted(logs.read(log)[1][name].tests)
        asked.write_text(json.dumps({"log": str(log), "answered": answered, "begun": []}), encoding="utf-8")
        began = time.monotonic()
        with log.with_name("run.log").open("a", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *PYTEST, *arguments], cwd=ROOT, stdout=output, stderr=output,
                env=environment(scratch, dry=dry) | {ASKED: str(asked)}, start_new_session=True,
            )  # fmt: skip
            try:
                status, cut = process.wait(max(1.0, deadline - time.monotonic())), False
            except subprocess.TimeoutExpired:
                status, cut = _stopped(process), True
        # What ends the process by force, a time limit among it, leaves the file. A test that began and did not come
        # back has failed, unless time cut it.
        ended = not (cut or asked.exists())
        if not (ended or cut):
            begun = json.loads(asked.read_text(encoding="utf-8"))["begun"]
            logs.append(log, *(logs.failure(test, "it did not come back") for test in begun))
            if len(logs.read(log)[1][name].tests) == len(answered):
                logs.append(log, logs.failure(name, f"pytest ended with {status}"))
                ended = True
        seconds = round(time.monotonic() - began, 1)
        logs.append(log, {"end": name, "status": status, "seconds": seconds, "cut": not ended})
        if ended or cut or deadline - time.monotonic() < GRACE:
            return


def _stopped(process: subprocess.Popen[bytes]) -> int:
    """Interrupted, so that pytest still writes what it has; killed with all that it started where that is of no use."""
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask what is not answered yet."""
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__, usage="tests/gpu/run.py [options] [OUTPUT]")
    parser.add_argument("output", nargs="?", type=Path)
    parser.add_argument("--only", metavar="PART,...", help="these parts alone, anew")
    parser.add_argument("--seconds", type=int, default=570, help="for all of this call (%(default)s)")
    parser.add_argument("--cpu-dry-run", action="store_true", help="tiny sizes on NumPy, to see that this works")
    given = parser.parse_args(arguments)
    deadline, dry = time.monotonic() + given.seconds - 2 * GRACE, given.cpu_dry_run
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"run.py: missing {', '.join(missing)}; carry them as wheels and name their folder in PYTHONPATH")
        return 2
    from tests.gpu import log as logs
    from tests.gpu import subject

    backends = ["numpy"] if dry else subject.usable()
    # In a process of its own: JAX would keep what it takes of the device.
    if not dry and _output(sys.executable, "-c", "import jax; print(jax.devices()[0].platform)") not in (None, "cpu"):
        backends.append("jax")
    if not backends:
        print(f"run.py: no CUDA backend here: {subject.obstacles()}")
        return 3
    asked = parts(backends, dry=dry)
    wanted = [name for name in asked if given.only is None or name in given.only.split(",")]
    if not wanted or (given.only and len(wanted) < len(given.only.split(","))):
        print(f"run.py: no part is called so; there are {', '.join(asked)}")
        return 2

    log = (given.output or Path(os.environ.get("OUT") or ROOT / "gpu-evidence")).resolve() / "evidence.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    here = facts(backends, dry=dry)
    runs, known = logs.read(log)
    different = [key for key in SAME if runs and runs[0][key] != here[key]]
    if different:
        told = "; ".join(f"{key} is {runs[0][key]!r} there and {here[key]!r} here" for key in different)
        print(f"run.py: {log.name} is of another run: {told}")
        return 2
    logs.append(log, {"run": here})
    anew = given.only is not None
    left = [name for name in wanted if anew or name not in known or not known[name].ended]
    with tempfile.TemporaryDirectory() as scratch:
        for name in dict.fromkeys([COMPILE, *left]) if left else ():
            if deadline - time.monotonic() > GRACE:
                shown = shlex.join(["pytest", *asked[name]])
                print(f"== {name}: {shown}", flush=True)
                logs.append(log, {"begin": name, "command": shown, "anew": anew or name == COMPILE})
                ask(name, asked[name], log, Path(scratch), deadline, dry)

    known = logs.read(log)[1]
    for name in asked:
        part = known.get(name, logs.Part(""))
        print(f"{name:24} {part.verdict:12} {part.seconds:6.0f} s  {part.counts}")
        for test in part.failed:
            print(f"    {test}: {part.tests[test]['text']}")
    left = [name for name in asked if name not in known or not known[name].ended]
    if left:
        print(f"left for another call into the same folder: {', '.join(left)}")
    return int(bool(left) or any(part.failed for part in known.values()))


if __name__ == "__main__":
    sys.exit(main())
