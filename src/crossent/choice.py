"""Which engine walks the logits of a call, and why: the fastest that can, or the one that was asked for.

The choice looks at what the logits are and at nothing that a row could notice (their number, their layout, what ran
before), so a row has the same bits in every call. CROSSENT_ENGINE names an engine that "auto" is to prefer wherever it
can serve.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from types import ModuleType

import numpy as np

from crossent import arrays, checks
from crossent.arrays import Array
from crossent.engines import ENGINES, threads
from crossent.objective import Coefficients


def obstacle(name: str, logits: Array, coefficients: Coefficients) -> str | None:
    """Why the engine of that name cannot walk these logits; None where it can."""
    if name == "array_api":
        return None
    if name == "numba":
        walks, there = "NumPy arrays and torch tensors in host memory", arrays.is_host_memory(logits)
    else:
        walks, there = "CuPy arrays and torch tensors on a CUDA device", arrays.is_cuda_memory(logits)
    if not (there and arrays.is_readable(logits)):
        return f"it walks eager {walks}, and logits {_kind(logits)}"
    if coefficients.floor:
        return "it has no clipped probabilities, which algorithm='explicit' asks for"
    if name == "numba":
        return numba_problem()
    problem: str | None = engine(name).obstacle(logits)
    return problem


@functools.cache
def numba_problem() -> str | None:
    """Why Numba cannot be used here; None where it can. It is imported by the first call that might need it."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed (pip install numba)"
    try:
        problem: str | None = engine("numba").problem()
    except Exception as error:  # a Numba that was built for another NumPy raises what it likes
        return f"Numba does not import: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return problem


def cuda_problem() -> str | None:
    """Why the first CUDA device cannot be used here; None where it can. It asks the driver."""
    problem: str | None = engine("cuda").problem()
    return problem


def chosen(asked: str, logits: Array, coefficients: Coefficients) -> str:
    """The name of the engine for a call that asked for "auto" or for an engine; ValueError where that cannot serve."""
    if asked == "auto":
        preferred = _preferred()
        if type(logits) is np.ndarray:
            return _chosen_in_host_memory(preferred, bool(coefficients.floor))
        return next(name for name in _order(preferred) if obstacle(name, logits, coefficients) is None)
    problem = obstacle(asked, logits, coefficients)
    if problem is not None:
        others = [name for name in ENGINES if obstacle(name, logits, coefficients) is None]
        accepted = ", ".join(map(repr, ("auto", *others)))
        raise ValueError(f"engine is {asked!r}, which cannot serve this call: {problem}; accepted: {accepted}")
    return asked


@functools.cache
def _chosen_in_host_memory(preferred: str, floor: bool) -> str:
    """The choice for NumPy arrays, which is made again and again."""
    coefficients, some = Coefficients(floor=float(floor)), np.empty((0, 1))
    return next(name for name in _order(preferred) if obstacle(name, some, coefficients) is None)


# The compiled engine for torch tensors on a type of device.
_OF_DEVICE = {"cpu": "numba", "cuda": "cuda"}


def compiled(device: str, asked: str) -> str | None:
    """The compiled engine that will walk torch tensors on a device of that type once they have values; None for none.

    asked: the engine of the call.
    """
    name = _OF_DEVICE.get(device)
    if name not in ENGINES:
        return None
    if asked == "auto":
        order = _order(_preferred())
        asked = next(each for each in order if each in (name, "array_api"))
    if asked != name:
        return None
    problem = numba_problem() if name == "numba" else engine(name).problem()
    return name if problem is None else None


def _preferred() -> str:
    """The engine that the environment prefers, or "auto"."""
    return os.environ.get("CROSSENT_ENGINE") or "auto"


def _order(preferred: str) -> tuple[str, ...]:
    """The engines in the order in which they are tried: the preferred one, then the fastest first."""
    if preferred == "auto":
        return tuple(ENGINES)
    if preferred not in ENGINES:
        raise ValueError(f"CROSSENT_ENGINE is {preferred!r}; accepted: {', '.join(map(repr, ('auto', *ENGINES)))}")
    return (preferred, *ENGINES)


@functools.cache
def engine(name: str) -> ModuleType:
    """The room of that engine: its `run` walks rows."""
    return importlib.import_module(f"crossent.engines.{'numba_cpu' if name == 'numba' else name}")


def environment_problem() -> str | None:
    """What is wrong with CROSSENT_ENGINE or CROSSENT_NUM_THREADS, which (large) calls would say; or None."""
    try:
        _order(_preferred())
        threads.get_num_threads()
    except ValueError as error:
        return str(error)
    return None


def explain(logits: Array, algorithm: str = "stable") -> str:
    """Say which engine would walk these logits, and for each other one why not.

    Parameters
    ----------
    logits
        The array (..., V) that a call would be given; its values are not looked at.
    algorithm
        That of the call: "stable" or "explicit".

    Returns
    -------
    str
        A few lines for people.

    Raises
    ------
    TypeError, ValueError
        Where a call would not take these logits or this algorithm.

    Examples
    --------
    >>> import numpy as np
    >>> print(explain(np.zeros((4, 10), dtype=np.float32), algorithm="explicit").splitlines()[1])
    numba: cannot serve: it has no clipped probabilities, which algorithm='explicit' asks for
    """
    shape, dtype = checks.logits_alone(logits)
    checks.choice("algorithm", algorithm, checks.ALGORITHMS)
    coefficients = Coefficients.of(label_smoothing=0.0, smoothing="others", z_loss=0.0, algorithm=algorithm)
    best = chosen("auto", logits, coefficients)
    lines = [f"{arrays.library(logits)} logits {shape} {dtype}, {_place(logits)}: engine {best!r}"]
    for name, description in ENGINES.items():
        problem = obstacle(name, logits, coefficients)
        verdict = (
            f"cannot serve: {problem}" if problem else f"{'chosen' if name == best else 'can serve'}: {description}"
        )
        lines.append(f"{name}: {verdict}")
    preferred = _preferred()
    if preferred not in ("auto", best):
        lines.append(f"CROSSENT_ENGINE is {preferred!r}, which cannot serve, so it is not followed")
    if arrays.is_host_memory(logits) and arrays.is_readable(logits):
        lines.append(f"threads for large calls: {threads.get_num_threads()}")
    return "\n".join(lines)


def _kind(logits: Array) -> str:
    if arrays.is_lazy(logits):
        return "are lazy"
    if not arrays.is_readable(logits):
        return "are traced"
    return f"are {arrays.library(logits)} arrays {_place(logits)}"


def _place(logits: Array) -> str:
    name = arrays.device_name(logits)
    return "in host memory" if name is None or arrays.is_host_memory(logits) else f"on device {name}"
