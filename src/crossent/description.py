"""What a row tells besides its loss: the numbers of tokens. Neither options nor engines are known here.

log Σ exp x = m + log Z      entropy = log Z + E/Z      log Z = log1p(rest)     of a row's spread
log p_k = −((m − x_k) + log Z)                                                   for any class k
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from crossent import linear
from crossent.math import measures
from crossent.math.rows import Coefficients, Head, Rows
from crossent.math.transform import slope, transformed
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.libraries.base import Inputs, Library
    from crossent.problem import Ending


# Logits that are copied at a time, to leave out some classes of each row.
REST = 1 << 22
_LAST_BITS = 4.0
# The inverse of a probability that is 0 beside another.
_NOTHING = 1e30


class TokenStatistics(NamedTuple):
    """What rows of logits tell of their targets: arrays of the shape of the targets, 0 for tokens that are ignored.

    All but `most_likely` have the dtype of the loss, and are NaN where the loss is.
    """

    loss: Array
    """−log p of the target, in nats."""
    log_prob: Array
    """log p of the target: the negative of the loss, at most 0."""
    log_sum_exp: Array
    """log Σ_j exp x_j."""
    entropy: Array
    """−Σ_j p_j·log p_j, from 0 to log V."""
    rank: Array
    """How many classes have a larger logit than the target: 0 for the likeliest and those that tie with it; −1 for a
    token that is ignored.
    """
    most_likely: Array
    """bool: whether no class is likelier than the target."""


def finished(library: Library, rows: Rows, ending: Ending) -> TokenStatistics:
    """The numbers of tokens from what their rows tell."""
    if 0 in ending.token_shape:
        nothing = ending.of_nothing()
        return TokenStatistics(nothing, nothing, nothing, nothing, nothing, nothing == 0)
    found = library.described(rows)
    xp, spread = library.xp, found.spread
    weight = None if rows.weight is None else xp.reshape(rows.weight, found.losses.shape)
    log_z = xp.log1p(spread.rest)
    numbers = [found.maximum + log_z, log_z + spread.moment / (1.0 + spread.rest)]
    named = _named(library, weight, found.losses, numbers, spread.above)
    return TokenStatistics(*(library.leave(xp.reshape(x, ending.token_shape)) for x in named))


def composed(library: Library, inputs: Inputs, rows: Rows, ending: Ending) -> TokenStatistics:
    """The same out of three losses that the library differentiates, and a rank that has no derivative."""
    graph = library.composes
    assert graph is not None
    loss_of = library.loss if inputs.head is None else library.linear_loss
    loss = graph.enter(loss_of(inputs, rows, ending))
    alone, bare = inputs._replace(targets=None), rows._replace(targets=None)
    numbers = []
    for measure in (measures.LOG_SUM_EXP, measures.ENTROPY):
        of_measure = bare._replace(coefficients=rows.coefficients._replace(measure=measure))
        numbers.append(graph.enter(loss_of(alone, of_measure, ending)))
    above = graph.stop_gradient(loss)
    if 0 not in ending.token_shape:
        above = library.xp.reshape(library.described(rows).spread.above, ending.token_shape)
        above = graph.enter(library.leave(library.stop_gradient(above)))
    weight = rows.weight if graph is library or rows.weight is None else library.leave(rows.weight)
    return TokenStatistics(*map(graph.leave, _named(graph, weight, loss, numbers, above)))


def log_of_rest(library: Library, rows: Rows, ids: Array, log_probs: Array) -> Array:
    """log(1 − Σ_k p_k) (...) of what distinct classes (..., K) leave, −∞ for nothing, from a sum over the others."""
    xp, v = library.xp, rows.vocabulary
    if 0 in ids.shape:
        return xp.sum(log_probs, axis=-1)
    x, chosen = library.as_matrix(rows.logits), library.as_matrix(ids)
    height = max(1, REST // max(1, v)) if library.leaves_out else max(1, x.shape[0])
    parts = []
    for i in range(0, x.shape[0], height):
        j = min(i + height, x.shape[0])
        part = rows._replace(logits=x[i:j, ...], targets=chosen[i:j, ..., 0], weight=None)
        found = library.described(part)
        lost = xp.full(chosen[i:j, ...].shape, -xp.inf, dtype=rows.dtype, device=library.device(chosen))
        # A copy in the compute dtype, to write to; −∞ is nothing only where no softcap is to come.
        y = transformed(library, library.widened(part.logits, rows.dtype), rows.coefficients, None)
        others = library.put_classes(y + 0.0, chosen[i:j, ...], lost)
        rest = library.described(part._replace(logits=others, coefficients=_bare(rows)))
        far = (rest.maximum - found.maximum) + (xp.log1p(rest.spread.rest) - xp.log1p(found.spread.rest))
        parts.append(xp.where(rest.maximum == -xp.inf, rest.maximum, far))
    far = xp.reshape(parts[0] if len(parts) == 1 else xp.concat(parts), ids.shape[:-1])
    return near_or_far(library, log_probs, far)


def near_or_far(library: Library, log_probs: Array, far: Array) -> Array:
    """log(1 − Σ_k p_k): of classes that have little, from their sum, and else what the others' sum says."""
    xp = library.xp
    total = xp.sum(xp.exp(log_probs), axis=-1)
    return xp.where(total < 0.5, xp.log1p(-xp.where(total < 0.5, total, xp.zeros_like(total))), far)


