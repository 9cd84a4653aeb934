"""Faults in what a target picks, and in what becomes of one that is no class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class NegativeTargetsWrap(Reference):
    """A4: A negative target counts from the end, as an index of Python does."""

    def outside(self, call):
        return (call.targets >= call.V) | (call.targets < -call.V)

    def tokens(self, call):
        tokens = super().tokens(call)
        return replace(tokens, classes=tokens.classes % call.V)


class OutsideIsIgnored(Reference):
    """A4: A target outside the vocabulary has loss 0, without a word."""

    def ignored(self, call):
        return super().ignored(call) | self.outside(call)


class MinusHundredIsAlwaysIgnored(Reference):
    """A4: -100 is ignored although nobody has asked for it."""

    def ignored(self, call):
        return super().ignored(call) | (call.targets == -100)


class EndIsInside(Reference):
    """A4: A target of V passes the check: > where >= is meant."""

    def outside(self, call):
        return (call.targets < 0) | (call.targets > call.V)

    def tokens(self, call):
        tokens = super().tokens(call)
        return replace(tokens, classes=np.minimum(tokens.classes, call.V - 1))


class IgnoreIndexNarrowed(Reference):
    """A3: ignore_index is compared in the dtype of the targets: -100 ignores 156 of uint8."""

    def ignored(self, call):
        if call.ignore_index is None:
            return super().ignored(call)
        return call.targets == np.array(call.ignore_index).astype(call.targets.dtype)


class TargetsWidenedBySign(Reference):
    """A3: Targets become int64 before they are looked at: an unsigned one past it wraps onto ignore_index."""

    def ignored(self, call):
        if call.ignore_index is None:
            return super().ignored(call)
        return call.targets.astype(np.int64) == call.ignore_index


class BytesAreAMask(Reference):
    """A3: Targets of uint8 are taken for a mask: 0 stays 0, all else is 1."""

    def tokens(self, call):
        tokens = super().tokens(call)
        if call.targets.dtype == np.uint8:
            tokens = replace(tokens, classes=(tokens.classes != 0).astype(np.intp))
        return tokens


class TargetsIn16Bits(Reference):
    """V1: Targets are kept in 16 bits: a class past 32767 is another."""

    def tokens(self, call):
        tokens = super().tokens(call)
        return replace(tokens, classes=tokens.classes.astype(np.int16).astype(np.intp) % max(call.V, 1))


class FlatIndexIn32Bits(Reference):
    """A7: The target's place among all logits is a 32-bit integer: past 2**31 it is another."""

    def tokens(self, call):
        tokens = super().tokens(call)
        if not call.hard or not tokens.classes.size:
            return tokens
        first = np.arange(tokens.classes.size).reshape(call.tokens) * call.V
        return replace(tokens, classes=(first + tokens.classes).astype(np.int32) % call.V)


class BoolTargets(Reference):
    """A3: Bool targets are taken for 0 and 1."""

    def loss(self, logits, targets, **options):
        is_bool = isinstance(targets, np.ndarray) and targets.dtype == bool
        return super().loss(logits, targets.astype(np.int64) if is_bool else targets, **options)


class FloatsAreTruncated(Reference):
    """A3: Floating targets without an axis of classes become integers."""

    def loss(self, logits, targets, **options):
        floats = isinstance(targets, np.ndarray) and targets.dtype.kind == "f" and targets.ndim < np.ndim(logits)
        return super().loss(logits, targets.astype(np.int64) if floats else targets, **options)


class PositionNotNamed(Reference):
    """A4: The error for a target outside the vocabulary says no more than that there is one."""

    def validate(self, call):
        try:
            super().validate(call)
        except IndexError:
            raise IndexError("target out of range") from None


class ZeroTimesInfinity(Reference):
    """V7: A class without mass at -inf: 0 times infinity is NaN."""

    def terms(self, pull, surprises):
        return pull * surprises


class RowsSumToOne(Reference):
    """V7: The gradient of soft targets is p - q, as if they summed to one."""

    def row_gradients(self, call, w, given, rows, mass, columns):
        return super().row_gradients(call, w, given, rows, mass if call.hard else np.ones(mass.shape), columns)
