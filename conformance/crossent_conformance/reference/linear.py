"""The linear loss of the clean implementation: blocks of logits that the rest of it walks, and products in float64.

Tokens that do not count are left out before the first product. Every step is a method, so that a fault can be put in by
overriding one (see `conformance/mutants`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crossent_conformance.reference import checks
from crossent_conformance.reference.implementation import Reference, Tokens
from crossent_conformance.reference.rows import Call

NEEDS = ("hidden", "weight", "bias")
MEMORY = 1 << 24


@dataclass(frozen=True)
class Head:
    """What hidden states are multiplied with: as many rows as there are classes."""

    weight: np.ndarray
    bias: np.ndarray | None
    memory: int


class LinearReference(Reference):
    """The clean implementation, and the loss of hidden states."""

    def linear(self, hidden: Any, weight: Any, targets: Any, **options: Any) -> Any:
        return self.linear_and_grad(hidden, weight, targets, needs=(), **options)[0]

    def linear_and_grad(
        self,
        hidden: Any,
        weight: Any,
        targets: Any,
        out: Any = None,
        grad_output: Any = None,
        *,
        bias: Any = None,
        classes: Any = None,
        memory: Any = None,
        needs: Any = NEEDS,
        **options: Any,
    ) -> tuple[Any, tuple[Any, ...]]:
        checks.linear(hidden, weight, bias, classes, memory, needs)
        V = len(weight) if classes is None else classes
        # The checks are those of logits that nothing has made.
        logits = np.broadcast_to(np.zeros((), self.compute_dtype(hidden)), (*hidden.shape[:-1], V))
        call = Call(logits, targets, **options)
        self.validate(call)
        checks.gradient(grad_output, self.shape(call))
        checks.outputs(out, (hidden, weight, bias))
        head = Head(weight[:V], None if bias is None else bias[:V], MEMORY if memory is None else memory)
        with np.errstate(all="ignore"):
            call = self.near_one(call)
            tokens = self.tokens(call)
            divisor = self.divisor(call, tokens)
            scale = self.scale(call, grad_output, divisor)
            losses, sums = self.walk_blocks(call, tokens, hidden, head, scale)
            loss = self.reduce(call, losses, divisor)
        likes = (hidden, weight, bias)
        made = [None if x is None or name not in needs else d for name, x, d in zip(NEEDS, likes, sums, strict=True)]
        return loss, tuple(self.rounded(made, likes, out or (None,) * 3))

    def compute_dtype(self, hidden: np.ndarray) -> str:
        return "float32" if hidden.dtype.itemsize < 4 else hidden.dtype.name

    def walk_blocks(
        self, call: Call, tokens: Tokens, hidden: np.ndarray, head: Head, scale: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The losses of the tokens and the sums that are the gradients."""
        count, width = math.prod(call.tokens), hidden.shape[-1]
        h = hidden.reshape(count, width)
        flat = Tokens(*(np.reshape(part, -1) for part in vars(tokens).values()))
        targets = call.targets.reshape(-1) if call.hard else call.targets.reshape(count, call.V)
        losses, d_hidden = np.zeros(count), np.zeros((count, width))
        d_weight, d_bias = np.zeros((call.V, width)), np.zeros(call.V)
        scales = np.reshape(scale, -1)
        for rows in self.token_blocks(self.kept(flat), call.V, head.memory):
            x = self.logits(h[rows], head)
            part = replace(call, logits=x, targets=targets[rows])
            some = Tokens(*(values[rows] for values in vars(flat).values()))
            d = np.empty(x.shape)
            losses[rows] = self.walk(part, some, d, self.scales(scales, rows))
            d_hidden[rows] = self.add(0.0, d @ self.wide(head.weight))
            d_weight = self.add(d_weight, d.T @ self.wide(h[rows]))
            d_bias = self.add(d_bias, d.sum(axis=0))
        return losses.reshape(call.tokens), (d_hidden.reshape(hidden.shape), d_weight, d_bias)

    def kept(self, tokens: Tokens) -> np.ndarray:
        """The numbers of the tokens that are looked at."""
        return np.flatnonzero(tokens.counted | tokens.bad)

    def token_blocks(self, kept: np.ndarray, V: int, memory: int) -> Iterator[np.ndarray]:
        step = max(1, memory // (48 * max(1, V)))
        return (kept[i : i + step] for i in range(0, len(kept), step))

    def logits(self, h: np.ndarray, head: Head) -> np.ndarray:
        z = self.wide(h) @ self.wide(head.weight).T
        return z if head.bias is None else z + self.wide(head.bias)

    def scales(self, scales: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What multiplies the gradients of a block's tokens."""
        return scales[rows]

    def add(self, total: Any, product: np.ndarray) -> np.ndarray:
        return total + product

    def rounded(self, made: list[Any], likes: tuple[Any, ...], out: tuple[Any, ...]) -> Iterator[Any]:
        """The gradients, rounded once; zeros past the classes."""
        for d, like, there in zip(made, likes, out, strict=True):
            if d is None:
                yield None
                continue
            result = np.zeros(like.shape, like.dtype) if there is None else there
            result[...] = 0
            result[: len(d)] = d.astype(like.dtype)
            yield result
