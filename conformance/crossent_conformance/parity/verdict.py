"""What a run of `crossent parity` comes to: whether backends agree, and whether they still agree with an earlier run.

    verdict = judge(results, baseline, slack=2.0, names=..., dtypes=...)

Against a baseline four things are a regression: a difference over what the contract allows, between a backend now and
any backend then; a difference between two backends that grew by more than `slack` eps since; a case that the baseline
has a result for and this run has none, on a backend that both have; and a case whose inputs are not what they were,
for then nothing can be said. `names` and `dtypes` are what the user picked, if anything: the rest is not missed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from operator import attrgetter

from crossent_conformance.parity.answers import ERRORS, Answer, Asked, Refusal, Results
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
    def records(self) -> bool:
        """Whether these are answers of one backend alone, for a later run to be compared with."""
        answers = [answer for asked in self.results.asked for answer in asked.answers.values()]
        found = bool(self.results.errors) or any(answer.values or answer.error for answer in answers)
        return found and self.baseline is None and len(self.results.backends) == 1


def judge(
    results: Results,
    baseline: Results | None = None,
    slack: float = 2.0,
    names: Collection[str] | None = None,
    dtypes: Collection[str] | None = None,
) -> Verdict:
    """The verdict on a run, alone or beside an earlier one."""
    verdict = Verdict(results, baseline, among(results))
    verdict.problems += _unknown(results)
    verdict.problems += _worst(verdict.among, _PART)
    verdict.problems += _differing_refusals(results.errors)
    if baseline is not None:
        verdict.against = against(results, baseline)
        found = _regressions(verdict, baseline, slack, names, dtypes)
        verdict.problems += [replace(problem, regression=True) for problem in found]
        verdict.notes = _notes(results, baseline)
    return verdict


def _regressions(
    verdict: Verdict, baseline: Results, slack: float, names: Collection[str] | None, dtypes: Collection[str] | None
) -> list[Problem]:
    results = verdict.results
    then = [
        asked
        for asked in baseline.asked
        if (names is None or asked.case in names) and (dtypes is None or asked.dtype in dtypes)
    ]
    found = _worst(verdict.against, lambda item: (*_PART(item), item.between[0]))
    found += _incomparable(results, then)
    found += _grown(verdict.among, among(baseline), slack)
    found += _missing(results, then)
    if names is None or ERRORS in names:
        found += _changed_refusals(results, baseline)
    return found


def _worst(differences: Iterable[Difference], key: Callable[[Difference], tuple[str, ...]]) -> list[Problem]:
    """Of the failing differences of one key, the largest: the others are the same story."""
    worst: dict[tuple[str, ...], Difference] = {}
    for item in differences:
        if item.fails and (key(item) not in worst or item.fraction > worst[key(item)].fraction):
            worst[key(item)] = item
    return [Problem(item.case, item.dtype, str(item)) for item in worst.values()]


def _unknown(results: Results) -> list[Problem]:
    """Of results from a file: what another version of the suite has asked."""
    why = "this version of the suite has other inputs for it"
    unknown = [asked for asked in results.asked if problem_of(asked, results.seed) is None]
    return [_problem(asked, f": cannot be compared: {why}") for asked in unknown]


def _incomparable(results: Results, asked_then: list[Asked]) -> list[Problem]:
    now = {(asked.case, asked.dtype): asked.fingerprint for asked in results.asked}
    return [
        _problem(then, ": cannot be compared: the baseline had other inputs")
        for then in asked_then
        if now.get((then.case, then.dtype), then.fingerprint) != then.fingerprint
    ]


def _grown(now: list[Difference], then: list[Difference], slack: float) -> list[Problem]:
    before = {(*_PART(item), *sorted(item.between)): item.eps for item in then}
    found = []
    for item in now:
        eps = before.get((*_PART(item), *sorted(item.between)), math.inf)
        if item.eps > eps + slack and not item.fails:
            both = f"{' and '.join(item.between)} differ by {item.eps:.3g} eps"
            found.append(_problem(item, f" {item.what}: {both}, in the baseline by {eps:.3g}: {item.text}"))
    return found


def _missing(results: Results, asked_then: list[Asked]) -> list[Problem]:
    """What the baseline has a result of, and this run of the same backend has not."""
    now = {(asked.case, asked.dtype): asked.answers for asked in results.asked}
    dtypes = {asked.dtype for asked in results.asked}
    found = []
    for then in asked_then:
        answers = now.get((then.case, then.dtype), {})
        for name, before in then.answers.items():
            if name not in results.backends:
                continue
            if then.dtype not in dtypes and then.dtype in results.backends[name]["dtypes"]:
                continue  # no other backend had it when these results were made: a note says so
            answer = answers.get(name)
            lost = [what for what in before.values if answer is None or what not in answer.values]
            if lost:
                found.append(_problem(then, f": {name} has no {' and no '.join(lost)} any more: {_why(answer)}"))
    return found


def _why(answer: Answer | None) -> str:
    if answer is None:
        return "it was not asked"
    if answer.error:
        return f"it raises {answer.error[0]}: {answer.error[1]}"
    return f"the subject lacks {answer.lacks}" if answer.lacks else "it was not given"


def _differing_refusals(errors: dict[str, dict[str, Refusal]]) -> list[Problem]:
    return [
        Problem(ERRORS, "", f"{ERRORS} {name}: {_listed(refusals)}")
        for name, refusals in errors.items()
        if len(set(refusals.values())) > 1
    ]


def _changed_refusals(results: Results, baseline: Results) -> list[Problem]:
    found = []
    for name, before in baseline.errors.items():
        now = results.errors.get(name, {})
        both = [backend for backend in before if backend in results.backends]
        others = {f"{backend} of the baseline": refusal for backend, refusal in before.items()}
        if both and not now:
            found.append(Problem(ERRORS, "", f"{ERRORS} {name}: refused in the baseline, not any more"))
        elif len(set(now.values())) == 1 and not set(now.values()) <= set(before.values()):
            found.append(Problem(ERRORS, "", f"{ERRORS} {name}: {_listed(now | others)}"))
    return found


def _listed(refusals: dict[str, Refusal]) -> str:
    """Who says what, those who say the same together."""
    said: dict[Refusal, list[str]] = {}
    for name, refusal in refusals.items():
        said.setdefault(refusal, []).append(name)
    return "; ".join(
        f"{', '.join(names)}: {'accepted' if refusal is None else ': '.join(refusal)}"
        for refusal, names in said.items()
    )


def _notes(results: Results, baseline: Results) -> list[str]:
    notes = []
    if baseline.subject["name"] != results.subject["name"]:
        notes.append(f"the baseline is of another subject, {baseline.subject['name']}")
    left = [name for name in baseline.backends if name not in results.backends]
    asked_now = {asked.dtype for asked in results.asked}
    left += list(dict.fromkeys(asked.dtype for asked in baseline.asked if asked.dtype not in asked_now))
    if left:
        notes.append(f"in the baseline, not asked now: {', '.join(left)}")
    known = {asked.case for asked in baseline.asked}
    new = list(dict.fromkeys(asked.case for asked in results.asked if asked.case not in known))
    if new:
        notes.append(f"not in the baseline: {', '.join(new)}")
    return notes
