"""Optax: `softmax_cross_entropy_with_integer_labels`, and `softmax_cross_entropy` of one-hot or soft labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossent_conformance.adapter import is_soft
from crossent_conformance.implementation import Adapter
from crossent_conformance.peers import OfLogits, in_direction, refuse_soft

NAMES: Mapping[str, Any] = {"targets": "labels"}


class Integer(OfLogits):
    """`optax.softmax_cross_entropy_with_integer_labels`."""

    name = "optax.softmax_cross_entropy_with_integer_labels"
    package = "optax"
    backends = ("jax",)
    names: Mapping[str, Any] = NAMES

    def loss(self, logits, targets):
        import optax

        refuse_soft(logits, targets)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    def kl_divergence(self, logits, teacher_logits, *, direction="forward"):
        """`optax.kl_divergence`."""
        import jax
        import optax

        of, at = (jax.nn.log_softmax(x) for x in in_direction(direction, teacher_logits, logits))
        return optax.kl_divergence(at, jax.numpy.exp(of))


class Dense(Adapter):
    """`optax.softmax_cross_entropy`; hard targets are made one-hot, as its users do."""

    name = "optax.softmax_cross_entropy"
    package = "optax"
    backends = ("jax",)
    names: Mapping[str, Any] = NAMES

    def loss(self, logits, targets):
        import jax
        import optax

        hard = not is_soft(logits, targets)
        labels = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype) if hard else targets
        return optax.softmax_cross_entropy(logits, labels)


integer, dense = Integer(), Dense()
