"""The same inputs to the same implementation on several backends: asking, and the answers as data.

    ask_all(under_test, backends, dtypes, names, results, listener)

adds to the results what every backend answered to every case in every dtype, bit for bit, so that runs on machines
that never meet can be compared (`compare`) long after (`file`). An answer is the loss and its gradient; or the error
that was raised instead; or what the implementation lacks for the question.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from crossent_conformance.adapter import Traits, UnderTest
from crossent_conformance.backends import Backend
from crossent_conformance.bad_calls import BAD_CALLS
from crossent_conformance.evidence import WrongTypeError
from crossent_conformance.implementation import DoesNotApply
from crossent_conformance.parity.cases import CASES, Problem
from crossent_conformance.places import Place
from crossent_conformance.refused import Bad

ERRORS = "errors"
"""The name of the cases that must be refused."""
NAMES = (*CASES, ERRORS)
PARTS = ("loss", "d_logits")
Refusal = tuple[str, str] | None
"""The type and text of an error; None where the call was accepted."""
Answer = dict[str, Any]
"""What came back: an `Array` for each of the PARTS; or {"raises": (type, text)}; or {"lacks": what}."""


@dataclass(frozen=True)
class Array:
    """A result as NumPy has it; `dtype` is the one it had, bfloat16 is kept as float32."""

    dtype: str
    values: np.ndarray


@dataclass(frozen=True)
class Asked:
    """One case in one dtype, the fingerprint of its inputs, and the answer of each backend."""

    case: str
    dtype: str
    inputs: str
    answers: dict[str, Answer]
    engines: dict[str, str] = field(default_factory=dict)
    """Of backends with values, which code they are of; two of the same words are of the same machine code."""


@dataclass
class Results:
    """A run."""

    subject: dict[str, Any]
    seed: int
    backends: dict[str, dict[str, Any]]
    not_covered: dict[str, str]
    machine: dict[str, Any]
    created: str
    command: str
    seconds: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    errors: dict[str, dict[str, Refusal]] = field(default_factory=dict)


def ask_all(
    under_test: UnderTest,
    backends: dict[str, tuple[Backend, Traits]],
    dtypes: Iterable[str],
    names: Sequence[str],
    results: Results,
    listener: Callable[[str], Any],
    engines: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Ask every backend every case of those names, in each of the dtypes that it and the implementation have.

    `engines` are those that backends are to have.
    """
    began = time.monotonic()
    for done, name in enumerate(names):
        listener(f"{done + 1}/{len(names)} {name}")
        if name == ERRORS:
            results.errors = _refusals(under_test, backends)
            continue
        for dtype in dtypes:
            problem = CASES[name].problem(dtype, results.seed)
            asked = Asked(name, dtype, problem.fingerprint, {})
            for key, (backend, traits) in backends.items():
                if dtype in traits.dtypes:
                    under_test.begin(traits, "V1")
                    options = {**problem.options, **({"engine": engines[key]} if key in engines else {})}
                    engine, answer = _ask(under_test, Place(backend, dtype, backend.modes[0]), problem, options)
                    asked.answers[key] = answer
                    if engine and "loss" in answer:
                        asked.engines[key] = engine
            results.asked.append(asked)
    results.seconds = time.monotonic() - began


def described(backend: Backend, traits: Traits) -> dict[str, Any]:
    """What the results tell of a backend."""
    return {
        "version": backend.version,
        "device": backend.device,
        "dtypes": list(traits.dtypes),
        "mode": backend.modes[0].value,
        "notes": list(traits.notes),
    }


def _ask(under_test: UnderTest, place: Place, problem: Problem, options: dict[str, Any]) -> tuple[str, Answer]:
    engine = ""
    try:
        with warnings.catch_warnings(), place.backend.context(place.mode):
            warnings.simplefilter("ignore")  # what a library warns of is not what is compared
            engine = place.call(under_test.engine, problem.logits, problem.targets, **options)
            try:
                result = place.call(under_test.loss_and_grad, problem.logits, problem.targets, **options)
            except DoesNotApply as missing:
                if not missing.gradient:
                    raise
                options.pop("grad_output", None)
                result = place.call(under_test.loss, problem.logits, problem.targets, **options)
            return engine, _read(place, result)
    except NotImplementedError as missing:
        return engine, {"lacks": str(missing) or "it raised NotImplementedError"}
    except Exception as error:  # whatever it raises is its answer
        return engine, {"raises": (type(error).__name__, str(error))}


def _read(place: Place, result: Any) -> Answer:
    found = {}
    for name, part in zip(PARTS, result if isinstance(result, tuple) else (result,), strict=False):
        if not place.backend.owns(part):
            kind = f"{type(part).__module__}.{type(part).__qualname__}"
            raise WrongTypeError(f"{kind} came back, not an array of {place.backend.name}")
        # A copy: what comes back may be a buffer that the next call writes to.
        found[name] = Array(place.backend.dtype_name(part), np.array(place.to_numpy(part)))
    return found


def _refusals(under_test: UnderTest, backends: dict[str, tuple[Backend, Traits]]) -> dict[str, dict[str, Refusal]]:
    """For each bad call, how each backend's arrays are refused; backends where it cannot be made are left out."""
    found: dict[str, dict[str, Refusal]] = {}
    for bad in BAD_CALLS:
        refusals: dict[str, Refusal] = {}
        for key, (backend, traits) in backends.items():
            if (bad.only and backend.name not in bad.only) or "float32" not in traits.dtypes:
                continue
            under_test.begin(traits, "A5")
            with contextlib.suppress(NotImplementedError):
                refusals[key] = _refusal(under_test, backend, bad)
        if any(refusals.values()):
            found[bad.name] = refusals
    return found


def _refusal(under_test: UnderTest, backend: Backend, bad: Bad) -> Refusal:
    def make(values: Any, dtype: str | None = None) -> Any:
        return backend.asarray(values, dtype or str(values.dtype))

    try:
        with warnings.catch_warnings(), backend.context(backend.modes[0]), backend.during_call():
            warnings.simplefilter("ignore")
            bad.call(under_test, make)
    except NotImplementedError:
        raise
    except Exception as error:
        return type(error).__name__, str(error)
    return None
