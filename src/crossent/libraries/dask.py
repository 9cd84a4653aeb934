"""Dask: graphs of arrays that have no values yet.

The loss is a graph of tasks. The engine of what a chunk is finds the statistics of its piece of rows, or walks whole
rows; statistics merge along the vocabulary as a tree, and of the merged ones come the losses, and the gradient chunk by
chunk. A task makes nothing that is larger than a chunk, and looks at one.

All else is a graph of operations: the explicit algorithm, the measures, and, where several chunks hold a row, soft
targets that are smoothed. Their masses need sums over the whole row, which would take a tree of their own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import array_api_compat.dask.array
import dask.array
import numpy as np

from crossent import libraries, views
from crossent.engines import select
from crossent.libraries.base import AsGraph, Library
from crossent.math import statistics
from crossent.math.outcome import Outcome, outcome
from crossent.math.rows import LOSS, Coefficients, Rows
from crossent.math.statistics import RowStatistics
from crossent.types import Array

da: Any = dask.array


class Dask(AsGraph):
    """Dask's arrays."""

    state = "lazy"
    immutable = True

    def device_name(self, x: Array) -> str | None:
        """There is one."""
        return None

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """As it is asked for: each chunk finds its own where it is computed."""
        super().engine(asked, like, dtype, classes, measure)
        return asked

    def take_classes(self, x: Array, ids: Array) -> Array:
        """As sums over one class each: Dask has no index along an axis."""
        numbers = self.xp.arange(x.shape[-1], dtype=ids.dtype)
        zero = self.xp.zeros_like(x)
        hits = (numbers == ids[..., k : k + 1] for k in range(ids.shape[-1]))
        return self.xp.stack([self.xp.sum(self.xp.where(hit, x, zero), axis=-1) for hit in hits], axis=-1)

    def flat(self, x: Array) -> Array:
        """Dask reshapes no array that is empty and has more than one chunk."""
        return super().flat(x) if math.prod(x.shape) else self.xp.zeros((0,), dtype=x.dtype)

    def take_target(self, x: Array, t: Array) -> Array:
        """Dask does not index by two arrays."""
        return self.sum_of_target(x, t)

    def losses(self, rows: Rows) -> Array:
        """Of chunks; they have the shape of the tokens."""
        rows = _filled(rows)
        return _of_chunks(self, rows, None)[0] if _is_of_chunks(rows) else super().losses(rows)

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """The same."""
        rows = _filled(rows)
        if not _is_of_chunks(rows):
            return super().losses_and_gradient(rows, scale, out)
        if not isinstance(scale, float) and scale.ndim:
            scale = self.xp.reshape(scale, rows.logits.shape[:-1])
        return _of_chunks(self, rows, scale)


LIBRARY: Any = Dask(array_api_compat.dask.array)


# --- graphs of tasks --------------------------------------------------------------------------------------------------


class _Tasks(NamedTuple):
    """Tasks for the chunks of logits (..., V), whose compute dtype is `dtype`."""

    logits: Array
    dtype: Any

    def argument(self, a: Any, axes: tuple[int, ...]) -> tuple[Any, tuple[int, ...] | None]:
        """An array with the axes of the logits that it has, in chunks like theirs; and anything else as it is."""
        if not isinstance(a, da.Array):
            return a, None
        return a.rechunk(tuple(self.logits.chunks[i] for i in axes)), axes

    def of(self, function: Any, axes: tuple[int, ...], *arguments: tuple[Any, tuple[int, ...] | None]) -> Array:
        """What the function makes of the chunks of its arguments, as chunks along those axes."""
        dtype = self.logits.dtype if len(axes) == self.logits.ndim else self.dtype
        meta = da.utils.meta_from_array(self.logits, len(axes), dtype=dtype)
        given = (part for argument in arguments for part in argument)
        return da.blockwise(function, axes, *given, align_arrays=False, meta=meta)


def _filled(rows: Rows) -> Rows:
    """Without chunks of no classes, which have no maximum."""
    x = rows.logits
    return rows._replace(logits=x.rechunk((*x.chunks[:-1], tuple(n for n in x.chunks[-1] if n))))


def _is_of_chunks(rows: Rows) -> bool:
    coefficients = rows.coefficients
    in_pieces = rows.soft is None or not coefficients.smoothing
    return coefficients.measure == LOSS and (in_pieces or rows.logits.numblocks[-1] == 1)


