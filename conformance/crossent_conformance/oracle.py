"""Reference values at 60 digits, from the definitions alone: nothing here resembles an implementation's arithmetic.

    loss, gradient = cross_entropy(logits, targets, **options)

takes float64 NumPy arrays that hold exactly what the subject was given, the options of the contract under their
names, and gives `units.Exact` arrays. Per row, with p the softmax and q the target distribution after smoothing and
class weights:

    loss = sum_j q_j (-log p_j) + z_loss * lse**2          d_j = (sum_j q_j + 2 z_loss lse) p_j - q_j

with a temperature or a softcap all of it of the logits that `transform` gives, and d_j times their slopes.
`-log p_j` is log1p(others / own): the same number as lse - x_j, at 60 digits however near p_j is to 1. A row with NaN
or +inf, or with nothing but -inf, is NaN; 0 * inf is 0; a clipped term of algorithm="explicit" is a constant.

The error allowed to a value is V1's, added over the terms of its definition: a term of the sums above by its own size,
lse by |max| + log Z, from which it is made. The plain hard-target gradient has a single term in every entry. Logits
that may be off themselves (`off`, for each token, in eps of the compute dtype) add what clause L1 says.

With `digits=40` both results are `Written`: the same, and the numbers in 40 significant digits besides.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from mpmath import mp, mpf

from crossent_conformance.transform import PLAIN, Transform, moved
from crossent_conformance.units import Exact, allowance

mp.dps = 60
CLIP = mpf(1e-10)
LARGEST = sys.float_info.max
NAN = mpf("nan")
INFINITY = mpf("inf")
TINY = mpf("1e-400")


@dataclass(frozen=True)
class Written(Exact):
    """Reference values that are written down as well; zeros at the end of a number are left out."""

    digits: np.ndarray

    def __getitem__(self, index) -> Written:
        """A part of the values."""
        part = super().__getitem__(index)
        return Written(part.high, part.low, part.allowed, self.digits[index], times=part.times)


@dataclass(frozen=True)
class Options:
    """What a row's loss depends on besides its numbers."""

    label_smoothing: float = 0.0
    smoothing: str = "others"
    z_loss: float = 0.0
    algorithm: str = "stable"
    transform: Transform = PLAIN


@dataclass(frozen=True)
class Row:
    """One row's loss and gradient, per group of classes that nothing distinguishes."""

    loss: Any
    loss_allowed: float
    gradient: list[Any]
    gradient_allowed: list[Any]
    group_of_class: np.ndarray


@lru_cache(maxsize=200_000)
def _exp(x: Any) -> Any:
    return mp.exp(mpf(x))


def surprise(others: Any, own: Any) -> Any:
    return mp.log1p(others / own) if own else INFINITY


def masses(values: list[Any], counts: list[int]) -> tuple[list[Any], Any, list[Any]]:
    """exp of each group's logit, the sum over all classes, and the sum over all but one class of each group."""
    weight = [_exp(value) if value > -math.inf else mpf(0) for value in values]
    total = mp.fsum(e * c for e, c in zip(weight, counts, strict=True))
    top = max(range(len(values)), key=values.__getitem__)
    others = [total - e for e in weight]
    if counts[top] == 1:  # the one class that may have nearly everything: its difference from the total would cancel
        others[top] = mp.fsum(e * c for g, (e, c) in enumerate(zip(weight, counts, strict=True)) if g != top)
    return weight, total, others


