"""The clean implementation of a vocabulary in shards, of hard targets and a few options, over MPI.

With the maximum m of a whole row, which is one exchange, all else that a rank needs of the others is one sum: see
`sums`. Where several classes have the maximum, all but one are others. What there is one of for each row is a column.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from crossent_conformance.implementation import DoesNotApply, Sharded
from crossent_conformance.reference import checks
from crossent_conformance.reference.implementation import Tokens
from crossent_conformance.reference.rows import Call, Rows
from crossent_conformance.reference.tokens import TokensReference


@dataclass
class Part:
    """The classes of a rank."""

    group: Any
    """A communicator of mpi4py."""
    start: int
    size: int
    V: int
    """Of all ranks."""
    checks: bool

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass
class Local:
    """What a rank has of rows (N, W), in float64."""

    x: np.ndarray
    u: np.ndarray
    """Class weights (W,)."""
    column: np.ndarray
    """Where the target is, -1 where another rank has it."""
    ignored: np.ndarray
    bad: np.ndarray
    maximum: np.ndarray
    """Of the whole row."""


class ShardedReference(TokensReference):
    """Every step is a method, so that a fault can be put in by overriding one."""

    name = "reference, in shards"

    def sharded(self, backend: str) -> Sharded:
        if backend not in self.backends:
            raise DoesNotApply(f"shards of {backend} arrays")
        return Sharded("mpi", self.of)

    def of(self, group: Any, ranges: list[tuple[int, int]], check: bool) -> Any:
        start, size = ranges[group.rank]
        part = Part(group.handle, start, size, self.vocabulary(group.handle, start, size), check)
        pair = partial(self.of_part, part)
        return SimpleNamespace(loss=pair, loss_and_grad=pair, flat=False)

    def of_part(
        self,
        part: Part,
        logits: Any,
        targets: Any,
        *,
        class_weights: Any = None,
        ignore_index: Any = None,
        reduction: Any = "mean",
        label_smoothing: Any = 0.0,
        smoothing: Any = "others",
        check_targets: Any = True,
    ) -> tuple[Any, Any]:
        if getattr(targets, "dtype", np.dtype("i8")).kind == "f":
            raise DoesNotApply("soft targets in shards")
        if reduction == "sequence":
            raise DoesNotApply("reduction='sequence' in shards")
        given = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
        given |= {"smoothing": smoothing, "check_targets": check_targets}
        call = Call(logits, targets, class_weights=class_weights, **given)
        self.agree(part, call, given)
        with np.errstate(all="ignore"):
            local = self.local(part, call)
            others, count, pulls, gaps, below, u, t_finite = self.sums(part, call, local)
            rows = Rows(local.column, local.maximum, others, count, t_finite, 1 - t_finite)
            tokens = Tokens(local.column, local.bad, ~local.ignored & (u != 0), np.ones(u.shape), u)
            divisor = self.divisor(call, Tokens(*(value.reshape(call.tokens) for value in vars(tokens).values())))
            share, more = self.shares(call, rows, t_finite)
            mass = more * u + share * pulls
            losses = self.terms(more * u, below) + self.terms(share, gaps) + mass * self.log_z(rows)
            losses = self.masked(losses, self.spoilt(rows), tokens).reshape(call.tokens)
            of_rank = replace(call, class_weights=local.u)
            half = self.row_gradients(of_rank, local.x, local.column, rows, mass, slice(0, len(local.u)))
            d = 2 * half * self.scale(call, None, divisor).reshape(-1, 1)
            d = self.masked(d, self.spoilt(rows), tokens)[:, : part.size]
            d_logits = np.zeros(logits.shape)
            d_logits[..., : part.size] = d.reshape(*call.tokens, part.size)
            return self.reduce(call, losses, divisor), d_logits.astype(logits.dtype)

    # ---- what the ranks tell each other before

    def vocabulary(self, group: Any, start: Any, size: Any) -> int:
        """How many classes all ranks have; ValueError on all where their ranges do not fit."""
        ranges = group.allgather((start, size))
        end, before = 0, None
        for rank, each in enumerate(ranges):
            if any(not isinstance(value, int) or value < 0 for value in each):
                raise ValueError(f"rank {rank} has the start and the size {each}; accepted: whole numbers from 0")
        for (first, count), rank in sorted((each, rank) for rank, each in enumerate(ranges) if each[1]):
            if first != end:
                found = f"classes {first} to {first + count - 1} of rank {rank}"
                raise ValueError(f"{found} follow those to {end - 1} of rank {before}; accepted: from {end} on")
            end, before = first + count, rank
        return end

    def agree(self, part: Part, call: Call, given: dict[str, Any]) -> None:
        """The same error on all ranks where they are called otherwise, or where one is refused."""
        problem = None
        try:
            self.validate_part(part, call)
        except Exception as error:
            problem = error
        if not part.checks:
            if problem is not None:
                raise problem
            return
        told = {**given, "tokens": np.shape(call.targets), "class_weights": call.class_weights is not None}
        told["targets"] = hashlib.sha256(call.targets.tobytes()).hexdigest()[:8]
        mine = ("", told) if problem is None else (f"{type(problem).__name__}: {problem}", {})
        digest = np.frombuffer(hashlib.sha256(repr(mine).encode()).digest()[:8], np.int64)
        everyone = np.empty(part.group.size, np.int64)
        part.group.Allgather(digest, everyone)
        if len(set(everyone)) == 1:
            if problem is not None:
                raise problem
            return
        others = part.group.allgather(mine)
        if problem is not None:
            raise problem
        for rank, (text, _) in enumerate(others):
            if text:
                raise RuntimeError(f"rank {rank} raised {text}")
        for name in told:
            for rank, (_, other) in enumerate(others):
                if other[name] != others[0][1][name]:
                    raise ValueError(f"{name} is {others[0][1][name]} on rank 0 and {other[name]} on rank {rank}")

    def validate_part(self, part: Part, call: Call) -> None:
        width = call.logits.shape[-1]
        if width < part.size:
            raise ValueError(f"logits have {width} columns; accepted: {part.size}, the size of the shard, or more")
        whole = call
        if not width:  # of no classes there are rows, too
            whole = replace(call, logits=np.zeros((*call.tokens, 1), call.logits.dtype))
            whole = replace(whole, class_weights=None if call.class_weights is None else np.ones(1))
        checks.call(whole)
        if call.check_targets:
            outside = self.outside_of_all(part, call) & ~self.ignored(call)
            checks.targets(call.targets, outside, part.V, call.ignore_index)

    def outside_of_all(self, part: Part, call: Call) -> np.ndarray:
        """Which targets are of no rank."""
        return (call.targets < 0) | (call.targets >= part.V)

    # ---- the rows

    def local(self, part: Part, call: Call) -> Local:
        """A rank's part, of which the maximum is that of all."""
        x = self.wide(call.logits[..., : part.size]).reshape(call.targets.size, part.size)
        u = np.ones(part.size) if call.class_weights is None else self.wide(call.class_weights[: part.size])
        t, outside = call.targets.reshape(-1), self.outside_of_all(part, call).reshape(-1)
        held = (part.start <= t) & (t < part.stop)
        column = np.where(held, t - part.start, -1).astype(np.intp)
        if not part.size:  # a column that has no part in anything
            x, u, column = np.full((len(t), 1), -np.inf), np.zeros(1), np.full(len(t), -1)
        maximum = self.largest(part, x.max(axis=1, initial=-np.inf))
        ignored = self.ignored(call).reshape(-1)
        columns = (values[:, None] for values in (column, ignored, outside & ~ignored, maximum))
        return Local(x, u, *columns)

    def largest(self, part: Part, x: np.ndarray) -> np.ndarray:
        from mpi4py import MPI

        found = np.empty_like(x)
        part.group.Allreduce(np.ascontiguousarray(x), found, MPI.MAX)
        return found

    def total(self, part: Part, x: np.ndarray) -> np.ndarray:
        found = np.empty_like(x)
        part.group.Allreduce(np.ascontiguousarray(x), found)
        return found

    def sums(self, part: Part, call: Call, local: Local) -> tuple[np.ndarray, ...]:
        """Of whole rows: the exponentials but one of the maximum; the count of finite logits, what they pull at and
        how far that is below the maximum; the target's distance from it, its pull, and whether it is finite."""
        x, u, rows, column = local.x, local.u, np.arange(len(local.x)), local.column[:, 0]
        top = x.argmax(axis=1)
        e = np.exp(x - local.maximum)
        is_top = x[rows, top] == local.maximum[:, 0]
        e[rows[is_top], top[is_top]] = 0.0
        finite = x > -np.inf
        below = np.where(finite, local.maximum - x, 0.0)
        own = [(local.maximum - x)[rows, column], u[column], finite[rows, column]]
        found = [e.sum(axis=1), is_top, finite.sum(axis=1), (finite * u).sum(axis=1), (below * u).sum(axis=1)]
        found += [np.where(column >= 0, value, 0.0) for value in own]
        others, tops, *rest = self.total(part, np.stack(found).astype(np.float64))[..., None]
        return others + (tops - 1), *rest

    def shares(self, call: Call, rows: Rows, t_finite: np.ndarray) -> tuple[Any, Any]:
        """What each finite class has of the target distribution, and the target beside that."""
        if not call.label_smoothing:
            return np.zeros(t_finite.shape), 1.0
        nothing, everything = np.zeros(t_finite.shape), np.ones(t_finite.shape)
        share = self.smoothed(call, nothing, everything > 0, rows)
        return share, self.smoothed(call, everything, t_finite != 0, rows) - np.where(t_finite != 0, share, 0.0)


subject = ShardedReference()
