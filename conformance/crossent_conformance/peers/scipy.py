"""SciPy has no cross-entropy; these are the two that its users write, from `logsumexp` and from `log_softmax`.

The first has a gradient: SciPy documents `softmax` as the gradient of `logsumexp`, which leaves softmax − one-hot for
the loss. With `log_softmax`, values alone are checked.
"""

from __future__ import annotations

import numpy as np

from crossent_conformance.implementation import Adapter
from crossent_conformance.peers import in_direction, refuse_soft


class LogSumExp(Adapter):
    """`scipy.special.logsumexp(x) − x_t`."""

    name = "scipy.special.logsumexp − x_t"
    package = "scipy"
    backends = ("numpy",)

    def loss(self, logits, targets):
        from scipy.special import logsumexp

        return logsumexp(logits, axis=-1) - _of_targets(logits, targets)

    def loss_and_grad(self, logits, targets):
        from scipy.special import softmax

        loss, d_logits = self.loss(logits, targets), softmax(logits, axis=-1)
        np.put_along_axis(d_logits, targets[..., None], _of_targets(d_logits, targets)[..., None] - 1, -1)
        return loss, d_logits


class LogSoftmax(Adapter):
    """`−scipy.special.log_softmax(x)[t]`."""

    name = "−scipy.special.log_softmax"
    package = "scipy"
    backends = ("numpy",)

    def loss(self, logits, targets):
        from scipy.special import log_softmax

        return -_of_targets(log_softmax(logits, axis=-1), targets)

    def token_log_probs(self, logits, token_ids):
        from scipy.special import log_softmax

        if token_ids.ndim == logits.ndim:
            return np.take_along_axis(log_softmax(logits, axis=-1), token_ids, -1)
        return _of_targets(log_softmax(logits, axis=-1), token_ids)

    def entropy(self, logits):
        """`scipy.stats.entropy` of probabilities."""
        from scipy.special import softmax
        from scipy.stats import entropy

        return entropy(softmax(logits, axis=-1), axis=-1)

    def kl_divergence(self, logits, teacher_logits, *, direction="forward"):
        """The sum of `scipy.special.rel_entr` of probabilities."""
        from scipy.special import rel_entr, softmax

        return rel_entr(*(softmax(x, axis=-1) for x in in_direction(direction, teacher_logits, logits))).sum(axis=-1)


def _of_targets(rows, targets):
    refuse_soft(rows, targets)
    return np.take_along_axis(rows, targets[..., None], -1)[..., 0]


logsumexp, log_softmax = LogSumExp(), LogSoftmax()
