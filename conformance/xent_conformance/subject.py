"""How the suite sees an implementation: an object with these five functions, options by the contract's names.

Anybody's cross-entropy can stand here: write an object like this and name it with `--subject module:attribute`. A
function that lacks an option raises NotImplementedError for it, and the tests that need it are skipped with that
message. `backends` (names, or None for all) says whose arrays the subject takes.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

DEFAULT = "xent_conformance.subjects_xent:subject"


class LossObject(Protocol):
    """A loss that remembers its last input."""

    def forward(self, logits: Any, targets: Any, weights: Any = None) -> Any: ...

    def backward(self, grad_output: Any = None) -> Any: ...


class Subject(Protocol):
    """An implementation under test."""

    name: str
    backends: tuple[str, ...] | None

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any: ...

    def loss_and_grad(self, logits: Any, targets: Any, **options: Any) -> tuple[Any, Any]: ...

    def loss_object(self, **options: Any) -> LossObject: ...

    def perplexity(self, loss: Any) -> Any: ...

    def shift(self, logits: Any, token_ids: Any) -> tuple[Any, Any]: ...


def load(path: str) -> Subject:
    """The subject that `module:attribute` names."""
    module, separator, attribute = path.partition(":")
    if not separator:
        raise ValueError(f"--subject takes module:attribute, not {path!r}")
    return getattr(importlib.import_module(module), attribute)
