"""The answers to the case of a JSON file, as that file holds them: from the oracle, at 40 digits.

The error allowed to each value is V1's, in eps of the compute dtype, and whole: what is stored in half precision may
be off by half a unit in its last place besides, and what is below 1e-30 (float64: 1e-300) by that much. So a reader
needs |given - exact| <= allowed * eps, and no rule.
"""

from __future__ import annotations

from decimal import ROUND_UP, Context
from typing import Any

import numpy as np
from mpmath import mp, mpf

from crossent_conformance import oracle, units
from crossent_conformance.vectors import Case

DIGITS = 40
SAFE = 2**53 - 1
"""The largest integer that every reader of JSON holds; those past it are strings."""
_MOST = 1.797e308
"""The largest number of four digits: what is allowed to losses near float64's end would be infinite."""
_UP = Context(prec=4, rounding=ROUND_UP)
QUESTION = (
    "about",
    "classes",
    "clause",
    "dtype",
    "id",
    "logits",
    "options",
    "repeat",
    "targets",
    "targets_dtype",
    "tokens",
)
"""What of a case is given; the rest is its answer. Some answers are made where the case has a field for them."""


def answered(given: dict[str, Any]) -> dict[str, Any]:
    """The case with its answers: flat lists in row-major order, numbers that JSON has not as strings."""
    asked = {name: given[name] for name in QUESTION if name in given}
    dtype, repeat = given["dtype"], given.get("repeat", {})
    compute_dtype = dtype if dtype == "float64" else "float32"
    logits, targets, options = Case({**given, "repeat": {}}).arguments()
    columns = repeat.get("columns", [1] * given["classes"])
    offenders = _offenders(targets, sum(columns), options.get("ignore_index")) if targets.dtype.kind != "f" else []
    loss, d_logits = _exact(logits, targets, options, repeat, offenders)
    case: dict[str, Any] = {
        **asked,
        "eps": units.EPS[compute_dtype],
        "loss_dtype": compute_dtype,
        "loss_shape": list(loss.shape),
        "loss": _texts(loss, compute_dtype),
        "loss_allowed": _allowed(loss, compute_dtype, compute_dtype),
        "d_logits_dtype": dtype,
        "d_logits": _texts(d_logits, dtype),
        "d_logits_allowed": _allowed(d_logits, compute_dtype, dtype),
    }
    if "loss_at_least" in given:
        case["loss_at_least"] = 0
    if "row_sums_allowed" in given:
        case["row_sums_allowed"] = _row_sums(d_logits, columns, compute_dtype, dtype)
    if "perplexity" in given:
        case |= _perplexity(logits, targets, options, compute_dtype)
    if offenders:
        first = offenders[0]
        value = int(targets.reshape(-1)[first])
        case["refused"] = {
            "error": "IndexError",
            "position": list(map(int, np.unravel_index(first, targets.shape))),
            "value": value if abs(value) <= SAFE else str(value),
        }
    return case


def _offenders(targets: np.ndarray, V: int, ignore_index: int | None) -> list[int]:
    flat = targets.reshape(-1).tolist()
    return [i for i, target in enumerate(flat) if not 0 <= target < V and target != ignore_index]


def _exact(
    logits: np.ndarray, targets: np.ndarray, options: dict[str, Any], repeat: dict[str, list[int]], offenders: list[int]
) -> tuple[oracle.Written, oracle.Written]:
    """The oracle's answer to the repeated question, without the repetitions."""
    options = {name: value for name, value in options.items() if name != "check_targets"}
    reduction, columns = options.get("reduction", "mean"), repeat.get("columns")
    first = np.arange(logits.shape[-1])
    if columns:
        first = np.cumsum([0, *columns[:-1]])
        logits = np.repeat(logits, columns, axis=-1)
        assert targets.dtype.kind != "f"
        assert set(targets.tolist()) <= set(first[np.array(columns) == 1]), "a target that is one of many"
    if offenders:
        assert reduction == "none"
        skipped = [*offenders, *(i for i, t in enumerate(targets.reshape(-1)) if t == options.get("ignore_index"))]
        given = [-1 if i in skipped else int(target) for i, target in enumerate(targets.reshape(-1))]
        targets = np.array(given).reshape(targets.shape)
        options["ignore_index"] = -1
    if "rows" in repeat and reduction != "none":
        loss, d_logits = _repeated(logits, targets, options, np.array(repeat["rows"]))
    else:
        loss, d_logits = _ask(logits, targets, **options)
    for i in offenders:
        where = np.unravel_index(i, targets.shape)
        for exact in (loss, d_logits):
            exact.high[where] = exact.low[where] = np.nan
            exact.digits[where] = "nan"
            exact.allowed[where] = 0.0
    if columns:
        d_logits = d_logits[..., first]
    return loss, d_logits


