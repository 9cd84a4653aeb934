"""The public functions of hidden states: signature, docstring, one line each."""

from __future__ import annotations

from collections.abc import Collection
from typing import Unpack

from crossent import problem
from crossent.libraries import Inputs
from crossent.options import OptionNames, takes_options
from crossent.shards import VocabularyShard
from crossent.types import A, Array, Denominator


@takes_options
def linear_cross_entropy(
    hidden: A,
    weight: A,
    targets: Array,
    *,
    bias: Array | None = None,
    classes: int | None = None,
    memory: int | None = None,
    weights: Array | None = None,
    class_weights: Array | None = None,
    denominator: Denominator = None,
    vocabulary: VocabularyShard | None = None,
    **options: Unpack[OptionNames],
) -> A:
    """The cross-entropy of the logits hidden·weightᵀ + bias, which are made a block of tokens at a time.

    Tokens that do not count are left out before the product. The parameters that are not named here, and the errors,
    are those of `cross_entropy`.

    Parameters
    ----------
    hidden
        Floating array of shape (..., D), of any library that `cross_entropy` serves.
    weight
        Floating array of shape (V, D), as of a linear layer; a transposed view will do.
    targets
        Integer array of shape (...), or floating array of shape (..., V) whose rows are distributions (soft targets).
    bias
        Floating array of shape (V,).
    classes
        How many of the first rows of `weight` and `bias` are classes, where the rest is padding; by default all are.
    memory
        Bytes that the blocks may take: by default 128 MiB, on a CUDA device 1 GiB.

    Returns
    -------
    Array
        Of the library and device of `hidden`; float32 for half-precision hidden states, else of their dtype. It is
        differentiable by torch and JAX, with respect to `hidden`, `weight` and `bias` too.

    Notes
    -----
    Logits have the dtype of the loss, whatever that of `weight` and `bias` is, and are never rounded to less. For
    "mean" and "sum", torch and JAX make the gradients together with the loss; for "none" and "sequence" they make the
    logits once more.

    References
    ----------
    E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> hidden, weight = np.eye(2, 3), np.ones((5, 3))
    >>> print(f"{linear_cross_entropy(hidden, weight, np.array([4, 0])):.6f}")
    1.609438
    """
    inputs = Inputs(hidden, targets, weights, class_weights, denominator, weight, bias)
    loss: A = problem.of_part(problem.linear_loss, vocabulary, inputs, options, classes, memory)
    return loss


@takes_options
def linear_cross_entropy_and_grad(
    hidden: A,
    weight: A,
    targets: Array,
    out: tuple[A | None, A | None, A | None] | None = None,
    grad_output: Array | float | None = None,
    *,
    bias: Array | None = None,
    classes: int | None = None,
    memory: int | None = None,
    needs: Collection[str] = ("hidden", "weight", "bias"),
    weights: Array | None = None,
    class_weights: Array | None = None,
    denominator: Denominator = None,
    vocabulary: VocabularyShard | None = None,
    **options: Unpack[OptionNames],
) -> tuple[A, tuple[A | None, A | None, A | None]]:
    """The loss and its gradients with respect to hidden states, weight and bias, outside any framework's graph.

    The parameters that are not named here, and the errors, are those of `linear_cross_entropy`.

    Parameters
    ----------
    out
        Arrays that receive the gradients of hidden, weight and bias, each of the shape and dtype of its own, or None.
    grad_output
        The gradient of what follows with respect to the loss, of the loss's shape (a number for a 0-d loss); default 1.
    needs
        Which of the gradients are made: some of "hidden", "weight", "bias".

    Returns
    -------
    loss : Array
        As `linear_cross_entropy` returns it.
    (d_hidden, d_weight, d_bias) : tuple of Array or None
        The gradients, each of the shape and dtype of its own, None for what was not asked for. They are summed in the
        dtype of the loss and rounded once.

    Examples
    --------
    >>> import numpy as np
    >>> hidden, weight = np.zeros((1, 2)), np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> loss, (d_hidden, d_weight, d_bias) = linear_cross_entropy_and_grad(hidden, weight, np.array([1]))
    >>> print(d_hidden, d_bias)
    [[ 0.5 -0.5]] None
    """
    inputs = Inputs(hidden, targets, weights, class_weights, denominator, weight, bias)
    given = inputs, options, classes, memory, grad_output, needs, out
    found: tuple[A, tuple[A | None, A | None, A | None]]
    found = problem.of_part(problem.linear_loss_and_gradients, vocabulary, *given)
    return found
