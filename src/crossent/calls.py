"""A checked call: its arrays, its coefficients, how it ends, and its tokens as rows of a matrix."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from crossent import arrays, checks, choice, tokens
from crossent.arithmetic import cast
from crossent.arrays import Array, Namespace
from crossent.engines import ENGINES, GUARDING
from crossent.engines.rows import Rows
from crossent.objective import Coefficients
from crossent.reduction import denominator_of
from crossent.tokens import Tokens


class Call(NamedTuple):
    """A checked call: its arrays, its coefficients and how it ends.

    engine: the name of the one that walks the logits where they are eager.
    xp, place, wide: the namespace, device and widest float of everything but the logits and soft targets.
    from_host: what was given are torch tensors in host memory, and NumPy sees their memory and does everything; only
        bfloat16 logits and soft targets, which it has not, stay tensors.
    lead: the shape of the tokens, that of hard targets. A field, as torch 2.9 does not trace a tuple's property.
    """

    xp: Namespace
    place: Any
    wide: Any
    from_host: bool
    logits: Array
    targets: Array | None
    soft: bool
    shape: tuple[int, ...]
    lead: tuple[int, ...]
    dtype: str
    tokens: Tokens
    class_weights: Array | None
    coefficients: Coefficients
    reduction: str
    denominator: Array | float
    engine: str

    def without_logits(self) -> Call:
        """The same call without what may be large: the logits and the soft targets."""
        return self._replace(logits=None, targets=None)

    def with_logits(self, logits: Array, targets: Array) -> Call:
        """The same call with the logits and targets that it was prepared with."""
        if self.from_host:
            logits, targets = arrays.host_matrix(logits), arrays.host_matrix(targets)
        return self._replace(logits=logits, targets=targets if self.soft else None)

    def without_arrays(self) -> Call:
        """The same call, keeping nothing large alive."""
        return self.with_arrays(None, None, None, None, None)

    def finished(self, result: Array) -> Array:
        """A result as an array of the library of the logits."""
        if self.from_host:
            return arrays.torch_from_host(result)
        return arrays.as_array(result)

    def with_arrays(
        self,
        logits: Array,
        soft: Array | None,
        weight: Array | None,
        class_weights: Array | None,
        classes: Array | None,
    ) -> Call:
        """The same call of other arrays: what a transformation has put in their place."""
        return self._replace(
            logits=logits,
            targets=soft,
            class_weights=class_weights,
            tokens=self.tokens._replace(weight=weight, classes=classes),
        )


def prepare(
    logits: Array,
    targets: Array,
    *,
    weights: Array | None = None,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    smoothing: str = "others",
    z_loss: float = 0.0,
    denominator: str | float | Array | None = None,
    algorithm: str = "stable",
    check_targets: bool = True,
    engine: str = "auto",
    limits: bool = True,
    followed: bool = False,
) -> Call:
    """Check the arguments of a call and settle everything that does not depend on the values of the logits.

    limits: whether 0·∞ and nothing divided by nothing count as 0, or are the NaN of floating-point arithmetic.
    followed: whether every array has to stay on the graph of its library; if not, torch traces none of them.
    """
    from_host = not followed and arrays.is_torch(logits) and arrays.is_host_memory(logits)
    if from_host:
        seen = arrays.seen_by_numpy(logits, targets, weights, class_weights, denominator)
        if seen is not None:
            logits, targets, weights, class_weights, denominator = seen
    shape, dtype, soft = checks.logits_and_targets(logits, targets)
    lead = shape[:-1]
    settle = _settle if followed else _settled
    coefficients = settle(reduction, label_smoothing, smoothing, z_loss, algorithm, check_targets, limits, engine)
    checks.reduction_of_tokens(reduction, lead)
    ignore_index = checks.ignored_index(ignore_index, soft)
    checks.token_weights(weights, logits, lead)
    checks.class_weights(class_weights, logits, shape[-1])
    checks.denominator(denominator, reduction, logits)
    check = bool(check_targets) and not soft and (from_host or arrays.is_readable(targets))
    if check and not from_host:
        checks.captured(targets)
    if from_host and type(logits) is not np.ndarray:
        logits, targets = arrays.host_matrix(logits), arrays.host_matrix(targets)
        weights, class_weights = arrays.host_number(weights), arrays.host_number(class_weights)
        denominator = arrays.host_number(denominator)
    if from_host:
        xp, place = arrays.HOST, "cpu"
    else:
        xp, place = arrays.namespace(logits), arrays.device(logits)
    engine = choice.chosen(engine, logits, coefficients)
    with arrays.computing(xp, place):
        compute, wide = arrays.compute_dtype(xp, dtype), arrays.wide_float(xp, logits)
        if class_weights is not None:
            class_weights = cast(xp, class_weights, compute)
        if soft:
            counted = tokens.of_soft_targets(xp, lead, weights, compute)
        else:
            counted = tokens.of_targets(
                xp,
                targets,
                shape[-1],
                ignore_index=ignore_index,
                weights=weights,
                class_weights=class_weights,
                limits=limits,
                check=check,
                # What torch differentiates may need the formula, which follows every target.
                guarded=engine in GUARDING and not followed,
                dtype=compute,
            )
        return Call(
            xp=xp,
            place=place,
            wide=wide,
            from_host=from_host,
            logits=logits,
            targets=targets if soft else None,
            soft=soft,
            shape=shape,
            lead=lead,
            dtype=dtype,
            tokens=counted,
            class_weights=class_weights,
            coefficients=coefficients,
            reduction=reduction,
            denominator=denominator_of(xp, place, wide, counted, lead, reduction, denominator, limits),
            engine=engine,
        )


def _settle(
    reduction: str,
    label_smoothing: float,
    smoothing: str,
    z_loss: float,
    algorithm: str,
    check_targets: bool,
    limits: bool,
    engine: str,
) -> Coefficients:
    """The coefficients of the options that no array decides, once they are checked."""
    checks.options(reduction, label_smoothing, smoothing, z_loss, algorithm, check_targets)
    checks.choice("engine", engine, ("auto", *ENGINES))
    return Coefficients.of(
        label_smoothing=label_smoothing, smoothing=smoothing, z_loss=z_loss, algorithm=algorithm, limits=limits
    )


# A small call would spend a tenth of its time on looking at the same few words and numbers.
_settle_once = functools.lru_cache(maxsize=64, typed=True)(_settle)


def _settled(*options: Any) -> Coefficients:
    try:
        return _settle_once(*options)
    except TypeError:  # an option of a wrong type, which may be one that cannot be hashed
        return _settle(*options)


def rows_of(call: Call) -> Rows:
    """The call's tokens as rows; reshaping stays on the graph of a framework that follows the arrays."""
    xp, n, v = call.xp, math.prod(call.lead), call.shape[-1]
    return Rows(
        logits=xp.reshape(call.logits, (n, v)),
        targets=None if call.soft else xp.reshape(call.tokens.classes, (n,)),
        soft=xp.reshape(call.targets, (n, v)) if call.soft else None,
        weight=None if call.tokens.weight is None else xp.reshape(call.tokens.weight, (n,)),
        class_weights=call.class_weights,
        coefficients=call.coefficients,
    )
