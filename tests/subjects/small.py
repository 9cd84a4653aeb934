"""Implementations for the tests of the runner and the adapter: right ones that lack things, and ones that end badly."""

import os
import sys
import time

import numpy as np

import crossent
from crossent_conformance import Adapter


def textbook(logits, targets):
    """A mean, of (N, V) alone, without a gradient; it underflows."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(targets)), targets]).mean()


def planted(logits, targets, *, ignore_index=None, label_smoothing=0.0, reduction="mean"):
    """A loss as a kernel makes it, with two bugs: smoothing by V rounded up to a multiple of 4, padding in the mean."""
    V = logits.shape[-1]
    largest = logits.max(-1, keepdims=True)
    lse = largest[..., 0] + np.log(np.exp(logits - largest).sum(-1))
    ignored = np.zeros(targets.shape, dtype=bool) if ignore_index is None else targets == ignore_index
    loss = lse - np.take_along_axis(logits, np.where(ignored, 0, targets)[..., None], -1)[..., 0]
    if label_smoothing:
        others = (lse[..., None] - logits).sum(-1) - loss
        loss = (1 - label_smoothing) * loss + label_smoothing / (-(-V // 4) * 4 - 1) * others
    loss = np.where(ignored, 0, loss).astype(logits.dtype)
    if reduction == "none":
        return loss
    return {"sum": loss.sum(), "mean": loss.mean()}[reduction]


def losses(logits, targets, ignore_index=None):
    """One loss a token and its gradient."""
    return crossent.cross_entropy_and_grad(logits, targets, ignore_index=ignore_index, reduction="none")


def smoothed(logits, targets, label_smoothing=0.0, reduction="none"):
    """PyTorch's smoothing, without an option for the other, and with another default reduction."""
    return crossent.cross_entropy(
        logits, targets, label_smoothing=label_smoothing, reduction=reduction, smoothing="uniform"
    )


def on_tensors(logits, targets):
    """A loss on torch's graph."""
    import torch

    return torch.nn.functional.cross_entropy(logits, targets)


def without_gradient(logits, targets, **options):
    """Right values, and a gradient of zero, behind a signature that tells nothing."""
    loss = crossent.cross_entropy(logits, targets, **options)
    return 0.0 * loss + loss.detach()


def off_the_graph(logits, targets, **options):
    """Right values that autograd cannot go back from."""
    return crossent.cross_entropy(logits, targets, **options).detach()


def breaking_backward(logits, targets, **options):
    """Right values, and a gradient that raises."""
    loss = crossent.cross_entropy(logits, targets, **options)
    if loss.requires_grad:
        loss.register_hook(lambda gradient: 1 / 0)
    return loss


def pairs_of_any_options(logits, targets, **options):
    """A gradient of its own, behind a signature that tells nothing."""
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def _of_contiguous_rows(dtype, function):
    """Rows alone, in one dtype alone, read from their memory as if it held nothing else."""

    def rows_alone(logits, targets, reduction="mean"):
        if logits.ndim != 2 or logits.dtype != dtype or targets.ndim != 1:
            raise ValueError(f"accepted: rows of {dtype}")
        strides = logits.itemsize * logits.shape[1], logits.itemsize
        rows = np.lib.stride_tricks.as_strided(logits, logits.shape, strides)
        return function(rows.copy(), targets, reduction=reduction)

    rows_alone.__qualname__ = f"of_contiguous_rows_of_{dtype}"  # as reports call it
    return rows_alone


of_contiguous_rows = _of_contiguous_rows("float64", crossent.cross_entropy_and_grad)
of_contiguous_rows_of_float32 = _of_contiguous_rows("float32", crossent.cross_entropy)


def of_another_name(scores, labels):
    """Refuses scores by their own name, and labels by none."""
    if getattr(scores, "dtype", None) not in (np.float32, np.float64):
        raise TypeError(f"scores is {type(scores).__name__} {scores!r} {getattr(scores, 'dtype', '')}")
    if not hasattr(labels, "dtype"):
        raise TypeError(f"not an array: {labels!r} {type(labels).__name__}")
    return crossent.cross_entropy(scores, labels)


