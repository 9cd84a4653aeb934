"""Public functions that make other numbers of losses and ranks: perplexity, bits, accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from crossent import checks, libraries
from crossent.math.operations import FLOATS
from crossent.options import number
from crossent.types import A, Array, DType, Shape, T, TensorLike

_LARGEST = 2**1023
# More classes than there are, within every dtype that ranks are compared in.
_MANY = 2**100


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
    return _of_loss(loss, _exp, lambda x, xp: xp.exp(x))


def bits(loss: Any) -> Any:
    """A loss in nats as bits: loss/log 2. Over the bytes of a text instead of its tokens, it is bits per byte.

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
    >>> bits(math.log(8.0))
    3.0
    """
    return _of_loss(loss, lambda x: x / math.log(2.0), lambda x, _: x / math.log(2.0))


def token_accuracy(rank: Array, k: int = 1) -> Array:
    """The share of tokens whose target is among the k likeliest classes, of those that are not ignored.

    Parameters
    ----------
    rank
        Floating array of any shape, of `token_statistics`.
    k
        A whole number of at least 1.

    Returns
    -------
    Array
        0-d, of the library and dtype of `rank`; 0 where no token counts, and NaN where a rank is.

    Raises
    ------
    TypeError, ValueError
        Where `rank` is no floating array, or k no such number.

    Examples
    --------
    >>> import numpy as np
    >>> rank = np.array([0.0, 1.0, -1.0])
    >>> print(token_accuracy(rank), token_accuracy(rank, k=2))
    0.5 1.0
    """
    library = checks.library_of("rank", rank, "a floating array")
    dtype = library.dtype_name(rank)
    if dtype not in FLOATS:
        raise TypeError(f"rank has dtype {dtype}; accepted: {', '.join(FLOATS)}")
    most = checks.whole_number("k", k, None, or_none="")
    xp, wide = library.xp, library.widest(library.device(rank))[0]
    ranks = library.cast(library.flat(rank), wide)
    counted = library.count_in(wide, ~(ranks < 0), None)
    hits = library.count_in(wide, (ranks >= 0) & (ranks < float(min(most, _MANY))), None)
    share = xp.where(xp.any(xp.isnan(ranks)), xp.nan, hits / library.at_least_one(counted))
    return library.leave(library.cast(share, rank.dtype))


def _exp(loss: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def _of_loss(loss: Any, of_number: Callable[[float], float], of_array: Callable[[Array, Any], Array]) -> Any:
    """A function of a number, or of a floating array and its namespace."""
    library = None if isinstance(loss, np.integer) else libraries.of(loss)
    if library is None:
        if isinstance(loss, int) and not isinstance(loss, bool):
            # Python's integers know no limit.
            loss = max(-_LARGEST, min(loss, _LARGEST))
        return of_number(number("loss", loss, "a number or a floating array"))
    dtype = library.dtype_name(loss)
    if dtype not in FLOATS:
        raise TypeError(f"loss has dtype {dtype}; accepted: a number, or an array of {', '.join(FLOATS)}")
    with np.errstate(over="ignore"):
        # A quotient of NumPy's and a number has another dtype than bfloat16.
        result = library.cast(of_array(loss, library.xp), loss.dtype)
    return result if isinstance(loss, np.generic) else library.leave(result)
