"""The way from a call to rows and back: which tokens count, the walk, the reduction.

Arrays are walked in pieces of some rows and some classes; a piece is read before the gradient is written there, so that
it may lie in the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from crossent_conformance.implementation import Adapter
from crossent_conformance.reference import checks
from crossent_conformance.reference.rows import Call, RowLosses


@dataclass
class Tokens:
    """Arrays of the shape of the targets."""

    classes: np.ndarray
    """The target, 0 where it is none; of soft targets nothing."""
    bad: np.ndarray
    """Whether the target is neither a class nor ignored."""
    counted: np.ndarray
    weights: np.ndarray
    total: np.ndarray
    """What the token adds to the denominator."""

    def at(self, index: tuple[Any, ...]) -> Tokens:
        """Some of them, as columns."""
        return Tokens(*(np.atleast_1d(getattr(self, field.name)[index])[:, None] for field in fields(self)))


class LossObject:
    """The loss that remembers its last inputs, by reference."""

    def __init__(self, reference: Reference, options: dict[str, Any]) -> None:
        """Keep the options, which are Call's."""
        checks.names(options, [field.name for field in fields(Call)][3:])
        self.reference, self.options = reference, options
        self.last: tuple[Any, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The options, without the last call."""
        return {**self.__dict__, "last": None}

    def forward(self, logits: Any, targets: Any, weights: Any = None) -> Any:
        self.last = None
        loss = self.reference.loss(logits, targets, weights=weights, **self.options)
        self.last = (logits, targets, weights)
        return loss

    def __call__(self, logits: Any, targets: Any, weights: Any = None) -> Any:
        return self.forward(logits, targets, weights)

    def backward(self, grad_output: Any = None) -> Any:
        if self.last is None:
            raise RuntimeError("backward() has no loss to go back from; accepted: a call of forward() before it")
        logits, targets, weights = self.last
        return self.reference.loss_and_grad(logits, targets, None, grad_output, weights=weights, **self.options)[1]


class Reference(RowLosses, Adapter):
    """The clean implementation. Every step is a method, so that a fault can be put in by overriding one."""

    name = "reference"
    backends = ("numpy",)
    dtypes = ("float64", "float32", "float16")
    flat = False
    Object: type[LossObject] = LossObject

    # ---- the functions of the contract

    def loss(self, logits: Any, targets: Any, **options: Any) -> Any:
        call = Call(logits, targets, **options)
        self.validate(call)
        with np.errstate(all="ignore"):
            call = self.near_one(call)
            tokens = self.tokens(call)
            return self.reduce(call, self.walk(call, tokens), self.divisor(call, tokens))

    def loss_and_grad(
        self, logits: Any, targets: Any, out: Any = None, grad_output: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        call = Call(logits, targets, **options)
        self.validate(call)
        checks.gradient(grad_output, self.shape(call))
        checks.output(out, logits)
        d_logits = self.memory(call) if out is None else out
        call = self.near_one(self.apart(call, d_logits))
        with np.errstate(all="ignore"):
            tokens = self.tokens(call)
            divisor = self.divisor(call, tokens)
            losses = self.walk(call, tokens, d_logits, self.scale(call, grad_output, divisor))
            return self.reduce(call, losses, divisor), d_logits

    def loss_object(self, **options: Any) -> LossObject:
        return self.Object(self, options)

    def perplexity(self, loss: Any) -> Any:
        checks.perplexity(loss)
        with np.errstate(over="ignore"):
            if isinstance(loss, np.ndarray | np.floating):
                return np.exp(loss)
            return float(np.exp(float(loss if loss < 1000 else 1000) if isinstance(loss, int) else loss))

    def shift(self, logits: Any, token_ids: Any) -> tuple[Any, Any]:
        checks.next_token(logits, token_ids)
        return logits[..., :-1, :], token_ids[..., 1:]

    # ---- what comes before the walk

    def validate(self, call: Call) -> None:
        checks.call(call)
        if call.hard and call.check_targets:
            checks.targets(call.targets, self.outside(call) & ~self.ignored(call), call.V, call.ignore_index)

    def outside(self, call: Call) -> np.ndarray:
        """Which targets are no class. In their own dtype: a wider one might wrap."""
        return (call.targets < 0) | (call.targets >= call.V)

    def ignored(self, call: Call) -> np.ndarray:
        """What does not count whatever its target is."""
        nothing = np.broadcast_to(np.asarray(False if call.weights is None else call.weights == 0), call.tokens)
        return nothing if call.ignore_index is None else nothing | (call.targets == call.ignore_index)

    def near_one(self, call: Call) -> Call:
        """The call with the weights of a weighted mean, which no factor changes, away from the dtype's ends."""
        if call.denominator is not None or call.reduction not in ("mean", "sequence") or 0 in call.tokens:
            return call

        def scaled(weights: np.ndarray) -> np.ndarray:
            _, exponent = np.frexp(np.float64(max(weights.max(), -weights.min())))
            return weights if abs(exponent) < 64 else np.ldexp(weights.astype(np.float64), -exponent)

        if call.weights is not None:
            weights = np.broadcast_to(np.asarray(call.weights, dtype=np.float64), call.tokens)
            call = replace(call, weights=scaled(np.where(self.ignored(call), 0.0, weights) if call.hard else weights))
        if call.class_weights is not None and call.hard and not call.z_loss:
            call = replace(call, class_weights=scaled(call.class_weights))
        return call

    def memory(self, call: Call) -> np.ndarray:
        return np.empty(call.logits.shape, call.logits.dtype.name)

    def apart(self, call: Call, d_logits: np.ndarray) -> Call:
        """The call with copies of what the gradient would overwrite before it is read."""

        def layout(array: np.ndarray) -> tuple[Any, ...]:
            return array.ctypes.data, array.shape, array.strides, array.dtype

        names = [name for name in ("logits", "targets", "class_weights") if getattr(call, name) is not None]
        at_risk = [name for name in names if np.may_share_memory(getattr(call, name), d_logits)]
        moved = [name for name in at_risk if layout(getattr(call, name)) != layout(d_logits)]
        return replace(call, **{name: getattr(call, name).copy() for name in moved})

    def tokens(self, call: Call) -> Tokens:
        weights = np.ones(()) if call.weights is None else np.asarray(call.weights, dtype=np.float64)
        weights = np.broadcast_to(weights, call.tokens)
        if not call.hard:
            nothing = np.zeros(call.tokens, dtype=bool)
            return Tokens(nothing, nothing, weights != 0, weights, weights)
        outside, ignored = self.outside(call), self.ignored(call)
        classes = np.where(outside, 0, call.targets).astype(np.intp)
        own = np.ones(call.tokens) if call.class_weights is None else call.class_weights[classes].astype(np.float64)
        return Tokens(classes, outside & ~ignored, self.counted(weights, own, ignored), weights, weights * own)

    def counted(self, weights: np.ndarray, own: np.ndarray, ignored: np.ndarray) -> np.ndarray:
        """Which tokens count; `own` is the class weight of the target."""
        return (weights != 0) & (own != 0) & ~ignored

    # ---- the walk

    def blocks(self, call: Call) -> Iterator[tuple[Any, ...]]:
        """Indices that cut arrays of tokens into stretches of the last axis: views, whatever the strides."""
        if not call.tokens:
            yield (...,)
            return
        *lead, length = call.tokens
        step = max(1, self.piece // max(1, call.V))
        for index in np.ndindex(*lead):
            for start in range(0, length, step):
                yield (*index, slice(start, start + step))

    def walk(self, call: Call, tokens: Tokens, d_logits: Any = None, scale: Any = None) -> np.ndarray:
        """The losses of the tokens; the gradient, times the scale of each token, goes into `d_logits`."""
        losses = np.zeros(call.tokens)
        for index in self.blocks(call):
            part, x = tokens.at(index), np.atleast_2d(call.logits[index])
            given = part.classes if call.hard else np.atleast_2d(call.targets[index])
            rows = self.rows(call, x, given)
            half, mass = self.row_losses(call, x, given, rows)
            losses[index] = self.masked(2 * (part.weights * half), self.spoilt(rows), part)[:, 0]
            if d_logits is None:
                continue
            factor = part.weights * np.atleast_1d(scale[index])[:, None]
            for columns in self.pieces(call.V):
                some = x[:, columns]
                half = self.row_gradients(call, self.seen(call, some), given, rows, mass, columns)
                d = 2 * (factor * half) * self.steepness(call, some)
                self.write(call, np.atleast_2d(d_logits[index])[:, columns], self.masked(d, self.spoilt(rows), part))
        return losses

    def masked(self, values: np.ndarray, spoilt: np.ndarray, tokens: Tokens) -> np.ndarray:
        """0 where a token does not count, NaN where its row is spoilt; and where its target is none, in any case."""
        values = np.where(tokens.counted, np.where(spoilt, np.nan, values), 0.0)
        return np.where(tokens.bad, np.nan, values)

    def write(self, call: Call, there: np.ndarray, d: np.ndarray) -> None:
        there[...] = d.astype(call.compute_dtype)

    # ---- what comes after it

    def shape(self, call: Call) -> tuple[int, ...]:
        """The shape of the loss."""
        return {"none": call.tokens, "sequence": call.tokens[:-1]}.get(call.reduction, ())

    def over_tokens(self, call: Call, values: np.ndarray) -> np.ndarray:
        """The sum that the reduction takes."""
        return values if call.reduction == "none" else values.sum(axis=-1 if call.reduction == "sequence" else None)

    def divisor(self, call: Call, tokens: Tokens) -> np.ndarray:
        """What the loss is divided by, in its shape."""
        if call.reduction in ("none", "sum"):
            return np.ones(self.shape(call))
        divisor: Any
        number = self.over_tokens(call, tokens.counted)
        if call.denominator is None:
            divisor = self.over_tokens(call, np.where(tokens.counted, tokens.total, 0.0))
        else:
            divisor = number if isinstance(call.denominator, str) else np.float64(call.denominator)
        return np.where(number == 0, 1.0, divisor)

    def reduce(self, call: Call, losses: np.ndarray, divisor: np.ndarray) -> np.ndarray:
        return np.asarray(self.over_tokens(call, losses) / divisor).astype(call.compute_dtype)

    def scale(self, call: Call, grad_output: Any, divisor: np.ndarray) -> np.ndarray:
        """What multiplies each token's gradient, in the shape of the tokens."""
        scale = np.asarray(1.0 if grad_output is None else grad_output, dtype=np.float64) / divisor
        return np.broadcast_to(scale[..., None] if call.reduction == "sequence" else scale, call.tokens)
