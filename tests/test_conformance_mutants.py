"""The suite finds faults and invents none: every mutant is killed by its clause, the clean implementation by no clause.

`pytest tests/test_conformance_mutants.py -s` tells the test that killed each mutant, and what it said.
"""

from __future__ import annotations

from collections import deque

import pytest
from conformance.mutants import catalogue

from crossent_conformance import contract
from crossent_conformance.results import FAILS, HOLDS, NOT
from crossent_conformance.run import Run, Settings

CLEAN = "crossent_conformance.reference:subject"
BACKENDS = {"frameworks": ("torch", "array-api-strict", "jax")}
SEEN = ("disagrees", "not refused", "raises", "wrong type")
"""Kinds of failures that are about what came back; a mutant that hangs or crashes is killed by nothing."""


class _Trial(Run):
    """A run that asks every mutant about the clause that is expected to kill it, and no more than it takes."""

    def __init__(self, mutants: list[catalogue.Mutant], backends: tuple[str, ...]) -> None:
        self.clause_of = {mutant.spec: mutant.clause for mutant in mutants}
        clauses = tuple(sorted(set(self.clause_of.values())))
        shards = 4 if any(clause.startswith(contract.SHARDS) for clause in clauses) else 0
        settings = Settings(
            backends, clauses, first_failure=True, curves=False, shards=shards, workers=1, time_limit=120.0
        )
        super().__init__(list(self.clause_of), settings)

    def _plan(self) -> None:
        super()._plan()
        self._queue = deque(
            job for job in self._queue if job.case and job.case["clause"] == self.clause_of[job.subject.result.spec]
        )


@pytest.mark.extended
@pytest.mark.parametrize("file", catalogue.FILES)
def test_every_mutant_is_killed_by_its_clause(file):
    mutants = list(catalogue.mutants(file))
    results = _Trial(mutants, BACKENDS.get(file, ("numpy",))).execute()
    killed = {}
    for mutant, subject in zip(mutants, results.subjects, strict=True):
        case = next((case for case in subject.cases if case.outcome == FAILS), None)
        killed[mutant.name] = "no clause" if case is None else case.clause if case.kind in SEEN else case.kind
        if case is not None:
            said = " ".join(case.message.split())
            print(f"{mutant.name}: {mutant.fault}\n    {case.clause} {case.id.partition('::')[2]}: {said[:160]}")
    assert killed == {mutant.name: mutant.clause for mutant in mutants}


def test_every_clause_kills_a_mutant_and_every_mutant_has_a_fault():
    every = [mutant for file in catalogue.FILES for mutant in catalogue.mutants(file)]
    assert {mutant.clause for mutant in every} == set(contract.clauses())
    assert all(mutant.fault.endswith(".") for mutant in every)
    assert len(every) >= 40


@pytest.mark.extended
def test_the_clean_implementation_passes_all_that_applies():
    results = Run([CLEAN], Settings(("numpy",), curves=False, workers=1, time_limit=120.0)).execute()
    cases = results.subjects[0].cases
    assert [f"{case.id}: {case.message}" for case in cases if case.outcome == FAILS] == []
    assert {case.message for case in cases if case.outcome == NOT} == {
        "a number of threads",
        "a choice between fast and portable code",
    }
    on_numpy = {case.clause for case in cases if case.outcome == HOLDS}
    # Nothing waits for a device on NumPy, no graph goes through it, it has one device, and array-api-strict is another
    # library.
    assert set(contract.clauses()) - on_numpy <= {"A6", "A11", "A12", "A13", "D1", "D2", "P1", "P2", "P3", "P4"}


@pytest.mark.extended
def test_the_clean_implementation_of_shards_passes_all_that_applies():
    clauses = tuple(clause for clause in contract.clauses() if clause.startswith(contract.SHARDS))
    run = Run([f"{CLEAN.partition(':')[0]}.shards:subject"], Settings(("numpy",), clauses, shards=4, workers=1))
    cases = run.execute().subjects[0].cases
    assert [f"{case.id}: {case.message}" for case in cases if case.outcome == FAILS] == []
    assert {case.clause for case in cases if case.outcome == HOLDS} == set(clauses)
