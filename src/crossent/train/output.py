"""The output layer and its loss, from hidden states on: by logits of all tokens, or of a block of tokens at a time.

The two are called alike, so that a model ends at its hidden states and does not know which of them follows.
"""

from __future__ import annotations

from typing import Any

import crossent
from crossent.types import Array, Namespace

BLOCKS = 2**21
"""Bytes of the blocks of tokens: the logits of the demo are few, and by default one block would hold them all."""


class Logits:
    """What `crossent.LinearCrossEntropyLoss` does, by logits that are made: the output layer, the loss, and back."""

    def __init__(self, xp: Namespace, **options: Any) -> None:
        """Of a namespace of the standard, with the options of `crossent.CrossEntropyLoss`."""
        self.xp = xp
        self._loss = crossent.CrossEntropyLoss(**options)

    def forward(self, hidden: Array, weight: Array, targets: Array, bias: Array) -> Array:
        """The loss of hidden states (..., D), weight (V, D) and bias (V,), with targets (...)."""
        self._shape, self._weight = hidden.shape, weight
        # All rows at once: a stack of small products is slower in every library.
        self._rows = self.xp.reshape(hidden, (-1, hidden.shape[-1]))
        logits = self._rows @ weight.T
        logits += bias
        return self._loss.forward(logits, self.xp.reshape(targets, (-1,)))

    def backward(self) -> tuple[Array, Array, Array]:
        """The gradients of hidden states, weight and bias."""
        d = self._loss.backward()
        d_hidden = self.xp.reshape(d @ self._weight, self._shape)
        return d_hidden, d.T @ self._rows, self.xp.sum(d, axis=0)


def loss(xp: Namespace, linear: bool, **options: Any) -> Logits | crossent.LinearCrossEntropyLoss:
    """The loss with those options, without logits of all tokens where it is linear."""
    return crossent.LinearCrossEntropyLoss(memory=BLOCKS, **options) if linear else Logits(xp, **options)
