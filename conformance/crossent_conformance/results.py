"""What a run has found, as data: cases, and the matrix of clause x backend x dtype that follows from them.

`Results.to_json()` is what `--json` writes and the reports read. NaN and infinities are the strings "nan", "inf" and
"-inf", which standard JSON lacks as numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance import contract, files

FORMAT = "crossent-conformance/1"
HOLDS, FAILS, NOT = "holds", "fails", "does not apply"
MOST_LOGITS = 64
"""A failing input of more logits than these is told by its shape alone."""


@dataclass
class Failure:
    """One failing case: what was given, what should have come, what came."""

    case: str
    kind: str
    message: str
    shrunk: bool = False
    input: dict[str, Any] | None = None
    what: str | None = None
    expected: Any = None
    given: Any = None
    error: float | None = None

    @property
    def size(self) -> tuple[bool, bool, float]:
        """What the smallest failing input is the smallest by: one that is known, with its result, of few logits."""
        if self.input is None:
            return True, self.kind == "not tried", math.inf
        return self.input.get("logits") is None, self.what is None, math.prod(self.input.get("shape") or (0,))


@dataclass
class Case:
    """One case of one clause in one cell of the matrix."""

    id: str
    clause: str
    backend: str
    dtype: str
    mode: str
    outcome: str
    kind: str | None = None
    seconds: float = 0.0
    worst: float | None = None
    message: str = ""
    last_call: str = ""
    """In one line, where the case did not come back from it."""
    failure: Failure | None = None


@dataclass
class SubjectResult:
    """What one implementation was asked and answered."""

    name: str
    spec: str
    version: str | None = None
    notes: list[str] = field(default_factory=list)
    backends: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_covered: dict[str, str] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)

    def cells(self) -> list[dict[str, Any]]:
        """The matrix: one entry a clause, backend and dtype, in the order of the contract."""
        groups: dict[tuple[str, str, str], list[Case]] = defaultdict(list)
        for case in self.cases:
            groups[case.clause, case.backend, case.dtype].append(case)
        clauses, backends = list(contract.clauses()), list(self.backends)

        def order(key: tuple[str, str, str]) -> tuple[int, int, int]:
            clause, backend, dtype = key
            return clauses.index(clause), backends.index(backend), self.backends[backend]["dtypes"].index(dtype)

        return [_cell(*key, groups[key]) for key in sorted(groups, key=order)]

    def counts(self) -> dict[str, int]:
        """How many cells hold, fail, do not apply."""
        statuses = [cell["status"] for cell in self.cells()]
        return {status: statuses.count(status) for status in (HOLDS, FAILS, NOT)}

    @property
    def fails(self) -> bool:
        """Whether anything fails."""
        return any(case.outcome == FAILS for case in self.cases)


@dataclass
class Results:
    """A run, complete or as far as it came."""

    command: str
    created: str
    seed: int
    thorough: bool
    clauses_asked: list[str] | None = None
    shards: int = 0
    seconds: float = 0.0
    complete: bool = False
    subjects: list[SubjectResult] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether anything fails."""
        return any(subject.fails for subject in self.subjects)

    @property
    def not_asked(self) -> list[str]:
        """The clauses that no case was of, because they ask for processes: nothing is known of them."""
        asked = self.clauses_asked is None or any(clause[:1] == contract.SHARDS for clause in self.clauses_asked)
        return [] if self.shards or not asked else [each for each in contract.clauses() if each[:1] == contract.SHARDS]

    def to_json(self) -> dict[str, Any]:
        """The form that is written."""
        document = {
            "format": FORMAT,
            **vars(self),
            "seconds": round(self.seconds, 1),
            "not_asked": self.not_asked,
            "machine": machine(),
            "contract": contract.clauses(),
            "subjects": [
                {
                    **vars(subject),
                    "cells": subject.cells(),
                    "cases": [
                        {key: value for key, value in vars(case).items() if key != "failure"} for case in subject.cases
                    ],
                }
                for subject in self.subjects
            ],
        }
        plain: dict[str, Any] = standard(document)
        return plain

    def write(self, path: Path) -> None:
        """Write the JSON; who reads meanwhile sees the old file or the new one, never half of it."""
        files.write(path, self.as_text().encode())

    def as_text(self) -> str:
        """The JSON."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"


def values_alone(described: dict[str, dict[str, Any]]) -> list[str]:
    """Of a subject's backends those on which there is no gradient to ask for: what holds there are the values."""
    return [name for name, backend in described.items() if not backend.get("gradient", True)]


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def standard(value: Any) -> Any:
    """The value in what standard JSON has."""
    if isinstance(value, dict):
        return {str(key): standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [standard(item) for item in value]
    if isinstance(value, np.ndarray):
        return standard(value.tolist())
    if isinstance(value, np.generic):
        return standard(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


def _cell(clause: str, backend: str, dtype: str, cases: list[Case]) -> dict[str, Any]:
    outcomes = [case.outcome for case in cases]
    failures = [case.failure for case in cases if case.failure is not None]
    worst = [case.worst for case in cases if case.worst is not None and case.outcome != NOT]
    smallest = min(failures, key=lambda failure: failure.size, default=None)
    return {
        "clause": clause,
        "backend": backend,
        "dtype": dtype,
        "status": FAILS if FAILS in outcomes else HOLDS if HOLDS in outcomes else NOT,
        "held": outcomes.count(HOLDS),
        "failed": outcomes.count(FAILS),
        "not_applicable": outcomes.count(NOT),
        "worst": max(worst, default=None),
        "lacks": list(dict.fromkeys(case.message for case in cases if case.outcome == NOT)),
        "failure": None if smallest is None else dataclasses.asdict(smallest),
    }
