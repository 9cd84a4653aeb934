"""Losses on torch's autograd graph and inside its transformations: functions with derivatives of their own.

The derivative is the contract's gradient, not that of the loss's formula, which cancels for likely targets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crossent import description
from crossent.description import TokenStatistics
from crossent.libraries.base import Inputs, Library
from crossent.libraries.torch import formula
from crossent.libraries.torch.library import ON_GRAPH, TRACED
from crossent.libraries.torch.tensors import is_traced
from crossent.math import tokens
from crossent.math.measures import ENTROPY, LOG_SUM_EXP
from crossent.math.rows import LOSS, Coefficients, Rows

if TYPE_CHECKING:
    from crossent.problem import Ending

# Logits whose gradient is made together with the loss: a quarter of a megabyte, and a walk less for a small call. It is
# of use where the gradient from above is 1; any other is multiplied in the compute dtype, before the rounding.
SMALL = 1 << 16


def plain_loss(library: Library, inputs: Inputs, rows: Rows, ending: Ending) -> Tensor:
    """The whole loss of a call, of whose tensors the logits alone are differentiated."""
    # All of them, so that torch notices what is written between forward and backward.
    others = [x for x in inputs[2:] if isinstance(x, Tensor)]
    result: Tensor = _PlainLoss.apply(  # type: ignore[no-untyped-call]
        inputs.logits, inputs.targets, others, library, rows, ending
    )
    return result


class _PlainLoss(torch.autograd.Function):
    """The whole loss of plain tensors, differentiated with respect to the logits alone."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, others: list[Tensor], library: Library, rows: Rows, ending: Ending
    ) -> Tensor:
        ctx.save_for_backward(logits, targets, *others)
        ctx.library, ctx.ending = library, ending
        # What may be large is saved by torch.
        ctx.rows = rows._replace(logits=None, soft=None)
        ctx.is_soft = rows.soft is not None
        ctx.gradients = []
        if ctx.is_soft:
            rows = rows._replace(soft=library.enter_matrix(targets.detach()))
        rows = rows._replace(logits=library.enter_matrix(logits.detach()))
        result: Tensor
        if 0 in ending.token_shape:
            result = ending.of_nothing()
        # Whether a gradient from above is 1 can be asked without waiting in host memory alone.
        elif isinstance(rows.logits, np.ndarray) and ending.reduction in ("mean", "sum") and _is_small(logits):
            losses, d = library.losses_and_gradient(rows, ending.scale(1.0), None)
            result = ending.finish(losses)
            ctx.gradients.append(library.leave_matrix(d, logits))
        else:
            result = ending.finish(library.losses(rows))
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        logits, targets, *_ = ctx.saved_tensors
        d = _made(ctx.gradients, grad)
        if d is None:
            d = _gradient(ctx.library, ctx.rows, ctx.ending, logits, targets if ctx.is_soft else None, grad)
        return d, None, None, None, None, None


def straight_loss(
    library: Library, inputs: Inputs, loss: Any, d: Any, prepared: Callable[[Inputs], tuple[Rows, Ending]]
) -> Tensor:
    """The whole loss of a call whose loss and gradient are known."""
    result: Tensor = _StraightLoss.apply(  # type: ignore[no-untyped-call]
        inputs.logits, inputs.targets, library, loss, d, prepared
    )
    return result


