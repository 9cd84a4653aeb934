"""Host memory seen through NumPy: blocks of logits in the compute dtype, and gradient blocks back in theirs.

Half precision is widened a block at a time. bfloat16, which NumPy does not have, is kept as its 16 bits: the upper half
of a float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crossent.arrays import Array, host_bits, host_view
from crossent.engines.rows import Rows


class Memory(NamedTuple):
    """A matrix in host memory; `bits` says that its uint16 elements are bfloat16."""

    data: Array
    bits: bool

    def block(self, rows: slice, columns: slice, dtype: Array) -> Array | None:
        """The block itself where it can be computed on as it lies: of the compute dtype, contiguous and aligned."""
        part = self.data[rows, columns]
        flags = part.flags
        return part if part.dtype == dtype and flags.c_contiguous and flags.aligned else None

    def load(self, rows: slice, columns: slice, scratch: Array) -> Array:
        """The block in the compute dtype, as it lies where that is possible, else converted into `scratch`."""
        part = self.block(rows, columns, scratch.dtype)
        if part is not None:
            return part
        part = self.data[rows, columns]
        if self.bits:
            if scratch.dtype != np.float32:
                scratch[...] = np.left_shift(part.astype(np.uint32), 16).view(np.float32)
                return scratch
            words = scratch.view(np.uint32)
            words[...] = part
            np.left_shift(words, 16, out=words)
        else:
            scratch[...] = part
        return scratch

    def store(self, rows: slice, columns: slice, block: Array) -> None:
        """Write a block in the compute dtype, rounded to nearest even. The block is scratch afterwards."""
        is_half = self.data.dtype.kind == "f" and self.data.itemsize == 2
        if is_half and block.dtype == np.float32 and block.flags.c_contiguous:
            self.data[rows, columns] = _half(block)
            return
        if not self.bits:
            self.data[rows, columns] = block
            return
        words = block.view(np.uint32)
        # Half of the last place that stays, and the tie to the even neighbour; a quiet NaN stays a NaN.
        odd = np.right_shift(words, 16)
        np.bitwise_and(odd, 1, out=odd)
        odd += 0x7FFF
        odd += words
        np.right_shift(odd, 16, out=odd)
        self.data[rows, columns] = odd


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


def in_host(
    rows: Rows, losses: Array, scale: Array | float, out: Array | None
) -> tuple[Rows, Array, Array | float, Memory | None]:
    """What an engine is given, seen through NumPy: matrices as `Memory`, everything else as plain arrays."""
    seen = Rows(
        logits=Memory(*host_bits(rows.logits)),
        targets=None if rows.targets is None else host_view(rows.targets),
        soft=None if rows.soft is None else Memory(*host_bits(rows.soft)),
        weight=None if rows.weight is None else host_view(rows.weight),
        class_weights=None if rows.class_weights is None else host_view(rows.class_weights),
        coefficients=rows.coefficients,
    )
    scale = scale if isinstance(scale, float) else host_view(scale)
    return seen, host_view(losses), scale, None if out is None else Memory(*host_bits(out))
