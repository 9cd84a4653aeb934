"""Divergences from a teacher of whom the K likeliest classes alone are known: ids and log-probabilities, (..., K).

With p of the student and q of the teacher at those classes, and p_t and q_t what is left of 1:

    renormalise   Σ q'·log(q'/p)                                 q' = q/Σ q
    bin           the divergence of (p, p_t) and (q, q_t), whose last class is all the others
    drop          Σ q·log(q/p), whatever the others have

The student's log-probabilities are those of `description`; the rest is arithmetic of K numbers a token. A library that
differentiates does so; for the others `_slope` is the derivative by the student's log-probabilities.
"""

from __future__ import annotations

from typing import Any

from crossent import checks, description, problem
from crossent.libraries import Inputs, Library
from crossent.math.measures import FORWARD, REVERSE
from crossent.math.rows import LOSS
from crossent.options import Options
from crossent.problem_tokens import Several, several
from crossent.types import Array

RENORMALISE, BIN, DROP = "renormalise", "bin", "drop"
TAILS = (RENORMALISE, BIN, DROP)


def divergence(inputs: Inputs, log_probs: Array, tail: str, options: Options) -> Array:
    """The divergence of a call. inputs: with the teacher's classes as targets."""
    library = checks.library_of("logits", inputs.logits, "an array of shape (..., V)").of_call(inputs)
    library = library.composes or library
    form = checks.topk(library, inputs, log_probs)
    with library.computing(inputs.logits):
        rows, ending, chosen = several(library, inputs, form, options)
        rows = rows._replace(coefficients=rows.coefficients._replace(measure=LOSS))
        checks.distinct(library, chosen.ids, chosen.weights)
        if library.composes is None:
            found = description.log_probs(library, rows, chosen.ids)
        else:
            bare, each = inputs._replace(weights=None, denominator=None), ending._replace(reduction="none")
            found = description.composed_log_probs(library, bare, rows, each, chosen.ids)
        teacher = library.cast(library.enter(log_probs), rows.dtype)
        values = _weighed(library, chosen, _values(library, found, teacher, tail, options))
        return ending.finish(values)


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
    library, inputs = family.off_graph(inputs)
    _, teacher = family.off_graph(Inputs(log_probs, None))
    logits = inputs.logits
    form = checks.topk(library, inputs, teacher.logits)
    with library.computing(logits):
        rows, ending, chosen = several(library, inputs, form, options)
        rows = rows._replace(coefficients=rows.coefficients._replace(measure=LOSS))
        checks.distinct(library, chosen.ids, chosen.weights)
        checks.gradient_of_loss(library, grad_output, logits, ending.shape)
        checks.output(library, out, logits)
        scale = ending.scale(1.0 if grad_output is None else library.above(grad_output))
        if not isinstance(scale, float) and scale.ndim:
            scale = library.xp.reshape(scale, form.tokens)[..., None]
        q = library.cast(library.enter(teacher.logits), rows.dtype)
        found = description.log_probs(library, rows, chosen.ids)
        values = _weighed(library, chosen, _values(library, found, q, tail, options))
        slopes = library.cast(chosen.finished(library, _slope(library, found, q, tail, options)) * scale, rows.dtype)
        d = library.leave_matrix(description.gradient_of_log_probs(library, rows, chosen.ids, found, slopes), logits)
        value = ending.finish(values)
        return value, d if out is None else problem.put(library, out, d)


def _weighed(library: Library, chosen: Several, values: Array) -> Array:
    return chosen.finished(library, values[..., None])[..., 0]


def _values(library: Library, lp: Array, lq: Array, tail: str, options: Options) -> Array:
    """The divergence of every token, (...)."""
    xp, c = library.xp, options.coefficients
    lp, lq = _binned(library, lp, lq, tail)
    p, q = xp.exp(lp), xp.exp(lq)
    if tail == DROP:
        return xp.sum(_times(library, q, lq - lp), axis=-1)
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


def _slope(library: Library, lp: Array, lq: Array, tail: str, options: Options) -> Array:
    """The derivative of the divergence by each log-probability of the student, (..., K)."""
    xp, c, k = library.xp, options.coefficients, lp.shape[-1]
    lp, lq = _binned(library, lp, lq, tail)
    if c.measure == FORWARD:
        q = xp.exp(lq)
        if tail != BIN:
            return -q
        return q[..., k:] * xp.exp(lp[..., :k] - lp[..., k:]) - q[..., :k]
    other = lq if c.measure == REVERSE else _mixed(library, lp, lq, c.mixture)
    far = lp - other
    slope = xp.exp(lp[..., :k]) * (far[..., :k] - far[..., k:])
    return slope if c.measure == REVERSE else (1.0 - c.mixture) * slope


def _binned(library: Library, lp: Array, lq: Array, tail: str) -> tuple[Array, Array]:
    """The log-probabilities as the tail has them: normalised, with a class for all others, or as they are."""
    xp = library.xp
    if tail == RENORMALISE:
        top = library.stop_gradient(xp.max(lq, axis=-1))[..., None]
        return lp, (lq - top) - xp.log(xp.sum(xp.exp(lq - top), axis=-1))[..., None]
    if tail == DROP:
        return lp, lq
    return tuple(xp.concat([x, _log_of_rest(library, x)[..., None]], axis=-1) for x in (lp, lq))


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
    terms = (_times(library, a, la - lb) - a) + b
    return library.xp.sum(library.xp.maximum(terms, library.xp.zeros_like(terms)), axis=-1)


def _times(library: Library, probability: Array, x: Array) -> Array:
    nothing = probability == 0
    return probability * library.xp.where(nothing, library.xp.zeros_like(x), x)


def is_pair(teacher: Any) -> bool:
    """Whether a teacher is classes and their log-probabilities, not logits."""
    return isinstance(teacher, (tuple, list))
