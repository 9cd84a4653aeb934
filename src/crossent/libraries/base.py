"""A library: what an array library is like, as the answers of one object; the array API standard's where none differs.

`crossent.libraries.of` finds the object of an array by its type, once in a call; `of_call` gives the one for the state
that a call's arrays are in (torch: seen by NumPy, on a graph, traced). From there on nothing asks again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crossent import description, linear, views
from crossent.description import TokenStatistics
from crossent.engines import select
from crossent.math import formula
from crossent.math.operations import RUN, Operations
from crossent.math.rows import Head, Rows, Straight
from crossent.math.statistics import Described, RowStatistics
from crossent.types import Array, Namespace

if TYPE_CHECKING:
    from crossent.options import Options
    from crossent.problem import Ending


class Inputs(NamedTuple):
    """The arrays of a call; None where there is none. A denominator may be a number or a word.

    Where the call makes its logits, `logits` are the hidden states, and head and bias what they are multiplied with.
    """

    logits: Array
    targets: Array
    weights: Array | None = None
    class_weights: Array | None = None
    denominator: Array | float | str | None = None
    head: Array | None = None
    bias: Array | None = None


class Library(Operations):
    """The answers of the array API standard; a subclass has those of one library."""

    name: str
    family: Library
    """The object for the type of the arrays; another than this one where `of_call` chose this one."""
    state = "eager"
    """What the arrays of the call are: eager, or, in the words of an error, lazy or traced."""
    immutable = False
    """Whether no array can ever be written."""
    in_place = False
    """Whether elementwise functions take ``out`` and arrays take assignment by integer arrays."""
    always_readable = False
    """Whether Python may look at the values of any array, at any time."""
    checks_copies = False
    """Whether targets are checked as NumPy has them, since what is computed of readable ones may not be."""
    knows_parts = False
    """Whether arrays that lie in parts say so themselves."""
    has_steps = False
    """Whether a call may be answered in one step."""
    keep_graph = False
    """Whether every array has to stay on the graph of the library."""
    leaves_out = True
    """Whether tokens that do not count may be left out, so that the shapes of what is computed depend on values."""

    def __init__(self, xp: Namespace, name: str | None = None, family: Library | None = None) -> None:
        """Of a namespace of the standard."""
        self.xp = xp
        self.name = name or xp.__name__.removeprefix("array_api_compat.").split(".")[0].replace("_", "-")
        self.family = family or self

    @property
    def engine_guards(self) -> bool:
        """Whether the engine of a call is all that follows its targets."""
        return not self.keep_graph

    @property
    def composes(self) -> Library | None:
        """Whose operations make results that can be differentiated, of losses that can be; None where none need be."""
        return None

    # --- what the arrays of a call are --------------------------------------------------------------------------------

    def of_call(self, inputs: Inputs) -> Library:
        """The library for the state that those arrays are in."""
        return self

    def off_graph(self, inputs: Inputs) -> tuple[Library, Inputs]:
        """The same for a call outside of any graph, and the arrays without eager automatic differentiation."""
        return self.of_call(inputs), inputs

    def refusal(self, x: Array) -> tuple[str, str] | None:
        """What `x`, of a type of this library, is that is no ordinary array, and what one would be; None for one."""
        return None

    def readable(self, x: Array) -> bool:
        """Whether Python may look at the values of `x` now."""
        return self.state == "eager"

    def whole(self, x: Array) -> Array:
        """`x` as something that Python may look at element by element."""
        return x

    def is_followed(self, x: Array) -> bool:
        """Whether a graph or a transformation of the library holds on to `x`."""
        return False

    def is_captured(self, x: Array) -> bool:
        """Whether what is done to `x` is not done now, but recorded in a CUDA graph."""
        return False

    def device_name(self, x: Array) -> str | None:
        """The device of `x` as a text, or None where arrays of the library cannot disagree about it or do not say."""
        device = self.device(x)
        return str(getattr(device, "_device", device))

    def on_one_device(self, a: Array, b: Array) -> bool:
        """Whether two arrays of the library are on one device, or cannot disagree about it."""
        here, there = self.device_name(a), self.device_name(b)
        return here == there or here is None or there is None

    def memory_of(self, device: Any) -> tuple[str, int]:
        """The kind of a device's memory, and its number: "host" where NumPy sees it, "cuda" where CUDA does, or ""."""
        return "", 0

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """The context to compute in, for arrays on the device of `x`: infinities and NaN are nothing to warn of."""
        return np.errstate(all="ignore")

    def number(self, x: Any) -> Any:
        """A number as a float, and any array as it is."""
        # In this order, since torch cannot trace whether a number that changes has an attribute.
        is_number = isinstance(x, (int, float, np.generic)) or not hasattr(x, "dtype")
        return float(x) if is_number else x

    def is_symbolic(self, x: object) -> bool:
        """Whether `x` is a number that the library has yet to learn."""
        return False

    def describe(self, x: Array) -> str:
        """What logits are and where, in the words of an error."""
        if self.state != "eager":
            return self.state
        return "traced" if not self.readable(x) else f"{self.name} arrays {self.where(x)}"

    def where(self, x: Array) -> str:
        """Where an array lies, in words."""
        name = self.device_name(x)
        return "in host memory" if name is None or self.memory_of(self.device(x))[0] == "host" else f"on device {name}"

    def kind(self, like: Array, dtype: str, classes: int, measure: str) -> select.Kind:
        """What an engine knows of such logits on the device of the array `like`."""
        memory, number = self.memory_of(self.device(like))
        return select.Kind(self.state, memory, number, dtype, classes, measure)

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """The name of the engine for logits of that dtype and vocabulary on the device of the array `like`."""
        if asked == "auto":
            memory, number = self.memory_of(self.device(like))
            return select.best(self.state, memory, number, dtype, classes, measure)
        return select.asked_for(asked, self.kind(like, dtype, classes, measure), self.describe(like))

    def remark(self, x: Array) -> str | None:
        """What else there is to say of the engine for `x`; None for nothing."""
        return None

    def straight(self, x: Array, t: Array) -> Straight | None:
        """Logits and targets for a call in one step; None where there is no such call of them."""
        return None

    def straight_out(self, x: Array, t: Array, out: Array | None) -> tuple[Array, int, int] | None:
        """What the gradient is written to, its name as `straight` has names, and the bytes from row to row; None where
        it may not be written while `x` and `t` are read.
        """
        raise NotImplementedError(f"{self.name} has no calls in one step")

    def unseen(self, inputs: Inputs, soft: bool, options: Options) -> Array | None:
        """The loss of a call whose arguments are right, as one function that what traces calls does not look into."""
        return None

    # --- in and out ---------------------------------------------------------------------------------------------------

    def enter(self, x: Any) -> Any:
        """Targets, weights and the like as they are computed on; numbers, words and None as they are."""
        return x

    def above(self, grad: Any) -> Any:
        """The gradient of what follows with respect to a loss, as it is computed with: a number as a float."""
        grad = self.enter(grad)
        is_number = not hasattr(grad, "dtype") or isinstance(grad, np.generic)
        return float(grad) if is_number or (type(grad) is np.ndarray and not grad.ndim) else grad

    def enter_matrix(self, x: Array) -> Array:
        """Logits or soft targets as engines see them."""
        return x

    def first_rows(self, x: Array, n: int) -> Array:
        """The first `n` rows of a weight, or numbers of a bias: those of classes, without padding."""
        return x[:n, ...]

    def leave_straight(
        self, inputs: Inputs, loss: Array, d: Array | None, prepared: Callable[[Inputs], tuple[Rows, Ending]]
    ) -> Array:
        """A loss of a call in one step as an array of the library of the logits.

        d: its gradient, where `is_recorded`. prepared: what the call is, should it be needed.
        """
        return self.leave(loss)

    def is_recorded(self, x: Array) -> bool | None:
        """Whether a call in one step finds the gradient, too; None where it is no such call."""
        return False

    def leave(self, result: Array) -> Array:
        """A loss as an array of the library of the logits."""
        return result

    def leave_matrix(self, d: Array, logits: Array) -> Array:
        """A gradient as an array of the library, and in the dtype, of `logits`."""
        return d

    def shared(self, out: Array) -> Array | None:
        """An array to write to that shares its memory with `out`; None where there can be none."""
        return out

    def written(self, out: Array) -> None:
        """Take notice that `out` has been written through its memory."""

    # --- memory -------------------------------------------------------------------------------------------------------

    def memory(self, x: Array) -> views.Memory | None:
        """Where the elements of an array are; None where that is unknown, or they are not there as they are."""
        return None

    def empty(self, n: int, dtype: Any, like: Array) -> Array:
        """Uninitialised memory for `n` numbers, on the device of `like`."""
        return self.xp.empty((n,), dtype=dtype, device=self.device(like))

    def empty_like(self, x: Array) -> Array:
        """Uninitialised memory of the shape, dtype, device and, where it has a dense one, layout of `x`."""
        return self.xp.empty(x.shape, dtype=x.dtype, device=self.device(x))

    def wait(self, x: Array) -> None:
        """Until `x` has its values in memory."""

    def strides(self, x: Array) -> tuple[int, ...] | None:
        """The steps of `x` along its axes, in the library's unit; None where it does not say."""
        return None

    def stream(self, x: Array) -> tuple[int, int]:
        """The number of the CUDA device of `x`, and the address of the library's current stream there."""
        raise NotImplementedError(f"{self.name} has no CUDA memory")

    # --- losses -------------------------------------------------------------------------------------------------------

    def losses(self, rows: Rows) -> Array:
        """The token losses (N,)."""
        return views.walk(self, rows)[0]

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """The token losses (N,) and the gradient (..., V), times `scale`; in `out` where it is given."""
        return views.walk(self, rows, scale, out)

    def loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """The loss of a call."""
        if 0 in ending.token_shape and not self.keep_graph:
            return ending.of_nothing()
        return ending.finish(self.losses(rows))

    def statistics(self, rows: Rows) -> RowStatistics:
        """The statistics (N,) of whole rows, of whose classes these have a part."""
        return linear.statistics(self, rows) if isinstance(rows.logits, Head) else views.statistics(self, rows)

    def described(self, rows: Rows) -> Described:
        """What rows with hard targets tell besides their losses, each (N,)."""
        return linear.describe(self, rows) if isinstance(rows.logits, Head) else views.describe(self, rows)

    def token_statistics(self, inputs: Inputs, rows: Rows, ending: Ending) -> TokenStatistics:
        """What rows tell of their tokens."""
        if self.composes is not None:
            return description.composed(self, inputs, rows, ending)
        return description.finished(self, rows, ending)

    def linear_losses(self, rows: Rows) -> Array:
        """The token losses (N,) of rows whose logits are a `Head`."""
        return linear.walk(self, rows)[0]

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, linear.Gradients]:
        """The same, and the gradients of hidden (N, D), weight and bias that are needed, times `scale`."""
        return linear.walk(self, rows, scale, needs)

    def linear_loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """The loss of a call that makes its logits."""
        if 0 in ending.token_shape and not self.keep_graph:
            return ending.of_nothing()
        return ending.finish(self.linear_losses(rows))


