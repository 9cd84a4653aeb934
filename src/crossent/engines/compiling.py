"""What the engines that compile have in common: nothing is compiled twice, and a wait for the compiler is logged.

A process that forks waits for what another of its threads compiles or imports: the locks of a compiler that only its
parent's thread could open would stop the child for ever.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final, Generic, TypeVar

LOGGER: Final = logging.getLogger("crossent")
Made = TypeVar("Made")
making: Final = threading.RLock()
"""Held by the thread that compiles, or imports a compiler."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=making.acquire, after_in_parent=making.release, after_in_child=making.release)


class Once(Generic[Made]):
    """A function whose every result is made once: one thread makes it, the others wait. What raises is tried again."""

    def __init__(self, make: Callable[..., Made]) -> None:
        """Decorate `make`."""
        functools.update_wrapper(self, make)
        self._make = make
        self._made: dict[tuple[Hashable, ...], Made] = {}

    def __call__(self, *given: Any) -> Made:
        """The result for those arguments."""
        found = self._made.get(given)
        if found is None:
            with making:
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
