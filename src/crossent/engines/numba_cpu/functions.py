"""The mathematics of the compiled kernels: exp, tanh, log1p and compensated sums of vectors, in float32 and float64.

Every step is a single correctly rounded operation, fused multiply-adds included, so all machines agree to the bit. The
polynomials are minimax fits (Remez exchange in 40 digits) of relative error 3e-9 for float32 and 4e-18 for float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from crossent.engines.numba_cpu.lanes import exponent, moved_to_exponent, significand, total, widened
from crossent.engines.numba_cpu.vectors import (
    constant,
    emit_fma,
    fma,
    inline,
    is_nan,
    larger,
    llvm_type,
    smaller,
    where,
)


def _constant(name: str, single: float, double: float) -> Any:
    """A function of a vector that gives a constant of the vector's type in every lane."""

    def vector_constant(typingctx: Any, vector: Any) -> Any:
        value = double if vector.element == types.float64 else single

        def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
            return constant(llvm_type(vector), value)

        return signature(vector, vector), emit

    vector_constant.__name__ = name
    return intrinsic(vector_constant)


def _polynomial(name: str, single: list[float], double: list[float]) -> Any:
    """A function of a vector that is a polynomial with the given coefficients, the constant term first."""

    def polynomial(typingctx: Any, vector: Any) -> Any:
        coefficients = double if vector.element == types.float64 else single

        def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
            terms = [constant(llvm_type(vector), c) for c in reversed(coefficients)]
            value = terms[0]
            for term in terms[1:]:
                value = emit_fma(builder, vector, value, args[0], term)
            return value

        return signature(vector, vector), emit

    polynomial.__name__ = name
    return intrinsic(polynomial)


# log 2 in float32, and what float32 and float64 leave of it.
_LN2, _LN2_SINGLE = 0.6931471805599453, 0.693147182464599609375
_ln2 = _constant("_ln2", _LN2_SINGLE, _LN2)
_ln2_rest = _constant("_ln2_rest", -1.904654299957768e-09, 2.3190468138462996e-17)
_log2_e = _constant("_log2_e", 1.4426950216293335, 1.4426950408889634)
# Added to a small number, it leaves the nearest integer, plus the bias of the exponent, in the low bits.
_shift_to_integer = _constant("_shift_to_integer", 1.5 * 2**23 + 127, 1.5 * 2**52 + 1023)
# The exponent's least value, whose bits stand for 0.
_least = _constant("_least", -88.02969360351562, -1023 * _LN2)
# A bound of exponents whose exponentials have normal inverses.
_most = _constant("_most", 87.0, 707.0)
# (exp(f) − 1 − f)/f² for |f| ≤ log(2)/2.
_exp_tail = _polynomial(
    "_exp_tail",
    [0.4999999403953552, 0.1666651964187622, 0.04166839271783829, 0.008368780836462975, 0.0013814467238262296],
    [
        0.5000000000000011,
        0.1666666666666641,
        0.04166666666652919,
        0.008333333333495624,
        0.0013888888943922653,
        0.00019841269504765384,
        2.4801492762782965e-05,
        2.7557587342165753e-06,
        2.763037862483644e-07,
        2.4999965358661653e-08,
    ],
)
# (2·atanh(s)/s − 2)/s² in s², for |s| ≤ (√2 − 1)/(√2 + 1).
_atanh_tail = _polynomial(
    "_atanh_tail",
    [0.6666677594184875, 0.399774968624115, 0.298730731010437],
    [
        0.6666666666666735,
        0.3999999999941109,
        0.2857142874326292,
        0.22222198475975002,
        0.18183569739863428,
        0.1531390325573426,
        0.1479750753439275,
    ],
)


@inline
def within(x: Any) -> Any:
    """x, or the largest number whose exponential is 0; a NaN stays itself, since `larger` gives its second argument."""
    return larger(_least(x), x)


@inline
def exp(x: Any) -> Any:
    """exp(x) for x ≤ 0, to 1 ulp; 0 for −inf and where the result is below the normal numbers, NaN for NaN."""
    # 2^k·exp(f) with x = k·log 2 + f.
    x = within(x)
    shifted = fma(x, _log2_e(x), _shift_to_integer(x))
    k = shifted - _shift_to_integer(x)
    f = fma(k, -_ln2_rest(x), fma(k, -_ln2(x), x))
    # Multiplied, not added to the exponent: that would make a number of some NaN.
    return fma(f, fma(f, _exp_tail(f), 1.0), 1.0) * moved_to_exponent(shifted)


