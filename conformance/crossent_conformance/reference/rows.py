"""The losses and gradients of rows of logits, for the clean implementation: the mathematics, step by step.

With m a row's largest logit, at class a, and O the sum of exp(x_j - m) over every class but a:

    log Z = log1p(O)     -log p_j = (m - x_j) + log Z     p_j = exp(x_j - m) / (1 + O)     1 - p_a = O / (1 + O)

Both terms of a surprise, -log p_j, are at least 0, so nothing cancels. A loss is the sum of the surprises, each times
what the target distribution pulls at its class; hard targets are a distribution, too. `x` is always rows of logits as
they came, `w` some of their classes in float64, over the temperature and bounded (`seen`), which all of the above is
of; what there is one of for each row is a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

CLIP = 1e-10
"""What algorithm="explicit" clips probabilities at."""


@dataclass(frozen=True)
class Call:
    """What was asked: the arrays as they came, the options by the contract's names."""

    logits: Any
    targets: Any
    _: KW_ONLY
    weights: Any = None
    class_weights: Any = None
    ignore_index: Any = None
    reduction: Any = "mean"
    label_smoothing: Any = 0.0
    smoothing: Any = "others"
    z_loss: Any = 0.0
    temperature: Any = 1.0
    logit_softcap: Any = None
    denominator: Any = None
    algorithm: Any = "stable"
    check_targets: Any = True
    engine: Any = "auto"

    @property
    def hard(self) -> bool:
        return self.targets.dtype.kind in "iu"

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.logits.shape[:-1]

    @property
    def V(self) -> int:
        return self.logits.shape[-1]

    @property
    def compute_dtype(self) -> str:
        """The dtype of the loss; gradients of half-precision logits are rounded to it, too, on their way."""
        return "float32" if self.logits.dtype.itemsize < 4 else self.logits.dtype.name


@dataclass
class Rows:
    """What is known of some rows of logits."""

    top: np.ndarray
    largest: np.ndarray
    others: np.ndarray
    """O."""
    finite: np.ndarray
    """How many logits are finite."""
    kept: np.ndarray
    """The mass of the targets as given on finite logits."""
    lost: np.ndarray
    """Their mass on logits of -inf."""


