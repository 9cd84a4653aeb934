"""Which targets are probabilities, for peers that take class numbers alone."""

from __future__ import annotations

from typing import Any

from crossent_conformance.adapter import SOFT, is_soft
from crossent_conformance.implementation import DoesNotApply

__all__ = ["is_soft", "refuse_soft"]


def refuse_soft(logits: Any, targets: Any) -> None:
    """Say that soft targets do not apply."""
    if is_soft(logits, targets):
        raise DoesNotApply(SOFT)