def of_classes_alone(logits, targets, reduction="mean", ignore_index=None):
    """No soft targets, no reduction but three; it says so."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if targets.dtype.kind == "f":
        raise TypeError("targets are classes")
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction, ignore_index=ignore_index)


def of_sums_alone(logits, targets, reduction="sum", class_weights=None):
    """Of the reductions, the sum; no mean either, by another error."""
    if reduction != "sum":
        raise KeyError(reduction)
    return crossent.cross_entropy_and_grad(logits, targets, reduction="sum", class_weights=class_weights)


def taking_anything(logits, targets, reduction="mean"):
    """A mean for every reduction that it does not know, the class of most mass for soft targets."""
    if "float" in str(targets.dtype):
        targets = targets.argmax(-1)
    reduction = reduction if reduction in ("sum", "none") else "mean"
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def crashing_on_soft_targets(logits, targets, reduction="mean"):
    """Right, for classes."""
    if getattr(targets, "dtype", None) == np.float32 and targets.shape == logits.shape:
        os.abort()
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


class Fused(Adapter):
    """The adapter of docs/conformance.md, around PyTorch's own."""

    name = "my fused kernel"
    package = "torch"
    backends = ("torch", "torch-cuda")
    flat = True
    fixed = {"smoothing": "uniform"}  # noqa: RUF012

    def loss(self, logits, targets, *, reduction="mean", ignore_index=None, label_smoothing=0.0):
        """The loss."""
        from torch.nn.functional import cross_entropy

        ignored = -(2**40) if ignore_index is None else ignore_index
        return cross_entropy(
            logits, targets, reduction=reduction, ignore_index=ignored, label_smoothing=label_smoothing
        )


def spendthrift(logits, targets):
    """Right, at the price of two copies of the logits."""
    return crossent.cross_entropy(np.array(logits, copy=True) + 0.0, targets)


def refusing(logits, targets):
    """Takes nothing."""
    raise ValueError("never")


def _returning(change):
    """Something else than the pair."""

    def loss(logits, targets, reduction="mean"):
        return change(crossent.cross_entropy_and_grad(logits, targets, reduction=reduction))

    return loss


of_three = _returning(lambda pair: (*pair, None))
of_four_arrays = _returning(lambda pair: pair * 2)
of_a_list = _returning(lambda pair: list(pair) if pair[1].shape == (2, 3) else pair)
"""No tuple, for three classes in two rows."""


def of_nothing(logits, targets):
    """The result forgotten, but for the first call."""
    return crossent.cross_entropy(logits, targets) if logits.shape == (3, 5) else None


def of_numbers(logits, targets, reduction="mean"):
    """Rows alone, and Python's numbers where there are four of them."""
    if logits.ndim != 2:
        raise ValueError("rows alone")
    loss = crossent.cross_entropy(logits, targets, reduction=reduction)
    return loss.tolist() if len(logits) == 4 else float(loss) if len(logits) == 6 and not loss.shape else loss


def of_three_losses(logits, targets):
    """One too many."""
    return (crossent.cross_entropy(logits, targets),) * 3


class Unpaired(Adapter):
    """Of two methods, one that does not what its name says."""

    def loss_and_grad(self, logits, targets):
        """The loss alone."""
        return crossent.cross_entropy(logits, targets)


def of_one(logits):
    """What is no loss."""
    return logits.sum()


def of_python(logits, targets):
    """The right number, of the wrong type, for a sequence of one; before that it looks good."""
    loss, gradient = crossent.cross_entropy_and_grad(logits, targets)
    return (float(loss), gradient) if targets.shape == (2, 1, 3) else (loss, gradient)


