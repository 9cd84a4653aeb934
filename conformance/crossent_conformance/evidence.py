"""What a failure has to show: the call that was made last, and where its result is not what it should be.

`Place.call` records every call, so that a test that fails by a plain assertion still has its input. `units.check`
raises `Disagreement`, which carries the input, the entry that is off by most, and what it should be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Call:
    """One call of the implementation, in NumPy arrays."""

    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = ""
    """That of the logits, which are in float64 here."""


class WrongTypeError(AssertionError):
    """The implementation gave something that is not an array of the place's library and device."""


def kind_of(value: Any) -> str:
    """The type of a value, by its whole name; None is None."""
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"


@dataclass(frozen=True)
class Compared:
    """A whole result beside the exact one, and where they are further apart than is allowed."""

    given: np.ndarray
    exact: np.ndarray
    off: np.ndarray


class Unlike(AssertionError):  # noqa: N818 - a finding, not an error of the suite
    """A value that is not what it should be: that of another call, or within bounds."""

    def __init__(
        self,
        message: str,
        *,
        expected: float,
        given: float,
        scale: float = 1.0,
        index: tuple[int, ...] = (),
        whole: Compared | None = None,
    ) -> None:
        """What should have come, and what came; `scale` is the size of a value that is not small."""
        super().__init__(message)
        self.expected = expected
        self.given = given
        self.scale = scale
        self.index = index
        self.whole = whole


class NotRefusedError(AssertionError):
    """The implementation took what the contract refuses."""


class Disagreement(Unlike):
    """A value that is further from the exact one than the contract allows."""

    whole: Compared

    def __init__(
        self, message: str, *, what: str, index: tuple[int, ...], error: float, relative: float, whole: Compared
    ) -> None:
        """`error` counts what is allowed: 1 is the limit; `relative` is to the size of what the value is made of."""
        expected, given = float(whole.exact[index]), float(whole.given[index])
        super().__init__(message, expected=expected, given=given, index=index, whole=whole)
        self.what, self.error, self.relative = what, error, relative
        self.call = last_call()
        self.suspects: list[Any] | None = None
        """The known wrong formulas that explain it, once they have been looked for."""


class HungError(AssertionError):
    """A process that was asked, or several together, did not answer in time."""


_last: Call | None = None


def record_call(logits: Any, targets: Any, options: dict[str, Any] | None = None, dtype: str = "") -> None:
    """Say what the implementation is called with. A test that calls it by itself says so by itself."""
    global _last  # noqa: PLW0603 - one test runs at a time
    _last = Call(np.asarray(logits), np.asarray(() if targets is None else targets), dict(options or {}), dtype)


def last_call() -> Call | None:
    """The call that was recorded last, since `forget`."""
    return _last


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Calls within are not what the test is about: the last one stays the last before them."""
    global _last  # noqa: PLW0603
    before = _last
    try:
        yield
    finally:
        _last = before


def forget() -> None:
    """A new test begins."""
    global _last  # noqa: PLW0603
    _last = None
