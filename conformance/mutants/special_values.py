"""Faults that only NaN, infinities, huge logits, one class or none bring out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class MaskedByMultiplication(Reference):
    """S1: An ignored token's loss is multiplied by 0: NaN stays NaN."""

    def masked(self, values, spoilt, tokens):
        values = np.where(spoilt, np.nan, values) * tokens.counted
        return np.where(tokens.bad, np.nan, values)


class GradientMaskedByMultiplication(Reference):
    """S1: An ignored token's loss is 0, its gradient is multiplied by 0: NaN stays NaN."""

    def masked(self, values, spoilt, tokens):
        if values.shape[1] == 1:
            return super().masked(values, spoilt, tokens)
        return np.where(spoilt, np.nan, values) * tokens.counted


class TargetsOfNoWeightChecked(Reference):
    """S1: A token of weight 0 has to have a target of the vocabulary all the same."""

    def ignored(self, call):
        return super().ignored(replace(call, weights=None))


class PlusInfinityIsSure(Reference):
    """S4: A logit of +inf is a certain class: loss 0 for it, infinite for the others."""

    def spoilt(self, rows):
        return np.isnan(rows.largest) | np.isneginf(rows.largest)

    def maximum(self, x):
        top, largest = super().maximum(x)
        return top, np.where(np.isposinf(largest), np.finfo(np.float64).max, largest)

    def wide(self, x):
        return np.minimum(super().wide(x), np.finfo(np.float64).max)


class NaNIsSwallowed(Reference):
    """S4: The maximum and the sum leave NaN out."""

    def wide(self, x):
        w = super().wide(x)
        return np.where(np.isnan(w), -np.inf, w)

    def maximum(self, x):
        return super().maximum(np.where(np.isnan(x), -np.inf, x))


class NothingIsUniform(Reference):
    """S4: A row of nothing but -inf is taken for one of equal logits."""

    def rows(self, call, x, given):
        return super().rows(call, np.where(np.isneginf(x).all(axis=-1, keepdims=True), 0, x), given)


class NaNSpreads(Reference):
    """S4: A NaN in a row makes the rows of its block NaN."""

    def spoilt(self, rows):
        return np.full(rows.largest.shape, bool(super().spoilt(rows).any()))


class MinusInfinityIsALargeNumber(Reference):
    """S3: -inf is replaced by -1e9: a target there has a loss of a thousand million."""

    def wide(self, x):
        w = super().wide(x)
        return np.where(np.isneginf(w), -1e9, w)


class DifferencesPastTheDtype(Reference):
    """S5: What smoothing gives a class is multiplied by a difference of logits that is past the dtype."""

    def half_surprises(self, call, w, rows):
        surprises = super().half_surprises(call, w, rows)
        return surprises if call.algorithm == "explicit" else surprises * 2 / 2


class WeighedAtTheEnd(Reference):
    """S5: A loss past the dtype is weighed when it is infinite already."""

    def row_losses(self, call, x, given, rows):
        half, mass = super().row_losses(call, x, given, rows)
        return (2 * half).astype(call.compute_dtype) / 2.0, mass


class SquaredWithoutAReason(Reference):
    """S5: z-loss is computed where there is none: 0 times the square of a huge number is NaN."""

    def z_losses(self, call, rows):
        return call.z_loss * self.lse(rows) ** 2


class NoClassesAreFine(Reference):
    """S6: Tokens without a vocabulary have loss 0."""

    def loss(self, logits, targets, **options):
        if np.shape(logits)[-1:] == (0,) and options.get("reduction") == "none":
            return np.zeros(logits.shape[:-1], dtype=logits.dtype)
        return super().loss(logits, targets, **options)


class OneClassIsNaN(Reference):
    """S6: The sum over the other classes of a single one has nothing to take the maximum of: -inf - -inf."""

    def rows(self, call, x, given):
        rows = super().rows(call, x, given)
        return replace(rows, others=rows.others * np.nan) if call.V == 1 else rows
