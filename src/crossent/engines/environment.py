"""What the environment says, which every call asks anew."""

from __future__ import annotations

import os
from typing import Final

ENGINE: Final = "CROSSENT_ENGINE"
NUM_THREADS: Final = "CROSSENT_NUM_THREADS"
_KEYS: Final = {name: os.environ.encodekey(name) for name in (ENGINE, NUM_THREADS)}


def setting(name: str) -> str | None:
    """What stands under that name; None where nothing does.

    Python's mapping finds that out by an error, which would be a tenth of a small call; what it holds says it at once.
    """
    there = getattr(os.environ, "_data", None)
    return None if there is not None and _KEYS[name] not in there else os.environ.get(name)
