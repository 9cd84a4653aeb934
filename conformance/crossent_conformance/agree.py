"""The commonest assertions of the suite: the subject's loss and gradient are the oracle's.

    loss, d_logits = agree.with_oracle(place, subject, logits, targets, **options)     calls and checks both
    loss, d_logits = agree.both(place, subject, logits, targets, **options)            calls, checks nothing
    agree.loss(place, loss, exact), agree.gradient(place, d_logits, exact)             check one
    agree.alike(place, given, expected)                                                two right answers to one question
    agree.measured_with_oracle(place, subject, "entropy", logits, **options)           the same of another measure
    agree.both_alike(place, given, expected, rows)                                     the same of losses and gradients
    agree.all_alike(place, given, expected)                                            the same of any results
    agree.equal(given, expected)                                                       two equal answers
    agree.each(requests, check)                                                        checks those that apply
    agree.serves_soft(place, subject)                                                  or the test does not apply
    error = agree.refusal(call, IndexError)                                            the call is refused, and so

A subject without a gradient has its loss checked all the same; its gradient is `NO_GRADIENT`, and a test that looks at
it does not apply. In half precision, values need only be right in that precision unless they are asked to be `precise`:
that a loss has the digits of float32 is a question of V1, A1 and R4, and one that half of the world answers with no.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crossent_conformance import evidence, linear, oracle, oracle_linear, oracle_tokens, units
from crossent_conformance.adapter import UnderTest
from crossent_conformance.backends import HALF
from crossent_conformance.evidence import Disagreement, NotRefusedError, Unlike
from crossent_conformance.implementation import DoesNotApply
from crossent_conformance.places import OF_A_HEAD, Place

OF_THE_GRADIENT = ("grad_output", "out", "needs")
"""Options that the loss alone does not have."""


def _missing(*_args: Any, **_kwargs: Any) -> Any:
    raise DoesNotApply("a gradient", gradient=True)


class NoGradient:
    """What stands where a gradient would: to look at it is to ask what does not apply."""

    __slots__ = ()
    __array__ = __array_ufunc__ = __array_function__ = __getitem__ = __iter__ = __len__ = __bool__ = _missing
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __neg__ = __abs__ = _missing
    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        """No attribute of an array; those that Python and pytest look for are not asked by a test."""
        if name.startswith(("_", "pytest")):
            raise AttributeError(name)
        return _missing()


NO_GRADIENT: Any = NoGradient()


def both(place: Place, subject: UnderTest, logits: np.ndarray, targets: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """Loss and gradient as NumPy arrays; the loss and NO_GRADIENT where the subject has no gradient at all."""
    loss, d_logits = _evaluated(place, subject.loss_and_grad, subject.loss, (logits, targets), options)
    return loss, d_logits


def _evaluated(place: Place, pair: Any, alone: Any, arrays: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """What `pair` gives; the value of `alone` and NO_GRADIENT where there is no gradient at all."""
    try:
        return place.evaluate(pair, *arrays, **options)
    except DoesNotApply as missing:
        if not missing.gradient:
            raise
    forward = {name: value for name, value in options.items() if name not in OF_THE_GRADIENT}
    return place.evaluate(alone, *arrays, **forward), NO_GRADIENT


def _in_its_precision(place: Place, exact: units.Exact, stored: bool) -> units.Exact:
    """What may be expected of arithmetic in the dtype of the logits; `stored`: a rounding to it is allowed already."""
    if place.dtype not in HALF:
        return exact
    eps = units.EPS[place.compute_dtype]
    rounding = 0.0 if stored else units.half_ulp(exact.high, place.dtype) / eps
    some, times = exact.allowed > 0, units.EPS[place.dtype] / eps
    allowed = np.where(some, exact.allowed * times + rounding, 0.0)
    return units.Exact(exact.high, exact.low, allowed, times=times)


def loss(place: Place, given: np.ndarray, exact: units.Exact, *, precise: bool = False) -> None:
    """Assert that the loss is within what the contract allows."""
    exact = exact if precise else _in_its_precision(place, exact, stored=False)
    units.check(given, exact, place.compute_dtype, what="loss")


def gradient(place: Place, given: Any, exact: units.Exact, *, precise: bool = False) -> None:
    """Assert that the gradient, if there is one, is within what the contract allows."""
    if given is not NO_GRADIENT:
        exact = exact if precise else _in_its_precision(place, exact, stored=True)
        units.check(given, exact, place.compute_dtype, stored=place.dtype, what="d_logits")


def with_oracle(
    place: Place, subject: UnderTest, logits: np.ndarray, targets: np.ndarray, *, precise: bool = False, **options: Any
) -> tuple[Any, Any]:
    """Check loss and gradient against the oracle for the values that the place's dtype holds; give both back.

    Weights among the options must be exact in float32, soft targets are rounded with the logits.
    """
    logits = place.round(logits)
    targets = place.round(targets) if targets.dtype.kind == "f" else targets
    given, d_logits = both(place, subject, logits, targets, **options)
    options.pop("check_targets", None)  # no result depends on it
    exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, **options)
    loss(place, given, exact_loss, precise=precise)
    gradient(place, d_logits, exact_gradient, precise=precise)
    return given, d_logits


def linear_with_oracle(
    place: Place, subject: UnderTest, hidden: np.ndarray, targets: np.ndarray, **options: Any
) -> dict[str, np.ndarray]:
    """Check the linear loss and those of its gradients that are needed; give them back by their names."""
    hidden = place.round(hidden)
    targets = place.round(targets) if targets.dtype.kind == "f" else targets
    options |= {name: place.round(options[name]) for name in OF_A_HEAD if name in options}
    options = {"needs": linear.NEEDS, **options}
    parts = _evaluated(place, subject.linear_loss_and_grads, subject.linear_loss, (hidden, targets), options)
    needs = options.pop("needs")
    for name in ("memory", "check_targets"):
        options.pop(name, None)
    exact = oracle_linear.cross_entropy(hidden, targets, **options)
    names = [f"d_{name}" for name in linear.NEEDS if name in needs and (name != "bias" or "bias" in options)]
    found = dict(zip(("loss", *names), (part for part in parts if part is not NO_GRADIENT), strict=False))
    for what, given in found.items():
        stored = None if what == "loss" else place.dtype
        units.check(given, getattr(exact, what), place.compute_dtype, stored=stored, what=what)
    return found


def measured(
    place: Place, subject: UnderTest, name: str, logits: np.ndarray, other: np.ndarray | None = None, **options: Any
) -> tuple[Any, Any]:
    """What rows tell besides their loss, and its gradient; NO_GRADIENT where the subject has none."""
    value, d_logits = _evaluated(
        place, subject.measure(name, gradient=True), subject.measure(name), (logits, other), options
    )
    return value, d_logits


def measured_with_oracle(
    place: Place,
    subject: UnderTest,
    name: str,
    logits: np.ndarray,
    other: np.ndarray | None = None,
    *,
    only: str = "",
    **options: Any,
) -> tuple[Any, Any]:
    """Check the same against the oracle, or the value or the gradient only, and give both back."""
    logits = place.round(logits)
    other = place.round(other) if other is not None and other.dtype.kind == "f" else other
    if only == "value":
        given, d_logits = place.evaluate(subject.measure(name), logits, other, **options), NO_GRADIENT
    else:
        given, d_logits = measured(place, subject, name, logits, other, **options)
    asked = {"dtype": place.compute_dtype, **options} if name == "kl_divergence" else options
    exact, exact_gradient = oracle_tokens.BY_NAME[name](*(x for x in (logits, other) if x is not None), **asked)
    if only != "gradient":
        units.check(given, exact, place.compute_dtype, what=name)
    elif d_logits is NO_GRADIENT:
        raise DoesNotApply("a gradient", gradient=True)
    if d_logits is not NO_GRADIENT:
        rows: Any = ...
        if options.get("reduction") == "none" and options.get("direction") == "reverse":
            rows = exact.high != np.inf  # the others' have no meaning
        units.check(d_logits[rows], exact_gradient[rows], place.compute_dtype, stored=place.dtype, what=f"d_{name}")
    return given, d_logits


def to_begin_with(place: Place, subject: UnderTest, logits: np.ndarray, targets: np.ndarray, **options: Any) -> None:
    """What comes of a result on the way to other derivatives can only be asked where the result itself is right."""
    try:
        with_oracle(place, subject, logits, targets, **options)
    except Disagreement:
        raise DoesNotApply("a right loss and gradient to begin with") from None


_soft_is_served: dict[tuple[UnderTest, Any, str], bool] = {}


def serves_soft(place: Place, subject: UnderTest, soft: bool = True) -> None:
    """What else there is to soft targets can only be asked where they are taken at all, which is V7's question."""
    key = (subject, place.backend, place.dtype)
    if not soft:
        return
    if key not in _soft_is_served:
        with evidence.aside():
            _soft_is_served[key] = _takes_soft(replace(place, mode=place.backend.modes[0]), subject)
    if not _soft_is_served[key]:
        raise DoesNotApply("soft targets")


