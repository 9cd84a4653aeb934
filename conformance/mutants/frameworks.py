"""Faults that need a framework: `crossent` itself, broken where torch, JAX or array-api-strict takes it."""

from __future__ import annotations

from typing import Any

import numpy as np

import crossent
from crossent_conformance.subjects_crossent import Crossent


class _Torch(Crossent):
    """Not a fault by itself: only what torch alone shows is asked, and of one dtype."""

    backends = ("torch",)
    dtypes = ("float64",)

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        return crossent.cross_entropy(logits, targets, **options)

    def loss_and_grad(self, logits: Any, targets: Any, **options: Any) -> Any:
        return crossent.cross_entropy_and_grad(logits, targets, **options)


class OffTheGraph(_Torch):
    """D1: The loss comes back without its graph."""

    def loss(self, logits, targets, **options):
        return super().loss(logits.detach(), targets, **options)


class NoSecondDerivative(_Torch):
    """D1: The gradient is a constant to whatever is differentiated next."""

    def loss(self, logits, targets, **options):
        here = logits.detach()
        loss = super().loss(here, targets, **options)
        step = (super().loss_and_grad(here, targets, **options)[1] * (logits - here)).sum(-1)
        for _ in range(step.ndim - loss.ndim):
            step = step.sum(-1)
        return loss + step


class LooksAtEveryLogit(_Torch):
    """A6: Whether all logits are numbers is read back in every call."""

    def loss(self, logits, targets, **options):
        if not logits.isfinite().all().item():
            options = {**options}
        return super().loss(logits, targets, **options)


class MeanOverNothingIsZero(_Torch):
    """D2: What stands for PyTorch's function has the contract's mean over nothing but ignored targets."""

    @property
    def drop_in(self) -> Any:
        import torch

        from crossent.torch import cross_entropy

        def dropped_in(*arguments: Any, **options: Any) -> Any:
            return torch.nan_to_num(cross_entropy(*arguments, **options))

        return dropped_in


class ScaledInPlace(_Torch):
    """L3: The gradients of the linear loss, made with it, are scaled where they are kept: the second time once more."""

    def linear(self, hidden: Any, weight: Any, targets: Any, *, bias: Any = None, **options: Any) -> Any:
        import torch

        loss, kept = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, bias=bias, **options)

        class Loss(torch.autograd.Function):
            @staticmethod
            def forward(_ctx, *_leaves):
                return loss

            @staticmethod
            def backward(_ctx, g):
                return tuple(d if d is None else d.mul_(g.mean()).clone() for d in kept)

        return Loss.apply(hidden, weight, bias)


class _Strict(Crossent):
    backends = ("array-api-strict",)

    def loss_and_grad(self, logits: Any, targets: Any, **options: Any) -> Any:
        gradient = crossent.cross_entropy_and_grad(logits, targets, **options)[1]
        options.pop("grad_output", None)
        options.pop("out", None)
        return self.loss(logits, targets, **options), gradient


class BooleanIndexing(_Strict):
    """A11: Ignored tokens are taken out by a mask, whose result has a shape that depends on data."""

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        ignored = options.get("ignore_index")
        if ignored is not None and options.get("reduction", "mean") == "mean" and "weights" not in options:
            kept = targets != ignored
            logits, targets = logits[kept], targets[kept]
        return crossent.cross_entropy(logits, targets, **options)


class SummedInFloat64(_Strict):
    """A12: A mean is made in float64, whatever the device has."""

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        loss = crossent.cross_entropy(logits, targets, **options)
        xp = logits.__array_namespace__()
        return xp.astype(xp.astype(loss, xp.float64), loss.dtype)


class IndexedTargets(Crossent):
    """A13: The logits of targets are looked up by an index, which arrays on a mesh of explicit axes do not take."""

    backends = ("jax",)
    dtypes = ("float32",)

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        loss = crossent.cross_entropy(logits, targets, **options)
        if logits.ndim == 2:
            loss = loss + 0 * logits[np.arange(len(logits)), targets].sum()
        return loss
