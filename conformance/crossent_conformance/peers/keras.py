"""`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`, computed in the dtype of the logits.

Keras reads its backend from the environment when it is first imported, so `KERAS_BACKEND` is set before that: to jax,
unless it is there already. The other one is asked by
`KERAS_BACKEND=torch crossent conform crossent_conformance.peers.keras:sparse`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from crossent_conformance.implementation import Adapter, DoesNotApply
from crossent_conformance.peers import refuse_soft

BACKEND = os.environ.get("KERAS_BACKEND", "jax")
REDUCTIONS = {"mean": "mean_with_sample_weight", "sum": "sum", "none": "none"}
"""The contract's mean divides by the weights of the tokens that count."""


@cache
def _keras():
    os.environ["KERAS_BACKEND"] = BACKEND
    import keras

    return keras


class Sparse(Adapter):
    """`keras.losses.SparseCategoricalCrossentropy`."""

    name = "keras.losses.SparseCategoricalCrossentropy"
    package = "keras"
    backends = ("torch", "torch-cuda") if BACKEND == "torch" else ("jax",)
    names: Mapping[str, Any] = {
        "logits": ("y_pred", "output"),
        "targets": ("y_true", "target"),
        "weights": "sample_weight",
        "ignore_index": "ignore_class",
    }

    def loss(self, logits, targets, *, weights=None, ignore_index=None, reduction="mean"):
        if reduction == "sequence":
            raise DoesNotApply("reduction='sequence'")
        refuse_soft(logits, targets)
        loss = _keras().losses.SparseCategoricalCrossentropy(
            from_logits=True,
            ignore_class=ignore_index,
            reduction=REDUCTIONS.get(reduction, reduction),
            dtype=str(getattr(logits, "dtype", "float32")).removeprefix("torch."),
        )
        return loss(targets, logits, sample_weight=weights)


sparse = Sparse()
