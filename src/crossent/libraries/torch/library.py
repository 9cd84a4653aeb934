"""PyTorch. What the tensors of a call are is asked once: `TORCH.of_call` gives the object for the state they are in.

AS_NUMPY     eager tensors in host memory
TORCH        eager tensors in a device's memory; and the object that torch's type stands for
FOLLOWED…    the same, of which logits alone are differentiated: the loss is one function on the graph
ON_GRAPH, TRACED, SMALL_TRACED   see `recorded.py`; DTensors: `distributed.py`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import array_api_compat.torch
import numpy as np
import torch

from crossent.libraries.base import Inputs, Library
from crossent.libraries.torch.recorded import SmallTraced, TorchOnGraph, TorchTraced, are_few, needs_gradient
from crossent.libraries.torch.tensors import Torch, TorchAsNumPy, is_traced
from crossent.math.rows import Rows
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.description import TokenStatistics
    from crossent.problem import Ending


def of_dtensors(inputs: Inputs) -> TorchOnGraph | None:
    """The library of a call with a DTensor, which has values; None where there is none."""
    for x in inputs:
        # By what it alone has: its type would cost every import of torch that of its distributed part.
        if isinstance(x, torch.Tensor) and hasattr(x, "device_mesh"):
            from crossent.libraries.torch.distributed import Distributed

            return Distributed(x.device_mesh, inputs)
    return None


def _of_traced(inputs: Inputs) -> TorchOnGraph:
    """The library of a call of which something is traced, or a DTensor."""
    library = of_dtensors(inputs)
    if library is not None:
        return library
    # Hidden states are no logits: products that the compiler has are not always as exact as a linear loss is.
    return SMALL_TRACED if inputs.head is None and are_few(TORCH, inputs.logits) else TRACED


class _Family(Torch):
    """The object that torch's type stands for."""

    def of_call(self, inputs: Inputs) -> Library:
        """One of the states above."""
        if is_traced(*inputs):
            return _of_traced(inputs)
        if torch.autograd.forward_ad._current_level >= 0:
            return ON_GRAPH
        logits = inputs[0]
        in_host = self.memory_of(logits.device)[0] == "host" and logits.layout == torch.strided
        if torch.is_grad_enabled():
            for x in inputs[1:5]:
                if x is not None and getattr(x, "requires_grad", False):
                    return ON_GRAPH
            if logits.requires_grad or (inputs[5] is not None and needs_gradient(*inputs[5:])):
                return FOLLOWED_AS_NUMPY if in_host else FOLLOWED
        return AS_NUMPY if in_host else self

    def eager(self, x: Array) -> Library:
        """The library of a plain tensor that nothing follows."""
        return AS_NUMPY if self.memory_of(x.device)[0] == "host" else TORCH

    def off_graph(self, inputs: Inputs) -> tuple[Library, Inputs]:
        """Detached, but for what is traced."""
        library = self.eager(inputs[0])
        if is_traced(*inputs):
            library = _of_traced(inputs)
            if library.state == "traced":
                return library, inputs
        if torch.is_grad_enabled() and needs_gradient(*inputs):
            inputs = Inputs(*(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs))
        return library, inputs


class _Followed(Library):
    """Of whose tensors logits alone are differentiated."""

    @property
    def composes(self) -> Library | None:
        """Eager tensors that all stay on the graph."""
        return ON_GRAPH

    def loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """One function on the graph."""
        from crossent.libraries.torch.graph import plain_loss

        return plain_loss(self, inputs, rows, ending)

    def token_statistics(self, inputs: Inputs, rows: Rows, ending: Ending) -> TokenStatistics:
        """One function on the graph; of hidden states, several."""
        if inputs.head is not None or 0 in ending.token_shape:
            return super().token_statistics(inputs, rows, ending)
        from crossent.libraries.torch.graph import plain_statistics

        return plain_statistics(self, inputs, rows, ending)

    def linear_loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """One function on the graph."""
        from crossent.libraries.torch.linear import plain_loss

        return plain_loss(self, inputs, rows, ending)


class FollowedByTorch(_Followed, Torch):
    """`Torch`, on the graph."""


class AsNumPyFollowedByTorch(_Followed, TorchAsNumPy):
    """`TorchAsNumPy`, on the graph."""

    def is_recorded(self, x: Array) -> bool | None:
        """Of small logits, whose gradient is made together with the loss."""
        from crossent.libraries.torch.graph import SMALL

        return True if x.numel() <= SMALL else None

    def leave_straight(
        self, inputs: Inputs, loss: Array, d: Array | None, prepared: Callable[[Inputs], tuple[Rows, Ending]]
    ) -> Array:
        """One function on the graph."""
        from crossent.libraries.torch.graph import straight_loss

        return straight_loss(self, inputs, loss, d, prepared)


TORCH = _Family(array_api_compat.torch, "torch")
AS_NUMPY = TorchAsNumPy(np, "torch", TORCH)
FOLLOWED = FollowedByTorch(array_api_compat.torch, "torch", TORCH)
FOLLOWED_AS_NUMPY = AsNumPyFollowedByTorch(np, "torch", TORCH)
ON_GRAPH = TorchOnGraph(array_api_compat.torch, "torch", TORCH)
TRACED = TorchTraced(array_api_compat.torch, "torch", TORCH)
SMALL_TRACED = SmallTraced(array_api_compat.torch, "torch", TORCH)
