"""`ForCausalLMLoss` of transformers, with which its language models train, given the targets as `shift_labels`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossent_conformance.implementation import Adapter, DoesNotApply
from crossent_conformance.peers import refuse_soft


class ForCausalLM(Adapter):
    """The mean, or of a number of items the sum over it; logits of any dtype become float32."""

    name = "transformers ForCausalLMLoss"
    package = "transformers"
    backends = ("torch", "torch-cuda")
    dtypes = ("float32", "float16", "bfloat16")
    names: Mapping[str, Any] = {"targets": ("target", "shift_labels"), "denominator": "num_items_in_batch"}

    def loss(self, logits, targets, *, ignore_index=None, denominator=None):
        from transformers.loss.loss_utils import ForCausalLMLoss

        refuse_soft(logits, targets)
        if isinstance(denominator, str):
            raise DoesNotApply(f"denominator={denominator!r}")
        options = {} if ignore_index is None else {"ignore_index": ignore_index}
        return ForCausalLMLoss(
            logits, None, logits.shape[-1], num_items_in_batch=denominator, shift_labels=targets, **options
        )


causal = ForCausalLM()
