"""`torch.distributed.tensor.parallel.loss_parallel`: `torch.nn.functional.cross_entropy` of logits in shards.

The whole loss is that of `peers.torch`; in shards the logits are a DTensor, spread as `torch.chunk` spreads classes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from crossent_conformance.implementation import DoesNotApply, Sharded
from crossent_conformance.peers import refuse_soft
from crossent_conformance.peers.torch import Functional


class Parallel(Functional):
    """The loss within the context of that name."""

    name = "torch loss_parallel"
    backends: tuple[str, ...] = ("torch",)

    def sharded(self, backend: str) -> Sharded:
        """Where the process has its rows of a mesh."""
        return Sharded("gloo", _Part)


class _Part(Functional):
    def __init__(self, group: Any, ranges: list[tuple[int, int]], _check: bool) -> None:
        V = sum(size for _, size in ranges)
        most = -(-V // len(ranges))
        chunks = [(min(most * rank, V), min(most, max(0, V - most * rank))) for rank in range(len(ranges))]
        if list(ranges) != chunks:
            raise DoesNotApply("shards of other sizes than those of torch.chunk")
        self.V, self.size, self.ranks = V, ranges[group.rank][1], len(ranges)

    def loss(self, logits, targets, *, class_weights=None, ignore_index=None, reduction="mean", label_smoothing=0.0):
        refuse_soft(logits, targets)
        if label_smoothing:
            raise DoesNotApply("label_smoothing of loss_parallel")
        if class_weights is not None:
            raise DoesNotApply("class_weights in shards: those of loss_parallel are whole on every rank")
        if logits.shape[-1] != self.size:
            raise DoesNotApply("shards that are padded")
        return super().loss(logits, targets, ignore_index=ignore_index, reduction=reduction)

    def function(self, logits, targets, **options):
        import torch
        from torch.distributed.tensor import DTensor, Shard
        from torch.nn import functional

        whole = torch.Size((logits.shape[0], self.V))
        spread = DTensor.from_local(logits, _mesh(self.ranks), [Shard(1)], shape=whole, stride=(self.V, 1))
        loss: Any = functional.cross_entropy(spread, targets, **options)
        return loss.to_local()


@cache
def _mesh(ranks):
    """All processes, in the context for good: the gradient has to be made in it, too."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import loss_parallel

    loss_parallel().__enter__()
    return init_device_mesh("cpu", (ranks,))


parallel = Parallel()
