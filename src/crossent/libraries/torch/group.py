"""Process groups of torch.distributed: sums and maxima that autograd and torch.compile follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import DeviceMesh

from crossent.libraries.exchange import Exchange
from crossent.types import Array

# The one of before torch 2.13 is deprecated.
_gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


class Processes(Exchange):
    """The processes of a group."""

    libraries = ("torch",)

    def __init__(self, group: Any) -> None:
        """Of torch.distributed's."""
        self.group = group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)

    def __reduce__(self) -> Any:
        """A group is of its process."""
        raise TypeError("a process group of torch.distributed cannot be copied to another process")

    def is_eager(self) -> bool:
        """Unless torch traces."""
        return not torch.compiler.is_compiling()

    def all(self, value: Any) -> list[Any]:
        """As torch gathers objects."""
        found: list[Any] = [None] * self.ranks
        dist.all_gather_object(found, value, self.group)
        return found

    def numbers(self, number: int) -> list[int]:
        """In the memory of the kind that the group moves."""
        kinds = {device.type for device in self.group._device_types}
        device = "cpu" if "cpu" in kinds else kinds.pop()
        given = torch.tensor([number], device=device)
        found = given.new_empty(self.ranks)
        _gather(found, given, self.group)
        return found.tolist()

    def largest(self, x: Array) -> Array:
        """A constant to autograd."""
        if isinstance(x, np.ndarray):
            return _reduced(torch.from_numpy(x), "max", self.group).numpy()
        return _Largest.apply(x.detach(), self.group)  # type: ignore[no-untyped-call]

    def total(self, x: Array) -> Array:
        """The gradient of a sum is that of each summand."""
        if isinstance(x, np.ndarray):
            return _reduced(torch.from_numpy(x), "sum", self.group).numpy()
        return _Total.apply(x, self.group)  # type: ignore[no-untyped-call]

    def shared(self, x: Array) -> Array:
        """The gradients of all processes are added up."""
        return x if isinstance(x, np.ndarray) else _Shared.apply(x, self.group)  # type: ignore[no-untyped-call]


def _reduced(x: Tensor, operation: str, group: Any) -> Tensor:
    if torch.compiler.is_compiling():
        # The compiler reduces in place, and takes what was put side by side to be there still.
        reduced: Tensor = functional.all_reduce(x + 0.0, operation, group)
        return reduced
    found = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found, _OPERATIONS[operation], group)
    return found


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        return _reduced(x, "max", group)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return None, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        return _reduced(x, "sum", group)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return grad, None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return _Total.apply(grad, ctx.group), None  # type: ignore[no-untyped-call]


def of(group: Any) -> Exchange:
    """That of a process group, or of a mesh of one dimension."""
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise ValueError(f"group is a DeviceMesh of {group.ndim} dimensions; accepted: one, as mesh['name'] gives")
        group = group.get_group()
    return Processes(group)
