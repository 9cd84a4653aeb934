"""`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`, computed in the dtype of the logits.

On Keras's JAX backend, on its torch one, and on TensorFlow, of NumPy's arrays. Keras reads its backend from the
environment when it is first imported, so `KERAS_BACKEND` is set before that; a process has one backend.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from crossent_conformance.implementation import Adapter, DoesNotApply
from crossent_conformance.peers import refuse_soft

REDUCTIONS = {"mean": "mean_with_sample_weight", "sum": "sum", "none": "none"}
"""The contract's mean divides by the weights of the tokens that count."""


def _keras(backend):
    os.environ["KERAS_BACKEND"] = backend
    import keras

    if keras.backend.backend() != backend:
        raise DoesNotApply(f"Keras on {backend}: this process has imported it on {keras.backend.backend()}")
    return keras


def _dtype(logits):
    """Its name, whosever the array is."""
    dtype = getattr(logits, "dtype", "float32")
    return getattr(dtype, "name", str(dtype)).removeprefix("torch.")


class Sparse(Adapter):
    """`keras.losses.SparseCategoricalCrossentropy`."""

    name = "keras.losses.SparseCategoricalCrossentropy"
    package = "keras"
    names: Mapping[str, Any] = {
        "logits": ("y_pred", "output"),
        "targets": ("y_true", "target"),
        "weights": "sample_weight",
        "ignore_index": "ignore_class",
    }

    def __init__(self, backend, *backends):
        """On this backend of Keras's, of arrays of these of the suite's."""
        self.backend, self.backends = backend, backends

    def loss(self, logits, targets, *, weights=None, ignore_index=None, reduction="mean"):
        if reduction == "sequence":
            raise DoesNotApply("reduction='sequence'")
        refuse_soft(logits, targets)
        loss = _keras(self.backend).losses.SparseCategoricalCrossentropy(
            from_logits=True,
            ignore_class=ignore_index,
            reduction=REDUCTIONS.get(reduction, reduction),
            dtype=_dtype(logits),
        )
        return loss(targets, logits, sample_weight=weights)


class OnTensorFlow(Sparse):
    """The same of NumPy's arrays, with TensorFlow's gradient."""

    def loss(self, logits, targets, *, weights=None, ignore_index=None, reduction="mean"):
        options = {"weights": weights, "ignore_index": ignore_index, "reduction": reduction}
        return np.asarray(super().loss(logits, targets, **options))

    def loss_and_grad(self, logits, targets, *, weights=None, ignore_index=None, reduction="mean"):
        import tensorflow as tf

        followed = tf.convert_to_tensor(logits)
        options = {"weights": weights, "ignore_index": ignore_index, "reduction": reduction}
        with tf.GradientTape() as tape:
            tape.watch(followed)
            loss = super().loss(followed, targets, **options)
        return np.asarray(loss), np.asarray(tape.gradient(loss, followed))


sparse, on_torch = Sparse("jax", "jax"), Sparse("torch", "torch", "torch-cuda")
on_tensorflow = OnTensorFlow("tensorflow", "numpy")
