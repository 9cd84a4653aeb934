"""Losses of hidden states on torch's autograd graph.

A mean or a sum of plain tensors makes its gradients together with the loss, in one walk of the blocks, and keeps them in
the compute dtype until they are scaled. Whatever else is asked walks the blocks once more.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossent import linear
from crossent.libraries.base import Inputs, Library
from crossent.libraries.torch import formula, graph
from crossent.libraries.torch.library import ON_GRAPH, TORCH, is_traced
from crossent.math.rows import Head, Rows

if TYPE_CHECKING:
    from crossent.problem import Ending


def plain_loss(library: Library, inputs: Inputs, rows: Rows, ending: Ending) -> Tensor:
    """The whole loss of a call, of whose tensors hidden, weight and bias alone are differentiated."""
    others = [x for x in inputs[2:5] if isinstance(x, Tensor)]
    result: Tensor = _PlainLoss.apply(  # type: ignore[no-untyped-call]
        inputs.logits, inputs.head, inputs.bias, inputs.targets, others, library, rows, ending
    )
    return result


class _PlainLoss(torch.autograd.Function):
    """The whole loss of plain tensors, differentiated with respect to hidden, weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        others: list[Tensor],
        library: Library,
        rows: Rows,
        ending: Ending,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets, *others)
        ctx.library, ctx.ending, ctx.found = library, ending, []
        # What may be large is saved by torch.
        ctx.rows = rows._replace(logits=rows.logits._replace(hidden=None, weight=None, bias=None), soft=None)
        ctx.is_soft = rows.soft is not None
        result: Tensor
        if 0 in ending.token_shape:
            result = ending.of_nothing()
        elif ending.reduction in ("mean", "sum"):
            losses, found = library.linear_losses_and_gradients(rows, ending.scale(1.0), ctx.needs_input_grad[:3])
            ctx.found.append(found)
            result = ending.finish(losses)
        else:
            result = ending.finish(library.linear_losses(rows))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        *inputs, targets = ctx.saved_tensors[:4]
        library: Library = ctx.library
        rest = (None,) * 5
        if torch.is_grad_enabled() or is_traced(grad):
            # The gradient is to be differentiated: only the general function has one that can be.
            wanted = [x for x, need in zip(inputs, ctx.needs_input_grad, strict=False) if need]
            with torch.enable_grad():
                loss = _on_graph(ctx.rows, ctx.ending, inputs, targets if ctx.is_soft else None)
            found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=torch.is_grad_enabled(), allow_unused=True))
            return *(next(found) if need else None for need in ctx.needs_input_grad[:3]), *rest
        if 0 in ctx.ending.token_shape:
            return *(torch.zeros_like(x) if x is not None else None for x in inputs), *rest
        with library.computing(inputs[0]):
            return *linear.finished(library, inputs, _gradients(ctx, inputs, targets, grad)), *rest


def _gradients(ctx: Any, inputs: list[Tensor | None], targets: Tensor, grad: Tensor) -> linear.Gradients:
    library: Library = ctx.library
    factor = library.above(grad)
    # Given away once, to one thread, which may write into it.
    with contextlib.suppress(IndexError):
        found: linear.Gradients = ctx.found.pop()
        if not (isinstance(factor, float) and factor == 1.0):
            for x in found:
                if x is not None:
                    x *= factor  # noqa: PLW2901
        return found
    soft = library.enter_matrix(targets.detach()) if ctx.is_soft else None
    rows = ctx.rows._replace(logits=_head(library, ctx.rows, inputs), soft=soft)
    return library.linear_losses_and_gradients(rows, ctx.ending.scale(factor), ctx.needs_input_grad[:3])[1]


def _head(library: Library, rows: Rows, inputs: list[Tensor | None]) -> Head:
    hidden, weight, bias = (None if x is None else library.enter_matrix(x) for x in inputs)
    v = rows.vocabulary
    return rows.logits._replace(hidden=hidden, weight=weight[:v], bias=None if bias is None else bias[:v])


