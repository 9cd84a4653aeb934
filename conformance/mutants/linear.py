"""Faults of the linear loss: its blocks, its products, and what takes no part in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import LinearReference
from crossent_conformance.reference.linear import NEEDS


class ZeroColumnsInTheSum(LinearReference):
    """L1: The classes are padded to a multiple of 128, and the zeros of the padding are in the sum."""

    def rows(self, call, x, given):
        rows = super().rows(call, x, given)
        rows.others += -call.V % 128 * np.exp(-rows.largest)
        return rows


class LogitsOfHalfPrecision(LinearReference):
    """L1: The products are rounded to half precision before the loss sees them."""

    def logits(self, h, head):
        return super().logits(h, head).astype(np.float16).astype(np.float64)


class TailOfTheTokensDropped(LinearReference):
    """L1: Tokens past the last whole block are in no block."""

    def token_blocks(self, kept, V, memory):
        first, *others = [*super().token_blocks(kept, V, memory)] or [kept]
        return [first, *(block for block in others if len(block) == len(first))]


class GradientOfRoundedLogits(LinearReference):
    """L2: The gradient is that of logits that are made once more, in half precision."""

    def walk(self, call, tokens, d_logits=None, scale=None):
        logits = call.logits.astype(np.float16).astype(np.float64)
        super().walk(replace(call, logits=logits), tokens, d_logits, scale)
        return super().walk(call, tokens)


class FirstGradOutputForAll(LinearReference):
    """L3: What the first loss is multiplied by is taken for all of them."""

    def scales(self, scales, rows):
        return np.full(len(rows), scales[0])


class SumsInHalfPrecision(LinearReference):
    """L3: The gradients of weight and bias are summed up in half precision from block to block."""

    def add(self, total, product):
        return np.asarray(total + product).astype(np.float16).astype(np.float64)


class NeedsNotLookedAt(LinearReference):
    """L3: All gradients are made and given, whichever are asked for."""

    def linear_and_grad(self, hidden, weight, targets, *args, needs=NEEDS, **options):
        return super().linear_and_grad(hidden, weight, targets, *args, **options)


class AllLogitsAtOnce(LinearReference):
    """L4: The logits of all tokens are one block, whatever memory there is."""

    def token_blocks(self, kept, V, memory):
        return [kept]


class IgnoredTimesZero(LinearReference):
    """L5: Tokens that do not count are multiplied with all the same, by gradients of 0."""

    def kept(self, tokens):
        return np.arange(len(tokens.counted))


class SmoothedOverThePadding(LinearReference):
    """L5: Rows past the classes are classes with low logits, to which smoothing gives its share."""

    def linear_and_grad(self, hidden, weight, targets, *args, bias=None, classes=None, **options):
        if classes is not None:
            rows = np.arange(len(weight))
            weight = np.where(rows[:, None] < classes, weight, 0).astype(weight.dtype)
            bias = np.where(rows < classes, 0 if bias is None else bias, -1e4).astype(weight.dtype)
        return super().linear_and_grad(hidden, weight, targets, *args, bias=bias, **options)


class OneBiasForAll(LinearReference):
    """L6: A bias of one element is that of every class."""

    def linear_and_grad(self, hidden, weight, targets, *args, bias=None, **options):
        if np.shape(bias) == (1,):
            bias = np.repeat(bias, len(weight))
        return super().linear_and_grad(hidden, weight, targets, *args, bias=bias, **options)


class NothingCountsIsNaN(LinearReference):
    """L6: A mean over no token at all divides 0 by 0."""

    def divisor(self, call, tokens):
        return np.where(tokens.counted.any(), super().divisor(call, tokens), 0.0)
