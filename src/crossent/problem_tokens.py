"""The calls that ask what rows tell of their tokens: `problem` for log-probabilities and statistics, of logits or of
hidden states.

One class a token is a loss, whose negative is wanted; several are found from what rows tell of themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from crossent import checks, description, problem
from crossent.description import TokenStatistics
from crossent.libraries import Inputs, Library
from crossent.math import tokens
from crossent.math.rows import Rows
from crossent.options import Options
from crossent.problem import Ending
from crossent.types import Array


def statistics(
    inputs: Inputs, options: Options, classes: int | None = None, memory: int | None = None
) -> TokenStatistics:
    """What rows tell of their targets."""
    library = _library(inputs).of_call(inputs)
    if inputs.head is None:
        form = checks.logits_and_targets(library, inputs.logits, inputs.targets, may_be_soft=False)
    else:
        form = checks.hidden_and_targets(library, inputs, classes, memory, may_be_soft=False)
    with library.computing(inputs.logits):
        rows, ending = problem.prepare(library, inputs.logits, inputs, form, options, memory)
        return library.token_statistics(inputs, rows, ending)


def log_probs(inputs: Inputs, options: Options, classes: int | None = None, memory: int | None = None) -> Array:
    """log p of classes, of one a token or of several."""
    library = _library(inputs).of_call(inputs)
    form, is_one = checks.ids(library, inputs, classes, memory)
    # One class has the same bits with an axis of its own; and of hidden states several are several losses, where they
    # are to be differentiated.
    at_once = not is_one and inputs.targets.shape[-1] > 1 and (library.composes is None or inputs.head is None)
    # Outside of the context to compute in, which is not that of what is given and what has left it.
    each = [inputs]
    if not (is_one or at_once):
        each = [inputs._replace(targets=inputs.targets[..., k]) for k in range(inputs.targets.shape[-1])]
    with library.computing(inputs.logits):
        if at_once:
            rows, ending, chosen = several(library, inputs, form, options, memory)
            if library.composes is None:
                return library.leave(chosen.finished(library, description.log_probs(library, rows, chosen.ids)))
            found = description.composed_log_probs(library, inputs._replace(weights=None), rows, ending, chosen.ids)
            return library.composes.leave(chosen.finished(library.composes, found))
        losses = [_of_one(library, one, form, options, memory) for one in each]
    minus = [negative(library, loss) for loss in losses]
    # DTensors take the last axis by its number alone.
    return minus[0] if is_one else (library.composes or library.family).xp.stack(minus, axis=minus[0].ndim)


def log_probs_and_gradient(
    inputs: Inputs, options: Options, grad_output: Array | None, out: Array | None
) -> tuple[Array, Array]:
    """The same, and the gradient of the logits, outside any framework's graph."""
    library, inputs = _library(inputs).off_graph(inputs)
    logits, ids = inputs.logits, inputs.targets
    form, is_one = checks.ids(library, inputs)
    if is_one or ids.shape[-1] == 1:
        checks.gradient_of_loss(library, grad_output, logits, tuple(ids.shape))
        if not is_one:
            inputs = inputs._replace(targets=ids[..., 0])
            grad_output = None if grad_output is None else grad_output[..., 0]
        value, d = problem.loss_and_gradient(inputs, options, grad_output, out, -1.0, form)
        return negative(library, value if is_one else value[..., None]), d
    with library.computing(logits):
        rows, _, chosen = several(library, inputs, form, options)
        checks.gradient_of_loss(library, grad_output, logits, tuple(ids.shape))
        checks.output(library, out, logits)
        xp, ids = library.xp, chosen.ids
        above = xp.ones(ids.shape, dtype=rows.dtype, device=library.device(ids))
        if grad_output is not None:
            above = library.cast(library.enter(grad_output), rows.dtype)
        result = description.log_probs(library, rows, ids)
        d = description.gradient_of_log_probs(library, rows, ids, result, chosen.finished(library, above))
        value, d = library.leave(chosen.finished(library, result)), library.leave_matrix(d, logits)
        return value, d if out is None else problem.put(library, out, d)


def _library(inputs: Inputs) -> Library:
    name, axis = ("logits", "V") if inputs.head is None else ("hidden", "D")
    return checks.library_of(name, inputs.logits, f"an array of shape (..., {axis})")


def _of_one(library: Library, inputs: Inputs, form: checks.Form, options: Options, memory: int | None) -> Array:
    rows, ending = problem.prepare(library, inputs.logits, inputs, form, options, memory)
    loss = library.loss if inputs.head is None else library.linear_loss
    return loss(inputs, rows, ending)


def negative(library: Library, loss: Array) -> Array:
    """0 − loss, of which 0 is not −0, as an array even where NumPy makes numbers."""
    return library.family.leave(0.0 - loss)


class Several(NamedTuple):
    """Several classes a token, (..., K): safe to index with; which of them count, and where there is none such."""

    ids: Array
    kept: Array | None
    bad: Array | None
    weights: Array | None

    def finished(self, library: Library, x: Array) -> Array:
        """`x` (..., K) with the weights of tokens, 0 for what does not count and NaN for what is not there."""
        xp = library.xp
        if self.bad is not None:
            x = xp.where(self.bad, xp.nan, x)
        if self.weights is not None:
            weights = self.weights[..., None]
            x = xp.where(weights == 0, xp.zeros_like(x), x * weights)
        return x if self.kept is None else xp.where(self.kept, x, xp.zeros_like(x))


def several(
    library: Library, inputs: Inputs, form: checks.Form, options: Options, memory: int | None = None
) -> tuple[Rows, Ending, Several]:
    """Rows without targets, whose weight is 1 where anything counts, and the classes that are asked for."""
    vocabulary, ignored = form.shape[-1], options.ignore_index
    alone, plain = inputs._replace(targets=None), replace(options, ignore_index=None)
    rows, ending = problem.prepare(library, inputs.logits, alone, form, plain, memory)
    integer = library.widest(ending.device)[1]
    ids, kept = tokens.classes(library, integer, library.enter(inputs.targets), vocabulary, ignored)
    xp, counts = library.xp, None if kept is None else library.xp.any(kept, axis=-1)
    if rows.weight is not None:
        weighs = rows.weight != 0
        counts = tokens.both(counts, weighs)
        # Whatever the classes of a token without weight are, nothing looks at them.
        kept = tokens.both(kept, xp.broadcast_to(weighs[..., None], ids.shape))
        ids = library.zero_where_not(kept, ids)
    bad, check = None, options.check_targets and (library.always_readable or problem.may_check(library, inputs))
    if check and library.checks_copies:
        weights = None if inputs.weights is None else np.asarray(inputs.weights)[..., None]
        problem.check_copies(inputs._replace(weights=weights), vocabulary, ignored, form.targets)
    elif check and library.any_outside(ids, vocabulary):
        given, ids = library.whole(inputs.targets), library.whole(ids)
        raise checks.outside_of_vocabulary(library, given, ids, vocabulary, ignored, form.targets)
    if not check:
        bad = (ids < 0) | (ids >= vocabulary)
        ids = library.zero_where_not(~bad, ids)
    chosen = Several(ids, kept, bad, rows.weight)
    if library.composes not in (None, library):
        chosen = Several(*(None if x is None else library.leave(x) for x in chosen))
    weight = None if counts is None else library.cast(counts, rows.dtype)
    return rows._replace(weight=weight), ending, chosen
