"""NumPy, and memory that is seen through it: plain arrays, of which a matrix of uint16 is one of bfloat16's bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from crossent import views
from crossent.engines import host_memory, select
from crossent.libraries.base import Library
from crossent.math.rows import Straight
from crossent.types import Array

_NAMES: dict[Any, str] = {}
_DOUBLE, _SINGLE, _INTEGER = np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.int64)
_LEAST = {dtype: dtype.type(np.finfo(dtype).min) for dtype in (_SINGLE, _DOUBLE)}
_OF_NUMPY = frozenset(np.dtype(name) for name in ("float16", "float32", "float64"))
_EVERY = slice(None)
_STRAIGHT = {_SINGLE: "float32", _DOUBLE: "float64", np.dtype(np.float16): "float16"}
_TARGETS = {_INTEGER: 8, np.dtype(np.int32): 4}
# Bytes of a cache line.
_LINE = 64


class NumPy(Library):
    """NumPy's arrays, and those of other libraries that share their memory with NumPy's."""

    in_place = True
    always_readable = True
    has_steps = True

    # --- what the arrays of a call are --------------------------------------------------------------------------------

    def refusal(self, x: Array) -> tuple[str, str] | None:
        """A mask would be lost."""
        return ("a masked array, whose mask would be lost", "plain") if isinstance(x, np.ma.MaskedArray) else None

    def dtype_name(self, x: Array) -> str:
        """Looked up, since NumPy makes the name anew at each question."""
        name = _NAMES.get(x.dtype)
        if name is None:
            name = _NAMES[x.dtype] = super().dtype_name(x)
        return name

    def device(self, x: Array) -> Any:
        """There is one."""
        return "cpu"

    def device_name(self, x: Array) -> str | None:
        """There is one."""
        return None

    def on_one_device(self, a: Array, b: Array) -> bool:
        """There is one."""
        return True

    def memory_of(self, device: Any) -> tuple[str, int]:
        """Its own."""
        return "host", 0

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """That of host memory, where the dtype and the vocabulary make no difference."""
        if asked == "auto":
            return select.best("eager", "host", 0, "", 0, measure)
        return super().engine(asked, like, dtype, classes, measure)

    def straight(self, x: Array, t: Array) -> Straight | None:
        """Plain arrays, whose rows are a matrix with elements side by side."""
        if type(x) is not np.ndarray or type(t) is not np.ndarray:
            return None
        dtype, size = _STRAIGHT.get(x.dtype), _TARGETS.get(t.dtype)
        *tokens, v = x.shape or (0,)
        flags, flags_of_targets = x.flags, t.flags
        if dtype is None or size is None or t.shape != (*tokens,) or not flags.aligned or not flags_of_targets.aligned:
            return None
        step, n = v * x.itemsize, t.size
        if not flags.c_contiguous:
            if len(tokens) != 1 or x.strides[1] != x.itemsize:
                return None
            step = x.strides[0]
        if not n or not v or not flags_of_targets.c_contiguous:
            return None
        return dtype, n, v, id(x), step, id(t), size, host_memory.WITHIN

    def straight_out(self, x: Array, t: Array, out: Array | None) -> tuple[Array, int, int] | None:
        """The logits, or memory of the same kind apart from both."""
        if out is None:
            out = np.empty(x.shape, x.dtype)
        elif type(out) is not np.ndarray or out.shape != x.shape or out.dtype != x.dtype:
            return None
        else:
            flags = out.flags
            if not (flags.c_contiguous and flags.aligned and flags.writeable) or np.may_share_memory(out, t):
                return None
            if out is not x and np.may_share_memory(out, x):
                return None
        return out, id(out), out.shape[-1] * out.itemsize

    # --- in and out ---------------------------------------------------------------------------------------------------

    def enter_matrix(self, x: Array) -> Array:
        """Plain, and bfloat16 of ml_dtypes as bits."""
        if type(x) is np.ndarray and x.dtype in _OF_NUMPY:
            return x
        return np.asarray(x).view(np.uint16) if self.dtype_name(x) == "bfloat16" else np.asarray(x)

    def leave(self, result: Array) -> Array:
        """NumPy's functions give scalars for arrays without dimensions."""
        return np.asarray(result)

    def leave_matrix(self, d: Array, logits: Array) -> Array:
        """The bits of bfloat16 as ml_dtypes has them."""
        return d if d.dtype == logits.dtype else d.view(logits.dtype)

    def shared(self, out: Array) -> Array | None:
        """All of NumPy's memory can be written through a plain array."""
        return self.enter_matrix(out)

    # --- memory -------------------------------------------------------------------------------------------------------

    def memory(self, x: Array) -> views.Memory | None:
        """As NumPy's interface tells."""
        x = np.asarray(x)  # a scalar of NumPy's lies apart
        return views.Memory(x.__array_interface__["data"][0], x.strides, x.shape, x.itemsize)

    def empty(self, n: int, dtype: Any, like: Array) -> Array:
        """Uninitialised memory for `n` numbers."""
        return np.empty(n, dtype)

    def empty_like(self, x: Array) -> Array:
        """Uninitialised memory of the shape, dtype and layout of `x`."""
        return np.empty_like(x)

    def strides(self, x: Array) -> tuple[int, ...] | None:
        """In bytes."""
        strides: tuple[int, ...] = x.strides
        return strides

    # --- operations ---------------------------------------------------------------------------------------------------

    def put_classes(self, x: Array, ids: Array, values: Array) -> Array:
        """In place."""
        np.put_along_axis(x, ids, values, axis=-1)
        return x

    def compute_dtype(self, logits: Array) -> Any:
        """Told by the size of an element, whatever the order of its bytes."""
        return _DOUBLE if logits.dtype.itemsize == 8 else _SINGLE

    def widest(self, device: Any) -> tuple[Any, Any]:
        """As dtypes, which compare with dtypes faster than types do."""
        return _DOUBLE, _INTEGER

    def cast(self, x: Array, dtype: Any) -> Array:
        """`x` in `dtype`, without a copy where it has it already."""
        return x if x.dtype == dtype else x.astype(dtype)

    def widened(self, x: Array, dtype: Any) -> Array:
        """bfloat16 from its bits."""
        return host_memory.load(x, _EVERY, _EVERY, np.empty(x.shape, dtype))

    def narrowed(self, d: Array, like: Array) -> Array:
        """bfloat16 to its bits."""
        made = np.empty(d.shape, like.dtype)
        host_memory.store(made, _EVERY, _EVERY, d)
        return made

    def brought_near(self, x: Array, size: Array, bound: float, step: float) -> Array:
        """One look at the one size of ordinary numbers."""
        is_near = not size.ndim and 1.0 / bound <= size <= bound
        return x if is_near else super().brought_near(x, size, bound, step)

    def finite_from_below(self, x: Array) -> Array:
        """The larger of `x` and the least finite number, which NaN is too."""
        return np.maximum(x, _LEAST[x.dtype])

    def row_numbers(self, t: Array) -> Array:
        """Without the standard's device."""
        return np.arange(t.shape[0])

    def clear_rows(self, x: Array, rows: Array, out: Array | None) -> Array:
        """By assignment."""
        if out is None:
            return super().clear_rows(x, rows, out)
        out[rows] = 0.0
        return out

    def sum_in(self, wide: Any, x: Array, axis: int | None) -> Array:
        """Pairwise, and in float64."""
        return np.add.reduce(x, axis=axis, dtype=wide)

    def divide(self, a: Array, b: Array | float, dtype: Any) -> Array:
        """Scalars of NumPy's are arrays to it, too."""
        return (a / b).astype(dtype)

    def workspace(self, shape: tuple[int, int], dtype: Any, like: Array) -> Array:
        """From the beginning of a cache line on: products are written faster there than where NumPy's arrays begin."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = np.empty(size + _LINE, np.uint8)
        start = -memory.ctypes.data % _LINE
        return memory[start : start + size].view(dtype).reshape(shape)

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """A few rows at a time, so that what is added is in the cache."""
        if total is None:
            return self.product(a, b, self.workspace((a.shape[0], b.shape[1]), a.dtype, a))
        step = max(1, tile // (total.itemsize * max(b.shape[1], 1)))
        memory = np.empty((min(step, len(total)), b.shape[1]), total.dtype)
        for i in range(0, len(total), step):
            part = total[i : i + step]
            part += self.product(a[i : i + step], b, memory[: len(part)])
        return total

    def put_rows(self, x: Array, places: Array | slice, rows: Array) -> None:
        """By assignment."""
        x[places] = rows

    def true_places(self, mask: Array) -> Array:
        """NumPy's own."""
        return np.flatnonzero(mask)

    def any_outside(self, x: Array, stop: int) -> bool:
        """In one pass: a negative number is a large one without its sign."""
        return bool(x.size) and bool(np.maximum.reduce(x.view(np.uint64), axis=None) >= stop)


NUMPY = LIBRARY = NumPy(np)
