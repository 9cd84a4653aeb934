"""What belongs to PyTorch: the row losses on the autograd graph, and PyTorch's own `cross_entropy` and `CrossEntropyLoss`.

One line moves existing code: ``from xent.torch import cross_entropy, CrossEntropyLoss``.
"""

from __future__ import annotations

from typing import Any

import array_api_compat
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from xent import arrays
from xent.calls import prepare
from xent.engines import array_api
from xent.engines.rows import Rows
from xent.objective import Coefficients


def losses(rows: Rows) -> Tensor:
    """The losses (N,) of rows, differentiable any number of times, under every transformation of torch."""
    result: Tensor = _Losses.apply(  # type: ignore[no-untyped-call]
        rows.logits, rows.soft, rows.weight, rows.class_weights, rows.targets, rows.coefficients
    )
    return result


class _Losses(torch.autograd.Function):
    """The derivative is the contract's gradient, not that of the loss's formula, which would cancel for likely targets."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        soft: Tensor | None,
        weight: Tensor | None,
        class_weights: Tensor | None,
        targets: Tensor | None,
        coefficients: Coefficients,
    ) -> Tensor:
        rows = Rows(x, targets, soft, weight, class_weights, coefficients)
        xp = array_api_compat.array_namespace(x)
        if _is_traced(rows):
            return array_api.whole(xp, rows)
        found = torch.empty((x.shape[0],), dtype=arrays.compute_dtype(xp, arrays.dtype_name(x.dtype)), device=x.device)
        array_api.run(xp, rows, found)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.coefficients = inputs[5]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        x, soft, weight, class_weights, targets = ctx.saved_tensors
        rows = Rows(x, targets, soft, weight, class_weights, ctx.coefficients)
        xp = array_api_compat.array_namespace(x)
        d = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled() or _is_traced(rows) or arrays.is_traced(grad):
                _, d = array_api.whole_with_gradient(xp, rows, grad)
            else:
                d = torch.empty(x.shape, dtype=x.dtype, device=x.device)
                array_api.run(xp, rows, torch.empty_like(grad), grad, d)
        return d, *_gradients_of_others(rows, grad, ctx.needs_input_grad[1:4]), None, None


def _is_traced(rows: Rows) -> bool:
    arrays_of_rows = (rows.logits, rows.soft, rows.weight, rows.class_weights, rows.targets)
    return any(arrays.is_traced(x) for x in arrays_of_rows if x is not None)


def _gradients_of_others(rows: Rows, grad: Tensor, needed: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Of soft targets, weights and class weights: the loss is a plain function of them, so its formula will do."""
    others = [rows.soft, rows.weight, rows.class_weights]
    places = [i for i, (x, need) in enumerate(zip(others, needed, strict=True)) if need and x is not None]
    found: list[Tensor | None] = [None, None, None]
    if not places:
        return found
    xp = array_api_compat.array_namespace(rows.logits)

    def formula(*values: Tensor) -> Tensor:
        given = list(others)
        for i, value in zip(places, values, strict=True):
            given[i] = value
        result: Tensor = array_api.whole(xp, Rows(rows.logits, rows.targets, *given, rows.coefficients))
        return result

    _, pull = torch.func.vjp(formula, *(others[i] for i in places))
    for i, value in zip(places, pull(grad), strict=True):
        found[i] = value
    return found
