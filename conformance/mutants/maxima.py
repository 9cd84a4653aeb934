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
