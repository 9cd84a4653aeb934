"""Which engine walks the logits of a call, and why: the fastest that can, or the one that was asked for.

The choice looks at what the logits are and at nothing that a row could notice (their number, their layout, what ran
before), so a row has the same bits in every call. CROSSENT_ENGINE names an engine that "auto" is to prefer wherever it
can serve.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any, Final, NamedTuple, cast

from crossent.engines import threads
from crossent.engines.base import Engine
from crossent.engines.compiling import making
from crossent.engines.environment import ENGINE, setting
from crossent.math.rows import EXPLICIT

ENGINES: Final[dict[str, str]] = {
    "numba": "NumPy, torch CPU and JAX CPU memory in one compiled pass, on all cores (extra: numba)",
    "cuda": "CuPy arrays, torch CUDA tensors and JAX GPU arrays in one compiled pass (extra: cuda12 or cuda13)",
    "array_api": "any array library; NumPy and torch CPU memory in blocks that fit the cache, on all cores",
}
_MODULES: Final = {"numba": "numba_cpu", "cuda": "cuda", "array_api": "array_api"}
PROGRAMS: Final = "programs"
"""The memory of logits that compiled programs have, which can call the kernels for host memory."""
CUDA_PROGRAMS: Final = "programs on CUDA"
"""The same of those for a CUDA device's memory."""
# What an engine that compiles walks: the kind of memory, that of programs, and its name.
_WALKS: Final = {
    "numba": ("host", PROGRAMS, "NumPy arrays and torch tensors in host memory, and JAX arrays of a CPU"),
    "cuda": ("cuda", CUDA_PROGRAMS, "CuPy arrays, torch tensors and JAX arrays on a CUDA device"),
}
# The engines that look at a target before they follow it: the row of one outside the vocabulary is NaN by itself.
ENGINE_CHECKS_RANGE: Final = frozenset(_WALKS)

# The engines that check targets, walk rows and add up losses in one step: see `numba_cpu/one_step.py`.
STRAIGHT: Final = frozenset(("numba",))


class Kind(NamedTuple):
    """What an engine knows of logits before it walks them: eager, lazy or traced; their memory and its number.

    refusal: of logits that programs have, why these cannot call the engine of such memory; None where they can.
    """

    state: str
    memory: str
    device: int
    dtype: str
    classes: int
    measure: str
    refusal: str | None = None


def obstacle(name: str, kind: Kind, described: str = "") -> str | None:
    """Why the engine of that name cannot walk such logits; None where it can. described: what they are, in words."""
    if name == "array_api":
        return None
    memory, programs, walks = _WALKS[name]
    is_called = kind.memory == programs
    if is_called and kind.refusal is not None:
        return kind.refusal
    if not is_called and (kind.state != "eager" or kind.memory != memory):
        return f"it walks eager {walks}, and logits are {described or kind.state}"
    if kind.measure == EXPLICIT:
        return "it has no clipped probabilities, which algorithm='explicit' asks for"
    if name == "numba" and (reason := numba_problem()) is not None:
        return reason
    return engine(name).obstacle(kind.dtype, kind.classes, kind.device)


@functools.cache
def numba_problem() -> str | None:
    """Why Numba cannot be used here; None where it can. It is imported by the first call that might need it."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed (pip install numba)"
    try:
        with making:
            return engine("numba").problem()
    except Exception as error:  # a Numba that was built for another NumPy raises what it likes
        return f"Numba does not import: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def problem(name: str) -> str | None:
    """Why the engine of that name cannot be used here, on the first device; None where it can."""
    return numba_problem() if name == "numba" else engine(name).problem()


def best(*kind: Any) -> str:
    """The name of the engine that "auto" stands for, given the fields of a `Kind`."""
    return _best(setting(ENGINE), threads.told(), *kind)


@functools.lru_cache(maxsize=1024)
def _best(preference: str | None, told: str | int | None, *kind: Any) -> str:
    threads.check(told)
    return next(name for name in _order(preference or "auto") if obstacle(name, Kind(*kind)) is None)


def asked_for(name: str, kind: Kind, described: str) -> str:
    """The engine of that name; ValueError where it cannot serve."""
    threads.check(threads.told())
    reason = obstacle(name, kind, described)
    if reason is None:
        return name
    others = [each for each in ENGINES if obstacle(each, kind) is None]
    accepted = ", ".join(map(repr, ("auto", *others)))
    raise ValueError(f"engine is {name!r}, which cannot serve this call: {reason}; accepted: {accepted}")


def compiled(memory: str, asked: str) -> str | None:
    """The compiled engine that will walk tensors in such memory once they have values; None for none.

    asked: the engine of the call.
    """
    threads.check(threads.told())
    name = next((each for each, (kind, *_) in _WALKS.items() if kind == memory), None)
    if name not in ENGINES:
        return None
    if asked == "auto":
        asked = next(each for each in _order(preferred()) if each in (name, "array_api"))
    if asked != name:
        return None
    return name if problem(name) is None else None


def preferred() -> str:
    """The engine that the environment prefers, or "auto"."""
    return setting(ENGINE) or "auto"


def _order(preference: str) -> tuple[str, ...]:
    """The engines in the order in which they are tried: the preferred one, then the fastest first."""
    if preference == "auto":
        return tuple(ENGINES)
    if preference not in ENGINES:
        raise ValueError(f"CROSSENT_ENGINE is {preference!r}; accepted: {', '.join(map(repr, ('auto', *ENGINES)))}")
    return (preference, *ENGINES)


@functools.cache
def engine(name: str) -> Engine:
    """The engine of that name."""
    with making:
        return cast(Engine, importlib.import_module(f"crossent.engines.{_MODULES[name]}"))


def environment_problem() -> str | None:
    """What is wrong with CROSSENT_ENGINE or CROSSENT_NUM_THREADS, which calls would say; or None."""
    try:
        _order(preferred())
        threads.get_num_threads()
    except ValueError as error:
        return str(error)
    return None


def explanation(what: str, kind: Kind, described: str, remark: str | None = None) -> str:
    """Which engine would walk such logits, and for each other one why not: a few lines for people."""
    chosen = best(*kind)
    lines = [f"{what}: engine {chosen!r}"]
    for name, description in ENGINES.items():
        reason = obstacle(name, kind, described)
        verdict = "chosen" if name == chosen else "can serve"
        lines.append(f"{name}: cannot serve: {reason}" if reason else f"{name}: {verdict}: {description}")
    if preferred() not in ("auto", chosen):
        lines.append(f"CROSSENT_ENGINE is {preferred()!r}, which cannot serve, so it is not followed")
    if remark is not None and chosen == "numba":
        lines.append(remark)
    if kind.memory == "host" and kind.state == "eager":
        lines.append(f"threads for large calls: {threads.get_num_threads()}")
    return "\n".join(lines)
