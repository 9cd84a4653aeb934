"""ndonnx: arrays that have values, or stand for what an ONNX model will be given. Those with values are served."""

from __future__ import annotations

import ndonnx

from crossent.libraries.base import AsGraph, InRuns
from crossent.types import Array


class Ndonnx(AsGraph):
    """ndonnx's arrays."""

    def refusal(self, x: Array) -> tuple[str, str] | None:
        """Targets could not be looked at."""
        try:
            x.unwrap_numpy()
        except ValueError:
            return "an ndonnx array that has no values yet", "with values"
        return None

    def device_name(self, x: Array) -> str | None:
        """There is one."""
        return None


LIBRARY = Ndonnx(InRuns(ndonnx))
