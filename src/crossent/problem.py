"""A call: from its arrays and options to the rows that are walked and the ending that makes a loss of their losses.

    library = libraries.of(logits).of_call(inputs)                      what the arrays are, asked once
    form = checks.logits_and_targets(library, logits, targets)          which axes are what
    rows, ending = prepare(library, logits, inputs, form, options)
    return library.loss(inputs, rows, ending)                           JAX: its rule; torch: graph; else an engine

The only room that sees options and arrays together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from crossent import checks, linear, views
from crossent.engines import select
from crossent.engines.select import ENGINE_CHECKS_RANGE, STRAIGHT
from crossent.libraries import NUMPY, Inputs, Library
from crossent.math import reduction as reductions
from crossent.math import tokens
from crossent.math.measures import DIRECTIONS
from crossent.math.rows import LOSS, Head, Rows
from crossent.options import DEFAULT, OptionNames, Options, options_once
from crossent.shards import TARGETS, Part, VocabularyShard, part_of
from crossent.types import Array

# Bytes of the blocks of a call that makes its logits. A device's products need more rows to be at their best.
MEMORY, MEMORY_OF_DEVICE = 128 * 1024 * 1024, 1024 * 1024 * 1024


# What calls accept besides options, by name: those that make their logits, and those that give gradients.
_HIDDEN = "the gradient of hidden"
_OF_HEAD, _OF_GRADIENT = ("bias", "classes", "memory"), ("out", "grad_output")


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

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the loss."""
        return reductions.result_shape(self.reduction, self.token_shape)

    def of_nothing(self) -> Array:
        """The loss of no tokens; not every library reshapes or reduces an array without elements."""
        xp = self.library.xp
        value = xp.nan if self.ieee and self.reduction == "mean" else 0.0
        return self.library.leave(xp.full(self.shape, value, dtype=self.dtype, device=self.device))

    def scale(self, grad: Array | float) -> Array | float:
        """What multiplies the gradient of each token, from the gradient of what follows with respect to the loss."""
        return reductions.token_scale(
            self.library, self.wide, self.token_shape, self.reduction, self.denominator, grad, self.counted
        )


