"""What a report shows besides the table: the largest difference with its input, and which code answered where.

worst(verdict)          {"case", "dtype", "what", "between", "eps", "fraction", "text", "input"}, or None
engines(results)        {"numpy": {"numba": ["plain", ...]}}: by backend and engine, the cases
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from crossent_conformance import evidence, witness
from crossent_conformance.parity.answers import Results
from crossent_conformance.parity.cases import CASES
from crossent_conformance.parity.compare import Difference
from crossent_conformance.parity.verdict import Verdict


def worst(verdict: Verdict) -> dict[str, Any] | None:
    """The difference that is the most of what is allowed, or else the most eps; None where no value differs."""
    found = max((*verdict.among, *verdict.against), key=_size, default=None)
    if found is None or not found.eps:
        return None
    told = ("case", "dtype", "what", "between", "eps", "fraction", "text")
    return {**{name: getattr(found, name) for name in told}, "input": _input(found, verdict.results)}


def _size(item: Difference) -> tuple[bool, float]:
    return item.fails, item.fraction if item.fails else item.eps


def _input(item: Difference, results: Results) -> dict[str, Any]:
    """The tokens that the entry is of, as `witness` tells an input."""
    problem = CASES[item.case].problem(item.dtype, results.seed)
    tokens = problem.logits.shape[:-1]
    at = (item.at or ())[: len(tokens)]
    options = dict(problem.options)
    if "weights" in options:
        options["weights"] = np.broadcast_to(options["weights"], tokens)[at]
    if "grad_output" in options:
        options["grad_output"] = options["grad_output"][at[: np.ndim(options["grad_output"])]]
    targets = problem.targets[at]
    targets = _short(targets, item.dtype) if targets.dtype.kind == "f" else targets
    call = evidence.Call(_short(problem.logits[at], item.dtype), targets, options, item.dtype)
    modes = dict.fromkeys(results.backends[name]["mode"] for name in item.between if name in results.backends)
    return witness.described(call, options, item.dtype, " and ".join(modes))


def _short(values: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers of fewest digits that are these ones in the dtype."""
    if dtype == "float64":
        return values
    kind = np.float16 if dtype == "float16" else np.float32
    return np.array([float(str(value)) for value in values.astype(kind).ravel()]).reshape(values.shape)


def engines(results: Results) -> dict[str, dict[str, list[str]]]:
    """Of each backend whose engine is known; the one of the most cases first."""
    found: dict[str, dict[str, list[str]]] = {}
    for asked in results.asked:
        for backend, engine in asked.engines.items():
            cases = found.setdefault(backend, {}).setdefault(engine, [])
            if asked.case not in cases:
                cases.append(asked.case)
    return {name: dict(sorted(of.items(), key=lambda item: -len(item[1]))) for name, of in found.items()}


def engines_in_words(results: Results) -> Iterable[str]:
    """A line a backend."""
    for backend, of in engines(results).items():
        first, *others = of
        rest = "".join(f"; {engine} in {', '.join(of[engine])}" for engine in others)
        yield f"{backend}: {first}{rest}"