def _of_chunks(library: Library, rows: Rows, scale: Array | float | None) -> tuple[Array, Array]:
    """The token losses and the gradient. scale: None for the losses alone; a number, 0-d, or of the tokens' shape."""
    x = rows.logits
    every = tuple(range(x.ndim))
    tokens, classes = every[:-1], every[-1:]
    tasks, weight = _Tasks(x, rows.dtype), rows.weight
    if weight is None:
        # It tells the shape of a chunk's tokens, too.
        weight = da.ones_like(x[..., 0], dtype=rows.dtype)
    weights, factor = tasks.argument(weight, tokens), tasks.argument(scale, tokens if getattr(scale, "ndim", 0) else ())
    common = rows._replace(logits=None, targets=None, soft=None, weight=None, class_weights=None)
    piece = (
        (x, every),
        tasks.argument(rows.targets, tokens),
        tasks.argument(rows.soft, every),
        weights,
        tasks.argument(rows.class_weights, classes),
        (da.from_array(np.cumsum((0, *x.chunks[-1][:-1])), chunks=1), classes),
    )
    if x.numblocks[-1] == 1:
        walk = tasks.of(partial(_walk, common), every, *piece, factor), every
        return tasks.of(_losses_of_walk, tokens, walk), tasks.of(_gradient_of_walk, every, walk)
    own: Array | float = 1.0
    if rows.class_weights is not None and rows.soft is None:
        own = library.weights_of(rows.class_weights, rows.targets)
    pieces = tasks.of(partial(_statistics, common), every, *piece)
    merged = da.reduction(pieces, _as_it_is, _merged, axis=-1, concatenate=False, dtype=rows.dtype, meta=weight._meta)
    found = merged, tokens
    numbers = partial(_outcome, rows.coefficients)
    result = tasks.of(numbers, tokens, found, weights, tasks.argument(own, tokens), factor), tokens
    losses = tasks.of(_losses, tokens, result, weights)
    return losses, tasks.of(partial(_gradient, common), every, *piece, found, result)


# --- tasks, of chunks that have values; a process may have nothing but their pickles ----------------------------------


def _piece(
    rows: Rows, x: Array, targets: Array, soft: Array, weight: Array, class_weights: Array, first: Array
) -> tuple[Library, Rows]:
    """The library of a chunk, and the piece of the rows that it is: flat, and with the name of its engine."""
    library: Any = libraries.of(x)
    rows = rows._replace(
        logits=library.enter_matrix(x),
        targets=targets,
        soft=None if soft is None else library.enter_matrix(soft),
        weight=weight,
        class_weights=class_weights,
        first_class=int(first[0]),
        engine=library.engine(rows.engine, x, library.dtype_name(x), x.shape[-1], LOSS),
    )
    return library, views.flat(library, rows)


def _walk(rows: Rows, x: Array, *others: Array) -> tuple[Array, Array | None]:
    """Of a chunk of whole rows, in one pass."""
    *parts, scale = others
    library, rows = _piece(rows, x, *parts)
    with library.computing(x):
        losses, d = views.walk(library, rows, _per_token(library, scale, x.shape[:-1]))
        losses = library.xp.reshape(losses, x.shape[:-1])
        return losses, None if d is None else library.leave_matrix(library.xp.reshape(d, x.shape), x)


def _losses_of_walk(walks: list[tuple[Array, Array]]) -> Array:
    return walks[0][0]


def _gradient_of_walk(walk: tuple[Array, Array]) -> Array:
    return walk[1]


def _statistics(rows: Rows, x: Array, *others: Array) -> RowStatistics:
    library, rows = _piece(rows, x, *others)
    with library.computing(x):
        return select.engine(rows.engine).statistics(library, rows)


def _as_it_is(x: RowStatistics, axis: Any, keepdims: bool) -> RowStatistics:
    return x


def _merged(pieces: list[RowStatistics] | RowStatistics, axis: Any, keepdims: bool) -> RowStatistics:
    """Of some pieces side by side, or of one."""
    pieces = pieces if isinstance(pieces, list) else [pieces]
    library: Any = libraries.of(pieces[0].maximum)
    with library.computing(pieces[0].maximum):
        return statistics.merge(library, pieces)


def _outcome(
    coefficients: Coefficients, found: RowStatistics, weight: Array, own: Array | float, scale: Array | float | None
) -> Outcome:
    library: Any = libraries.of(found.maximum)
    with library.computing(found.maximum):
        weight, own, scale = (_per_token(library, a, weight.shape) for a in (weight, own, scale))
        return outcome(library, found, own, weight, scale, coefficients)


def _per_token(library: Library, a: Array | float | None, tokens: tuple[int, ...]) -> Array | float | None:
    return a if a is None or type(a) is float else library.per_token(a, tokens)


def _losses(result: Outcome, weight: Array) -> Array:
    library: Any = libraries.of(result.loss)
    return library.xp.reshape(result.loss, weight.shape)


def _gradient(rows: Rows, x: Array, *others: Any) -> Array:
    *parts, found, result = others
    library, rows = _piece(rows, x, *parts)
    with library.computing(x):
        out = library.empty_like(rows.logits)
        select.engine(rows.engine).gradient(library, rows, found, result, out)
        return library.leave_matrix(library.xp.reshape(out, x.shape), x)
