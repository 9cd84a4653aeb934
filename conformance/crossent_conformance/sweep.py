"""The data of the error plot: how far off loss and gradient are, the surer the prediction gets.

Eight logits, of which seven are equal and the target is ahead of them by the gap; relative errors against the 60-digit
oracle. `curves` asks a subject on one backend, `allowed` says what the contract lets it err. What cannot be had is left
out: a plot has no say in whether anything conforms, so nothing that a subject does here ends a run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crossent_conformance import oracle, units
from crossent_conformance.backends import HALF, Backend, Mode
from crossent_conformance.places import Place

V = 8
GAPS = tuple(range(-40, 81))
LOSS, GRADIENT = KINDS = ("loss", "target gradient")


def inputs(gaps: Sequence[float] = GAPS) -> tuple[np.ndarray, np.ndarray]:
    """One row per gap, the target in class 0."""
    logits = np.zeros((len(gaps), V))
    logits[:, 0] = gaps
    return logits, np.zeros(len(gaps), dtype=np.int64)


def place(backend: Backend, dtype: str) -> Place:
    """Where a subject is asked: called directly, where the backend's arrays allow it."""
    return Place(backend, dtype, Mode.EAGER if Mode.EAGER in backend.modes else Mode.LAZY)


def curves(under_test: Any, backend: Backend, dtypes: Iterable[str]) -> list[dict[str, Any]]:
    """The "curves" of the results, for a subject on a backend: none where it could not be asked."""
    return [
        {"backend": backend.name, "dtype": dtype, "what": what, "gaps": list(GAPS), "errors": errors}
        for dtype in dtypes
        for what, errors in _of_place(under_test, place(backend, dtype)).items()
    ]


def allowed(gaps: Sequence[float], what: str, dtype: str) -> list[float]:
    """The relative error that clause V1 allows at each gap; inf where the result need only be as small."""
    return [_allowed(gap, what, dtype) for gap in gaps]


def _of_place(under_test: Any, where: Place) -> dict[str, list[float | str]]:
    logits, targets = inputs()
    with where.backend.context(where.mode), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            logits = where.round(logits)
        except Exception:
            return {}
        exact_loss, exact_gradient = oracle.cross_entropy(logits, targets, reduction="none")
        for function in (under_test.loss_and_grad, under_test.loss):
            try:
                result = where.evaluate(function, logits, targets, reduction="none")
                loss, d_logits = result if isinstance(result, tuple) else (result, None)
                found = {LOSS: _relative(loss, exact_loss)}
            except Exception:
                # Whatever it was, the loss alone may still be had.
                continue
            if d_logits is not None and np.shape(d_logits) == logits.shape:
                found[GRADIENT] = _relative(np.asarray(d_logits)[:, 0], exact_gradient[:, 0])
            return found
    return {}


def _relative(got: Any, exact: units.Exact) -> list[float | str]:
    got = np.asarray(got, dtype=np.float64)
    if got.shape != exact.shape:
        raise ValueError(f"shape {got.shape}, not {exact.shape}")
    errors = np.abs((got - exact.high) - exact.low) / np.abs(exact.high)
    # Three digits are more than a plot can show.
    return [float(f"{error:.3g}") if math.isfinite(error) else "inf" for error in errors.tolist()]


def _allowed(gap: float, what: str, dtype: str) -> float:
    others = (V - 1) * math.exp(-gap)
    value = math.log1p(others) if what == LOSS else others / (1 + others)
    compute_dtype = "float32" if dtype in HALF else dtype
    if value < units.FLOOR[compute_dtype]:
        return math.inf
    rounding = 0.0
    if what == GRADIENT and dtype in HALF:
        rounding = float(units.half_ulp(np.asarray(value), dtype)) / value
    return units.allowance(V, value) * units.EPS[compute_dtype] + rounding
