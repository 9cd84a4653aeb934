"""What this machine has: the backends, whether each can be used and why not, their devices and dtypes.

The one list of backends that `crossent info` prints and `crossent train --backend` accepts. A backend is imported only
when it is asked about, and a broken installation is a reason, never a traceback.
"""

from __future__ import annotations

import importlib
import platform
import shlex
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

import array_api_compat
import numpy as np

import crossent
from crossent.engines import select, threads
from crossent.engines.select import ENGINES
from crossent.types import Array, Namespace

DTYPES = ("float64", "float32", "float16", "bfloat16")


class UsageError(Exception):
    """Something the user gave or lacks; the command prints its one line and exits with code 2."""


@dataclass(frozen=True)
class Backend:
    """An array library on a device."""

    name: str
    library: str
    """What is imported to see whether it is here."""
    standard: str
    """The module that offers it as the array API standard has it."""
    package: str | None
    """What pip installs to have it; None for NumPy, which is always there."""
    device: str | None = None
    """What its `asarray` wants as device; None for the library's own choice."""
    trains: bool = True
    """Lazy libraries compute a loss, but a training loop would only ever grow their graph."""
    by_default: bool = True
    """Whether it is used without being named."""
    obstacle: Callable[[Any], str | None] = lambda library: None
    """Given the imported library, why it cannot be used on this machine; None if it can."""

    def import_library(self) -> Any:
        """The library itself; UsageError with the reason if there is no use in it here."""
        try:
            library = importlib.import_module(self.library)
        except ImportError as error:
            if error.name == self.library:
                raise UsageError(f"{self.name} is not installed{self._remedy()}") from error
            raise UsageError(f"{self.name} does not import: {_one_line(error)}") from error
        except Exception as error:  # a library built for another machine raises what it likes
            raise UsageError(f"{self.name} does not import: {_one_line(error)}") from error
        reason = self.obstacle(library)
        if reason is not None:
            raise UsageError(f"{self.name} cannot be used: {reason}")
        return library

    def _remedy(self) -> str:
        return "" if self.package is None else f" (pip install {shlex.quote(self.package)})"

    def problem(self) -> str | None:
        """Why it cannot be used on this machine; None if it can."""
        try:
            self.import_library()
        except UsageError as error:
            return str(error)
        return None

    def array(self, values: Any, dtype: Any = None) -> Array:
        """An array of this backend on its device, sharing no memory with `values`."""
        return self.namespace().asarray(values, dtype=dtype, device=self.device, copy=True)

    def namespace(self) -> Namespace:
        """The standard's functions for its arrays."""
        return importlib.import_module(self.standard)

    def version(self) -> str:
        """The installed version."""
        return str(self.import_library().__version__)

    def device_name(self) -> str:
        """Where its arrays lie, with the maker's name of a GPU."""
        device = array_api_compat.device(self.array([0.0]))
        name = str(getattr(device, "platform", device)).lower()
        if "cpu" in name:
            return "cpu"
        if self.name == "torch-cuda":
            return f"{name} ({self.import_library().cuda.get_device_name(device)})"
        if self.name == "cupy":
            properties = self.import_library().cuda.runtime.getDeviceProperties(device.id)
            return f"cuda:{device.id} ({properties['name'].decode()})"
        kind = getattr(device, "device_kind", name)
        return name if kind == name else f"{name} ({kind})"

    def dtypes(self) -> list[str]:
        """The floating dtypes that it can make an array of."""
        xp = self.namespace()
        return [name for name in DTYPES if self._makes(getattr(xp, name, getattr(np, name, None)), name)]

    def _makes(self, dtype: Any, name: str) -> bool:
        if dtype is None:
            return False
        with warnings.catch_warnings():
            # JAX warns, and gives float32, when it is asked for float64 without jax_enable_x64.
            warnings.simplefilter("ignore")
            try:
                made = self.array([0.0], dtype=dtype)
            except Exception:  # each library refuses in its own way
                return False
        return str(made.dtype).rpartition(".")[2] == name


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _no_cuda(torch: Any) -> str | None:
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _no_gpu(cupy: Any) -> str | None:
    return None if cupy.is_available() else "CuPy sees no CUDA device"


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("numpy", "numpy", "array_api_compat.numpy", None),
        Backend("torch", "torch", "array_api_compat.torch", "torch", device="cpu"),
        Backend("torch-cuda", "torch", "array_api_compat.torch", "torch", device="cuda", obstacle=_no_cuda),
        Backend("cupy", "cupy", "array_api_compat.cupy", "cupy-cuda12x", obstacle=_no_gpu),
        Backend("jax", "jax", "jax.numpy", "jax"),
        Backend("array-api-strict", "array_api_strict", "array_api_strict", "array-api-strict", by_default=False),
        Backend("dask", "dask", "array_api_compat.dask.array", "dask[array]", trains=False, by_default=False),
    )
}


