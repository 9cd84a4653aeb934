"""The language model: for every position, logits for the token that follows, from that token and the few before it.

    token ids (batch, seq) -> Embedding -> CausalWindow -> Linear -> Tanh -> Linear -> logits (batch, seq, V)

Initial parameters are drawn by NumPy and then converted, so that every library starts from the same numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent.train.layers import Array, CausalWindow, Embedding, Linear, Namespace, Parameter, Tanh


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    V: int
    window: int = 6
    embedding: int = 64
    hidden: int = 256


class LanguageModel:
    """A chain of layers; `backward` takes the gradient that the loss hands over."""

    def __init__(self, xp: Namespace, shape: Shape, seed: int, to_array: Callable[[Any], Array]) -> None:
        """Draw the parameters from `seed`; `to_array` converts a NumPy array to one of the library's own."""
        self.xp = xp
        rng = np.random.default_rng(seed)

        def draw(*size: int, scale: float) -> Array:
            return to_array((scale * rng.standard_normal(size)).astype(np.float32))

        def zeros(size: int) -> Array:
            return to_array(np.zeros(size, dtype=np.float32))

        seen = shape.window * shape.embedding
        self.layers: list[Any] = [
            Embedding(xp, draw(shape.V, shape.embedding, scale=1.0)),
            CausalWindow(xp, shape.window),
            Linear(xp, draw(seen, shape.hidden, scale=seen**-0.5), zeros(shape.hidden)),
            Tanh(xp),
            # Small, so that at first every token is about as likely as any other: the loss starts at log V.
            Linear(xp, draw(shape.hidden, shape.V, scale=0.1 * shape.hidden**-0.5), zeros(shape.V)),
        ]

    def forward(self, token_ids: Array) -> Array:
        """Logits `(batch, seq, V)` for token ids `(batch, seq)`."""
        outputs = token_ids
        for layer in self.layers:
            outputs = layer.forward(outputs)
        return outputs

    def backward(self, d_logits: Array) -> None:
        """Leave every parameter's gradient in place.

        `d_logits` is shorter than the logits by the last position, which has no next token, hence no gradient.
        """
        xp = self.xp
        batch, _, V = d_logits.shape
        last = xp.zeros((batch, 1, V), dtype=d_logits.dtype, device=d_logits.device)
        d_outputs = xp.concat([d_logits, last], axis=1)
        for layer in reversed(self.layers):
            d_outputs = layer.backward(d_outputs)

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of the layers."""
        return [parameter for layer in self.layers for parameter in layer.parameters()]