class _StraightLoss(torch.autograd.Function):
    """The loss of plain tensors with hard targets, whose gradient has been made together with it."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        targets: Tensor,
        library: Library,
        loss: Any,
        d: Tensor,
        prepared: Callable[[Inputs], tuple[Rows, Ending]],
    ) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.library, ctx.prepared, ctx.gradients = library, prepared, [d]
        result: Tensor = library.leave(loss)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        logits, targets = ctx.saved_tensors
        d = _made(ctx.gradients, grad)
        if d is None:
            rows, ending = ctx.prepared(Inputs(logits.detach(), targets))
            d = _gradient(ctx.library, rows, ending, logits, None, grad)
        return d, None, None, None, None, None


def _made(gradients: list[Tensor], grad: Tensor) -> Tensor | None:
    """A gradient that was made with the loss, where it is the one that is asked for."""
    if gradients and not torch.is_grad_enabled() and not is_traced(grad) and float(grad) == 1.0:
        # Given away once, to one thread, which may write into it.
        with contextlib.suppress(IndexError):
            return gradients.pop()
    return None


def _gradient(
    library: Library, rows: Rows, ending: Ending, logits: Tensor, soft: Tensor | None, grad: Tensor
) -> Tensor:
    d: Tensor
    if torch.is_grad_enabled() or is_traced(grad):
        # Someone wants to differentiate the gradient: only the general function has one that can be.
        with torch.enable_grad():
            loss = on_graph(rows, ending, logits, soft)
        (d,) = torch.autograd.grad(loss, logits, grad, create_graph=torch.is_grad_enabled())
        return d
    if 0 in ending.token_shape:
        return torch.zeros_like(logits)
    rows = rows._replace(
        logits=library.enter_matrix(logits.detach()),
        soft=None if soft is None else library.enter_matrix(soft.detach()),
    )
    with library.computing(logits):
        scale = ending.scale(library.above(grad))
        d = library.leave_matrix(library.losses_and_gradient(rows, scale, None)[1], logits)
    return d


def plain_statistics(library: Library, inputs: Inputs, rows: Rows, ending: Ending) -> TokenStatistics:
    """What rows tell of their tokens in one walk, where logits alone are differentiated."""
    loss, log_sum_exp, entropy, rank = _PlainStatistics.apply(  # type: ignore[no-untyped-call]
        inputs.logits, inputs.targets, library, rows, ending
    )
    return TokenStatistics(loss, 0.0 - loss, log_sum_exp, entropy, rank, rank == 0)


class _PlainStatistics(torch.autograd.Function):
    """Loss, log-sum-exp, entropy and rank of plain tensors. Each of the first three has a gradient of its own."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, library: Library, rows: Rows, ending: Ending
    ) -> tuple[Tensor, ...]:
        # The targets too, so that torch notices what is written between forward and backward.
        ctx.save_for_backward(logits, targets)
        ctx.library, ctx.rows, ctx.ending = library, rows._replace(logits=None), ending
        found = description.finished(library, rows._replace(logits=library.enter_matrix(logits.detach())), ending)
        ctx.mark_non_differentiable(found.rank)
        ctx.set_materialize_grads(False)
        return found.loss, found.log_sum_exp, found.entropy, found.rank

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        logits, _ = ctx.saved_tensors
        library: Library = ctx.library
        asked = [(m, g) for m, g in zip((LOSS, LOG_SUM_EXP, ENTROPY), grads[:3], strict=True) if g is not None]
        again = torch.is_grad_enabled() or is_traced(*grads)
        parts = []
        for measure, grad in asked:
            rows = ctx.rows._replace(coefficients=ctx.rows.coefficients._replace(measure=measure))
            rows = rows if measure == LOSS else rows._replace(targets=None)
            if again:
                with torch.enable_grad():
                    value = on_graph(rows, ctx.ending, logits, None)
                parts += torch.autograd.grad(value, logits, grad, create_graph=torch.is_grad_enabled())
            else:
                rows = rows._replace(logits=library.enter_matrix(logits.detach()))
                with library.computing(logits):
                    d = library.losses_and_gradient(rows, ctx.ending.scale(library.above(grad)), None)[1]
                parts.append(library.leave_matrix(d, logits))
        return sum(parts[1:], parts[0]) if parts else None, None, None, None, None


def _is_small(logits: Tensor) -> bool:
    return logits.numel() <= SMALL


