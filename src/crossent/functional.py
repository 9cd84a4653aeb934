"""The whole trip of a call: check, flatten, coefficients, engine, reduce, reshape. The only room that knows it all."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from crossent import arrays, checks, flatten
from crossent import reduction as reductions
from crossent.arrays import A, Array, B, DType, Float, NoArray, Shape, T, TensorLike
from crossent.calls import Call, prepare, rows_of
from crossent.engines import array_api

# exp of more is inf in every dtype; Python's integers know no limit.
_LARGEST_EXPONENT = 1000

Reduction: TypeAlias = Literal["mean", "sum", "none", "sequence"]
Smoothing: TypeAlias = Literal["others", "uniform"]
Algorithm: TypeAlias = Literal["stable", "explicit"]
Denominator: TypeAlias = str | float | Array | None


class Options(TypedDict, total=False):
    """The options of the loss, the same names everywhere."""

    class_weights: Array | None
    ignore_index: int | None
    reduction: Reduction
    label_smoothing: float
    smoothing: Smoothing
    z_loss: float
    denominator: Denominator
    algorithm: Algorithm
    check_targets: bool
    engine: str


class CallOptions(Options, total=False):
    """The options of one call: those of the loss, and the weights of its tokens."""

    weights: Array | None


# A loss of NumPy's has another shape than its logits, and may have another dtype.
@overload
def cross_entropy(
    logits: np.ndarray[Any, np.dtype[Float]], targets: Array, **options: Unpack[CallOptions]
) -> NDArray[Float]: ...
@overload
def cross_entropy(logits: NDArray[Any], targets: Array, **options: Unpack[CallOptions]) -> NDArray[Any]: ...
@overload
def cross_entropy(logits: NoArray, targets: Array, **options: Unpack[CallOptions]) -> NoArray: ...
@overload
def cross_entropy(logits: TensorLike[T], targets: Array, **options: Unpack[CallOptions]) -> T: ...
@overload
def cross_entropy(logits: A, targets: Array, **options: Unpack[CallOptions]) -> A: ...
def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weights: Array | None = None,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "others",
    z_loss: float = 0.0,
    denominator: Denominator = None,
    algorithm: Algorithm = "stable",
    check_targets: bool = True,
    engine: str = "auto",
) -> Array:
    """The cross-entropy of logits with targets.

    For a row x of the logits with target t, and with m the row's maximum,

        loss = log Σ_j exp x_j − x_t
             = (m − x_t) + log1p(S + expm1(x_t − m))      S = Σ_{j≠t} exp(x_j − m)

    The second line is what is computed: nothing cancels, so a small loss keeps all its digits.

    Parameters
    ----------
    logits
        Floating array of shape (..., V): NumPy, CuPy, torch, JAX, Dask or array-api-strict.
    targets
        Integer array of shape (...), or floating array of shape (..., V) whose rows are distributions (soft targets).
    weights
        Array broadcastable to shape (...): a factor for each token. A token of weight 0 does not count.
    class_weights
        Array of shape (V,): a factor for each class's term.
    ignore_index
        A target that marks tokens that do not count (padding).
    reduction
        "mean" and "sum" over all tokens, "sequence" (a mean over the last axis of the tokens), or "none".
    label_smoothing
        ε from 0 to 1, taken from the target and shared out evenly over the classes that `smoothing` names.
    smoothing
        "others": ε/(V − 1) for each class but the target; "uniform", as PyTorch: ε/V for each class.
    z_loss
        λ of a term λ·(log Σ exp x)² for each token that counts.
    denominator
        What "mean" and "sequence" divide by: None for the sum of the weights of the tokens that count, "tokens" for
        their number, or a number or 0-d array.
    algorithm
        "stable", or "explicit": softmax, clip at 1e-10, logarithm; for comparison, inexact for losses past 23.
    check_targets
        Whether to read the targets and raise for one outside the vocabulary. Without it, and where reading is
        impossible (tracing, Dask), the row of such a target is NaN.
    engine
        "auto", or the name of an engine (see ``crossent info`` and `crossent.explain`), which is to walk the logits or
        raise ValueError.

    Returns
    -------
    Array
        Of the library, device and laziness of `logits`; shape () for "mean" and "sum", (...) for "none", (...) less its
        last axis for "sequence"; float32 for half-precision logits, else the dtype of `logits`. It is differentiable
        by torch and JAX.

    Raises
    ------
    TypeError, ValueError
        For arguments that do not fit, naming what was given and what is accepted.
    IndexError
        For a target outside the vocabulary that is not `ignore_index`, naming its position.

    References
    ----------
    C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016 (label smoothing);
    A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", 2022 (z-loss).

    Examples
    --------
    >>> import numpy as np
    >>> logits = np.array([[20.0, 0.0, 0.0], [0.0, 1.0, 2.0]], dtype=np.float32)
    >>> for loss in cross_entropy(logits, np.array([0, 2]), reduction="none"):
    ...     print(f"{loss:.5g}")
    4.1223e-09
    0.40761
    """
    options: Options = {
        "class_weights": class_weights,
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "smoothing": smoothing,
        "z_loss": z_loss,
        "denominator": denominator,
        "algorithm": algorithm,
        "check_targets": check_targets,
        "engine": engine,
    }
    if is_followed(logits, targets, weights, class_weights, denominator):
        from crossent.torch.graph import followed_loss

        return followed_loss(logits, targets, weights=weights, **options)
    return loss_of(prepare(logits, targets, weights=weights, **options))


@overload
def cross_entropy_and_grad(
    logits: np.ndarray[Shape, np.dtype[Float]],
    targets: Array,
    out: Array = ...,
    grad_output: Array = ...,
    **options: Unpack[CallOptions],
) -> tuple[NDArray[Float], np.ndarray[Shape, np.dtype[Float]]]: ...
@overload
def cross_entropy_and_grad(
    logits: np.ndarray[Shape, DType],
    targets: Array,
    out: Array = ...,
    grad_output: Array = ...,
    **options: Unpack[CallOptions],
) -> tuple[NDArray[Any], np.ndarray[Shape, DType]]: ...
@overload
def cross_entropy_and_grad(
    logits: NoArray, targets: Array, out: Array = ..., grad_output: Array = ..., **options: Unpack[CallOptions]
) -> tuple[NoArray, NoArray]: ...
@overload
def cross_entropy_and_grad(
    logits: TensorLike[T], targets: Array, out: Array = ..., grad_output: Array = ..., **options: Unpack[CallOptions]
) -> tuple[T, T]: ...
@overload
def cross_entropy_and_grad(
    logits: A, targets: Array, out: Array = ..., grad_output: Array = ..., **options: Unpack[CallOptions]
) -> tuple[A, A]: ...
def cross_entropy_and_grad(
    logits: Array,
    targets: Array,
    out: Array | None = None,
    grad_output: Array | float | None = None,
    *,
    weights: Array | None = None,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    smoothing: Smoothing = "others",
    z_loss: float = 0.0,
    denominator: Denominator = None,
    algorithm: Algorithm = "stable",
    check_targets: bool = True,
    engine: str = "auto",
) -> tuple[Array, Array]:
    """The loss and its gradient with respect to the logits, in one pass, outside any framework's graph.

    The parameters that are not named here, and the errors, are those of `cross_entropy`.

    Parameters
    ----------
    out
        Array of the shape and dtype of `logits` that receives the gradient; `logits` itself will do.
    grad_output
        The gradient of what follows with respect to the loss, of the loss's shape (a number for a 0-d loss); default 1.

    Returns
    -------
    loss : Array
        As `cross_entropy` returns it.
    d_logits : Array
        Its gradient, of the shape and dtype of `logits`; without options, p_j − [j = t] over the tokens.

    Examples
    --------
    >>> import numpy as np
    >>> loss, d_logits = cross_entropy_and_grad(np.array([[0.0, 0.0]]), np.array([1]))
    >>> print(loss, d_logits)
    0.6931471805599453 [[ 0.5 -0.5]]
    """
    options: Options = {
        "class_weights": arrays.off_graph(class_weights),
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
        "smoothing": smoothing,
        "z_loss": z_loss,
        "denominator": arrays.off_graph(denominator),
        "algorithm": algorithm,
        "check_targets": check_targets,
        "engine": engine,
    }
    call = prepare(
        arrays.off_graph(logits),
        arrays.off_graph(targets),
        weights=arrays.off_graph(weights),
        followed=arrays.is_traced(logits, targets, weights, class_weights, denominator),
        **options,
    )
    checks.gradient_of_loss(grad_output, logits, reductions.result_shape(call.reduction, call.lead))
    checks.output(out, logits)
    return loss_and_gradient(call, grad_output, out)


def is_followed(*inputs: Array | float | str | None) -> bool:
    """Whether torch differentiates with respect to any of the inputs of a call, or traces it."""
    return arrays.is_torch(inputs[0]) and (arrays.requires_gradient(*inputs) or arrays.is_traced(*inputs))


def loss_of(call: Call) -> Array:
    """The loss of a call that torch does not follow."""
    with arrays.computing(call.xp, call.place):
        if 0 in call.lead:
            return _loss_of_nothing(call)
        return reduced(call, _token_losses(call))


def _loss_of_nothing(call: Call) -> Array:
    """The loss of no tokens; not every library reshapes or reduces an array without elements."""
    shape = reductions.result_shape(call.reduction, call.lead)
    dtype = arrays.compute_dtype(call.xp, call.dtype)
    empty_mean = call.reduction == "mean" and not call.coefficients.limits
    return call.finished(call.xp.full(shape, call.xp.nan if empty_mean else 0.0, dtype=dtype, device=call.place))


def _token_losses(call: Call) -> Array:
    if arrays.is_jax(call.logits):
        from crossent import jax

        return jax.losses(rows_of(call))
    if arrays.is_lazy(call.logits):
        return array_api.whole(call.xp, rows_of(call))
    return flatten.walk(call)[0]


def reduced(call: Call, losses: Array) -> Array:
    """The loss of a call from its token losses (N,)."""
    xp = call.xp
    if len(call.lead) != 1:
        losses = xp.reshape(losses, call.lead)
    if _masks(call):
        losses = xp.where(call.tokens.counted, losses, 0.0)
    value = reductions.reduce(xp, losses, call.reduction, call.denominator, call.coefficients.limits)
    return call.finished(value)


def _masks(call: Call) -> bool:
    """Whether tokens that do not count are still to be dropped: engines do it only with limits."""
    return call.tokens.counted is not None and not call.coefficients.limits


def loss_and_gradient(call: Call, grad_output: Array | float | None, out: Array | None) -> tuple[Array, Array]:
    """The loss of a call and its gradient."""
    with arrays.computing(call.xp, call.place):
        if 0 in call.lead:
            return _loss_of_nothing(call), call.finished(arrays.new_like(call.logits)) if out is None else out
        return _loss_and_gradient(call, grad_output, out)


def gradient(call: Call, grad_output: Array | float | None) -> Array:
    """The gradient of a call alone."""
    with arrays.computing(call.xp, call.place):
        if 0 in call.lead:
            return call.finished(arrays.new_like(call.logits))
        return call.finished(_losses_and_gradient(call, grad_output, None)[1])


def _loss_and_gradient(call: Call, grad_output: Array | float | None, out: Array | None) -> tuple[Array, Array]:
    into = out
    if call.from_host and out is not None:
        # A view that negates as it is read cannot be written through its memory.
        into = None if out.is_neg() else arrays.host_matrix(out)
    losses, d = _losses_and_gradient(call, grad_output, into)
    value = reduced(call, losses)
    if out is None:
        return value, call.finished(d)
    if d is not into:
        # Last of all: the denominator may lie in this memory.
        out[...] = call.finished(d)
    arrays.tell_written(out)
    return value, out


def _losses_and_gradient(call: Call, grad_output: Array | float | None, out: Array | None) -> tuple[Array, Array]:
    """The token losses (N,) and the gradient (..., V), in `out` where that is safe."""
    xp, logits = call.xp, call.logits
    grad: Any = 1.0 if grad_output is None else grad_output
    if not arrays.is_array(grad) or isinstance(grad, np.generic) or (call.from_host and tuple(grad.shape) == ()):
        grad = float(grad)
    elif call.from_host:
        grad = arrays.host_number(grad)
    kept = call.tokens.counted if _masks(call) else None
    scale = reductions.token_scale(xp, call.wide, call.lead, call.reduction, call.denominator, grad, kept)
    d: Array
    if arrays.is_jax(logits):
        from crossent import jax

        losses, d = jax.losses_and_gradient(rows_of(call), scale)
    elif not arrays.is_readable(logits):
        losses, d = array_api.whole_with_gradient(xp, rows_of(call), scale)
    else:
        losses, d = flatten.walk(call, scale, out)
    if tuple(d.shape) != call.shape:
        d = xp.reshape(d, call.shape)
    return losses, d


@overload
def perplexity(loss: float) -> float: ...
@overload
def perplexity(loss: np.ndarray[Shape, DType]) -> np.ndarray[Shape, DType]: ...
@overload
def perplexity(loss: TensorLike[T]) -> T: ...  # type: ignore[overload-overlap]  # a Parameter's is a Tensor
@overload
def perplexity(loss: A) -> A: ...
def perplexity(loss: Array | float) -> Array | float:
    """exp(loss): how many equally likely classes would be as hard to tell. It overflows to inf and never raises.

    Parameters
    ----------
    loss
        A floating array of any shape, or a number.

    Returns
    -------
    Array or float
        Of the type, shape and dtype of `loss`.

    Raises
    ------
    TypeError
        Where `loss` is neither a number nor a floating array.

    Examples
    --------
    >>> round(perplexity(np.log(50257.0)))
    50257
    >>> perplexity(1e4)
    inf
    """
    with np.errstate(over="ignore"):
        if not arrays.is_array(loss) or isinstance(loss, np.integer):
            if isinstance(loss, int) and loss > _LARGEST_EXPONENT:
                return math.inf
            return float(np.exp(checks.number("loss", loss, "a number or a floating array")))
        array: Array = loss
        dtype = arrays.dtype_name(array.dtype)
        if dtype not in arrays.FLOATS:
            raise TypeError(f"loss has dtype {dtype}; accepted: a number, or an array of {', '.join(arrays.FLOATS)}")
        result = arrays.namespace(array).exp(array)
        # NumPy's functions give scalars for arrays without dimensions.
        return arrays.as_array(result) if isinstance(array, np.ndarray) else result


@overload
def shift_for_next_token(logits: TensorLike[T], token_ids: B) -> tuple[T, B]: ...  # type: ignore[overload-overlap]
@overload
def shift_for_next_token(logits: A, token_ids: B) -> tuple[A, B]: ...
def shift_for_next_token(logits: Array, token_ids: Array) -> tuple[Array, Array]:
    """Align a language model's logits with the tokens they predict: position i predicts token i + 1.

    Parameters
    ----------
    logits
        Floating array of shape (..., T, V).
    token_ids
        Integer array of shape (..., T), the tokens that the model was given.

    Returns
    -------
    logits : Array
        Of shape (..., T − 1, V), a view where the library has them.
    targets : Array
        Of shape (..., T − 1), likewise.

    Raises
    ------
    TypeError, ValueError
        Where the shapes or dtypes do not belong together, or T is 0.

    Examples
    --------
    >>> logits, targets = shift_for_next_token(np.zeros((2, 5, 7)), np.arange(10).reshape(2, 5))
    >>> logits.shape, targets.tolist()
    ((2, 4, 7), [[1, 2, 3, 4], [6, 7, 8, 9]])
    """
    checks.next_token(logits, token_ids)
    return logits[..., :-1, :], token_ids[..., 1:]
