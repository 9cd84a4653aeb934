"""`linear_cross_entropy` of cut-cross-entropy, its path for torch.compile; the kernels of its other one want a GPU.

The package imports Triton all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from crossent_conformance.implementation import Adapter
from crossent_conformance.peers import identity, refuse_soft_of_classes, usual

MOST_COMPILED = 1000
"""Programs of one function: past torch's own limit, a few shapes and options, it would raise."""


@cache
def _function():
    import torch._dynamo
    from cut_cross_entropy import linear_cross_entropy

    torch._dynamo.config.recompile_limit = MOST_COMPILED
    torch._dynamo.config.accumulated_recompile_limit = MOST_COMPILED
    return linear_cross_entropy


def _reset() -> None:
    """Forget what was compiled: after an error the compiler skips the function, whatever it is called with next."""
    import torch._dynamo

    torch._dynamo.reset()


class TorchCompile(Adapter):
    """`linear_cross_entropy(…, impl="torch_compile")`; logits of any dtype become float32."""

    name = "cut_cross_entropy.linear_cross_entropy"
    package = "cut-cross-entropy"
    backends = ("torch", "torch-cuda")
    dtypes = ("float32", "float16", "bfloat16")
    flat = True
    names: Mapping[str, Any] = {"logits": "e", "logit_softcap": "softcap"}

    def linear(self, hidden, weight, targets, *, ignore_index=None, reduction="mean", logit_softcap=None):
        """The function as it is."""
        options = usual(reduction, ignore_index)
        refuse_soft_of_classes(targets)
        try:
            return _function()(hidden, weight, targets, softcap=logit_softcap, impl="torch_compile", **options)
        except Exception:
            _reset()
            raise

    def loss(self, logits, targets, *, ignore_index=None, reduction="mean", logit_softcap=None):
        options = {"ignore_index": ignore_index, "reduction": reduction, "logit_softcap": logit_softcap}
        return self.linear(logits, identity(logits), targets, **options)


torch_compile = TorchCompile()
