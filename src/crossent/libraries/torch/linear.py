"""Losses of hidden states on torch's autograd graph.

A mean or a sum of plain tensors makes its gradients together with the loss, in one walk of the blocks, and keeps them
in the compute dtype until they are scaled. Whatever else is asked walks the blocks once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossent import linear
from crossent.libraries.base import Inputs, Library
from crossent.libraries.torch import formula, graph
from crossent.libraries.torch.library import ON_GRAPH, TORCH, TRACED
from crossent.libraries.torch.tensors import is_traced, without_autocast
from crossent.math.rows import Head, Rows, over_lines
from crossent.math.statistics import Described, RowStatistics, Spread
from crossent.types import Array

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
        ctx.rows = rows._replace(logits=rows.logits._replace(hidden=None, weight=None, bias=None, made=None), soft=None)
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
            with torch.enable_grad():
                loss = _on_graph(ctx.rows, ctx.ending, inputs, targets if ctx.is_soft else None)
            return *_differentiated(loss, inputs, ctx.needs_input_grad, grad), *rest
        if 0 in ctx.ending.token_shape:
            return *(torch.zeros_like(x) if x is not None else None for x in inputs), *rest
        with library.computing(inputs[0]):
            return *linear.finished(library, inputs, _gradients(ctx, inputs, targets, grad)), *rest


def _gradients(ctx: Any, inputs: list[Any], targets: Tensor, grad: Tensor) -> linear.Gradients:
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
    entered: list[Any] = [None if x is None else library.enter_matrix(x) for x in inputs]
    hidden, weight, bias = entered
    rows, v = ctx.rows, ctx.rows.width
    head = rows.logits._replace(hidden=hidden, weight=weight[:v], bias=None if bias is None else bias[:v])
    rows = rows._replace(logits=head, soft=soft)
    return library.linear_losses_and_gradients(rows, ctx.ending.scale(factor), ctx.needs_input_grad[:3])[1]


def _on_graph(rows: Rows, ending: Ending, inputs: list[Any], soft: Tensor | None) -> Tensor:
    """The loss of a call that is prepared, as a function that torch differentiates any number of times."""
    hidden, weight, bias = inputs
    dtype = ON_GRAPH.compute_dtype(hidden)
    kept = None if rows.weight is None else torch.as_tensor(rows.weight).reshape(hidden.shape[:-1]) != 0
    hidden = hidden.to(dtype)
    if rows.parts is not None:
        hidden = rows.parts.group.shared(hidden)
    hidden = hidden if kept is None else torch.where(kept[..., None], hidden, 0.0)
    with without_autocast(hidden.device.type):
        logits = hidden @ weight[: rows.width].to(dtype).T
    if bias is not None:
        logits = logits + bias[: rows.width].to(dtype)
    return graph.on_graph(rows, ending, logits, soft)


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
        return walk(ctx.rest, inputs[:7], None, (False,) * 3)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        inputs, needs = ctx.saved_tensors, ctx.needs_input_grad
        if grad is None:
            return (None,) * 8
        if torch.is_grad_enabled() or is_traced(grad, *inputs):
            with torch.enable_grad():
                found = _whole(ctx.rest, inputs)
            return *_differentiated(found, inputs, needs, grad), None
        return *gradients(ctx.rest, inputs, grad, needs), None


def _whole(rest: Rows, inputs: tuple[Any, ...]) -> Tensor:
    hidden, weight, bias, *others = inputs
    head = rest.logits._replace(hidden=hidden, weight=weight, bias=bias, places=None)
    found: Tensor = linear.whole(ON_GRAPH, formula.with_tensors(rest, (head, *others)))[0]
    return found


def _differentiated(result: Tensor, inputs: Sequence[Any], needs: tuple[bool, ...], grad: Tensor) -> list[Any]:
    """The gradients of those inputs that need one, on the graph where torch keeps one."""
    wanted = [x for x, need in zip(inputs, needs, strict=False) if need]
    keeps = torch.is_grad_enabled()
    found = iter(torch.autograd.grad(result, wanted, grad, create_graph=keeps, allow_unused=True))
    return [next(found) if need else None for _, need in zip(inputs, needs, strict=False)]


def gradients(rest: Rows, inputs: tuple[Any, ...], grad: Tensor, needs: tuple[bool, ...]) -> list[Tensor | None]:
    """Of hidden, weight, bias, soft targets, token weights and class weights, those that are needed; and one None."""
    found: tuple[Tensor | None, ...] = (None,) * 3
    if any(needs[:3]):
        found = linear.finished(TORCH, inputs[:3], walk(rest, inputs, grad, needs[:3])[1])
    return [*found, *_gradients_of_others(rest, inputs, grad, needs[3:6]), None]


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


def walk(
    rest: Rows, inputs: tuple[Any, ...], scale: Tensor | None, needs: tuple[bool, ...]
) -> tuple[Tensor, linear.Gradients]:
    """The losses of eager rows, and with `scale` the gradients of hidden, weight and bias, in the compute dtype."""
    library, rows = _entered(rest, inputs)
    with library.computing(inputs[0]):
        found, gradients = linear.walk(library, rows, library.enter(scale), needs)
        return library.leave(found), linear.Gradients(*(None if x is None else library.leave(x) for x in gradients))


def statistics(rows: Rows) -> RowStatistics:
    """The statistics of whole rows, of whose classes these have a part, as `formula.statistics` has them."""
    head: Head = rows.logits
    given = (head.hidden, head.weight, head.bias, *formula.tensors_of(rows)[1:])
    if is_traced(*given):
        return formula.statistics(linear.filled(TRACED, rows))
    alone = tuple(None if x is None else x.detach() for x in given)
    library, entered = _entered(rows, alone)
    with library.computing(head.hidden):
        found = over_lines(library.leave, linear.statistics(library, entered))
    return formula.with_own(rows, found)


def walk_rows(rows: Rows, scale: Array | float, needs: tuple[bool, ...]) -> tuple[Tensor, linear.Gradients]:
    """The losses and the gradients of eager rows of tensors."""
    head: Head = rows.logits
    factor = torch.as_tensor(scale, dtype=torch.float64 if head.hidden.dtype == torch.float64 else None)
    return walk(rows, (head.hidden, head.weight, head.bias, *formula.tensors_of(rows)[1:]), factor, needs)


def described(rows: Rows) -> Described:
    """What eager rows of tensors tell, of hidden states or of logits."""
    if isinstance(rows.logits, Head):
        head = rows.logits
        library, rows = _entered(rows, (head.hidden, head.weight, head.bias, *formula.tensors_of(rows)[1:]))
    else:
        library = TORCH.eager(rows.logits)
        rows = formula.entered(library, rows)
    with library.computing(rows.targets):
        found = library.described(rows)
        losses, maximum, *spread = map(library.leave, (found.losses, found.maximum, *found.spread))
    return Described(losses, maximum, Spread(*spread))


def _gradients_of_others(
    rest: Rows, inputs: tuple[Any, ...], grad: Tensor, needs: tuple[bool, ...]
) -> list[Tensor | None]:
    """Of soft targets, token weights and class weights."""
    if not any(needs):
        return [None, None, None]
    found = [torch.zeros_like(x) if need else None for x, need in zip(inputs[3:6], needs, strict=True)]
    head = rest.logits._replace(hidden=inputs[0], weight=inputs[1], bias=inputs[2])
    if rest.parts is not None:
        # All parts are to have the same blocks: one, of whatever size.
        head, rest = head._replace(memory=1 << 62), rest._replace(found=None)
    for block in linear.blocks(TORCH, formula.with_tensors(rest, (head, *inputs[3:]))):
        parts = formula.gradients_of_others(block.rows, grad[block.places], needs)
        of_classes = parts.pop()
        for total, part in zip(found, parts, strict=False):
            if total is not None and part is not None:
                total.view(len(grad), *part.shape[1:])[block.places] = part
        if found[2] is not None and of_classes is not None:
            found[2] += of_classes
    return found
