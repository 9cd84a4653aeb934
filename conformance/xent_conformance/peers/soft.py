"""Which targets are probabilities, for peers that take class numbers alone."""

from __future__ import annotations

from typing import Any

from xent_conformance.subject import DoesNotApply


def is_soft(logits: Any, targets: Any) -> bool:
    """Whether they are floating and of the shape of the logits; what is no array is left to the peer to refuse."""
    shape = getattr(targets, "shape", None)
    return shape is not None and shape == getattr(logits, "shape", ()) and "float" in str(targets.dtype)


def refuse_soft(logits: Any, targets: Any) -> None:
    """Say that soft targets do not apply."""
    if is_soft(logits, targets):
        raise DoesNotApply("soft targets")