class AsGraph(Library):
    """Arrays that are computed later, or of which no part is a view: one graph of all rows."""

    leaves_out = False

    def losses(self, rows: Rows) -> Array:
        """As a graph."""
        return formula.whole(self, views.flat(self, rows))

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """As a graph."""
        losses, d = formula.whole_with_gradient(self, views.flat(self, rows), scale)
        return losses, self.xp.reshape(d, rows.logits.shape)

    def described(self, rows: Rows) -> Described:
        """As a graph."""
        return formula.describe(self, linear.filled(self, rows))

    def linear_losses(self, rows: Rows) -> Array:
        """As a graph."""
        return linear.whole(self, rows)[0]

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, linear.Gradients]:
        """As a graph."""
        return linear.whole(self, rows, scale, needs)


class InRuns:
    """A namespace of a library that adds one number after the other: its long sums go in short runs."""

    def __init__(self, xp: Namespace) -> None:
        """Of the library's own."""
        self._xp, self._ops = xp, Operations()
        self.__name__, self._ops.xp = xp.__name__, self

    def __getattr__(self, name: str) -> Any:
        """What else there is."""
        return getattr(self._xp, name)

    def sum(self, x: Array, *, axis: int | None = None, dtype: Any = None) -> Array:
        """As the standard has it, along one axis or all."""
        x = x if dtype is None else self.astype(x, dtype)
        is_long = (math.prod(x.shape) if axis is None else x.shape[axis]) > RUN
        return self._ops.sum_in_runs(x, axis) if is_long else self._xp.sum(x, axis=axis)


NO_CONTEXT = contextlib.nullcontext()
