"""Short rows into the lanes of vectors and back: one row in each lane."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from crossent.engines.numba_cpu.elements import masked_load, masked_store, pointer_to, shape_in_memory
from crossent.engines.numba_cpu.vectors import INT32, count_of


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """The transposes of the square blocks that stand side by side in c vectors of a multiple of c lanes.

    Smaller blocks are exchanged across the diagonals, of half the size each time.
    """
    rows, n = list(rows), rows[0].type.count
    size = len(rows) // 2
    while size:
        upper = [k if not k & size else n + k - size for k in range(n)]
        lower = [k + size if not k & size else n + k for k in range(n)]
        for i in range(len(rows)):
            if not i & size:
                a, b = rows[i], rows[i + size]
                rows[i] = _shuffled(builder, a, b, upper)
                rows[i + size] = _shuffled(builder, a, b, lower)
        size //= 2
    return rows


def _shuffled(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(order)), order))


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """The lanes of vectors, one vector after the other."""
    while len(parts) > 1:
        order = list(range(2 * parts[0].type.count))
        parts = [_shuffled(builder, a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


@intrinsic(prefer_literal=True)
def rows_to_lanes(typingctx: Any, like: Any, table: Any, row: Any, step: Any, count: Any, width: Any, most: Any) -> Any:
    """Write `count` rows, `step` bytes apart from address `row` on, as the lanes of the vectors of a table.

    Takes the first elements of the rows, `width` of them but at most the literal `most`, or as many as there are lanes;
    fills that many vectors. The elements keep their format; lanes without a row hold that of the last.
    """
    n = count_of(like)
    if not isinstance(most, types.IntegerLiteral):
        return None
    c = min(most.literal_value, n)
    memory, _ = shape_in_memory(like, n)
    part, _ = shape_in_memory(like, c)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, table, row, step, count, width, _ = args
        last = builder.sub(count, ir.Constant(count.type, 1))
        loaded = []
        for r in range(n):
            number = ir.Constant(last.type, r)
            taken = builder.select(builder.icmp_signed("<", last, number), last, number)
            place = builder.add(row, builder.mul(step, taken))
            loaded.append(masked_load(builder, like.dtype, part, place, width)[0])
        vectors = [_joined(builder, loaded[i::c]) for i in range(c)]
        for j, vector in enumerate(_transposed(builder, vectors)):
            place = builder.add(table, ir.Constant(table.type, j * n * like.dtype.bitwidth // 8))
            builder.store(vector, pointer_to(builder, place, memory))
        return context.get_dummy_value()

    return signature(types.none, like, *[types.intp] * 5, most), emit


@intrinsic(prefer_literal=True)
def lanes_to_rows(typingctx: Any, like: Any, table: Any, row: Any, step: Any, count: Any, width: Any, most: Any) -> Any:
    """The way back from `rows_to_lanes`: write the lanes of the vectors of a table as rows."""
    n = count_of(like)
    if not isinstance(most, types.IntegerLiteral):
        return None
    c = min(most.literal_value, n)
    memory, _ = shape_in_memory(like, n)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, table, row, step, count, width, _ = args
        vectors = []
        for j in range(c):
            place = builder.add(table, ir.Constant(table.type, j * n * like.dtype.bitwidth // 8))
            vectors.append(builder.load(pointer_to(builder, place, memory), typ=memory))
        vectors = _transposed(builder, vectors)
        nothing = ir.Constant(width.type, 0)
        for r in range(n):
            number = ir.Constant(count.type, r)
            taken = builder.select(builder.icmp_signed("<", number, count), width, nothing)
            vector = vectors[r % c]
            value = _shuffled(builder, vector, vector, list(range(r - r % c, r - r % c + c)))
            masked_store(builder, like.dtype, value, builder.add(row, builder.mul(step, number)), taken)
        return context.get_dummy_value()

    return signature(types.none, like, *[types.intp] * 5, most), emit


def _picked(builder: ir.IRBuilder, sources: list[ir.Value], places: list[int]) -> ir.Value:
    """The vector of the lanes `places` of the sources, counted from the first lane of the first to the last of all."""
    n = sources[0].type.count
    value = _shuffled(builder, sources[0], sources[1], [p if p < 2 * n else 0 for p in places])
    for k, source in enumerate(sources[2:], 2):
        value = _shuffled(builder, value, source, [n + p % n if p // n == k else i for i, p in enumerate(places)])
    return value


def _left(builder: ir.IRBuilder, count: ir.Value, taken: int) -> ir.Value:
    """What is left of a count, and not less than nothing."""
    number = ir.Constant(count.type, taken)
    rest = builder.sub(count, number)
    return builder.select(builder.icmp_signed(">", count, number), rest, ir.Constant(count.type, 0))


@intrinsic(prefer_literal=True)
def few_to_lanes(typingctx: Any, like: Any, table: Any, row: Any, count: Any, width: Any) -> Any:
    """Like `rows_to_lanes` for rows of `width` (a literal) elements that lie one after the other."""
    n = count_of(like)
    if not isinstance(width, types.IntegerLiteral):
        return None
    v = width.literal_value
    memory, _ = shape_in_memory(like, n)
    step = n * like.dtype.bitwidth // 8

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, table, row, count, _ = args
        elements = builder.mul(count, ir.Constant(count.type, v))
        sources = []
        for k in range(v):
            place = builder.add(row, ir.Constant(row.type, k * step))
            sources.append(masked_load(builder, like.dtype, memory, place, _left(builder, elements, k * n))[0])
        for j in range(v):
            vector = _picked(builder, sources, [j + v * r for r in range(n)])
            place = builder.add(table, ir.Constant(table.type, j * step))
            builder.store(vector, pointer_to(builder, place, memory))
        return context.get_dummy_value()

    return signature(types.none, like, *[types.intp] * 3, width), emit


@intrinsic(prefer_literal=True)
def lanes_to_few(typingctx: Any, like: Any, table: Any, row: Any, count: Any, width: Any) -> Any:
    """Like `lanes_to_rows` for rows of `width` (a literal) elements that lie one after the other."""
    n = count_of(like)
    if not isinstance(width, types.IntegerLiteral):
        return None
    v = width.literal_value
    memory, _ = shape_in_memory(like, n)
    step = n * like.dtype.bitwidth // 8

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, table, row, count, _ = args
        elements = builder.mul(count, ir.Constant(count.type, v))
        sources = []
        for j in range(v):
            place = builder.add(table, ir.Constant(table.type, j * step))
            sources.append(builder.load(pointer_to(builder, place, memory), typ=memory))
        for k in range(v):
            # Element e of the rows is number e mod v of row e div v.
            vector = _picked(builder, sources, [e % v * n + e // v for e in range(k * n, k * n + n)])
            place = builder.add(row, ir.Constant(row.type, k * step))
            masked_store(builder, like.dtype, vector, place, _left(builder, elements, k * n))
        return context.get_dummy_value()

    return signature(types.none, like, *[types.intp] * 3, width), emit
