"""What belongs to PyTorch: token losses on the autograd graph, and PyTorch's own `cross_entropy`, `CrossEntropyLoss`.

One line moves existing code: ``from xent.torch import cross_entropy, CrossEntropyLoss``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F  # noqa: N812
from torch.overrides import has_torch_function

from xent import arrays, flatten
from xent.arrays import is_dense
from xent.calls import Call, prepare, rows_of
from xent.engines import array_api
from xent.functional import gradient, is_followed, loss_and_gradient, loss_of, reduced

__all__ = ["CrossEntropyLoss", "cross_entropy"]

# Logits whose gradient is made together with the loss: a quarter of a megabyte, and a walk less for a small call. It is
# of use where the gradient from above is 1; any other is multiplied in the compute dtype, before the rounding.
SMALL = 1 << 16
# The options that may be tensors.
_TENSORS = ("weights", "class_weights", "denominator")


def followed_loss(logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """The loss of `xent.cross_entropy` on the autograd graph, or inside a transformation."""
    others = (targets, *(options.get(name) for name in _TENSORS))
    plain = not arrays.is_traced(logits, *others) and arrays.is_host_memory(logits)
    if plain and torch.autograd.forward_ad._current_level < 0 and not arrays.requires_gradient(*others):
        result: Tensor = _HostLoss.apply(logits, targets, options)  # type: ignore[no-untyped-call]
        return result
    return _general_loss(logits, targets, options)


def _general_loss(logits: Tensor, targets: Tensor, options: dict[str, Any]) -> Tensor:
    call = prepare(logits, targets, followed=True, **options)
    function = _Losses if torch.compiler.is_compiling() else _ForwardLosses
    losses = function.apply(  # type: ignore[no-untyped-call]
        call.logits, call.targets, call.tokens.weight, call.class_weights, call.tokens.classes, call.without_arrays()
    )
    result: Tensor = reduced(call, losses)
    return result


class _HostLoss(torch.autograd.Function):
    """The whole loss of plain tensors in host memory, differentiated with respect to the logits alone."""

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
        if call.reduction in ("mean", "sum") and math.prod(call.shape) <= SMALL:
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
        return d, *_gradients_of_others(call, grad, ctx.needs_input_grad[1:4]), None, None


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
            formula, given = _as_formula(call, [i for i, _ in changes])
            # Forward differentiation does not nest under torch.autograd.forward_ad; the transpose of a pullback does.
            pull = torch.func.vjp(formula, *given)[1]
            push = torch.func.vjp(pull, torch.zeros_like(loss))[1]
            change = change + push(tuple(x.to(given[i].dtype) for i, (_, x) in enumerate(changes)))[0]
        return change


def _is_traced(call: Call) -> bool:
    of_tokens = (call.tokens.weight, call.tokens.classes)
    return arrays.is_traced(call.logits, call.targets, call.class_weights, *of_tokens)


def _as_formula(call: Call, places: list[int]) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The losses as a plain function of soft targets (0), weights (1) or class weights (2); and those of the call."""
    others = [call.targets, call.tokens.weight, call.class_weights]

    def formula(*values: Tensor) -> Tensor:
        soft, weight, class_weights = (values[places.index(i)] if i in places else others[i] for i in range(3))
        given = call.with_arrays(call.logits, soft, weight, class_weights, call.tokens.classes)
        result: Tensor = array_api.whole(call.xp, rows_of(given))
        return result

    return formula, tuple(x for i in places if (x := others[i]) is not None)


def _gradients_of_others(call: Call, grad: Tensor, needed: tuple[bool, bool, bool]) -> list[Tensor | None]:
    """Of soft targets, weights and class weights; in them the formula of the loss cancels nothing."""
    found: list[Tensor | None] = [None, None, None]
    places = [i for i, need in enumerate(needed) if need]
    if places:
        formula, given = _as_formula(call, places)
        for i, value in zip(places, torch.func.vjp(formula, *given)[1](grad), strict=True):
            found[i] = value
    return found


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy`, more accurate: the same signature, defaults, semantics, dtypes and errors.

    Parameters
    ----------
    input
        Floating tensor of logits (C,), (N, C) or (N, C, d1, …): the classes are dimension 1.
    target
        int64 classes of shape (), (N,) or (N, d1, …), or probabilities of the shape and dtype of `input`.
    weight
        A factor for each class, (C,). "mean" divides by the weights of the targets that are not ignored.
    size_average, reduce
        PyTorch's deprecated way to say `reduction`.
    ignore_index
        The class that marks targets that do not count.
    reduction
        "mean", "sum" or "none".
    label_smoothing
        ε of which each class gets ε/C.

    Returns
    -------
    Tensor
        Of the dtype of `input`; NaN where PyTorch's is, as for a mean over nothing but ignored targets.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError
        What PyTorch raises.

    References
    ----------
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html

    Examples
    --------
    >>> logits = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
    >>> loss = cross_entropy(logits, torch.tensor([0]))
    >>> print(f"{loss.item():.4g}")
    4.122e-09
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if not _is_served(input, target, weight, ignore_index, reduction, label_smoothing):
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    place = input.device.type
    widened = input.dtype.itemsize == 2 and torch.amp.is_autocast_available(place) and torch.is_autocast_enabled(place)
    dtype = torch.float32 if widened else input.dtype
    soft = target.is_floating_point()
    classes_last = input.movedim(1, -1) if input.ndim > 2 else input
    targets = target.movedim(1, -1) if soft and target.ndim > 2 else target
    options: dict[str, Any] = {
        "class_weights": weight,
        "ignore_index": None if soft else ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "smoothing": "uniform",
        "limits": False,
    }
    if is_followed(input, target, weight):
        result = followed_loss(classes_last, targets, **options)
    else:
        result = loss_of(prepare(classes_last, targets, **options))
    return result.to(dtype)


def _is_served(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> bool:
    """Whether the loss is computed here. Anything unusual, and whatever PyTorch refuses, is left to PyTorch."""
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)) or not (is_dense(input) and is_dense(target)):
        return False
    if has_torch_function((input, target, weight)) or arrays.is_recorded_as_script():
        return False
    if arrays.dtype_name(input.dtype) not in arrays.FLOATS or input.ndim == 0 or target.device != input.device:
        return False
    if input.shape == target.shape:
        if target.dtype != input.dtype or ignore_index >= 0:
            return False
    else:
        lead = input.shape[:1] + input.shape[2:] if input.ndim > 1 else input.shape[:0]
        if target.dtype != torch.int64 or target.shape != lead:
            return False
    classes = input.shape[1 if input.ndim > 1 else 0]
    if weight is not None:
        fits = isinstance(weight, Tensor) and weight.shape == (classes,) and weight.dtype == input.dtype
        if not fits or weight.device != input.device or weight.requires_grad or not is_dense(weight):
            return False
    return (
        classes > 0
        and isinstance(ignore_index, int)
        and reduction in ("mean", "sum", "none")
        and isinstance(label_smoothing, (int, float))
        and not isinstance(label_smoothing, bool)
        and 0.0 <= label_smoothing <= 1.0
    )


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` over this package's `cross_entropy`; the same arguments, buffers and repr.

    Examples
    --------
    >>> criterion = CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)
    >>> criterion(torch.zeros(2, 5), torch.tensor([1, 0])).item()
    1.6094379425048828
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of `input` (N, C, …) with `target`; see `cross_entropy`."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
