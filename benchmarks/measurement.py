"""What one contender took for one question on one problem, and the file that keeps a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.contenders import COPY
from benchmarks.problem import Problem
from benchmarks.questions import QUESTIONS

ROUNDS = 7
"""The least of which a median is worth printing, where a question has no number of its own."""


@dataclass(frozen=True)
class Measurement:
    """What one contender took for one question on one size."""

    question: str
    size: str
    contender: str
    threads: int | None = None
    rounds: int = 1
    seconds: float | None = None
    peak_bytes: int | None = None
    spread: float | None = None
    """On a GPU, the distance of the quartiles over the median."""

    @property
    def key(self) -> tuple[str, str, str, int | None]:
        """What was measured."""
        return self.question, self.size, self.contender, self.threads

    @property
    def problem(self) -> Problem:
        """What it was measured on."""
        return Problem.parse(self.size)

    @property
    def gigabytes_per_second(self) -> float:
        """The logits' bytes that the question has to move (for the copy: one read, one write) over the time."""
        traffic = 2 if self.contender.startswith(COPY.split()[0]) else QUESTIONS[self.question].traffic
        return traffic * self.problem.nbytes / self.seconds / 1e9

    @property
    def ns_per_logit(self) -> float:
        """The time over the number of logits."""
        return 1e9 * self.seconds / (self.problem.n * self.problem.v)


@dataclass(frozen=True)
class Run:
    """All measurements of a run, and what they were made on."""

    host: dict[str, Any]
    command: str
    seconds: float
    """How long all of it took."""
    shortcomings: list[str]
    """Why it is not the whole benchmark, which the page shows; nothing if it is."""
    measurements: list[Measurement]

    def save(self, path: Path) -> None:
        """As JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Run:
        """From a file that `save` wrote."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {"measurements": [Measurement(**one) for one in values["measurements"]]})


def shortcomings(found: Iterable[Measurement]) -> list[str]:
    """What keeps measurements from being the whole benchmark on this machine."""
    found = list(found)
    wanted = {
        (question.name, str(problem), one.name, one.threads)
        for question in QUESTIONS.values()
        for problem in question.problems()
        for one in question.usable(problem)
    }
    reasons = []
    if missing := wanted - {one.key for one in found}:
        reasons.append(f"{len(missing)} of {len(wanted)} measurements are missing")
    least = {name: question.rounds or ROUNDS for name, question in QUESTIONS.items()}
    if any(one.rounds < least[one.question] for one in found if one.seconds is not None):
        reasons.append("there are medians of too few rounds")
    return reasons
