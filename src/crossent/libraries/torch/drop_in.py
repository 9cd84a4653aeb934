"""PyTorch's own `cross_entropy` and `CrossEntropyLoss`: the same signatures, defaults, semantics, dtypes and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F  # noqa: N812

from crossent import problem
from crossent.libraries import Inputs
from crossent.libraries.torch.library import TORCH, is_traced
from crossent.math.operations import FLOATS
from crossent.options import Options


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
    # A script is PyTorch's own code: it holds PyTorch's loss, and nothing of the other branch is read for it.
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        loss = F.cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)
    else:
        loss = _cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    return loss


def _cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
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
    options = Options(
        ignore_index=None if soft else ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        smoothing="uniform",
        # PyTorch's loss can be captured, and has no word for a check that would wait.
        check_targets=is_traced(input, target) or not TORCH.is_captured(target),
        ieee=True,
    )
    result: Tensor = problem.loss(Inputs(classes_last, targets, None, weight), options)
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
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)) or not (_is_dense(input) and _is_dense(target)):
        return False
    if any(map(_is_overridden, (input, target, weight))) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if TORCH.dtype_name(input) not in FLOATS or input.ndim == 0 or target.device != input.device:
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
        if not fits or weight.device != input.device or weight.requires_grad or not _is_dense(weight):
            return False
    return (
        classes > 0
        and isinstance(ignore_index, int)
        and reduction in ("mean", "sum", "none")
        and isinstance(label_smoothing, (int, float))
        and not isinstance(label_smoothing, bool)
        and 0.0 <= label_smoothing <= 1.0
    )


def _is_overridden(x: object) -> bool:
    """Whether PyTorch's functions are not its own for `x`, of a type that answers for them. No mode is asked."""
    if type(x) is Tensor or type(x) is torch.nn.Parameter:
        return False
    plain = torch._C._disabled_torch_function_impl
    return getattr(type(x), "__torch_function__", plain) is not plain


def _is_dense(x: Tensor) -> bool:
    return TORCH.refusal(x) is None


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss` over this package's `cross_entropy`; the same arguments, buffers and repr.

    Examples
    --------
    >>> criterion = CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)
    >>> criterion(torch.zeros(2, 5), torch.tensor([1, 0])).item()
    1.6094379425048828
    """

    if TYPE_CHECKING:

        def __call__(self, input: Tensor, target: Tensor) -> Tensor:
            """`forward`, whose type PyTorch's modules do not pass on."""

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
