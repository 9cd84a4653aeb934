"""The loss as an object, for training loops without automatic differentiation. It holds options and the last call."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from crossent import checks, libraries
from crossent.api import (
    cross_entropy,
    cross_entropy_and_grad,
)
from crossent.api_linear import linear_cross_entropy, linear_cross_entropy_and_grad
from crossent.options import DEFAULTS, LinearOptions, LossOptions, OptionNames, options_of, shown
from crossent.types import A, Array, Float, NoArray, T, TensorLike

if TYPE_CHECKING:
    # Type checkers bring typing_extensions along; a variable with a default is Python's own from 3.13.
    from typing_extensions import TypeVar

    Gradient = TypeVar("Gradient", default=Any)
else:
    from typing import TypeVar

    Gradient = TypeVar("Gradient")


class _Loss:
    """Fixed options, and the last call: references to its inputs."""

    # No other attribute can be set: a name that is not known would have no effect.
    __slots__ = ("__weakref__", "_last", "_options")
    _accepted: ClassVar[type] = LossOptions
    _sizes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *values: Any, **options: Any) -> None:
        names = self._accepted.__annotations__
        if values:
            raise TypeError(
                f"{type(self).__name__} was given {shown(values[0])} without a name; "
                f"accepted, each by its name: {', '.join(names)}"
            )
        unknown = sorted(set(options) - set(names))
        if unknown:
            text = ", ".join(map(repr, unknown))
            raise TypeError(f"{type(self).__name__} has no option {text}; accepted: {', '.join(names)}")
        options_of({name: value for name, value in options.items() if name in OptionNames.__annotations__})
        for name in self._sizes:
            if options.get(name) is not None:
                checks.whole_number(name, options[name], None)
        self._options = options
        self._last: tuple[Callable[[], Any], ...] | None = None

    @property
    def options(self) -> Any:
        """The options that were given, in a dictionary of the caller's own."""
        return self._options.copy()

    def __getattr__(self, name: str) -> Any:
        """An option by its name, as PyTorch's losses have them: read, never set."""
        if name not in self._accepted.__annotations__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return self._options.get(name, DEFAULTS.get(name))

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles carry: all but the last call."""
        return self._options

    def __setstate__(self, options: dict[str, Any]) -> None:
        """A loss of those options, without a last call."""
        self._options, self._last = options, None

    def __repr__(self) -> str:
        """The loss as it was made."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._options.items())})"

    def _keep(self, *inputs: Array | None) -> None:
        self._last = tuple(map(_kept, inputs))

    def _kept_inputs(self, accepted: str, kept: str) -> tuple[Any, ...]:
        """The inputs of the last call; RuntimeError where there are none, or they are gone."""
        if self._last is None:
            raise RuntimeError(f"backward() was called without a loss; accepted: {accepted} first")
        last = tuple(each() for each in self._last)
        if any(x is None and isinstance(each, weakref.ref) for x, each in zip(last, self._last, strict=True)):
            raise RuntimeError(
                f"backward() was called when the {kept} of the last call were gone, which autograd or a transformation "
                f"such as jax.jit followed; accepted: backward() within the transformation, the framework's own "
                f"gradient of the loss, or {kept} and weights that the caller keeps until then"
            )
        return last


class CrossEntropyLoss(_Loss, Generic[Gradient]):
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

    __slots__ = ()

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[LossOptions]) -> None:
            """Keep the options, keyword-only, of `crossent.cross_entropy`."""

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
        self._keep(logits, targets, weights)
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
        logits, targets, weights = self._kept_inputs("forward(logits, targets)", "logits")
        both: Any = cross_entropy_and_grad(logits, targets, None, grad_output, weights=weights, **self._options)
        d_logits: Gradient = both[1]
        return d_logits


class LinearCrossEntropyLoss(_Loss):
    """Cross-entropy of hidden states with fixed options: `forward` gives the loss, `backward` its three gradients.

    The options are those of `crossent.linear_cross_entropy`. What `CrossEntropyLoss` says of references, copies and
    attributes holds here too.

    Raises
    ------
    TypeError, ValueError
        For an option of an unknown name, or a value that is not accepted.

    Examples
    --------
    >>> import numpy as np
    >>> loss_fn = LinearCrossEntropyLoss(reduction="sum")
    >>> float(loss_fn(np.zeros((2, 3)), np.ones((4, 3)), np.array([1, 3])))
    2.772588722239781
    >>> d_hidden, d_weight, d_bias = loss_fn.backward()
    >>> d_hidden.shape, d_weight.shape, d_bias
    ((2, 3), (4, 3), None)
    """

    __slots__ = ()
    _accepted = LinearOptions
    _sizes = ("classes", "memory")

    if TYPE_CHECKING:

        def __init__(self, **options: Unpack[LinearOptions]) -> None:
            """Keep the options, keyword-only, of `crossent.linear_cross_entropy`."""

    def forward(
        self, hidden: A, weight: A, targets: Array, bias: Array | None = None, weights: Array | None = None
    ) -> A:
        """The loss of hidden (..., D) with weight (V, D), bias (V,) and targets (...), or (..., V) for soft ones."""
        self._last = None
        loss = linear_cross_entropy(hidden, weight, targets, bias=bias, weights=weights, **self._options)
        self._keep(hidden, weight, targets, bias, weights)
        return loss

    if TYPE_CHECKING:
        __call__ = forward
    else:

        def __call__(self, *args: Any, **kwargs: Any) -> Array:
            """`forward`."""
            return self.forward(*args, **kwargs)

    def backward(
        self, grad_output: Array | float | None = None, needs: Collection[str] = ("hidden", "weight", "bias")
    ) -> tuple[Any, Any, Any]:
        """The gradients of hidden, weight and bias that are needed, times `grad_output` of the loss's shape.

        Raises
        ------
        RuntimeError
            Where there is no last loss: before the first `forward`, and after one that failed.
        """
        accepted = "forward(hidden, weight, targets)"
        hidden, weight, targets, bias, weights = self._kept_inputs(accepted, "hidden states")
        _, gradients = linear_cross_entropy_and_grad(
            hidden, weight, targets, None, grad_output, bias=bias, needs=needs, weights=weights, **self._options
        )
        return gradients


def _kept(x: Array | None) -> Callable[[], Any]:
    """A function that gives the array back; where a graph or a transformation holds it, as long as that does."""
    library = libraries.of(x)
    return weakref.ref(x) if library is not None and library.is_followed(x) else lambda: x
