"""What becomes of logits before anything else looks at them: temperature T and softcap c. Pure array API.

    y = c·tanh(x/(cT)), or x/T without a softcap        dy/dx = (1 − tanh²(x/(cT)))/T

Everything else is computed of y. 1/T is part of the scale of a gradient (`math/outcome.py`); the rest is `slope`, which
multiplies its entries. Both are functions of one logit, so y has the same bits wherever it is computed again. Numba's
`engines/numba_cpu/transform.py` and CUDA's `engines/cuda/transform.cuh` are the same for their compilers.
"""

from __future__ import annotations

from crossent.math.operations import Operations
from crossent.math.rows import Coefficients
from crossent.types import Array


def transformed(ops: Operations, x: Array, coefficients: Coefficients, out: Array | None) -> Array:
    """y of logits in the compute dtype. out: memory for it, which may be `x` itself."""
    inverse, c = coefficients.inverse_temperature, coefficients.softcap
    if c:
        return ops.apart(ops.multiply(ops.tanh(ops.multiply(x, inverse / c, out), out), c, out))
    return x if inverse == 1.0 else ops.apart(ops.multiply(x, inverse, out))


def slope(ops: Operations, x: Array, coefficients: Coefficients) -> Array | None:
    """T·dy/dx = 1 − tanh²(a) = 4u/(1 + u)² with u = exp(−2|a|), which does not cancel; None where it is 1."""
    if not coefficients.softcap:
        return None
    u = ops.xp.exp(-ops.xp.abs(x * (2.0 * coefficients.inverse_temperature / coefficients.softcap)))
    half = 2.0 / (1.0 + u)
    return u * half * half
