"""How an implementation is asked for its linear loss: by its signature, as for its loss, and by autograd for gradients.

An adapter's `linear` and `linear_and_grad` take hidden states, weight and targets. Tests hand over hidden states and
targets as they do logits and targets, and the weight among the options.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from crossent_conformance.evidence import WrongTypeError
from crossent_conformance.implementation import Adapter, DoesNotApply

if TYPE_CHECKING:
    from crossent_conformance.adapter import UnderTest

NEEDS = ("hidden", "weight", "bias")
LACK = "a linear loss"
MOST_CLASSES = 4096
"""The identity has as many columns as rows."""


def loss(under: UnderTest, hidden: Any, targets: Any, options: dict[str, Any]) -> Any:
    """The loss."""
    return _asked(under, under.linear, hidden, targets, options)


def loss_and_grads(under: UnderTest, hidden: Any, targets: Any, options: dict[str, Any]) -> tuple[Any, ...]:
    """The loss and the gradients that are needed; that of a bias where there is one."""
    function = found(under, "linear_and_grad")
    if function is None:
        return _by_autograd(under, hidden, targets, dict(options))
    value, gradients = _asked(under, function, hidden, targets, options)
    given = [name for name, gradient in zip(NEEDS, gradients, strict=True) if gradient is not None]
    if given != (wanted := _wanted(options)):
        raise WrongTypeError(f"gradients of {', '.join(given) or 'nothing'} came back; asked for {', '.join(wanted)}")
    return value, *(gradient for gradient in gradients if gradient is not None)


def _wanted(options: dict[str, Any]) -> list[str]:
    """The gradients that are asked for; that of a bias where there is one."""
    needs = options.get("needs", NEEDS)
    return [name for name in NEEDS if name in needs and (name != "bias" or options.get("bias") is not None)]


def _by_autograd(under: UnderTest, hidden: Any, targets: Any, options: dict[str, Any]) -> tuple[Any, ...]:
    from crossent_conformance.adapter import differentiated, has_autograd, loss_or_pair

    if not has_autograd(hidden) or not under.traits.gradient:
        raise DoesNotApply("a gradient: there is no autograd for these arrays", gradient=True)
    for name in ("out", *(() if under.helps else ("grad_output", "needs"))):
        if name in options:
            raise DoesNotApply(f"{name}: its gradients are autograd's")
    wanted = _wanted(options)
    upstream = options.pop("grad_output", None)
    options.pop("needs", None)
    if not wanted:
        return (loss(under, hidden, targets, options),)
    leaves = {"hidden": hidden, "weight": options.pop("weight"), "bias": options.pop("bias", None)}

    def of(*arrays: Any) -> Any:
        given = {**leaves, **dict(zip(wanted, arrays, strict=True))}
        return loss_or_pair(_asked(under, under.linear, given.pop("hidden"), targets, {**options, **given}))

    return differentiated(of, tuple(leaves[name] for name in wanted), upstream)


def found(under: UnderTest, name: str) -> Any:
    """The implementation's function of that name, None where it has none."""
    try:
        return getattr(under, name)
    except DoesNotApply:
        return None


def _asked(under: UnderTest, function: Any, hidden: Any, targets: Any, options: dict[str, Any]) -> Any:
    from crossent_conformance.adapter import SOFT, reduction_of

    options = dict(options)
    weight = options.pop("weight")
    lacks = [reduction_of(options.get("reduction", "mean"))]
    if "float" in str(getattr(targets, "dtype", "")):
        lacks.append(SOFT)
    for lack in lacks:
        if lack in under.traits.refuses:
            raise DoesNotApply(lack)
    if under.is_flat and getattr(hidden, "ndim", 2) != 2:
        raise DoesNotApply("hidden states of other shapes than (N, D)")
    passed = under.passed(function, options, arrays=3)
    under.affords(*getattr(hidden, "shape", ())[:-1], *getattr(weight, "shape", ())[:1])
    under.tell(function, hidden, targets, passed)
    return function(hidden, weight, targets, **passed)


class ThroughIdentity(Adapter):
    """A linear loss as a loss of logits, by a product that changes no finite one and spoils the row of others."""

    names: Mapping[str, Any] = {"logits": "hidden"}

    def __init__(self, under: UnderTest, **always: Any) -> None:
        """With these options of the linear loss in every call."""
        self._under, self._always = under, always
        self.name, self.backends, self.dtypes = f"{under.name}, linear", under.backends, under.dtypes
        self.flat = under.is_flat

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        return self._under.linear_loss(logits, targets, weight=identity(logits), **self._always, **options)

    def loss_and_grad(self, logits: Any, targets: Any, out: Any = None, **options: Any) -> tuple[Any, Any]:
        options |= {**self._always, "weight": identity(logits), "needs": ("hidden",)}
        if out is not None:
            options["out"] = (out, None, None)
        value, d_logits = self._under.linear_loss_and_grads(logits, targets, **options)
        return value, d_logits

    def portable(self) -> AbstractContextManager[None]:
        return self._under.portable()


def identity(logits: Any) -> Any:
    """The weight by which a product leaves finite logits what they are."""
    import array_api_compat

    if not hasattr(logits, "shape") or not logits.shape:
        raise DoesNotApply("logits without classes")
    classes = logits.shape[-1]
    if classes > MOST_CLASSES:
        raise DoesNotApply(f"hidden states of more than {MOST_CLASSES} features")
    xp = array_api_compat.array_namespace(logits)
    return xp.eye(classes, dtype=logits.dtype, device=array_api_compat.device(logits))
