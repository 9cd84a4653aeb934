"""The options of the loss: their names, defaults, checks of values, and the coefficients they mean.

The one place where an option is spelt. A new one is a key of `OptionNames` and a field of `Options` with its check.
Where it changes the numbers of a row, it is a field of `math.rows.Coefficients` too, which `math/outcome.py` and its
two translations for the compilers read; where it changes what becomes of them, `problem.Ending` does.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import numpy as np

from crossent.engines.select import ENGINES
from crossent.libraries import is_array, of
from crossent.math.operations import FLOATS
from crossent.math.rows import EXPLICIT, LOSS, Coefficients
from crossent.types import Algorithm, Array, Denominator, Reduction, Smoothing

if TYPE_CHECKING:
    from crossent.shards import VocabularyShard

REDUCTIONS = ("mean", "sum", "none", "sequence")
ALGORITHMS = ("stable", "explicit")
# Temperatures and softcaps: products of two, and their inverses, are normal numbers in float32.
_SMALLEST, _LARGEST = 1e-18, 1e18
_SIZES = "a number from 1e-18 to 1e18"

_Function = TypeVar("_Function", bound=Callable[..., Any])


class OptionNames(TypedDict, total=False):
    """The options that are words and numbers, the same names everywhere."""

    ignore_index: int | None
    reduction: Reduction
    label_smoothing: float
    smoothing: Smoothing
    z_loss: float
    temperature: float
    logit_softcap: float | None
    algorithm: Algorithm
    check_targets: bool
    engine: str


class LossOptions(OptionNames, total=False):
    """The options of a loss; two of them may be arrays."""

    class_weights: Array | None
    denominator: Denominator
    vocabulary: VocabularyShard | None


class LinearOptions(LossOptions, total=False):
    """The options of a loss that makes its logits."""

    classes: int | None
    memory: int | None


class CallOptions(LossOptions, total=False):
    """The options of one call: those of the loss, and the weights of its tokens."""

    weights: Array | None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a call, checked; TypeError or ValueError for a value that is not accepted."""

    ignore_index: Any = None
    reduction: Any = "mean"
    label_smoothing: Any = 0.0
    smoothing: Any = "others"
    z_loss: Any = 0.0
    temperature: Any = 1.0
    logit_softcap: Any = None
    algorithm: Any = "stable"
    check_targets: Any = True
    engine: Any = "auto"
    ieee: bool = False
    """Whether everything follows floating-point arithmetic, as in PyTorch; no option of the public functions."""
    measure: str = LOSS
    """What is measured of rows, see `math/measures.py`, and of a Jensen-Shannon divergence the teacher's share; options
    of no function.
    """
    mixture: Any = 0.5
    coefficients: Coefficients = field(init=False)
    straight: tuple[Coefficients, int | None, bool, float, bool] | None = field(init=False)
    """For a call of plain arrays that may be answered in one step: the coefficients, the target that is ignored,
    whether targets are checked, what the sum is divided by (0 for how many tokens count), whether losses are kept.
    """

    def __post_init__(self) -> None:
        """Check the values, and find what they mean."""
        choice("reduction", self.reduction, REDUCTIONS)
        accepted = "a number from 0 to 1"
        if not 0.0 <= number("label_smoothing", self.label_smoothing, accepted) <= 1.0:
            raise ValueError(f"label_smoothing is {self.label_smoothing!r}; accepted: {accepted}")
        choice("smoothing", self.smoothing, ("others", "uniform"))
        accepted = "a finite number that is not negative"
        if not 0.0 <= number("z_loss", self.z_loss, accepted) < math.inf:
            raise ValueError(f"z_loss is {self.z_loss!r}; accepted: {accepted}")
        size("temperature", self.temperature, _SIZES)
        if self.logit_softcap is not None:
            size("logit_softcap", self.logit_softcap, f"None, or {_SIZES}")
        choice("algorithm", self.algorithm, ALGORITHMS)
        if not isinstance(self.check_targets, (bool, np.bool_)):
            raise TypeError(f"check_targets is {shown(self.check_targets)}; accepted: True or False")
        choice("engine", self.engine, ("auto", *ENGINES))
        accepted = "a number from 1e-6 to 1 - 1e-6"
        if not 1e-6 <= number("mixture", self.mixture, accepted) <= 1.0 - 1e-6:
            raise ValueError(f"mixture is {self.mixture!r}; accepted: {accepted}")
        object.__setattr__(self, "ignore_index", _index(self.ignore_index))
        object.__setattr__(
            self,
            "coefficients",
            Coefficients(
                target_mass=1.0 - self.label_smoothing,
                smoothing=float(self.label_smoothing),
                includes_target=int(self.smoothing == "uniform"),
                z_loss=float(self.z_loss),
                ieee=self.ieee,
                inverse_temperature=1.0 / float(self.temperature),
                softcap=float(self.logit_softcap or 0.0),
                measure=EXPLICIT if self.algorithm == "explicit" else self.measure,
                mixture=float(self.mixture),
            ),
        )
        c, divisors = self.coefficients, {"mean": 0.0, "sum": 1.0, "none": 1.0}
        is_straight = c.measure == LOSS and self.reduction in divisors
        ending = bool(self.check_targets), divisors.get(self.reduction, 1.0), self.reduction == "none"
        object.__setattr__(self, "straight", (c, self.ignore_index, *ending) if is_straight else None)


