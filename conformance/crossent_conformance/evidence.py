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


class WrongTypeError(AssertionError):
    """The implementation gave something that is not an array of the place's library and device."""


def kind_of(value: Any) -> str:
    """The type of a value, by its whole name; None is None."""
    return "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"


class Unlike(AssertionError):  # noqa: N818 - a finding, not an error of the suite
    """A value that is not the one of another call to which it is the answer as well."""

    def __init__(self, message: str, *, expected: float, given: float) -> None:
        """What the other call gave, and this one."""
        super().__init__(message)
        self.expected = expected
        self.given = given


class NotRefusedError(AssertionError):
    """The implementation took what the contract refuses."""


class Disagreement(Unlike):
    """A value that is further from the exact one than the contract allows."""

    def __init__(self, message: str, *, what: str, index: tuple[int, ...], error: float, **values: float) -> None:
        """`error` counts what is allowed: 1 is the limit. The input is that of the last call."""
        super().__init__(message, **values)
        self.what, self.index, self.error = what, index, error
        self.call = last_call()


class HungError(AssertionError):
    """Processes that were asked together did not answer in time."""


_last: Call | None = None


def record_call(logits: Any, targets: Any, options: dict[str, Any] | None = None) -> None:
    """Say what the implementation is called with. A test that calls it by itself says so by itself."""
    global _last  # noqa: PLW0603 - one test runs at a time
    _last = Call(np.asarray(logits), np.asarray(() if targets is None else targets), dict(options or {}))


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
