"""Host memory seen through NumPy: blocks of logits in the compute dtype, and gradient blocks back in theirs.

Half precision is widened a block at a time. bfloat16, which NumPy does not have, is kept as its 16 bits, the upper half
of a float32: a matrix of uint16 is one of bfloat16.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from crossent.types import Array

BFLOAT16: Final = np.dtype(np.uint16)
WITHIN: Final = object.__basicsize__
"""Where the address of its elements stands in an array of NumPy's: first, after what every object has."""


def in_place(data: Array, rows: slice, columns: slice, dtype: Any) -> Array | None:
    """A block itself where it can be computed on as it lies: of the compute dtype, contiguous and aligned."""
    part = data[rows, columns]
    flags = part.flags
    return part if part.dtype == dtype and flags.c_contiguous and flags.aligned else None


def load(data: Array, rows: slice, columns: slice, scratch: Array) -> Array:
    """A block in the compute dtype, as it lies where that is possible, else converted into `scratch`."""
    part = in_place(data, rows, columns, scratch.dtype)
    if part is not None:
        return part
    part = data[rows, columns]
    if part.dtype != BFLOAT16:
        scratch[...] = part
    elif scratch.dtype != np.float32:
        scratch[...] = np.left_shift(part.astype(np.uint32), 16).view(np.float32)
    else:
        words = scratch.view(np.uint32)
        words[...] = part
        np.left_shift(words, 16, out=words)
    return scratch


def store(data: Array, rows: slice, columns: slice, block: Array) -> None:
    """Write a block in the compute dtype, rounded to nearest even. The block is scratch afterwards."""
    is_half = data.dtype.kind == "f" and data.itemsize == 2
    if is_half and block.dtype == np.float32 and block.flags.c_contiguous:
        data[rows, columns] = _half(block)
        return
    if data.dtype != BFLOAT16:
        data[rows, columns] = block
        return
    words = (block if block.dtype == np.float32 else _to_odd(block)).view(np.uint32)
    # Half of the last place that stays, and the tie to the even neighbour; a quiet NaN stays a NaN.
    odd = np.right_shift(words, 16)
    np.bitwise_and(odd, 1, out=odd)
    odd += 0x7FFF
    odd += words
    np.right_shift(odd, 16, out=odd)
    data[rows, columns] = odd


def _to_odd(block: Array) -> Array:
    """float64 as float32, rounded to the odd neighbour, so that it can be rounded again as if it never had been."""
    single = block.astype(np.float32)
    words, back = single.view(np.uint32), single.astype(np.float64)
    words -= np.abs(back) > np.abs(block)
    words |= (back != block) & ~np.isnan(block)
    return single


def _half(block: Array) -> Array:
    """float32 as float16, rounded to nearest even, over the block.

    NumPy's own conversion tells the processor of every number that underflows, which costs thirty times the rest; and
    most numbers of a gradient do.
    """
    words = block.view(np.uint32)
    sign = np.right_shift(words, 16).astype(np.uint16)
    sign &= 0x8000
    words &= 0x7FFFFFFF
    # Below the normal numbers: one half added leaves the multiple of 2**-24 in the low bits.
    small = (block + np.float32(0.5)).view(np.uint32)
    small -= 0x3F000000
    # Else the exponent is moved by 15 − 127; half of the last place that stays, and the tie to the even neighbour.
    normal = np.right_shift(words, 13)
    normal &= 1
    normal += 0xC8000FFF
    normal += words
    normal >>= 13
    np.copyto(normal, small, where=words < 0x38800000)
    np.copyto(normal, 0x7C00, where=words >= 0x47800000)
    np.copyto(normal, 0x7E00, where=words > 0x7F800000)
    half = normal.astype(np.uint16)
    half |= sign
    return half.view(np.float16)
