"""What is asked of the lanes of a vector: how many, which, all of them together; their width, their bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from crossent.engines.numba_cpu.vectors import INT32, LLVM, Vector, compute_type, constant, count_of, llvm_type, splat


@intrinsic
def lanes(typingctx: Any, like: Any) -> Any:
    """How many lanes hold elements of the format `like` in its compute dtype: 16, or 8 of float64."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(64), count_of(like))

    return signature(types.intp, like), emit


@intrinsic
def itemsize(typingctx: Any, like: Any) -> Any:
    """Bytes of an element of the format `like`."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(64), like.dtype.bitwidth // 8)

    return signature(types.intp, like), emit


@intrinsic
def lowest(typingctx: Any, like: Any) -> Any:
    """The least finite number of the compute dtype of a format, or of the type of a vector."""
    kind = like.element if isinstance(like, Vector) else compute_type(like)
    value = -1.7976931348623157e308 if kind == types.float64 else -3.4028234663852886e38

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(LLVM[kind], value)

    return signature(kind, like), emit


def numbered(builder: ir.IRBuilder, count: int, sign: str, limit: ir.Value) -> ir.Value:
    """The mask of lanes whose number stands in the relation `sign` to an intp."""
    # Past any lane all limits are one; 32 bits are compared in half the time of 64.
    bound = ir.Constant(limit.type, count)
    limit = builder.select(builder.icmp_unsigned("<", limit, bound), limit, bound)
    numbers = ir.Constant(ir.VectorType(INT32, count), list(range(count)))
    return builder.icmp_signed(sign, numbers, splat(builder, builder.trunc(limit, INT32), count))


@intrinsic
def first(typingctx: Any, vector: Any, count: Any) -> Any:
    """The mask of the first `count` ≥ 0 lanes of a vector like `vector`."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return numbered(builder, vector.count, "<", args[1])

    return signature(Vector(types.boolean, vector.count), vector, types.intp), emit


@intrinsic
def lane_is(typingctx: Any, vector: Any, number: Any) -> Any:
    """The mask of lane `number` of a vector like `vector`; no lane where there is none of that number."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return numbered(builder, vector.count, "==", args[1])

    return signature(Vector(types.boolean, vector.count), vector, types.intp), emit


@intrinsic
def first_of(typingctx: Any, mask: Any) -> Any:
    """The number of the first lane where a mask is true; the number of lanes where it is nowhere."""
    word = ir.IntType(64)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        bits = builder.zext(builder.bitcast(args[0], ir.IntType(mask.count)), word)
        # A bit past the last lane stands for "nowhere".
        bits = builder.or_(bits, ir.Constant(word, 1 << mask.count))
        return builder.cttz(bits, ir.Constant(ir.IntType(1), 1))

    return signature(types.intp, mask), emit


def _fold(name: str, doc: str, emit_pair: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    """A horizontal operation as a tree over halves: its order, and so its rounding, is fixed."""

    def fold(typingctx: Any, vector: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
            value, count = args[0], vector.count
            while count > 1:
                count //= 2
                halves = [
                    builder.shuffle_vector(
                        value, value, ir.Constant(ir.VectorType(INT32, count), [*range(k, k + count)])
                    )
                    for k in (0, count)
                ]
                value = emit_pair(builder, *halves)
            return builder.extract_element(value, ir.Constant(INT32, 0))

        return signature(vector.element, vector), emit

    fold.__name__, fold.__doc__ = name, doc
    return intrinsic(fold)


total = _fold("total", "The sum of the lanes.", lambda b, x, y: b.fadd(x, y))
largest = _fold(
    "largest", "The largest lane; no lane may be NaN.", lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y)
)


@intrinsic
def widened(typingctx: Any, vector: Any) -> Any:
    """The vector in float64."""
    kind = Vector(types.float64, vector.count)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return args[0] if vector == kind else builder.fpext(args[0], llvm_type(kind))

    return signature(kind, vector), emit


@intrinsic
def narrowed(typingctx: Any, wide: Any, like: Any) -> Any:
    """The float64 vector `wide` rounded to the type of the vector `like`."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return args[0] if wide == like else builder.fptrunc(args[0], llvm_type(like))

    return signature(like, wide, like), emit


def parts_of(vector: Vector) -> tuple[ir.VectorType, int, int]:
    """Floating lanes as integers: their type, the bits of a significand, and the bits of √½."""
    if vector.element == types.float32:
        return ir.VectorType(INT32, vector.count), 23, 0x3F3504F3
    return ir.VectorType(ir.IntType(64), vector.count), 52, 0x3FE6A09E667F3BCD


@intrinsic
def moved_to_exponent(typingctx: Any, vector: Any) -> Any:
    """The low bits of each lane as an exponent: 2^k where they hold k plus the bias of the format."""
    word, places, _ = parts_of(vector)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.bitcast(builder.shl(builder.bitcast(args[0], word), constant(word, places)), args[0].type)

    return signature(vector, vector), emit


def _exponents(builder: ir.IRBuilder, vector: Vector, value: ir.Value) -> ir.Value:
    word, places, half = parts_of(vector)
    return builder.ashr(builder.sub(builder.bitcast(value, word), constant(word, half)), constant(word, places))


@intrinsic
def exponent(typingctx: Any, vector: Any) -> Any:
    """k of positive normal numbers 2^k·z with √½ ≤ z < √2."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.sitofp(_exponents(builder, vector, args[0]), args[0].type)

    return signature(vector, vector), emit


@intrinsic
def significand(typingctx: Any, vector: Any) -> Any:
    """z of positive normal numbers 2^k·z with √½ ≤ z < √2."""
    word, places, _ = parts_of(vector)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        moved = builder.shl(_exponents(builder, vector, args[0]), constant(word, places))
        return builder.bitcast(builder.sub(builder.bitcast(args[0], word), moved), args[0].type)

    return signature(vector, vector), emit
