"""Token losses on torch's autograd graph and inside its transformations."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crossent import arrays, choice, flatten
from crossent.calls import Call, prepare, rows_of
from crossent.engines import array_api
from crossent.functional import gradient, loss_and_gradient, loss_of, reduced
from crossent.torch import formula, operator

# Logits whose gradient is made together with the loss: a quarter of a megabyte, and a walk less for a small call. It is
# of use where the gradient from above is 1; any other is multiplied in the compute dtype, before the rounding.
SMALL = 1 << 16
# The options that may be tensors.
_TENSORS = ("weights", "class_weights", "denominator")


def followed_loss(logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """The loss of `crossent.cross_entropy` on the autograd graph, or inside a transformation."""
    others = (targets, *(options.get(name) for name in _TENSORS))
    if (
        arrays.is_traced(logits, *others)
        or torch.autograd.forward_ad._current_level >= 0
        or arrays.requires_gradient(*others)
    ):
        return _general_loss(logits, targets, options)
    result: Tensor = _PlainLoss.apply(logits, targets, options)  # type: ignore[no-untyped-call]
    return result


def _general_loss(logits: Tensor, targets: Tensor, options: dict[str, Any]) -> Tensor:
    compiling = torch.compiler.is_compiling()
    engine = _engine_of_operator(logits, options) if compiling else None
    if engine is not None:
        options = {**options, "engine": "auto"}
    call = prepare(logits, targets, followed=True, **options)
    if engine is not None:
        losses = operator.losses(call, engine)
    else:
        function = _Losses if compiling else _ForwardLosses
        losses = function.apply(  # type: ignore[no-untyped-call]
            call.logits,
            call.targets,
            call.tokens.weight,
            call.class_weights,
            call.tokens.classes,
            call.without_arrays(),
        )
    result: Tensor = reduced(call, losses)
    return result


def _engine_of_operator(logits: Tensor, options: dict[str, Any]) -> str | None:
    """The engine that is to walk logits which torch.compile traces; None where it has to see the formula."""
    asked, algorithm = options.get("engine", "auto"), options.get("algorithm", "stable")
    if type(asked) is not str or algorithm != "stable" or arrays.dtype_name(logits.dtype) not in arrays.FLOATS:
        return None
    return _compiled_engine_now(logits.device.type, asked)


# Torch knows whether it exports since 2.7; before, it says no more than that it compiles.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def _compiled_engine(device: str, asked: str) -> str | None:
    """The engine that serves what torch.compile traces; None in an exported program, which is to run without this
    package, and inside the transformations of functorch, which ask for more derivatives than the operator has.
    """
    if _is_exporting() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    return choice.compiled(device, asked)


# Called while torch traces, which could not follow the search for an engine.
_compiled_engine_now: Callable[[str, str], str | None] = torch.compiler.assume_constant_result(  # type: ignore[no-untyped-call]
    _compiled_engine
)


class _PlainLoss(torch.autograd.Function):
    """The whole loss of plain tensors, differentiated with respect to the logits alone."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, options: dict[str, Any]) -> Tensor:
        call = prepare(logits.detach(), targets, **options)
        # All of them, so that torch notices what is written between forward and backward.
        others = [options[name] for name in _TENSORS if isinstance(options.get(name), Tensor)]
        ctx.save_for_backward(logits, targets, *others)
        ctx.options = options
        ctx.call = call.without_logits()
        ctx.gradients = []
        result: Tensor
        # Whether a gradient from above is 1 can be asked without waiting in host memory alone.
        if call.from_host and call.reduction in ("mean", "sum") and math.prod(call.shape) <= SMALL:
            result, gradient_for_one = loss_and_gradient(call, None, None)
            ctx.gradients.append(gradient_for_one)
        else:
            result = loss_of(call)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        logits, targets, *_ = ctx.saved_tensors
        if torch.is_grad_enabled() or arrays.is_traced(grad):
            # Someone wants to differentiate the gradient: only the general function has one that can be.
            with torch.enable_grad():
                loss = _general_loss(logits, targets, ctx.options)
            return *torch.autograd.grad(loss, logits, grad, create_graph=torch.is_grad_enabled()), None, None
        if ctx.gradients and float(grad) == 1.0:
            # Handed out once, to one thread: whoever receives it may write into it.
            with contextlib.suppress(IndexError):
                return ctx.gradients.pop(), None, None
        call = ctx.call.with_logits(logits.detach(), targets)
        return gradient(call, grad), None, None


class _Losses(torch.autograd.Function):
    """The derivative is the contract's gradient, not that of the loss's formula, which cancels for likely targets."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        soft: Tensor | None,
        weight: Tensor | None,
        class_weights: Tensor | None,
        index: Tensor | None,
        call: Call,
    ) -> Tensor:
        call = call.with_arrays(x, soft, weight, class_weights, index)
        found: Tensor = array_api.whole(call.xp, rows_of(call)) if _is_traced(call) else flatten.walk(call)[0]
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])
        ctx.set_materialize_grads(False)
        ctx.call = inputs[5]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
        if grad is None:
            return (None,) * 6
        call: Call = ctx.call.with_arrays(*ctx.saved_tensors)
        d = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled() or _is_traced(call) or arrays.is_traced(grad):
                d = array_api.whole_with_gradient(call.xp, rows_of(call), grad)[1].reshape(call.logits.shape)
            else:
                d = flatten.walk(call, grad)[1]
        return d, *formula.gradients_of_others(call, grad, ctx.needs_input_grad[1:4]), None, None


class _ForwardLosses(_Losses):
    """With forward differentiation, for ``jvp`` and ``hessian``; torch.compile cannot trace such functions."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        call: Call = ctx.call.with_arrays(*ctx.saved_tensors)
        rows = rows_of(call)
        loss, d = array_api.whole_with_gradient(call.xp, rows, 1.0)
        change: Tensor = torch.zeros_like(loss)
        if tangents[0] is not None:
            change = (d * tangents[0].reshape(d.shape)).sum(1, dtype=loss.dtype)
        changes = [(i, x) for i, x in enumerate(tangents[1:4]) if x is not None]
        if changes:
            losses_of, given = formula.of_others(call, [i for i, _ in changes])
            # Forward differentiation does not nest under torch.autograd.forward_ad; the transpose of a pullback does.
            pull = torch.func.vjp(losses_of, *given)[1]
            push = torch.func.vjp(pull, torch.zeros_like(loss))[1]
            change = change + push(tuple(x.to(given[i].dtype) for i, (_, x) in enumerate(changes)))[0]
        return change


def _is_traced(call: Call) -> bool:
    of_tokens = (call.tokens.weight, call.tokens.classes)
    return arrays.is_traced(call.logits, call.targets, call.class_weights, *of_tokens)
