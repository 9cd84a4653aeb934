"""PyTorch's own `cross_entropy` and `CrossEntropyLoss`: the same signatures, defaults, semantics, dtypes and errors."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import _reduction
from torch.nn import functional as F  # noqa: N812

from crossent import problem
from crossent.libraries import Inputs
from crossent.libraries.torch.library import TORCH
from crossent.libraries.torch.recorded import is_left_to_compiler
from crossent.libraries.torch.tensors import is_traced
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
        given = (input, target, weight, ignore_index, reduction, label_smoothing)
        unseen = torch.compiler.is_compiling() and _is_left_to_compiler(*given)
        loss = _unseen(*given) if unseen else _cross_entropy(*given)
    return loss


def _is_left_to_compiler(input: object, target: object, weight: object, *others: object) -> bool:
    """Whether torch.compile is to have the formula of a loss: of plain tensors, and what else it takes as it is."""
    for x in (input, target, weight):
        if x is not None and type(x) is not Tensor and type(x) is not torch.nn.Parameter:
            return False
    for other in others:
        if not isinstance(other, (int, float, str)):
            return False
    return input is not None and is_left_to_compiler(TORCH, input)


def _cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, label_smoothing: float
) -> Tensor:
    if not _is_tensor(input) or not _is_served(
        input, input.shape, target, weight, ignore_index, reduction, label_smoothing
    ):
        return F.cross_entropy(
            input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    soft = target.is_floating_point()
    classes_last = input.movedim(1, -1) if input.ndim > 2 else input
    targets = target.movedim(1, -1) if soft and target.ndim > 2 else target
    options = _options(input, target, ignore_index, reduction, label_smoothing)
    result: Tensor = problem.loss(Inputs(classes_last, targets, None, weight), options)
    return result.to(_dtype(input))


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _unseen(*given: Any) -> Tensor:
    """The same, which torch.compile does not look into, for the reason that `graph.losses_of` has."""
    return _cross_entropy(*given)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    """`torch.nn.functional.linear_cross_entropy` of PyTorch 2.13, more accurate and without the logits of all tokens.

    Parameters
    ----------
    input
        Floating tensor of hidden states (D,) or (N, D).
    linear_weight
        (C, D); with more dimensions, PyTorch computes the loss.
    target
        int64 classes of shape () or (N,), or probabilities (C,) or (N, C) of the dtype of `input`.
    linear_bias
        (C,).
    weight, reduction, label_smoothing
        As for `cross_entropy`.
    ignore_index
        The class that marks targets that do not count; None for -100, or for probabilities.
    options
        PyTorch's choice of chunks, which has no effect here: `crossent.linear_cross_entropy` has its own `memory`.

    Returns
    -------
    Tensor
        Of the dtype of `input`.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError
        What PyTorch raises.

    References
    ----------
    https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear_cross_entropy.html

    Examples
    --------
    >>> hidden, weight = torch.eye(2, 3, requires_grad=True), torch.ones(5, 3)
    >>> print(f"{linear_cross_entropy(hidden, weight, torch.tensor([4, 0])).item():.6f}")
    1.609438
    """
    index = -100 if ignore_index is None else ignore_index
    tensors = (input, linear_weight) if linear_bias is None else (input, linear_weight, linear_bias)
    if not all(map(_is_tensor, tensors)) or not _is_linear(*tensors):
        served = False
    else:
        shape = torch.Size((*input.shape[:-1], linear_weight.shape[0]))
        served = _is_served(input, shape, target, weight, index, reduction, label_smoothing)
        served = served and (ignore_index is None or target.shape != shape)
        served = served and (options is None or isinstance(options, getattr(torch.nn, "LinearCrossEntropyOptions", ())))
    if not served:
        return _linear_by_torch(
            input, linear_weight, target, linear_bias, weight, reduction, ignore_index, label_smoothing, options
        )
    inputs = Inputs(input, target, None, weight, None, linear_weight, linear_bias)
    own = _options(input, target, index, reduction, label_smoothing)
    result: Tensor = problem.linear_loss(inputs, own, None, None)
    return result.to(_dtype(input))


def _linear_by_torch(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int | None,
    label_smoothing: float,
    options: Any,
) -> Tensor:
    given: dict[str, Any] = {"weight": weight, "reduction": reduction, "label_smoothing": label_smoothing}
    function = getattr(F, "linear_cross_entropy", None)
    if function is not None:
        given |= {"linear_bias": linear_bias, "ignore_index": ignore_index, "options": options}
        result: Tensor = function(input, linear_weight, target, **given)
        return result
    logits = F.linear(input, linear_weight, linear_bias)
    return F.cross_entropy(logits, target, ignore_index=-100 if ignore_index is None else ignore_index, **given)


def _is_linear(input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None = None) -> bool:
    """Whether those are of the shapes and dtypes of one linear layer, on one device."""
    others = (linear_weight,) if linear_bias is None else (linear_weight, linear_bias)
    if input.ndim not in (1, 2) or linear_weight.ndim != 2 or input.shape[-1] != linear_weight.shape[-1]:
        return False
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:1]:
        return False
    mixed = torch.amp.is_autocast_available(input.device.type) and torch.is_autocast_enabled(input.device.type)
    return all(
        x.device == input.device and TORCH.dtype_name(x) in FLOATS and (mixed or x.dtype == input.dtype) for x in others
    )


def _options(input: Tensor, target: Tensor, ignore_index: int, reduction: str, label_smoothing: float) -> Options:
    index = None if target.is_floating_point() else ignore_index
    if torch.compiler.is_compiling():
        return _of(index, reduction, label_smoothing, True)
    # PyTorch's loss can be captured, and has no word for a check that would wait.
    checked = is_traced(input, target) or not TORCH.is_captured(target)
    return _once(index, reduction, label_smoothing, checked)


def _of(ignore_index: int | None, reduction: str, label_smoothing: float, checked: bool) -> Options:
    return Options(
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
        smoothing="uniform",
        check_targets=checked,
        ieee=True,
    )


# Looked up, which what traces a call could not follow.
_once = functools.lru_cache(maxsize=64, typed=True)(_of)


def _dtype(input: Tensor) -> torch.dtype:
    """The dtype of PyTorch's loss."""
    place = input.device.type
    widened = input.dtype.itemsize == 2 and torch.amp.is_autocast_available(place) and torch.is_autocast_enabled(place)
    return torch.float32 if widened else input.dtype


