"""A vocabulary in shards: what the caller says of the classes that a process has, and what the processes say to each
other before they compute, so that what is wrong with one of them is an error on all.

The sums are `math/parts.py`; how a group moves numbers is in the rooms of the libraries.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from crossent import checks, libraries
from crossent.libraries.exchange import UNKNOWN
from crossent.math.parts import Group, Parts
from crossent.options import Options, shown
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries import Exchange, Inputs, Library

# The line of what is told that is there where a call has failed.
_ERROR = "error"
TARGETS = "a digest of the targets"
_HINTS = {TARGETS: ", and numbers of classes of the whole vocabulary"}


class VocabularyShard:
    """The classes that this process (or device) has of a vocabulary that lies in shards.

    Class numbers ``start`` to ``start + size - 1`` are the first `size` columns of the logits (or rows of a linear
    layer's weight) that the process gives; further columns are padding, and have no part in anything. Shards may be of
    different sizes, and empty.

    Parameters
    ----------
    start
        The number of the first class, counted over the whole vocabulary.
    size
        How many classes there are here. Within ``jax.shard_map``, both may be arrays of JAX's.
    group
        The processes that have the shards: a torch ``ProcessGroup`` or ``DeviceMesh`` of one dimension, a communicator
        of mpi4py (for NumPy and CuPy), or the name of an axis within ``jax.shard_map``.
    check
        Whether the processes compare what they are given: the ranges once, here, and in each call the number of tokens,
        the targets and the options. What does not fit is then an error on all of them. Without it, ranges that do not
        fit, and targets that no shard holds, are NaN, and a different number of tokens is the group's own error.

    Raises
    ------
    TypeError, ValueError
        On every process, for ranges that overlap or leave a gap, naming them.

    Examples
    --------
    >>> from mpi4py import MPI
    >>> shard = VocabularyShard(0, 4, MPI.COMM_SELF)
    >>> shard
    VocabularyShard(start=0, size=4, rank 0 of 1, V = 4)
    """

    __slots__ = ("_exchange", "check", "group", "size", "start", "vocabulary")

    def __init__(self, start: Any, size: Any, group: Any, check: bool = True) -> None:
        """Agree with the others of the group."""
        self.group, self.check = group, check
        self._exchange: Exchange = libraries.exchange_of(group)
        if self._exchange.is_traced:
            self.start, self.size = start, size
            self._exchange, self.vocabulary = self._exchange.of_ranges(start, size, check)
            return
        found: list[Any] = [None, None]
        try:
            found = [_whole("start", start), _whole("size", size)]
            problem = None
        except (TypeError, ValueError) as error:
            if not check:
                raise
            problem = error
        self.start, self.size = found
        self.vocabulary = UNKNOWN
        if check:
            everyone = self._exchange.all((self.start, self.size, None if problem is None else str(problem)))
            if problem is not None:
                raise problem
            self.vocabulary = _vocabulary(everyone)

    def __repr__(self) -> str:
        """What it is of what."""
        whole = "" if self.vocabulary == UNKNOWN else f", V = {self.vocabulary}"
        of = "" if self._exchange.is_traced else f", rank {self._exchange.rank} of {self._exchange.ranks}"
        return f"VocabularyShard(start={self.start}, size={self.size}{of}{whole})"

    def __copy__(self) -> VocabularyShard:
        """Itself, which does not change: a group is what this process has."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> VocabularyShard:
        """The same."""
        return self

    @property
    def parts(self) -> Parts:
        """What the mathematics knows of it."""
        group: Group = self._exchange
        return Parts(group, self.size, self.check)


class Part:
    """A shard in one call. What is raised on one of the group before all have agreed is raised on all."""

    def __init__(self, shard: VocabularyShard) -> None:
        """Of that shard."""
        self.shard, self._exchange = shard, shard._exchange
        self._checks = shard.check and self._exchange.is_eager()
        self._has_agreed = False
        self.told: dict[str, Any] = {}

    def options(self, library: Library, form: checks.Form, options: Options) -> Options:
        """Those of the call; TypeError or ValueError unless the group moves arrays of that library, by them."""
        if library.knows_parts:
            raise ValueError(f"{form.given} are in parts that are known, with vocabulary=; accepted: None")
        if library.family.name not in self._exchange.libraries:
            accepted = " and ".join(self._exchange.libraries)
            raise TypeError(f"{form.given} is a {library.name} array; accepted by the group of vocabulary=: {accepted}")
        if options.algorithm == "explicit":
            raise ValueError("algorithm is 'explicit' with vocabulary=; accepted: 'stable'")
        if library.state != "traced" and not self._exchange.is_traced:
            return options
        if options.engine not in ("auto", "array_api"):
            raise ValueError(
                f"engine is {options.engine!r}, which cannot serve this call: what programs call walks whole rows, and "
                f"with vocabulary= rows are in parts; accepted: 'auto', 'array_api'"
            )
        return replace(options, engine="array_api")

    def form(self, library: Library, inputs: Inputs) -> checks.Form:
        """What the logits of the part are."""
        return checks.logits_and_targets(library, inputs.logits, inputs.targets, size=self.shard.size)

    def without_padding(self, library: Library, inputs: Inputs, form: checks.Form) -> tuple[Inputs, checks.Form]:
        """The arrays of a call with the columns that are classes; class weights may be of these or of all columns."""
        size, width = self.shard.size, form.shape[-1]
        if isinstance(size, int) and size == width:
            return inputs, form

        def columns(x: Array | None, fill: float) -> Array | None:
            if x is None or not x.ndim or x.shape[-1] != width:
                return x
            return self._exchange.columns(x, size, fill)

        logits: Array = inputs.logits if inputs.head is not None else columns(inputs.logits, -math.inf)
        inputs = inputs._replace(
            logits=logits,
            targets=columns(inputs.targets, 0.0) if form.soft else inputs.targets,
            class_weights=columns(inputs.class_weights, 0.0),
        )
        return inputs, form if inputs.head is not None else form._replace(shape=(*form.tokens, logits.shape[-1]))

    def with_padding(self, library: Library, d: Array, like: Array) -> Array:
        """A gradient of the shape of `like`, 0 in the columns that are no classes."""
        xp = library.xp
        rest = xp.zeros((*like.shape[:-1], like.shape[-1] - d.shape[-1]), dtype=d.dtype, device=library.device(d))
        return xp.concat([d, rest], axis=-1)

    def agree(self, told: Callable[[], dict[str, Any]]) -> None:
        """ValueError on all where one has another call; RuntimeError where one has none, since an error was raised.

        It takes one exchange of a number, where all is well.
        """
        if not self._checks or self._has_agreed:
            return
        self._has_agreed = True
        call = self.told | told()
        text = repr(sorted(call.items()))
        digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        if len(set(self._exchange.numbers(digest))) == 1:
            return
        everyone = self._exchange.all(call)
        for rank, other in enumerate(everyone):
            if _ERROR in other and _ERROR not in call:
                raise RuntimeError(f"rank {rank} of the group of vocabulary= raised {other[_ERROR]}")
        names = dict.fromkeys(name for other in everyone for name in other)
        for name in () if _ERROR in call else names:
            values = [other.get(name) for other in everyone]
            for rank, value in enumerate(values):
                if repr(value) != repr(values[0]):
                    raise ValueError(
                        f"{name} is {values[0]} on rank 0 and {value} on rank {rank} of the group of "
                        f"vocabulary=; accepted: the same on all{_HINTS.get(name, '')}"
                    )

    def failed(self, error: Exception) -> None:
        """Tell the others."""
        self.agree(lambda: {_ERROR: f"{type(error).__name__}: {error}"})


@contextmanager
def part_of(shard: Any) -> Iterator[Part | None]:
    """A call of a shard, or of None."""
    if shard is None:
        yield None
        return
    if not isinstance(shard, VocabularyShard):
        raise TypeError(f"vocabulary is {shown(shard)}; accepted: None, or a crossent.VocabularyShard")
    part = Part(shard)
    try:
        yield part
    except Exception as error:
        part.failed(error)
        raise


def _whole(name: str, value: Any) -> int:
    accepted = "a whole number that is not negative"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}; accepted: {accepted}") from None
    if isinstance(value, bool) or number < 0:
        raise ValueError(f"{name} is {value!r}; accepted: {accepted}")
    return number


def _vocabulary(everyone: list[tuple[int, int, str | None]]) -> int:
    """How many classes there are; ValueError unless each is of one shard."""
    for rank, (_, _, problem) in enumerate(everyone):
        if problem is not None:
            raise ValueError(f"the shard of rank {rank}: {problem}")
    total = 0
    before = None
    accepted = "shards that begin at 0, and each where another ends"
    for start, size, rank in sorted((start, size, rank) for rank, (start, size, _) in enumerate(everyone) if size):
        if start != total:
            what = "overlaps with" if start < total else "leaves a gap after"
            other = f"that of rank {before}, which ends with class {total - 1}" if before is not None else "class 0"
            other = f"begins past {other}" if before is None else f"{what} {other}"
            raise ValueError(
                f"the shard of rank {rank}, classes {start} to {start + size - 1}, {other}; accepted: {accepted}"
            )
        total, before = start + size, rank
    if not total:
        raise ValueError("every shard of the vocabulary is empty; accepted: one with a class")
    return total
