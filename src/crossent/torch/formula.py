"""The token losses as a plain function of tensors: what torch can differentiate any number of times, by anything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossent.calls import Call, rows_of
from crossent.engines import array_api


def of_others(call: Call, places: list[int]) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The losses as a function of soft targets (0), weights (1) or class weights (2); and those of the call."""
    others = [call.targets, call.tokens.weight, call.class_weights]

    def formula(*values: Tensor) -> Tensor:
        soft, weight, class_weights = (values[places.index(i)] if i in places else others[i] for i in range(3))
        given = call.with_arrays(call.logits, soft, weight, class_weights, call.tokens.classes)
        result: Tensor = array_api.whole(call.xp, rows_of(given))
        return result

    return formula, tuple(x for i in places if (x := others[i]) is not None)


def gradients_of_others(call: Call, grad: Tensor, needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Of soft targets, weights and class weights; in them the formula of the loss cancels nothing."""
    found: list[Tensor | None] = [None, None, None]
    places = [i for i, need in enumerate(needed) if need]
    if places:
        formula, given = of_others(call, places)
        for i, value in zip(places, torch.func.vjp(formula, *given)[1](grad), strict=True):
            found[i] = value
    return found


def gradients_of_gradient(call: Call, scale: Tensor, grad: Tensor, needed: tuple[bool, ...]) -> list[Tensor | None]:
    """What `grad` of a gradient (..., V) is to logits, soft targets, weights, class weights and the scale of tokens."""
    inputs = [call.logits, call.targets, call.tokens.weight, call.class_weights, scale]
    places = [i for i, need in enumerate(needed) if need]

    def formula(*values: Tensor) -> Tensor:
        x, soft, weight, class_weights, factor = (
            values[places.index(i)] if i in places else given for i, given in enumerate(inputs)
        )
        given = call.with_arrays(x, soft, weight, class_weights, call.tokens.classes)
        d: Tensor = array_api.whole_with_gradient(call.xp, rows_of(given), factor)[1]
        return d.reshape(call.shape)

    found: list[Tensor | None] = [None] * len(inputs)
    if places:
        pull = torch.func.vjp(formula, *(inputs[i] for i in places))[1]
        for i, value in zip(places, pull(grad), strict=True):
            found[i] = value
    return found