def prepare(
    library: Library,
    like: Array,
    inputs: Inputs,
    form: checks.Form,
    options: Options,
    memory: int | None = None,
    part: Part | None = None,
) -> tuple[Rows, Ending]:
    """Check the arguments of a call and settle everything that does not depend on the values of the logits.

    like: an array of the library on the device of the logits, which may be the logits. memory: the bytes that the
    blocks of a call may take that makes its logits. part: of the vocabulary, where the logits are not of all of it;
    then its parts agree about the call, and the statistics of the whole rows are found.
    """
    if part is not None:
        options = part.options(library, form, options)
    token_shape, soft = form.tokens, form.soft
    reduction, coefficients, ignore_index = options.reduction, options.coefficients, options.ignore_index
    vocabulary, ieee = form.shape[-1] if part is None else part.shard.vocabulary, coefficients.ieee
    if reduction == "sequence" and not token_shape:
        raise ValueError("reduction is 'sequence' with tokens of shape (); accepted: tokens of shape (..., sequence)")
    if soft and ignore_index is not None:
        raise ValueError(f"ignore_index is {ignore_index} with soft targets; accepted: integer targets, or weights=")
    _, _, weights, class_weights, denominator, head, _ = inputs
    if not weights is class_weights is denominator is None:
        checks.weights_and_denominator(library, like, inputs, form, reduction)
        weights, class_weights, denominator = map(library.enter, (weights, class_weights, denominator))
        if not isinstance(denominator, (str, type(None))):
            denominator = library.number(denominator)
    engine = library.engine(options.engine, like, form.dtype, form.shape[-1], coefficients.measure)
    device = library.device(like)
    dtype, (wide, integer) = library.compute_dtype(like), library.widest(device)
    mean = reduction if denominator is None and reduction in ("mean", "sequence") and not ieee else None
    if class_weights is not None:
        # λ·lse² is multiplied by no class weight, and the mean of soft targets divided by none, so there they stay.
        of_classes = None if soft or coefficients.z_loss or part is not None else mean
        class_weights = tokens.weighed(library, class_weights, dtype, None, None, of_classes and "mean")
    t = kept = targets = None
    if not soft and inputs.targets is not None:
        targets = library.enter(inputs.targets)
        t, kept = tokens.classes(library, integer, targets, vocabulary, ignore_index)
    if weights is not None:
        weights = tokens.weighed(library, weights, dtype, kept, token_shape, mean)
        kept = tokens.both(kept, weights != 0)
        # Whatever the target of a token without weight is, nothing looks at it.
        t = None if t is None else library.zero_where_not(kept, t)
    check = t is not None and bool(options.check_targets) and (library.always_readable or may_check(library, inputs))
    if check and library.checks_copies:
        check_copies(inputs, vocabulary, ignore_index, form.targets)
    elif check and library.any_outside(t, vocabulary):
        targets, t = library.whole(targets), library.whole(t)
        raise checks.outside_of_vocabulary(library, targets, t, vocabulary, ignore_index, form.targets)
    # What is differentiated or compiled may need the formula, which follows every target.
    is_guarded = engine in ENGINE_CHECKS_RANGE and library.engine_guards and class_weights is None
    is_safe = check or is_guarded

    def settled(own: Array | None) -> tuple[Rows, Ending]:
        if class_weights is not None and t is not None and part is None:
            own = tokens.weights_of(library, class_weights, t, vocabulary, is_safe=is_safe)
        if t is None:
            counted = tokens.Tokens(None, weights, weights, kept)
        elif is_safe and kept is own is None:
            counted = tokens.Tokens(t, None, None, None)
        else:
            counted = tokens.of_targets(
                library, t, kept, vocabulary, weights, own, dtype, ieee=ieee, is_safe=is_safe
            )  # fmt: skip
        divisor = reductions.denominator_of(library, wide, device, counted, token_shape, reduction, denominator, ieee)
        rows = Rows(
            None if inputs.logits is None or head is not None else library.enter_matrix(inputs.logits),
            counted.classes,
            library.enter_matrix(inputs.targets) if soft else None,
            counted.weight,
            class_weights,
            coefficients,
            0 if part is None else part.shard.start,
            vocabulary,
            dtype,
            engine,
            None if part is None else part.shard.parts,
        )
        only = counted.counted if ieee else None
        ending = Ending(library, device, dtype, wide, reduction, divisor, token_shape, only, ieee)
        return (rows if head is None else _with_head(rows, ending, inputs, form, options, memory)), ending

    rows, ending = settled(None)
    if part is None:
        return rows, ending
    part.agree(lambda: _told(library, inputs, form, options, rows))
    found, class_weights = library.statistics(rows), rows.class_weights
    if found.own is not None:
        if mean and not coefficients.z_loss and 0 not in token_shape:
            found, class_weights = tokens.of_parts_near_one(library, found, class_weights, dtype)
        rows, ending = settled(library.xp.reshape(found.own, token_shape))
    return rows._replace(found=found, class_weights=class_weights), ending


def _told(library: Library, inputs: Inputs, form: checks.Form, options: Options, rows: Rows) -> dict[str, Any]:
    """What of a call is the same for all parts of a vocabulary, in the words of an error."""
    told: dict[str, Any] = {"logits are": "given" if inputs.head is None else "made of hidden states"}
    for name in OptionNames.__annotations__:
        value = getattr(options, name)
        if name != "engine":
            told[name] = value if value is None or isinstance(value, (str, bool)) else float(value)
    told["the shape of the tokens"], told["the dtype"] = form.tokens, form.dtype
    told["the kind of the targets"] = "soft" if form.soft else "hard"
    for name, x in (("class_weights", inputs.class_weights), ("bias", inputs.bias)):
        told[name] = "not given" if x is None else "given"
    beside: Any
    for name, beside in (("weights", inputs.weights), ("denominator", inputs.denominator)):
        x = beside
        if not hasattr(x, "shape"):
            told[name] = x if x is None or isinstance(x, str) else float(x)
        else:
            told[name] = f"an array of shape {tuple(x.shape)}" if tuple(x.shape) else float(library.stop_gradient(x))
    if options.check_targets and 0 not in form.tokens:
        if rows.targets is not None:
            told[TARGETS] = library.digest(rows.targets)
        if inputs.weights is not None:
            told["a digest of the weights"] = library.digest(library.enter(inputs.weights))
    return told