def on_graph(rows: Rows, ending: Ending, logits: Tensor, soft: Tensor | None) -> Tensor:
    """The loss of a call that is prepared, once more, as a function that torch differentiates any number of times."""

    def tensor(x: Any) -> Any:
        return torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x

    targets, weight = tensor(rows.targets), tensor(rows.weight)
    ending = ending._replace(
        library=ON_GRAPH,
        device=logits.device,
        dtype=ON_GRAPH.compute_dtype(logits),
        wide=ON_GRAPH.widest(logits.device)[0],
        denominator=tensor(ending.denominator),
        counted=tensor(ending.counted),
    )
    if targets is not None:
        # The engine saw to targets outside of the vocabulary; the formula follows every target.
        targets, weight = tokens.in_range(ON_GRAPH, targets, weight, rows.vocabulary, ending.dtype)
    given = (logits, soft, weight, tensor(rows.class_weights), targets)
    rows = formula.with_tensors(rows._replace(dtype=ending.dtype, found=None), given)
    return ending.finish(losses(rows, forward=rows.parts is None))  # type: ignore[no-any-return]


def losses(rows: Rows, *, forward: bool) -> Tensor:
    """The token losses (N,), with forward derivatives or without."""
    if rows.parts is not None and rows.found is None:
        rows = rows._replace(found=formula.statistics(rows))
    function = _ForwardLosses if forward else _Losses
    rest = formula.with_tensors(rows, (None,) * 5)
    result: Tensor = function.apply(*formula.tensors_of(rows), rest)  # type: ignore[no-untyped-call]
    return result


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def losses_of(
    logits: Tensor,
    soft: Tensor | None,
    weight: Tensor | None,
    class_weights: Tensor | None,
    targets: Tensor | None,
    *coefficients: Any,
) -> Tensor:
    """The token losses (N,) by the formula, of whole rows, which torch.compile does not look into.

    What follows it into a function makes a guard of every module, class and constant that it meets there, some hundred,
    which every call of the program would go through. What compiles the program follows the tensors all the same.
    """
    dtype, v = TRACED.compute_dtype(logits), logits.shape[-1]
    rows = Rows(logits, targets, soft, weight, class_weights, Coefficients(*coefficients), 0, v, dtype)
    return losses(rows, forward=False)


def _is_traced(rows: Rows) -> bool:
    return is_traced(*formula.tensors_of(rows))


class _Losses(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        soft: Tensor | None,
        weight: Tensor | None,
        class_weights: Tensor | None,
        targets: Tensor | None,
        rest: Rows,
    ) -> Tensor:
        rows = formula.with_tensors(rest, (logits, soft, weight, class_weights, targets))
        return formula.losses(rows) if _is_traced(rows) else formula.walk(rows, None)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])
        ctx.set_materialize_grads(False)
        ctx.rest = inputs[5]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 6
        rows = formula.with_tensors(ctx.rest, ctx.saved_tensors)
        d = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled() or _is_traced(rows) or is_traced(grad):
                # What was found of whole rows is a constant, which it is not to derivatives of the gradient.
                again = rows if torch.compiler.is_compiling() else rows._replace(found=None)
                d = formula.gradient(again, grad)[1]
            else:
                d = formula.walk(rows, grad)[1]
        return d, *formula.gradients_of_others(rows, grad, ctx.needs_input_grad[1:4]), None, None


class _ForwardLosses(_Losses):
    """With forward differentiation, for ``jvp`` and ``hessian``; torch.compile cannot trace such functions."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        rows = formula.with_tensors(ctx.rest, ctx.saved_tensors)
        loss, d = formula.gradient(rows, 1.0)
        change: Tensor = torch.zeros_like(loss)
        if tangents[0] is not None:
            v = d.shape[-1]
            change = (d.reshape(-1, v) * tangents[0].reshape(-1, v)).sum(1, dtype=loss.dtype)
        changes = [(i, x) for i, x in enumerate(tangents[1:4], 1) if x is not None]
        if changes:
            losses_of, given = formula.of_others(rows, [i for i, _ in changes])
            # Forward differentiation does not nest under torch.autograd.forward_ad; the transpose of a pullback does.
            pull = torch.func.vjp(losses_of, *given)[1]
            push = torch.func.vjp(pull, torch.zeros_like(loss))[1]
            change = change + push(tuple(x.to(given[i].dtype) for i, (_, x) in enumerate(changes)))[0]
        return change
