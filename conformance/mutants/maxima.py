"""Faults in what is subtracted before exp: the row's maximum, and how tiles of a row come together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class NoMaximum(Reference):
    """V3: exp is taken of the logits as they are."""

    def exponentials(self, w, rows):
        return np.exp(w) / np.exp(rows.largest)


class MaximumOfTheBatch(Reference):
    """R5: One maximum for all rows: what is far below it underflows."""

    def exponentials(self, w, rows):
        return np.exp(w - rows.largest.max()) / np.exp(rows.largest - rows.largest.max())


class MaximumOfTheRowBefore(Reference):
    """V1: Every row is shifted by the maximum of its neighbour: an index that is off by one."""

    def exponentials(self, w, rows):
        neighbour = np.roll(rows.largest, 1, axis=0)
        return np.exp(w - neighbour) / np.exp(rows.largest - neighbour)


class MaximumOfTheFirstTile(Reference):
    """S2: The maximum of a tile is used for the rest of the row."""

    def maximum(self, x):
        return super().maximum(x[:, :1024])


class TilesMergedWithoutAGuard(Reference):
    """S2: Online softmax whose first tile may be nothing but -inf: -inf - -inf is NaN."""

    def rows(self, call, x, given):
        rows = super().rows(call, x, given)
        running = np.full(rows.largest.shape, -np.inf)
        for start in range(0, call.V, 1024):
            before = running
            running = np.maximum(running, self.wide(x[:, start : start + 1024]).max(axis=-1, keepdims=True))
            rows.others = rows.others + 0.0 * np.exp(before - running)
        return rows


class TilesNotRescaled(Reference):
    """V1: Online softmax that does not rescale the sum so far where a later tile has a larger maximum."""

    def rows(self, call, x, given):
        rows = super().rows(call, x, given)
        running, others = np.full(rows.largest.shape, -np.inf), np.zeros(rows.largest.shape)
        for start in range(0, call.V, 1024):
            columns = slice(start, min(start + 1024, call.V))
            w = self.wide(x[:, columns])
            running = np.maximum(running, w.max(axis=-1, keepdims=True))
            e = np.where(np.isneginf(w), 0.0, np.exp(w - running))
            others += self.over_classes(self.without_top(e, rows, columns))
        return replace(rows, others=others)


class ShiftedTwice(Reference):
    """V3: The maximum is subtracted from the logits, and once more from what is left."""

    def half_surprises(self, call, w, rows):
        return super().half_surprises(call, w - rows.largest, rows)


class ShiftForgotten(Reference):
    """V3: The maximum is not added back: the loss is log Z of the shifted logits less the logit as it was."""

    def half_surprises(self, call, w, rows):
        return (self.log_z(rows) - w) / 2
