"""Faults in the gradient alone: the loss is right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class MeanNotDivided(Reference):
    """V5: The gradient of a mean is that of the sum."""

    def scale(self, call, grad_output, divisor):
        return super().scale(call, grad_output, np.ones(divisor.shape))


class GradOutputIgnored(Reference):
    """R6: grad_output is not looked at."""

    def scale(self, call, grad_output, divisor):
        return super().scale(call, None, divisor)


class GradOutputIgnoredForNone(Reference):
    """R6: grad_output scales a mean or a sum; for the losses of the tokens it is not looked at."""

    def scale(self, call, grad_output, divisor):
        return super().scale(call, None if call.reduction == "none" else grad_output, divisor)


class GradOutputAlongTheWrongAxis(Reference):
    """R6: Token for token, grad_output is taken along the wrong axis."""

    def scale(self, call, grad_output, divisor):
        if grad_output is not None and np.ndim(grad_output) > 1:
            grad_output = np.transpose(grad_output).reshape(np.shape(grad_output))
        return super().scale(call, grad_output, divisor)


class ClassWeightsOnlyInTheGradient(Reference):
    """V9: Class weights multiply the gradient alone."""

    def row_losses(self, call, x, given, rows):
        loss, _ = super().row_losses(replace(call, class_weights=None), x, given, rows)
        return loss, super().row_losses(call, x, given, rows)[1]


class SmoothingNotInTheGradient(Reference):
    """V8: The loss is smoothed, the gradient is p - one_hot."""

    def row_gradients(self, call, w, given, rows, mass, columns):
        if call.label_smoothing and call.hard and call.class_weights is None:
            call, mass = replace(call, label_smoothing=0.0), np.ones(mass.shape)
        return super().row_gradients(call, w, given, rows, mass, columns)


class ClippedTermsHaveAGradient(Reference):
    """V10: algorithm="explicit" clips the value of a probability, and its gradient flows all the same."""

    def clipped(self, call, w, rows):
        return np.zeros(w.shape, dtype=bool)


class GradientInSinglePrecision(Reference):
    """A1: The gradient of half-precision logits comes back in float32."""

    def memory(self, call):
        return np.empty(call.logits.shape, call.compute_dtype)
