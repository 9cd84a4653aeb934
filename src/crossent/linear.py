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
from typing import TYPE_CHECKING, NamedTuple

from crossent.math.rows import Head, Rows
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


def walk(
    library: Library, rows: Rows, scale: Array | float | None = None, needs: tuple[bool, ...] = (False, False, False)
) -> tuple[Array, Gradients]:
    """The token losses (N,) of rows whose logits are a `Head`, and with `scale` the gradients that are needed."""
    head: Head = rows.logits
    hidden = _matrix(library, head.hidden)
    n, width = hidden.shape
    rows = _flat(library, rows)
    device, xp = library.device(hidden), library.xp
    losses = xp.zeros((n,), dtype=rows.dtype, device=device)
    d_hidden = xp.zeros((n, width), dtype=rows.dtype, device=device) if needs[0] else None
    total = Gradients()
    tile = min(TILE, head.memory // 4)
    height = _height(library, rows, hidden.shape, tile)
    buffer = xp.empty((height, rows.vocabulary), dtype=rows.dtype, device=device) if library.in_place else None
    for i, j, places in _blocks(n, head.places, height):
        part = _part(library, rows, places)
        factor = scale if scale is None or isinstance(scale, float) or not scale.ndim else _taken(library, scale, places)
        memory = None if buffer is None else buffer[: j - i, :]
        found, total = _block(library, part, factor, needs, total, tile, memory)
        library.put_rows(losses, places, found)
        if d_hidden is not None:
            library.put_rows(d_hidden, places, total.hidden)
    return losses, _filled(library, rows, needs, total._replace(hidden=d_hidden))


def whole(
    library: Library, rows: Rows, scale: Array | float | None = None, needs: tuple[bool, ...] = (False, False, False)
) -> tuple[Array, Gradients]:
    """The same in one block, of traced or lazy arrays."""
    n = math.prod(rows.logits.hidden.shape[:-1])
    rows = _part(library, _flat(library, rows), slice(0, n))
    return _block(library, rows, scale, needs, Gradients(), TILE, None)


def _block(
    library: Library,
    rows: Rows,
    scale: Array | float | None,
    needs: tuple[bool, ...],
    total: Gradients,
    tile: int,
    memory: Array | None,
) -> tuple[Array, Gradients]:
    """The losses of a block and the gradient of its hidden states; those of weight and bias are added to `total`."""
    head: Head = rows.logits
    logits = _logits(library, head, rows.dtype, tile, memory)
    rows = rows._replace(logits=logits)
    if scale is None:
        return library.losses(rows), total
    losses, d = library.losses_and_gradient(rows, scale, memory)
    d_hidden, d_weight, d_bias = None, total.weight, total.bias
    if needs[0]:
        for part, weight in _tiles(library, head.weight, rows.dtype, tile):
            d_hidden = library.add_product(d_hidden, d[:, part], weight, tile)
    if needs[1]:
        d_weight = library.add_product(d_weight, d.T, head.hidden, tile)
    if needs[2]:
        ones = library.xp.ones((1, d.shape[0]), dtype=rows.dtype, device=library.device(d))
        d_bias = library.add_product(d_bias, ones, d, tile)
    return losses, Gradients(d_hidden, d_weight, d_bias)


def _part(library: Library, rows: Rows, places: Array | slice) -> Rows:
    """The rows of a block, with its hidden states in the compute dtype."""
    head: Head = rows.logits
    weight = _taken(library, rows.weight, places)
    h = _in(library, _taken(library, _matrix(library, head.hidden), places), rows.dtype)
    if head.places is None and weight is not None:
        # What does not count has no part in the gradient of the weight, whatever it is.
        h = library.clear_rows(h, weight == 0, None)
    targets, soft = _taken(library, rows.targets, places), _taken(library, rows.soft, places)
    return rows._replace(logits=head._replace(hidden=h), targets=targets, weight=weight, soft=soft)


def _filled(library: Library, rows: Rows, needs: tuple[bool, ...], found: Gradients) -> Gradients:
    """What is needed and nothing was added to is zero."""
    head: Head = rows.logits
    weight, bias = found.weight, found.bias
    xp, device, v = library.xp, library.device(head.weight), rows.vocabulary
    if needs[1] and weight is None:
        weight = xp.zeros((v, head.weight.shape[1]), dtype=rows.dtype, device=device)
    if needs[2]:
        bias = xp.zeros((v,), dtype=rows.dtype, device=device) if bias is None else library.flat(bias)
    return Gradients(found.hidden, weight, bias)


def _matrix(library: Library, x: Array) -> Array:
    return x if x.ndim == 2 else library.xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _flat(library: Library, rows: Rows) -> Rows:
    return rows._replace(
        targets=None if rows.targets is None else library.flat(rows.targets),
        weight=None if rows.weight is None else library.flat(rows.weight),
        soft=None if rows.soft is None else _matrix(library, rows.soft),
    )


def _height(library: Library, rows: Rows, shape: tuple[int, int], tile: int) -> int:
    """How many tokens a block has: what the workspace has room for, in blocks of one size."""
    head: Head = rows.logits
    n, width = shape
    if head.places is not None:
        n = head.places.shape[0]
    size = 8 if rows.dtype == library.xp.float64 else 4
    # A block's logits, its hidden states and their gradient.
    height = max(1, (head.memory - tile) // (size * (rows.vocabulary + 2 * width)))
    return -(-n // max(1, -(-n // height)))


def _blocks(n: int, places: Array | None, height: int) -> Iterator[tuple[int, int, Array | slice]]:
    """The tokens that count, in blocks: from which to which of them, and where they are."""
    count = n if places is None else places.shape[0]
    for i in range(0, count, height):
        j = min(i + height, count)
        yield i, j, slice(i, j) if places is None else places[i:j]


def _taken(library: Library, x: Array | None, places: Array | slice) -> Array | None:
    if x is None:
        return None
    return x[places, ...] if isinstance(places, slice) else library.xp.take(x, places, axis=0)


def _in(library: Library, x: Array, dtype: Array) -> Array:
    return x if x.dtype == dtype else library.widened(x, dtype)


def _tiles(library: Library, weight: Array, dtype: Array, tile: int) -> Iterator[tuple[slice, Array]]:
    """The weight in the compute dtype: as it is, or a part at a time."""
    v, width = weight.shape
    step = v if weight.dtype == dtype else max(1, tile // (8 * max(width, 1)))
    for a in range(0, v, step):
        part = slice(a, min(a + step, v))
        yield part, _in(library, weight[part, :], dtype)


def _logits(library: Library, head: Head, dtype: Array, tile: int, out: Array | None) -> Array:
    parts = []
    for part, weight in _tiles(library, head.weight, dtype, tile):
        z = library.product(head.hidden, weight.T, None if out is None else out[:, part])
        if head.bias is not None:
            z += _in(library, head.bias[None, part], dtype)
        parts.append(z)
    if out is not None:
        return out
    return parts[0] if len(parts) == 1 else library.xp.concat(parts, axis=1)
