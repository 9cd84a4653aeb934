"""What a run has found, as data: cases, and the matrix of clause x backend x dtype that follows from them.

`Results.to_json()` is what `--json` writes and the reports read. NaN and infinities are the strings "nan", "inf" and
"-inf", which standard JSON lacks as numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance import contract, files, known, severity

FORMAT = "crossent-conformance/1"
HOLDS, FAILS, NOT = "holds", "fails", "does not apply"
KNOWN = "known"
"""The status of a cell in which nothing fails but what is known to."""
ENDS = ("hangs", "crashes", "not tried")
"""Kinds of failures that are one story."""
MOST_LOGITS = 64
"""A failing input of more logits than these is told by its shape alone."""


@dataclass
class Failure:
    """One failing case: what was given, what should have come, what came."""

    case: str
    kind: str
    message: str
    says: str = ""
    """What is wrong, in one line."""
    fault: str = ""
    """The key of the suspect that explains it (`suspects`); "" for none."""
    names: dict[str, str] = field(default_factory=dict)
    """By their keys, the words of all suspects that explain it."""
    severity: str = severity.WRONG
    tier: int = 1
    """Of `severity`: 0 is a wrong value on an ordinary input."""
    relative: float = 0.0
    """The relative error; inf for a NaN or an infinity in the wrong place."""
    shrunk: bool = False
    input: dict[str, Any] | None = None
    what: str | None = None
    expected: Any = None
    given: Any = None
    error: float | None = None

    @property
    def options(self) -> frozenset[str]:
        """The names of the options that say what is computed."""
        return frozenset((self.input or {}).get("options") or ()) - {"reduction"}

    @property
    def order(self) -> tuple[Any, ...]:
        """What is told first is smallest by this: the worst on the plainest input, of those the one of few logits."""
        size = math.inf if self.input is None else math.prod(self.input.get("shape") or (0,))
        options = 0 if self.input is None else len(self.input.get("options") or ())
        worst = -round(math.log10(min(max(self.relative, 1e-9), 1.0)))
        tried = self.kind == "not tried"
        grade = severity.GRADES.index(self.severity)
        return grade, tried, self.tier, not self.fault, worst, not self.shrunk, options, size


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
    known: str = ""
    """Why it may fail (`known`)."""

    @property
    def name(self) -> str:
        """Without its file."""
        return self.id.partition("::")[2]

    @property
    def grade(self) -> str:
        """How bad its failure is."""
        return self.failure.severity if self.failure else severity.WRONG

    @property
    def counts(self) -> bool:
        """Whether it fails, and may not."""
        return self.outcome == FAILS and not self.known


@dataclass
class Fault:
    """What is wrong with an implementation: the failures that are one story, the plainest of them told."""

    clause: str
    """The one that its failure is of."""
    case: Case
    clauses: list[str]
    places: list[tuple[str, str]]
    """Backends and dtypes."""
    count: int

    @property
    def failure(self) -> Failure:
        """The one that is told."""
        assert self.case.failure is not None
        return self.case.failure

    def to_json(self) -> dict[str, Any]:
        """The form that is written."""
        return {
            "clause": self.clause,
            "clauses": self.clauses,
            "places": self.places,
            "cases": self.count,
            "severity": self.failure.severity,
            "case": self.case.id,
            "failure": dataclasses.asdict(self.failure),
        }


@dataclass
class Standing:
    """What has become of an entry of what may fail: of its cases those that held, and those whose failure it covers."""

    entry: known.Entry
    state: str
    held: int
    failed: int


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
    may_fail: list[known.Entry] = field(default_factory=list)
    """What is known to fail, or allowed to."""
    planned: int = 0
    """How many cases there are to be."""

    def judge(self, case: Case) -> None:
        """Say why the case may fail, if it does and may; once more, if another failure is told of it."""
        case.known = known.reason(self.may_fail, case) if case.outcome == FAILS else ""

    def standing(self) -> list[Standing]:
        """What has become of each entry of `may_fail`."""
        whole = len(self.cases) >= self.planned
        found = []
        for entry in self.may_fail:
            of = [case for case in self.cases if case.outcome != NOT and entry.names(case)]
            failing = [case for case in of if case.outcome == FAILS]
            held = len(of) - len(failing)
            covered = sum(entry.covers(case) for case in failing)
            found.append(Standing(entry, entry.state(held, len(failing), whole), held, covered))
        return found

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
        return {status: statuses.count(status) for status in (HOLDS, FAILS, KNOWN, NOT)}

    def settle(self) -> None:
        """Of the suspects that explain a failure, it is the one that most others are, which may be no other."""
        failures = [case.failure for case in self.cases if case.failure is not None]
        count = Counter(name for failure in failures if len(failure.names) == 1 for name in failure.names)
        for failure in failures:
            if failure.names:
                failure.fault = max(failure.names, key=count.__getitem__)
                failure.says = failure.names[failure.fault]

    def faults(self) -> list[Fault]:
        """What is wrong, each once, the worst first: a suspect's wherever it shows, any other by its clause, unless the
        words are the same."""
        stories: dict[Any, list[Case]] = defaultdict(list)
        for case in self.cases:
            if case.counts and case.failure is not None:
                told = case.failure
                kind = "ends" if told.kind in ENDS else told.kind
                story = (told.fault,) if told.fault else (case.clause, kind, told.what or "", told.severity)
                stories[story].append(case)
        alike: dict[tuple[str, str], list[Case]] = defaultdict(list)
        for cases in itertools.chain.from_iterable(map(_apart, stories.values())):
            if (head := cases[0].failure) is not None:
                alike[head.says, head.severity] += cases
        order = list(contract.clauses())
        found = []
        for cases in alike.values():
            first = min(cases, key=_order)
            clauses = sorted({case.clause for case in cases}, key=order.index)
            places = dict.fromkeys((case.backend, case.dtype) for case in cases)
            found.append(Fault(first.clause, first, clauses, list(places), len(cases)))
        return sorted(found, key=lambda fault: (fault.failure.order[:5], order.index(fault.clause)))

    def failing(self, grade: str) -> list[str]:
        """The clauses whose worst failure is of that grade."""
        worst: dict[str, int] = {}
        for case in self.cases:
            if case.counts:
                at = severity.GRADES.index(case.grade)
                worst[case.clause] = min(worst.get(case.clause, at), at)
        return [clause for clause in contract.clauses() if worst.get(clause) == severity.GRADES.index(grade)]

    def said_of(self, clause: str, backend: str) -> str:
        """What has become of a clause's cases on a backend, in few words."""
        cases = [case for case in self.cases if (case.clause, case.backend) == (clause, backend)]
        failed = sum(case.counts for case in cases)
        of = {"hold": sum(case.outcome == HOLDS for case in cases), "fail": failed}
        of["known to fail"] = sum(case.outcome == FAILS for case in cases) - failed
        words = ", ".join(f"{number} {what}" for what, number in of.items() if number) or NOT
        return f"{words} ({sum(case.seconds for case in cases):.0f} s)"

    @property
    def fails(self) -> bool:
        """Whether anything fails that may not."""
        return any(case.counts for case in self.cases)

    @property
    def begins(self) -> list[known.Entry]:
        """The entries of known failures that hold."""
        return [each.entry for each in self.standing() if each.state == known.BEGINS]


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
    profile: str = ""
    allowed: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    quick: bool = False
    subjects: list[SubjectResult] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether anything fails that may not, or holds that is known to fail."""
        return any(subject.fails or subject.begins for subject in self.subjects)

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
                    "may_fail": [dataclasses.asdict(each) for each in subject.standing()],
                    "faults": [fault.to_json() for fault in subject.faults()],
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


def _apart(cases: list[Case]) -> Iterator[list[Case]]:
    """The cases of a story, the first to be told at the head; those apart that lack an option which that one needs."""
    left = sorted(cases, key=_order)
    while left:
        told = left[0].failure
        needs = told.options if told is not None and told.shrunk and not told.fault else frozenset()
        yield [case for case in left if case.failure is not None and needs <= case.failure.options]
        left = [case for case in left if case.failure is not None and not needs <= case.failure.options]


def _order(case: Case) -> tuple[Any, ...]:
    return case.failure.order if case.failure is not None else ()


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
    counted = [case for case in cases if case.counts]
    failures = [case.failure for case in (counted or cases) if case.failure is not None]
    worst = [case.worst for case in cases if case.worst is not None and case.outcome != NOT]
    first = min(failures, key=lambda failure: failure.order, default=None)
    why = [case.known for case in cases if case.outcome == FAILS and case.known]
    return {
        "clause": clause,
        "backend": backend,
        "dtype": dtype,
        "status": FAILS if counted else KNOWN if why else HOLDS if HOLDS in outcomes else NOT,
        "severity": None if first is None else first.severity,
        "held": outcomes.count(HOLDS),
        "failed": outcomes.count(FAILS),
        "known": len(why),
        "why": list(dict.fromkeys(why)),
        "not_applicable": outcomes.count(NOT),
        "worst": max(worst, default=None),
        "lacks": list(dict.fromkeys(case.message for case in cases if case.outcome == NOT)),
        "failure": None if first is None else dataclasses.asdict(first),
    }
