"""The token losses of hidden states as operators, which torch.compile keeps whole: `crossent::linear_losses`, whose
derivative with respect to hidden, weight and bias is `crossent::linear_gradients`. Each walks the blocks once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crossent.engines import select
from crossent.libraries.torch import formula, linear
from crossent.libraries.torch.library import TORCH
from crossent.libraries.torch.operator import OTHERS
from crossent.linear import Gradients
from crossent.math.rows import Coefficients, Head, Rows

_TENSORS = (
    "Tensor hidden, Tensor linear_weight, Tensor? bias, "
    "Tensor? soft, Tensor? weight, Tensor? class_weights, Tensor? targets"
)
_OTHERS = f"{OTHERS}, int memory"
_LOSSES, _GRADIENTS = "crossent::linear_losses", "crossent::linear_gradients"
_COUNT = 7

torch.library.define(_LOSSES, f"({_TENSORS}, {_OTHERS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
torch.library.define(
    _GRADIENTS,
    f"({_TENSORS}, Tensor scale, bool[] needs, {_OTHERS}) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def losses(rows: Rows) -> Tensor:
    """The token losses (N,) of traced rows."""
    tensors, others = _arguments(rows)
    result: Tensor = torch.ops.crossent.linear_losses(*tensors, *others)
    return result


def gradients(rows: Rows, scale: Tensor, needs: tuple[bool, ...]) -> Gradients:
    """The gradients of traced rows that are needed, times `scale`."""
    tensors, others = _arguments(rows)
    found = torch.ops.crossent.linear_gradients(*tensors, scale, list(needs), *others)
    return Gradients(*(x if need else None for x, need in zip(found, needs, strict=True)))


def _arguments(rows: Rows) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    head: Head = rows.logits
    tensors = (head.hidden, head.weight, head.bias, *formula.tensors_of(rows)[1:])
    return tensors, (*rows.coefficients, rows.engine, head.memory)


def _rest(tensors: tuple[Any, ...], others: tuple[Any, ...]) -> Rows:
    """What is no tensor of rows that have values now, and which of them count."""
    hidden, head_weight, *_, weight, _, _ = tensors
    *coefficients, engine, memory = others
    dtype, v = TORCH.compute_dtype(hidden), head_weight.shape[0]
    kind = TORCH.eager(hidden).kind(hidden, str(dtype).rpartition(".")[2], v, False)
    engine = engine if select.obstacle(engine, kind) is None else "array_api"
    places = None if weight is None else weight.reshape(-1).nonzero()[:, 0]
    head = Head(None, None, None, places, memory)
    return Rows(head, None, None, None, None, Coefficients(*coefficients), 0, v, dtype, engine)


def _losses(*inputs: Any) -> Tensor:
    tensors = inputs[:_COUNT]
    return linear.walk(_rest(tensors, inputs[_COUNT:]), tensors, None, (False,) * 3)[0]


def _gradients(*inputs: Any) -> tuple[Tensor, ...]:
    tensors, scale, needs = inputs[:_COUNT], inputs[_COUNT], inputs[_COUNT + 1]
    found = linear.walk(_rest(tensors, inputs[_COUNT + 2 :]), tensors, scale, tuple(needs))[1]
    return tuple(scale.new_empty(0) if x is None else x for x in found)


def _fake_losses(hidden: Tensor, *_others: Any) -> Tensor:
    return hidden.new_empty((math.prod(hidden.shape[:-1]),), dtype=TORCH.compute_dtype(hidden))


def _fake_gradients(*inputs: Any) -> tuple[Tensor, ...]:
    scale, needs = inputs[_COUNT], inputs[_COUNT + 1]
    likes = zip(inputs[:3], needs, strict=True)
    return tuple(x.new_empty(x.shape) if need else scale.new_empty(0) for x, need in likes)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_COUNT])
    ctx.set_materialize_grads(False)
    ctx.others = inputs[_COUNT:]


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    rest = (None,) * (1 + len(ctx.others))
    if grad is None:
        return (None,) * (_COUNT - 1) + rest
    needs = list(ctx.needs_input_grad[:3])
    made = torch.ops.crossent.linear_gradients(*ctx.saved_tensors, grad, needs, *ctx.others)
    return *(x if need else None for x, need in zip(made, needs, strict=True)), None, None, None, *rest


torch.library.impl(_LOSSES, "CompositeExplicitAutograd", _losses)
torch.library.impl(_GRADIENTS, "CompositeExplicitAutograd", _gradients)
torch.library.register_fake(_LOSSES, _fake_losses)
torch.library.register_fake(_GRADIENTS, _fake_gradients)
torch.library.register_autograd(_LOSSES, _backward, setup_context=_keep)
