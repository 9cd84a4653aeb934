"""What stands between a test and an implementation: options by signature, gradients by autograd, help with shapes.

`UnderTest` wraps what `subject.load` found. A test asks it for anything the contract has; what the implementation has
no way to be asked raises `DoesNotApply`. Where a test is not about it, `UnderTest` helps: logits of any rank are
flattened for an implementation that takes (N, V) alone, integers become int64 for one that takes no others, and a
mean or a sum is taken row by row where each row's loss is wanted. Within `unassisted()` it does not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crossent_conformance import depth, linear, measures, modules
from crossent_conformance.evidence import WrongTypeError, kind_of
from crossent_conformance.implementation import Adapter, DoesNotApply

if TYPE_CHECKING:
    from crossent_conformance.witness import Witness

DEFAULTS: Mapping[str, Any] = {
    "weights": None,
    "class_weights": None,
    "ignore_index": None,
    "reduction": "mean",
    "label_smoothing": 0.0,
    "smoothing": "others",
    "z_loss": 0.0,
    "temperature": 1.0,
    "logit_softcap": None,
    "denominator": None,
    "algorithm": "stable",
    "check_targets": True,
    "engine": "auto",
    "out": None,
    "grad_output": None,
    "bias": None,
    "classes": None,
    "memory": None,
    "needs": linear.NEEDS,
    "direction": "forward",
    "mixture": 0.5,
}
"""The contract's options and what they are when they are not given."""
SPOKEN = ("reduction", "label_smoothing", "smoothing", "z_loss", "temperature", "logit_softcap", "algorithm")
"""Options that are given even when they have the contract's default, to a function whose own default is another."""
BESIDES = {
    "loss_object": "a loss object",
    "perplexity": "perplexity",
    "shift": "the shift by one",
    "threads": "a number of threads",
    "drop_in": "PyTorch's own signature",
    "drop_in_module": "PyTorch's own signature",
    "linear": linear.LACK,
    "linear_and_grad": linear.LACK,
    "sharded": "a vocabulary in shards",
    **measures.LACKS,
}
"""What an adapter may have besides losses and gradients (`implementation.Adapter`), and what one without it lacks."""
SOFT = "soft targets"
PART = 0.85
"""Of a case's time, what calls may take: the rest is the suite's."""
MOST_ROWS = 4096
"""More rows than these are not taken one by one."""


@dataclass(frozen=True)
class Pace:
    """How many seconds a call takes, for each token and for each logit."""

    token: float = 0.0
    logit: float = 0.0

    def seconds(self, tokens: int, classes: int) -> float:
        """What a call of so many may take."""
        return tokens * (self.token + classes * self.logit)


@dataclass(frozen=True)
class Traits:
    """What trying an implementation on a backend has shown; see `probe`."""

    dtypes: tuple[str, ...] = ("float64", "float32", "float16", "bfloat16")
    flat: bool = False
    int64_only: bool = False
    gradient: bool = True
    pairs: bool = False
    """Whether a function without a sibling for gradients returns (loss, d_logits) of its own accord."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Reductions and soft targets, in the words of what does not apply, and the error by which each is refused."""
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    """Why nothing can be asked on this backend."""
    tried: bool = True
    """Whether the refusal is the implementation's; else it is its adapter's."""
    pace: Pace = Pace()


