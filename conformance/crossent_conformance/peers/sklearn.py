"""`sklearn.metrics.log_loss`, of the probabilities that `scipy.special.softmax` gives. A metric: it has no gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crossent_conformance.implementation import Adapter, DoesNotApply
from crossent_conformance.peers import refuse_soft


class LogLoss(Adapter):
    """`sklearn.metrics.log_loss`."""

    name = "sklearn.metrics.log_loss"
    package = "scikit-learn"
    backends = ("numpy",)
    flat = True
    fixed: Mapping[str, Any] = {"reduction": "mean"}
    names: Mapping[str, Any] = {"logits": "y_pred", "targets": "y_true", "weights": "sample_weight"}

    def loss(self, logits, targets, *, weights=None):
        from scipy.special import softmax
        from sklearn.metrics import log_loss

        if logits.shape[-1] < 2:
            raise DoesNotApply("a single class")
        refuse_soft(logits, targets)
        probabilities = softmax(logits, axis=-1)
        return np.asarray(log_loss(targets, probabilities, labels=range(logits.shape[-1]), sample_weight=weights))


log_loss = LogLoss()
