"""Memory as vectors: an address, and the `Format` of its elements (`like`).

The formats are float32, float64, bfloat16 as uint16 bits and float16 as int16 bits. `load` widens to the compute dtype,
`store` rounds to nearest even. Arrays themselves stay outside: Numba counts references to them, and would call for that
between any two vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from crossent.engines.numba_cpu.lanes import numbered
from crossent.engines.numba_cpu.vectors import (
    INT32,
    LLVM,
    WIDTH,
    Format,
    Vector,
    compute_type,
    constant,
    count_of,
    declared,
    llvm_type,
    mangled,
    splat,
    vector_of,
)


def pointer_to(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    """An address as a pointer to elements of an LLVM type."""
    return builder.inttoptr(address, kind.as_pointer())


def shape_in_memory(like: Format, count: int | None) -> tuple[ir.Type, Callable[[ir.Type], ir.Type]]:
    """The LLVM type of `count` elements as they lie in memory (None: of one), and what makes such a type of another."""

    def shaped(kind: ir.Type) -> ir.Type:
        return kind if count is None else ir.VectorType(kind, count)

    return shaped(ir.IntType(16) if like.dtype.bitwidth == 16 else LLVM[like.dtype]), shaped


def emit_widened(
    builder: ir.IRBuilder, like: Format, value: ir.Value, shaped: Callable[[ir.Type], ir.Type]
) -> ir.Value:
    """Elements in the compute dtype."""
    if like.dtype == types.uint16:
        word = shaped(INT32)
        return builder.bitcast(builder.shl(builder.zext(value, word), constant(word, 16)), shaped(ir.FloatType()))
    if like.dtype == types.int16:
        return builder.fpext(builder.bitcast(value, shaped(ir.HalfType())), shaped(ir.FloatType()))
    return value


def _rounded_to_bfloat16(builder: ir.IRBuilder, value: ir.Value, shaped: Callable[[ir.Type], ir.Type]) -> ir.Value:
    """The bits of float32 numbers, of which the upper half is the nearest bfloat16.

    A NaN may have any payload but one that carries into its sign: see `plain` in `outcome`.
    """
    word = shaped(INT32)
    bits = builder.bitcast(value, word)
    # Half of the last place that stays, and the tie to the even neighbour.
    odd = builder.icmp_unsigned("!=", builder.and_(bits, constant(word, 0x10000)), constant(word, 0))
    return builder.add(bits, builder.select(odd, constant(word, 0x8000), constant(word, 0x7FFF)))


def emit_narrowed(
    builder: ir.IRBuilder, like: Format, value: ir.Value, shaped: Callable[[ir.Type], ir.Type]
) -> ir.Value:
    """Numbers in the compute dtype as elements, rounded to nearest even."""
    half = shaped(ir.IntType(16))
    if like.dtype == types.int16:
        return builder.bitcast(builder.fptrunc(value, shaped(ir.HalfType())), half)
    if like.dtype == types.uint16:
        bits = _rounded_to_bfloat16(builder, value, shaped)
        return builder.trunc(builder.lshr(bits, constant(bits.type, 16)), half)
    return value


def aligned(instruction: Any, like: Format) -> Any:
    """A load or store at an address that is a multiple of an element's size, and no more."""
    instruction.align = like.dtype.bitwidth // 8
    return instruction


@intrinsic
def load(typingctx: Any, like: Any, address: Any) -> Any:
    """The vector of elements of the format `like` from an address on, in the compute dtype."""
    kind = vector_of(like)
    memory, shaped = shape_in_memory(like, kind.count)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value = aligned(builder.load(pointer_to(builder, args[1], memory), typ=memory), like)
        return emit_widened(builder, like, value, shaped)

    return signature(kind, like, types.intp), emit