def _takes_soft(place: Place, subject: UnderTest) -> bool:
    for reduction in ("mean", "sum", "none"):
        try:
            place.evaluate(subject.loss, np.zeros((2, 3)), np.full((2, 3), 0.25), reduction=reduction)
        except DoesNotApply:  # that reduction, perhaps
            continue
        except Exception:
            return False
        return True
    return False


def alike(place: Place, given: Any, expected: Any, *, what: str = "values", rows: Any = ...) -> None:
    """Assert that two arrays may both be right answers to one question: a few roundings apart, where not equal.

    The call that gave `expected` comes before the one that is on trial: a report shows the last. `rows` are those that
    are compared, along the first axis. Both are NumPy arrays, or the backend's.
    """
    a, b = (
        np.asarray(place.to_numpy(array) if place.backend.owns(array) else array, dtype=np.float64)[rows]
        for array in (given, expected)
    )
    eps = units.EPS[place.dtype]
    largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    tolerance: dict[str, Any] = {"rtol": 16 * eps, "atol": 16 * eps * largest, "equal_nan": True}
    found = None if rows is ... else np.arange(len(given))[rows]
    _check(a, b, lambda: ~np.isclose(a, b, **tolerance), what, found)


def both_alike(place: Place, given: Iterable[Any], expected: Iterable[Any], rows: Any = ...) -> None:
    """Assert that losses and gradients may both be right answers, where there is a gradient."""
    for what, one, other in zip(("loss", "d_logits"), given, expected, strict=True):
        if one is not NO_GRADIENT:
            alike(place, one, other, what=what, rows=rows)


