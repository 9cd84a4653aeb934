"""What this machine has: the backends, whether each can be used and why not, their devices and dtypes.

The one list of backends that `crossent info` prints and `crossent train --backend` accepts. A backend is imported only
when it is asked about, and a broken installation is a reason, never a traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import platform
import shlex
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

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
    """Of the imported library, why it cannot be used on this machine; None if it can."""

    def problem(self) -> str | None:
        """Why it cannot be used on this machine; None if it can."""
        try:
            reason = self.obstacle(self._library())
        except Exception as error:  # a library built for another machine raises what it likes
            if isinstance(error, ImportError) and error.name == self.library:
                return f"{self.name} is not installed (pip install {shlex.quote(str(self.package))})"
            return f"{self.name} does not import: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        return None if reason is None else f"{self.name} cannot be used: {reason}"

    def _library(self) -> Any:
        return importlib.import_module(self.library)

    def array(self, values: Any, dtype: Any = None) -> Array:
        """An array of this backend on its device, sharing no memory with `values`."""
        return self.namespace().asarray(values, dtype=dtype, device=self.device, copy=True)

    def namespace(self) -> Namespace:
        """The standard's functions for its arrays."""
        return importlib.import_module(self.standard)

    def version(self) -> str:
        """The installed version."""
        return str(self._library().__version__)

    def device_name(self) -> str:
        """Where its arrays lie, with the maker's name of a GPU."""
        device = array_api_compat.device(self.array([0.0]))
        name = str(getattr(device, "platform", device)).lower()
        if "cpu" in name:
            return "cpu"
        if self.name == "torch-cuda":
            return f"{name} ({self._library().cuda.get_device_name(device)})"
        if self.name == "cupy":
            properties = self._library().cuda.runtime.getDeviceProperties(device.id)
            return f"cuda:{device.id} ({properties['name'].decode()})"
        kind = getattr(device, "device_kind", name)
        return name if kind == name else f"{name} ({kind})"

    def dtypes(self) -> list[str]:
        """The floating dtypes that it can make an array of."""
        xp, made = self.namespace(), []
        for name in DTYPES:
            # JAX warns, and gives float32, when it is asked for float64 without jax_enable_x64. A library refuses what
            # it does not have in its own way.
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore")
                of_library = getattr(xp, name, None) or getattr(np, name)
                made.append(str(self.array([0.0], dtype=of_library).dtype).rpartition(".")[2])
        return [name for name in DTYPES if name in made]


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("numpy", "numpy", "array_api_compat.numpy", None),
        Backend("torch", "torch", "array_api_compat.torch", "torch", device="cpu"),
        Backend(
            "torch-cuda", "torch", "array_api_compat.torch", "torch", device="cuda",
            obstacle=lambda torch: None if torch.cuda.is_available() else "torch sees no CUDA device",
        ),
        Backend(
            "cupy", "cupy", "array_api_compat.cupy", "cupy-cuda12x",
            obstacle=lambda cupy: None if cupy.is_available() else "CuPy sees no CUDA device",
        ),
        Backend("jax", "jax", "jax.numpy", "jax"),
        Backend("array-api-strict", "array_api_strict", "array_api_strict", "array-api-strict", by_default=False),
        Backend("dask", "dask", "array_api_compat.dask.array", "dask[array]", trains=False, by_default=False),
    )
}  # fmt: skip


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


def info() -> dict[str, Any]:
    """What `crossent info` says; `crossent info --json` prints it as one JSON object. UsageError where it cannot.

    It has `version` (of crossent), `python`, `system` (with the processor's kind), `threads` (of a large call),
    `backends` and `engines`. A backend has `name`, `version`, `device`, `dtypes` and `problem`, an engine `name`,
    `description`, `problem`: why it cannot be used here, or None, and `not_for`: of backends that are here and that it
    could walk, why it cannot, by their names. Of a backend with a problem, the rest is empty.
    """
    wrong = select.environment_problem()
    if wrong is not None:
        raise UsageError(wrong)
    backends = []
    for backend in BACKENDS.values():
        problem = backend.problem()
        version, device, dtypes = None, None, []
        if problem is None:
            version, device, dtypes = backend.version(), backend.device_name(), backend.dtypes()
        backends.append(
            {"name": backend.name, "version": version, "device": device, "dtypes": dtypes, "problem": problem}
        )
    return {
        "version": crossent.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads.get_num_threads(),
        "backends": backends,
        "engines": [
            {"name": name, "description": description, "problem": select.problem(name), "not_for": _not_for(name)}
            for name, description in ENGINES.items()
        ],
    }


def _not_for(engine: str) -> dict[str, str]:
    if engine != "numba" or select.problem(engine) is not None:
        return {}
    if "jax" not in BACKENDS or BACKENDS["jax"].problem() is not None:
        return {}
    from crossent.libraries import jax_ffi

    problem = jax_ffi.problem()
    return {} if problem is None else {"jax": problem}


def versions() -> str:
    """One line: crossent, Python, the system."""
    system = f"{platform.system()} {platform.machine()}"
    return f"crossent {crossent.__version__}, Python {platform.python_version()}, {system}"


def printable(text: str) -> str:
    """The text, where what could steer a terminal, or stands in no file, is as Python writes it in a string."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else repr(c)[1:-1] for c in text)


def report(found: dict[str, Any]) -> str:
    """The whole of `crossent info`, as plain text."""
    here = [one for one in found["backends"] if one["problem"] is None]
    rows = [("backend", "version", "device", "dtypes")]
    rows += [(one["name"], one["version"], one["device"], " ".join(one["dtypes"])) for one in here]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    parts = [
        [versions(), f"threads for large calls: {found['threads']}"],
        ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows],
    ]
    missing = [f"  {one['problem']}" for one in found["backends"] if one["problem"] is not None]
    if missing:
        parts.append(["not here:", *missing])
    engines = ["engines:"]
    for one in found["engines"]:
        problem = f"; not here: {one['problem']}" if one["problem"] else ""
        engines.append(f"  {one['name']}: {one['description']}{problem}")
        engines += [f"    not for {name}: {reason}" for name, reason in one["not_for"].items()]
    parts.append(engines)
    return printable("\n\n".join("\n".join(part) for part in parts))
