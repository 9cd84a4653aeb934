"""The questions that are asked: what is timed, of whom, and how many times the logits must at least be moved for it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import contenders
from benchmarks.contenders import Contender


@dataclass(frozen=True)
class Question:
    """One thing to find out about every contender."""

    name: str
    title: str
    contenders: list[Contender]
    traffic: int = 0
    """How often a program that wastes nothing reads or writes the logits' bytes; 0 where speed is not in bytes."""

    def find(self, contender: str) -> Contender:
        """The contender of that name."""
        return next(one for one in self.contenders if one.name == contender)

    @property
    def usable(self) -> list[Contender]:
        """The contenders whose libraries are here."""
        return [one for one in self.contenders if one.usable]


QUESTIONS = {
    question.name: question
    for question in (
        Question("forward", "forward", contenders.FORWARD, traffic=1),
        Question("gradient", "forward and gradient", contenders.GRADIENT, traffic=2),
        Question("backward", "forward and backward through autograd", contenders.BACKWARD, traffic=2),
        Question("small-forward", "a small call, forward", contenders.SMALL_FORWARD),
        Question("small-gradient", "a small call, forward and gradient", contenders.SMALL_GRADIENT),
        Question("memory-forward", "memory of forward", contenders.FORWARD),
        Question("memory-gradient", "memory of forward and gradient", contenders.GRADIENT),
    )
}