DEFAULTS = {each.name: each.default for each in fields(Options) if each.name in OptionNames.__annotations__}


def options_of(given: Mapping[str, Any], more: tuple[str, ...] = ()) -> Options:
    """The options of those names; TypeError for a name that there is not.

    more: what else the caller's function accepts by its name.
    """
    unknown = sorted(name for name in given if name not in OptionNames.__annotations__)
    if unknown:
        raise TypeError(
            f"unexpected keyword argument {unknown[0]!r}; accepted: {', '.join((*CallOptions.__annotations__, *more))}"
        )
    return Options(**given)


@functools.lru_cache(maxsize=64, typed=True)
def _once(**given: Any) -> Options:
    return options_of(given)


def options_once(given: Options | Mapping[str, Any], traced: bool, more: tuple[str, ...] = ()) -> Options:
    """`options_of`, looked up: a small call would spend a tenth of its time on looking at the same few words.

    traced: whether torch may trace the call, which could not follow the look.
    """
    if isinstance(given, Options):
        return given
    if traced:
        return options_of(given, more)
    try:
        return _once(**given)
    except TypeError:  # a value of a wrong type, which may be one that cannot be hashed
        return options_of(given, more)


def takes_options(function: _Function) -> _Function:
    """Let `help` and `inspect.signature` show the options that `function` takes as keyword arguments."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    kinds = OptionNames.__annotations__
    parameters += [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=getattr(kinds[name], "__forward_arg__", kinds[name]),
        )
        for name, default in DEFAULTS.items()
    ]
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


def number(name: str, value: Any, accepted: str) -> float:
    """`value` as a float; TypeError unless it is a real number."""
    is_number = isinstance(value, Real) or (isinstance(value, np.generic) and value.dtype.name in FLOATS)
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"{name} is {shown(value)}; accepted: {accepted}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is a number past the range of float64; accepted: {accepted}") from None


def size(name: str, value: Any, accepted: str) -> None:
    """ValueError unless a number is positive, and neither too small nor too large to compute with."""
    if not _SMALLEST <= number(name, value, accepted) <= _LARGEST:
        raise ValueError(f"{name} is {value!r}; accepted: {accepted}")


def choice(name: str, value: Any, accepted: tuple[str, ...]) -> None:
    """ValueError unless `value` is one of the accepted words; TypeError unless it is a word."""
    if type(value) is str and value in accepted:
        return
    words = ", ".join(map(repr, accepted))
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name} is {shown(value)}; accepted: {words}")


def shown(value: Any) -> str:
    """A value of an argument, in an error."""
    library = None if isinstance(value, np.generic) else of(value)
    if library is not None:
        return f"an array of dtype {library.dtype_name(value)} and shape {tuple(value.shape)}"
    if hasattr(value, "shape") and not isinstance(value, np.generic):  # all its numbers would be shown
        return named(type(value))
    return f"{value!r} ({named(type(value))})" if not isinstance(value, (str, type(None))) else repr(value)


def named(kind: type) -> str:
    """The name of a type, with the module that it is from, in an error."""
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _index(value: Any) -> int | None:
    """An ignored target as an int, or None."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or (is_array(value) and not isinstance(value, np.integer)):
        raise TypeError(f"ignore_index is {shown(value)}; accepted: None or an integer")
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"ignore_index is {shown(value)}; accepted: None or an integer") from None
    if not -(2**63) <= index < 2**63:
        raise ValueError(f"ignore_index is {index}; accepted: an integer from -2**63 to 2**63 - 1")
    return index


DEFAULT = Options()