def _repeated(
    logits: np.ndarray, targets: np.ndarray, options: dict[str, Any], counts: np.ndarray
) -> tuple[oracle.Written, oracle.Written]:
    """A token that is repeated is one of so much more weight in the loss, and by itself in the gradient."""
    assert options.keys() <= {"reduction", "weights"}
    weights = options.get("weights", np.ones(len(counts)))
    total = float((weights * counts).sum())
    if options.get("reduction") == "sum":
        loss, _ = _ask(logits, targets, weights=weights * counts, reduction="sum")
        return loss, _ask(logits, targets, weights=weights, reduction="sum")[1]
    loss, _ = _ask(logits, targets, weights=weights * counts)
    return loss, _ask(logits, targets, weights=weights, denominator=total)[1]


def _ask(*arrays: np.ndarray, digits: int = DIGITS, **options: Any) -> tuple[oracle.Written, oracle.Written]:
    loss, d_logits = oracle.cross_entropy(*arrays, **options, digits=digits)
    assert isinstance(loss, oracle.Written)
    assert isinstance(d_logits, oracle.Written)
    return loss, d_logits


def _perplexity(
    logits: np.ndarray, targets: np.ndarray, options: dict[str, Any], compute_dtype: str
) -> dict[str, list[Any]]:
    """exp of each loss, where the argument may be off by what is allowed to the loss, and the result by V1's rule."""
    loss, _ = _ask(logits, targets, **options, digits=DIGITS + 15)
    texts, allowed = [], []
    for text, off in zip(loss.digits.reshape(-1), loss.allowed.reshape(-1).tolist(), strict=True):
        value = mp.exp(mpf(text))
        fits = value <= units.LARGEST[compute_dtype]
        texts.append(oracle.written(value, DIGITS) if fits else "inf")
        allowed.append(_up(float(value) * (off + 4 + abs(float(text)))) if fits else 0.0)
    return {"perplexity": texts, "perplexity_allowed": allowed}


def _row_sums(exact: oracle.Written, columns: list[int], compute_dtype: str, dtype: str) -> list[float]:
    """How far from zero the sum of each row may be (V4): V1's error of its largest entry, and each entry's rounding."""
    V = sum(columns)
    largest = np.abs(exact.high).max(axis=-1)
    allowed = np.array([units.allowance(V, size) * size for size in largest.reshape(-1).tolist()])
    if dtype != compute_dtype:
        rounding = units.half_ulp(exact.high, dtype) * columns
        allowed = allowed + rounding.sum(axis=-1).reshape(-1) / units.EPS[compute_dtype]
    return [_up(number) for number in allowed.tolist()]


def _texts(exact: oracle.Written, stored: str) -> list[str]:
    """The digits; past the dtype in which they are stored, infinity."""
    past = np.isfinite(exact.high) & (np.abs(exact.high) > units.LARGEST[stored])
    infinity = np.where(exact.high < 0, "-inf", "inf")
    return np.where(past, infinity, exact.digits).reshape(-1).tolist()


def _allowed(exact: oracle.Written, compute_dtype: str, stored: str) -> list[float]:
    floor, eps = units.FLOOR[compute_dtype], units.EPS[compute_dtype]
    representable = np.abs(exact.high) <= units.LARGEST[stored]
    allowed = np.where(representable, np.minimum(exact.allowed, _MOST) * eps, 0.0)
    if stored != compute_dtype:
        allowed = allowed + np.where(allowed > 0, units.half_ulp(exact.high, stored), 0.0)
    tiny = (np.abs(exact.high) < floor) & (allowed > 0)
    allowed = np.where(tiny, np.maximum(allowed, floor), allowed)
    return [_up(number / eps) for number in allowed.reshape(-1).tolist()]


def _up(number: float) -> float:
    """Four digits, rounded away from zero: a limit needs no more, and no platform's last bit of a logarithm shows."""
    return float(_UP.create_decimal_from_float(number * (1 - 2.0**-40)))
