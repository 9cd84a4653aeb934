"""The suite finds faults and invents none: every mutant is killed by its clause, the clean implementation by no clause.

`pytest tests/test_conformance_mutants.py -s` tells the test that killed each mutant, and what it said.
"""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

import pytest
from conformance.mutants import catalogue

from crossent_conformance import contract, severity, table
from crossent_conformance.results import FAILS, HOLDS, NOT
from crossent_conformance.run import Run, Settings

CLEAN = "crossent_conformance.reference:subject"
PLANTED = f"{Path(__file__).parent / 'subjects' / 'small.py'}:planted"
BACKENDS = {"frameworks": ("torch", "array-api-strict", "jax")}
SEEN = ("disagrees", "not refused", "raises", "wrong type")
"""Kinds of failures that are about what came back; a mutant that hangs or crashes is killed by nothing."""

TOLD = {
    "gradients": {
        "MeanNotDivided": "6 times as much",
        "GradOutputIgnored": "the gradient does not look at grad_output",
        "GradOutputAlongTheWrongAxis": "takes grad_output along another axis",
        "ClassWeightsOnlyInTheGradient": "the loss does not look at class_weights",
        "SmoothingNotInTheGradient": "the gradient does not look at label_smoothing",
        "ClippedTermsHaveAGradient": "the gradient does not clip probabilities",
        "GradientInSinglePrecision": "the dtypes? of .*gradient: .*float32.*; accepted: .*float16",
    },
    "reductions": {
        "IgnoredTokensDivide": "the mean divides by ., the number of all tokens|is divided by 0 where no token counts",
        "WeightsDoNotDivide": "the mean divides by .*, the number of the tokens that count, not by",
        "DividesByOneAtLeast": "the mean divides by 1 where its denominator is smaller",
        "NothingCountedIsNaN": "is divided by 0 where no token counts",
        "EmptyMeanIsNaN": "loss is nan; accepted: 0",
        "SumByDefault": "the mean divides by 1: it is the sum",
        "PythonFloat": "float came back, not an array of numpy",
        "HalfLoss": "the dtypes? of .*loss.*: .*float16.*; accepted: .*float32",
        "PerplexityRaises": "OverflowError",
        "PerplexityToTheBaseTwo": "perplexity: .* are not what exp of the loss is",
        "MeanOverTheBatch": "the result has shape",
    },
    "options": {
        "ConventionsSwapped": "smooths by the other convention",
        "MinusInfinityShares": "classes at -inf are among those that share in label_smoothing",
        "MinusInfinityDivides": "label_smoothing is divided by all . classes, those at -inf too",
        "SmoothedTermsNotWeighted": "multiplies the target's term alone by its class weight",
        "ZLossNotWeighted": "z_loss without the weights",
        "ZLossOfIgnoredTokens": "given nan .*those that are ignored",
    },
    "precision": {
        "LogOfOnePlus": "loss.* is 0, and should be .*target is ahead by",
        "LogSumExpLessLogit": "loss.* is 0, and should be .*target is ahead by",
        "EpsilonInTheLog": "loss.* is -.*; accepted: at least 0",
        "SinglePrecision": "float32",
        "RunningSum": "running sum of the tokens",
        "RunningWeights": "running sum of the weights",
    },
    "linear": {
        "ZeroColumnsInTheSum": "zeros more in the sum of exponentials",
        "LogitsOfHalfPrecision": "logits rounded to float16",
    },
    "targets": {
        "MinusHundredIsAlwaysIgnored": r"the target -100 at \[2\] is accepted",
        "RowsSumToOne": "the gradient is p - q, as if soft targets summed to 1",
    },
    "tokens": {
        "DirectionsSwapped": "kl_divergence is that of the other direction, 'reverse'",
        "TemperatureOfTheStudentAlone": "does not divide the teacher's logits by the temperature",
        "TheMeanOverTheMixture": "the shares of teacher and student the other way round",
    },
    "transforms": {
        "TemperatureAfterSoftcap": "the softcap before the temperature",
        "SlopeForgotten": "the gradient misses the slope of the softcap",
        "TemperatureForgotten": "the gradient misses the factor of the temperature",
    },
    "walk": {
        "TailOfTheVocabularyDropped": "leaves classes from 128 on out of the sum",
    },
}
"""Mutants, and what the report says of them first."""