def backends_for_training(names: Iterable[str] | None = None) -> list[Backend]:
    """The named backends, each once; without names, all that this machine can use."""
    if names is None:
        return [backend for backend in BACKENDS.values() if backend.by_default and backend.problem() is None]
    accepted = [backend.name for backend in BACKENDS.values() if backend.trains]
    chosen = []
    for name in dict.fromkeys(names):
        if name not in accepted:
            raise UsageError(f"unknown backend {name!r}; accepted: {', '.join(accepted)}")
        problem = BACKENDS[name].problem()
        if problem is not None:
            usable = [other for other in accepted if BACKENDS[other].problem() is None]
            raise UsageError(f"backend {problem}; usable here: {', '.join(usable)}")
        chosen.append(BACKENDS[name])
    return chosen


class BackendInfo(TypedDict):
    """A backend of this machine; one that cannot be used here has a reason, and nothing else but its name."""

    name: str
    version: str | None
    device: str | None
    dtypes: list[str]
    problem: str | None
    """Why it cannot be used here; None if it can."""


class EngineInfo(TypedDict):
    """A way to walk the logits."""

    name: str
    description: str
    problem: str | None
    """Why it cannot be used here; None if it can."""


class Versions(TypedDict):
    """What runs here."""

    version: str
    """That of crossent."""
    python: str
    system: str
    """The operating system and the processor's kind."""


class Info(Versions):
    """What `crossent info` says; `crossent info --json` prints it as one JSON object of these names."""

    threads: int
    """How many threads a large call uses."""
    backends: list[BackendInfo]
    engines: list[EngineInfo]


def _described(backend: Backend) -> BackendInfo:
    problem = backend.problem()
    if problem is not None:
        return {"name": backend.name, "version": None, "device": None, "dtypes": [], "problem": problem}
    return {
        "name": backend.name,
        "version": backend.version(),
        "device": backend.device_name(),
        "dtypes": backend.dtypes(),
        "problem": None,
    }


def info() -> Info:
    """The facts of this machine; UsageError where the environment asks for what there is not."""
    wrong = select.environment_problem()
    if wrong is not None:
        raise UsageError(wrong)
    problems = {"numba": select.numba_problem(), "cuda": select.cuda_problem()}
    return {
        **_versions(),
        "threads": threads.get_num_threads(),
        "backends": [_described(backend) for backend in BACKENDS.values()],
        "engines": [
            {"name": name, "description": description, "problem": problems.get(name)}
            for name, description in ENGINES.items()
        ],
    }


def versions() -> str:
    """One line: crossent, Python, the system."""
    return _line(_versions())


def _versions() -> Versions:
    return {
        "version": crossent.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _line(found: Versions) -> str:
    return f"crossent {found['version']}, Python {found['python']}, {found['system']}"


def report(found: Info) -> str:
    """The whole of `crossent info`, as plain text."""
    rows = [("backend", "version", "device", "dtypes")]
    missing = []
    for backend in found["backends"]:
        if backend["problem"] is None:
            rows.append((backend["name"], str(backend["version"]), str(backend["device"]), " ".join(backend["dtypes"])))
        else:
            missing.append(backend["problem"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    engines = [
        f"{engine['name']}: {engine['description']}" + (f"; not here: {engine['problem']}" if engine["problem"] else "")
        for engine in found["engines"]
    ]
    parts = [[_line(found), f"threads for large calls: {found['threads']}"], table]
    if missing:
        parts.append(["not here:", *(f"  {problem}" for problem in missing)])
    parts.append(["engines:", *(f"  {engine}" for engine in engines)])
    return "\n\n".join("\n".join(part) for part in parts)