@intrinsic
def interleaved(typingctx: Any, like: Any) -> Any:
    """Whether `load_pair` gives the elements at even places and those at odd places, not the first and the last."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(1), int(like.dtype == types.uint16))

    return signature(types.boolean, like), emit


@intrinsic
def load_pair(typingctx: Any, like: Any, address: Any) -> Any:
    """Twice as many elements as `load`, as a pair of vectors, in the order that costs least: see `interleaved`."""
    kind = vector_of(like)
    memory, shaped = shape_in_memory(like, kind.count)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        if like.dtype == types.uint16:
            word = shaped(INT32)
            words = aligned(builder.load(pointer_to(builder, args[1], word), typ=word), like)
            halves = builder.shl(words, constant(word, 16)), builder.and_(words, constant(word, 0xFFFF0000))
            vectors = [builder.bitcast(x, llvm_type(kind)) for x in halves]
        else:
            step = ir.Constant(args[1].type, kind.count * like.dtype.bitwidth // 8)
            vectors = []
            for place in (args[1], builder.add(args[1], step)):
                value = aligned(builder.load(pointer_to(builder, place, memory), typ=memory), like)
                vectors.append(emit_widened(builder, like, value, shaped))
        return context.make_tuple(builder, sig.return_type, vectors)

    return signature(types.UniTuple(kind, 2), like, types.intp), emit


@intrinsic
def store_pair(typingctx: Any, like: Any, address: Any, a: Any, b: Any) -> Any:
    """Write a pair of vectors in the order of `load_pair`, rounded to the format `like`."""
    kind = vector_of(like)
    memory, shaped = shape_in_memory(like, kind.count)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, address, *vectors = args
        if like.dtype == types.uint16:
            word = shaped(INT32)
            even, odd = (_rounded_to_bfloat16(builder, x, shaped) for x in vectors)
            words = builder.or_(builder.lshr(even, constant(word, 16)), builder.and_(odd, constant(word, 0xFFFF0000)))
            aligned(builder.store(words, pointer_to(builder, address, word)), like)
        else:
            step = ir.Constant(address.type, kind.count * like.dtype.bitwidth // 8)
            for place, vector in zip((address, builder.add(address, step)), vectors, strict=True):
                value = emit_narrowed(builder, like, vector, shaped)
                aligned(builder.store(value, pointer_to(builder, place, memory)), like)
        return context.get_dummy_value()

    return signature(types.none, like, types.intp, kind, kind), emit


def masked_load(
    builder: ir.IRBuilder, element: types.Type, kind: ir.VectorType, address: ir.Value, count: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """The first `count` elements at an address, and the lanes that they are in."""
    mask = numbered(builder, kind.count, "<", count)
    pointer = kind.as_pointer()
    name = f"llvm.masked.load.v{kind.count}{mangled(element)}.p0"
    function = declared(builder, name, ir.FunctionType(kind, [pointer, INT32, mask.type, kind]))
    align = ir.Constant(INT32, element.bitwidth // 8)
    return builder.call(function, [builder.inttoptr(address, pointer), align, mask, ir.Constant(kind, None)]), mask


def masked_store(
    builder: ir.IRBuilder, element: types.Type, value: ir.Value, address: ir.Value, count: ir.Value
) -> None:
    """Write the first `count` lanes to an address."""
    mask = numbered(builder, value.type.count, "<", count)
    pointer = value.type.as_pointer()
    name = f"llvm.masked.store.v{value.type.count}{mangled(element)}.p0"
    function = declared(builder, name, ir.FunctionType(ir.VoidType(), [value.type, pointer, INT32, mask.type]))
    align = ir.Constant(INT32, element.bitwidth // 8)
    builder.call(function, [value, builder.inttoptr(address, pointer), align, mask])


@intrinsic
def load_first(typingctx: Any, like: Any, address: Any, count: Any, fill: Any) -> Any:
    """Like `load`, but it touches only the first `count` elements; the other lanes hold the number `fill`."""
    kind = vector_of(like)
    memory, shaped = shape_in_memory(like, kind.count)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value, mask = masked_load(builder, like.dtype, memory, args[1], args[2])
        return builder.select(mask, emit_widened(builder, like, value, shaped), args[3])

    return signature(kind, like, types.intp, types.intp, kind), emit


@intrinsic
def load_wide(typingctx: Any, like: Any, address: Any, count: Any) -> Any:
    """`count` float64 numbers from an address on, one for each lane of the compute dtype of the format `like`."""
    kind = Vector(types.float64, count_of(like))

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return masked_load(builder, types.float64, llvm_type(kind), args[1], args[2])[0]

    return signature(kind, like, types.intp, types.intp), emit


@intrinsic
def load_integers(typingctx: Any, like: Any, address: Any, count: Any) -> Any:
    """`count` int64 numbers from an address on, as a vector of the compute dtype of the format `like`; −1 elsewhere."""
    kind = vector_of(like)
    word = ir.VectorType(ir.IntType(64), kind.count)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value, mask = masked_load(builder, types.int64, word, args[1], args[2])
        return builder.sitofp(builder.select(mask, value, constant(word, -1)), llvm_type(kind))

    return signature(kind, like, types.intp, types.intp), emit


def _emit_count(builder: ir.IRBuilder, mask: ir.Value) -> ir.Value:
    bits = ir.IntType(mask.type.count)
    return builder.zext(builder.ctpop(builder.bitcast(mask, bits)), ir.IntType(64))


@intrinsic
def count_outside(typingctx: Any, like: Any, address: Any, count: Any, stop: Any, ignores: Any, ignored: Any) -> Any:
    """How many of `count` int64 numbers from an address on are negative or not below `stop`, and not ignored.

    Of more than a vector of the compute dtype of the format `like` has lanes, only so many are looked at.
    """
    number_of = count_of(like)
    word = ir.VectorType(ir.IntType(64), number_of)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, address, count, stop, ignores, ignored = args
        value, mask = masked_load(builder, types.int64, word, address, count)
        outside = builder.and_(mask, builder.icmp_unsigned(">=", value, splat(builder, stop, number_of)))
        other = builder.icmp_signed("!=", value, splat(builder, ignored, number_of))
        ignores = builder.trunc(ignores, ir.IntType(1))
        other = builder.or_(other, splat(builder, builder.not_(ignores), number_of))
        return _emit_count(builder, builder.and_(outside, other))

    kinds = (like, types.intp, types.intp, types.intp, types.boolean, types.intp)
    return signature(types.intp, *kinds), emit


@intrinsic
def mark_others(typingctx: Any, like: Any, address: Any, count: Any, ignored: Any, marks: Any) -> Any:
    """Of as many numbers, write 1 for each that is not `ignored` and 0 for the others to the address `marks`.

    The marks have the format `like`. Returns how many are not ignored.
    """
    number_of = count_of(like)
    word = ir.VectorType(ir.IntType(64), number_of)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, address, count, ignored, marks = args
        value, mask = masked_load(builder, types.int64, word, address, count)
        other = builder.icmp_signed("!=", value, splat(builder, ignored, number_of))
        kind = llvm_type(vector_of(like))
        masked_store(builder, like.dtype, builder.uitofp(other, kind), marks, count)
        return _emit_count(builder, builder.and_(other, mask))

    return signature(types.intp, like, types.intp, types.intp, types.intp, types.intp), emit


@intrinsic
def store(typingctx: Any, like: Any, address: Any, vector: Any) -> Any:
    """Write a vector at an address, rounded to the format `like`."""
    memory, shaped = shape_in_memory(like, count_of(like))

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value = emit_narrowed(builder, like, args[2], shaped)
        aligned(builder.store(value, pointer_to(builder, args[1], memory)), like)
        return context.get_dummy_value()

    return signature(types.none, like, types.intp, vector_of(like)), emit


@intrinsic
def store_first(typingctx: Any, like: Any, address: Any, vector: Any, count: Any) -> Any:
    """Like `store`, but it writes only the first `count` elements."""
    _, shaped = shape_in_memory(like, count_of(like))

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        masked_store(builder, like.dtype, emit_narrowed(builder, like, args[2], shaped), args[1], args[3])
        return context.get_dummy_value()

    return signature(types.none, like, types.intp, vector_of(like), types.intp), emit


@intrinsic
def load_one(typingctx: Any, like: Any, address: Any) -> Any:
    """The element of the format `like` at an address, in the compute dtype."""
    memory, shaped = shape_in_memory(like, None)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value = aligned(builder.load(pointer_to(builder, args[1], memory), typ=memory), like)
        return emit_widened(builder, like, value, shaped)

    return signature(compute_type(like), like, types.intp), emit


@intrinsic
def store_one(typingctx: Any, like: Any, address: Any, number: Any) -> Any:
    """Write a number at an address, rounded to the format `like`."""
    memory, shaped = shape_in_memory(like, None)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value = emit_narrowed(builder, like, args[2], shaped)
        aligned(builder.store(value, pointer_to(builder, args[1], memory)), like)
        return context.get_dummy_value()

    return signature(types.none, like, types.intp, compute_type(like)), emit


@intrinsic
def load_place(typingctx: Any, address: Any) -> Any:
    """The int64 number at an address."""
    word = ir.IntType(64)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(pointer_to(builder, args[0], word), typ=word)

    return signature(types.intp, types.intp), emit


@intrinsic
def store_place(typingctx: Any, address: Any, number: Any) -> Any:
    """Write an int64 number at an address."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.store(args[1], pointer_to(builder, args[0], args[1].type))
        return context.get_dummy_value()

    return signature(types.none, types.intp, types.intp), emit


