"""Faults in what the losses of the tokens become: which of them count, and what divides them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


def _is_weighted_mean(call):
    return call.reduction in ("mean", "sequence") and call.denominator is None


class IgnoredTokensDivide(Reference):
    """R2: A mean is divided by the number of all tokens, ignored ones included."""

    def divisor(self, call, tokens):
        return super().divisor(call, replace(tokens, counted=np.ones(call.tokens, dtype=bool)))


class WeightsDoNotDivide(Reference):
    """R2: A weighted mean is divided by the number of its tokens."""

    def divisor(self, call, tokens):
        return super().divisor(call, replace(tokens, total=np.ones(call.tokens)))


class ClassWeightsMasked(Reference):
    """R2: A target of class weight 0 counts as one of the tokens that divide."""

    def divisor(self, call, tokens):
        if call.denominator != "tokens" or not call.hard:
            return super().divisor(call, tokens)
        counted = (tokens.weights != 0) & ~self.ignored(call)
        return super().divisor(call, replace(tokens, counted=counted))


class DividesByOneAtLeast(Reference):
    """R2: The sum of the weights is raised to 1 before it divides."""

    def divisor(self, call, tokens):
        divisor = super().divisor(call, tokens)
        return np.maximum(divisor, 1.0) if _is_weighted_mean(call) else divisor


class WeightsPastTheDtype(Reference):
    """R2: The weights of a mean are added up as they are: past the dtype they divide it to 0."""

    def near_one(self, call):
        return call


class NothingByNothingRefused(Reference):
    """R3: A denominator of 0 is an error although nothing counts."""

    def validate(self, call):
        if isinstance(call.denominator, int | float) and call.denominator == 0:
            raise ValueError("denominator is 0; accepted: a number above 0")
        super().validate(call)


class EmptyMeanIsNaN(Reference):
    """R3: The mean of no tokens is 0 / 0."""

    def divisor(self, call, tokens):
        divisor = super().divisor(call, tokens)
        return divisor if call.reduction in ("none", "sum") or tokens.counted.size else divisor * 0.0


class NothingCountedIsNaN(Reference):
    """R3: Where no token of a mean counts, it is 0 / 0."""

    def divisor(self, call, tokens):
        divisor = super().divisor(call, tokens)
        if call.reduction in ("none", "sum") or not tokens.counted.size:
            return divisor
        return np.where(self.over_tokens(call, tokens.counted) == 0, 0.0, divisor)


class MeanOverTheBatch(Reference):
    """R1: A sequence's mean is taken over the first axis."""

    def over_tokens(self, call, values):
        return values.sum(axis=0) if call.reduction == "sequence" else super().over_tokens(call, values)

    def shape(self, call):
        return call.tokens[1:] if call.reduction == "sequence" else super().shape(call)

    def scale(self, call, grad_output, divisor):
        if call.reduction != "sequence":
            return super().scale(call, grad_output, divisor)
        return np.broadcast_to((1.0 if grad_output is None else grad_output) / divisor, call.tokens)


class SumByDefault(Reference):
    """R1: Where no reduction is given, the loss is the sum."""

    def loss(self, logits, targets, **options):
        return super().loss(logits, targets, **{"reduction": "sum", **options})

    def loss_and_grad(self, logits, targets, out=None, grad_output=None, **options):
        return super().loss_and_grad(logits, targets, out, grad_output, **{"reduction": "sum", **options})


class PythonFloat(Reference):
    """A1: A loss without dimensions comes back as a Python float."""

    def reduce(self, call, losses, divisor):
        loss = super().reduce(call, losses, divisor)
        return loss if loss.ndim else float(loss)


class HalfLoss(Reference):
    """A1: The loss of half-precision logits has their dtype."""

    def reduce(self, call, losses, divisor):
        return super().reduce(call, losses, divisor).astype(call.logits.dtype)


class PerplexityRaises(Reference):
    """V11: exp of the loss by Python's math: past the range it raises."""

    def perplexity(self, loss):
        import math

        return np.vectorize(math.exp, otypes=[np.result_type(loss)])(loss) if np.ndim(loss) else math.exp(loss)


class PerplexityToTheBaseTwo(Reference):
    """V11: 2 to the power of a loss that is in nats."""

    def perplexity(self, loss):
        return super().perplexity(loss * np.log(2).astype(np.result_type(loss)))
