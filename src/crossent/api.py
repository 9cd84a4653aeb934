"""The public functions of logits: signature, docstring, one line each; those of hidden states are in `api_linear`."""

from __future__ import annotations

from typing import Any, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from crossent import checks, problem
from crossent.engines import select
from crossent.libraries import Inputs
from crossent.options import CallOptions, OptionNames, Options, takes_options
from crossent.shards import VocabularyShard
from crossent.types import A, Array, B, Denominator, DType, Float, NoArray, Shape, T, TensorLike


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
@takes_options
def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weights: Array | None = None,
    class_weights: Array | None = None,
    denominator: Denominator = None,
    vocabulary: VocabularyShard | None = None,
    **options: Unpack[OptionNames],
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
    vocabulary
        Where the logits are those of some of the classes, and other processes or devices have the others: which. Then
        targets, weights and all options are the same everywhere, class weights and soft targets those of the classes
        that are here.
    temperature
        T: the loss is that of the logits over T, from 1e-18 to 1e18; its gradient is with respect to the logits.
    logit_softcap
        c of a bound: the loss is that of c·tanh(logits/(c·T)), c from 1e-18 to 1e18; None for none.
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
    inputs = Inputs(logits, targets, weights, class_weights, denominator)
    return (
        problem.loss(inputs, options)
        if vocabulary is None
        else problem.of_part(problem.loss, vocabulary, inputs, options)
    )


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
@takes_options
def cross_entropy_and_grad(
    logits: Array,
    targets: Array,
    out: Array | None = None,
    grad_output: Array | float | None = None,
    *,
    weights: Array | None = None,
    class_weights: Array | None = None,
    denominator: Denominator = None,
    vocabulary: VocabularyShard | None = None,
    **options: Unpack[OptionNames],
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
    inputs = Inputs(logits, targets, weights, class_weights, denominator)
    if vocabulary is None:
        return problem.loss_and_gradient(inputs, options, grad_output, out)
    found: tuple[Array, Array]
    found = problem.of_part(problem.loss_and_gradient, vocabulary, inputs, options, grad_output, out)
    return found


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


def explain(logits: Array, algorithm: str = "stable") -> str:
    """Say which engine would walk these logits, and for each other one why not.

    Parameters
    ----------
    logits
        The array (..., V) that a call would be given; its values are not looked at.
    algorithm
        That of the call: "stable" or "explicit".

    Returns
    -------
    str
        A few lines for people.

    Raises
    ------
    TypeError, ValueError
        Where a call would not take these logits or this algorithm.

    Examples
    --------
    >>> import numpy as np
    >>> print(explain(np.zeros((4, 10), dtype=np.float32), algorithm="explicit").splitlines()[1])
    numba: cannot serve: it has no clipped probabilities, which algorithm='explicit' asks for
    """
    measure = Options(algorithm=algorithm).coefficients.measure
    family = checks.library_of("logits", logits, "an array of shape (..., V)")
    library = family.of_call(Inputs(logits, None))
    form = checks.logits_of_measure(library, logits)
    kind = library.kind(logits, form.dtype, form.shape[-1], measure)
    what = f"{family.name} logits {form.shape} {form.dtype}, {family.where(logits)}"
    return select.explanation(what, kind, library.describe(logits), library.remark(logits))
