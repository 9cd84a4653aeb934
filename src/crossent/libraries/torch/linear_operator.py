"""The losses of hidden states as operators, which torch.compile keeps whole.

crossent::linear_losses   the token losses, of which hidden, weight and bias are differentiated by walking once more
crossent::linear_walk     the token losses and, in the compute dtype, the gradients, in one walk; they have none
crossent::linear_known    a loss as it is, whose gradients are those that the walk made
crossent::linear_scaled   those gradients, times the one from above; they have none
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crossent.engines import select
from crossent.libraries.torch import formula, linear
from crossent.libraries.torch.library import TORCH
from crossent.libraries.torch.operator import OTHERS
from crossent.linear import Gradients, finished
from crossent.math.rows import Coefficients, Head, Rows
from crossent.types import Array

_TENSORS = (
    "Tensor hidden, Tensor linear_weight, Tensor? bias, "
    "Tensor? soft, Tensor? weight, Tensor? class_weights, Tensor? targets"
)
_OTHERS = f"{OTHERS}, int memory"
_LOSSES, _WALK, _KNOWN, _SCALED = (f"crossent::linear_{name}" for name in ("losses", "walk", "known", "scaled"))
_COUNT = 7

_TAGS = (torch.Tag.pt2_compliant_tag,)
torch.library.define(_LOSSES, f"({_TENSORS}, {_OTHERS}) -> Tensor", tags=_TAGS)
torch.library.define(
    _WALK, f"({_TENSORS}, Tensor scale, bool[] needs, {_OTHERS}) -> (Tensor, Tensor, Tensor, Tensor)", tags=_TAGS
)
_PAIRS = "Tensor hidden, Tensor linear_weight, Tensor? bias, Tensor? d_hidden, Tensor? d_weight, Tensor? d_bias"
torch.library.define(_KNOWN, f"(Tensor loss, {_PAIRS}) -> Tensor", tags=_TAGS)
torch.library.define(_SCALED, f"(Tensor grad, {_PAIRS}) -> (Tensor, Tensor, Tensor)", tags=_TAGS)


def losses(rows: Rows) -> Tensor:
    """The token losses (N,) of traced rows."""
    tensors, others = _arguments(rows)
    result: Tensor = torch.ops.crossent.linear_losses(*tensors, *others)
    return result


def walk(rows: Rows, scale: Array | float, needs: tuple[bool, ...]) -> tuple[Tensor, Gradients]:
    """The token losses of traced rows and the gradients that are needed, times `scale`."""
    tensors, others = _arguments(rows)
    # What is made here is no function of them to autograd: `known` tells it.
    tensors = tuple(None if x is None else x.detach() for x in tensors)
    device = tensors[0].device
    factor = torch.as_tensor(scale, dtype=TORCH.widest(device)[0], device=device)
    found, *made = torch.ops.crossent.linear_walk(*tensors, factor, list(needs), *others)
    return found, Gradients(*_where(needs, made))


def known(loss: Tensor, likes: tuple[Tensor | None, ...], found: Gradients) -> Tensor:
    """The loss, whose gradients with respect to hidden, weight and bias are `found`."""
    result: Tensor = torch.ops.crossent.linear_known(loss, *likes, *found)
    return result


def _arguments(rows: Rows) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    head: Head = rows.logits
    tensors = (head.hidden, head.weight, head.bias, *formula.tensors_of(rows)[1:])
    return tensors, (*rows.coefficients, rows.engine, head.memory)


def _rest(tensors: tuple[Any, ...], others: tuple[Any, ...]) -> Rows:
    """What is no tensor of rows that have values now, and which of them count."""
    hidden, head_weight, *_, weight, _, _ = tensors
    *coefficients, engine, memory = others
    dtype, v = TORCH.compute_dtype(hidden), head_weight.shape[0]
    rest = Coefficients(*coefficients)
    kind = TORCH.eager(hidden).kind(hidden, str(dtype).rpartition(".")[2], v, rest.measure)
    engine = engine if select.obstacle(engine, kind) is None else "array_api"
    places = None if weight is None else weight.reshape(-1).nonzero()[:, 0]
    head = Head(None, None, None, places, memory)
    return Rows(head, None, None, None, None, rest, 0, v, dtype, engine)


def _losses(*inputs: Any) -> Tensor:
    tensors = inputs[:_COUNT]
    return linear.walk(_rest(tensors, inputs[_COUNT:]), tensors, None, (False,) * 3)[0]


def _walk(*inputs: Any) -> tuple[Tensor, ...]:
    tensors, scale, needs = inputs[:_COUNT], inputs[_COUNT], inputs[_COUNT + 1]
    found, made = linear.walk(_rest(tensors, inputs[_COUNT + 2 :]), tensors, scale, tuple(needs))
    return found, *(found.new_empty(0) if x is None else x for x in made)


def _known(loss: Tensor, *_others: Any) -> Tensor:
    return loss.clone()


def _fake_losses(hidden: Tensor, *_others: Any) -> Tensor:
    return hidden.new_empty((math.prod(hidden.shape[:-1]),), dtype=TORCH.compute_dtype(hidden))


def _fake_walk(*inputs: Any) -> tuple[Tensor, ...]:
    hidden, weight, needs = inputs[0], inputs[1], inputs[_COUNT + 1]
    found = _fake_losses(hidden)
    shapes = (*found.shape, hidden.shape[-1]), tuple(weight.shape), (weight.shape[0],)
    return found, *(found.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_COUNT])
    ctx.set_materialize_grads(False)
    ctx.others = inputs[_COUNT:]


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    rest = (None,) * (1 + len(ctx.others))
    if grad is None:
        return (None,) * (_COUNT - 1) + rest
    needs, tensors = ctx.needs_input_grad[:3], ctx.saved_tensors
    _, *made = torch.ops.crossent.linear_walk(*tensors, grad, list(needs), *ctx.others)
    return *finished(TORCH, _where(needs, tensors), Gradients(*made)), None, None, None, *rest


def _keep_known(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _known_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    tensors = ctx.saved_tensors
    made = torch.ops.crossent.linear_scaled(grad, *tensors)
    return None, *(None if d is None else x for d, x in zip(tensors[3:], made, strict=True)), None, None, None


def _scaled(grad: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    found = Gradients(*(None if x is None else x * grad for x in tensors[3:]))
    return tuple(grad.new_empty(0) if x is None else x for x in finished(TORCH, tensors[:3], found))


def _fake_scaled(grad: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    likes = zip(tensors[:3], tensors[3:], strict=True)
    return tuple(grad.new_empty(0) if d is None else x.new_empty(x.shape) for x, d in likes)


def _no_second(ctx: Any, *_grads: Tensor) -> tuple[Any, ...]:
    raise RuntimeError(
        "the gradient of a compiled linear loss is differentiated; accepted: create_graph=False, or a loss outside of "
        "torch.compile"
    )


def _where(needs: Sequence[bool], given: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x if need else None for x, need in zip(given, needs, strict=False))


torch.library.impl(_LOSSES, "CompositeExplicitAutograd", _losses)
torch.library.impl(_WALK, "CompositeExplicitAutograd", _walk)
torch.library.impl(_KNOWN, "CompositeExplicitAutograd", _known)
torch.library.impl(_SCALED, "CompositeExplicitAutograd", _scaled)
torch.library.register_fake(_LOSSES, _fake_losses)
torch.library.register_fake(_WALK, _fake_walk)
torch.library.register_fake(_KNOWN, _known)
torch.library.register_fake(_SCALED, _fake_scaled)
torch.library.register_autograd(_LOSSES, _backward, setup_context=_keep)
torch.library.register_autograd(_KNOWN, _known_backward, setup_context=_keep_known)
for _name in (_WALK, _SCALED):
    torch.library.register_autograd(_name, _no_second)
