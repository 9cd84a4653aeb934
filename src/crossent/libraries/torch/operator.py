"""The token losses as operators of PyTorch's: `crossent::losses`, whose derivative is `crossent::gradient`.

torch.compile keeps an operator whole, so an engine walks the logits when the compiled program runs, where the formula
would be taken apart into the compiler's own code. Their targets are safe to index with; their arguments are the tensors
of `Rows`, the coefficients and the engine.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from crossent.engines import select
from crossent.libraries.torch import formula
from crossent.libraries.torch.library import TORCH
from crossent.math.rows import Coefficients, Rows

_TENSORS = "Tensor logits, Tensor? soft, Tensor? weight, Tensor? class_weights, Tensor? targets"
OTHERS = ", ".join([*(f"{type(x).__name__} {name}" for name, x in Coefficients()._asdict().items()), "str engine"])
# The compiler may give logits padded rows, but not another order of the axes: the gradient's follows from it.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)

torch.library.define("crossent::losses", f"({_TENSORS}, {OTHERS}) -> Tensor", tags=_TAGS)
torch.library.define("crossent::gradient", f"({_TENSORS}, Tensor scale, {OTHERS}) -> Tensor", tags=_TAGS)


def losses(rows: Rows) -> Tensor:
    """The token losses (N,) of traced rows, which their engine is to walk when there are values."""
    result: Tensor = torch.ops.crossent.losses(*formula.tensors_of(rows), *rows.coefficients, rows.engine)
    return result


def gradient(rows: Rows, scale: Tensor) -> Tensor:
    """The gradient of traced rows, times `scale`."""
    result: Tensor = torch.ops.crossent.gradient(*formula.tensors_of(rows), scale, *rows.coefficients, rows.engine)
    return result


def _rows(tensors: tuple[Any, ...], others: tuple[Any, ...]) -> Rows:
    logits, soft, weight, class_weights, targets = tensors
    *coefficients, engine = others
    v = logits.shape[-1]
    dtype = TORCH.compute_dtype(logits)
    return Rows(logits, targets, soft, weight, class_weights, Coefficients(*coefficients), 0, v, dtype, engine)


def _walk(
    tensors: tuple[Any, ...], others: tuple[Any, ...], scale: Tensor | None, out: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Walk tensors that have values. What they are may be too much for the engine that their device promised."""
    rows = _rows(tensors, others)
    logits = rows.logits
    library = TORCH.eager(logits)
    kind = library.kind(logits, library.dtype_name(logits), rows.vocabulary, rows.coefficients.measure)
    engine = rows.engine if select.obstacle(rows.engine, kind) is None else "array_api"
    return formula.walk(rows._replace(engine=engine), scale, out)


def _losses(*inputs: Any) -> Tensor:
    return _walk(inputs[:5], inputs[5:], None, None)[0]


def _gradient(*inputs: Any) -> Tensor:
    logits = inputs[0]
    # With the strides that the compiler expects; where they are plain, the walk has faster memory.
    out = None if logits.is_contiguous() else torch.empty_like(logits)
    found = _walk(inputs[:5], inputs[6:], inputs[5], out)[1]
    assert isinstance(found, Tensor)
    return found


def _fake_losses(logits: Tensor, *_others: Any) -> Tensor:
    return logits.new_empty((math.prod(logits.shape[:-1]),), dtype=TORCH.compute_dtype(logits))


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
    rows = _rows(ctx.saved_tensors, ctx.others)
    d = gradient(rows, grad) if ctx.needs_input_grad[0] else None
    return d, *formula.gradients_of_others(rows, grad, ctx.needs_input_grad[1:4]), *rest


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.others = inputs[6:]


def _gradient_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *tensors, scale = ctx.saved_tensors
    needed = (*ctx.needs_input_grad[:4], ctx.needs_input_grad[5])
    rows = _rows(tuple(tensors), ctx.others)
    *of_rows, of_scale = formula.gradients_of_gradient(rows, scale, grad, needed)
    return *of_rows, None, of_scale, *(None,) * len(ctx.others)


torch.library.impl("crossent::losses", "CompositeExplicitAutograd", _losses)
torch.library.impl("crossent::gradient", "CompositeExplicitAutograd", _gradient)
torch.library.register_fake("crossent::losses", _fake_losses)
torch.library.register_fake("crossent::gradient", _fake_gradient)
torch.library.register_autograd("crossent::losses", _losses_backward, setup_context=_keep_losses)
torch.library.register_autograd("crossent::gradient", _gradient_backward, setup_context=_keep_gradient)
