"""A failing input made small: the row that fails, alone, with few classes, round numbers and no option it can spare.

`smallest` tries ever smaller inputs as long as the fault stays the same: the subject disagrees with the oracle in the
same result, loss or gradient, as badly (`severity`), by about as much, by the same known formula if there is one
(`suspects`), and with the options that the clause is about. A failure that calling again does not repeat, or that is
no disagreement with the oracle, stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crossent_conformance import agree, severity, suspects, units
from crossent_conformance.adapter import UnderTest
from crossent_conformance.evidence import Call, Disagreement
from crossent_conformance.places import Place

MANY = 200_000
"""More logits than these are not looked through again, since the oracle is slow: only the row that is known to fail."""

OWN = {
    "V8": ("label_smoothing", "smoothing"),
    "V9": ("weights", "class_weights", "z_loss"),
    "V10": ("algorithm",),
    "V12": ("temperature", "logit_softcap"),
    "R1": ("reduction",),
    "R2": ("reduction", "denominator", "weights", "class_weights", "ignore_index"),
    "R6": ("reduction", "grad_output"),
    "S1": ("weights", "class_weights", "ignore_index"),
}
"""The options that a clause is about: a smaller input keeps those that it has."""
LESS = 0.1
"""A smaller input's error is no smaller a part of the first one's."""


class Input(Call):
    """A call that can be made smaller."""

    def with_options(self, **changes: Any) -> Input:
        """Some options changed; None takes one away."""
        options = {name: value for name, value in {**self.options, **changes}.items() if value is not None}
        return replace(self, options=options)

    def as_rows(self) -> Input:
        """The same tokens in one axis."""
        tokens, V = self.logits.shape[:-1], self.logits.shape[-1]
        soft = self.targets.dtype.kind == "f"
        changes = {}
        if self.options.get("weights") is not None:
            changes["weights"] = np.broadcast_to(self.options["weights"], tokens).reshape(-1)
        if np.ndim(self.options.get("grad_output", 0)):
            changes["grad_output"] = np.reshape(self.options["grad_output"], -1)
        targets = self.targets.reshape(-1, V) if soft else self.targets.reshape(-1)
        return Input(self.logits.reshape(-1, V), targets, {**self.options, **changes})

    def of_rows(self, rows: Sequence[int]) -> Input:
        """Some rows of a two-dimensional input."""
        kept = list(rows)
        changes = {
            name: self.options[name][kept] for name in ("weights", "grad_output") if np.ndim(self.options.get(name, 0))
        }
        return Input(self.logits[kept], self.targets[kept], {**self.options, **changes})

    def of_classes(self, classes: Sequence[int]) -> Input:
        """Some classes of a two-dimensional input, those that are `named` among them."""
        kept = list(classes)
        place_of = {old: new for new, old in enumerate(kept)}
        changes: dict[str, Any] = {}
        if self.options.get("class_weights") is not None:
            changes["class_weights"] = self.options["class_weights"][kept]
        if "ignore_index" in self.options:
            changes["ignore_index"] = place_of.get(self.options["ignore_index"], self.options["ignore_index"])
        if self.targets.dtype.kind == "f":
            targets = self.targets[:, kept]
        else:
            targets = np.array([place_of.get(target, target) for target in self.targets.tolist()], self.targets.dtype)
        return Input(self.logits[:, kept], targets, {**self.options, **changes})

    @property
    def named(self) -> set[int]:
        """The classes that something names by its number."""
        hard: set[int] = set() if self.targets.dtype.kind == "f" else set(self.targets.tolist())
        ignored = self.options.get("ignore_index")
        return hard if ignored is None else hard | {ignored}


class _Search:
    """The smallest input so far, and the disagreement that it shows."""

    def __init__(
        self, place: Place, subject: UnderTest, first: Disagreement, call: Call, clause: str, fault: str, seconds: float
    ) -> None:
        self.place, self.subject = place, subject
        self.fault = fault
        self.first = self.found = first
        self.own = OWN.get(clause, ())
        self.grade = self._grade(first)
        self.input = Input(**vars(call))
        self.deadline = time.monotonic() + seconds
        self.precise = False

    def take(self, smaller: Input) -> bool:
        """Go on from this input, if the subject disagrees on it still and there is time."""
        if time.monotonic() > self.deadline:
            return False
        arrays = smaller.logits, smaller.targets
        try:
            agree.with_oracle(self.place, self.subject, *arrays, precise=self.precise, **smaller.options)
        except Disagreement as found:
            if found.call is not None and self._is_the_same(found):
                self.found = found
                self.input = replace(smaller, logits=found.call.logits, targets=found.call.targets)
                return True
        except Exception:  # another failure, or the options do not go together: not this one
            return False
        return False

    def _is_the_same(self, found: Disagreement) -> bool:
        if found.what != self.first.what or not found.relative >= LESS * min(self.first.relative, 1.0):
            return False
        if self._grade(found) != self.grade:
            return False
        return not self.fault or self.fault in (suspect.key for suspect in suspects.of(found))

    def _grade(self, error: Disagreement) -> str:
        return severity.graded(error, "disagrees", error.call, self.place.dtype)[0]


def smallest(
    place: Place,
    subject: UnderTest,
    error: BaseException,
    clause: str = "",
    fault: str = "",
    seconds: float = 2.0,
) -> BaseException:
    """The smallest input found in so many seconds on which the subject has the same fault; or the error.

    `fault` is the key of the suspect, "" for none.
    """
    if not isinstance(error, Disagreement) or error.call is None or error.call.logits.ndim == 0:
        return error
    if error.what not in ("loss", "d_logits"):
        return error
    before = units.worst_seen.copy()  # the report is about the tests, not about this search
    try:
        found = _smallest(_Search(place, subject, error, error.call, clause, fault, seconds))
        # A small input may equal formulas by chance, which the first one did not: one alone is none.
        named = suspects.of(found)
        found.suspects = [each for each in named if each.key == fault or (not fault and len(named) == 1)]
        return found
    finally:
        units.worst_seen[:] = before


def _smallest(search: _Search) -> Disagreement:
    disagreement = search.found
    many = search.input.logits.size > MANY
    if many and _row(search) is None:
        return disagreement
    if not many:
        if not search.take(search.input):
            search.precise = True  # in half precision some tests ask for more
            if not search.take(search.input):
                return disagreement
        if search.input.options.get("reduction", "mean") != "none" and "reduction" not in search.own:
            search.take(search.input.with_options(reduction="none", denominator=None, grad_output=None))
    _fewer_rows(search, many)
    _fewer_options(search)
    if search.input.logits.ndim == 2 and not (many and search.found is disagreement):
        _thin(search, search.input.logits.shape[1], search.input.named, Input.of_classes)
        _rounder(search)
        _thin(search, search.input.logits.shape[1], search.input.named, Input.of_classes)
    return search.found


def _row(search: _Search) -> int | None:
    """The row that fails, where the disagreement says it."""
    tokens = search.input.logits.shape[:-1]
    index = search.found.index[: len(tokens)]
    return int(np.ravel_multi_index(index, tokens)) if len(index) == len(tokens) and tokens else None


def _fewer_rows(search: _Search, many: bool) -> None:
    row = _row(search)
    if search.input.options.get("reduction") == "sequence":
        return
    rows = search.input.as_rows()
    if row is not None and search.take(rows.of_rows([row])):
        return
    if not many and search.take(rows):
        _thin(search, len(search.input.logits), set(), Input.of_rows)


def _fewer_options(search: _Search) -> None:
    for name, value in list(search.input.options.items()):
        if name not in search.own and not (isinstance(value, str) and value == "none"):
            search.take(search.input.with_options(**{name: None}))


def _thin(search: _Search, count: int, needed: set[int], cut: Callable[[Input, Sequence[int]], Input]) -> None:
    """Take away what is not needed, of `count` rows or classes: halves first, at last one by one."""
    start, kept, size = search.input, list(range(count)), count // 2
    while size:
        at = 0
        while at < len(kept) and time.monotonic() <= search.deadline:
            rest = kept[:at] + [i for i in kept[at : at + size] if i in needed] + kept[at + size :]
            if rest and len(rest) < len(kept) and search.take(cut(start, rest)):
                kept = rest
            else:
                at += size
        size //= 2


def _rounder(search: _Search) -> None:
    """Whole numbers, or else eighths; then each logit by itself."""
    for rounded in (np.round, lambda x: np.round(8 * x) / 8):
        if search.take(replace(search.input, logits=rounded(search.input.logits))):
            break
    if search.input.logits.size > 64:
        return
    for index in np.ndindex(search.input.logits.shape):
        value = search.input.logits[index]
        for simple in (0.0, np.round(value), np.round(8 * value) / 8):
            if simple == value:
                break
            logits = search.input.logits.copy()
            logits[index] = simple
            if search.take(replace(search.input, logits=logits)):
                break