class RowLosses:
    """Every step is a method, so that a fault can be put in by overriding one (see `conformance/mutants`)."""

    piece = 1 << 14
    """How many logits are looked at together: a cache holds them, and the allocator has the memory at hand."""

    def pieces(self, V: int) -> Iterator[slice]:
        """Stretches of the classes."""
        return (slice(start, min(start + self.piece, V)) for start in range(0, V, self.piece))

    def wide(self, x: np.ndarray) -> np.ndarray:
        """A contiguous copy in float64: whatever the strides, a sum's order is that of the classes."""
        return np.array(x, dtype=np.float64, order="C")

    def seen(self, call: Call, x: np.ndarray) -> np.ndarray:
        """Logits as everything else has them."""
        w, c = self.wide(x), call.logit_softcap
        return w / call.temperature if c is None else c * np.tanh(w / (c * call.temperature))

    def steepness(self, call: Call, x: np.ndarray) -> np.ndarray | float:
        """By how much they change with the logits."""
        if call.logit_softcap is None:
            return 1 / call.temperature
        return np.cosh(self.wide(x) / (call.logit_softcap * call.temperature)) ** -2.0 / call.temperature

    def over_classes(self, terms: np.ndarray) -> np.ndarray:
        return terms.sum(axis=-1, keepdims=True)

    # ---- probabilities

    def rows(self, call: Call, x: np.ndarray, given: np.ndarray) -> Rows:
        """The first look at the rows; `given` is the target of each, or its distribution."""
        top, largest = self.maximum(x)
        rows = Rows(top, self.seen(call, largest), *np.zeros((4, *largest.shape)))
        for columns in self.pieces(call.V):
            w = self.seen(call, x[:, columns])
            rows.others += self.over_classes(self.without_top(self.exponentials(w, rows), rows, columns))
            if call.label_smoothing:
                finite, q = w > -np.inf, self.given(call, given, columns)
                rows.finite += finite.sum(axis=-1, keepdims=True)
                rows.kept += self.over_classes(np.where(finite, q, 0.0))
                rows.lost += self.over_classes(np.where(finite, 0.0, q))
        return rows

    def maximum(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each row's first class of the largest logit, and that logit; a NaN is the largest."""
        top = x.argmax(axis=-1)[:, None]
        return top, self.wide(np.take_along_axis(x, top, axis=-1))

    def exponentials(self, w: np.ndarray, rows: Rows) -> np.ndarray:
        return np.exp(w - rows.largest)

    def without_top(self, terms: np.ndarray, rows: Rows, columns: slice) -> np.ndarray:
        inside = np.flatnonzero((columns.start <= rows.top) & (rows.top < columns.stop))
        terms[inside, rows.top[inside, 0] - columns.start] = 0.0
        return terms

    def spoilt(self, rows: Rows) -> np.ndarray:
        """Which rows hold NaN or +inf, or nothing but -inf."""
        return ~np.isfinite(rows.largest)

    def log_z(self, rows: Rows) -> np.ndarray:
        return np.log1p(rows.others)

    def lse(self, rows: Rows) -> np.ndarray:
        return rows.largest + self.log_z(rows)

    def probabilities(self, w: np.ndarray, rows: Rows) -> np.ndarray:
        return self.exponentials(w, rows) / (1.0 + rows.others)

    def half_surprises(self, call: Call, w: np.ndarray, rows: Rows) -> np.ndarray:
        """Half of -log p_j: m - x_j may be past float64 where a share of it is not."""
        if call.algorithm == "explicit":
            return np.log(np.maximum(self.probabilities(w, rows), CLIP)) / -2
        return (rows.largest / 2 - w / 2) + self.log_z(rows) / 2

    def clipped(self, call: Call, w: np.ndarray, rows: Rows) -> np.ndarray:
        """Where the surprise is a constant."""
        if call.algorithm != "explicit":
            return np.zeros(w.shape, dtype=bool)
        return self.probabilities(w, rows) < CLIP

    # ---- what pulls at them

    def given(self, call: Call, given: np.ndarray, columns: slice) -> np.ndarray:
        """Some classes of the target distribution as given."""
        if call.hard:
            return (np.arange(columns.start, columns.stop) == given).astype(np.float64)
        return self.wide(given[:, columns])

    def smoothed(self, call: Call, q: np.ndarray, finite: np.ndarray, rows: Rows) -> np.ndarray:
        """The target distribution after label smoothing."""
        epsilon = call.label_smoothing
        if call.smoothing == "uniform":
            share = epsilon / rows.finite
        else:
            # Every class gives to each other finite one: those are fewer by one for a class that is finite itself.
            given = np.where(rows.finite > 1, (rows.kept - q) / np.maximum(rows.finite - 1, 1), 0.0)
            share = epsilon * (given + rows.lost / rows.finite)
        return (1 - epsilon) * q + np.where(finite, share, 0.0)

    def pull(self, call: Call, w: np.ndarray, given: np.ndarray, rows: Rows, columns: slice) -> np.ndarray:
        """What multiplies the surprises of some classes."""
        q = self.given(call, given, columns)
        if call.label_smoothing:
            q = self.smoothed(call, q, w > -np.inf, rows)
        return q if call.class_weights is None else q * self.wide(call.class_weights[columns])

    def pulled(self, call: Call, x: np.ndarray, given: np.ndarray, rows: Rows) -> Iterator[tuple[Any, Any]]:
        """The logits that are pulled at, and how much each is: of hard targets as they are, the target's alone."""
        if call.hard and not call.label_smoothing:
            own = np.ones(given.shape) if call.class_weights is None else self.wide(call.class_weights[given])
            yield self.seen(call, np.take_along_axis(x, given, axis=-1)), own
            return
        for columns in self.pieces(call.V):
            w = self.seen(call, x[:, columns])
            yield w, self.pull(call, w, given, rows, columns)

    def row_losses(self, call: Call, x: np.ndarray, given: np.ndarray, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Half the loss of each row, which a weight may bring back to the dtype; what pulls at unclipped classes."""
        half, mass = np.zeros((2, *rows.others.shape))
        for w, pull in self.pulled(call, x, given, rows):
            half += self.over_classes(self.terms(pull, self.half_surprises(call, w, rows)))
            mass += self.over_classes(np.where(self.clipped(call, w, rows), 0.0, pull))
        return half + self.z_losses(call, rows) / 2, mass

    def terms(self, pull: np.ndarray, surprises: np.ndarray) -> np.ndarray:
        """Their products, where 0 times infinity is 0."""
        return np.where(pull == 0, 0.0, pull * surprises)

    def z_losses(self, call: Call, rows: Rows) -> np.ndarray | float:
        return call.z_loss * self.lse(rows) ** 2 if call.z_loss else 0.0

    def row_gradients(
        self, call: Call, w: np.ndarray, given: np.ndarray, rows: Rows, mass: np.ndarray, columns: slice
    ) -> np.ndarray:
        """Some classes of the gradient of half of each row's loss."""
        p = self.probabilities(w, rows)
        pull = np.where(self.clipped(call, w, rows), 0.0, self.pull(call, w, given, rows, columns))
        likely = (mass - pull) - mass * (rows.others / (1.0 + rows.others))
        return np.where(p > 0.5, likely, mass * p - pull) / 2 + call.z_loss * self.lse(rows) * p
