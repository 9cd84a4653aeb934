"""What a test asks of a loss in shards: arrays of the whole go in, the ranks' answers come out and are checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent_conformance import agree, evidence, oracle, oracle_linear, units
from crossent_conformance.adapter import UnderTest
from crossent_conformance.evidence import NotRefusedError
from crossent_conformance.implementation import DoesNotApply
from crossent_conformance.places import Place
from crossent_conformance.shards.partition import Partition, partitions
from crossent_conformance.shards.team import Answer, Request, Teams


@dataclass
class Asked:
    """A call as one rank makes it; a test may change it before it is made."""

    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]
    range: tuple[int, int]


class RaisedError(Exception):
    """A rank raised what no rank may."""


class Shards:
    """The implementation in a place, in shards."""

    def __init__(self, place: Place, subject: UnderTest, teams: Teams) -> None:
        self.place, self.subject, self.teams = place, subject, teams

    @property
    def ranks(self) -> int:
        """How many have shards."""
        return self.teams.ranks

    def partition(self, V: int, kind: str = "uneven") -> Partition:
        """Shards of a vocabulary."""
        return partitions(V, self.ranks)[kind]

    def ask(
        self,
        partition: Partition,
        logits: np.ndarray,
        targets: np.ndarray,
        verb: str = "loss_and_grad",
        *,
        check: bool = True,
        counts: bool = False,
        change: Callable[[int, Asked], None] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """What each rank answers. `change` is of one rank's call, before it is made."""
        evidence.record_call(logits, targets, {**options, "shards": str(partition)})
        team, kind = self.teams.of(self.subject, self.place.backend.name)
        if kind == "one":
            if change is not None:
                raise DoesNotApply("calls that differ between its shards")
            if any(partition.padding) or not partition.is_in_order:
                raise DoesNotApply("shards that are padded, or do not follow each other in the order of their ranks")
            calls = [Asked(logits, targets, options, (0, logits.shape[-1]))]
        else:
            calls = self._parts(partition, logits, targets, verb, options)
        for rank, call in enumerate(calls):
            if change is not None:
                change(rank, call)
        ranges = partition.ranges if kind == "one" else tuple(call.range for call in calls)
        common = (verb, ranges, check, self.place.dtype, self.place.backend.modes[0], self.subject.traits)
        answers = team.ask([Request(*common, call.logits, call.targets, call.options, counts) for call in calls])
        for answer in answers:
            if answer.lacks:
                raise DoesNotApply(answer.lacks, gradient=answer.gradient)
        return answers

    def _parts(
        self, partition: Partition, logits: np.ndarray, targets: np.ndarray, verb: str, options: dict[str, Any]
    ) -> list[Asked]:
        """Padding is full of what nobody may look at."""

        def parts(name: str, value: Any, axis: int = -1) -> list[Any]:
            if not isinstance(value, np.ndarray):
                return [value] * self.ranks
            moved = np.moveaxis(value, axis, -1)
            return [np.moveaxis(part, -1, axis) for part in partition.columns(moved, FILLS[name])]

        in_shards = {"class_weights": -1, "bias": -1, "weight": 0}
        given = {
            name: parts(name, value, in_shards[name]) if name in in_shards else [value] * self.ranks
            for name, value in options.items()
        }
        if verb == "linear" and "class_weights" in given:  # of the classes alone, as beside `classes`
            sizes = zip(given["class_weights"], partition.sizes, strict=True)
            given["class_weights"] = [part[:size] for part, size in sizes]
        x = [logits] * self.ranks if verb == "linear" else parts("logits", logits)
        t = parts("targets", targets) if targets.dtype.kind == "f" else [targets] * self.ranks
        return [
            Asked(x[rank], t[rank], {name: values[rank] for name, values in given.items()}, partition.ranges[rank])
            for rank in range(self.ranks)
        ]

    def agree(
        self,
        partition: Partition,
        logits: np.ndarray,
        targets: np.ndarray,
        verb: str = "loss_and_grad",
        check: bool = True,
        **options: Any,
    ) -> None:
        """The loss is the oracle's on every rank, by the same bits, and the gradient that of the whole."""
        place = self.place
        logits = place.round(logits)
        targets = place.round(targets) if targets.dtype.kind == "f" else targets
        try:
            answers = self.right(partition, logits, targets, verb, check=check, **options)
        except DoesNotApply as lack:
            if not lack.gradient or verb != "loss_and_grad":
                raise
            forward = {name: value for name, value in options.items() if name not in agree.OF_THE_GRADIENT}
            answers = self.right(partition, logits, targets, "loss", check=check, **forward)
        exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, **options)
        _alike(answers)
        agree.loss(place, answers[0].parts[0], exact_loss, precise=True)
        found = [answer.parts[1] for answer in answers if len(answer.parts) == 2]
        if found:
            whole = found[0] if len(found) < self.ranks else partition.joined(found)
            agree.gradient(place, whole, exact_gradient, precise=True)

    def linear_agrees(self, partition: Partition, hidden: np.ndarray, targets: np.ndarray, **options: Any) -> None:
        """The same of hidden states: their gradient is on every rank, those of weight and bias are in shards."""
        place = self.place
        hidden = place.round(hidden)
        options |= {name: place.round(options[name]) for name in ("weight", "bias")}
        answers = self.right(partition, hidden, targets, "linear", **options)
        options.pop("memory", None)
        exact = oracle_linear.cross_entropy(hidden, targets, **options)
        _alike(answers)
        units.check(answers[0].parts[0], exact.loss, place.compute_dtype, what="loss")
        for rank, answer in enumerate(answers):
            units.check(answer.parts[1], exact.d_hidden, place.compute_dtype, place.dtype, f"d_hidden of rank {rank}")
        rows = partition.joined([np.moveaxis(answer.parts[2], 0, -1) for answer in answers])
        units.check(np.moveaxis(rows, -1, 0), exact.d_weight, place.compute_dtype, place.dtype, "d_weight")
        bias = partition.joined([answer.parts[3] for answer in answers])
        units.check(bias, exact.d_bias, place.compute_dtype, place.dtype, "d_bias")

    def right(self, *args: Any, **given: Any) -> list[Answer]:
        """Answers of which none is an error."""
        answers = self.ask(*args, **given)
        for rank, answer in enumerate(answers):
            if answer.error:
                raise RaisedError(f"rank {rank} raised {answer.error}: {answer.text}")
        return answers

    def refused(self, *args: Any, **given: Any) -> list[Answer]:
        """Answers that are all errors."""
        answers = self.ask(*args, **given)
        took = [str(rank) for rank, answer in enumerate(answers) if not answer.error]
        if took:
            raise NotRefusedError(f"accepted by ranks {', '.join(took)} of {self.ranks}")
        return answers


FILLS = {"logits": 7.0, "targets": 5.0, "class_weights": 9.0, "weight": 3.0, "bias": 11.0}


def _alike(answers: list[Answer]) -> None:
    first = answers[0].parts[0]
    for rank, answer in enumerate(answers):
        agree.equal(answer.parts[0], first, what=f"the loss of rank {rank}, beside that of rank 0", bits=True)
