"""From tokens of any shape to matrices of rows, without copying the logits: eager memory, walked by an engine.

Rows that no two-dimensional view can hold (a class axis in the middle, say) are walked place by place, or copied a
chunk at a time where the places are small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from crossent import arrays, choice
from crossent.arrays import Array
from crossent.calls import Call
from crossent.engines import rows as block_of
from crossent.engines.rows import Rows

# Elements copied at a time.
CHUNK = 1 << 20


def walk(call: Call, scale: Array | float | None = None, out: Array | None = None) -> tuple[Array, Array | None]:
    """The token losses (N,) of a call, and with `scale` the gradient (..., V), in `out` where that is safe."""
    losses = arrays.empty(call.xp, math.prod(call.lead), arrays.compute_dtype(call.xp, call.dtype), call.place)
    d = None
    if scale is not None:
        tokens = call.tokens
        others = (call.targets, tokens.classes, tokens.weight, call.class_weights, call.denominator, scale)
        d = out
        if out is None or not _is_safe(out, call.logits, others):
            d = arrays.new_like(call.logits)
    _walk(call, losses, scale, d)
    return losses, d


def _is_safe(out: Array, logits: Array, others: tuple[Array | float | None, ...]) -> bool:
    """Whether the gradient may be written while inputs are still read: over the logits, or apart from all of them."""
    return (arrays.is_same_memory(out, logits) or not arrays.may_overlap(out, logits)) and not any(
        x is not None and not isinstance(x, float) and arrays.may_overlap(out, x) for x in others
    )


def _walk(call: Call, losses: Array, scale: Array | float | None, d: Array | None) -> None:
    xp, index, weight = call.xp, call.tokens.classes, call.tokens.weight
    if len(call.lead) != 1:
        index = None if index is None else xp.reshape(index, (-1,))
        weight = None if weight is None else xp.reshape(weight, (-1,))
    soft, coefficients = call.targets, call.coefficients
    run = choice.engine(call.engine).run
    start = 0
    for place in _places(call.lead, [x for x in (call.logits, soft, d) if x is not None]):
        x = _matrix(call.logits, place)
        stop = start + x.shape[0]
        rows = Rows(x, index, None if soft is None else _matrix(soft, place), weight, call.class_weights, coefficients)
        part, factor = losses, scale
        if place:
            # A view of everything would be one more operation of the library's.
            rows = rows.part(start, stop, x, rows.soft)
            part, factor = losses[start:stop], block_of.of_rows(scale, start, stop)
        if d is None:
            run(xp, rows, part)
        else:
            matrix = _matrix(d, place)
            run(xp, rows, part, factor, matrix)
            if not arrays.may_overlap(matrix, d):
                d[place] = arrays.namespace(d).reshape(matrix, d[place].shape)
        start = stop


def _matrix(x: Array, place: tuple[Any, ...]) -> Array:
    part = x[place] if place else x
    return part if part.ndim == 2 else arrays.namespace(x).reshape(part, (math.prod(part.shape[:-1]), part.shape[-1]))


def _places(lead: tuple[int, ...], matrices: list[Array]) -> Iterator[tuple[Any, ...]]:
    """Indices of consecutive tokens whose rows are a two-dimensional view of every array, or small enough to copy."""
    if len(lead) <= 1 or all(map(_has_view, matrices)):
        yield ()
        return
    size = math.prod(matrices[0].shape[1:])
    if size >= CHUNK:
        for i in range(lead[0]):
            for rest in _places(lead[1:], [x[i] for x in matrices]):
                yield (i, *rest)
        return
    step = max(1, CHUNK // max(size, 1))
    for i in range(0, lead[0], step):
        yield (slice(i, i + step),)


def _has_view(x: Array) -> bool:
    """Whether all axes of `x` but the last merge into one without a copy."""
    strides = arrays.strides_of(x)
    axes = [(n, step) for n, step in zip(x.shape[:-1], strides[:-1], strict=True) if n != 1] if strides else []
    return all(step == n * inner for (_, step), (n, inner) in pairwise(axes))
