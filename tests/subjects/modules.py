"""Losses in the shapes that libraries give them, for the tests of how modules are read.

What stands for Keras, Flax and Equinox has their conventions: names, order, constructor, methods.
"""

import dataclasses
import functools

import jax
import torch

import crossent
from crossent_conformance import Adapter


class Forward(torch.nn.Module):
    """PyTorch's names, its signature behind `forward`, and an option more."""

    def __init__(self, weight=None, ignore_index=-100, reduction="mean", lse_square_scale=0.0):
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index, self.reduction, self.lse_square_scale = ignore_index, reduction, lse_square_scale

    def forward(self, input, target):
        """The loss."""
        ignored = None if self.ignore_index == -100 else self.ignore_index
        return crossent.cross_entropy(
            input,
            target,
            class_weights=self.weight,
            ignore_index=ignored,
            reduction=self.reduction,
            z_loss=self.lse_square_scale,
        )


of_sums = Forward(reduction="sum", ignore_index=0)
weighed = Forward(weight=torch.ones(3))


class Bare(torch.nn.Module):
    """A module that names no option, and has no constructor of its own."""

    def forward(self, logits, targets):
        return crossent.cross_entropy(logits, targets)


class Holding(torch.nn.Module):
    """One that has another as its `loss`."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.loss = Forward(reduction=reduction)

    def forward(self, input, target):
        """Twice that loss."""
        return 2 * self.loss(input, target)


holding = Holding()


class KerasLoss:
    """Keras's base class: the targets first, the reduction in `__call__`, the loss in `call`."""

    def __init__(self, name=None, reduction="sum_over_batch_size", dtype=None):
        self.name, self.reduction, self.dtype = name, reduction, dtype

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss of the reduction."""
        reductions = {"mean_with_sample_weight": "mean", "sum_over_batch_size": "mean", "sum": "sum", "none": "none"}
        every = {"denominator": y_true.size} if self.reduction == "sum_over_batch_size" else {}
        if str(y_pred.dtype) != self.dtype:
            raise TypeError(f"computes in {self.dtype}")
        return self.call(y_true, y_pred, weights=sample_weight, reduction=reductions[self.reduction], **every)


class Sparse(KerasLoss):
    """Keras's sparse one: probabilities, unless it is told otherwise."""

    def __init__(self, from_logits=False, ignore_class=None, **others):
        super().__init__(**others)
        self.from_logits, self.ignore_class = from_logits, ignore_class

    def call(self, y_true, y_pred, **options):
        """Of logits alone."""
        assert self.from_logits
        return crossent.cross_entropy(y_pred, y_true, ignore_index=self.ignore_class, **options)


of_probabilities = Sparse()


class Layer:
    """As Keras's layers: `__call__` tells nothing, `call` everything."""

    def __call__(self, *args, **kwargs):
        """The loss."""
        return self.call(*args, **kwargs)

    def call(self, targets, inputs):
        """The targets first."""
        return crossent.cross_entropy(inputs, targets)


def sparse(y_true, y_pred, from_logits=False, ignore_class=None):
    """Keras's function."""
    return Sparse(from_logits=from_logits, ignore_class=ignore_class, reduction="none", dtype=str(y_pred.dtype))(
        y_true, y_pred
    )


@dataclasses.dataclass(frozen=True)
class Linen:
    """As Flax's: a dataclass that is called through `apply`, with variables."""

    label_smoothing: float = 0.0
    reduction: str = "mean"
    parent: object = None

    def init(self, key, *arguments):
        """No variables."""
        return {}

    def apply(self, variables, *arguments, **options):
        """The call, once there are variables."""
        assert variables == {}
        return self._bound(*arguments, **options)

    def __call__(self, labels, logits, sample_weight=None):
        """What cannot be called without."""
        raise RuntimeError("unbound")

    def _bound(self, labels, logits, sample_weight=None):
        return crossent.cross_entropy(
            logits,
            labels,
            weights=sample_weight,
            label_smoothing=self.label_smoothing,
            smoothing="uniform",
            reduction=self.reduction,
        )


smoothed = Linen(label_smoothing=0.25)


@dataclasses.dataclass(frozen=True)
class Equinox:
    """As Equinox's: a dataclass that is called."""

    reduction: str = "mean"

    def __call__(self, logits, labels):
        """The loss."""
        return crossent.cross_entropy(logits, labels, reduction=self.reduction)


@functools.partial(jax.jit, static_argnames="reduction")
def jitted(logits, labels, reduction="sum"):
    """Compiled, with another default."""
    return crossent.cross_entropy(logits, labels, reduction=reduction)


def apex_like(input, label, smoothing=0.0, padding_idx=0):
    """An amount called smoothing, and an ignored class that is a class."""
    return crossent.cross_entropy(
        input, label, label_smoothing=smoothing, smoothing="uniform", ignore_index=padding_idx, reduction="none"
    )


def in_a_dictionary(logits, targets, reduction="mean"):
    """The loss among other things."""
    loss = crossent.cross_entropy(logits, targets, reduction=reduction)
    return {"loss": loss, "logits": logits}


def in_a_tuple(logits, target, weight=None):
    """The loss first, two more."""
    return crossent.cross_entropy(logits, target, class_weights=weight), logits, None


class OfADictionary(Adapter):
    """Two lines."""

    loss = staticmethod(in_a_dictionary)
    result = "loss"


class OfATuple(Adapter):
    """The same by number, of a function with names of its own."""

    loss = staticmethod(in_a_tuple)
    result = 0


class OfAnAttribute(Adapter):
    """Of a class, what a result has as an attribute."""

    loss = Forward
    result = "real"


class OfNothing(OfADictionary):
    """An entry that there is not."""

    result = "losses"
