"""The language model and its optimiser, array API only: what is known of the next token from it and the few before it.

    token ids (batch, seq) -> embedding -> causal window -> linear -> tanh -> hidden states (batch, seq, hidden)

The output layer's weight (V, hidden) and bias (V,) are the model's last parameters; what makes a loss of them and the
hidden states, with logits or without, is `output`.

Initial parameters are drawn by NumPy and then converted, so that every library starts from the same numbers. tanh is
smooth, so that rounding cannot switch a unit on in one library only. The in-place operators save NumPy, CuPy and torch
a copy; where arrays are immutable Python rebinds the name instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from crossent.types import Array, Namespace


class LanguageModel:
    """`forward` keeps what `backward` needs, which takes the gradients that the loss hands over."""

    def __init__(
        self, xp: Namespace, V: int, window: int, embedding: int, hidden: int, seed: int, to_array: Callable[[Any], Any]
    ) -> None:
        """Draw the parameters from `seed`; `to_array` converts a NumPy array to one of the library's own."""
        self.xp = xp
        self.window = window
        normal = np.random.default_rng(seed).standard_normal
        seen = window * embedding
        drawn = (
            normal((V, embedding)),
            seen**-0.5 * normal((seen, hidden)),
            np.zeros(hidden),
            # Small, so that at first every token is about as likely as any other: the loss starts at log V.
            0.1 * hidden**-0.5 * normal((hidden, V)).T,
            np.zeros(V),
        )
        self.parameters: list[Array] = [to_array(values.astype(np.float32, order="C")) for values in drawn]

    @property
    def output(self) -> list[Array]:
        """Weight (V, hidden) and bias (V,) of the output layer."""
        return self.parameters[3:]

    def forward(self, token_ids: Array) -> Array:
        """Hidden states `(batch, seq, hidden)` for token ids `(batch, seq)`."""
        xp, (table, weight, bias) = self.xp, self.parameters[:3]
        batch, seq = token_ids.shape
        self._token_ids = xp.reshape(token_ids, (-1,))
        rows = xp.reshape(xp.take(table, self._token_ids, axis=0), (batch, seq, -1))
        # Each position sees itself and those before it side by side, and nothing later, which makes the model causal;
        # before the first token there are zeros.
        last = self.window - 1
        padded = xp.concat([self._zeros(rows, last), rows], axis=1)
        seen = xp.concat([padded[:, last - back : last - back + seq, :] for back in range(self.window)], axis=-1)
        # All rows at once: a stack of small products is slower in every library.
        self._seen = xp.reshape(seen, (batch * seq, -1))
        hidden = self._seen @ weight
        hidden += bias
        self._hidden = xp.tanh(hidden)
        return xp.reshape(self._hidden, (batch, seq, -1))

    def backward(self, d_hidden: Array, d_weight_out: Array, d_bias_out: Array) -> list[Array]:
        """The gradient of every parameter, from those of the hidden states and of the output layer.

        `d_hidden` is shorter than the hidden states by the last position, which has no next token, hence no gradient.
        """
        xp, (table, weight) = self.xp, self.parameters[:2]
        batch, before_last, _ = d_hidden.shape
        (V, width), seq = table.shape, before_last + 1
        d_hidden = xp.reshape(xp.concat([d_hidden, self._zeros(d_hidden, 1)], axis=1), self._hidden.shape)
        d_hidden = d_hidden * (1.0 - self._hidden * self._hidden)
        d_seen = xp.reshape(d_hidden @ weight.T, (batch, seq, -1))
        # Each part of a window goes back to the position that it was read from.
        d_table_rows = d_seen[:, :, :width]
        for back in range(1, self.window):
            skipped = min(back, seq)
            came_from = d_seen[:, skipped:, back * width : (back + 1) * width]
            d_table_rows = d_table_rows + xp.concat([came_from, self._zeros(came_from, skipped)], axis=1)
        # The standard has no scatter-add. A product with the one-hot matrix is one, and adds in the same order
        # everywhere, at a small fraction of the cost of the output layer.
        classes = xp.arange(V, dtype=self._token_ids.dtype, device=self._token_ids.device)
        one_hot = xp.astype(classes[:, None] == self._token_ids[None, :], d_hidden.dtype)
        return [
            one_hot @ xp.reshape(d_table_rows, (-1, width)),
            self._seen.T @ d_hidden,
            xp.sum(d_hidden, axis=0),
            d_weight_out,
            d_bias_out,
        ]

    def _zeros(self, like: Array, positions: int) -> Array:
        shape = (like.shape[0], positions, like.shape[2])
        return self.xp.zeros(shape, dtype=like.dtype, device=like.device)


def cosine(step: int, steps: int) -> float:
    """The share of the learning rate at a step: from 1 down to 0 along half a cosine."""
    return 0.5 + 0.5 * math.cos(math.pi * step / steps)


class Adam:
    """Kingma and Ba's Adam (2015), with bias correction.

    It learns this model several times faster than gradient descent with momentum, and although it divides by the size
    of a gradient, the loss curves of the backends stay equal to float32 rounding over the whole run.
    """

    def __init__(
        self, xp: Namespace, parameters: list[Array], betas: tuple[float, float] = (0.9, 0.98), epsilon: float = 1e-8
    ) -> None:
        """Take the parameters to change; their averages start at zero."""
        self.xp = xp
        self.parameters = parameters
        self.betas = betas
        self.epsilon = epsilon
        self.steps = 0
        self._averages = [(xp.zeros_like(value), xp.zeros_like(value)) for value in parameters]

    def step(self, gradients: list[Array], learning_rate: float) -> None:
        """Move every parameter against its gradient."""
        self.steps += 1
        keep_mean, keep_square = self.betas
        rate = learning_rate / (1.0 - keep_mean**self.steps)
        correction = 1.0 / (1.0 - keep_square**self.steps)
        for index, gradient in enumerate(gradients):
            mean, square = self._averages[index]
            mean *= keep_mean
            mean += (1.0 - keep_mean) * gradient
            square *= keep_square
            square += (1.0 - keep_square) * (gradient * gradient)
            self._averages[index] = mean, square
            size = self.xp.sqrt(square * correction)
            size += self.epsilon
            self.parameters[index] -= rate * mean / size
