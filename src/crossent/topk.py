"""Divergences from a teacher of whom the K likeliest classes alone are known: ids and log-probabilities, (..., K).

With p of the student and q of the teacher at those classes, and p_t and q_t what is left of 1:

    renormalise   Σ q'·log(q'/p)                                 q' = q/Σ q
    bin           the divergence of (p, p_t) and (q, q_t), whose last class is all the others
    drop          Σ q·log(q/p), whatever the others have

The student's log-probabilities are those of `description`; the rest is arithmetic of K numbers a token. A library that
differentiates does so; for the others `_slopes` has the derivatives by the student's log-probabilities.
"""

from __future__ import annotations

import math
from typing import Any

from crossent import checks, description, problem
from crossent.libraries import Inputs, Library
from crossent.math.measures import FORWARD, REVERSE
from crossent.math.rows import LOSS, Rows
from crossent.options import Options
from crossent.problem_tokens import Several, several
from crossent.types import Array

RENORMALISE, BIN, DROP = "renormalise", "bin", "drop"
TAILS = (RENORMALISE, BIN, DROP)
# A logarithm from which on the exact one makes no difference, see `description.gradient_of_log_probs`.
_FAR = 80.0


def divergence(inputs: Inputs, log_probs: Array, tail: str, options: Options) -> Array:
    """The divergence of a call. inputs: with the teacher's classes as targets."""
    family = checks.library_of("logits", inputs.logits, "an array of shape (..., V)")
    library = family.of_call(_with(inputs, log_probs))
    library = library.composes or library
    form = checks.topk(library, inputs, log_probs)
    with library.computing(inputs.logits):
        rows, ending, chosen = several(library, inputs, form, options)
        rows = rows._replace(coefficients=rows.coefficients._replace(measure=LOSS))
        checks.pair(library, inputs, log_probs)
        if library.composes is None:
            found = _of_student(library, rows, chosen.ids, tail)
        else:
            bare, each = inputs._replace(weights=None, denominator=None), ending._replace(reduction="none")
            lp = description.composed_log_probs(library, bare, rows, each, chosen.ids)
            rest = None
            if tail == BIN:
                rest = description.composed_log_of_rest(library, bare, rows, each, chosen.ids, lp)
            found = lp, rest
        values = _values(library, *_counted(library, chosen, found, log_probs, rows.dtype, tail), tail, options)
        return ending.finish(_weighed(library, chosen, values))


def divergence_and_gradient(
    inputs: Inputs,
    log_probs: Array,
    tail: str,
    options: Options,
    grad_output: Array | float | None,
    out: Array | None,
) -> tuple[Array, Array]:
    """The same, and the gradient of the logits, outside any framework's graph."""
    family = checks.library_of("logits", inputs.logits, "an array of shape (..., V)")
    library, given = family.off_graph(_with(inputs, log_probs))
    inputs, log_probs = given._replace(class_weights=None), given.class_weights
    logits = inputs.logits
    form = checks.topk(library, inputs, log_probs)
    with library.computing(logits):
        rows, ending, chosen = several(library, inputs, form, options)
        rows = rows._replace(coefficients=rows.coefficients._replace(measure=LOSS))
        checks.pair(library, inputs, log_probs)
        checks.gradient_of_loss(library, grad_output, logits, ending.shape)
        checks.output(library, out, logits)
        scale = ending.scale(1.0 if grad_output is None else library.above(grad_output))
        if not isinstance(scale, float) and scale.ndim:
            scale = library.xp.reshape(scale, form.tokens)[..., None]
        found = _of_student(library, rows, chosen.ids, tail)
        pair = _counted(library, chosen, found, log_probs, rows.dtype, tail)
        values = _weighed(library, chosen, _values(library, *pair, tail, options))
        slopes = _any_bad(library, chosen).finished(library, _slopes(library, *pair, tail, options)) * scale
        slopes, k = library.cast(slopes, rows.dtype), chosen.ids.shape[-1]
        rest = (slopes[..., k], slopes[..., k + 1]) if tail == BIN else None
        d = description.gradient_of_log_probs(library, rows, chosen.ids, found[0], slopes[..., :k], rest)
        d = library.leave_matrix(d, logits)
        value = ending.finish(values)
        return value, d if out is None else problem.put(library, out, d)


def _with(inputs: Inputs, log_probs: Any) -> Inputs:
    """With the teacher's log-probabilities in the place of class weights, of which there are none: its state counts."""
    return inputs._replace(class_weights=log_probs)


def _weighed(library: Library, chosen: Several, values: Array) -> Array:
    """Values of tokens, times their weights."""
    return _any_bad(library, chosen).finished(library, values[..., None])[..., 0]


def _any_bad(library: Library, chosen: Several) -> Several:
    """All of a token is NaN where one of its classes is none of the vocabulary."""
    bad = None if chosen.bad is None else library.xp.any(chosen.bad, axis=-1)[..., None]
    return chosen._replace(bad=bad, kept=None)


def _of_student(library: Library, rows: Rows, ids: Array, tail: str) -> tuple[Array, Array | None]:
    """The log-probabilities of the classes, and with a bin that of all others."""
    lp = description.log_probs(library, rows, ids)
    return lp, description.log_of_rest(library, rows, ids, lp) if tail == BIN else None


