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


def of_contiguous_rows(logits, targets, reduction="mean"):
    """Rows alone, in float64 alone, read from their memory as if it held nothing else."""
    if logits.ndim != 2 or logits.dtype != np.float64 or targets.ndim != 1:
        raise ValueError("accepted: rows of float64")
    rows = np.lib.stride_tricks.as_strided(logits, logits.shape, (8 * logits.shape[1], 8))
    return xent.cross_entropy_and_grad(rows.copy(), targets, reduction=reduction)


def of_another_name(scores, labels):
    """Refuses scores by their own name, and labels by none."""
    if getattr(scores, "dtype", None) not in (np.float32, np.float64):
        raise TypeError(f"scores is {type(scores).__name__} {scores!r} {getattr(scores, 'dtype', '')}")
    if not hasattr(labels, "dtype"):
        raise TypeError(f"not an array: {labels!r} {type(labels).__name__}")
    return xent.cross_entropy(scores, labels)


def spendthrift(logits, targets):
    """Right, at the price of two copies of the logits."""
    return xent.cross_entropy(np.array(logits, copy=True) + 0.0, targets)


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
