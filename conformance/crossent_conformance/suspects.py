"""Which known wrong formula an answer equals, so that a report can name the fault.

    fault = suspects.named(call, what, whole)         `whole`: the result beside the exact one; None: it equals none
    words = suspects.where(call, whole)               at which tokens or entries it is off, where that says something

The answer is compared with what the clean implementation (`reference`) gives with an option changed or a step
replaced. A fault has the same key whatever the numbers of a case are. Whatever is no loss of logits and targets is
compared with multiples of the right result alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from crossent_conformance.evidence import Call, Compared
from crossent_conformance.reference import Reference
from crossent_conformance.reference.rows import Call as Asked

SIMILAR = {"float64": 1e-6, "float32": 1e-4, "float16": 4e-3, "bfloat16": 32e-3}
"""Relative differences within which an answer equals a formula."""
MOST = 20_000
"""More logits than these are compared with multiples alone."""
MULTIPLES = tuple(2**k for k in range(1, 11))
NOT_LOOKED_AT = (
    "weights",
    "class_weights",
    "ignore_index",
    "label_smoothing",
    "z_loss",
    "temperature",
    "logit_softcap",
    "denominator",
    "grad_output",
)
HERE = ("out", "engine", "check_targets", "memory", "needs")
"""Options that change no value."""


@dataclass(frozen=True)
class Fault:
    """What is wrong."""

    key: str
    says: str


Suspect = tuple[Fault, Callable[[], Any]]


def named(call: Call, what: str, whole: Compared) -> Fault | None:
    """The known fault that explains every entry of the result."""
    return _Answer(call, what, whole).fault()


class _Answer:
    """A wrong result, and what it may be instead."""

    def __init__(self, call: Call, what: str, whole: Compared) -> None:
        self.what, self.given, self.exact, self.off = what, whole.given, whole.exact, whole.off
        self.noun = {"loss": "the loss", "d_logits": "the gradient"}.get(what, what)
        self.within = SIMILAR.get(call.dtype, 1e-4)
        self.options = {name: value for name, value in call.options.items() if name not in HERE and value is not None}
        self.grad_output = self.options.pop("grad_output", None)
        self.logits, self.targets = np.asarray(call.logits, dtype=np.float64), np.asarray(call.targets)
        self.hard = self.targets.dtype.kind in "iu"

    def fault(self) -> Fault | None:
        if self.given.size == 0 or not np.isfinite(self.exact).any():
            return None
        if np.isnan(self.given).all():
            return Fault(f"{self.what} nan", f"{self.noun} is NaN")
        if self.what in ("loss", "d_logits") and self.logits.size <= MOST:
            with np.errstate(all="ignore"):
                for fault, make in self.suspects():
                    if self.explains(make):
                        return fault
        return self.multiple()

    def explains(self, make: Callable[[], Any]) -> bool:
        """Whether the answer is that formula's, and the right answer is not."""
        try:
            formula = np.asarray(make(), dtype=np.float64)
        except Exception:  # a call that the formula has no answer to
            return False
        return self.alike(self.given, formula) and not self.alike(self.exact, formula, 8)

    def alike(self, one: np.ndarray, other: np.ndarray, times: float = 1) -> bool:
        if one.shape != other.shape:
            return False
        finite = np.abs(self.exact[np.isfinite(self.exact)])
        floor = self.within * finite.max(initial=0.0) * 1e-2
        within = times * self.within
        return bool(np.allclose(one, other, rtol=within, atol=times * floor, equal_nan=True))

    def by(self, of: Reference | None = None, *, targets: Any = None, logits: Any = None, **changes: Any) -> Any:
        """What the clean implementation gives with options changed; None takes one away."""
        given = {"grad_output": self.grad_output, **self.options, **changes}
        options = {name: value for name, value in given.items() if value is not None}
        x = self.logits if logits is None else logits
        t = self.targets if targets is None else targets
        of = of or Reference()
        if self.what == "loss":
            options.pop("grad_output", None)
            return of.loss(x, t, **options)
        return of.loss_and_grad(x, t, **options)[1]

    # ---- what it may be

    def suspects(self) -> Iterator[Suspect]:
        yield from self._denominators()
        yield from self._smoothing()
        yield from self._options()
        yield from self._targets()
        yield from self._probabilities()
        yield from self._sums()
        if self.what == "d_logits":
            yield from self._gradients()

    def _suspect(self, key: str, says: str, *args: Any, **changes: Any) -> Suspect:
        return Fault(key, f"{self.noun} {says}"), lambda: self.by(*args, **changes)

    def _denominators(self) -> Iterator[Suspect]:
        reduction = self.options.get("reduction", "mean")
        if reduction not in ("mean", "sequence"):
            return
        call = Asked(self.logits, self.targets, **self.options)
        tokens = Reference().tokens(call)
        right = np.asarray(Reference().divisor(call, tokens))
        axis = None if reduction == "mean" else -1
        own = tokens.total / np.where(tokens.weights == 0, 1, tokens.weights)
        everything = np.ones(call.tokens)
        found: dict[str, Any] = {
            "the number of the tokens that count": tokens.counted.sum(axis),
            "the number of all tokens": everything.sum(axis),
            "the weights of the tokens that count": np.where(tokens.counted, tokens.weights, 0).sum(axis),
            "the weights of all tokens, ignored ones too": tokens.weights.sum(axis),
            "the class weights of the tokens that count": np.where(tokens.counted, own, 0).sum(axis),
            "the number of tokens of a weight": (tokens.weights != 0).sum(axis),
            "the number of targets that are not ignored": (~Reference().ignored(call) | ~tokens.counted).sum(axis),
            "1: it is the sum": np.ones(right.shape),
            "1 where its denominator is smaller": np.maximum(right, 1.0),
            "the number of sequences": np.full(right.shape, call.tokens[0] if call.tokens else 1),
            "the length of the sequences": np.full(right.shape, call.tokens[-1] if call.tokens else 1),
            "the number of classes": np.full(right.shape, call.V),
            "the number of logits": everything.sum(axis) * call.V,
            "all the weights there are, of classes too": tokens.total.sum(axis),
        }
        label = next((words for words, value in found.items() if np.allclose(value, right)), "the denominator")
        mean = "the mean" if self.what == "loss" else "the gradient of the mean"
        for words, value in found.items():
            if np.allclose(value, right):
                continue
            says = f"{mean} divides by {_few(value)}, {words}, not by {_few(right)}, {label}"
            if words.startswith("1"):
                says = f"{mean} divides by {words}, and should by {_few(right)}, {label}"
            factor = right / np.asarray(value, dtype=np.float64)
            if self.what == "d_logits":
                factor = np.reshape(factor, factor.shape + (1,) * (self.exact.ndim - factor.ndim))
            yield Fault(f"mean by {words}", says), partial(np.multiply, self.exact, factor)

    def _smoothing(self) -> Iterator[Suspect]:
        if not self.options.get("label_smoothing"):
            return
        V, kind = self.logits.shape[-1], self.options.get("smoothing", "others")
        other = "uniform" if kind == "others" else "others"
        yield self._suspect(
            "other smoothing", f"smooths by the other convention, {other!r}, not {kind!r}", smoothing=other
        )
        sizes = {V - 1, V + 1, *(-(-V // m) * m for m in MULTIPLES), *(V // m * m for m in MULTIPLES)} - {0, V}
        for n in sorted(sizes, key=lambda n: abs(n - V)):
            for way in (kind, other):
                says = f"label_smoothing is shared out ({way!r}) as if among {n} classes, not {V}"
                yield Fault("smoothing of V", f"{self.noun}: {says}"), partial(self.by, _Shared(n), smoothing=way)
        yield Fault("smoothing of -inf", f"{self.noun}: classes at -inf share in label_smoothing"), self._of_infinity
        yield self._suspect(
            "smoothing twice", "takes label_smoothing twice", label_smoothing=2 * self.options["label_smoothing"]
        )

    def _of_infinity(self) -> Any:
        low = np.where(np.isneginf(self.logits), -1e4, self.logits)
        return np.where(np.isfinite(self.given), self.by(logits=low), self.given)

    def _options(self) -> Iterator[Suspect]:
        for name in NOT_LOOKED_AT:
            given = self.grad_output if name == "grad_output" else self.options.get(name)
            if given is not None:
                changes: dict[str, Any] = {name: None}
                if name == "ignore_index" and self.hard:
                    changes["targets"] = np.where(self.targets == given, np.maximum(given, 0), self.targets)
                yield self._suspect(f"no {name}", f"does not look at {name}", **changes)
        if (z := self.options.get("z_loss")) is not None:
            yield self._suspect("z_loss", "has twice its z_loss", z_loss=2 * z)
            yield self._suspect("z_loss", "has half its z_loss", z_loss=z / 2)
            yield self._suspect("z_loss mean", "has a z_loss that is not squared", _ZOfOne())
        if (weights := self.options.get("class_weights")) is not None:
            yield self._suspect("class_weights twice", "has class_weights twice", class_weights=weights * weights)
        if (weights := self.options.get("weights")) is not None:
            yield self._suspect("weights twice", "has weights twice", weights=np.asarray(weights) ** 2)
        if (t := self.options.get("temperature")) is not None:
            yield self._suspect("temperature", "is multiplied by the temperature where it divides", temperature=1 / t)
            yield self._suspect("temperature", "misses the factor of the temperature", _Flat())
        if self.options.get("logit_softcap") is not None:
            yield self._suspect("softcap", "misses the slope of the softcap", _Flat())
        explicit = self.options.get("algorithm") == "explicit"
        yield self._suspect(
            "clipped" if not explicit else "not clipped",
            "does not clip probabilities at 1e-10" if explicit else "clips probabilities at 1e-10",
            algorithm="stable" if explicit else "explicit",
        )
        if explicit:
            yield self._suspect("clip gradient", "flows through clipped probabilities", _Unclipped())
        if self.grad_output is not None and np.ndim(self.grad_output):
            g = np.asarray(self.grad_output)
            yield self._suspect("grad_output", "takes grad_output along another axis", grad_output=_turned(g))
            first = np.broadcast_to(g.reshape(-1)[:1].reshape((1,) * g.ndim), g.shape)
            yield self._suspect("grad_output", "takes the first grad_output for all", grad_output=first)

    def _targets(self) -> Iterator[Suspect]:
        V = self.logits.shape[-1] if self.logits.ndim else 0
        t, ignored = self.targets, self.options.get("ignore_index")
        if not V or t.shape not in (self.logits.shape[:-1], self.logits.shape):
            return
        if not self.hard:
            top = (np.arange(V) == t.argmax(axis=-1)[..., None]).astype(np.float64)
            yield self._suspect("soft argmax", "is that of the likeliest class alone, not of soft targets", targets=top)
            total = t.sum(axis=-1, keepdims=True)
            yield self._suspect("soft normalised", "divides soft targets by their sum", targets=t / total)
            return
        counted = np.ones(t.shape, dtype=bool) if ignored is None else t != ignored
        for by, words in ((1, "one class too high"), (-1, "one class too low")):
            moved = np.where(counted, np.clip(t + by, 0, V - 1), t)
            yield self._suspect("target moved", f"is that of targets {words}", targets=moved)
        zero = np.where(counted, 0, t)
        yield self._suspect("target 0", "is that of class 0, whatever the target", targets=zero)
        likeliest = np.where(counted, self.logits.argmax(axis=-1), t)
        yield self._suspect("target top", "is that of the likeliest class, not of the target", targets=likeliest)
        if ignored is not None:
            filled = np.where(counted, t, 0)
            yield self._suspect(
                "ignored as 0", "counts ignored tokens, as of class 0", targets=filled, ignore_index=None
            )
            last = np.where(counted, t, V - 1)
            yield self._suspect(
                "ignored as last", "counts ignored tokens, as of the last class", targets=last, ignore_index=None
            )

    def _probabilities(self) -> Iterator[Suspect]:
        for e in (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5):
            yield self._suspect("log of p + e", f"is made of log(p + {e:g}), not of log p", _Added(e))
        if self.what == "loss":
            yield Fault("bits", "the loss is in bits, by a logarithm to the base 2"), lambda: self.exact / math.log(2)
            yield Fault("digits", "the loss is that of base 10"), lambda: self.exact / math.log(10)
        yield Fault("sign", f"{self.noun} has the other sign"), lambda: -self.exact
        dtypes = [name for name in ("float32", "float16") if np.finfo(name).eps > 8 * self.within / 1e4]
        for name in dtypes:
            rounded = self.logits.astype(name).astype(np.float64)
            yield self._suspect(f"logits in {name}", f"is that of logits rounded to {name}", logits=rounded)

    def _sums(self) -> Iterator[Suspect]:
        V = self.logits.shape[-1] if self.logits.ndim else 0
        for n in sorted({-V % m for m in (*MULTIPLES, 128 * 1024)} - {0}):
            yield self._suspect("zeros in the sum", f"has {n} zeros more in the sum of exponentials", _Padded(n))
        for kept in sorted({V // m * m for m in MULTIPLES} - {0, V} | ({V - 1} if V > 1 else set())):
            yield self._suspect(
                "classes missing", f"leaves classes from {kept} on out of the sum of exponentials", _Cut(kept)
            )

    def _gradients(self) -> Iterator[Suspect]:
        yield Fault("no gradient", "the gradient is 0 in every entry"), lambda: 0 * self.exact
        if self.exact.ndim > 1:
            for by in (1, -1):
                says = "the gradient of each token is its neighbour's"
                yield Fault("rows moved", says), partial(np.roll, self.exact, by, axis=-2)
        if self.hard and self.targets.shape == self.logits.shape[:-1]:
            yield Fault("no one-hot", "the gradient is p, without the target's -1"), self._without_target

    def _without_target(self) -> Any:
        V = self.logits.shape[-1]
        at = np.arange(V) == np.where((self.targets < 0) | (self.targets >= V), 0, self.targets)[..., None]
        return np.where(at, self.given, self.exact) if bool((self.given >= 0).all()) else 2 * self.given + 1

    def multiple(self) -> Fault | None:
        """That every entry is the same multiple of the exact one."""
        some = np.isfinite(self.exact) & (np.abs(self.exact) > 1e-3 * np.abs(self.exact[np.isfinite(self.exact)]).max())
        if some.sum() < 2 or not np.isfinite(self.given).all():
            return None
        with np.errstate(all="ignore"):
            factor = float(np.median(self.given[some] / self.exact[some]))
        if not np.isfinite(factor) or not self.explains(lambda: factor * self.exact):
            return None
        return Fault(f"{self.what} times", f"{self.noun} is {factor:.3g} times the exact one in every entry")


def _few(values: Any) -> str:
    """A number, or the first of them."""
    values = np.asarray(values, dtype=np.float64).reshape(-1)
    return f"{values[0]:.6g}" if values.size and np.all(values == values[0]) else "other numbers"


def _turned(array: np.ndarray) -> np.ndarray:
    return array.transpose().reshape(array.shape) if array.ndim > 1 else array[::-1]


# ---- formulas with one step replaced


class _Shared(Reference):
    """Label smoothing among so many classes."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def smoothed(self, call: Any, q: Any, finite: Any, rows: Any) -> Any:
        return super().smoothed(call, q, finite, replace(rows, finite=np.full(rows.finite.shape, float(self.classes))))


class _ZOfOne(Reference):
    def z_losses(self, call: Any, rows: Any) -> Any:
        return call.z_loss * self.lse(rows)


class _Flat(Reference):
    def steepness(self, call: Any, x: Any) -> Any:
        return 1.0


class _Unclipped(Reference):
    def clipped(self, call: Any, w: Any, rows: Any) -> Any:
        return np.zeros(w.shape, dtype=bool)


class _Added(Reference):
    def __init__(self, e: float) -> None:
        self.e = e

    def half_surprises(self, call: Any, w: Any, rows: Any) -> Any:
        return np.log(self.probabilities(w, rows) + self.e) / -2


class _Padded(Reference):
    """Zeros among the logits, in the sum alone."""

    def __init__(self, zeros: int) -> None:
        self.zeros = zeros

    def rows(self, call: Any, x: Any, given: Any) -> Any:
        rows = super().rows(call, x, given)
        return replace(rows, others=rows.others + self.zeros * np.exp(-rows.largest))


class _Cut(Reference):
    """Classes past the first ones are not in the sum."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    def rows(self, call: Any, x: Any, given: Any) -> Any:
        rows = super().rows(call, x, given)
        rest = np.exp(self.seen(call, x[:, self.kept :]) - rows.largest).sum(axis=-1, keepdims=True)
        return replace(rows, others=rows.others - rest)


# ---- where it is off


def where(call: Call, whole: Compared) -> str:
    """The tokens, or the entries, that are off, where a property of the input says which they are."""
    logits, off = np.asarray(call.logits, dtype=np.float64), whole.off
    tokens = logits.shape[:-1]
    if not tokens or off.shape[: len(tokens)] != tokens or logits.shape[-1] == 0:
        return ""
    found = []
    per_token = off.reshape(*tokens, -1).any(axis=-1)
    if not per_token.all():
        same = [words for words, those in _kinds(call, logits) if np.array_equal(those, per_token)]
        count = f"{int(per_token.sum())} of {per_token.size} tokens"
        found.append(f"{count}, {same[0]}" if same else count)
    elif per_token.size > 1:
        found.append("every token")
    if off.shape == logits.shape and call.targets.shape == tokens and call.targets.dtype.kind in "iu":
        at = np.arange(logits.shape[-1]) == call.targets[..., None]
        if not (off & ~at).any():
            found.append("the target's entry alone")
        elif not (off & at).any():
            found.append("not at the target's entry")
    return "; ".join(found)


def _kinds(call: Call, logits: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    tokens, V = logits.shape[:-1], logits.shape[-1]
    options, t = call.options, call.targets
    weights = options.get("weights")
    with np.errstate(invalid="ignore"):
        top = logits.max(axis=-1)
        yield "those with NaN among their logits", np.isnan(logits).any(axis=-1)
        yield "those with +inf among their logits", np.asarray(np.isposinf(logits).any(axis=-1))
        yield "those with -inf among their logits", np.asarray(np.isneginf(logits).any(axis=-1))
        if weights is not None:
            nothing = np.broadcast_to(np.asarray(weights) == 0, tokens)
            yield "those of weight 0", nothing
            yield "those of a weight", ~nothing
        if t.shape == tokens and t.dtype.kind in "iu":
            ignored = options.get("ignore_index")
            if ignored is not None:
                yield "those that are ignored", np.asarray(t == ignored)
                yield "those that are not ignored", np.asarray(t != ignored)
            inside = (t >= 0) & (t < V)
            own = np.take_along_axis(logits, np.where(inside, t, 0)[..., None], axis=-1)[..., 0]
            yield "those whose target is the likeliest class", inside & (own == top)
            yield "those whose target is not the likeliest class", inside & (own < top)
            yield "those whose target is class 0", t == 0
            yield "those whose target is the last class", t == V - 1
        elif t.shape == logits.shape:
            total = np.abs(t.sum(axis=-1) - 1) > 1e-6
            yield "those whose soft targets do not sum to 1", total
        yield "those of a logit above 88", top > 88
    if len(tokens) == 1:
        place = np.arange(tokens[0])
        yield "the last", place == tokens[0] - 1
        yield "all but the first", place > 0
        for m in MULTIPLES[1:]:
            yield f"those past the last whole block of {m}", place >= tokens[0] // m * m