def may_check(library: Library, inputs: Inputs) -> bool:
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


def check_copies(inputs: Inputs, vocabulary: int, ignore_index: int | None, name: str) -> None:
    """IndexError for a target outside of the vocabulary, found by NumPy."""
    targets = np.asarray(inputs.targets)
    t, _ = tokens.classes(NUMPY, np.int64, targets, vocabulary, ignore_index)
    if inputs.weights is not None:
        t = NUMPY.zero_where_not(np.asarray(inputs.weights) != 0, t)
    if NUMPY.any_outside(t, vocabulary):
        raise checks.outside_of_vocabulary(NUMPY, targets, t, vocabulary, ignore_index, name)


def _form(options: Options | Mapping[str, Any]) -> Callable[[Library, Array, Any], checks.Form]:
    """What says which axes of a call's arrays are what: a measure has no targets, or a teacher's logits for them."""
    if not isinstance(options, Options) or options.measure == LOSS:
        return checks.logits_and_targets
    return checks.logits_and_teacher if options.measure in DIRECTIONS else checks.logits_of_measure


def of_part(function: Callable[..., Any], shard: VocabularyShard | None, *given: Any) -> Any:
    """What one of the functions below makes of a call whose logits are of a shard of the vocabulary."""
    with part_of(shard) as part:
        return function(*given, part=part)


def _right(options: Options | Mapping[str, Any]) -> Options | None:
    """The options of an eager call; None where one is wrong, which comes after what is wrong with the arrays."""
    try:
        return options_once(options, traced=False) if options else DEFAULT
    except (TypeError, ValueError):
        return None


def _straight(
    library: Library, inputs: Inputs, options: Options, scale: float | None = None, out: Array | None = None
) -> tuple[Array, Array | None] | None:
    """The loss of a call of plain arrays in one step, and with `scale` its gradient, in `out` where it is given.

    None where there is no such step, or where something is wrong with the call: nothing is written then.
    """
    x, t, weights, class_weights, denominator, _, _ = inputs
    if options.straight is None or not weights is class_weights is denominator is None:
        return None
    given = library.straight(x, t)
    # A mean of float64 is divided before it is added up there, which IEEE arithmetic is not.
    if given is None or (options.ieee and given[0] == "float64"):
        return None
    name = library.engine(options.engine, x, given[0], given[2], LOSS)
    if name not in STRAIGHT:
        return None
    d, place, step = None, 0, 0
    if scale is not None:
        if out is not None:
            checks.output(library, out, x)
        found = library.straight_out(x, t, out)
        if found is None:
            return None
        d, place, step = found
    value: Array | None = select.engine(name).straight(given, *options.straight, scale, place, step, out is not None)
    if value is None:
        return None
    return value.reshape(tuple(t.shape)) if value.ndim and t.ndim != 1 else value, d


def _straight_loss(library: Library, inputs: Inputs, options: Options) -> Array | None:
    is_recorded = library.is_recorded(inputs.logits)
    if is_recorded is None or (is_recorded and options.reduction == "none"):
        return None
    found = _straight(library, inputs, options, 1.0 if is_recorded else None)
    return None if found is None else library.leave_straight(inputs, *found, partial(_prepared, library, options))


