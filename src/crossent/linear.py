"""From hidden states to losses without the logits of all tokens: a block of tokens at a time.

    z = hidden·weightᵀ + bias         of all classes, in the compute dtype
    losses, d = the walk of z         by the engine, in place: d lies where z lay
    d_hidden = d·weight               d_weight += dᵀ·hidden               d_bias += Σ d

Tokens that do not count are left out before the first product. Neither options nor libraries are known here: the
products are the library's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from crossent import views
from crossent.math import formula
from crossent.math.parts import nothing_of, put_together
from crossent.math.rows import Head, Rows, over_lines
from crossent.math.statistics import Described, RowStatistics, Spread
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Library

# Bytes of a part of the weight that is widened, or of a product that is added to its gradient.
TILE = 8 * 1024 * 1024


class Gradients(NamedTuple):
    """Those that were asked for, in the compute dtype: of hidden (N, D), weight (V, D) and bias (V,)."""

    hidden: Array | None = None
    weight: Array | None = None
    bias: Array | None = None


class Block(NamedTuple):
    """Consecutive ones of the tokens that count: where they are, their hidden states in the compute dtype, their rows.

    rows: with their logits, in memory that is used again for the next block where the library computes in place.
    """

    places: Array | slice
    hidden: Array
    rows: Rows


def walk(
    library: Library, rows: Rows, scale: Array | float | None = None, needs: tuple[bool, ...] = (False, False, False)
) -> tuple[Array, Gradients]:
    """The token losses (N,) of rows whose logits are a `Head`, and with `scale` the gradients that are needed."""
    head: Head = rows.logits
    n = math.prod(head.hidden.shape[:-1])
    losses = library.xp.zeros((n,), dtype=rows.dtype, device=library.device(head.hidden))
    d_hidden = nothing(library, rows, (needs[0], False, False)).hidden
    total = Gradients()
    for block in blocks(library, rows):
        factor = scale
        if not (scale is None or isinstance(scale, float)) and scale.ndim:
            factor = taken(library, scale, block.places)
        found, total = _of_block(library, head, block, factor, needs, total)
        library.put_rows(losses, block.places, found)
        if d_hidden is not None:
            library.put_rows(d_hidden, block.places, total.hidden)
    if d_hidden is not None and rows.parts is not None:
        # Each part has what its own classes say.
        d_hidden = rows.parts.group.total(d_hidden)
    none = nothing(library, rows, (False, needs[1] and total.weight is None, needs[2] and total.bias is None))
    bias = none.bias if total.bias is None else library.flat(total.bias)
    return losses, Gradients(d_hidden, none.weight if total.weight is None else total.weight, bias)


def statistics(library: Library, rows: Rows) -> RowStatistics:
    """The statistics (N,) of whole rows, of whose classes a `Head` makes a part; tokens that are left out have none."""
    if rows.soft is not None and rows.coefficients.smoothing:
        # They are as large as the logits.
        return library.statistics(filled(library, rows))
    return put_together(library, flat(library, rows), partial(_of_part, library))


def _of_part(library: Library, rows: Rows) -> RowStatistics:
    head: Head = rows.logits
    parts, places, block = [], [], None
    for block in blocks(library, rows):
        places.append(block.places)
        parts.append(views.of_part(library, block.rows))
    n = head.hidden.shape[0]
    if not parts:
        empty = library.xp.zeros((n, 0), dtype=rows.dtype, device=library.device(head.hidden))
        return nothing_of(library, rows._replace(logits=empty))
    if len(parts) == 1 and head.made is not None:
        head.made.append(block)
    if head.places is None:
        return formula.joined(library, parts)

    def whole(*lines: Array) -> Array:
        line = library.xp.zeros((n,), dtype=lines[0].dtype, device=library.device(lines[0]))
        for place, part in zip(places, lines, strict=True):
            library.put_rows(line, place, part)
        return line

    found: RowStatistics = over_lines(whole, *parts)
    return found


def describe(library: Library, rows: Rows) -> Described:
    """What rows whose logits are a `Head` tell, each (N,); 0 of the tokens that are left out."""
    head: Head = rows.logits
    n = math.prod(head.hidden.shape[:-1])
    lines = [library.xp.zeros((n,), dtype=rows.dtype, device=library.device(head.hidden)) for _ in range(5)]
    for block in blocks(library, rows):
        found = library.described(block.rows)
        for line, part in zip(lines, (found.losses, found.maximum, *found.spread), strict=True):
            library.put_rows(line, block.places, part)
    losses, maximum, *spread = lines
    return Described(losses, maximum, Spread(*spread))


def filled(library: Library, rows: Rows) -> Rows:
    """Traced or lazy rows with one axis of tokens, and with their logits where these are a `Head`."""
    if not isinstance(rows.logits, Head):
        return views.flat(library, rows)
    return _block(library, flat(library, rows), slice(0, math.prod(rows.logits.hidden.shape[:-1])), None).rows


def nothing(library: Library, rows: Rows, needs: tuple[bool, ...]) -> Gradients:
    """The gradients that are needed where no token counts."""
    head: Head = rows.logits
    width, v, device = head.hidden.shape[-1], rows.width, library.device(head.hidden)
    shapes = (math.prod(head.hidden.shape[:-1]), width), (v, width), (v,)
    zeros = (
        library.xp.zeros(shape, dtype=rows.dtype, device=device) if need else None
        for shape, need in zip(shapes, needs, strict=True)
    )
    return Gradients(*zeros)


def whole(
    library: Library, rows: Rows, scale: Array | float | None = None, needs: tuple[bool, ...] = (False, False, False)
) -> tuple[Array, Gradients]:
    """The same in one block, of traced or lazy arrays, or of some that a graph follows."""
    head: Head = rows.logits
    block = _block(library, flat(library, rows), slice(0, math.prod(head.hidden.shape[:-1])), None)
    losses, found = _of_block(library, head, block, scale, needs, Gradients())
    if found.hidden is not None and rows.parts is not None:
        found = found._replace(hidden=rows.parts.group.total(found.hidden))
    return losses, found._replace(bias=None if found.bias is None else library.flat(found.bias))


def blocks(library: Library, rows: Rows) -> Iterator[Block]:
    """The tokens that count, in blocks that the workspace has room for."""
    head: Head = rows.logits
    rows = flat(library, rows)
    if head.made:
        made: Block = head.made.pop()
        yield made._replace(rows=_taken(library, rows, made.places, made.rows.logits))
        return
    n, width = rows.logits.hidden.shape
    if head.places is not None:
        n = head.places.shape[0]
    size = 8 if rows.dtype == library.xp.float64 else 4
    # A block's logits, its hidden states and their gradient.
    height = max(1, (head.memory - _tile(head)) // max(1, size * (rows.width + 2 * width)))
    # All of one size, or the last would take as long as it had less to do.
    height = -(-n // max(1, -(-n // height)))
    memory = None
    if library.in_place:
        memory = library.workspace((height, rows.width), rows.dtype, head.hidden)
    for i in range(0, n, max(1, height)):
        j = min(i + height, n)
        places = slice(i, j) if head.places is None else head.places[i:j]
        yield _block(library, rows, places, None if memory is None else memory[: j - i, :])


def _of_block(
    library: Library, head: Head, block: Block, scale: Array | float | None, needs: tuple[bool, ...], total: Gradients
) -> tuple[Array, Gradients]:
    """The losses of a block and the gradient of its hidden states; those of weight and bias are added to `total`."""
    rows, tile = block.rows, _tile(head)
    if scale is None:
        return library.losses(rows), total
    losses, d = library.losses_and_gradient(rows, scale, rows.logits if library.in_place else None)
    d_hidden, d_weight, d_bias = None, total.weight, total.bias
    if needs[0]:
        for part, weight in _tiles(library, head.weight, rows.dtype, tile):
            d_hidden = library.add_product(d_hidden, d[:, part], weight, tile)
        if head.places is None and rows.weight is not None:
            # 0·∞ is none of what does not count.
            d_hidden = library.clear_rows(d_hidden, rows.weight == 0, None)
    if needs[1]:
        d_weight = library.add_product(d_weight, d.T, block.hidden, tile)
    if needs[2]:
        ones = library.xp.ones((1, d.shape[0]), dtype=rows.dtype, device=library.device(d))
        d_bias = library.add_product(d_bias, ones, d, tile)
    return losses, Gradients(d_hidden, d_weight, d_bias)


def _block(library: Library, rows: Rows, places: Array | slice, memory: Array | None) -> Block:
    head: Head = rows.logits
    weight = taken(library, rows.weight, places)
    h = _in(library, taken(library, head.hidden, places), rows.dtype)
    if head.places is None and weight is not None:
        # What does not count has no part in the gradient of the weight, whatever it is.
        h = library.clear_rows(h, weight == 0, None)
    if rows.parts is not None:
        h = rows.parts.group.shared(h)
    logits = _logits(library, head, h, rows.dtype, memory)
    return Block(places, h, _taken(library, rows, places, logits))


def _taken(library: Library, rows: Rows, places: Array | slice, logits: Array) -> Rows:
    """The rows at some places, whose logits are made."""
    of = partial(taken, library, places=places)
    targets, soft, weight = map(of, (rows.targets, rows.soft, rows.weight))
    return rows._replace(logits=logits, targets=targets, weight=weight, soft=soft, found=over_lines(of, rows.found))


def _tile(head: Head) -> int:
    return min(TILE, head.memory // 4)


def finished(library: Library, likes: tuple[Array | None, ...], found: Gradients) -> tuple[Array | None, ...]:
    """Gradients of the shapes of hidden, weight and bias as the call has them, rounded once to their dtypes."""
    return tuple(
        None if like is None or d is None else _finished(library, like, d) for like, d in zip(likes, found, strict=True)
    )


def _finished(library: Library, like: Array, d: Array) -> Array:
    xp, matrix = library.xp, library.enter_matrix(like)
    if d.dtype != matrix.dtype:
        d = xp.reshape(library.narrowed(d if d.ndim == 2 else d[None, :], matrix), d.shape)
    if math.prod(like.shape) != math.prod(d.shape):
        # Rows past the classes.
        rest = (like.shape[0] - d.shape[0], *d.shape[1:])
        d = xp.concat([d, xp.zeros(rest, dtype=d.dtype, device=library.device(d))])
    return library.leave_matrix(xp.reshape(d, tuple(like.shape)), like)


def flat(library: Library, rows: Rows) -> Rows:
    """Rows with one axis of tokens."""
    head: Head = rows.logits
    merged = views.flat(library, rows._replace(logits=head.hidden))
    return merged._replace(logits=head._replace(hidden=merged.logits))


def taken(library: Library, x: Array | None, places: Array | slice) -> Array | None:
    """What tokens have, of those at some places."""
    if x is None:
        return None
    return x[places, ...] if isinstance(places, slice) else library.xp.take(x, places, axis=0)


def _in(library: Library, x: Array, dtype: Array) -> Array:
    return x if x.dtype == dtype else library.widened(x, dtype)


def _tiles(library: Library, weight: Array, dtype: Array, tile: int) -> Iterator[tuple[slice, Array]]:
    """The weight in the compute dtype: as it is, or a part at a time."""
    v, width = weight.shape
    # What is recorded has no need of parts.
    step = v if weight.dtype == dtype or not library.in_place else max(1, tile // (8 * max(width, 1)))
    # Of no classes, one part of none.
    for a in range(0, max(v, 1), max(step, 1)):
        part = slice(a, min(a + step, v))
        yield part, _in(library, weight[part, :], dtype)


def _logits(library: Library, head: Head, h: Array, dtype: Array, out: Array | None) -> Array:
    parts = []
    for part, weight in _tiles(library, head.weight, dtype, _tile(head)):
        z = library.product(h, weight.T, None if out is None else out[:, part])
        if head.bias is not None:
            bias = _in(library, head.bias[None, part], dtype)
            # A transformation may map over the bias alone, and then the product has no room for the sum.
            if out is None:
                z = z + bias
            else:
                z += bias
        parts.append(z)
    if out is not None:
        return out
    return parts[0] if len(parts) == 1 else library.xp.concat(parts, axis=1)