def log_probs(library: Library, rows: Rows, ids: Array) -> Array:
    """log p (..., K) of the classes `ids` (..., K) of rows (..., V), whatever their targets are."""
    xp, shape = library.xp, ids.shape
    if 0 in shape:
        return xp.zeros(shape, dtype=rows.dtype, device=library.device(ids))
    if isinstance(rows.logits, Head):
        return xp.reshape(_of_head(library, rows, library.as_matrix(ids)), shape)
    found = library.described(rows._replace(targets=ids[..., 0], weight=None))
    log_z, maximum = (xp.reshape(x, (*shape[:-1], 1)) for x in (xp.log1p(found.spread.rest), found.maximum))
    y = _taken(library, rows, ids)
    if rows.coefficients.softcap:
        # An engine's hyperbolic tangent may be another than the library's in its last bits: the maximum is itself.
        bound = _LAST_BITS * (2.0**-52 if rows.dtype == xp.float64 else 2.0**-23)
        y = xp.where(xp.abs(y - maximum) <= bound * xp.abs(maximum), maximum + xp.zeros_like(y), y)
    return (y - maximum) - log_z


def _of_head(library: Library, rows: Rows, ids: Array) -> Array:
    """The same for rows whose logits are to be made; 0 for the tokens that are left out."""
    if not library.leaves_out:
        return log_probs(library, linear.filled(library, rows), ids)
    hidden = rows.logits.hidden
    result = library.xp.zeros(ids.shape, dtype=rows.dtype, device=library.device(hidden))
    for block in linear.blocks(library, rows):
        library.put_rows(result, block.places, log_probs(library, block.rows, linear.taken(library, ids, block.places)))
    return result


def gradient_of_log_probs(
    library: Library, rows: Rows, ids: Array, result: Array, grads: Array, rest: tuple[Array, Array] | None = None
) -> Array:
    """The gradient (..., V) of the logits, from the log-probabilities (..., K) and their gradients.

    rest: the gradient (...) of the log-probability of all other classes, and that over their probability. The walk's
    is right but at the classes, whose entries are found from their probabilities.
    """
    xp, c = library.xp, rows.coefficients
    if 0 in ids.shape:
        return xp.zeros_like(rows.logits)
    # The same class may be asked for more than once.
    own = xp.zeros_like(grads)
    for k in range(ids.shape[-1]):
        own = own + xp.where(ids == ids[..., k : k + 1], grads[..., k : k + 1], 0.0)
    total = xp.sum(grads, axis=-1)
    factor = -total
    given, d_slope = rows.logits, None
    if rest is not None:
        total = total + rest[0]
        is_nothing = xp.abs(rest[1]) > _NOTHING
        factor = xp.where(is_nothing, rest[0], rest[1] - total)
        if not library.leaves_out or xp.any(is_nothing):
            # Beside the classes, what the others have is lost: a walk of the others alone finds how they share it.
            wide = xp.reshape(library.widened(library.as_matrix(given), rows.dtype), given.shape)
            y, d_slope = transformed(library, wide, c, None), slope(library, wide, c)
            d_slope = c.inverse_temperature if d_slope is None else c.inverse_temperature * d_slope
            others = library.put_classes(y + 0.0, ids, xp.full_like(result, -xp.inf))
            rows = rows._replace(logits=xp.where(is_nothing[..., None], others, y), coefficients=_bare(rows))
    entries = -own * xp.expm1(result) - (total[..., None] - own) * xp.exp(result)
    slopes = slope(library, _raw(library, rows._replace(logits=given), ids), c)
    entries = entries * c.inverse_temperature if slopes is None else entries * c.inverse_temperature * slopes
    if rows.weight is not None:
        entries = xp.where(rows.weight[..., None] == 0, 0.0, entries)
    scale = library.per_token(factor, factor.shape)
    _, d = library.losses_and_gradient(rows._replace(targets=ids[..., 0]), scale, None)
    if d_slope is not None:
        # What does not count is 0 whatever its slope.
        d = xp.where(d == 0, d, d * d_slope)
        d = xp.reshape(library.narrowed(library.as_matrix(d), given), d.shape)
    entries = xp.reshape(library.narrowed(library.as_matrix(entries), d), ids.shape)
    return library.put_classes(d, ids, entries)


