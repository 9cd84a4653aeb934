"""The cross-entropy of tutorials, in NumPy: softmax less the maximum, a logarithm with 1e-10 added, the mean.

Written here, after no guide in particular; what they share is the constant that keeps log(0) away.
"""

from __future__ import annotations

import numpy as np

from crossent_conformance.peers import OfLogits, in_direction, refuse_soft


class Textbook(OfLogits):
    """−mean(log(softmax(x)_t + 1e-10)), and softmax − one-hot for its gradient."""

    name = "textbook NumPy"
    backends = ("numpy",)
    flat = True

    def loss_and_grad(self, logits, targets):
        refuse_soft(logits, targets)
        probabilities = _softmax(logits)
        rows = np.arange(len(targets))
        loss = -np.mean(np.log(probabilities[rows, targets] + 1e-10))
        probabilities[rows, targets] -= 1
        return loss, probabilities / len(targets)

    def loss(self, logits, targets):
        return self.loss_and_grad(logits, targets)[0]

    def token_log_probs(self, logits, token_ids):
        several = token_ids if token_ids.ndim == logits.ndim else token_ids[:, None]
        return np.log(np.take_along_axis(_softmax(logits), several, 1) + 1e-10).reshape(token_ids.shape)

    def entropy(self, logits):
        p = _softmax(logits)
        return -np.sum(p * np.log(p + 1e-10), axis=1)

    def kl_divergence(self, logits, teacher_logits, *, direction="forward"):
        a, b = map(_softmax, in_direction(direction, teacher_logits, logits))
        return np.sum(a * np.log((a + 1e-10) / (b + 1e-10)), axis=1)


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


textbook = Textbook()
