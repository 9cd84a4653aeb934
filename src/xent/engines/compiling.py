"""What the engines that compile have in common: whoever has to wait for a compiler is told so."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Final

LOGGER: Final = logging.getLogger("xent")


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Say what takes so long, if it takes over a second."""
    timer = threading.Timer(1.0, LOGGER.warning, (what,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
