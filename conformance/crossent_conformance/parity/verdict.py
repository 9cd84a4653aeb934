"""What a run of `crossent parity` comes to: whether backends agree, and whether they still agree with an earlier run.

    verdict = judge(results, baseline, slack=2.0, names=..., dtypes=...)

Against a baseline four things are a regression: a difference over what the contract allows, between a backend now and
any backend then; a difference between two backends that grew by more than `slack` eps since; a case that the baseline
has a result for and this run has none, on a backend that both have; and a case whose inputs are not what they were,
for then nothing can be said. `names` and `dtypes` are what the user picked, if anything: the rest is not missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter

from crossent_conformance.parity.answers import ERRORS, PARTS, Asked, Refusal, Results
from crossent_conformance.parity.compare import Difference, against, among, problem_of

_PART = attrgetter("case", "dtype", "what")


@dataclass(frozen=True)
class Problem:
    """Why a run fails."""

    case: str
    dtype: str
    text: str
    regression: bool = False
    """Whether it is a baseline that says so."""


def _problem(of: Asked | Difference, text: str) -> Problem:
    return Problem(of.case, of.dtype, f"{of.case} {of.dtype}{text}")


@dataclass
class Verdict:
    """Everything that a report tells."""

    results: Results
    baseline: Results | None
    among: list[Difference]
    against: list[Difference] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def errors_compared(self) -> int:
        """How many refused calls could be compared."""
        before = self.baseline.errors if self.baseline is not None else {}
        return sum(len(refusals) > 1 or name in before for name, refusals in self.results.errors.items())

    @property
    def compared(self) -> bool:
        """Whether anything was."""
        return bool(self.among or self.against or self.errors_compared)

    @property
    def proves(self) -> bool:
        """Whether anything of it was between different code, of another version, or about errors alone."""
        return self.compared and bool(self.against or not self.among or any(not item.code for item in self.among))

    @property
    def cells(self) -> tuple[int, int]:
        """How many cases by dtype have values of two backends, and in how many of these different code answered."""
        places = {(item.case, item.dtype) for item in self.among}
        return len(places), len({(item.case, item.dtype) for item in self.among if not item.code})

    @property
    def same_code(self) -> dict[tuple[str, str], tuple[list[str], int, int]]:
        """The pairs that ran the same machine code: the engines, and in how many of how many cases by dtype."""
        found: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
        for item in self.among:
            found.setdefault(item.between, {})[item.case, item.dtype] = item.code
        same = {pair: [code for code in codes.values() if code] for pair, codes in found.items()}
        return {pair: (list(dict.fromkeys(of)), len(of), len(found[pair])) for pair, of in same.items() if of}

    @property
    def records(self) -> bool:
        """Whether these are answers without a comparison, for a later run to be compared with."""
        answers = [answer for asked in self.results.asked for answer in asked.answers.values()]
        found = bool(self.results.errors) or any("lacks" not in answer for answer in answers)
        return found and self.baseline is None and (len(self.results.backends) == 1 or bool(self.among))


def judge(
    results: Results,
    baseline: Results | None,
    slack: float,
    names: Collection[str] | None,
    dtypes: Collection[str] | None,
) -> Verdict:
    """What the run comes to, by itself or against a baseline."""
    verdict = Verdict(results, baseline, among(results))
    why = ": cannot be compared: this version of the suite has other inputs for it"
    verdict.problems += [_problem(asked, why) for asked in results.asked if problem_of(asked, results.seed) is None]
    verdict.problems += _worst(verdict.among, _PART)
    verdict.problems += [_differing(*item) for item in results.errors.items() if len(set(item[1].values())) > 1]
    if baseline is not None:
        verdict.against = against(results, baseline)
        verdict.problems += [
            replace(problem, regression=True) for problem in _regressions(verdict, baseline, slack, names, dtypes)
        ]
        verdict.notes = list(_notes(results, baseline))
    for (first, second), (engines, same, of) in verdict.same_code.items():
        walked = f"the same machine code ({', '.join(engines)}) walked the logits of {first} and {second}"
        verdict.notes.append(f"{walked} in {same} of {of} cells: that they agree there proves nothing of it")
    return verdict


def _regressions(
    verdict: Verdict, baseline: Results, slack: float, names: Collection[str] | None, dtypes: Collection[str] | None
) -> Iterator[Problem]:
    results = verdict.results
    yield from _worst(verdict.against, lambda item: (*_PART(item), item.between[0]))
    inputs = {(asked.case, asked.dtype): asked.inputs for asked in results.asked}
    then = [
        asked
        for asked in baseline.asked
        if (names is None or asked.case in names) and (dtypes is None or asked.dtype in dtypes)
    ]
    for asked in then:
        if inputs.get((asked.case, asked.dtype), asked.inputs) != asked.inputs:
            yield _problem(asked, ": cannot be compared: the baseline had other inputs")
    yield from _grown(verdict.among, among(baseline), slack)
    yield from _missing(results, then)
    if names is None or ERRORS in names:
        yield from _changed_refusals(results, baseline)


def _worst(differences: Iterable[Difference], key: Callable[[Difference], tuple[str, ...]]) -> list[Problem]:
    """Of the failing differences of one key, the largest: the others are the same story."""
    worst: dict[tuple[str, ...], Difference] = {}
    for item in differences:
        if item.fails and (key(item) not in worst or item.fraction > worst[key(item)].fraction):
            worst[key(item)] = item
    return [Problem(item.case, item.dtype, str(item)) for item in worst.values()]


def _grown(now: list[Difference], then: list[Difference], slack: float) -> Iterator[Problem]:
    before = {(*_PART(item), *sorted(item.between)): item.eps for item in then}
    for item in now:
        eps = before.get((*_PART(item), *sorted(item.between)), math.inf)
        if item.eps > eps + slack and not item.fails:
            both = f"{' and '.join(item.between)} differ by {item.eps:.3g} eps"
            yield _problem(item, f" {item.what}: {both}, in the baseline by {eps:.3g}: {item.text}")


def _missing(results: Results, asked_then: list[Asked]) -> Iterator[Problem]:
    """What the baseline has a result of, and this run of the same backend has not."""
    now = {(asked.case, asked.dtype): asked.answers for asked in results.asked}
    dtypes = {asked.dtype for asked in results.asked}
    for then in asked_then:
        for name, before in then.answers.items():
            if name not in results.backends:
                continue
            if then.dtype not in dtypes and then.dtype in results.backends[name]["dtypes"]:
                continue  # no other backend had it when these results were made: a note says so
            answer = now.get((then.case, then.dtype), {}).get(name, {})
            lost = [what for what in PARTS if what in before and what not in answer]
            if lost:
                why = "it was not given" if answer else "it was not asked"
                why = f"the subject lacks {answer['lacks']}" if "lacks" in answer else why
                why = f"it raises {': '.join(answer['raises'])}" if "raises" in answer else why
                yield _problem(then, f": {name} has no {' and no '.join(lost)} any more: {why}")


def _changed_refusals(results: Results, baseline: Results) -> Iterator[Problem]:
    for name, before in baseline.errors.items():
        now = results.errors.get(name, {})
        if not now and before.keys() & results.backends.keys():
            yield Problem(ERRORS, "", f"{ERRORS} {name}: refused in the baseline, not any more")
        elif len(set(now.values())) == 1 and not set(now.values()) <= set(before.values()):
            yield _differing(name, now | {f"{backend} of the baseline": refusal for backend, refusal in before.items()})


def _differing(name: str, refusals: dict[str, Refusal]) -> Problem:
    """Of a call that is not refused alike: which backends say what, those that say the same together."""
    said: dict[Refusal, list[str]] = {}
    for backend, refusal in refusals.items():
        said.setdefault(refusal, []).append(backend)
    words = (f"{', '.join(names)}: {': '.join(refusal or ('accepted',))}" for refusal, names in said.items())
    return Problem(ERRORS, "", f"{ERRORS} {name}: {'; '.join(words)}")


def _notes(results: Results, baseline: Results) -> Iterator[str]:
    if baseline.subject["name"] != results.subject["name"]:
        yield f"the baseline is of another subject, {baseline.subject['name']}"
    dtypes, cases = {asked.dtype for asked in results.asked}, {asked.case for asked in baseline.asked}
    left = dict.fromkeys(name for name in baseline.backends if name not in results.backends)
    left |= dict.fromkeys(asked.dtype for asked in baseline.asked if asked.dtype not in dtypes)
    new = dict.fromkeys(asked.case for asked in results.asked if asked.case not in cases)
    for what, names in (("in the baseline, not asked now", left), ("not in the baseline", new)):
        if names:
            yield f"{what}: {', '.join(names)}"
