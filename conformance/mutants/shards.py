"""Faults of a vocabulary in shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference.shards import ShardedReference


class StartIsRankTimesSize(ShardedReference):
    """P1: A rank's classes begin at its number times its own size, as where all sizes are the same."""

    def local(self, part, call):
        return super().local(replace(part, start=part.group.rank * part.size), call)


class LocalVocabularyInSmoothing(ShardedReference):
    """P1: Label smoothing spreads its share over the classes of the rank, not of the row."""

    def sums(self, part, call, local):
        others, _, *rest = super().sums(part, call, local)
        return others, np.maximum((local.x > -np.inf).sum(axis=1, keepdims=True), 1.0), *rest


class LocalMaximumInTheGradient(ShardedReference):
    """P1: The gradient's exponentials are taken from the rank's own maximum, the sum's from that of the row."""

    def exponentials(self, w, rows):
        return np.exp(w - w.max(axis=1, keepdims=True, initial=-np.inf))


class IgnoredTokensCountedTwice(ShardedReference):
    """P1: Ignored tokens are taken off the mean's denominator once for the row and once more for their class's rank."""

    def divisor(self, call, tokens):
        return super().divisor(call, tokens) - ((~tokens.counted).sum() if call.reduction == "mean" else 0)


class LogitsGathered(ShardedReference):
    """P2: Every rank fetches the logits of all the others, and makes the loss of the whole."""

    def largest(self, part, x):
        return np.max(part.group.allgather(x), axis=0)

    def local(self, part, call):
        part.group.allgather(call.logits)
        return super().local(part, call)


class ACollectiveForEachSum(ShardedReference):
    """P2: What has to be added up is added up one after the other."""

    def total(self, part, x):
        return np.stack([super(ACollectiveForEachSum, self).total(part, row) for row in x]) if x.ndim > 1 else x


class RangesAtTheirWord(ShardedReference):
    """P3: That ranges overlap or leave gaps is not found out."""

    def vocabulary(self, group, start, size):
        return max(first + count for first, count in group.allgather((start, size)))


class OptionsAtTheirWord(ShardedReference):
    """P3: A rank's options are its own affair."""

    def agree(self, part, call, given):
        super().agree(part, call, dict.fromkeys(given))


class TargetsOfTheShard(ShardedReference):
    """P4: Where the targets are checked, it is against the classes of the rank."""

    def outside_of_all(self, part, call):
        return (call.targets < part.start) | (call.targets >= part.stop)


class PositionInTheRank(ShardedReference):
    """P4: A target's number in the error is counted from the rank's first class."""

    def validate_part(self, part, call):
        try:
            super().validate_part(part, call)
        except IndexError as error:
            value = call.targets[self.outside_of_all(part, call)][0]
            raise IndexError(str(error).replace(str(value), str(value - part.start - 1))) from None