def _prepared(library: Library, options: Options, inputs: Inputs) -> tuple[Rows, Ending]:
    form = checks.logits_and_targets(library, inputs.logits, inputs.targets)
    with library.computing(inputs.logits):
        return prepare(library, inputs.logits, inputs, form, options)


def loss(inputs: Inputs, options: Options | Mapping[str, Any], part: Part | None = None) -> Array:
    """The loss of a call. part: of the vocabulary, where the logits are not of all of it."""
    logits = inputs.logits
    library: Library = NUMPY
    if type(logits) is not np.ndarray:
        library = checks.library_of("logits", logits, "an array of shape (..., V)").of_call(inputs)
    if part is None and library.has_steps and (parsed := _right(options)) is not None:
        value = _straight_loss(library, inputs, parsed)
        if value is not None:
            return value
    form_of = checks.logits_and_targets if type(options) is dict else _form(options)
    form = form_of(library, logits, inputs.targets) if part is None else part.form(library, inputs)
    with library.computing(logits):
        parsed = options_once(options, library.keep_graph) if options else DEFAULT
        if part is not None:
            inputs, form = part.without_padding(library, inputs, form)
        elif (found := library.unseen(inputs, form.soft, parsed)) is not None:
            return found
        rows, ending = prepare(library, logits, inputs, form, parsed, part=part)
        return library.loss(inputs, rows, ending)


def loss_and_gradient(
    inputs: Inputs,
    options: Options | Mapping[str, Any],
    grad_output: Array | float | None,
    out: Array | None,
    sign: float = 1.0,
    form: checks.Form | None = None,
    part: Part | None = None,
) -> tuple[Array, Array]:
    """The loss of a call and its gradient, times `sign`, outside any framework's graph."""
    family = checks.library_of("logits", inputs.logits, "an array of shape (..., V)")
    library, inputs = family.off_graph(inputs)
    plain = part is None and form is None and library.has_steps and (grad_output is None or type(grad_output) is float)
    right = _right(options) if plain else None
    if right is not None and (grad_output is None or right.reduction != "none"):
        found = _straight(library, inputs, right, sign if grad_output is None else grad_output * sign, out)
        if found is not None:
            value, d = found
            if out is not None:
                library.written(out)
            return library.leave(value), d
    given = inputs.logits
    if part is not None:
        form = part.form(library, inputs)
    form = form or _form(options)(library, given, inputs.targets)
    with library.computing(given):
        parsed = options_once(options, library.keep_graph, _OF_GRADIENT) if options else DEFAULT
        if part is not None:
            inputs, form = part.without_padding(library, inputs, form)
        logits = inputs.logits
        checks.gradient_of_loss(library, grad_output, given, reductions.result_shape(parsed.reduction, form.tokens))
        checks.output(library, out, given)
        rows, ending = prepare(library, logits, inputs, form, parsed, part=part)
        if 0 in ending.token_shape:
            return ending.of_nothing(), family.empty_like(given) if out is None else out
        scale = ending.scale(sign if grad_output is None else library.above(grad_output) * sign)
        into = None if out is None or logits is not given else library.shared(out)
        if into is not None and not views.is_safe(library, into, rows, (ending.denominator, scale)):
            into = None
        losses, d = library.losses_and_gradient(rows, scale, into)
        value = ending.finish(losses)
        if out is None or d is not into:
            d = library.leave_matrix(d, logits)
            if part is not None and tuple(d.shape) != tuple(given.shape):
                d = part.with_padding(family, d, given)
        if out is None:
            return value, d
        if d is not into:
            # Last of all: the denominator may lie in this memory.
            out[...] = d
        library.written(out)
        return value, out


