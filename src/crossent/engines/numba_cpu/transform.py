"""`math.transform` for the compiled kernels: logits as everything else sees them, and the slope of their gradient.

transform: a scale and a cap, None for none: y is x·scale, with a cap tanh(x·scale/2)·cap. What they guard is not
compiled where they are None. Every y is computed by the same operations on vectors, so it has the same bits everywhere.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from crossent.engines.numba_cpu.elements import load_first, load_one
from crossent.engines.numba_cpu.functions import tanh_of_half, tanh_of_half_with_slope
from crossent.engines.numba_cpu.lanes import first, largest
from crossent.engines.numba_cpu.vectors import filled, inline, vector_like, where


@intrinsic
def format_seen(typingctx: Any, scale: Any, logits: Any, losses: Any) -> Any:
    """The format that seen logits are kept in: that of the losses, or, where there is no scale, their own."""

    def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
        return context.get_dummy_value()

    return signature(logits if isinstance(scale, types.NoneType) else losses, scale, logits, losses), emit


@inline
def seen(transform: Any, x: Any) -> Any:
    """y of a vector of logits. It falls nowhere by more than its rounding, so the largest x has the largest y."""
    scale, cap = transform
    return _seen(scale, cap, x)


@inline
def _seen(scale: Any, cap: Any, x: Any) -> Any:
    if scale is None:
        return x
    return _capped(cap, x * scale)


@inline
def _capped(cap: Any, y: Any) -> Any:
    if cap is None:
        return y
    return tanh_of_half(y) * cap


@inline
def seen_with_slope(transform: Any, x: Any) -> tuple[Any, Any]:
    """y of a vector of logits, and its slope 1 − (y/cap)²: 1 without a cap, by which nothing is multiplied."""
    scale, cap = transform
    return _seen_with_slope(scale, cap, x)


@inline
def _seen_with_slope(scale: Any, cap: Any, x: Any) -> tuple[Any, Any]:
    if cap is None:
        return _seen(scale, cap, x), filled(x, 1.0)
    t, slope = tanh_of_half_with_slope(x * scale)
    return t * cap, slope


@inline
def seen_first(transform: Any, like: Any, address: int, count: int, fill: Any) -> Any:
    """y of the first `count` logits from an address on; the other lanes hold the number `fill`, −inf, 0 or NaN."""
    _, cap = transform
    return _filled_up(cap, seen(transform, load_first(like, address, count, fill)), count, fill)


@inline
def _filled_up(cap: Any, y: Any, count: int, fill: Any) -> Any:
    if cap is None:
        return y
    return where(first(y, count), y, fill)


@inline
def seen_one(transform: Any, like: Any, address: int) -> Any:
    """y of the logit at an address."""
    scale, _ = transform
    return _seen_one(scale, transform, like, address)


@inline
def _seen_one(scale: Any, transform: Any, like: Any, address: int) -> Any:
    x = load_one(like, address)
    if scale is None:
        return x
    return largest(seen(transform, filled(vector_like(like, 0.0), x)))


@inline
def steepened_one(transform: Any, like: Any, address: int, d: Any) -> Any:
    """The gradient of one y times the slope at its logit, which is at an address."""
    _, cap = transform
    return _steepened_one(cap, transform, like, address, d)


@inline
def _steepened_one(cap: Any, transform: Any, like: Any, address: int, d: Any) -> Any:
    if cap is None:
        return d
    _, slope = seen_with_slope(transform, filled(vector_like(like, 0.0), load_one(like, address)))
    return largest(slope) * d
