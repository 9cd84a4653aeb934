"""`xent` as a subject of the suite, with the CUDA engine on the emulator: torch's CPU tensors are a device's."""

from __future__ import annotations

import pytest
from tests import emulator

from xent_conformance.subjects_xent import Xent


class Emulated(Xent):
    """The public functions of `xent`, served by the CUDA engine wherever it can."""

    name = "xent on the emulator"
    backends = ("torch",)


def __getattr__(name):
    # Not when this file is imported, which pytest does to look for examples in it.
    if name != "subject":
        raise AttributeError(name)
    emulator.install(pytest.MonkeyPatch())
    return Emulated()
