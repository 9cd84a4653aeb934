"""Modules and other people's signatures, read: a function with the contract's names stands for each.

    read(found)          what is asked for it: a `Read`, or itself where its call has the contract's names
    picked(f, "loss")    of what a function returns, the entry that is the loss

A class is made anew for the options of each call. No library is imported: what a module is, its methods tell.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from crossent_conformance.evidence import WrongTypeError, kind_of

TARGETS = frozenset({"target", "targets", "label", "labels", "y_true"})
"""What others call the targets: where one is the first argument, the logits are the second."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "class_weights": ("weight",),
    "weights": ("sample_weight",),
    "ignore_index": ("ignore_class", "padding_idx"),
    "label_smoothing": ("smoothing",),
    "z_loss": ("lse_square_scale",),
    "logit_softcap": ("softcap",),
}
"""What others call the contract's options. A `smoothing` is an amount where its default is a number."""
CONSTRUCTED = (
    *("class_weights", "ignore_index", "reduction", "label_smoothing", "smoothing", "z_loss", "temperature"),
    *("logit_softcap", "denominator", "algorithm", "check_targets", "engine"),
)
"""The options that a constructor may have; others belong to a call."""
NO_TARGET = -100
"""What is ignored where the contract ignores nothing and the implementation cannot: PyTorch's default."""
KERAS_MEANS = ("sum_over_batch_size", "mean_with_sample_weight")
"""Keras's default, which divides by all tokens, and its mean that divides by the weights of those that count."""
ACCEPTED = "accepted: a function, a module, or an object with a method 'loss'"


class UnreadableError(TypeError):
    """It can be no subject; the message says why."""


class Option(NamedTuple):
    """What an implementation calls an option of the contract, its default there, and where it is given."""

    own: str
    default: Any
    constructed: bool