def _counted(
    library: Library, chosen: Several, found: tuple[Array, Array | None], log_probs: Array, dtype: Array, tail: str
) -> tuple[Array, Array]:
    """Both sides' log-probabilities as the tail has them; ordinary numbers for tokens that do not count."""
    xp, (lp, rest) = library.xp, found
    lq = library.cast(library.enter(log_probs), dtype)
    if chosen.weights is not None:
        ignored = chosen.weights == 0
        lp, lq = (xp.where(ignored[..., None], xp.full_like(x, -1.0 - math.log(x.shape[-1])), x) for x in (lp, lq))
        rest = None if rest is None else xp.where(ignored, xp.full_like(rest, -1.0), rest)
    if tail == RENORMALISE:
        top = library.stop_gradient(xp.max(lq, axis=-1))[..., None]
        return lp, (lq - top) - xp.log(xp.sum(xp.exp(lq - top), axis=-1))[..., None]
    if rest is None:
        return lp, lq
    return (
        xp.concat([lp, rest[..., None]], axis=-1),
        xp.concat([lq, _log_of_rest(library, lq)[..., None]], axis=-1),
    )


def _values(library: Library, lp: Array, lq: Array, tail: str, options: Options) -> Array:
    """The divergence of every token, (...)."""
    xp, c = library.xp, options.coefficients
    p, q = xp.exp(lp), xp.exp(lq)
    if tail == DROP:
        return xp.sum(_times(library, q, lq, lp), axis=-1)
    if c.measure == FORWARD:
        found = _terms(library, q, p, lq, lp)
        if tail == RENORMALISE:
            # What the student gives to the others is what it does not give to these.
            return xp.maximum(found + (1.0 - xp.sum(p, axis=-1)), xp.zeros_like(found))
        return found
    if c.measure == REVERSE:
        return _terms(library, p, q, lp, lq)
    mixed = _mixed(library, lp, lq, c.mixture)
    m = xp.exp(mixed)
    of_q, of_p = _terms(library, q, m, lq, mixed), _terms(library, p, m, lp, mixed)
    return c.mixture * of_q + (1.0 - c.mixture) * of_p


def _slopes(library: Library, lp: Array, lq: Array, tail: str, options: Options) -> Array:
    """The derivative of the divergence by each log-probability of the student, (..., K), but for what multiplies them
    all; of a bin, by that of the others too, and over their probability, (..., K + 2).
    """
    xp, c = library.xp, options.coefficients
    if c.measure == FORWARD and tail != BIN:
        return -xp.exp(lq)
    if c.measure == FORWARD:
        slopes, away = -xp.exp(lq), lq[..., -1:] - _finite(library, lp[..., -1:])
        of_rest = xp.exp(xp.where(away > _FAR, _FAR, away))
        return xp.concat([slopes, xp.where(slopes[..., -1:] == 0, 0.0, -of_rest)], axis=-1)
    other = lq if c.measure == REVERSE else _mixed(library, lp, lq, c.mixture)
    share = 1.0 if c.measure == REVERSE else 1.0 - c.mixture
    slopes = share * _times(library, xp.exp(lp), lp, other)
    far = share * (lp[..., -1:] - _finite(library, other[..., -1:]))
    return xp.concat([slopes, xp.where(lp[..., -1:] == -xp.inf, 0.0, far)], axis=-1)


def _finite(library: Library, x: Array) -> Array:
    """`x`, and 0 where it is −∞: of a bin that holds nothing nothing is asked."""
    return library.xp.where(x == -library.xp.inf, library.xp.zeros_like(x), x)


def _log_of_rest(library: Library, x: Array) -> Array:
    """log(1 − Σ exp x): NaN where the sum is past 1 by more than rounding."""
    xp = library.xp
    rest = 1.0 - xp.sum(xp.exp(x), axis=-1)
    return xp.log(xp.where(rest < -0.01, xp.nan, xp.where(rest > 0, rest, 0.0 * rest)))


def _mixed(library: Library, lp: Array, lq: Array, mixture: float) -> Array:
    """log(mixture·q + (1 − mixture)·p)."""
    return library.xp.log(mixture * library.xp.exp(lq) + (1.0 - mixture) * library.xp.exp(lp))


def _terms(library: Library, a: Array, b: Array, la: Array, lb: Array) -> Array:
    """Σ a·log(a/b) − a + b, of which no term is negative but by rounding."""
    terms = (_times(library, a, la, lb) - a) + b
    return library.xp.sum(library.xp.maximum(terms, library.xp.zeros_like(terms)), axis=-1)


def _times(library: Library, probability: Array, la: Array, lb: Array) -> Array:
    """probability·(la − lb), 0 where the probability is, and with derivatives there."""
    nothing, zero = probability == 0, library.xp.zeros_like(la)
    return probability * (library.xp.where(nothing, zero, la) - library.xp.where(nothing, zero, lb))


def is_pair(teacher: Any) -> bool:
    """Whether a teacher is classes and their log-probabilities, not logits."""
    return isinstance(teacher, tuple)
