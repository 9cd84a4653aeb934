"""Rows of logits with all that a loss and a gradient need to know of them; options are coefficients here already."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from crossent.types import Array

if TYPE_CHECKING:
    from crossent.math.parts import Parts
    from crossent.math.statistics import RowStatistics

LOSS = "cross_entropy"
"""The measure of rows that have targets."""
EXPLICIT = "explicit"
"""The same by the explicit algorithm."""


class Coefficients(NamedTuple):
    """What every row of a call has in common, as numbers.

    target_mass: the part of a target's mass that stays where it is (1 − ε).
    smoothing: the mass ε that is shared out evenly.
    includes_target: how many shares of `smoothing` the target itself takes: 0 or 1.
    z_loss: λ, the weight of lse².
    ieee: whether everything follows floating-point arithmetic; without it 0·∞ counts as 0, classes with logit −inf
        take no share, and rows of weight 0 are zero whatever they hold.
    inverse_temperature: 1/T, which multiplies the logits, and so the gradient.
    softcap: c, that logits are bounded by, see `math/transform.py`; 0 for none.
    measure: what is measured of rows, and what an engine has to have a kernel of: LOSS, EXPLICIT, or one of
        `math/measures.py`.
    mixture: of a Jensen-Shannon divergence, the share β of the teacher in the mixture.
    """

    target_mass: float = 1.0
    smoothing: float = 0.0
    includes_target: int = 0
    z_loss: float = 0.0
    ieee: bool = False
    inverse_temperature: float = 1.0
    softcap: float = 0.0
    measure: str = LOSS
    mixture: float = 0.5


Straight = tuple[str, int, int, int, int, int, int, int]
"""Plain logits with hard targets, in host memory: the dtype's name, the numbers of rows and of columns; the name of the
logits, the bytes from row to row; the name of the targets, the bytes of one; and where in what is named by these names
the address stands, 0 for names that are addresses.
"""


class Head(NamedTuple):
    """What makes the logits of rows, in place of them: hidden·weightᵀ + bias, in the compute dtype.

    hidden: (..., D). weight: (V, D). bias: (V,) or None. places: the numbers of the tokens that count, or None where
    none is left out. memory: the bytes that the blocks of tokens may take. made: a place for the block of all
    tokens, if one will do, whose logits are made already.
    """

    hidden: Array
    weight: Array
    bias: Array | None
    places: Array | None
    memory: int
    made: list[Any] | None = None


class Rows(NamedTuple):
    """N rows, or a piece of each: the classes from number `first_class` on, of a vocabulary of so many.

    logits: (N, W), or with the axes of the tokens in place of N; or a `Head`. targets: integers (N,), or soft: (N, W);
    neither for a measure of one distribution, and for a divergence soft are the logits of the other.
    weight: (N,) or None for 1. class_weights: those of the piece, (W,), or None for 1. All floating arrays but the
    logits and the soft targets have the compute dtype. A target elsewhere in the vocabulary is not held by the piece;
    the row of one outside of the vocabulary is NaN. dtype: the compute dtype, as the library has it. engine: the name
    of the one that walks them. parts: of a piece whose others are elsewhere (`math/parts.py`); found: the statistics of
    the whole rows then, where they are known already.
    """

    logits: Array
    targets: Array | None
    soft: Array | None
    weight: Array | None
    class_weights: Array | None
    coefficients: Coefficients
    first_class: int
    vocabulary: int
    dtype: Array
    engine: str = "array_api"
    parts: Parts | None = None
    found: RowStatistics | None = None

    @property
    def width(self) -> int:
        """How many classes the logits are of: all, or those of a part."""
        return self.vocabulary if self.parts is None else self.parts.size

    def part(self, start: int, stop: int, logits: Array, soft: Array | None) -> Rows:
        """The rows from `start` to `stop`, with their logits and soft targets as the caller has prepared them."""
        targets, weight = self.targets, self.weight
        return Rows(
            logits,
            None if targets is None else targets[start:stop],
            soft,
            None if weight is None else weight[start:stop],
            self.class_weights,
            self.coefficients,
            self.first_class,
            self.vocabulary,
            self.dtype,
            self.engine,
        )

    def columns(self, start: int, stop: int, logits: Array) -> Rows:
        """The piece of the columns from `start` to `stop`, whose logits the caller has prepared; for hard targets."""
        u = self.class_weights
        return self._replace(
            logits=logits,
            class_weights=None if u is None else u[start:stop],
            first_class=self.first_class + start,
        )


def of_rows(scale: Array | float, start: int, stop: int) -> Array | float:
    """The part of a scale (one number, or one per row) that belongs to the rows from `start` to `stop`."""
    return scale if isinstance(scale, float) or scale.ndim == 0 else scale[start:stop]


def cut_lines(lines: Any, start: int, stop: int) -> Any:
    """What belongs to the rows from `start` to `stop`."""
    return over_lines(lambda x: of_rows(x, start, stop), lines)


def over_lines(function: Callable[..., Any], *of: Any) -> Any:
    """`function` of the arrays of tuples of arrays, numbers and None."""
    first = of[0]
    if first is None or isinstance(first, float):
        return first
    if not isinstance(first, tuple):
        return function(*of)
    made = (over_lines(function, *each) for each in zip(*of, strict=True))
    return first._make(made) if hasattr(first, "_make") else tuple(made)
