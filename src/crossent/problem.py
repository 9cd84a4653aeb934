"""A call: from its arrays and options to the rows that are walked and the ending that makes a loss of their losses.

    library = libraries.of(logits).of_call(inputs)                      what the arrays are, asked once
    form = checks.logits_and_targets(library, logits, targets)          which axes are what
    rows, ending = prepare(library, logits, inputs, form, options)
    return library.loss(inputs, rows, ending)                           JAX: its rule; torch: graph; else an engine

The only room that sees options and arrays together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from crossent import checks, views
from crossent.engines.select import ENGINE_CHECKS_RANGE
from crossent.libraries import NUMPY, Inputs, Library
from crossent.math import reduction as reductions
from crossent.math import tokens
from crossent.math.rows import Rows
from crossent.options import DEFAULT, Options, options_once
from crossent.types import Array


class Ending(NamedTuple):
    """How a call ends: what becomes of token losses (N,), and of the gradient that comes back.

    device, dtype, wide: of the loss, and the widest float there. token_shape: that of the tokens. counted: with `ieee`,
    the only tokens that have a part in the loss; None for all: without, engines drop the others. ieee: see
    `Coefficients`.
    """

    library: Library
    device: Any
    dtype: Any
    wide: Any
    reduction: str
    denominator: Array | float
    token_shape: tuple[int, ...]
    counted: Array | None
    ieee: bool

    def finish(self, losses: Array) -> Array:
        """The loss of a call from its token losses (N,)."""
        library, shape = self.library, self.token_shape
        if len(shape) != 1:
            losses = library.xp.reshape(losses, shape)
        if self.counted is not None:
            losses = library.xp.where(self.counted, losses, 0.0)
        return library.leave(reductions.reduce(library, self.wide, losses, self.reduction, self.denominator, self.ieee))

    def of_nothing(self) -> Array:
        """The loss of no tokens; not every library reshapes or reduces an array without elements."""
        xp = self.library.xp
        shape = reductions.result_shape(self.reduction, self.token_shape)
        value = xp.nan if self.ieee and self.reduction == "mean" else 0.0
        return self.library.leave(xp.full(shape, value, dtype=self.dtype, device=self.device))

    def scale(self, grad: Array | float) -> Array | float:
        """What multiplies the gradient of each token, from the gradient of what follows with respect to the loss."""
        return reductions.token_scale(
            self.library, self.wide, self.token_shape, self.reduction, self.denominator, grad, self.counted
        )


def prepare(library: Library, like: Array, inputs: Inputs, form: checks.Form, options: Options) -> tuple[Rows, Ending]:
    """Check the arguments of a call and settle everything that does not depend on the values of the logits.

    like: an array of the library on the device of the logits, which may be the logits.
    """
    token_shape, soft = form.tokens, form.soft
    reduction, coefficients, ignore_index = options.reduction, options.coefficients, options.ignore_index
    vocabulary, ieee = form.shape[-1], coefficients.ieee
    if reduction == "sequence" and not token_shape:
        raise ValueError("reduction is 'sequence' with targets of shape (); accepted: targets of shape (..., sequence)")
    if soft and ignore_index is not None:
        raise ValueError(f"ignore_index is {ignore_index} with soft targets; accepted: integer targets, or weights=")
    weights, class_weights, denominator = inputs[2:]
    if not weights is class_weights is denominator is None:
        checks.weights_and_denominator(library, like, inputs, form, reduction)
        weights, class_weights, denominator = map(library.enter, (weights, class_weights, denominator))
        if not isinstance(denominator, (str, type(None))):
            denominator = library.number(denominator)
    engine = library.engine(options.engine, like, form.dtype, vocabulary, coefficients.clip > 0)
    device = library.device(like)
    dtype, (wide, integer) = library.compute_dtype(like), library.widest(device)
    mean = reduction if denominator is None and reduction in ("mean", "sequence") and not ieee else None
    if class_weights is not None:
        # λ·lse² is multiplied by no class weight, and the mean of soft targets divided by none, so there they stay.
        of_classes = None if soft or coefficients.z_loss else mean
        class_weights = tokens.weighed(library, class_weights, dtype, None, None, of_classes and "mean")
    t = kept = targets = None
    if not soft:
        targets = library.enter(inputs.targets)
        t, kept = tokens.classes(library, integer, targets, vocabulary, ignore_index)
    if weights is not None:
        weights = tokens.weighed(library, weights, dtype, kept, token_shape, mean)
        kept = tokens.both(kept, weights != 0)
        # Whatever the target of a token without weight is, nothing looks at it.
        t = None if t is None else library.zero_where_not(kept, t)
    if t is None:
        counted = tokens.Tokens(None, weights, weights, kept)
    else:
        check = bool(options.check_targets) and (library.always_readable or _may_check(library, inputs))
        if check and library.checks_copies:
            _check_copies(inputs, vocabulary, ignore_index)
        elif check and library.any_outside(t, vocabulary):
            raise checks.outside_of_vocabulary(library, targets, t, vocabulary, ignore_index)
        # What torch differentiates may need the formula, which follows every target.
        is_guarded = engine in ENGINE_CHECKS_RANGE and not library.keep_graph and class_weights is None
        counted = tokens.of_targets(
            library, t, kept, vocabulary, weights, class_weights, dtype, ieee=ieee, is_safe=check or is_guarded
        )
    divisor = reductions.denominator_of(library, wide, device, counted, token_shape, reduction, denominator, ieee)
    rows = Rows(
        None if inputs.logits is None else library.enter_matrix(inputs.logits),
        counted.classes,
        library.enter_matrix(inputs.targets) if soft else None,
        counted.weight,
        class_weights,
        coefficients,
        0,
        vocabulary,
        dtype,
        engine,
    )
    only = counted.counted if ieee else None
    return rows, Ending(library, device, dtype, wide, reduction, divisor, token_shape, only, ieee)


def _may_check(library: Library, inputs: Inputs) -> bool:
    """Whether targets may be looked at now; RuntimeError where what is done is recorded in a CUDA graph."""
    targets, weights = inputs.targets, inputs.weights
    if not library.readable(targets) or not (weights is None or library.readable(weights)):
        return False
    if library.is_captured(targets):
        raise RuntimeError(
            "targets cannot be checked while a CUDA graph is captured, since that waits for the device; "
            "accepted: check_targets=False"
        )
    return True


def _check_copies(inputs: Inputs, vocabulary: int, ignore_index: int | None) -> None:
    """IndexError for a target outside of the vocabulary, found by NumPy."""
    targets = np.asarray(inputs.targets)
    t, _ = tokens.classes(NUMPY, np.int64, targets, vocabulary, ignore_index)
    if inputs.weights is not None:
        t = NUMPY.zero_where_not(np.asarray(inputs.weights) != 0, t)
    if NUMPY.any_outside(t, vocabulary):
        raise checks.outside_of_vocabulary(NUMPY, targets, t, vocabulary, ignore_index)


def loss(inputs: Inputs, options: Options | Mapping[str, Any]) -> Array:
    """The loss of a call."""
    logits = inputs.logits
    library: Library = NUMPY
    if type(logits) is not np.ndarray:
        library = checks.library_of("logits", logits, "an array of shape (..., V)").of_call(inputs)
    form = checks.logits_and_targets(library, logits, inputs.targets)
    with library.computing(logits):
        parsed = options_once(options, library.keep_graph) if options else DEFAULT
        rows, ending = prepare(library, logits, inputs, form, parsed)
        return library.loss(inputs, rows, ending)


def loss_and_gradient(
    inputs: Inputs, options: Options | Mapping[str, Any], grad_output: Array | float | None, out: Array | None
) -> tuple[Array, Array]:
    """The loss of a call and its gradient, outside any framework's graph."""
    family = checks.library_of("logits", inputs.logits, "an array of shape (..., V)")
    library, inputs = family.off_graph(inputs)
    logits = inputs.logits
    form = checks.logits_and_targets(library, logits, inputs.targets)
    with library.computing(logits):
        parsed = options_once(options, library.keep_graph) if options else DEFAULT
        rows, ending = prepare(library, logits, inputs, form, parsed)
        checks.gradient_of_loss(
            library, grad_output, logits, reductions.result_shape(ending.reduction, ending.token_shape)
        )
        checks.output(library, out, logits)
        if 0 in ending.token_shape:
            return ending.of_nothing(), family.empty_like(logits) if out is None else out
        scale = ending.scale(1.0 if grad_output is None else library.above(grad_output))
        into = None if out is None else library.shared(out)
        if into is not None and not views.is_safe(library, into, rows, (ending.denominator, scale)):
            into = None
        losses, d = library.losses_and_gradient(rows, scale, into)
        value = ending.finish(losses)
        if out is None:
            return value, library.leave_matrix(d, logits)
        if d is not into:
            # Last of all: the denominator may lie in this memory.
            out[...] = library.leave_matrix(d, logits)
        library.written(out)
        return value, out
