"""Faults of arithmetic: the right formula, computed so that digits are lost."""

from __future__ import annotations

import numpy as np

from crossent_conformance.reference import Reference


class LogOfOnePlus(Reference):
    """V1: log(1 + O) where log1p(O) is meant: small losses are 0."""

    def log_z(self, rows):
        return np.log(1.0 + rows.others)


class LogSumExpLessLogit(Reference):
    """V1: logsumexp(x) - x_t: what is common to both cancels."""

    def half_surprises(self, call, w, rows):
        if call.algorithm == "explicit":
            return super().half_surprises(call, w, rows)
        return (self.lse(rows) - w) / 2


class EpsilonInTheLog(Reference):
    """V2: log(softmax + 1e-9): negative where the softmax is 1."""

    def half_surprises(self, call, w, rows):
        return np.log(self.probabilities(w, rows) + 1e-9) / -2


class ProbabilityLessOne(Reference):
    """V4: The gradient at the target as p - 1: 0 for a confident one, while the other classes keep theirs."""

    def row_gradients(self, call, w, given, rows, mass, columns):
        p = self.probabilities(w, rows)
        pull = np.where(self.clipped(call, w, rows), 0.0, self.pull(call, w, given, rows, columns))
        return (mass * p - pull) / 2 + call.z_loss * self.lse(rows) * p


class SinglePrecision(Reference):
    """V1: float64 logits are computed with in float32, as a library does whose default it is."""

    def wide(self, x):
        return super().wide(x.astype(np.float32))


class SumOfHalves(Reference):
    """A1: Half-precision logits have their exponentials summed up in half precision."""

    def rows(self, call, x, given):
        rows = super().rows(call, x, given)
        if x.dtype == np.float16:
            e = np.exp(x - x.max(axis=-1, keepdims=True))
            np.put_along_axis(e, rows.top, np.float16(0), axis=-1)
            rows.others = e.sum(axis=-1, keepdims=True, dtype=np.float16).astype(np.float64)
        return rows


class RunningSum(Reference):
    """R4: Losses are summed up one after the other in float32."""

    def over_tokens(self, call, values):
        if call.reduction == "none" or values.size == 0 or values.dtype == bool:
            return super().over_tokens(call, values)
        running = np.cumsum(values, axis=-1 if call.reduction == "sequence" else None, dtype=np.float32)
        return running[..., -1].astype(np.float64)


class RunningWeights(Reference):
    """R4: The sum of the weights, a denominator, is a running sum in float32."""

    def divisor(self, call, tokens):
        divisor = super().divisor(call, tokens)
        if call.reduction == "mean" and call.denominator is None and tokens.counted.any():
            return np.float64(np.cumsum(tokens.total[tokens.counted], dtype=np.float32)[-1])
        return divisor


class Bits(Reference):
    """V6: The logarithm to the base 2: a loss in bits."""

    def row_losses(self, call, x, given, rows):
        loss, mass = super().row_losses(call, x, given, rows)
        return loss / np.log(2), mass
