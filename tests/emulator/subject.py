"""`xent` as a subject of the suite, with the CUDA engine at work on the emulator: torch's CPU tensors are a device's."""

from __future__ import annotations

import pytest
from xent_conformance.subjects_xent import Xent

from tests import emulator


class Emulated(Xent):
    """The public functions of `xent`, served by the CUDA engine wherever it can."""

    name = "xent on the emulator"
    backends = ("torch",)


KERNELS = emulator.install(pytest.MonkeyPatch())
subject = Emulated()
