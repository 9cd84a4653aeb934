"""The types of public functions: what goes in and what comes out. Within the package an array is Any."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

Array: TypeAlias = Any
Namespace: TypeAlias = Any

Reduction: TypeAlias = Literal["mean", "sum", "none", "sequence"]
Smoothing: TypeAlias = Literal["others", "uniform"]
Algorithm: TypeAlias = Literal["stable", "explicit"]
Direction: TypeAlias = Literal["forward", "reverse", "jensen-shannon"]
Tail: TypeAlias = Literal["renormalise", "bin", "drop"]
Denominator: TypeAlias = str | float | Array | None


class ArrayLike(Protocol):
    """What type checkers see of any library's array; a list of numbers is none."""

    @property
    def shape(self) -> Any:
        """Its lengths."""

    @property
    def dtype(self) -> Any:
        """What its numbers are."""


T_co = TypeVar("T_co", covariant=True)


class TensorLike(ArrayLike, Protocol[T_co]):
    """A torch tensor, without an import of torch: results computed from a `Parameter` are of the type `Tensor`."""

    def float(self) -> T_co:
        """The tensor in single precision."""


class NoArray:
    """What logits never are: an overload of it makes the result of a call ambiguous whose logits are Any.

    pyright would else take the one result that is not Any, NumPy's: for ``model(x)``, which is Any in PyTorch, a lie.
    """


A = TypeVar("A", bound=ArrayLike)
B = TypeVar("B", bound=ArrayLike)
T = TypeVar("T")
Shape = TypeVar("Shape", bound=tuple[Any, ...])
DType = TypeVar("DType", bound=np.dtype[Any])
Float = TypeVar("Float", bound=np.float32 | np.float64)
"""NumPy's dtypes that a loss keeps; that of half precision is float32."""
