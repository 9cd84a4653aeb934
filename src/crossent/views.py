"""From tokens of any shape to matrices of rows, without copying the logits: eager memory, walked by an engine.

Rows that no two-dimensional view can hold (a class axis in the middle, say) are walked place by place, or copied a
chunk at a time where the places are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from crossent.engines import select
from crossent.math import formula
from crossent.math.parts import nothing_of, put_together, with_masses
from crossent.math.rows import Rows, cut_lines, of_rows
from crossent.math.statistics import Described, RowStatistics
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

# Elements copied at a time.
CHUNK = 1 << 20


class Memory(NamedTuple):
    """Where the elements of an array are; steps along its axes are in bytes."""

    address: int
    strides: tuple[int, ...]
    shape: tuple[int, ...]
    itemsize: int


def overlap(a: Memory | None, b: Memory | None) -> bool:
    """Whether two arrays may share memory; True where that cannot be told."""
    if a is None or b is None:
        return True
    (a_begin, a_end), (b_begin, b_end) = _extent(a), _extent(b)
    return a_begin < b_end and b_begin < a_end


def is_same(a: Memory | None, b: Memory | None) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same places."""
    return a is not None and b is not None and (a.address, a.strides) == (b.address, b.strides)


def overlaps_itself(x: Memory) -> bool:
    """Whether a step along some axis stays within what the axes of smaller steps cover; no other layout is in use."""
    reach = x.itemsize
    for step, n in sorted((abs(step), n) for step, n in zip(x.strides, x.shape, strict=True) if n > 1):
        if step < reach:
            return 0 not in x.shape
        reach += step * (n - 1)
    return False


def _extent(x: Memory) -> tuple[int, int]:
    if 0 in x.shape:
        return x.address, x.address
    reach = [(n - 1) * step for n, step in zip(x.shape, x.strides, strict=True)]
    return x.address + sum(r for r in reach if r < 0), x.address + sum(r for r in reach if r > 0) + x.itemsize


def is_safe(library: Library, out: Array, rows: Rows, others: tuple[Array | float | None, ...]) -> bool:
    """Whether the gradient may be written while inputs are still read: over the logits, or apart from all of them."""
    here, logits = library.memory(out), library.memory(rows.logits)
    given = (rows.soft, rows.targets, rows.weight, rows.class_weights, *others)
    return (is_same(here, logits) or not overlap(here, logits)) and not any(
        hasattr(x, "dtype") and overlap(here, library.memory(x)) for x in given
    )


def walk(
    library: Library, rows: Rows, scale: Array | float | None = None, out: Array | None = None
) -> tuple[Array, Array | None]:
    """The token losses (N,) of eager rows, and with `scale` the gradient (..., V), in `out` where it is given."""
    if rows.parts is not None:
        return _walk_part(library, rows, scale, out)
    logits = rows.logits
    shape = logits.shape
    n = shape[0] if len(shape) == 2 else math.prod(shape[:-1])
    losses = library.empty(n, rows.dtype, logits)
    d = None if scale is None else library.empty_like(logits) if out is None else out
    engine_walk = select.engine(rows.engine).walk
    if len(shape) == 2:
        engine_walk(library, rows, losses, scale, d)
        return losses, d
    for start, part, place in _matrices(library, rows, d):
        stop = start + part.logits.shape[0]
        if d is None:
            engine_walk(library, part, losses[start:stop], None, None)
        else:
            matrix = _matrix(library, d, place)
            engine_walk(library, part, losses[start:stop], of_rows(scale, start, stop), matrix)
            _put(library, d, place, matrix)
    return losses, d


def statistics(library: Library, rows: Rows) -> RowStatistics:
    """The statistics (N,) of whole rows, of whose classes these eager ones have a part."""
    if rows.soft is not None and rows.coefficients.smoothing:
        rows = flat(library, rows)
    return put_together(library, _with_lines(library, rows), partial(of_part, library))


def of_part(library: Library, rows: Rows) -> RowStatistics:
    """The statistics (N,) of the part of rows that these are."""
    if not rows.logits.shape[-1]:
        return nothing_of(library, rows)
    engine = select.engine(rows.engine)
    return formula.joined(library, [engine.statistics(library, part) for _, part, _ in _matrices(library, rows, None)])