def all_alike(place: Place, given: Iterable[Any], expected: Iterable[Any]) -> None:
    """Assert the same of several results."""
    for one, other in zip(given, expected, strict=True):
        alike(place, one, other)


def is_zero(values: np.ndarray) -> Any:
    return values == 0


def is_at_least_zero(values: np.ndarray) -> Any:
    return values >= 0


def is_at_most_zero(values: np.ndarray) -> Any:
    return values <= 0


ACCEPTED: dict[Any, str] = {
    is_zero: "0",
    is_at_least_zero: "at least 0",
    is_at_most_zero: "at most 0",
    np.isfinite: "a finite number",
    np.isnan: "NaN",
    np.isposinf: "+inf",
}
"""Conditions of `every`, in words."""


def every(
    condition: Callable[[np.ndarray], Any], results: Iterable[Any], rows: Any = ..., what: Sequence[str] = ()
) -> None:
    """Assert what holds of every loss and every entry of the gradient, if there is one; in the rows, along axis 0."""
    results = list(results)
    names = what or (("loss", "d_logits") if len(results) == 2 else [f"result {i}" for i in range(len(results))])
    for name, part in zip(names, results, strict=True):
        if part is not NO_GRADIENT:
            kept = np.zeros(np.shape(part), dtype=bool)
            kept[rows] = True
            within(part, ~kept | condition(np.asarray(part)), ACCEPTED[condition], what=name)


