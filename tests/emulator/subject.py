"""`crossent` as a subject of the suite, with the CUDA engine on the emulator: torch's CPU tensors are a device's."""

from __future__ import annotations

import pytest
from tests import emulator

from crossent_conformance.subjects_crossent import Crossent


class Emulated(Crossent):
    """The public functions of `crossent`, served by the CUDA engine wherever it can."""

    name = "crossent on the emulator"
    backends = ("torch",)


def __getattr__(name):
    # Not when this file is imported, which pytest does to look for examples in it.
    if name != "subject":
        raise AttributeError(name)
    emulator.install(pytest.MonkeyPatch())
    return Emulated()
