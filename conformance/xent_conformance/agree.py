"""The commonest assertion of the suite: loss and gradient of the subject are the oracle's."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_conformance import oracle, units
from xent_conformance.places import Place
from xent_conformance.subject import Subject


def with_oracle(
    place: Place, subject: Subject, logits: np.ndarray, targets: np.ndarray, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Check loss and gradient against the oracle for the values that the place's dtype holds; give both back.

    Weights among the options must be exact in float32, soft targets are rounded with the logits.
    """
    logits = place.round(logits)
    targets = place.round(targets) if targets.dtype.kind == "f" else targets
    exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, **options)
    loss, d_logits = place.evaluate(subject.loss_and_grad, logits, targets, **options)
    units.check(loss, exact_loss, place.compute_dtype)
    units.check(d_logits, exact_gradient, place.compute_dtype, stored=place.dtype)
    return loss, d_logits
