"""Formulas with one step replaced by one that people get wrong: what `suspects` compares wrong answers with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from crossent_conformance.reference import Reference


class Shared(Reference):
    """Label smoothing among so many classes."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def smoothed(self, call: Any, q: Any, finite: Any, rows: Any) -> Any:
        return super().smoothed(call, q, finite, replace(rows, finite=np.full(rows.finite.shape, float(self.classes))))


class TargetWeighted(Reference):
    """Class weights of the target's term, and of no other that smoothing gives."""

    def pull(self, call: Any, w: Any, given: Any, rows: Any, columns: slice) -> Any:
        plain = super().pull(replace(call, class_weights=None), w, given, rows, columns)
        at = self.given(call, given, columns) > 0
        return np.where(at, plain * self.wide(call.class_weights[columns]), plain)


class WeightedTwice(Reference):
    """The squares of class weights multiply, and the weights themselves divide."""

    def walk(self, call: Any, tokens: Any, d_logits: Any = None, scale: Any = None) -> Any:
        return super().walk(replace(call, class_weights=call.class_weights**2), tokens, d_logits, scale)


class MassOne(Reference):
    """The gradient of targets that sum to 1."""

    def row_gradients(self, call: Any, w: Any, given: Any, rows: Any, mass: Any, columns: Any) -> Any:
        return super().row_gradients(call, w, given, rows, np.ones_like(mass), columns)


class NoTarget(Reference):
    """The gradient of log Z alone."""

    def row_gradients(self, call: Any, w: Any, given: Any, rows: Any, mass: Any, columns: Any) -> Any:
        p = self.probabilities(w, rows)
        return mass * p / 2 + call.z_loss * self.lse(rows) * p


class ZOfOne(Reference):
    """z-loss of lse, not of its square."""

    def z_losses(self, call: Any, rows: Any) -> Any:
        return call.z_loss * self.lse(rows)


class Flat(Reference):
    """Logits change with nothing that was done to them."""

    def steepness(self, call: Any, x: Any) -> Any:
        return 1.0


class Unclipped(Reference):
    """No probability is clipped, to the gradient."""

    def clipped(self, call: Any, w: Any, rows: Any) -> Any:
        return np.zeros(w.shape, dtype=bool)


class Added(Reference):
    """log(p + e)."""

    def __init__(self, e: float) -> None:
        self.e = e

    def half_surprises(self, call: Any, w: Any, rows: Any) -> Any:
        return np.log(self.probabilities(w, rows) + self.e) / -2


class Padded(Reference):
    """Zeros among the logits, in the sum alone."""

    def __init__(self, zeros: int) -> None:
        self.zeros = zeros

    def rows(self, call: Any, x: Any, given: Any) -> Any:
        rows = super().rows(call, x, given)
        return replace(rows, others=rows.others + self.zeros * np.exp(-rows.largest))


class Running(Reference):
    """Sums of losses, of weights or of both that are made one after the other in float32."""

    def __init__(self, losses: bool, weights: bool) -> None:
        self.losses, self.weights = losses, weights

    def over_tokens(self, call: Any, values: Any) -> Any:
        if values.dtype == bool or not values.size:
            return super().over_tokens(call, values)
        return np.float64(np.cumsum(values.reshape(-1), dtype=np.float32)[-1])

    def divisor(self, call: Any, tokens: Any) -> Any:
        return super().divisor(call, tokens) if self.weights else Reference().divisor(call, tokens)

    def reduce(self, call: Any, losses: Any, divisor: Any) -> Any:
        return super().reduce(call, losses, divisor) if self.losses else Reference().reduce(call, losses, divisor)


class Cut(Reference):
    """Classes past the first ones are not in the sum."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def rows(self, call: Any, x: Any, given: Any) -> Any:
        rows = super().rows(call, x, given)
        rest = np.exp(self.seen(call, x[:, self.kept :]) - rows.largest).sum(axis=-1, keepdims=True)
        return replace(rows, others=rows.others - rest)