class Read:
    """A function `f(logits, targets, *, …)` with the contract's names, which asks another by its own."""

    def __init__(self, origin: Any) -> None:
        """Read how it is called and, of a class, how it is made."""
        self.origin = origin
        self.makes = isinstance(origin, type)
        self.__qualname__ = getattr(origin, "__qualname__", None) or type(origin).__qualname__
        self.package = (getattr(origin, "__module__", None) or type(origin).__module__).partition(".")[0]
        self._way, called, self.translates = _way(origin() if self.makes else origin)
        constructor = _constructor(origin if self.makes else type(origin))
        positional = [p.name for p in called if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:2]
        self._swapped = len(positional) == 2 and positional[0] in TARGETS and positional[1] not in TARGETS
        if self._swapped:
            positional.reverse()
        rest = [parameter for parameter in called if parameter.name not in positional]
        made = dict(_options(constructor, constructed=True))
        self._options = {**(made if self.makes else {}), **dict(_options(rest, constructed=False))}
        self._from_logits = tuple(
            any(p.name == "from_logits" for p in found) for found in (constructor if self.makes else (), rest)
        )
        self._is_keras = "reduction" in made and made["reduction"].default == KERAS_MEANS[0]
        self.names = dict(zip(("logits", "targets"), positional, strict=False))
        self._renamed = {name: option.own for name, option in self._options.items() if option.own != name}
        self.names |= self._renamed
        self.fixed = {} if self.makes else _fixed(origin, {n: o for n, o in made.items() if n not in self._options})
        self.notes = tuple(self._notes())
        self.translates |= bool(self._swapped or any(self._from_logits) or self._renamed or self.fixed)
        self.translates |= any(option.constructed for option in self._options.values())
        kinds = inspect.Parameter
        self.__signature__ = inspect.Signature(
            [
                *(kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("logits", "targets")),
                *(kinds(n, kinds.KEYWORD_ONLY, default=option.default) for n, option in self._options.items()),
                *(kinds("others", kinds.VAR_KEYWORD) for p in rest if p.kind is p.VAR_KEYWORD),
            ]
        )

    def __call__(self, logits: Any, targets: Any, **options: Any) -> Any:
        """What the implementation returns."""
        made, given = self._own(logits, options)
        function = self._way(self.origin(**made) if self.makes else self.origin)
        return function(targets, logits, **given) if self._swapped else function(logits, targets, **given)

    def _own(self, logits: Any, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options under their own names: those of the constructor, those of the call."""
        own: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        ignored = self._options.get("ignore_index")
        if ignored is not None and options.get("ignore_index") is None:
            options = {name: value for name, value in options.items() if name != "ignore_index"}
            if not ignores_nothing(ignored.default):
                options["ignore_index"] = NO_TARGET
        for name, value in options.items():
            option = self._options.get(name, Option(name, None, False))
            own[not option.constructed][option.own] = self._as_its_own(option.own, value, logits)
        for has_it, where in zip(self._from_logits, own, strict=True):
            if has_it:
                where["from_logits"] = True
        if self._is_keras and self.makes:
            own[0]["dtype"] = str(getattr(logits, "dtype", "float32")).removeprefix("torch.")
        return own

    def _as_its_own(self, own: str, value: Any, logits: Any) -> Any:
        if own == "weight" and hasattr(value, "to"):  # PyTorch wants class weights of the logits' dtype
            return value.to(logits.dtype)
        return KERAS_MEANS[1] if own == "reduction" and self._is_keras and value == "mean" else value

    def _notes(self) -> Iterator[str]:
        if self.makes and any(option.constructed for option in self._options.values()):
            yield "one is made for the options of each call"
        if self._swapped:
            yield f"takes {self.names['targets']} before {self.names['logits']}"
        if self._renamed:
            yield f"is asked for {', '.join(f'{name} as {own}' for name, own in self._renamed.items())}"
        if any(self._from_logits):
            yield "is told from_logits=True"
        if self.makes and self._is_keras:
            yield f"is told the dtype of the logits; its mean is {KERAS_MEANS[1]}"
        if self.fixed:
            yield f"was made with {', '.join(f'{name}={value!r}' for name, value in self.fixed.items())}"


def read(found: Any) -> Any:
    """What is asked for it; UnreadableError where that is nothing."""
    if not callable(found):
        raise UnreadableError(f"is {type(found).__name__}; {ACCEPTED}")
    reading = Read(found)
    return reading if reading.translates else found() if reading.makes else found


def picked(function: Callable[..., Any], entry: str | int) -> Callable[..., Any]:
    """The function, of whose results this entry, or attribute, is the loss."""

    @functools.wraps(function)
    def loss(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        try:
            if isinstance(entry, str) and not isinstance(result, Mapping):
                return getattr(result, entry)
            return result[entry]
        except (AttributeError, LookupError, TypeError) as error:
            came = kind_of(result).removeprefix("builtins.")
            raise WrongTypeError(f"{came} came back; its adapter's result is {entry!r}") from error

    return loss


def signature(function: Any) -> list[inspect.Parameter]:
    """The parameters; none of a function that does not tell them."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def bound(function: Any) -> None:
    """UnreadableError where it cannot be called with logits and targets alone, as far as its parameters tell."""
    if parameters := signature(function):
        try:
            inspect.Signature(parameters).bind(None, None)
        except TypeError as error:
            said = f"cannot be called with logits and targets: {error}"
            raise UnreadableError(f"{said}; accepted: what takes these two by position, all else as options") from error


def _constructor(kind: type) -> list[inspect.Parameter]:
    """The parameters by which one is made: its own and, where it hands others on, those of the classes before it."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        own = signature(vars(base)["__init__"])[1:] if "__init__" in vars(base) else []
        found = {**{parameter.name: parameter for parameter in own}, **found}
        if own and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            break
    named = [parameter for parameter in found.values() if parameter.kind is not parameter.VAR_KEYWORD]
    named = [p for p in named if p.kind is not p.VAR_POSITIONAL]
    # What is inherited and names nothing may take nothing, as PyTorch's modules.
    return named or (list(found.values()) if "__init__" in vars(kind) or _takes_options(kind) else [])


def _takes_options(kind: type) -> bool:
    """Whether one can be made with an option of the contract, for which its constructor has no name."""
    try:
        kind(reduction="mean")
    except Exception:
        return False
    return True


def _way(module: Any) -> tuple[Callable[[Any], Callable[..., Any]], list[inspect.Parameter], bool]:
    """How one is called, with which parameters, and whether that is another way than to call it as it stands."""
    if hasattr(module, "forward"):
        return (_itself if callable(module) else _forward), signature(module.forward), True
    if not callable(module):
        raise UnreadableError(f"makes {type(module).__name__}, which cannot be called; {ACCEPTED}")
    if hasattr(module, "apply") and hasattr(module, "init"):  # Flax's are called with variables; a loss has none
        return _applied, signature(module.__call__), True
    called = signature(module)
    if hasattr(module, "call") and not [p for p in called if p.kind is p.POSITIONAL_OR_KEYWORD][1:]:
        return _itself, signature(module.call), True
    return _itself, called, False


def _itself(module: Any) -> Any:
    return module


def _forward(module: Any) -> Any:
    return module.forward


def _applied(module: Any) -> Any:
    return functools.partial(module.apply, {})


def _options(found: list[inspect.Parameter], constructed: bool) -> Iterator[tuple[str, Option]]:
    """The options of the contract among the parameters."""
    from crossent_conformance.adapter import DEFAULTS

    known = CONSTRUCTED if constructed else tuple(DEFAULTS)
    meant = {own: name for name, others in NAMES.items() for own in others if name in known}
    for parameter in found:
        default = None if parameter.default is parameter.empty else parameter.default
        is_amount = isinstance(default, int | float)
        name = parameter.name if parameter.name in known and not (parameter.name == "smoothing" and is_amount) else ""
        if not name and (parameter.name != "smoothing" or is_amount):
            name = meant.get(parameter.name, "")
        if name:
            yield name, Option(parameter.name, default, constructed)
        elif constructed and parameter.kind is parameter.VAR_KEYWORD:
            yield from ((each, Option(each, DEFAULTS[each], True)) for each in known)


def _fixed(module: Any, options: dict[str, Option]) -> dict[str, Any]:
    """What an object does because it was made so, as its attributes tell."""
    from crossent_conformance.adapter import DEFAULTS

    if getattr(module, "from_logits", True) is False:
        raise UnreadableError("was made with from_logits=False; accepted: one that takes logits")
    fixed = {}
    for name, option in options.items():
        value = getattr(module, option.own, None)
        if name == "class_weights" and value is not None:
            raise UnreadableError(f"was made with {option.own}; accepted: one without, or its class")
        if value is None:
            continue
        if isinstance(DEFAULTS[name], float):
            value = float(value)
        value = "mean" if value in KERAS_MEANS else value
        if name == "reduction" or value != DEFAULTS[name]:
            fixed[name] = value
    return fixed


def ignores_nothing(index: Any) -> bool:
    """Whether no class is ignored by that."""
    return index is None or index < 0
