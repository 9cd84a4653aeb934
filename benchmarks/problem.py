"""The data of a benchmark: random logits and targets of one size and dtype, and the exact answer, not by `crossent`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

CHECKED_ROWS = 4
"""How many gradient rows are compared with the exact ones."""

ITEMSIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
# Both halves' are wide enough for a peer that returns its loss in half precision.
TOLERANCES = {"float64": 1e-8, "float32": 1e-4, "float16": 1e-2, "bfloat16": 2e-2}

OPTIONS = {"ignore_index": -100, "label_smoothing": 0.1, "smoothing": "uniform", "z_loss": 1e-4}
"""What is asked for where a question is about options, in `crossent`'s names."""
IGNORED_EVERY = 8
"""Of how many tokens one is ignored where there are options, the first of them."""
DISTINCT = 2**25
"""How many logits are drawn, at least; larger problems repeat their rows, and the host is done with them soon."""
_EXACT_AT_ONCE = 2**18


@dataclass(frozen=True)
class Problem:
    """N rows of V logits; with a width, N hidden states and a head that the logits are to be made of."""

    n: int
    v: int
    dtype: str = "float32"
    with_options: bool = False
    width: int | None = None

    @classmethod
    def parse(cls, text: str) -> Problem:
        """From a size like ``2048x50257``, ``2048x50257:bfloat16``, or ``2048x768x50257``."""
        match = re.fullmatch(r"([1-9]\d*)x(?:([1-9]\d*)x)?([1-9]\d*)(?::(\w+))?", text.strip())
        if match is None or (match[4] or "float32") not in ITEMSIZES or (match[2] and match[4]):
            raise ValueError(
                f"{text!r} is not a size; accepted: rows x vocabulary, like 2048x50257, and perhaps a dtype, like "
                f"2048x50257:bfloat16 ({', '.join(ITEMSIZES)}); or rows x width x vocabulary, like 2048x768x50257"
            )
        return cls(int(match[1]), int(match[3]), match[4] or "float32", width=int(match[2]) if match[2] else None)

    @property
    def size(self) -> str:
        """Without the dtype."""
        return "x".join(map(str, (self.n, self.v) if self.width is None else (self.n, self.width, self.v)))

    def __str__(self) -> str:
        """As `parse` reads it."""
        return self.size + ("" if self.dtype == "float32" else f":{self.dtype}")

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.size} {self.dtype}"

    @property
    def nbytes(self) -> int:
        """The bytes of the logits."""
        return ITEMSIZES[self.dtype] * self.n * self.v

    @property
    def options(self) -> Mapping[str, Any]:
        """The keywords of the call."""
        return OPTIONS if self.with_options else {}

    @property
    def logits(self) -> np.ndarray:
        """Three times standard normal: neither flat nor settled; bfloat16 as its 16 bits. Nobody may write to it.

        With a width, those of the rows that are unlike each other.
        """
        if self.width is not None:
            return self.hidden[: _rows(self.n, self.v)] @ self.head.T
        return _logits(self.n, self.v, self.dtype)

    @property
    def hidden(self) -> np.ndarray:
        """Hidden states (N, width) in float32, standard normal."""
        return _hidden_and_head(self.n, self.width, self.v)[0]

    @property
    def head(self) -> np.ndarray:
        """The weight (V, width) of the output layer, of a size that makes the logits what they are otherwise."""
        return _hidden_and_head(self.n, self.width, self.v)[1]

    @property
    def targets(self) -> np.ndarray:
        """Uniform over the vocabulary, some of them ignored where there are options."""
        return _targets(self.n, self.v, self.with_options)

    @property
    def exact(self) -> tuple[float, np.ndarray]:
        """The mean loss, and the first rows of its gradient, in float64; with a width, of that of hidden states."""
        return _exact(self)

    def check(self, loss: float, gradient_head: np.ndarray | None) -> None:
        """A wrong answer has no speed: raise for one."""
        exact_loss, exact_head = self.exact
        tolerance = TOLERANCES[self.dtype]
        if not abs(loss - exact_loss) <= tolerance * exact_loss:
            raise AssertionError(f"mean loss {loss}, exact {exact_loss}")
        if gradient_head is not None:
            error = np.max(np.abs(gradient_head - exact_head))
            if not error <= tolerance / self.n:
                raise AssertionError(f"gradient off by {error}, of entries up to {1 / self.n}")


def _rows(n: int, v: int) -> int:
    """How many rows are unlike each other: all, or a multiple of what options single out."""
    return min(n, -(-DISTINCT // v // IGNORED_EVERY) * IGNORED_EVERY)


# One at a time: a run asks about one size after the other, and a few of them would fill a small machine's memory.
@lru_cache(maxsize=1)
def _logits(n: int, v: int, dtype: str) -> np.ndarray:
    x = np.empty((_rows(n, v), v), dtype=np.float64 if dtype == "float64" else np.float32)
    np.random.default_rng(1).standard_normal(out=x, dtype=x.dtype)
    x *= 3
    if dtype == "bfloat16":
        # Cut off rather than rounded: these are the logits, there is nothing that they should be close to.
        x = (x.view(np.uint32) >> 16).astype(np.uint16)
    elif dtype == "float16":
        x = x.astype(np.float16)
    x = np.resize(x, (n, v)) if len(x) < n else x
    x.flags.writeable = False
    return x


@lru_cache(maxsize=1)
def _hidden_and_head(n: int, width: int, v: int) -> tuple[np.ndarray, np.ndarray]:
    normal = np.random.default_rng(4).standard_normal
    hidden = np.resize(normal((_rows(n, v), width), dtype=np.float32), (n, width))
    return hidden, normal((v, width), dtype=np.float32) * np.float32(3 * width**-0.5)


@lru_cache(maxsize=1)
def _targets(n: int, v: int, with_options: bool) -> np.ndarray:
    t = np.resize(np.random.default_rng(2).integers(0, v, _rows(n, v)), n)
    if with_options:
        t[::IGNORED_EVERY] = OPTIONS["ignore_index"]
    t.flags.writeable = False
    return t


def _wide(x: np.ndarray) -> np.ndarray:
    return ((x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x).astype(np.float64)


@cache
def _exact(problem: Problem) -> tuple[float, np.ndarray]:
    smoothing, z_loss = (problem.options.get(name, 0.0) for name in ("label_smoothing", "z_loss"))
    targets = problem.targets
    counted = targets >= 0
    distinct = _rows(problem.n, problem.v)
    logits, losses, head = problem.logits, np.empty(distinct), None
    at_once = max(CHECKED_ROWS, _EXACT_AT_ONCE // problem.v)
    for start in range(0, distinct, at_once):
        rows = slice(start, min(start + at_once, distinct))
        x, kept = _wide(logits[rows]), counted[rows]
        at = np.arange(len(x)), np.where(kept, targets[rows], 0)
        largest = x.max(axis=1)
        e = np.exp(x - largest[:, None])
        z = e.sum(axis=1)
        lse = largest + np.log(z)
        losses[rows] = lse - (1 - smoothing) * x[at] - smoothing * x.mean(axis=1) + z_loss * lse**2
        if head is None:
            head = e * ((1 + 2 * z_loss * lse) / z)[:, None] - smoothing / problem.v
            head[at] -= 1 - smoothing
            head[~kept] = 0
            head = head[:CHECKED_ROWS] / counted.sum()
    assert head is not None
    if problem.width is not None:
        head = head @ problem.head
    return float(np.resize(losses, problem.n)[counted].mean()), head
