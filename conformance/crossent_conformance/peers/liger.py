"""`liger_cross_entropy` of `liger_kernel.transformers.functional`, and for the linear loss its fused one.

On CUDA, or on a CPU under Triton's interpreter.

Triton decides when a kernel is defined, so `TRITON_INTERPRET` is set before Liger is first imported, and only where
there is no GPU; in a process that has imported Triton before it is too late. What is the interpreter's fault and not
Liger's does not apply: it hands scalars over as Python numbers, on which the kernel with class weights or a softcap
fails; it is not made for several threads; a row takes it about ten milliseconds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from crossent_conformance.implementation import Adapter, DoesNotApply
from crossent_conformance.peers import refuse_soft, refuse_soft_of_classes, usual

MOST_ROWS = 2000
MOST_LOGITS = 2**24
"""More than these the interpreter does not finish in time."""


@cache
def _liger():
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    from liger_kernel.transformers.functional import liger_cross_entropy

    return liger_cross_entropy


class Liger(Adapter):
    """`liger_cross_entropy`; its arithmetic is float32 whatever the logits, so float64 is left out."""

    name = "liger_cross_entropy"
    package = "liger-kernel"
    backends = ("torch", "torch-cuda")
    dtypes = ("float32", "float16", "bfloat16")
    flat = True
    fixed: Mapping[str, Any] = {"smoothing": "uniform"}
    names: Mapping[str, Any] = {
        "logits": "input",
        "targets": "target",
        "class_weights": "weight",
        "z_loss": "lse_square_scale",
        "logit_softcap": "softcap",
    }

    def loss(
        self,
        logits,
        targets,
        *,
        class_weights=None,
        ignore_index=None,
        reduction="mean",
        label_smoothing=0.0,
        z_loss=0.0,
        logit_softcap=None,
    ):
        options = usual(reduction, ignore_index)
        refuse_soft(logits, targets)
        _spare_the_interpreter(logits, class_weights, logit_softcap)
        options |= {"label_smoothing": label_smoothing, "lse_square_scale": z_loss, "softcap": logit_softcap}
        return _liger()(logits, targets, weight=class_weights, **options)

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
        z_loss=0.0,
        logit_softcap=None,
    ):
        """`liger_fused_linear_cross_entropy`."""
        options = usual(reduction, ignore_index)
        refuse_soft_of_classes(targets)
        _spare_the_interpreter(hidden, class_weights, logit_softcap)
        options |= {"label_smoothing": label_smoothing, "lse_square_scale": z_loss, "softcap": logit_softcap}
        _liger()  # Triton is told where it is before Liger is imported
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        return liger_fused_linear_cross_entropy(hidden, weight, targets, bias, class_weights, **options)


def _spare_the_interpreter(logits, class_weights, logit_softcap):
    if logits.is_cuda:
        return
    if class_weights is not None:
        raise DoesNotApply("class weights under Triton's interpreter")
    if logit_softcap is not None:
        raise DoesNotApply("logit_softcap under Triton's interpreter")
    if threading.current_thread() is not threading.main_thread():
        raise DoesNotApply("several threads under Triton's interpreter")
    if logits.ndim == 2 and (logits.shape[0] > MOST_ROWS or logits.numel() > MOST_LOGITS):
        raise DoesNotApply("so many logits under Triton's interpreter")


cross_entropy = Liger()