def _spread(own: list[Any], finite: list[Any], counts: list[Any], hard: bool, options: Options) -> list[Any]:
    """The smoothed target distribution, per group; `own` is the distribution as given."""
    epsilon = mpf(options.label_smoothing)
    if epsilon == 0:
        return own
    n = sum(count for count, is_finite in zip(counts, finite, strict=True) if is_finite)
    if options.smoothing == "uniform":
        return [(1 - epsilon) * q + (epsilon / n if is_finite else 0) for q, is_finite in zip(own, finite, strict=True)]
    on_finite = mp.fsum(q * c for q, c, is_finite in zip(own, counts, finite, strict=True) if is_finite)
    elsewhere = mp.fsum(q * c for q, c, is_finite in zip(own, counts, finite, strict=True) if not is_finite)
    # Every class gives a share of its mass to each other finite class: n - 1 of them, or n if it is not finite itself.
    return [
        (1 - epsilon) * q
        + (epsilon * ((on_finite - q) / (n - 1) if n > 1 else 0) + epsilon * elsewhere / n if is_finite else 0)
        for q, is_finite in zip(own, finite, strict=True)
    ]


@lru_cache(maxsize=50_000)
def _row(logits: bytes, own: bytes | int, class_weights: bytes | None, options: Options, logits_off: float) -> Row:
    x = np.frombuffer(logits)
    V = x.size
    hard = isinstance(own, int)
    given = (np.arange(V) == own).astype(np.float64) if isinstance(own, int) else np.frombuffer(own)
    u = np.ones(V) if class_weights is None else np.frombuffer(class_weights)
    bounded = options.transform.softcap is not None
    if np.isnan(x).any() or (not bounded and (np.isposinf(x).any() or np.isneginf(x).all())):
        return Row(NAN, 0.0, [NAN], [0.0], np.zeros(V, dtype=np.intp))
    groups, group_of_class, counts = np.unique(
        np.stack([x, given, u], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    counts = counts.tolist()
    given_values = groups[:, 0].tolist()
    values = [options.transform.of(value) for value in given_values]
    finite = [value > -math.inf for value in values]
    q = _spread([mpf(value) for value in groups[:, 1].tolist()], finite, counts, hard, options)
    q = [mpf(weight) * value for weight, value in zip(groups[:, 2].tolist(), q, strict=True)]

    weight, total, others = masses(values, counts)
    lse, largest = mp.log(total), max(values)
    size_of_lse = float(abs(largest)) + float(lse - largest)
    p = [e / total for e in weight]
    off = moved(options.transform, values, p, counts)
    explicit = options.algorithm == "explicit"
    clipped = [explicit and probability < CLIP for probability in p]

    z_loss = mpf(options.z_loss)
    base = allowance(V)
    loss, allowed = z_loss * lse**2, base * float(z_loss * abs(lse)) * size_of_lse
    if off.lse:
        allowed += 2 * float(z_loss * abs(lse)) * off.lse
    for g, c in enumerate(counts):
        if q[g] == 0:
            continue
        of_class = -mp.log(CLIP) if clipped[g] else surprise(others[g], weight[g])
        loss += c * q[g] * of_class
        if of_class < INFINITY:
            size = 1 + float(of_class) if explicit else float(of_class)
            allowed += c * abs(float(q[g])) * ((allowance(V, size) * size if size else base) + off.surprises[g])

    pull = [mpf(0) if is_clipped else value for value, is_clipped in zip(q, clipped, strict=True)]
    mass = mp.fsum(value * c for value, c in zip(pull, counts, strict=True))
    slope = mass + 2 * z_loss * lse
    size_of_slope = (
        float(mp.fsum(abs(value) * c for value, c in zip(pull, counts, strict=True))) + 2 * float(z_loss) * size_of_lse
    )
    plain = hard and options.label_smoothing == 0 and not explicit
    is_target = groups[:, 1] == 1
    gradient, gradient_allowed, sizes = [], [], []
    for g, probability in enumerate(p):
        also = 0.0
        if not options.transform.is_plain:
            # The entry moves with its probability, and with lse in the slope that multiplies that.
            also = float(probability) * (off.surprises[g] * size_of_slope + 2 * float(z_loss) * off.lse)
        if plain and is_target[g]:
            rest = others[g] / total
            gradient.append(2 * z_loss * lse * probability - q[g] * rest)
            size = float(rest)
            gradient_allowed.append(
                (allowance(V, size) * size * size_of_slope if size else 0.0)
                + base * 2 * float(z_loss) * size_of_lse * float(probability)
                + also
            )
            sizes.append(size * size_of_slope + float(z_loss) * float(probability))
            continue
        if 2 * probability > 1:
            gradient.append((slope - pull[g]) - slope * others[g] / total)
        else:
            gradient.append(slope * probability - pull[g])
        size = float(probability)
        gradient_allowed.append(
            (allowance(V, size) * size * size_of_slope if size else 0.0) + base * abs(float(pull[g])) + also
        )
        sizes.append((size_of_slope + float(z_loss)) * size)
    if logits_off:
        # The transform's slope is at most that of the temperature.
        off_of_y = logits_off / float(options.transform.temperature)
        gradient_allowed = [entry + 2 * off_of_y * size for entry, size in zip(gradient_allowed, sizes, strict=True)]
    if not options.transform.is_plain:
        for g, x_of_group in enumerate(given_values):
            steep, steep_off = options.transform.slope(x_of_group), options.transform.slope_off(x_of_group)
            gradient_allowed[g] = float(steep) * (gradient_allowed[g] + steep_off * float(abs(gradient[g])))
            gradient[g] *= steep
    if logits_off:
        allowed += logits_off * float(mp.fsum(abs(entry) * c for entry, c in zip(gradient, counts, strict=True)))
    return Row(loss, allowed, gradient, gradient_allowed, group_of_class)


def _exact(numbers: list[Any], allowed: list[Any], shape: tuple[int, ...]) -> Exact:
    high = [float(number) for number in numbers]
    low = [float(number - h) if math.isfinite(h) else 0.0 for number, h in zip(numbers, high, strict=True)]
    # An allowance past the dtype would allow anything; times eps it is what it should be.
    finite = [min(allowance, LARGEST) for allowance in allowed]
    return Exact(*(np.array(part, dtype=np.float64).reshape(shape) for part in (high, low, finite)))


def written(number: Any, digits: int) -> str:
    """A number in so many significant digits: 0.0 where no float is near to it, and nan, inf, -inf."""
    if not mp.isfinite(number):
        return str(float(number))
    return mp.nstr(number if abs(number) > TINY else mpf(0), digits, min_fixed=-5, max_fixed=digits)


def _as_written(numbers: list[Any], digits: int) -> np.ndarray:
    return np.array([written(number, digits) for number in numbers], dtype=object)


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    *,
    weights: Any = None,
    class_weights: np.ndarray | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    denominator: Any = None,
    grad_output: Any = None,
    label_smoothing: float = 0.0,
    smoothing: str = "others",
    z_loss: float = 0.0,
    temperature: float = 1.0,
    logit_softcap: float | None = None,
    algorithm: str = "stable",
    digits: int = 0,
    off: np.ndarray | None = None,
) -> tuple[Exact, Exact]:
    """The loss and its gradient with respect to the logits."""
    logits = np.ascontiguousarray(logits, dtype=np.float64)
    targets = np.asarray(targets)
    V = logits.shape[-1]
    tokens = logits.shape[:-1]
    hard = targets.dtype.kind in "iu"
    options = Options(label_smoothing, smoothing, z_loss, algorithm, Transform(temperature, logit_softcap))
    rows = logits.reshape(-1, V)
    given = targets.reshape(-1).tolist() if hard else list(np.asarray(targets, dtype=np.float64).reshape(-1, V))
    spread = np.broadcast_to(np.asarray(1.0 if weights is None else weights, dtype=np.float64), tokens)
    token_weights = spread.reshape(-1).tolist()
    u = None if class_weights is None else np.ascontiguousarray(class_weights, dtype=np.float64)

    divisors, found = [], []
    are_off = np.broadcast_to(np.asarray(0.0 if off is None else off), tokens).reshape(-1).tolist()
    for x, own, w, is_off in zip(rows, given, token_weights, are_off, strict=True):
        is_counted = w != 0
        divisor = mpf(w)
        if hard:
            is_counted = is_counted and own != ignore_index
            if is_counted and u is not None:
                is_counted = u[own] != 0
                divisor *= mpf(float(u[own]))
        divisors.append(divisor)
        key = None if u is None else u.tobytes()
        found.append(_row(x.tobytes(), own if hard else own.tobytes(), key, options, is_off) if is_counted else None)

    ending = {"reduction": reduction, "denominator": denominator, "grad_output": grad_output, "digits": digits}
    return assembled(logits.shape, found, token_weights, divisors, **ending)


def assembled(
    shape_of_logits: tuple[int, ...],
    found: list[Row | None],
    token_weights: list[float],
    divisors: list[Any],
    *,
    reduction: str = "mean",
    denominator: Any = None,
    grad_output: Any = None,
    digits: int = 0,
) -> tuple[Exact, Exact]:
    """A reduction of rows and its gradient; None is a row that does not count."""
    tokens, counted = shape_of_logits[:-1], [row is not None for row in found]
    groups, shape = _groups(reduction, tokens)
    divisor_of = [_divisor(reduction, denominator, group, counted, divisors) for group in groups]
    upstream = (
        np.ones(shape) if grad_output is None else np.broadcast_to(np.asarray(grad_output, dtype=np.float64), shape)
    )
    losses, losses_allowed = [], []
    high, low, allowed = (np.zeros((len(found), shape_of_logits[-1])) for _ in range(3))
    texts = np.full(high.shape, "0.0", dtype=object) if digits else None
    for group, divisor, scale in zip(groups, divisor_of, upstream.reshape(-1).tolist(), strict=True):
        loss, loss_allowed = mpf(0), 0.0
        for i in group:
            row = found[i]
            if row is None:
                continue
            loss += mpf(token_weights[i]) * row.loss / divisor
            loss_allowed += float(abs(mpf(token_weights[i]) / divisor)) * row.loss_allowed
            factor = mpf(token_weights[i]) * mpf(scale) / divisor
            numbers = [factor * entry for entry in row.gradient]
            sizes = [abs(float(factor)) * entry for entry in row.gradient_allowed]
            entries = _exact(numbers, sizes, (len(row.gradient),))
            of_classes = entries[row.group_of_class]
            high[i], low[i], allowed[i] = of_classes.high, of_classes.low, of_classes.allowed
            if texts is not None:
                texts[i] = _as_written(numbers, digits)[row.group_of_class]
        losses.append(loss)
        losses_allowed.append(loss_allowed)
    gradient = Exact(*(part.reshape(shape_of_logits) for part in (high, low, allowed)))
    loss_values = _exact(losses, losses_allowed, shape)
    if texts is None:
        return loss_values, gradient
    return (
        Written(**vars(loss_values), digits=_as_written(losses, digits).reshape(shape)),
        Written(**vars(gradient), digits=texts.reshape(shape_of_logits)),
    )


def _groups(reduction: str, tokens: tuple[int, ...]) -> tuple[list[range], tuple[int, ...]]:
    """Which rows each entry of the loss is made of, and the loss's shape."""
    count = math.prod(tokens)
    if reduction == "none":
        return [range(i, i + 1) for i in range(count)], tokens
    if reduction == "sequence":
        length = tokens[-1]
        return [range(i * length, (i + 1) * length) for i in range(math.prod(tokens[:-1]))], tokens[:-1]
    return [range(count)], ()


def _divisor(reduction: str, denominator: Any, group: range, counted: list[Any], divisors: list[Any]) -> Any:
    """What the sum over the group is divided by; 1 where nothing is counted, since the sum is 0 then."""
    if reduction in ("none", "sum") or not any(counted[i] for i in group):
        return mpf(1)
    if denominator is None:
        return mp.fsum(divisors[i] for i in group if counted[i])
    if isinstance(denominator, str):
        return mpf(sum(counted[i] for i in group))
    return mpf(float(denominator))