class UnderTest:
    """An implementation, asked by the contract's names."""

    def __init__(self, found: Any, spec: str) -> None:
        self.spec = spec
        self.is_adapter = is_adapter(found)
        self._found = found
        self._function: Any = self._own("loss") if self.is_adapter else found
        self._pair: Any = self._own("loss_and_grad")
        is_its_own = self._function is None or (self.is_adapter and inspect.ismethod(self._function))
        read: Any = self._function if is_its_own else modules.read(self._function)
        result = self._own("result")
        self._function = read if result is None else modules.picked(read, result)
        modules.bound(self._function)
        modules.bound(self._pair)
        self._first: Any = self._pair if self._function is None else self._function
        """What is asked for the loss alone."""
        self.name: str = self._own("name") or spec
        self.backends: tuple[str, ...] | None = getattr(found, "backends", None)
        self.dtypes: tuple[str, ...] | None = getattr(found, "dtypes", None)
        self.flat: bool | None = getattr(found, "flat", None)
        self.fixed = {**getattr(read, "fixed", {}), **getattr(found, "fixed", {})}
        self.notes: tuple[str, ...] = getattr(read, "notes", ())
        """How it is asked, where that is not by the contract's names."""
        self._names = {} if is_its_own else {**_own_names(read), **getattr(read, "names", {})}
        self._names |= self._own("names", {})
        self._package: str = getattr(found if self.is_adapter else read, "package", "")
        self.traits = Traits(flat=bool(self.flat))
        self.witness: Witness | None = None
        """Who is told of every call before it is made."""
        self.calls = 0
        self._began = time.monotonic()
        self._through: UnderTest | None = None
        self._rows = True
        self.helps = True

    def _own(self, name: str, otherwise: Any = None) -> Any:
        """What an adapter has of that name; a function has nothing."""
        return getattr(self._found, name, otherwise) if self.is_adapter else otherwise

    @property
    def version(self) -> str | None:
        """The version of the implementation's distribution."""
        try:
            return importlib.metadata.version(self._package) if self._package else None
        except importlib.metadata.PackageNotFoundError:
            return None

    @property
    def file(self) -> str | None:
        """The file that the implementation is written in."""
        written = inspect.unwrap(self._found)
        for found in (written, type(written)):
            with contextlib.suppress(TypeError):  # an object of a class, or written in C
                return inspect.getsourcefile(found)
        return None

    def begin(self, traits: Traits, clause: str) -> None:
        """A test of that clause begins, on a backend where these are the implementation's traits."""
        if self.witness is not None:
            self.witness.forget()
        self.traits = traits
        self.calls = 0
        self._began = time.monotonic()
        self._rows = clause[:1] in ("V", "S")

    @contextlib.contextmanager
    def unassisted(self) -> Iterator[None]:
        """What the implementation does not take itself does not apply; integers are handed over as they are."""
        before, self.helps = self.helps, False
        try:
            yield
        finally:
            self.helps = before

    # ---- what a test asks for

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        """The loss."""
        self.calls += 1
        return self._assisted(self._loss, logits, targets, options)

    def loss_and_grad(self, logits: Any, targets: Any, **options: Any) -> tuple[Any, Any]:
        """The loss and its gradient with respect to the logits, off every graph."""
        self.calls += 1
        return self._assisted(self._loss_and_grad, logits, targets, options)

    def linear_loss(self, hidden: Any, targets: Any, **options: Any) -> Any:
        """The loss of hidden·weightᵀ + bias; the weight is among the options."""
        return linear.loss(self, hidden, targets, options)

    def linear_loss_and_grads(self, hidden: Any, targets: Any, **options: Any) -> tuple[Any, ...]:
        """The same, and the gradients of hidden, weight and bias that are needed, off every graph."""
        return linear.loss_and_grads(self, hidden, targets, options)

    def through_identity(self) -> UnderTest:
        """The linear loss as a loss of logits: they are the hidden states, and the weight changes nothing."""
        if not any(hasattr(self._found, name) for name in ("linear", "linear_and_grad")):
            raise DoesNotApply(linear.LACK)
        if self._through is None:
            self._through = UnderTest(linear.ThroughIdentity(self), self.spec)
        self._through.begin(self.traits, "")
        return self._through

    def measure(self, name: str, gradient: bool = False) -> Callable[..., Any]:
        """What rows tell besides their loss, as a function of logits, of what it is of besides, and of options."""
        return measures.asking(self, name, gradient)

    def portable(self) -> contextlib.AbstractContextManager[None]:
        """Calls within are answered by the code that serves every backend, where there is faster code besides."""
        found = self._own("portable")
        if found is None:
            raise DoesNotApply("a choice between fast and portable code")
        return found()

    @property
    def engines(self) -> tuple[str, ...]:
        """What may be asked for by the option `engine`, as far as the adapter tells."""
        return tuple(self._own("engines", ()))

    def engine(self, logits: Any, targets: Any, **options: Any) -> str:
        """Which code answers such a call, as far as the adapter tells; "" where it does not."""
        found = self._own("engine")
        return "" if found is None else str(found(logits, targets, **options))

    def __getattr__(self, name: str) -> Any:
        """What an adapter may have besides."""
        if name not in BESIDES:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        self.calls += 1
        if self.witness is not None:
            self.witness.saw(name)
        found = self._own(name)
        if found is None:
            raise DoesNotApply(BESIDES[name])
        return found

    # ---- how the implementation is asked

    def plainly(self, logits: Any, targets: Any, **options: Any) -> Any:
        """What the implementation itself returns, with nothing but these options."""
        return self._first(logits, targets, **options)

    def small_call(self, logits: Any, targets: Any, **options: Any) -> Any:
        """What it returns plainly, outside of any test."""
        self._began = time.monotonic()
        self.tell(self._first, logits, targets, options)
        return self.plainly(logits, targets, **options)

    def handed_over(self, options: dict[str, Any]) -> dict[str, Any]:
        """Of the options of a call those that the implementation itself is given."""
        given = dict(options)
        if given.get("reduction") == "none" and (reduction := self._reduction_of_rows()) is not None:
            given["reduction"] = reduction
        known = [parameters(function) for function in (self._function, self._pair) if function is not None]
        for names, _, defaults in known:
            given = {**_spoken(names, defaults), **given}
        return {
            name: value
            for name, value in given.items()
            if name not in DEFAULTS or any(everything or name in names for names, everything, _ in known)
        }

    def affords(self, *shape: Any) -> None:
        """Find out before a call of logits of the shape that it can end in what is left of a case's time.

        If it cannot, the case does not apply. What a compiler traces is no call.
        """
        if not shape or is_compiling() or not all(isinstance(length, int) for length in shape):
            return
        left = PART * depth.TIME_LIMIT - (time.monotonic() - self._began)
        if self.traits.pace.seconds(math.prod(shape[:-1]), shape[-1]) > left:
            raise DoesNotApply(f"{math.prod(shape):,} logits at its speed")

    def tell(self, function: Any, logits: Any, targets: Any, options: dict[str, Any]) -> None:
        """Leave word of a call that is about to be made; what a compiler traces is no call."""
        self.affords(*getattr(logits, "shape", ()))
        if self.witness is not None and not is_compiling():
            name = getattr(function, "__qualname__", None) or type(function).__qualname__
            self.witness.saw(name, logits, targets, options)

    @property
    def is_flat(self) -> bool:
        """Whether logits of shape (N, V) are all that it takes itself."""
        return self.traits.flat if self.flat is None else self.flat

    def names_of(self, argument: str) -> tuple[str, ...]:
        """What an error may call the argument: by the contract's name, or the implementation's own."""
        own = self._names.get(argument, ())
        return (argument, *((own,) if isinstance(own, str) else own))

    @property
    def gives_pairs(self) -> bool:
        """Whether there is a function of its own for loss and gradient."""
        return self._pair is not None

    def takes(self, name: str) -> bool:
        """Whether there is an option of that name."""
        names, everything, _ = parameters(self._first)
        return everything or name in names

    @property
    def takes_anything(self) -> bool:
        """Whether any name is an option, as far as the signature tells."""
        return parameters(self._first)[1]

    def _loss(self, logits: Any, targets: Any, options: dict[str, Any]) -> Any:
        result = self._ask(self._first, logits, targets, options)
        if not _is_pair(result):
            return result
        if _wants_graph(logits):
            raise DoesNotApply("autograd: it returns a gradient of its own")
        return result[0]

    def _loss_and_grad(self, logits: Any, targets: Any, options: dict[str, Any]) -> tuple[Any, Any]:
        if self._pair is not None:
            result = self._ask(self._pair, logits, targets, options)
            if not _is_pair(result):
                raise WrongTypeError(f"loss_and_grad returned {_shown(result)}; accepted: (loss, d_logits)")
            return result
        function = self._function
        # What it returns tells, and no signature: a wrapper takes any name.
        if self.traits.pairs or not has_autograd(logits):
            result = self._ask(function, logits, targets, options)
            if _is_pair(result):
                return result
            raise DoesNotApply("a gradient: there is no autograd for these arrays", gradient=True)
        options = dict(options)
        if options.pop("out", None) is not None:
            raise DoesNotApply("out")
        upstream = options.pop("grad_output", None)
        if upstream is not None and not self.helps:
            raise DoesNotApply("grad_output: its gradients are autograd's")
        passed = self.passed(function, options)
        if not self.traits.gradient:
            raise DoesNotApply("a gradient", gradient=True)
        self.tell(function, logits, targets, passed)
        return differentiated(lambda x: loss_or_pair(function(x, targets, **passed)), (logits,), upstream)

    def _ask(self, function: Any, logits: Any, targets: Any, options: dict[str, Any]) -> Any:
        passed = self.passed(function, options)
        self.tell(function, logits, targets, passed)
        return loss_or_pair(function(logits, targets, **passed))

    def passed(
        self, function: Any, options: dict[str, Any], arrays: int = 2, fixed: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The options that the function is called with; its first arguments are so many arrays. `fixed` is what it does
        where it has no option; None is what the loss does."""
        names, everything, defaults = parameters(function, arrays)
        fixed = {**self.traits.fixed, **self.fixed} if fixed is None else fixed
        passed = {}
        for name, value in options.items():
            if everything or name in names or name not in DEFAULTS:
                passed[name] = value
            elif not _is_default(name, value) and not (name in fixed and _same(fixed[name], value)):
                raise DoesNotApply(_worded(name, value))
        effective = {**DEFAULTS, **options}
        for name, value in fixed.items():
            if name in names or (name == "smoothing" and _is_default("label_smoothing", effective["label_smoothing"])):
                continue
            if name == "ignore_index" and effective[name] is None and modules.ignores_nothing(value):
                continue
            if not _same(effective[name], value):
                raise DoesNotApply(f"{_worded(name, effective[name])}: it is {value!r} whatever is asked")
        return {**_spoken(names, defaults), **passed}

    # ---- help

    def _assisted(self, ask: Callable[..., Any], logits: Any, targets: Any, options: dict[str, Any]) -> Any:
        reduction = options.get("reduction")
        if reduction != "none" and (lack := reduction_of(reduction)) in self.traits.refuses:
            raise DoesNotApply(lack)
        if not (hasattr(logits, "ndim") and hasattr(targets, "ndim") and hasattr(targets, "dtype")):
            return ask(logits, targets, options)
        if SOFT in self.traits.refuses and is_soft(logits, targets):
            raise DoesNotApply(SOFT)
        if self.traits.int64_only and self.helps and _is_integer(targets):
            targets = _as_int64(targets)
        if self.is_flat and logits.ndim != 2:
            return self._flattened(ask, logits, targets, options)
        return self._row_by_row(ask, logits, targets, options)

    def _flattened(self, ask: Callable[..., Any], logits: Any, targets: Any, options: dict[str, Any]) -> Any:
        lacks = DoesNotApply("logits of other shapes than (N, V)")
        reduction = options.get("reduction", "mean")
        if not self.helps or reduction == "sequence" or options.get("out") is not None or logits.ndim == 0:
            raise lacks
        tokens, V = tuple(logits.shape[:-1]), logits.shape[-1]
        shape = tuple(targets.shape)
        if shape not in (tokens, (*tokens, V)):
            raise lacks
        options = dict(options)
        for name in ("weights", "grad_output"):
            value = options.get(name)
            if value is not None and hasattr(value, "shape") and (name == "weights" or reduction == "none"):
                if tuple(value.shape) != tokens:
                    raise lacks
                options[name] = _reshape(value, (-1,))
        count = math.prod(tokens)
        flat_targets = _reshape(targets, (count,) if shape == tokens else (count, V))
        result = _of_arrays(self._row_by_row(ask, _reshape(logits, (count, V)), flat_targets, options))
        loss, *gradient = result if _is_pair(result) else (result,)
        loss = _reshape(loss, tokens) if reduction == "none" else loss
        return (loss, _reshape(gradient[0], (*tokens, V))) if gradient else loss

    def _reduction_of_rows(self) -> str | None:
        """The reduction by which a row's loss is had from one call for it alone; None where losses can be asked for."""
        if not self.takes("reduction"):
            fixed = {**self.traits.fixed, **self.fixed}.get("reduction")
            return fixed if fixed in ("mean", "sum") else None
        refuses = self.traits.refuses
        if reduction_of("none") not in refuses:
            return None
        return "mean" if reduction_of("sum") in refuses else "sum"

    def _row_by_row(self, ask: Callable[..., Any], logits: Any, targets: Any, options: dict[str, Any]) -> Any:
        fixed = self._reduction_of_rows()
        if options.get("reduction") != "none" or fixed is None:
            return ask(logits, targets, options)
        alone: tuple[str, ...] = ("weights", "denominator", "grad_output", "out")
        if fixed == "mean":
            alone = (*alone, "class_weights", "ignore_index")  # in the mean of one token a weight cancels
        tokens = tuple(logits.shape[:-1])
        if not (self._rows and self.helps) or any(options.get(name) is not None for name in alone) or len(tokens) != 1:
            raise DoesNotApply("reduction='none'")
        if not 0 < tokens[0] <= MOST_ROWS or tuple(targets.shape[:1]) != tokens:
            raise DoesNotApply("reduction='none'")
        options = {name: value for name, value in options.items() if name != "reduction"} | {"reduction": fixed}
        if _is_jax(logits) and (at_once := _at_once(ask, logits, targets, options)) is not None:
            return at_once
        found = [_of_arrays(ask(logits[i : i + 1, :], targets[i : i + 1, ...], options)) for i in range(tokens[0])]
        xp = _namespace(logits)
        if not _is_pair(found[0]):
            return xp.stack([_reshape(loss, ()) for loss in found])
        return xp.stack([_reshape(loss, ()) for loss, _ in found]), xp.concat([gradient for _, gradient in found])


def _at_once(ask: Callable[..., Any], logits: Any, targets: Any, options: dict[str, Any]) -> Any:
    """What calls row by row give, by one of `jax.vmap`: outside of it the dispatch of a row takes longer than the row.

    None where the implementation does not go through it.
    """
    import jax

    try:
        found = jax.vmap(lambda x, t: ask(x[None, :], t[None, ...], options))(logits, targets)
        if not _is_pair(found):
            return _reshape(found, logits.shape[:1])
        return _reshape(found[0], logits.shape[:1]), _reshape(found[1], logits.shape)
    except DoesNotApply:
        raise
    except Exception:  # it looks at values, for one; row by row it may not
        return None


def _spoken(names: set[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's defaults that have to be said, to a function whose own are others."""
    return {
        name: DEFAULTS[name]
        for name in SPOKEN
        if name in names and not _same(defaults.get(name, DEFAULTS[name]), DEFAULTS[name])
    }


def is_adapter(found: Any) -> bool:
    """Whether it is asked by its methods: a module that holds a loss of its own is not."""
    kind = found if isinstance(found, type) else type(found)
    is_called = hasattr(kind, "forward") or any("__call__" in vars(base) for base in kind.__mro__)
    return issubclass(kind, Adapter) or (not is_called and (hasattr(found, "loss") or hasattr(found, "loss_and_grad")))


def parameters(function: Any, arrays: int = 2) -> tuple[set[str], bool, dict[str, Any]]:
    """The names of a function's options, whether it takes any other, and the defaults that it states."""
    parameters = modules.signature(function)
    everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [
        parameter
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter not in positional[:arrays]
    ]
    defaults = {parameter.name: parameter.default for parameter in named if parameter.default is not parameter.empty}
    return {parameter.name for parameter in named}, everything, defaults


def _own_names(function: Any) -> dict[str, str]:
    """What a function calls its first two arguments."""
    return dict(zip(("logits", "targets"), (parameter.name for parameter in modules.signature(function)), strict=False))


def reduction_of(name: Any) -> str:
    """A reduction, in the words of what does not apply."""
    return _worded("reduction", name)


def is_soft(logits: Any, targets: Any) -> bool:
    """Whether targets are floating and of the shape of the logits; what is no array is left to others to refuse."""
    shape = getattr(targets, "shape", None)
    return shape is not None and shape == getattr(logits, "shape", ()) and "float" in str(targets.dtype)


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and bool(first == second)


def _is_default(name: str, value: Any) -> bool:
    default = DEFAULTS[name]
    if default is None or value is None:
        return value is default
    return isinstance(value, type(default)) and _same(value, default)


def _worded(name: str, value: Any) -> str:
    return f"{name}={value!r}" if isinstance(value, str) else f"{name}=False" if value is False else name


def _is_pair(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2


_CONTAINERS = (tuple, list, dict)


def loss_or_pair(result: Any) -> Any:
    """The result, if it may be a loss or a pair; whose arrays they are is for the place to say."""
    parts = result if _is_pair(result) else (result,)
    if isinstance(result, _CONTAINERS) and not _is_pair(result):
        raise WrongTypeError(
            f"{_shown(result)} came back; accepted: the loss, or (loss, d_logits), or what an adapter's result picks"
        )
    for part in parts:  # torch 2.9 traces neither any() of a generator nor a union of types
        if part is None or isinstance(part, _CONTAINERS):
            raise WrongTypeError(f"{_shown(result)} came back; accepted: the loss, or (loss, d_logits), as arrays")
    return result


def _of_arrays(result: Any) -> Any:
    """The result, if it can be put into another shape."""
    if not all(hasattr(part, "shape") for part in (result if _is_pair(result) else (result,))):
        raise WrongTypeError(f"{_shown(result)} came back; accepted: the loss, or (loss, d_logits), as arrays")
    return result


def _shown(result: Any) -> str:
    """What came back, by its type, that of its parts if it has some."""
    if isinstance(result, tuple | list):
        return f"{_kind(result)} of {len(result)} ({', '.join(map(_kind, result[:5]))})"
    return _kind(result)


def _kind(value: Any) -> str:
    return kind_of(value).removeprefix("builtins.")


def _is_tensor(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def has_autograd(array: Any) -> bool:
    """Whether its library differentiates functions."""
    return _is_tensor(array) or _is_jax(array)


def is_compiling() -> bool:
    """Whether torch's compiler follows the call, which can look at no value."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


def _is_jax(array: Any) -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(array, jax.Array)


def _wants_graph(logits: Any) -> bool:
    return _is_tensor(logits) and bool(logits.requires_grad)


def _namespace(array: Any) -> Any:
    import array_api_compat

    return array_api_compat.array_namespace(array)


def _reshape(array: Any, shape: tuple[int, ...]) -> Any:
    return _namespace(array).reshape(array, shape)


def _is_integer(array: Any) -> bool:
    name = str(array.dtype).rpartition(".")[2]
    return name.startswith(("int", "uint")) and name != "int64"


def _as_int64(array: Any) -> Any:
    xp = _namespace(array)
    return xp.astype(array, xp.int64)


def differentiated(function: Callable[..., Any], leaves: tuple[Any, ...], upstream: Any) -> tuple[Any, ...]:
    """The loss, and its gradients by the framework whose arrays the leaves are; or the pair that the function gives."""
    return (_by_autograd if _is_tensor(leaves[0]) else _by_vjp)(function, leaves, upstream)


def _by_autograd(function: Callable[..., Any], leaves: tuple[Any, ...], upstream: Any) -> tuple[Any, ...]:
    import torch

    with torch.enable_grad():
        leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
        loss = function(*leaves)
    if _is_pair(loss):
        if upstream is not None:
            raise DoesNotApply("grad_output")
        return loss[0].detach(), loss[1].detach()
    if not _is_tensor(loss) or not loss.requires_grad:
        raise DoesNotApply("a gradient", gradient=True)
    scale = torch.ones_like(loss) if upstream is None else torch.as_tensor(upstream, dtype=loss.dtype)
    found = torch.autograd.grad(loss, leaves, scale.to(loss.device), allow_unused=True)
    zeros = (torch.zeros_like(leaf) if d is None else d for leaf, d in zip(leaves, found, strict=True))
    return loss.detach(), *zeros


def _by_vjp(function: Callable[..., Any], leaves: tuple[Any, ...], upstream: Any) -> tuple[Any, ...]:
    import jax

    pair: list[Any] = []

    def loss_of(*x: Any) -> Any:
        result = function(*x)
        pair[:] = [result] if _is_pair(result) else []
        return result[0] if _is_pair(result) else result

    loss, pull = jax.vjp(loss_of, *leaves)
    if pair:
        if upstream is not None:
            raise DoesNotApply("grad_output")
        return function(*leaves)
    scale = jax.numpy.ones_like(loss) if upstream is None else jax.numpy.asarray(upstream, loss.dtype)
    return loss, *pull(scale)