def _untold(file: str) -> list[catalogue.Mutant]:
    """The file's mutants but those of which it is asked what their clause tells first."""
    return [mutant for mutant in catalogue.mutants(file) if mutant.name not in TOLD.get(file, {})]


class _Trial(Run):
    """A run that asks every mutant about the clause that is expected to kill it, and no more than it takes."""

    first_failure = True

    def __init__(self, mutants: list[catalogue.Mutant], backends: tuple[str, ...]) -> None:
        self.clause_of = {mutant.spec: mutant.clause for mutant in mutants}
        clauses = tuple(sorted(set(self.clause_of.values())))
        shards = 4 if any(clause.startswith(contract.SHARDS) for clause in clauses) else 0
        settings = Settings(
            backends,
            clauses,
            first_failure=self.first_failure,
            curves=False,
            shards=shards,
            workers=1,
            time_limit=600.0,
        )
        super().__init__(list(self.clause_of), settings)

    def _plan(self) -> None:
        super()._plan()
        self._queue = deque(
            job for job in self._queue if job.case and job.case["clause"] == self.clause_of[job.subject.result.spec]
        )


@pytest.mark.extended
@pytest.mark.parametrize("file", [file for file in catalogue.FILES if _untold(file)])
def test_every_mutant_is_killed_by_its_clause(file):
    mutants = _untold(file)
    results = _Trial(mutants, BACKENDS.get(file, ("numpy",))).execute()
    killed = {}
    for mutant, subject in zip(mutants, results.subjects, strict=True):
        case = next((case for case in subject.cases if case.outcome == FAILS), None)
        killed[mutant.name] = "no clause" if case is None else case.clause if case.kind in SEEN else case.kind
        if case is not None:
            said = " ".join(case.message.split())
            print(f"{mutant.name}: {mutant.fault}\n    {case.clause} {case.id.partition('::')[2]}: {said[:160]}")
    assert killed == {mutant.name: mutant.clause for mutant in mutants}


class _Told(_Trial):
    """A run that asks as much as it takes to tell what is wrong: all cases of the clause, in one dtype."""

    first_failure = False

    def _plan(self) -> None:
        super()._plan()
        several = {"A1", "R4"}  # of what half precision and float32 have
        kept = [job for job in self._queue if job.case and job.case["clause"] in several]
        self._queue = deque(kept + [job for job in self._queue if job not in kept and job.case["dtype"] == "float64"])


@pytest.mark.extended
@pytest.mark.parametrize("file", TOLD)
def test_what_is_told_first_names_the_fault(file):
    mutants = [mutant for mutant in catalogue.mutants(file) if mutant.name in TOLD[file]]
    results = _Told(mutants, ("numpy",)).execute()
    said = {
        mutant.name: subject.faults()[0].failure.says for mutant, subject in zip(mutants, results.subjects, strict=True)
    }
    assert said.keys() == TOLD[file].keys()
    assert {name: words for name, words in said.items() if not re.search(TOLD[file][name], words)} == {}


def test_forty_mutants_are_told():
    assert sum(map(len, TOLD.values())) >= 40


@pytest.mark.extended
def test_two_planted_bugs_are_the_first_two_things_printed():
    """Smoothing is divided by V rounded up to a multiple of 4, and the mean counts padding."""
    results = Run([PLANTED], Settings(("numpy",), curves=False)).execute()
    printed = table.text(results)
    numbered = re.findall(r"^  \d+\. (.*)$", printed, re.MULTILINE)
    assert re.search("label_smoothing is shared out .* as if among 4 classes, not [23]", numbered[0])
    assert "the mean divides by 2, the number of all tokens, not by 1, the number of the tokens" in numbered[1]
    [subject] = results.subjects
    assert {"V8", "R2"} <= set(subject.failing(severity.WRONG))
    assert {"V3", "S5"} <= set(subject.failing(severity.EXTREME))
    assert "WRONG" in printed
    assert "np.False_" not in printed


def test_every_clause_kills_a_mutant_and_every_mutant_has_a_fault():
    every = [mutant for file in catalogue.FILES for mutant in catalogue.mutants(file)]
    assert {mutant.clause for mutant in every} == set(contract.clauses())
    assert all(mutant.fault.endswith(".") for mutant in every)
    assert len(every) >= 40


@pytest.mark.extended
def test_the_clean_implementation_passes_all_that_applies():
    results = Run([CLEAN], Settings(("numpy",), curves=False, workers=1, time_limit=600.0)).execute()
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