def _is_tensor(x: object) -> bool:
    return isinstance(x, Tensor) and _is_dense(x) and not _is_overridden(x)


def _is_served(
    input: Tensor,
    shape: torch.Size,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> bool:
    """Whether the loss of logits of that shape, which `input` are or make, is computed here.

    Anything unusual, and whatever PyTorch refuses, is left to PyTorch.
    """
    if not _is_tensor(target) or _is_overridden(weight) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if TORCH.dtype_name(input) not in FLOATS or not shape or target.device != input.device:
        return False
    if shape == target.shape:
        if target.dtype != input.dtype or ignore_index >= 0:
            return False
    else:
        lead = shape[:1] + shape[2:] if len(shape) > 1 else shape[:0]
        if target.dtype != torch.int64 or target.shape != lead:
            return False
    classes = shape[1 if len(shape) > 1 else 0]
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


if hasattr(torch.nn, "LinearCrossEntropyLoss"):

    class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
        """`torch.nn.LinearCrossEntropyLoss` of PyTorch 2.13 over this package's `linear_cross_entropy`.

        The same arguments, parameters, buffers and repr.

        Examples
        --------
        >>> criterion = LinearCrossEntropyLoss(3, 5, bias=True)
        >>> criterion(torch.zeros(2, 3), torch.tensor([1, 0])).shape
        torch.Size([])
        """

        if TYPE_CHECKING:

            def __call__(self, input: Tensor, target: Tensor) -> Tensor:
                """`forward`, whose type PyTorch's modules do not pass on."""

        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            """The loss of hidden states `input` (D,) or (N, D) with `target`; see `linear_cross_entropy`."""
            weight: Tensor = self.linear.weight
            bias: Tensor | None = self.linear.bias
            if self.out_features:
                weight = weight.reshape(self.num_classes, *self.out_features, -1)
                bias = None if bias is None else bias.reshape(self.num_classes, *self.out_features)
            return linear_cross_entropy(
                input,
                weight,
                target,
                linear_bias=bias,
                weight=self.weight,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                options=self.options,
            )
