"""Implementations for the tests of the runner and the adapter: right ones that lack things, and ones that end badly."""

import os
import time

import numpy as np

import xent


def textbook(logits, targets):
    """A mean, of (N, V) alone, without a gradient; it underflows."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(targets)), targets]).mean()


def losses(logits, targets, ignore_index=None):
    """One loss a token and its gradient."""
    return xent.cross_entropy_and_grad(logits, targets, ignore_index=ignore_index, reduction="none")


def smoothed(logits, targets, label_smoothing=0.0, reduction="none"):
    """PyTorch's smoothing, without an option for the other, and with another default reduction."""
    return xent.cross_entropy(
        logits, targets, label_smoothing=label_smoothing, reduction=reduction, smoothing="uniform"
    )


def on_tensors(logits, targets):
    """A loss on torch's graph."""
    import torch

    return torch.nn.functional.cross_entropy(logits, targets)


def refusing(logits, targets):
    """Takes nothing."""
    raise ValueError("never")


def of_python(logits, targets):
    """The right number, of the wrong type, for a sequence of one; before that it looks good."""
    loss, gradient = xent.cross_entropy_and_grad(logits, targets)
    return (float(loss), gradient) if targets.shape == (2, 1, 3) else (loss, gradient)


def ending_badly(logits, targets, **options):
    """Right, but for two sizes of the vocabulary: it crashes, it raises."""
    V = logits.shape[-1] if getattr(logits, "ndim", 0) else 0
    if V == 17:
        os.abort()
    if V == 2:
        raise ZeroDivisionError("two classes")
    return xent.cross_entropy_and_grad(logits, targets, **options)


def sleeping(logits, targets, **options):
    """Right, but for a thousand classes: it never comes back."""
    if getattr(logits, "ndim", 0) and logits.shape[-1] == 1000:
        time.sleep(1000)
    return xent.cross_entropy_and_grad(logits, targets, **options)


class Renamed:
    """An adapter in a few lines: another name for an option, a gradient of its own."""

    name = "renamed"
    package = "numpy"
    backends = ("numpy",)
    dtypes = ("float64",)

    def loss(self, logits, targets, *, reduction="mean", ignore_index=None, class_weights=None):
        """The loss."""
        return xent.cross_entropy(
            logits, targets, reduction=reduction, ignore_index=ignore_index, class_weights=class_weights
        )

    def loss_and_grad(self, logits, targets, *, reduction="mean", ignore_index=None, grad_output=None):
        """The loss and its gradient, without class weights."""
        return xent.cross_entropy_and_grad(
            logits, targets, reduction=reduction, ignore_index=ignore_index, grad_output=grad_output
        )
