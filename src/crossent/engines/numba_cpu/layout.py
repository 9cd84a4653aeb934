"""What the caller and the compiled code agree about: the verbs, the words of a call, and sizes.

A call is a line of words of eight bytes. An array is named by its address, 0 where there is none.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from crossent.math.measures import ENTROPY, FORWARD, JENSEN_SHANNON, LOG_SUM_EXP, REVERSE

MEASURES: Final = (LOG_SUM_EXP, ENTROPY, FORWARD, REVERSE, JENSEN_SHANNON)
WALK, STATISTICS, GRADIENT, DESCRIBE, MEASURE = range(5)
VERBS: Final = ("walk", "statistics", "gradient", "describe", *MEASURES)
"""Their names; those from MEASURE on walk rows of a measure."""
_FOUND: Final = (
    *("losses", "statistics of parts", "gradients of parts", "token statistics", "log-sum-exps", "entropies"),
    *("forward divergences", "reverse divergences", "Jensen-Shannon divergences"),
)
TRANSFORMS: Final = {"scaled": "a temperature", "capped": "a softcap"}
"""What may become of logits first, in words."""

BY_LENGTH: Final = (WALK, DESCRIBE)
"""The verbs that have a kernel of their own for short rows."""
SHORT: Final = 112
"""The most columns of rows of which one lies in each lane. Part of the result's bits."""
BLOCK: Final = 256 * 1024
"""Bytes of logits that are to stay in a core's second-level cache between their statistics and their gradient."""
SMALL: Final = 1 << 17
"""Logits below which a second thread costs more than it saves."""
_LEAST: Final = 16
MOST: Final = 1024
"""The most rows of a part."""


def height_of(classes: int) -> int:
    """How many rows have their targets read, and their losses added up, together. Part of the bits of a sum."""
    return max(_LEAST, min(MOST, SMALL // classes))


class Kind(NamedTuple):
    """What a kernel is compiled for: the verb, the dtypes of logits and of soft targets or a teacher's logits.

    transform: "scaled" or "capped" for logits that are. short: whether rows have few columns.
    """

    verb: int
    dtype: str
    soft: str | None = None
    transform: str | None = None
    short: bool = False

    @property
    def stem(self) -> str:
        """A name."""
        few = "short" if self.short else None
        return "-".join(filter(None, (VERBS[self.verb], few, self.dtype, self.soft, self.transform)))

    @property
    def words(self) -> str:
        """What it is for, in words that no other kind has."""
        text = f"{_FOUND[self.verb]} of {self.dtype} logits"
        if self.soft is not None:
            text += f" and {self.soft} {'soft targets' if self.verb < MEASURE else 'logits of a teacher'}"
        if self.verb in BY_LENGTH:
            text += f" of {'up to' if self.short else 'more than'} {SHORT} classes"
        return text if self.transform is None else f"{text}, with {TRANSFORMS[self.transform]}"


class Call(NamedTuple):
    """The words of a call, in order; steps and sizes are in bytes.

    within: where in an object its address stands, where arrays are named by their objects; 0 for addresses.
    within_own: the same of losses, sums and value.
    targets_size: of an integer, 8 or 4; 0 where there are none.
    checked: whether targets outside of the vocabulary are counted; a part with one is not walked.
    ignores, ignored: whether a target marks what does not count, and which; with `ieee`, one that does is not accepted.
    losses: of all rows, or a table of statistics or of numbers that make the gradient, whose lines are `line` apart.
    sums: of each part of the rows, two float64 numbers: its losses over the divisor, added up; how many rows count.
    value: of a call of one part, the place of the first of these. divisor: 0 for how many rows of a part count.
    spreads: a table of what is described, with lines like those of `losses`.
    walks: 0 to look at targets alone. start, stop: which rows.
    """

    logits: int
    logits_step: int
    soft: int
    soft_step: int
    out: int
    out_step: int
    targets: int
    targets_size: int
    checked: int
    ignores: int
    ignored: int
    losses: int
    line: int
    sums: int
    value: int
    weight: int
    class_weights: int
    scales: int
    spreads: int
    within: int
    within_own: int
    classes: int
    first_class: int
    vocabulary: int
    ieee: int
    walks: int
    scale: float
    divisor: float
    target_mass: float
    smoothing: float
    includes_target: float
    z_loss: float
    scale_of_logits: float
    cap: float
    mixture: float
    start: int
    stop: int


_KINDS: Final = "".join("d" if "float" in str(kind) else "q" for kind in Call.__annotations__.values())
PACK: Final = struct.Struct("=" + _KINDS).pack
WORD: Final = {name: 8 * place for place, name in enumerate(Call._fields)}
"""Where a word of a call begins."""
