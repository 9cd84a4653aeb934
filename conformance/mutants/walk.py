"""Faults in the walk: classes or rows that are not looked at, or not where they are."""

from __future__ import annotations

from dataclasses import replace

from crossent_conformance.reference import Reference


class TailOfTheVocabularyDropped(Reference):
    """V1: Classes past the last whole tile of 128 are left out of the sum."""

    def rows(self, call, x, given):
        rows = super().rows(call, x, given)
        tail = slice(call.V - call.V % 128, call.V)
        if tail.start:
            dropped = self.exponentials(self.wide(x[:, tail]), rows)
            rows.others -= self.over_classes(self.without_top(dropped, rows, tail))
        return rows


class TailOfTheBatchDropped(Reference):
    """R5: Rows past the last whole block of 64 keep the zeros that the memory held."""

    def blocks(self, call):
        for *lead, rows in super().blocks(call):
            whole = call.tokens[-1] // 64 * 64 if call.tokens else 0
            yield (*lead, slice(rows.start, min(rows.stop, whole)) if whole else rows)


class StridesIgnored(Reference):
    """A2: The memory of the logits is read in the order in which it lies, whatever the strides."""

    def walk(self, call, tokens, d_logits=None, scale=None):
        as_it_lies = call.logits.ravel(order="K").reshape(call.logits.shape)
        return super().walk(replace(call, logits=as_it_lies), tokens, d_logits, scale)


class StridesOfTheTargetsIgnored(Reference):
    """A2: The memory of the targets is read in the order in which it lies."""

    def tokens(self, call):
        as_it_lies = call.targets.ravel(order="K").reshape(call.targets.shape)
        return super().tokens(replace(call, targets=as_it_lies) if call.hard else call)