@intrinsic
def load_int32(typingctx: Any, address: Any) -> Any:
    """The int32 number at an address, as an int64."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.sext(builder.load(pointer_to(builder, args[0], INT32), typ=INT32), ir.IntType(64))

    return signature(types.intp, types.intp), emit


@intrinsic
def store_int32(typingctx: Any, address: Any, number: Any) -> Any:
    """Write a number at an address as an int32."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.store(builder.trunc(args[1], INT32), pointer_to(builder, args[0], INT32))
        return context.get_dummy_value()

    return signature(types.none, types.intp, types.intp), emit


@intrinsic
def load_single(typingctx: Any, address: Any) -> Any:
    """The float32 number at an address, as a float64."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        single = ir.FloatType()
        return builder.fpext(builder.load(pointer_to(builder, args[0], single), typ=single), ir.DoubleType())

    return signature(types.float64, types.intp), emit


@intrinsic
def add_atomically(typingctx: Any, address: Any, number: Any) -> Any:
    """Add to the int64 number at an address, which other threads see at once; what stood there before."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.atomic_rmw("add", pointer_to(builder, args[0], args[1].type), args[1], "seq_cst")

    return signature(types.intp, types.intp, types.intp), emit


@intrinsic
def call_at(typingctx: Any, function: Any, argument: Any) -> Any:
    """What the function of C's at an address makes of an address, or of any int64."""
    word = ir.IntType(64)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(word, [word])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])

    return signature(types.intp, types.intp, types.intp), emit


