"""The operations that the mathematics needs, as the array API standard has them.

Each library has a class of its own (`crossent.libraries`) that says what it does otherwise. Operations that take `out`
compute in place where it is given and return a new array where it is None; so one expression serves NumPy, CuPy and
torch memory as well as immutable, lazy and traced arrays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import array_api_compat
import numpy as np

from crossent.types import Array, Namespace

FLOATS = ("float16", "bfloat16", "float32", "float64")
_LARGEST = {name: float(np.finfo(name).max) for name in ("float32", "float64")}
# Terms of a sum in parts: runs of this length keep its rounding to a few eps.
RUN = 8


class Likeliest(NamedTuple):
    """Where the largest numbers of rows are, as the targets `t` of the operations below.

    places: of each row the first of them, or all, which are then taken and set together; more: how many there are
    beside one, (N,) or 0; single: the places of rows that have one only, or at which one only is named.
    """

    places: Array
    more: Array | float
    single: Array


def _mixed(xp: Namespace, x: Array) -> Array:
    """Integers of which each bit depends on many: products that wrap around, as those of machines do."""
    for factor in (0x9E3779B1, 0x85EBCA77):
        x = x * factor
        x = xp.bitwise_xor(x, xp.bitwise_right_shift(x, xp.full_like(x, 15)))
    return x


class Operations:
    """Of one array library, whose namespace is `xp`."""

    xp: Namespace

    def device(self, x: Array) -> Array:
        """The device of `x`, as the library's functions take it."""
        return array_api_compat.device(x)

    def dtype_name(self, x: Array) -> str:
        """The dtype's name as every library spells it: ``"float32"``."""
        name = getattr(x.dtype, "name", None)
        return name if type(name) is str else str(x.dtype).rpartition(".")[2]

    def compute_dtype(self, logits: Array) -> Array:
        """The dtype in which logits are computed: half precision is widened to float32."""
        return self.xp.float64 if self.dtype_name(logits) == "float64" else self.xp.float32

    def is_number(self, x: Array | float) -> bool:
        """Whether `x` is a number, and no array."""
        return isinstance(x, float)

    def length(self, wide: Array, n: int) -> Array | float:
        """A length to divide by: a number, or an array in the dtype `wide` where it is not known yet."""
        return float(n)

    def widest(self, device: Array) -> tuple[Array, Array]:
        """The widest float and the widest signed integer of a device."""
        return self.xp.float64, self.xp.int64

    def cast(self, x: Array, dtype: Array) -> Array:
        """`x` in `dtype`, without a copy where it has it already."""
        return x if x.dtype == dtype else self.xp.astype(x, dtype, copy=False)

    def widened(self, x: Array, dtype: Array) -> Array:
        """Logits or soft targets in the compute dtype."""
        return self.cast(x, dtype)

    def narrowed(self, d: Array, like: Array) -> Array:
        """A gradient in the dtype of the logits `like`, rounded to nearest even."""
        return self.cast(d, like.dtype)

    def stop_gradient(self, x: Array) -> Array:
        """`x` as a constant for automatic differentiation."""
        return x

    def subtract(self, a: Array, b: Array, out: Array | None) -> Array:
        """a − b, into `out` where it is given."""
        return self.xp.subtract(a, b) if out is None else self.xp.subtract(a, b, out=out)

    def multiply(self, a: Array, b: Array | float, out: Array | None) -> Array:
        """a · b, into `out` where it is given."""
        return self.xp.multiply(a, b) if out is None else self.xp.multiply(a, b, out=out)

    def apart(self, a: Array) -> Array:
        """A product that no compiler joins with a subtraction: less itself it is 0, not what it was rounded by."""
        return a

    def exp(self, a: Array, out: Array | None) -> Array:
        """exp(a), into `out` where it is given."""
        return self.xp.exp(a) if out is None else self.xp.exp(a, out=out)

    def tanh(self, a: Array, out: Array | None) -> Array:
        """tanh(a), into `out` where it is given."""
        return self.xp.tanh(a) if out is None else self.xp.tanh(a, out=out)

    def divide(self, a: Array, b: Array | float, dtype: Array) -> Array:
        """a / b in the wider dtype of the two, rounded to `dtype`."""
        return self.cast(a / b, dtype)

    def divide_in(self, wide: Array, a: Array, b: Array | float) -> Array:
        """a / b in the dtype `wide`."""
        a = self.cast(a, wide)
        return a if isinstance(b, float) and b == 1.0 else a / b

    def zero_where_not(self, mask: Array, x: Array) -> Array:
        """The integers `x` where `mask` is true, and 0 elsewhere."""
        return self.xp.where(mask, x, self.xp.zeros_like(x))

    def brought_near(self, x: Array, size: Array, bound: float, step: float) -> Array:
        """`x` over `step` where `size` is past `bound`, times it where `size` is less than 1/bound, else as it is."""
        factor = self.xp.where(size < 1.0 / bound, step, self.xp.ones_like(size))
        return x * self.xp.where(size > bound, 1.0 / step, factor)

    def at_least_one(self, x: Array) -> Array:
        """`x`, or 1 where it is less; NaN stays."""
        return self.xp.maximum(x, self.xp.ones_like(x))

    def finite_from_below(self, x: Array) -> Array:
        """`x` with −inf replaced by the least finite number; NaN stays."""
        return self.xp.where(x == -self.xp.inf, -_LARGEST[self.dtype_name(x)], x)

    def largest(self, x: Array) -> float:
        """The largest finite number of the dtype of `x`."""
        return _LARGEST[self.dtype_name(x)]

    def clip_finite(self, x: Array) -> Array:
        """`x` with infinities replaced by the numbers next to them; NaN stays."""
        xp, largest = self.xp, self.largest(x)
        return xp.where(x == xp.inf, largest, xp.where(x == -xp.inf, -largest, x))

    def flat(self, x: Array) -> Array:
        """The elements in a row."""
        return x if x.ndim == 1 else self.xp.reshape(x, (-1,))

    def as_matrix(self, x: Array) -> Array:
        """Rows (..., K) with one axis of tokens."""
        return self.xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))

    def per_token(self, x: Array, tokens: tuple[int, ...]) -> Array:
        """`x`, which broadcasts to the shape of the tokens, as a number for each row."""
        return self.xp.reshape(self.xp.broadcast_to(x, tokens), (-1,))

    def row_numbers(self, t: Array) -> Array:
        """0, 1, 2 … for the rows whose targets are `t`."""
        return self.xp.arange(t.shape[0], dtype=t.dtype, device=self.device(t))

    def one_hot_mask(self, shape: tuple[int, int], t: Array) -> Array:
        """The boolean matrix [j = t_i] of that shape."""
        return self.xp.arange(shape[1], dtype=t.dtype, device=self.device(t))[None, :] == t[:, None]

    def take_target(self, x: Array, t: Array) -> Array:
        """x[i, t_i] of every row i."""
        return x[self.row_numbers(t), t]

    def take_classes(self, x: Array, ids: Array) -> Array:
        """x[…, ids] of rows x (..., V) and classes (..., K)."""
        return self.xp.take_along_axis(x, ids, axis=-1)

    def put_classes(self, x: Array, ids: Array, values: Array) -> Array:
        """`x` with x[…, ids] replaced by values (..., K); of a class that is there more than once they are the same."""
        classes = self.xp.arange(x.shape[-1], dtype=ids.dtype, device=self.device(ids))
        for k in range(ids.shape[-1]):
            x = self.xp.where(classes == ids[..., k : k + 1], values[..., k : k + 1], x)
        return x

    def sum_of_target(self, x: Array, t: Array) -> Array:
        """The same as a sum over one class, for arrays that are not to be indexed by arrays."""
        return self.xp.sum(self.xp.where(self.one_hot_mask(x.shape, t), x, self.xp.zeros_like(x)), axis=1)

    def digest(self, x: Array) -> int | float:
        """A number that tells numbers from others, or the same in another order. It waits for the device of `x`."""
        xp, (wide, integer) = self.xp, self.widest(self.device(x))
        x = self.stop_gradient(self.flat(x))
        places = xp.arange(x.shape[0], dtype=integer, device=self.device(x))
        if self.dtype_name(x) in FLOATS:
            return float(xp.sum(self.cast(x, wide) * self.cast(_mixed(xp, places) & 0xFFFF, wide)))
        return int(xp.sum(_mixed(xp, _mixed(xp, places) + self.cast(x, integer))))

    def likeliest(self, x: Array) -> Likeliest:
        """Where the largest numbers of rows are."""
        first = self.xp.argmax(x, axis=1)
        return Likeliest(first, 0.0, first)

    def weights_of(self, class_weights: Array, t: Array) -> Array:
        """The class weights of the classes `t`."""
        return self.xp.reshape(self.xp.take(class_weights, self.flat(t), axis=0), t.shape)

    def set_target(self, x: Array, t: Array, value: Array | float, out: Array | None) -> Array:
        """`x` with x[i, t_i] replaced by `value` (one number, or one per row); in place where `out` is `x`."""
        if out is None:
            return self.xp.where(
                self.one_hot_mask(x.shape, t), value if isinstance(value, float) else value[:, None], x
            )
        out[self.row_numbers(t), t] = value
        return out

    def clear_rows(self, x: Array, rows: Array, out: Array | None) -> Array:
        """`x` (N, V) with 0 in the rows that the boolean `rows` (N,) names; in place where `out` is `x`."""
        if out is None:
            return self.xp.where(rows[:, None], self.xp.zeros_like(x), x)
        self.xp.copyto(out, 0.0, where=rows[:, None])
        return out

    def sum_in(self, wide: Array, x: Array, axis: int | None) -> Array:
        """A sum over one axis, or all, accurate for millions of terms: in float64, or in runs where that is not enough.

        wide: the widest float of the device of `x`.
        """
        if wide == self.xp.float64:
            return self.xp.sum(x, axis=axis, dtype=wide)
        return self.sum_in_runs(x, axis)

    def sum_in_runs(self, x: Array, axis: int | None) -> Array:
        """Pairwise summation over one axis, or all, out of reshapes and short sums."""
        xp = self.xp
        while axis is None and x.ndim > 1:
            x = self.sum_in_runs(x, -1)
        x = self.flat(x) if axis is None else xp.moveaxis(x, axis, -1)
        while (length := x.shape[-1]) > RUN:
            whole = length - length % RUN
            runs = xp.sum(xp.reshape(x[..., :whole], (*x.shape[:-1], whole // RUN, RUN)), axis=-1)
            x = runs if whole == length else xp.concat([runs, xp.sum(x[..., whole:], axis=-1)[..., None]], axis=-1)
        return xp.sum(x, axis=-1)

    def count_in(self, wide: Array, mask: Array, axis: int | None) -> Array:
        """How many are true along one axis, or in all, in the dtype `wide`."""
        return self.sum_in(wide, self.cast(mask, wide), axis)

    def workspace(self, shape: tuple[int, int], dtype: Array, like: Array) -> Array:
        """Uninitialised memory for a large matrix, on the device of `like`."""
        return self.xp.empty(shape, dtype=dtype, device=self.device(like))

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """The matrix product of two arrays of the compute dtype, in `out` where it is given."""
        return self.xp.matmul(a, b) if out is None else self.xp.matmul(a, b, out=out)

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """total + a·b, over `total`, of which None is 0. tile: the bytes that the product may take beside it."""
        product = self.product(a, b, None)
        if total is None:
            return product
        total += product
        return total

    def put_rows(self, x: Array, places: Array | slice, rows: Array) -> None:
        """Write rows to where they belong in `x`: one after the other, where the standard has no more."""
        if isinstance(places, slice):
            x[places, ...] = rows
            return
        for i in range(places.shape[0]):
            x[int(places[i]), ...] = rows[i, ...]

    def true_places(self, mask: Array) -> Array:
        """The numbers of what is true, in order. It waits for the device of `mask`."""
        numbers = self.cast(mask, self.xp.uint8)
        return self.xp.argsort(numbers, descending=True, stable=True)[: int(self.xp.sum(numbers))]

    def any_outside(self, x: Array, stop: int) -> bool:
        """Whether one of the integers `x` is outside [0, stop). It waits for the device of `x`, once."""
        return bool(self.xp.any((x < 0) | (x >= stop)))
