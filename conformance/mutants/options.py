"""Faults in what the options mean: label smoothing, class weights, z-loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class ConventionsSwapped(Reference):
    """V8: "others" smooths as "uniform" does, and the other way round."""

    def smoothed(self, call, q, finite, rows):
        swapped = {"others": "uniform", "uniform": "others"}[call.smoothing]
        return super().smoothed(replace(call, smoothing=swapped), q, finite, rows)


class MinusInfinityShares(Reference):
    """V8: Classes at -inf get a share of epsilon: the loss is infinite."""

    def smoothed(self, call, q, finite, rows):
        everything = replace(rows, finite=np.full(rows.finite.shape, float(call.V)), kept=rows.kept + rows.lost)
        return super().smoothed(call, q, np.ones(finite.shape, dtype=bool), replace(everything, lost=0 * rows.lost))


class MinusInfinityDivides(Reference):
    """V8: Classes at -inf get no share of epsilon, and are counted among those that it is divided by."""

    def smoothed(self, call, q, finite, rows):
        return super().smoothed(call, q, finite, replace(rows, finite=np.full(rows.finite.shape, float(call.V))))


class OneClassHasNoOthers(Reference):
    """S6: epsilon / (V - 1) of a single class is a division by 0."""

    def smoothed(self, call, q, finite, rows):
        smoothed = super().smoothed(call, q, finite, rows)
        return smoothed + 0.0 / (rows.finite - 1) if call.smoothing == "others" else smoothed


class SmoothedTermsNotWeighted(Reference):
    """V8: Class weights multiply the target's term alone; the smoothed terms go without."""

    def pull(self, call, w, given, rows, columns):
        weighted = super().pull(call, w, given, rows, columns)
        if call.class_weights is None or not call.label_smoothing:
            return weighted
        plain = super().pull(replace(call, class_weights=None), w, given, rows, columns)
        return np.where(self.given(call, given, columns) > 0, weighted, plain)


class ZLossNotWeighted(Reference):
    """V9: z-loss goes without the token weights."""

    def walk(self, call, tokens, d_logits=None, scale=None):
        if not call.z_loss or call.weights is None:
            return super().walk(call, tokens, d_logits, scale)
        losses = super().walk(replace(call, z_loss=0.0), tokens, d_logits, scale)
        plain = replace(tokens, weights=np.ones(call.tokens))
        return losses + super().walk(call, plain) - super().walk(replace(call, z_loss=0.0), plain)


class ZLossOfIgnoredTokens(Reference):
    """S1: Ignored tokens have no cross-entropy, and a z-loss all the same."""

    def walk(self, call, tokens, d_logits=None, scale=None):
        losses = super().walk(call, tokens, d_logits, scale)
        if not call.z_loss:
            return losses
        everywhere = replace(tokens, counted=np.ones(call.tokens, dtype=bool))
        square = super().walk(call, everywhere) - super().walk(replace(call, z_loss=0.0), everywhere)
        return np.where(tokens.counted, losses, square)
