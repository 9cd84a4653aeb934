"""Faults in what is refused, and how."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class NoReasons(Reference):
    """A5: Errors are of the right type and say nothing."""

    def validate(self, call):
        try:
            super().validate(call)
        except (TypeError, ValueError) as error:
            raise type(error)("invalid argument") from None


class RawWords(Reference):
    """A15: A word that is refused stands in the error as it was given."""

    def validate(self, call):
        try:
            super().validate(call)
        except ValueError as error:
            given = repr(call.reduction) if isinstance(call.reduction, str) else ""
            raise ValueError(str(error).replace(given, str(call.reduction)) if given else str(error)) from None


class Assertions(Reference):
    """A5: What is refused fails an assertion: another type, and nothing at all under -O."""

    def validate(self, call):
        try:
            super().validate(call)
        except (TypeError, ValueError) as error:
            raise AssertionError(str(error)) from None


class AnyReduction(Reference):
    """A5: A reduction that there is not is taken for the mean."""

    def loss(self, logits, targets, **options):
        known = options.get("reduction", "mean") in ("none", "sequence", "mean", "sum")
        return super().loss(logits, targets, **(options if known else {**options, "reduction": "mean"}))


class ClassWeightsBroadcast(Reference):
    """A5: Class weights of one element hold for every class."""

    def loss(self, logits, targets, **options):
        weights = options.get("class_weights")
        if isinstance(weights, np.ndarray) and weights.shape == (1,):
            options["class_weights"] = np.repeat(weights, np.shape(logits)[-1])
        return super().loss(logits, targets, **options)


class TargetsReshaped(Reference):
    """A5: Targets of another shape and as many elements are reshaped."""

    def validate(self, call):
        targets = call.targets
        are_arrays = isinstance(targets, np.ndarray) and isinstance(call.logits, np.ndarray) and call.logits.ndim
        if are_arrays and targets.dtype.kind in "iu" and targets.size == np.prod(call.tokens):
            call = replace(call, targets=targets.reshape(call.tokens))
        super().validate(call)

    def tokens(self, call):
        return super().tokens(replace(call, targets=call.targets.reshape(call.tokens)) if call.hard else call)


class SmoothingPastOne(Reference):
    """A5: A label smoothing of any size is taken."""

    def validate(self, call):
        number = isinstance(call.label_smoothing, float)
        super().validate(replace(call, label_smoothing=0.0) if number else call)
