"""Faults in what a temperature and a softcap mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from crossent_conformance.reference import Reference


class TemperatureAfterSoftcap(Reference):
    """V12: The softcap comes first and the temperature after it: c tanh(x/c)/T."""

    def seen(self, call, x):
        return super().seen(replace(call, temperature=1.0), x) / call.temperature

    def steepness(self, call, x):
        return super().steepness(replace(call, temperature=1.0), x) / call.temperature


class SlopeForgotten(Reference):
    """V12: The gradient is that of the bounded logits: the derivative of the hyperbolic tangent is left out."""

    def steepness(self, call, x):
        return 1 / call.temperature


class TemperatureForgotten(Reference):
    """V12: The gradient is not divided by the temperature."""

    def steepness(self, call, x):
        return super().steepness(call, x) * call.temperature


class SlopeCancels(Reference):
    """V12: The derivative as 1 - tanh**2 in float32, which is 0 where the softcap is nearly reached."""

    def steepness(self, call, x):
        if call.logit_softcap is None:
            return super().steepness(call, x)
        t = (self.seen(call, x) / call.logit_softcap).astype(np.float32)
        return (1 - t * t) / call.temperature


class HalvesBounded(Reference):
    """V12: The hyperbolic tangent of half-precision logits is taken in half precision."""

    def seen(self, call, x):
        y = super().seen(call, x)
        return y if call.logit_softcap is None else y.astype(x.dtype).astype(np.float64)


class InfinityBounded(Reference):
    """V12: A row with +inf is NaN even where a softcap makes a number of it."""

    def seen(self, call, x):
        return np.where(np.isposinf(x), np.nan, super().seen(call, x))
