"""The layers of the language model: each a class with its own `forward` and `backward`, array API only.

`forward` keeps what `backward` needs; `backward` takes the gradient with respect to the layer's output, stores its
parameters' gradients in `Parameter.gradient` and returns the gradient with respect to the layer's input. No layer
knows which library its arrays come from: it asks the namespace `xp` that it was given.
"""

from typing import Any

Array = Any
Namespace = Any


class Parameter:
    """An array that training changes, with the gradient that the last backward pass left for it."""

    def __init__(self, value: Array) -> None:
        """Hold the initial value; the optimiser replaces or updates it."""
        self.value = value
        self.gradient: Array = None


class Embedding:
    """A row of the table for every token: ids `(batch, seq)` to `(batch, seq, width)`."""

    def __init__(self, xp: Namespace, table: Array) -> None:
        """Take the table, shape `(V, width)`."""
        self.xp = xp
        self.table = Parameter(table)

    def forward(self, token_ids: Array) -> Array:
        """Look the rows up."""
        self._token_ids = self.xp.reshape(token_ids, (-1,))
        rows = self.xp.take(self.table.value, self._token_ids, axis=0)
        return self.xp.reshape(rows, (*token_ids.shape, -1))

    def backward(self, d_rows: Array) -> None:
        """Add each token's gradient to its row; ids have no gradient, so nothing is returned.

        The standard has no scatter-add. A product with the one-hot matrix is one, and adds in the same order
        everywhere, at a small fraction of the cost of the output layer.
        """
        xp = self.xp
        V, width = self.table.value.shape
        classes = xp.arange(V, dtype=self._token_ids.dtype, device=self._token_ids.device)
        one_hot = xp.astype(classes[:, None] == self._token_ids[None, :], d_rows.dtype)
        self.table.gradient = one_hot @ xp.reshape(d_rows, (-1, width))

    def parameters(self) -> list[Parameter]:
        """What training changes."""
        return [self.table]


class CausalWindow:
    """Each position sees itself and the `size - 1` before it, side by side: `(batch, seq, width)` to `(…, size·width)`.

    Before the first token there are zeros. Position t reads nothing later than t, which makes the model causal.
    """

    def __init__(self, xp: Namespace, size: int) -> None:
        """Take the number of positions seen."""
        self.xp = xp
        self.size = size

    def forward(self, inputs: Array) -> Array:
        """Lay the shifted inputs side by side, the current position first."""
        xp = self.xp
        batch, seq, width = inputs.shape
        before = xp.zeros((batch, self.size - 1, width), dtype=inputs.dtype, device=inputs.device)
        padded = xp.concat([before, inputs], axis=1)
        views = [padded[:, self.size - 1 - back : self.size - 1 - back + seq, :] for back in range(self.size)]
        return xp.concat(views, axis=-1)

    def backward(self, d_outputs: Array) -> Array:
        """Send each shifted gradient back to the position it was read from."""
        xp = self.xp
        batch, seq, wide = d_outputs.shape
        width = wide // self.size
        d_inputs = d_outputs[:, :, :width]
        for back in range(1, self.size):
            skipped = min(back, seq)
            came_from = d_outputs[:, skipped:, back * width : (back + 1) * width]
            nothing = xp.zeros((batch, skipped, width), dtype=d_outputs.dtype, device=d_outputs.device)
            d_inputs = d_inputs + xp.concat([came_from, nothing], axis=1)
        return d_inputs

    def parameters(self) -> list[Parameter]:
        """Nothing to train."""
        return []


class Linear:
    """`inputs @ weight + bias` over the last axis."""

    def __init__(self, xp: Namespace, weight: Array, bias: Array) -> None:
        """Take the weight, shape `(width_in, width_out)`, and the bias, shape `(width_out,)`."""
        self.xp = xp
        self.weight = Parameter(weight)
        self.bias = Parameter(bias)

    def forward(self, inputs: Array) -> Array:
        """Multiply all rows at once: a stack of small products is slower in every library."""
        self._rows = self.xp.reshape(inputs, (-1, inputs.shape[-1]))
        outputs = self._rows @ self.weight.value
        outputs += self.bias.value
        return self.xp.reshape(outputs, (*inputs.shape[:-1], -1))

    def backward(self, d_outputs: Array) -> Array:
        """Gradients of weight, bias and inputs."""
        xp = self.xp
        d_rows = xp.reshape(d_outputs, (-1, d_outputs.shape[-1]))
        self.weight.gradient = self._rows.T @ d_rows
        self.bias.gradient = xp.sum(d_rows, axis=0)
        return xp.reshape(d_rows @ self.weight.value.T, (*d_outputs.shape[:-1], -1))

    def parameters(self) -> list[Parameter]:
        """What training changes."""
        return [self.weight, self.bias]


class Tanh:
    """The hidden layers' nonlinearity: smooth, so that rounding cannot switch a unit on in one library only."""

    def __init__(self, xp: Namespace) -> None:
        """Take the namespace."""
        self.xp = xp

    def forward(self, inputs: Array) -> Array:
        """Squash every entry."""
        self._outputs = self.xp.tanh(inputs)
        return self._outputs

    def backward(self, d_outputs: Array) -> Array:
        """tanh' = 1 − tanh²."""
        return d_outputs * (1.0 - self._outputs * self._outputs)

    def parameters(self) -> list[Parameter]:
        """Nothing to train."""
        return []