def _on_graph(rows: Rows, ending: Ending, inputs: list[Tensor | None], soft: Tensor | None) -> Tensor:
    """The loss of a call that is prepared, as a function that torch differentiates any number of times."""
    hidden, weight, bias = inputs
    dtype = ON_GRAPH.compute_dtype(hidden)
    kept = None if rows.weight is None else torch.as_tensor(rows.weight).reshape(hidden.shape[:-1]) != 0
    hidden = hidden.to(dtype)
    hidden = hidden if kept is None else torch.where(kept[..., None], hidden, 0.0)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = hidden @ weight[: rows.vocabulary].to(dtype).T
    if bias is not None:
        logits = logits + bias[: rows.vocabulary].to(dtype)
    return graph._on_graph(rows, ending, logits, soft)


def losses(rows: Rows) -> Tensor:
    """The token losses (N,) of eager tensors that all stay on the graph."""
    head = rows.logits
    rest = formula.with_tensors(rows, (head._replace(hidden=None, weight=None, bias=None), *(None,) * 4))
    tensors = (head.hidden, head.weight, head.bias, *formula.tensors_of(rows)[1:])
    result: Tensor = _Losses.apply(*tensors, rest)  # type: ignore[no-untyped-call]
    return result


class _Losses(torch.autograd.Function):
    """The token losses of hidden, weight, bias, soft targets, token weights and class weights; and hard targets."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        ctx.save_for_backward(*inputs[:7])
        ctx.set_materialize_grads(False)
        ctx.rest = inputs[7]
        return _walk(ctx.rest, inputs[:7], None, (False,) * 3)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        inputs, needs = ctx.saved_tensors, ctx.needs_input_grad
        if grad is None:
            return (None,) * 8
        if torch.is_grad_enabled() or is_traced(grad, *inputs):
            wanted = [x for x, need in zip(inputs, needs, strict=False) if need]
            with torch.enable_grad():
                found = iter(torch.autograd.grad(_whole(ctx.rest, inputs), wanted, grad, create_graph=True, allow_unused=True))
            return *(next(found) if need else None for need in needs[:7]), None
        gradients = (None,) * 3
        if any(needs[:3]):
            gradients = _walk(ctx.rest, inputs, grad, needs[:3])[1]
        return *gradients, *_gradients_of_others(ctx.rest, inputs, grad, needs[3:6]), None, None


def _rows(rest: Rows, inputs: tuple[Any, ...]) -> Rows:
    return formula.with_tensors(rest, (rest.logits._replace(hidden=inputs[0], weight=inputs[1], bias=inputs[2]), *inputs[3:]))


def _whole(rest: Rows, inputs: tuple[Any, ...]) -> Tensor:
    rows = _rows(rest, inputs)
    return linear.whole(ON_GRAPH, rows._replace(logits=rows.logits._replace(places=None)))[0]


def _entered(rest: Rows, inputs: tuple[Any, ...]) -> tuple[Library, Rows]:
    """Eager rows as an engine sees them, and the library that computes on them."""
    hidden, weight, bias, *others = inputs
    library = TORCH.eager(hidden)
    rows = formula.entered(library, formula.with_tensors(rest, (hidden, *others)))
    head = rest.logits._replace(
        hidden=rows.logits,
        weight=library.enter_matrix(weight),
        bias=None if bias is None else library.enter_matrix(bias),
        places=library.enter(rest.logits.places),
    )
    return library, rows._replace(logits=head)


def _walk(
    rest: Rows, inputs: tuple[Any, ...], scale: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The losses of eager rows, and with `scale` the gradients of hidden, weight and bias."""
    library, rows = _entered(rest, inputs)
    with library.computing(inputs[0]):
        found, gradients = linear.walk(library, rows, library.enter(scale), needs)
        return library.leave(found), linear.finished(library, inputs[:3], gradients)


def _gradients_of_others(
    rest: Rows, inputs: tuple[Any, ...], grad: Tensor, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Of soft targets, token weights and class weights."""
    tensors = list(inputs[3:6])
    found = [torch.zeros_like(x) if need else None for x, need in zip(tensors, needs, strict=True)]
    if any(needs):
        head = rest.logits._replace(hidden=inputs[0], weight=inputs[1], bias=inputs[2])
        for block in linear.blocks(TORCH, formula.with_tensors(rest, (head, *inputs[3:]))):
            parts = formula.gradients_of_others(block.rows, grad[block.places], needs)
            for i, part in enumerate(parts):
                if part is not None and i == 2:
                    found[i] += part
                elif part is not None:
                    found[i].reshape(len(grad), *part.shape[1:])[block.places] = part
    return found
