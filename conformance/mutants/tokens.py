"""Faults of what rows tell besides their loss: log-probabilities, entropies, ranks and divergences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import TokensReference


class LogOfTheSoftmax(TokensReference):
    """T1: A log-probability is the logarithm of a rounded probability: where the loss is 1e-9 it is 0."""

    def negative(self, loss):
        return np.log(np.exp(-loss))


class LogSoftmaxOfHalves(TokensReference):
    """T1: The log-probabilities of half-precision logits are rounded to half precision."""

    def token_log_probs_and_grad(self, logits, token_ids, *args, **options):
        found, d = super().token_log_probs_and_grad(logits, token_ids, *args, **options)
        return found.astype(logits.dtype).astype(found.dtype), d


class EntropyThatCancels(TokensReference):
    """T1: The entropy is the log-sum-exp less the mean logit: of a confident row nothing is left but rounding."""

    def entropies(self, side):
        mean = self.over_classes(self.terms(side.p, side.lse - side.surprise))
        return np.where(np.isnan(mean), mean, side.lse - mean)


class ZeroTimesLogZero(TokensReference):
    """T1: A class of probability 0 has 0·log 0 in the entropy, which is NaN."""

    def entropies(self, side):
        return self.over_classes(side.p * side.surprise)


class RankCountsTies(TokensReference):
    """T1: A class that ties with the target counts as likelier."""

    def rank(self, x, own):
        return (x >= own).sum(axis=-1) - 1


class LastOfTheSameClasses(TokensReference):
    """T2: The gradient is put at the classes: of a class that is asked for twice, one share alone."""

    def over_ids(self, d, ids):
        again = (ids[..., :, None] == ids[..., None, :]) & np.tri(ids.shape[-1], k=-1, dtype=bool).T
        return np.where(again.any(axis=-1)[..., None], 0.0, d).sum(axis=-2)


class GradientOfTheOtherDirection(TokensReference):
    """T2: Whatever the divergence, its gradient is p − q."""

    def divergences(self, student, teacher, direction, mixture):
        values, _ = super().divergences(student, teacher, direction, mixture)
        return values, super().divergences(student, teacher, "forward", mixture)[1]


class DirectionsSwapped(TokensReference):
    """T3: Forward is KL(p‖q), of the student first."""

    def divergences(self, student, teacher, direction, mixture):
        other = {"forward": "reverse", "reverse": "forward"}
        return super().divergences(student, teacher, other.get(direction, direction), mixture)


class TemperatureOfTheStudentAlone(TokensReference):
    """T3: The teacher's logits are not divided by the temperature."""

    def of_teacher(self, call):
        return replace(call, temperature=1.0)


class ProbabilitiesClamped(TokensReference):
    """T3: Probabilities are at least 1e-10 in the logarithms, which then are of nothing that adds up to 1."""

    def side(self, call, logits):
        side = super().side(call, logits)
        return replace(side, surprise=np.minimum(side.surprise, -np.log(1e-10)))


class UnlikelyIsImpossible(TokensReference):
    """T3: A probability that underflows has no part in a divergence, which is infinite for its class."""

    def excess(self, a, log_ratio):
        return self.terms(a, log_ratio)

    def side(self, call, logits):
        side = super().side(call, logits)
        return replace(side, p=np.where(side.p < 1e-38, 0.0, side.p))


class TheMeanOverTheMixture(TokensReference):
    """T3: β is the student's share of the mixture."""

    def divergences(self, student, teacher, direction, mixture):
        return super().divergences(student, teacher, direction, 1 - mixture)


class LargestOfTheBatch(TokensReference):
    """T4: The largest logit of all rows is taken off each: the digits of a row are those that its company leaves."""

    def side(self, call, logits):
        side = super().side(call, logits)
        most = np.nanmax(np.where(np.isfinite(side.lse), side.lse, -np.inf), initial=-np.inf)
        return replace(side, surprise=(side.surprise + most) - most if np.isfinite(most) else side.surprise)


class IgnoredRanksFirst(TokensReference):
    """T4: An ignored token has rank 0, so that it is among those that were guessed right."""

    rank_of_ignored = 0.0


class WeightsTimesWhatIsThere(TokensReference):
    """T4: A measure is multiplied by its weight, and so NaN where a row of weight 0 is."""

    def masked(self, values, spoilt, tokens):
        return np.where(spoilt, np.nan, values) * np.where(tokens.counted, 1.0, 0.0)


class TokensOfNoWeightInTheMean(TokensReference):
    """T4: A mean of entropies is over all tokens, those that do not count too."""

    def ended(self, call, *rest):
        if call.reduction == "mean" and call.denominator is None:
            call = replace(call, denominator=max(1.0, float(np.prod(call.tokens))))
        return super().ended(call, *rest)
