"""What the engines that compile have in common: nothing is compiled twice, and a wait for the compiler is logged."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Generic, TypeVar

LOGGER: Final = logging.getLogger("crossent")
Made = TypeVar("Made")


class Once(Generic[Made]):
    """A function whose every result is made once: one thread makes it, the others wait. What raises is tried again."""

    def __init__(self, make: Callable[..., Made]) -> None:
        """Decorate `make`."""
        functools.update_wrapper(self, make)
        self._make = make
        self._made: dict[tuple[Hashable, ...], Made] = {}
        self._making = threading.Lock()

    def __call__(self, *given: Any) -> Made:
        """The result for those arguments."""
        found = self._made.get(given)
        if found is None:
            with self._making:
                found = self._made.get(given)
                if found is None:
                    found = self._made[given] = self._make(*given)
        return found

    def forget(self) -> None:
        """Make everything anew."""
        self._made.clear()


@contextlib.contextmanager
def log_if_slow(what: str) -> Iterator[None]:
    """Say what takes so long, if it takes over a second."""
    timer = threading.Timer(1.0, LOGGER.warning, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
