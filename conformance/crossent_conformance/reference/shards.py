"""The clean implementation of a vocabulary in shards, of hard targets and a few options, over MPI.

With the maximum m of a whole row, which is one exchange, all else that a rank needs of the others is one sum: see
`sums`. Where several classes have the maximum, all but one are others.
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
from crossent_conformance.reference.rows import Call
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
    """The target's column (N,), 0 where another rank has it."""
    held: np.ndarray
    counted: np.ndarray
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
            found = self.sums(part, call, local)
            losses, d = self.losses(call, local, *found), self.gradients(part, call, local, *found)
            divisor = self.divided_by(call, local, found[5])
        loss = losses.reshape(call.tokens) if reduction == "none" else losses.sum() / divisor
        d_logits = np.zeros(logits.shape)
        d_logits[..., : part.size] = (d / divisor).reshape(*call.tokens, part.size)
        return np.asarray(loss).astype(call.compute_dtype), d_logits.astype(logits.dtype)

    def divided_by(self, call: Call, local: Local, u: np.ndarray) -> Any:
        """`u` is the class weight of each target."""
        if call.reduction != "mean" or not local.counted.any():
            return 1.0
        return np.sum(np.where(local.counted, u, 0.0))

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
        column = np.where(held, t - part.start, 0).astype(np.intp)
        if not part.size:  # a column that has no part in anything
            x, u, held = np.full((len(t), 1), -np.inf), np.zeros(1), np.zeros(len(t), bool)
        maximum = self.largest(part, x.max(axis=1, initial=-np.inf))
        ignored = self.ignored(call).reshape(-1)
        return Local(x, u, column, held, ~ignored, outside & ~ignored, maximum)

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
        x, rows, m = local.x, np.arange(len(local.x)), local.maximum
        top = x.argmax(axis=1)
        e = np.exp(x - m[:, None])
        is_top = x[rows, top] == m
        e[rows[is_top], top[is_top]] = 0.0
        finite = x > -np.inf
        below = np.where(finite, m[:, None] - x, 0.0)
        own = [m - x[rows, local.column], local.u[local.column], finite[rows, local.column]]
        found = [e.sum(axis=1), is_top, *self.of_finite(part, finite, local.u, below)]
        found += [np.where(local.held, value, 0.0) for value in own]
        others, tops, *rest = self.total(part, np.stack(found).astype(np.float64))
        return others + (tops - 1), *rest

    def of_finite(self, part: Part, finite: np.ndarray, u: np.ndarray, below: np.ndarray) -> list[np.ndarray]:
        return [finite.sum(axis=1), (finite * u).sum(axis=1), (below * u).sum(axis=1)]

    def shares(self, call: Call, count: np.ndarray, t_finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each finite class has of the target distribution, and the target beside that."""
        epsilon = call.label_smoothing
        if call.smoothing == "uniform" or not epsilon:
            return epsilon / count, np.full(count.shape, 1 - epsilon)
        others = np.where(count > 1, epsilon / np.maximum(count - 1, 1), 0.0)
        share = np.where(t_finite != 0, others, epsilon / count)
        return share, 1 - epsilon - np.where(t_finite != 0, share, 0.0)

    def losses(self, call: Call, local: Local, *found: np.ndarray) -> np.ndarray:
        others, count, pulls, gaps, below, u, t_finite = found
        share, more = self.shares(call, count, t_finite)
        own = np.where(more * u == 0, 0.0, more * u * below)
        loss = own + np.where(share == 0, 0.0, share * gaps) + (more * u + share * pulls) * np.log1p(others)
        return self.masked_rows(local, np.where(np.isfinite(local.maximum), loss, np.nan), u)

    def masked_rows(self, local: Local, values: np.ndarray, u: np.ndarray) -> np.ndarray:
        """0 where a token does not count, NaN where its target is none."""
        return np.where(local.bad, np.nan, np.where(local.counted & (u != 0), values, 0.0))

    def gradients(self, part: Part, call: Call, local: Local, *found: np.ndarray) -> np.ndarray:
        others, count, pulls, _, _, u, t_finite = (value[:, None] for value in found)
        share, more = self.shares(call, count, t_finite)
        pull = np.where(local.x > -np.inf, share, 0.0) * local.u
        rows = np.flatnonzero(local.held)
        pull[rows, local.column[rows]] += (more * u)[rows, 0]
        mass = more * u + share * pulls
        p = np.exp(local.x - self.peak(local)[:, None]) / (1.0 + others)
        d = np.where(p > 0.5, (mass - pull) - mass * (others / (1.0 + others)), mass * p - pull)
        d = np.where(np.isfinite(local.maximum)[:, None], d, np.nan)
        return np.stack([self.masked_rows(local, column, u[:, 0]) for column in d.T], axis=-1)[:, : part.size]

    def peak(self, local: Local) -> np.ndarray:
        """What is subtracted in the gradient."""
        return local.maximum


subject = ShardedReference()