def within(values: Any, holds: Any, accepted: str, *, what: str) -> None:
    """Assert that a condition holds of every entry, and name the one that is furthest from 0 of those where it does
    not; `accepted` says the condition in words."""
    values, holds = np.asarray(values), np.asarray(holds)
    if holds.all():
        return
    size = np.abs(values.astype(np.float64))
    worst = np.where(holds, -1.0, np.where(np.isnan(size), np.inf, size))
    index = tuple(map(int, np.unravel_index(int(worst.argmax()), worst.shape)))
    given = float(values[index])
    raise Unlike(
        f"{what}{list(index) if index else ''} is {given:.6g}; accepted: {accepted}"
        + (f" ({int((~holds).sum())} of {holds.size} are not)" if holds.size > 1 else ""),
        expected=0.0,
        given=given,
        index=index,
        whole=evidence.Compared(values, values, ~holds),
    )


def same(given: Any, expected: Any, what: str) -> None:
    """Assert that something that is no array of results, a dtype or a shape, is the expected one."""
    if given != expected:
        raise AssertionError(f"{what}: {given}; accepted: {expected}")


def near(
    given: Any, expected: Any, *, what: str, rtol: float = 0.0, atol: float = 0.0, by: str = "the other call gave"
) -> None:
    """Assert that values are the expected ones, but for so much; `by` says where these are from."""
    a, b = np.asarray(given), np.asarray(expected)
    apart = lambda: ~np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=a.dtype.kind in "fc")  # noqa: E731
    _check(a, b, apart, what, None, by)


def unchanged(now: Any, before: Any, what: str) -> None:
    """Assert that memory is what it was before the call."""
    a, b = np.asarray(now), np.asarray(before)
    changed = (a != b) & ~(np.isnan(a) & np.isnan(b))
    assert not changed.any(), (
        f"the call wrote into {what}: {int(changed.sum())} of {changed.size} values are others now"
    )


def equal(given: Any, expected: Any, *, what: str = "values", bits: bool = False) -> None:
    """Assert that two arrays are equal: in their values, NaN being NaN; or in every bit."""
    a, b = np.asarray(given), np.asarray(expected)
    _check(a, b, lambda: _bits(a) != _bits(b) if bits else (a != b) & ~(np.isnan(a) & np.isnan(b)), what, None)


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


def _check(
    given: np.ndarray,
    expected: np.ndarray,
    apart: Callable[[], Any],
    what: str,
    rows: Any,
    by: str = "the other call gave",
) -> None:
    """Name the entry that is furthest apart; `rows` are the places of the first axis in what was compared."""
    if given.shape != expected.shape:
        raise AssertionError(f"{what}: shape {given.shape}, where {by} {expected.shape}")
    with np.errstate(invalid="ignore", over="ignore"):
        differs = np.asarray(apart())
        distance = np.abs(given.astype(np.float64) - expected.astype(np.float64))
    if not differs.any():
        return
    distance = np.where(differs, np.where(np.isfinite(distance), distance, np.inf), -1.0)
    where = np.unravel_index(int(distance.argmax()), distance.shape)
    index = tuple(map(int, where)) if rows is None else (int(rows[where[0]]), *map(int, where[1:]))
    one, other = float(given[where]), float(expected[where])
    raise Unlike(
        f"{what}: {int(differs.sum())} of {differs.size} are not what {by}, at {index}: "
        f"expected {other!r}, given {one!r}",
        expected=other,
        given=one,
        index=index,
        scale=float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0)),
        whole=evidence.Compared(given, expected, differs) if rows is None else None,
    )


def each(requests: Iterable[dict[str, Any]], check: Callable[[dict[str, Any]], Any]) -> None:
    """Check every request that applies to the subject; where none does, neither does the test."""
    missing, asked = None, False
    for request in requests:
        try:
            check(request)
        except DoesNotApply as lack:
            missing = missing or lack
        else:
            asked = True
    if missing is not None and not asked:
        raise missing


def refusal(call: Callable[[], Any], *kinds: type[Exception]) -> Exception:
    """The error by which the call is refused; it is one of the kinds."""
    accepted = " or ".join("an error" if kind is Exception else kind.__name__ for kind in kinds)
    try:
        call()
    except DoesNotApply:
        raise
    except Exception as error:
        if isinstance(error, kinds):
            return error
        raise AssertionError(f"{type(error).__name__}, where the contract has {accepted}: {error}") from error
    raise NotRefusedError(f"accepted, where the contract has {accepted}")
