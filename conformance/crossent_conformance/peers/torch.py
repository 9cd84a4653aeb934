"""`torch.nn.functional.cross_entropy` and `linear_cross_entropy`.

The linear ones are given the logits as hidden states and the identity as the weight: a product that changes no
finite logit, and makes NaN of all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossent_conformance.implementation import Adapter
from crossent_conformance.peers import identity, in_direction, refuse_soft, refuse_soft_of_classes, usual


class Functional(Adapter):
    """`torch.nn.functional.cross_entropy`, and what PyTorch's others have in common with it."""

    name = "torch.nn.functional.cross_entropy"
    package = "torch"
    backends: tuple[str, ...] = ("torch", "torch-cuda")
    flat = True
    fixed: Mapping[str, Any] = {"smoothing": "uniform"}
    names: Mapping[str, Any] = {"logits": "input", "targets": "target", "class_weights": "weight"}

    def loss(self, logits, targets, *, class_weights=None, ignore_index=None, reduction="mean", label_smoothing=0.0):
        return self.function(
            logits, targets, **_options(logits, class_weights, ignore_index, reduction, label_smoothing)
        )

    def function(self, logits, targets, **options):
        """What is asked."""
        from torch.nn import functional

        return functional.cross_entropy(logits, targets, **options)


def _options(like, class_weights, ignore_index, reduction, label_smoothing=0.0):
    # The weights have to be of the dtype of the logits; what is no tensor is left to PyTorch to refuse.
    weight = class_weights.to(like.dtype) if hasattr(class_weights, "to") else class_weights
    return {"weight": weight, "label_smoothing": label_smoothing, **usual(reduction, ignore_index)}


class Usual(Functional):
    """The same, beside what PyTorch's users make of its other functions for what rows tell besides their loss."""

    def token_log_probs(self, logits, token_ids):
        """`log_softmax`, of which classes are gathered."""
        from torch.nn import functional

        several = token_ids if token_ids.ndim == logits.ndim else token_ids[:, None]
        return functional.log_softmax(logits, dim=-1).gather(-1, several).reshape(token_ids.shape)

    def entropy(self, logits):
        """`torch.distributions.Categorical`."""
        from torch.distributions import Categorical

        return Categorical(logits=logits).entropy()

    def kl_divergence(self, logits, teacher_logits, *, direction="forward"):
        """`F.kl_div` of logarithms."""
        from torch.nn import functional

        of, at = in_direction(direction, teacher_logits, logits)
        logs = functional.log_softmax(at, dim=-1), functional.log_softmax(of, dim=-1)
        return functional.kl_div(*logs, reduction="none", log_target=True).sum(-1)


class LogSoftmax(Functional):
    """`nll_loss` of `log_softmax`, as older code has it."""

    name = "torch.nn.functional.nll_loss of log_softmax"

    def loss(self, logits, targets, *, class_weights=None, ignore_index=None, reduction="mean"):  # type: ignore[override]
        refuse_soft(logits, targets)
        options = _options(logits, class_weights, ignore_index, reduction)
        del options["label_smoothing"]
        return self.function(logits, targets, **options)

    def function(self, logits, targets, **options):
        from torch.nn import functional

        return functional.nll_loss(functional.log_softmax(logits, dim=-1), targets, **options)


class Linear(Functional):
    """`torch.nn.functional.linear_cross_entropy`, its reference path."""

    name = "torch.nn.functional.linear_cross_entropy"

    def function(self, logits, targets, **options):
        return _linear(logits, targets, **options)

    def linear(
        self,
        hidden,
        weight,
        targets,
        *,
        bias=None,
        class_weights=None,
        ignore_index=None,
        reduction="mean",
        label_smoothing=0.0,
    ):
        """The function as it is."""
        from torch.nn import functional

        options = _options(hidden, class_weights, ignore_index, reduction, label_smoothing)
        return functional.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, **options)


class Chunked(Functional):
    """`torch.nn.functional.linear_cross_entropy` in chunks; with label smoothing it would take the other path."""

    name = "torch.nn.functional.linear_cross_entropy, chunked"

    def loss(self, logits, targets, *, class_weights=None, ignore_index=None, reduction="mean"):  # type: ignore[override]
        refuse_soft(logits, targets)
        return super().loss(
            logits, targets, class_weights=class_weights, ignore_index=ignore_index, reduction=reduction
        )

    def function(self, logits, targets, **options):
        from torch.nn import LinearCrossEntropyOptions

        return _linear(logits, targets, options=LinearCrossEntropyOptions(), **options)

    def linear(
        self,
        hidden,
        weight,
        targets,
        *,
        bias=None,
        memory=None,
        class_weights=None,
        ignore_index=None,
        reduction="mean",
    ):
        """The function as it is; `memory` is what the logits of a chunk may take."""
        from torch.nn import LinearCrossEntropyOptions, functional

        refuse_soft_of_classes(targets)
        rows = None if memory is None else max(1, memory // weight[:, :1].nbytes)
        options = _options(hidden, class_weights, ignore_index, reduction)
        chunks = LinearCrossEntropyOptions(batch_chunk_size=rows)
        return functional.linear_cross_entropy(hidden, weight, targets, linear_bias=bias, options=chunks, **options)


def _linear(logits, targets, **options):
    from torch.nn import functional

    return functional.linear_cross_entropy(logits, identity(logits), targets, **options)


functional, log_softmax, linear, chunked = Usual(), LogSoftmax(), Linear(), Chunked()
