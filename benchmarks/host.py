"""What the figures were measured on: processor, versions, date, and which libraries are missing."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import crossent
from benchmarks.contenders import COMPILER, NUMBA, PEERS, problem_with
from crossent.engines import threads
from crossent_conformance.backends import BACKENDS

_PACKAGES = ("numpy", "numba", "torch", "jax", "dask", "optax", "scipy")


def processor() -> str:
    """The maker's name of the processor, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def subject() -> str:
    """What was measured, on which Python and system."""
    system = f"{platform.system()} {platform.machine()}"
    return f"crossent {crossent.__version__}, Python {platform.python_version()}, {system}"


def package_versions(names: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """The versions of those of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def facts() -> dict[str, Any]:
    """What a run is kept with."""
    wanted = dict.fromkeys((*(name for name in BACKENDS if name != "array-api-strict"), *PEERS, NUMBA, COMPILER))
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads.get_num_threads(),
        "crossent": subject(),
        "packages": package_versions(),
        "missing": [problem for name in wanted if (problem := problem_with(name)) is not None],
    }


def lines(of: dict[str, Any]) -> list[str]:
    """The head of every table, from what `facts` gave."""
    return [
        f"{of['date']}, {of['processor']}, {of['cores']} cores, {of['threads']} threads; {of['crossent']}",
        ", ".join(f"{name} {version}" for name, version in of["packages"].items()),
        *(["not here: " + "; ".join(of["missing"])] if of["missing"] else []),
    ]
