"""`tokamax.linear_softmax_cross_entropy_loss`: its plain path, and the one that makes a block of logits at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from crossent_conformance.implementation import Adapter, DoesNotApply
from crossent_conformance.peers import identity, refuse_soft_of_classes


@cache
def _loss():
    import tokamax
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # it would take this process's command line for its own
    return tokamax.linear_softmax_cross_entropy_loss


class Linear(Adapter):
    """The function with that `implementation`; its sums and losses are float32 whatever the logits."""

    package = "tokamax"
    backends = ("jax",)
    dtypes = ("float32", "bfloat16")
    flat = True
    names: Mapping[str, Any] = {"logits": "x", "targets": "labels"}

    def __init__(self, implementation):
        """One of those that the function names."""
        self.implementation = implementation
        self.name = f"tokamax.linear_softmax_cross_entropy_loss, {implementation}"

    def linear(self, hidden, weight, targets, *, reduction="mean"):
        """The function as it is."""
        if reduction not in ("mean", "sum"):
            raise DoesNotApply(f"reduction={reduction!r}")
        refuse_soft_of_classes(targets)
        return _loss()(hidden, targets, weight.T, reduction=reduction, implementation=self.implementation)

    def loss(self, logits, targets, *, reduction="mean"):
        return self.linear(logits, identity(logits), targets, reduction=reduction)


xla, chunked = Linear("xla"), Linear("chunked_xla")
