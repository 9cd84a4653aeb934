"""How an implementation is asked what rows tell besides their loss: by its signature, and by autograd for gradients.

An adapter's functions have the names below; `implementation` says what they take. One that has no option `reduction`
gives a number for each token, which is all that can be asked of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from crossent_conformance.implementation import DoesNotApply

if TYPE_CHECKING:
    from crossent_conformance.adapter import UnderTest

_LACKS = {
    "token_log_probs": "log-probabilities of tokens",
    "entropy": "an entropy",
    "kl_divergence": "a divergence",
}
LACKS = {
    "token_statistics": "statistics of tokens",
    **_LACKS,
    **{f"{name}_and_grad": lack for name, lack in _LACKS.items()},
}
REDUCED = ("entropy", "kl_divergence")
"""Those that have reductions."""
STATISTICS = ("loss", "log_prob", "log_sum_exp", "entropy", "rank", "most_likely")


@cache
def asking(under: UnderTest, name: str, gradient: bool) -> Callable[..., Any]:
    """A function for each, so that what a compiler makes of it is kept."""
    return partial(_value_and_gradient if gradient else _value, under, name)


def _value(under: UnderTest, name: str, *arrays: Any, **options: Any) -> Any:
    found = _ask(under, name, getattr(under, name), arrays, options)
    return found if name != "token_statistics" else tuple(getattr(found, each) for each in STATISTICS)


def _value_and_gradient(under: UnderTest, name: str, *arrays: Any, **options: Any) -> tuple[Any, ...]:
    from crossent_conformance.adapter import differentiated, has_autograd

    try:
        function = getattr(under, f"{name}_and_grad")
    except DoesNotApply:
        function = None
    if function is not None:
        return _ask(under, name, function, arrays, options)
    if not has_autograd(arrays[0]) or not under.traits.gradient:
        getattr(under, name)  # which may be what is lacking
        raise DoesNotApply("a gradient: there is no autograd for these arrays", gradient=True)
    for option in ("out", *(() if under.helps else ("grad_output",))):
        if option in options:
            raise DoesNotApply(f"{option}: its gradients are autograd's")
    upstream = options.pop("grad_output", None)
    return differentiated(lambda x: _value(under, name, x, *arrays[1:], **options), arrays[:1], upstream)


def _ask(under: UnderTest, name: str, function: Any, arrays: tuple[Any, ...], options: dict[str, Any]) -> Any:
    from crossent_conformance.adapter import parameters

    if under.is_flat and getattr(arrays[0], "ndim", 2) != 2:
        raise DoesNotApply("logits of other shapes than (N, V)")
    names, everything, _ = parameters(function, len(arrays))
    is_reduced = name in REDUCED and (everything or "reduction" in names)
    options = options if name in REDUCED else {"reduction": "none", **options}
    passed = under.passed(function, options, len(arrays), fixed={} if is_reduced else {"reduction": "none"})
    if name not in REDUCED:
        passed.pop("reduction", None)
    under.tell(function, arrays[0], None if len(arrays) == 1 else arrays[1], passed)
    return function(*arrays, **passed)
