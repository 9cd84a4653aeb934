"""The token losses as operators of PyTorch's: `crossent::losses`, whose derivative is `crossent::gradient`.

torch.compile keeps an operator whole, so an engine walks the logits when the compiled program runs, where the formula
would be taken apart into the compiler's own code. Their arrays are those of a checked call whose targets are safe to
index with; options are coefficients here already.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crossent import arrays, choice, flatten
from crossent.calls import Call
from crossent.objective import Coefficients
from crossent.tokens import Tokens
from crossent.torch import formula

# The order of the tensors is that of `Call.with_arrays`; then come the fields of `Coefficients`.
_TENSORS = "Tensor logits, Tensor? soft, Tensor? weight, Tensor? class_weights, Tensor? classes"
_OTHERS = "float keep, float spread, int share, float square, float floor, bool limits, str engine"
# The compiler may give logits padded rows, but not another order of the axes: the gradient's follows from it.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)

torch.library.define("crossent::losses", f"({_TENSORS}, {_OTHERS}) -> Tensor", tags=_TAGS)
torch.library.define("crossent::gradient", f"({_TENSORS}, Tensor scale, {_OTHERS}) -> Tensor", tags=_TAGS)


def losses(call: Call, engine: str) -> Tensor:
    """The token losses (N,) of a traced call, which that engine is to walk when there are values."""
    tensors = (call.logits, call.targets, call.tokens.weight, call.class_weights, call.tokens.classes)
    result: Tensor = torch.ops.crossent.losses(*tensors, *call.coefficients, engine)
    return result


def _call(tensors: tuple[Any, ...], others: tuple[Any, ...]) -> Call:
    *coefficients, engine = others
    logits, soft, weight, class_weights, classes = tensors
    xp = arrays.namespace(logits)
    return Call(
        xp=xp,
        place=logits.device,
        wide=xp.float64,
        from_host=False,
        logits=logits,
        targets=soft,
        soft=soft is not None,
        shape=tuple(logits.shape),
        lead=tuple(logits.shape[:-1]),
        dtype=arrays.dtype_name(logits.dtype),
        tokens=Tokens(classes, weight, None, None),
        class_weights=class_weights,
        coefficients=Coefficients(*coefficients),
        reduction="none",
        denominator=1.0,
        engine=engine,
    )


def _walkable(tensors: tuple[Any, ...], others: tuple[Any, ...]) -> Call:
    """The call of arrays that have values. What they are may be too much for the engine that their device promised."""
    call = _call(tensors, others)
    if choice.obstacle(call.engine, call.logits, call.coefficients) is None:
        return call
    return call._replace(engine="array_api")


def _losses(*inputs: Any) -> Tensor:
    found: Tensor = flatten.walk(_walkable(inputs[:5], inputs[5:]))[0]
    return found


def _gradient(*inputs: Any) -> Tensor:
    logits = inputs[0]
    # With the strides that the compiler has been told; where they are plain, `walk` has faster memory.
    out = None if logits.is_contiguous() else torch.empty_like(logits)
    found = flatten.walk(_walkable(inputs[:5], inputs[6:]), inputs[5], out)[1]
    assert isinstance(found, Tensor)
    return found


def _fake_losses(logits: Tensor, *_others: Any) -> Tensor:
    dtype = arrays.compute_dtype(torch, arrays.dtype_name(logits.dtype))
    return logits.new_empty((math.prod(logits.shape[:-1]),), dtype=dtype)


def _fake_gradient(logits: Tensor, *_others: Any) -> Tensor:
    return torch.empty_like(logits)


def _keep_losses(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.set_materialize_grads(False)
    ctx.others = inputs[5:]


def _losses_backward(ctx: Any, grad: Tensor | None) -> tuple[Any, ...]:
    rest = (None,) * (1 + len(ctx.others))
    if grad is None:
        return (None,) * 4 + rest
    saved = ctx.saved_tensors
    d = torch.ops.crossent.gradient(*saved, grad, *ctx.others) if ctx.needs_input_grad[0] else None
    call = _call(saved, ctx.others)
    return d, *formula.gradients_of_others(call, grad, ctx.needs_input_grad[1:4]), *rest


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.others = inputs[6:]


def _gradient_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *tensors, scale = ctx.saved_tensors
    needed = (*ctx.needs_input_grad[:4], ctx.needs_input_grad[5])
    call = _call(tuple(tensors), ctx.others)
    *of_call, of_scale = formula.gradients_of_gradient(call, scale, grad, needed)
    return *of_call, None, of_scale, *(None,) * len(ctx.others)


torch.library.impl("crossent::losses", "CompositeExplicitAutograd", _losses)
torch.library.impl("crossent::gradient", "CompositeExplicitAutograd", _gradient)
torch.library.register_fake("crossent::losses", _fake_losses)
torch.library.register_fake("crossent::gradient", _fake_gradient)
torch.library.register_autograd("crossent::losses", _losses_backward, setup_context=_keep_losses)
torch.library.register_autograd("crossent::gradient", _gradient_backward, setup_context=_keep_gradient)