@inline
def small_expm1(x: Any) -> Any:
    """exp(x) − 1 for |x| ≤ log(2)/2, to 1 ulp; NaN for NaN."""
    return fma(x * x, _exp_tail(x), x)


@inline
def small_excess(x: Any) -> Any:
    """exp(x) − 1 − x for |x| ≤ log(2)/2, to 2 ulp; NaN for NaN."""
    return x * x * _exp_tail(x)


@inline
def _of_angle(b: Any) -> tuple[Any, Any, Any]:
    """exp(b), exp(b) − 1 and 1/(exp(b) + 1), each to about 1 ulp; NaN for NaN."""
    # As in `exp`, of which exp(f) − 1 stays by itself: for small angles that is all there is.
    b = smaller(_most(b), larger(_least(b), b))
    shifted = fma(b, _log2_e(b), _shift_to_integer(b))
    k = shifted - _shift_to_integer(b)
    f = fma(k, -_ln2_rest(b), fma(k, -_ln2(b), b))
    rest, power = fma(f * f, _exp_tail(f), f), moved_to_exponent(shifted)
    less_one = fma(rest, power, power - 1.0)
    return fma(rest, power, power), less_one, 1.0 / (2.0 + less_one)


@inline
def tanh_of_half(b: Any) -> Any:
    """tanh(b/2) = (exp(b) − 1)/(exp(b) + 1), to 2 ulp; NaN for NaN."""
    _, less_one, inverse = _of_angle(b)
    return less_one * inverse


@inline
def tanh_of_half_with_slope(b: Any) -> tuple[Any, Any]:
    """The same bits, and 1 − tanh²(b/2) = 4·exp(b)/(exp(b) + 1)², which does not cancel."""
    power, less_one, inverse = _of_angle(b)
    twice = inverse + inverse
    # Past the largest exponential it is below what anything is measured by, as it is past the least.
    return less_one * inverse, where(b > _most(b), 0.0, power * twice * twice)


@inline
def log1p(y: Any) -> Any:
    """log(1 + y) for finite y ≥ 0, to about 1 ulp; NaN for NaN."""
    return log1p_beside(y, 1.0 / (1.0 + y))


@inline
def log1p_beside(y: Any, inverse: Any) -> Any:
    """The same, where 1/(1 + y) is known to a few digits."""
    u = 1.0 + y
    # What the addition has rounded away, exactly.
    lost = where(y < 1.0, y - (u - 1.0), 1.0 - (u - y))
    return _log(exponent(u), significand(u) - 1.0, lost * inverse)


@inline
def log_of_ratio(u: Any, less: Any) -> Any:
    """log u of a normal u ≤ 1, to about 2 ulp, where `less` is u − 1 without the rounding of u."""
    k = exponent(u)
    return _log(k, where(k == 0.0, less, significand(u) - 1.0), 0.0 * u)


@inline
def _log(k: Any, f: Any, lost: Any) -> Any:
    """log(2^k·(1 + f)) + lost, for √½ ≤ 1 + f < √2."""
    s = f / (2.0 + f)
    w = s * s
    half = 0.5 * f * f
    # log(1 + f) = 2·atanh(s) = f − f²/2 + s·(f²/2 + s²·tail); the large terms last.
    rest = fma(s, fma(w, _atanh_tail(w), half), fma(k, _ln2_rest(k), lost))
    return fma(k, _ln2(k), f - (half - rest))


@inline
def added(high: Any, low: Any, x: Any) -> Any:
    """The running sum high + low with x added to it; what `high` loses by rounding gathers in `low`."""
    after = high + x
    taken = after - high
    return after, low + ((high - (after - taken)) + (x - taken))


@inline
def finished(high: Any, low: Any) -> Any:
    """A running sum as it stands in each lane. An infinity in `high` has left a NaN in `low`."""
    return where(is_nan(low), high, high + low)


@inline
def sum_of_lanes(high: Any, low: Any) -> Any:
    """The sum of the lanes of a running sum, in float64."""
    return total(where(is_nan(low), widened(high), widened(high) + widened(low)))
