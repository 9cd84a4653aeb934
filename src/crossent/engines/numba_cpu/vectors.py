"""Vectors for Numba: a fixed number of lanes of one scalar type, as a type that its compiler knows.

Numba leaves it to LLVM to find vectors in scalar loops; whether it does, and in which of several differently rounded
versions of a loop, depends on the length and the alignment of a row. Here every vector is written down, so the bits of
a result are the source's alone, and no fast-math flag is needed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

# Bytes of a vector: a register of AVX-512; LLVM makes two of it for AVX2 and four for NEON, with the same bits.
WIDTH = 64

inline = numba.njit(
    forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, nogil=True, error_model="numpy", boundscheck=False
)

INT32 = ir.IntType(32)
_COMPUTE: dict[Any, Any] = {
    types.float32: types.float32,
    types.float64: types.float64,
    types.uint16: types.float32,
    types.int16: types.float32,
    types.int64: types.int64,
}
LLVM = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int32: INT32,
    types.int64: ir.IntType(64),
    types.boolean: ir.IntType(1),
}


class Vector(types.Type):
    """`count` lanes of the scalar type `element`; a comparison makes one of truth values."""

    def __init__(self, element: types.Type, count: int) -> None:  # noqa: D107
        self.element, self.count = element, count
        super().__init__(name=f"Vector({element}, {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, llvm_type(kind))


def llvm_type(kind: Vector) -> ir.Type:
    """A vector as LLVM knows it."""
    return ir.VectorType(LLVM[kind.element], kind.count)


def compute_type(like: Format) -> Any:
    """The type that elements of a format are computed in."""
    return _COMPUTE[like.dtype]


def count_of(like: Format) -> int:
    """How many lanes a vector of such elements has in the compute dtype."""
    return WIDTH * 8 // compute_type(like).bitwidth


def vector_of(like: Format) -> Vector:
    """The vector of such elements in the compute dtype."""
    return Vector(compute_type(like), count_of(like))


class Format(types.Type):
    """The format of elements in memory, as a value that holds nothing."""

    def __init__(self, dtype: types.Type) -> None:  # noqa: D107
        self.dtype = dtype
        super().__init__(name=f"Format({dtype})")


register_model(Format)(models.OpaqueModel)


def format_like(dtype: types.Type) -> Any:
    """A function that gives the format of elements of a type."""

    @intrinsic
    def the_format(typingctx: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
            return context.get_dummy_value()

        return signature(Format(dtype)), emit

    return the_format


def constant(kind: ir.Type, value: Any) -> ir.Constant:
    """A constant of an LLVM type, in every lane where that is a vector."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def mangled(element: types.Type) -> str:
    """A scalar type as the names of LLVM's functions have it."""
    return f"i{element.bitwidth}" if isinstance(element, types.Integer) else f"f{element.bitwidth}"


def declared(builder: ir.IRBuilder, name: str, kind: ir.FunctionType) -> ir.Function:
    """A function of LLVM's, declared once in a module."""
    known = builder.module.globals.get(name)
    return ir.Function(builder.module, kind, name) if known is None else known


def splat(builder: ir.IRBuilder, value: ir.Value, count: int) -> ir.Value:
    """A number in every lane."""
    kind = ir.VectorType(value.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(INT32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(INT32, count), None))


@lower_cast(types.Number, Vector)
def _cast_number(context: Any, builder: Any, number: types.Number, vector: Vector, value: ir.Value) -> ir.Value:
    return splat(builder, context.cast(builder, value, number, vector.element), vector.count)


def common(args: tuple[types.Type, ...]) -> Vector | None:
    """The type of those arguments that are vectors; None where they differ, or there is none."""
    vectors = [a for a in args if isinstance(a, Vector)]
    if not vectors or any(a != vectors[0] for a in vectors):
        return None
    return vectors[0]


def _define(op: Callable[..., Any], emit: Callable[..., ir.Value], *, compares: bool = False) -> None:
    """Give an operator of Python its meaning for vectors, and for a vector and a number."""

    class Template(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: Any) -> Any:
            kind = common(args)
            if kind is None:
                return None
            return signature(Vector(types.boolean, kind.count) if compares else kind, *[kind] * len(args))

    infer_global(op)(Template)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return emit(builder, *args)

    lower_builtin(op, *[Vector] * (1 if op in (operator.neg, operator.invert) else 2))(lower)


_define(operator.add, ir.IRBuilder.fadd)
_define(operator.sub, ir.IRBuilder.fsub)
_define(operator.mul, ir.IRBuilder.fmul)
_define(operator.truediv, ir.IRBuilder.fdiv)
_define(operator.neg, ir.IRBuilder.fneg)
_define(operator.and_, ir.IRBuilder.and_)
_define(operator.or_, ir.IRBuilder.or_)
_define(operator.invert, ir.IRBuilder.not_)
# Every comparison with a NaN is false.
_define(operator.lt, lambda builder, x, y: builder.fcmp_ordered("<", x, y), compares=True)
_define(operator.le, lambda builder, x, y: builder.fcmp_ordered("<=", x, y), compares=True)
_define(operator.gt, lambda builder, x, y: builder.fcmp_ordered(">", x, y), compares=True)
_define(operator.ge, lambda builder, x, y: builder.fcmp_ordered(">=", x, y), compares=True)
_define(operator.eq, lambda builder, x, y: builder.fcmp_ordered("==", x, y), compares=True)


@intrinsic
def where(typingctx: Any, mask: Any, a: Any, b: Any) -> Any:
    """`a` in the lanes where `mask` is true, `b` elsewhere; one of them may be a number."""
    kind = common((a, b))
    if kind is None or not isinstance(mask, Vector):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.select(*args)

    return signature(kind, mask, kind, kind), emit


@intrinsic
def is_nan(typingctx: Any, vector: Any) -> Any:
    """The mask of lanes that hold NaN."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.fcmp_unordered("uno", args[0], args[0])

    return signature(Vector(types.boolean, vector.count), vector), emit


@intrinsic
def larger(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of `a` and `b`; `b` where either is NaN. One instruction on x86."""
    kind = common((a, b))
    if kind is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return signature(kind, kind, kind), emit


@intrinsic
def smaller(typingctx: Any, a: Any, b: Any) -> Any:
    """The smaller of `a` and `b`; `b` where either is NaN. One instruction on x86."""
    kind = common((a, b))
    if kind is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return signature(kind, kind, kind), emit


def emit_fma(builder: ir.IRBuilder, kind: Vector, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """LLVM's fused multiply-add, which no pass takes apart."""
    name = f"llvm.fma.v{kind.count}f{kind.element.bitwidth}"
    function = declared(builder, name, ir.FunctionType(llvm_type(kind), [llvm_type(kind)] * 3))
    return builder.call(function, [a, b, c])


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once, on every machine."""
    kind = common((a, b, c))
    if kind is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return emit_fma(builder, kind, *args)

    return signature(kind, kind, kind, kind), emit


@intrinsic
def vector_like(typingctx: Any, x: Any, number: Any) -> Any:
    """A number in every lane of a vector of the compute dtype of the format `x`."""
    kind = vector_of(x)

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return splat(builder, context.cast(builder, args[1], number, kind.element), kind.count)

    return signature(kind, x, number), emit


@intrinsic
def filled(typingctx: Any, vector: Any, number: Any) -> Any:
    """A number in every lane of a vector like `vector`."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return args[1]

    return signature(vector, vector, vector), emit