def linear_loss(
    inputs: Inputs,
    options: Options | Mapping[str, Any],
    classes: int | None,
    memory: int | None,
    part: Part | None = None,
) -> Array:
    """The loss of a call that makes its logits."""
    library = checks.library_of("hidden", inputs.logits, "an array of shape (..., D)").of_call(inputs)
    form = checks.hidden_and_targets(library, inputs, classes, memory, size=part and part.shard.size)
    with library.computing(inputs.logits):
        parsed = options_once(options, library.keep_graph, _OF_HEAD)
        if part is not None:
            is_followed = library.composes is not None and library.is_followed(inputs.logits)
            part.told[_HIDDEN] = "to come" if is_followed else "not to come"
            inputs, form = part.without_padding(library, inputs, form)
        rows, ending = prepare(library, inputs.logits, inputs, form, parsed, memory, part)
        return library.linear_loss(inputs, rows, ending)


def linear_loss_and_gradients(
    inputs: Inputs,
    options: Mapping[str, Any],
    classes: int | None,
    memory: int | None,
    grad_output: Array | float | None,
    needs: Collection[str],
    out: tuple[Array | None, ...] | None,
    part: Part | None = None,
) -> tuple[Array, tuple[Array | None, ...]]:
    """The loss of a call that makes its logits, and the gradients that are needed, outside any framework's graph."""
    family = checks.library_of("hidden", inputs.logits, "an array of shape (..., D)")
    library, inputs = family.off_graph(inputs)
    form = checks.hidden_and_targets(library, inputs, classes, memory, size=part and part.shard.size)
    wanted = checks.needs(needs, inputs.bias is not None)
    if part is not None:
        part.told[_HIDDEN] = "asked for" if wanted[0] else "not asked for"
    hidden = inputs.logits
    with library.computing(hidden):
        parsed = options_once(options, library.keep_graph, (*_OF_HEAD, "needs", *_OF_GRADIENT))
        shape = reductions.result_shape(parsed.reduction, form.tokens)
        checks.gradient_of_loss(library, grad_output, hidden, shape, form.given)
        checks.outputs(library, out, inputs)
        if part is not None:
            inputs, form = part.without_padding(library, inputs, form)
        rows, ending = prepare(library, hidden, inputs, form, parsed, memory, part)
        scale = ending.scale(1.0 if grad_output is None else library.above(grad_output))
        if 0 in ending.token_shape:
            value, found = ending.of_nothing(), linear.nothing(library, rows, wanted)
        else:
            losses, found = library.linear_losses_and_gradients(rows, scale, wanted)
            value = ending.finish(losses)
        gradients = linear.finished(library, (hidden, inputs.head, inputs.bias), found)
        return value, gradients if out is None else tuple(map(partial(put, library), out, gradients))


def put(library: Library, out: Array | None, d: Array | None) -> Array | None:
    """A gradient, in `out` where both are there."""
    if out is None or d is None:
        return d
    out[...] = d
    library.written(out)
    return out


def _with_head(
    rows: Rows, ending: Ending, inputs: Inputs, form: checks.Form, options: Options, memory: int | None
) -> Rows:
    """The rows with what makes their logits."""
    library, counted = ending.library, ending.counted
    if counted is None and rows.weight is not None and not ending.ieee:
        counted = rows.weight != 0
    memory_kind = library.memory_of(ending.device)[0]
    places = None
    # But in host memory, finding them waits as the check of targets does.
    if counted is not None and library.leaves_out and (memory_kind == "host" or options.check_targets):
        places = library.true_places(library.flat(counted))
        if places.shape[0] == math.prod(form.tokens):
            places = None
    if memory is None:
        memory = MEMORY_OF_DEVICE if memory_kind == "cuda" else MEMORY
    v = form.shape[-1]
    weight, bias = library.enter_matrix(inputs.head), None
    if inputs.bias is not None:
        bias = library.enter_matrix(inputs.bias)
    if weight.shape[0] != v:
        weight, bias = library.first_rows(weight, v), None if bias is None else library.first_rows(bias, v)
    # The logits of one block are made once; of tokens that only turn out not to count, the block is another.
    made: list[Any] | None = (
        [] if rows.parts is not None and library.in_place and inputs.class_weights is None else None
    )
    return rows._replace(logits=Head(library.enter_matrix(inputs.logits), weight, bias, places, memory, made))