@intrinsic
def answer_at(typingctx: Any, function: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """What the function of C's at an address answers, an int32, to as many of four words as it takes: it does not see
    those that are in registers beside.
    """
    word = ir.IntType(64)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        kind = ir.FunctionType(INT32, [word] * 4)
        return builder.sext(builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:]), word)

    return signature(types.intp, *[types.intp] * 5), emit


@intrinsic
def load_double(typingctx: Any, address: Any) -> Any:
    """The float64 number at an address."""
    double = ir.DoubleType()

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(pointer_to(builder, args[0], double), typ=double)

    return signature(types.float64, types.intp), emit


@intrinsic
def store_double(typingctx: Any, address: Any, number: Any) -> Any:
    """Write a float64 number at an address."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.store(args[1], pointer_to(builder, args[0], args[1].type))
        return context.get_dummy_value()

    return signature(types.none, types.intp, types.float64), emit


@intrinsic
def copy_one(typingctx: Any, like: Any, target: Any, source: Any) -> Any:
    """Copy an element of the format `like` from one address to another."""
    memory, _ = shape_in_memory(like, None)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        value = aligned(builder.load(pointer_to(builder, args[2], memory), typ=memory), like)
        aligned(builder.store(value, pointer_to(builder, args[1], memory)), like)
        return context.get_dummy_value()

    return signature(types.none, like, types.intp, types.intp), emit


def _prefetch(name: str, doc: str, write: int) -> Any:
    def ask(typingctx: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
            pointer = ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [pointer, INT32, INT32, INT32])
            function = declared(builder, "llvm.prefetch.p0", kind)
            arguments = [ir.Constant(INT32, k) for k in (write, 3, 1)]
            builder.call(function, [pointer_to(builder, args[0], ir.IntType(8)), *arguments])
            return context.get_dummy_value()

        return signature(types.none, types.intp), emit

    ask.__name__, ask.__doc__ = name, doc
    return intrinsic(ask)


ask_to_read = _prefetch("ask_to_read", "Ask for the cache line at an address, which need not exist.", 0)
ask_to_write = _prefetch("ask_to_write", "Ask for the cache line at an address for writing; it need not exist.", 1)


@intrinsic(prefer_literal=True)
def scratch(typingctx: Any, size: Any) -> Any:
    """The address of `size` bytes (a literal) of the kernel's stack, aligned to a vector, with anything in them."""
    kind = ir.ArrayType(ir.IntType(8), size.literal_value)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        with builder.goto_entry_block():
            place = builder.alloca(kind)
        place.align = WIDTH
        return builder.ptrtoint(place, ir.IntType(64))

    return signature(types.intp, size), emit
