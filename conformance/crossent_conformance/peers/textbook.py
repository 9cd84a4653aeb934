"""The cross-entropy of tutorials, in NumPy: softmax less the maximum, a logarithm with 1e-10 added, the mean.

Written here, after no guide in particular; what they share is the constant that keeps log(0) away.
"""

from __future__ import annotations

import numpy as np

from crossent_conformance.implementation import Adapter
from crossent_conformance.peers import product, refuse_soft, refuse_soft_of_classes


class Textbook(Adapter):
    """−mean(log(softmax(x)_t + 1e-10)), and softmax − one-hot for its gradient."""

    name = "textbook NumPy"
    backends = ("numpy",)
    flat = True

    def loss_and_grad(self, logits, targets):
        refuse_soft(logits, targets)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        rows = np.arange(len(targets))
        loss = -np.mean(np.log(probabilities[rows, targets] + 1e-10))
        probabilities[rows, targets] -= 1
        return loss, probabilities / len(targets)

    def linear(self, hidden, weight, targets, *, bias=None):
        """Of a product before it."""
        refuse_soft_of_classes(targets)
        return self.loss(product(hidden, weight, bias), targets)

    def loss(self, logits, targets):
        return self.loss_and_grad(logits, targets)[0]


textbook = Textbook()