def _raw(library: Library, rows: Rows, ids: Array) -> Array:
    taken = library.as_matrix(library.take_classes(rows.logits, ids))
    return library.xp.reshape(library.widened(taken, rows.dtype), ids.shape)


def _taken(library: Library, rows: Rows, ids: Array) -> Array:
    return transformed(library, _raw(library, rows, ids), rows.coefficients, None)


def composed_log_probs(library: Library, inputs: Inputs, rows: Rows, ending: Ending, ids: Array) -> Array:
    """log p (..., K) of classes as what the library differentiates: the loss of the likeliest, and its distance."""
    graph = library.composes
    assert graph is not None
    xp, x = graph.xp, graph.enter_matrix(inputs.logits)
    if 0 in ids.shape:
        # No library has the likeliest of no classes; and a sum stays on the graph.
        return graph.cast(xp.sum(x, axis=-1)[..., None] + xp.zeros_like(ids), graph.compute_dtype(x))
    top = xp.argmax(graph.stop_gradient(x), axis=-1)
    loss = graph.enter(library.loss(inputs._replace(targets=top), rows._replace(targets=library.enter(top)), ending))
    # Taken together, so that the likeliest class, where it is asked for, adds nothing to the gradient of its loss.
    places = xp.concat([top[..., None], graph.cast(ids, top.dtype)], axis=-1)
    y = _counted(library, rows, graph.cast(graph.take_classes(x, places), loss.dtype))
    y = transformed(graph, y, rows.coefficients, None)
    return 0.0 - ((y[..., :1] - y[..., 1:]) + loss[..., None])


def composed_log_of_rest(
    library: Library, inputs: Inputs, rows: Rows, ending: Ending, ids: Array, log_probs: Array
) -> Array:
    """The same as what the library differentiates: two log-sum-exps, of all classes and of the others."""
    graph = library.composes
    assert graph is not None
    xp = graph.xp
    if 0 in ids.shape:
        return xp.sum(log_probs, axis=-1)
    x = graph.cast(graph.enter_matrix(inputs.logits), rows.dtype)
    x = transformed(graph, _counted(library, rows, x), rows.coefficients, None)
    x = x - xp.max(graph.stop_gradient(x), axis=-1)[..., None]
    lost = xp.full(ids.shape, -xp.inf, dtype=x.dtype, device=graph.device(ids))
    others = graph.put_classes(x + 0.0, ids, lost)
    is_nothing = xp.all(others == -xp.inf, axis=-1)
    others = xp.where(is_nothing[..., None], xp.zeros_like(others), others)
    sums = []
    for each in (others, x):
        of_measure = rows._replace(
            logits=library.enter_matrix(each), targets=None,
            coefficients=_bare(rows)._replace(measure=measures.LOG_SUM_EXP),
        )  # fmt: skip
        sums.append(graph.enter(library.loss(inputs._replace(logits=each, targets=None), of_measure, ending)))
    far = near_or_far(graph, log_probs, sums[0] - sums[1])
    return xp.where(is_nothing, -xp.inf, far)


def _bare(rows: Rows) -> Coefficients:
    """For logits that are transformed already."""
    return rows.coefficients._replace(inverse_temperature=1.0, softcap=0.0)


def _counted(library: Library, rows: Rows, x: Array) -> Array:
    """What tokens have (..., K), 0 of those that do not count: differentiation would multiply what they hold by 0."""
    graph = library.composes
    assert graph is not None
    if rows.weight is None:
        return x
    weight = rows.weight if graph is library else library.leave(rows.weight)
    return graph.xp.where(weight[..., None] == 0, graph.xp.zeros_like(x), x)


def _named(library: Library, weight: Array | None, loss: Array, numbers: list[Array], above: Array) -> TokenStatistics:
    """A row that has no loss has no other number; and a token that does not count has none but 0."""
    xp = library.xp
    nothing = xp.isnan(loss)
    log_sum_exp, entropy, rank = (xp.where(nothing, loss, x) for x in (*numbers, above))
    if weight is not None:
        ignored, zero = weight == 0, xp.zeros_like(loss)
        log_sum_exp, entropy = xp.where(ignored, zero, log_sum_exp), xp.where(ignored, zero, entropy)
        rank = xp.where(ignored, zero - 1.0, rank)
    return TokenStatistics(loss, 0.0 - loss, log_sum_exp, entropy, rank, rank == 0)