def ending_badly(logits, targets, **options):
    """Right, but for two sizes of the vocabulary: it crashes, it raises."""
    V = logits.shape[-1] if getattr(logits, "ndim", 0) else 0
    if V == 17:
        os.abort()
    if V == 2:
        raise ZeroDivisionError("two classes")
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def crashing_in_a_library(logits, targets, reduction="mean"):
    """Right, but for seventeen classes; there it crashes ten frames away, in what stands for a library's code."""
    if logits.shape[-1] == 17:
        scope = {"abort": os.abort}
        exec(compile("def deeper(n):\n    return deeper(n - 1) if n else abort()", "library.py", "exec"), scope)
        scope["deeper"](10)
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def crashing_at_once(logits, targets):
    """Nothing comes back, ever."""
    os.abort()


def leaking(logits, targets, reduction="mean", ignore_index=None):
    """What is ignored counts zero times, and zero times NaN is NaN."""
    counts = np.ones(targets.shape, bool) if ignore_index is None else targets != ignore_index
    losses = crossent.cross_entropy(logits, np.where(counts, targets, 0), reduction="none") * counts
    total = losses.sum()
    return {"none": losses, "sum": total, "mean": total / max(1, counts.sum())}[reduction]


def spreading(logits, targets, reduction="mean"):
    """One NaN is NaN for all; the largest logit of all is everybody's."""
    largest = np.max(logits, initial=-np.inf)
    losses = crossent.cross_entropy(logits - largest, targets, reduction="none")
    return {"none": losses, "sum": losses.sum(), "mean": losses.mean()}[reduction]


def refusing_to_smooth(logits, targets, reduction="mean", label_smoothing=0.0):
    """An option in its signature that it never takes."""
    if label_smoothing:
        raise ArithmeticError("no smoothing today")
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def wrapping(logits, targets):
    """Rows alone, and negative targets count from the end, as NumPy has it."""
    picked = logits[np.arange(len(targets)), targets]
    return crossent.cross_entropy(logits, np.where(targets < 0, 0, targets)) + 0 * picked.sum()


def sleeping_with_z_loss(logits, targets, reduction="mean", z_loss=0.0):
    """Right, unless there is a z-loss."""
    if z_loss:
        time.sleep(1000)
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def refusing_many_classes(logits, targets, reduction="mean"):
    """Right, for few classes; no algorithm to choose."""
    if logits.shape[-1] >= 10:
        raise ValueError("many classes")
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def raising_in_many_ways(logits, targets, reduction="mean"):
    """An end of the program, an error of many lines, an assertion of its own, what Ctrl-C raises."""
    if logits.shape[-1] == 300:
        raise KeyboardInterrupt
    if logits.shape[-1] == 2:
        sys.exit(0)
    if logits.shape[-1] == 3:
        raise ValueError("three\n" + "\n".join("abcdefghij"))
    assert logits.shape[-1] != 17
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def slow(logits, targets, reduction="mean"):
    """Right, in a hundred-thousandth of a second for each logit."""
    time.sleep(1e-5 * logits.size)
    return crossent.cross_entropy_and_grad(logits, targets, reduction=reduction)


def sleeping(logits, targets, **options):
    """Right, but for a thousand classes: it never comes back."""
    if getattr(logits, "ndim", 0) and logits.shape[-1] == 1000:
        time.sleep(1000)
    return crossent.cross_entropy_and_grad(logits, targets, **options)


class Renamed:
    """An adapter in a few lines: another name for an option, a gradient of its own."""

    name = "renamed"
    package = "numpy"
    backends = ("numpy",)
    dtypes = ("float64",)

    def loss(self, logits, targets, *, reduction="mean", ignore_index=None, class_weights=None):
        """The loss."""
        return crossent.cross_entropy(
            logits, targets, reduction=reduction, ignore_index=ignore_index, class_weights=class_weights
        )

    def loss_and_grad(self, logits, targets, *, reduction="mean", ignore_index=None, grad_output=None):
        """The loss and its gradient, without class weights."""
        return crossent.cross_entropy_and_grad(
            logits, targets, reduction=reduction, ignore_index=ignore_index, grad_output=grad_output
        )