def _walk_part(
    library: Library, rows: Rows, scale: Array | float | None, out: Array | None
) -> tuple[Array, Array | None]:
    """The same of rows of whose classes others have the rest."""
    found = statistics(library, rows) if rows.found is None else rows.found
    rows = _with_lines(library, rows)
    outcome = formula.outcome_of(library, found, rows, scale)
    if scale is None:
        return outcome.loss, None
    d = library.empty_like(rows.logits) if out is None else out
    if not rows.logits.shape[-1]:
        return outcome.loss, d
    walked = rows
    if found.shares is not None:
        # Of one axis of rows, and so is what they are walked with.
        walked = with_masses(library, flat(library, rows), found.shares)
    matrix = d if walked.logits.ndim == d.ndim else _matrix(library, d, ())
    engine = select.engine(rows.engine)
    for start, part, place in _matrices(library, walked, matrix):
        stop = start + part.logits.shape[0]
        here = _matrix(library, matrix, place)
        engine.gradient(library, part, cut_lines(found, start, stop), cut_lines(outcome, start, stop), here)
        _put(library, matrix, place, here)
    if matrix is not d:
        _put(library, d, (), matrix)
    return outcome.loss, d


def describe(library: Library, rows: Rows) -> Described:
    """What eager rows with hard targets tell besides their losses, each (N,)."""
    engine = select.engine(rows.engine)
    return formula.joined(library, [engine.describe(library, part) for _, part, _ in _matrices(library, rows, None)])


def flat(library: Library, rows: Rows) -> Rows:
    """The tokens as rows of one matrix; reshaping stays on the graph of a framework that follows the arrays."""
    n, reshape = math.prod(rows.logits.shape[:-1]), library.xp.reshape
    return _with_lines(library, rows)._replace(
        logits=reshape(rows.logits, (n, rows.logits.shape[-1])),
        soft=None if rows.soft is None else reshape(rows.soft, (n, rows.soft.shape[-1])),
    )


def _with_lines(library: Library, rows: Rows) -> Rows:
    """The rows with one axis of what is not a matrix."""
    n, reshape = math.prod(rows.logits.shape[:-1]), library.xp.reshape
    return rows._replace(
        targets=None if rows.targets is None else reshape(rows.targets, (n,)),
        weight=None if rows.weight is None else reshape(rows.weight, (n,)),
    )


def _matrices(library: Library, rows: Rows, d: Array | None) -> Iterator[tuple[int, Rows, tuple[Any, ...]]]:
    """Consecutive rows as matrices, the number of the first of them, and their place in the arrays."""
    rows, start = _with_lines(library, rows), 0
    for place in _places(library, rows.logits.shape[:-1], [x for x in (rows.logits, rows.soft, d) if x is not None]):
        x = _matrix(library, rows.logits, place)
        yield (
            start,
            rows.part(
                start, start + x.shape[0], x, rows.soft if rows.soft is None else _matrix(library, rows.soft, place)
            ),
            place,
        )
        start += x.shape[0]


def _put(library: Library, d: Array, place: tuple[Any, ...], matrix: Array) -> None:
    """Write a matrix to where it belongs, unless it is there."""
    if not overlap(library.memory(matrix), library.memory(d)):
        d[place] = library.xp.reshape(matrix, d[place].shape)


def _matrix(library: Library, x: Array, place: tuple[Any, ...]) -> Array:
    part = x[place] if place else x
    return part if part.ndim == 2 else library.xp.reshape(part, (math.prod(part.shape[:-1]), part.shape[-1]))


def _places(library: Library, tokens: tuple[int, ...], matrices: list[Array]) -> Iterator[tuple[Any, ...]]:
    """Indices of consecutive tokens whose rows are a two-dimensional view of every array, or small enough to copy."""
    if len(tokens) <= 1 or all(_has_view(library, x) for x in matrices):
        yield ()
        return
    size = math.prod(matrices[0].shape[1:])
    if size >= CHUNK:
        for i in range(tokens[0]):
            for rest in _places(library, tokens[1:], [x[i] for x in matrices]):
                yield (i, *rest)
        return
    step = max(1, CHUNK // max(size, 1))
    for i in range(0, tokens[0], step):
        yield (slice(i, i + step),)


def _has_view(library: Library, x: Array) -> bool:
    """Whether all axes of `x` but the last merge into one without a copy."""
    strides = library.strides(x)
    axes = [(n, step) for n, step in zip(x.shape[:-1], strides[:-1], strict=True) if n != 1] if strides else []
    return all(step == n * inner for (_, step), (n, inner) in pairwise(axes))
