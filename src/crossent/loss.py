"""The loss as an object, for training loops without automatic differentiation. It holds options and the last call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from crossent import libraries
from crossent.api import cross_entropy, cross_entropy_and_grad
from crossent.options import DEFAULTS, LossOptions, OptionNames, options_of
from crossent.types import A, Array, Float, NoArray, T, TensorLike

if TYPE_CHECKING:
    # Type checkers bring typing_extensions along; a variable with a default is Python's own from 3.13.
    from typing_extensions import TypeVar

    Gradient = TypeVar("Gradient", default=Any)
else:
    from typing import TypeVar

    Gradient = TypeVar("Gradient")


class CrossEntropyLoss(Generic[Gradient]):
    """Cross-entropy with fixed options: `forward` gives the loss, `backward` its gradient with respect to the logits.

    Between the two it keeps references to its inputs, never copies; what is written into them in between is what
    `backward` sees. Arrays that a framework's autograd follows or a transformation supplies are not kept alive.
    Copies and pickles carry the options alone. The options are those of `crossent.cross_entropy`, and attributes of the
    object; those that are no arrays are checked at once.

    The type of a loss is that of the logits. The gradient's is Any to a type checker, which does not know what the last
    logits were, unless the caller says it: ``CrossEntropyLoss[torch.Tensor](ignore_index=0)``.

    Raises
    ------
    TypeError, ValueError
        For an option of an unknown name, or a value that is not accepted.

    Examples
    --------
    >>> import numpy as np
    >>> loss_fn = CrossEntropyLoss(ignore_index=0)
    >>> float(loss_fn(np.zeros((2, 3, 4)), np.array([[1, 2, 0], [3, 0, 0]])))
    1.3862943611198906
    >>> loss_fn.backward().shape
    (2, 3, 4)
    """

    # No other attribute can be set: a name that is not known would have no effect.
    __slots__ = ("__weakref__", "_last", "_options")

    def __init__(self, **options: Unpack[LossOptions]) -> None:
        """Keep the options, keyword-only, of `crossent.cross_entropy`."""
        unknown = sorted(set(options) - set(LossOptions.__annotations__))
        if unknown:
            accepted = ", ".join(LossOptions.__annotations__)
            raise TypeError(f"CrossEntropyLoss has no option {', '.join(map(repr, unknown))}; accepted: {accepted}")
        options_of({name: value for name, value in options.items() if name in OptionNames.__annotations__})
        self._options = options
        self._last: tuple[Callable[[], Any], ...] | None = None

    @property
    def options(self) -> LossOptions:
        """The options that were given, in a dictionary of the caller's own."""
        return self._options.copy()

    def __getattr__(self, name: str) -> Any:
        """An option by its name, as PyTorch's losses have them: read, never set."""
        if name not in LossOptions.__annotations__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._options.get(name, DEFAULTS.get(name))

    def __getstate__(self) -> LossOptions:
        """What copies and pickles carry: all but the last call."""
        return self._options

    def __setstate__(self, options: LossOptions) -> None:
        """A loss of those options, without a last call."""
        self._options, self._last = options, None

    @overload
    def forward(
        self, logits: np.ndarray[Any, np.dtype[Float]], targets: Array, weights: Array | None = ...
    ) -> NDArray[Float]: ...
    @overload
    def forward(self, logits: NDArray[Any], targets: Array, weights: Array = ...) -> NDArray[Any]: ...
    @overload
    def forward(self, logits: NoArray, targets: Array, weights: Array = ...) -> NoArray: ...
    @overload
    def forward(self, logits: TensorLike[T], targets: Array, weights: Array = ...) -> T: ...
    @overload
    def forward(self, logits: A, targets: Array, weights: Array = ...) -> A: ...
    def forward(self, logits: Array, targets: Array, weights: Array | None = None) -> Array:
        """The loss of logits (..., V) with targets (...), or (..., V) for soft ones; weights broadcast to (...)."""
        self._last = None
        loss = cross_entropy(logits, targets, weights=weights, **self._options)
        self._last = tuple(map(_kept, (logits, targets, weights)))
        return loss

    if TYPE_CHECKING:
        __call__ = forward
    else:

        def __call__(self, logits: Array, targets: Array, weights: Array | None = None) -> Array:
            """`forward`."""
            return self.forward(logits, targets, weights)

    def backward(self, grad_output: Array | float | None = None) -> Gradient:
        """The gradient (..., V) of the last loss, times `grad_output` of the loss's shape.

        Raises
        ------
        RuntimeError
            Where there is no last loss: before the first `forward`, and after one that failed.
        """
        if self._last is None:
            raise RuntimeError("backward() was called without a loss; accepted: forward(logits, targets) first")
        logits, targets, weights = last = tuple(kept() for kept in self._last)
        if any(x is None and isinstance(kept, weakref.ref) for x, kept in zip(last, self._last, strict=True)):
            raise RuntimeError(
                "backward() was called when the logits of the last call were gone, which autograd followed; "
                "accepted: backward() of the loss itself, or logits and weights that the caller keeps until then"
            )
        both: Any = cross_entropy_and_grad(logits, targets, None, grad_output, weights=weights, **self._options)
        d_logits: Gradient = both[1]
        return d_logits

    def __repr__(self) -> str:
        """The loss as it was made."""
        return f"CrossEntropyLoss({', '.join(f'{name}={value!r}' for name, value in self._options.items())})"


def _kept(x: Array | None) -> Callable[[], Any]:
    """A function that gives the array back; where a graph or a transformation holds it, as long as that does."""
    library = libraries.of(x)
    return weakref.ref(x) if library is not None and library.is_followed(x) else lambda: x
