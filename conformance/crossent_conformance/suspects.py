"""Which known wrong formula an answer equals, so that a report can name the fault.

    suspects.of(error)                   those that explain a disagreement; none where its answer equals no formula

The answer is compared with what the clean implementation (`reference`) gives with an option changed or a step
replaced. A suspect has the same key whatever the numbers of a case are. Whatever is no loss of logits and targets is
compared with multiples of the right result alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from crossent_conformance import repeatable, severity, units, wrong_steps
from crossent_conformance.evidence import Call, Compared, Disagreement
from crossent_conformance.reference import Reference, TokensReference
from crossent_conformance.reference.rows import Call as Asked

SIMILAR = {"float64": 1e-6, "float32": 1e-4, "float16": 4e-3, "bfloat16": 32e-3}
"""Relative differences within which an answer equals a formula."""
MOST = 20_000
"""More logits than these are compared with multiples alone,"""
MOST_OF_A_SUM = 5_000_000
"""and with sums that are made in few digits."""
MULTIPLES = tuple(2**k for k in range(1, 11))
NOT_LOOKED_AT = (
    *("weights", "class_weights", "ignore_index", "label_smoothing", "z_loss", "temperature", "logit_softcap"),
    *("denominator", "grad_output"),
)
FEWER = {"float64": ("bfloat16", "float16", "float32"), "float32": ("bfloat16", "float16")}
FEWEST = 4
"""Values of fewer digits are no coincidence if they are so many."""
MEASURES = {
    f"{prefix}{name}": name for name in ("token_log_probs", "entropy", "kl_divergence") for prefix in ("", "d_")
}
"""Results that are no loss, and the functions that they are of."""
OVERFLOWS = {"float64": 709.0, "float32": 88.0}
"""The exponential of a logit of more is infinite, of minus that at most tiny, in the dtype of the arithmetic."""
LARGE = 1e30
"""Past logits of this size a difference may overflow, too."""
HERE = ("out", "engine", "check_targets", "memory", "needs")
"""Options that change no value."""


@dataclass(frozen=True)
class Suspect:
    """A wrong formula that people write."""

    key: str
    says: str
    formula: Callable[[], Any] = field(compare=False, repr=False, default=lambda: None)


def of(error: Disagreement) -> list[Suspect]:
    """Those that explain the disagreement; one that is not wrong has too few digits, if anything."""
    if error.call is None:
        return []
    if error.suspects is None:
        grade = severity.graded(error, "disagrees", error.call, error.call.dtype)[0]
        asked = error.call, error.what, error.whole
        error.suspects = named(*asked) if grade == severity.WRONG else []
        if not error.suspects and error.call.logits.size <= MOST and error.what in ("loss", "d_logits"):
            answer = _Answer(*asked)
            error.suspects = [*answer.overflow()] or [*answer.digits()]
    return error.suspects


def named(call: Call, what: str, whole: Compared) -> list[Suspect]:
    """Those that explain every entry of the result: of several entries one, of a single number all."""
    found: dict[str, Suspect] = {}
    for suspect in _Answer(call, what, whole).explanations():
        found.setdefault(suspect.key, suspect)
        if whole.given.size > 1:
            break
    return list(found.values())


class _Answer:
    """A wrong result, and what it may be instead."""

    def __init__(self, call: Call, what: str, whole: Compared) -> None:
        self.what, self.given, self.exact, self.off = what, whole.given, whole.exact, whole.off
        self.noun = {"loss": "the loss", "d_logits": "the gradient"}.get(what, what)
        self.within = SIMILAR.get(call.dtype, 1e-4)
        self.options = {name: value for name, value in call.options.items() if name not in HERE and value is not None}
        self.grad_output = self.options.pop("grad_output", None)
        self.logits, self.targets = np.asarray(call.logits, dtype=np.float64), np.asarray(call.targets)
        if (weight := self.options.pop("weight", None)) is not None:  # the logits are those of a linear layer
            with np.errstate(all="ignore"):
                self.logits = self.logits @ np.asarray(weight).T + self.options.pop("bias", 0.0)
            self.logits = self.logits[..., : self.options.pop("classes", None)]
        self.dtype = call.dtype
        self.compute_dtype = "float64" if call.dtype == "float64" else "float32"
        self.hard = self.targets.dtype.kind in "iu"

    def explanations(self) -> Iterator[Suspect]:
        if self.given.size == 0 or not np.isfinite(self.exact).any():
            return
        yield from self._without_numbers()
        suspects: Iterator[Suspect] = iter(())
        if self.what in MEASURES:
            suspects = self._measures()
        elif self.what in ("loss", "d_logits") and self.logits.size <= MOST_OF_A_SUM:
            suspects = self.suspects() if self.logits.size <= MOST else self._running()
        # What is no call of a loss of logits has none of these.
        with np.errstate(all="ignore"), contextlib.suppress(LookupError, TypeError, ValueError):
            yield from (suspect for suspect in suspects if self.explains(suspect.formula))
        yield from self._multiple()

    def _without_numbers(self) -> Iterator[Suspect]:
        """What makes infinities or NaN of numbers."""
        infinite = self.off & ~np.isfinite(self.given)
        if not infinite.any() or not np.array_equal(infinite, self.off) or self.what not in ("loss", "d_logits"):
            return
        masked = severity.spread(np.asarray(np.isneginf(self.logits).any(axis=-1)), self.off.shape)
        as_shares = self.what == "d_logits" or bool(np.isposinf(self.given[infinite]).all())
        if self.options.get("label_smoothing") and as_shares and masked[infinite].all():
            says = f"{self.noun}: classes at -inf are among those that share in label_smoothing"
            yield Suspect("smoothing of -inf", says)
        elif severity.spread(self._nothing_counts(), self.off.shape)[infinite].all():
            yield Suspect("mean by 0", f"{self.noun} is divided by 0 where no token counts")

    def _nothing_counts(self) -> np.ndarray:
        """Of which losses no token counts."""
        call = Asked(self.logits, self.targets, **self.options)
        if call.reduction not in ("mean", "sequence"):
            return np.zeros((), dtype=bool)
        return np.asarray(Reference().over_tokens(call, Reference().tokens(call).counted) == 0)

    def explains(self, make: Callable[[], Any]) -> bool:
        """Whether the answer is that formula's, numbers of it at least, and the right answer is not."""
        if not np.isfinite(self.given[self.off]).any():
            return False
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
        yield from self._classes()
        yield from self._probabilities()
        yield from self._sums()
        if self.what == "d_logits":
            yield from self._gradients()

    def _suspect(self, key: str, says: str, *args: Any, **changes: Any) -> Suspect:
        return Suspect(key, f"{self.noun} {says}", partial(self.by, *args, **changes))

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
            "the number of sequences": np.full(right.shape, call.tokens[0] if call.tokens else 1),
            "the length of the sequences": np.full(right.shape, call.tokens[-1] if call.tokens else 1),
            "the number of classes": np.full(right.shape, call.V),
            "the number of logits": everything.sum(axis) * call.V,
            "all the weights there are, of classes too": tokens.total.sum(axis),
        }
        label = next((words for words, value in found.items() if np.allclose(value, right)), "the denominator")
        found["1 where its denominator is smaller"] = np.maximum(right, 1.0)
        mean = "the mean" if self.what == "loss" else "the gradient of the mean"
        for words, value in found.items():
            if np.allclose(value, right) or not np.all(value):
                continue
            says = f"{mean} divides by {_few(value)}, {words}, not by {_few(right)}, {label}"
            if words.startswith("1"):
                says = f"{mean} divides by {words}, and should by {_few(right)}, {label}"
            factor = right / np.asarray(value, dtype=np.float64)
            if self.what == "d_logits":
                factor = np.reshape(factor, factor.shape + (1,) * (self.exact.ndim - factor.ndim))
            yield Suspect(f"mean by {words}", says, partial(np.multiply, self.exact, factor))

    def _smoothing(self) -> Iterator[Suspect]:
        if not self.options.get("label_smoothing"):
            return
        V, (kind, other) = self.logits.shape[-1], self._conventions()
        if np.isneginf(self.logits).any():
            says = f"{self.noun}: label_smoothing is divided by all {V} classes, those at -inf too"
            yield Suspect("smoothing by -inf", says, partial(self.by, wrong_steps.Shared(V)))
        says = f"smooths by the other convention, {other!r}, not {kind!r}"
        yield self._suspect("other smoothing", says, smoothing=other)
        twice = 2 * self.options["label_smoothing"]
        yield self._suspect("smoothing twice", "takes label_smoothing twice", label_smoothing=twice)

    def _conventions(self) -> tuple[str, str]:
        """The one that is asked for, and the other."""
        kind = self.options.get("smoothing", "others")
        return kind, "uniform" if kind == "others" else "others"

    def _classes(self) -> Iterator[Suspect]:
        if not self.options.get("label_smoothing"):
            return
        V = self.logits.shape[-1]
        sizes = {V - 1, V + 1, *(-(-V // m) * m for m in MULTIPLES), *(V // m * m for m in MULTIPLES)} - {0, V}
        for n in sorted(sizes, key=lambda n: abs(n - V)):
            for way in self._conventions():
                says = f"{self.noun}: label_smoothing is shared out ({way!r}) as if among {n} classes, not {V}"
                yield Suspect("smoothing of V", says, partial(self.by, wrong_steps.Shared(n), smoothing=way))

    def _options(self) -> Iterator[Suspect]:
        if (z := self.options.get("z_loss")) is not None:
            yield self._suspect("z_loss", "has twice its z_loss", z_loss=2 * z)
            yield self._suspect("z_loss", "has half its z_loss", z_loss=z / 2)
            yield self._suspect("z_loss mean", "has a z_loss that is not squared", wrong_steps.ZOfOne())
        if (weights := self.options.get("class_weights")) is not None:
            yield self._suspect("class_weights twice", "has class_weights twice", class_weights=weights * weights)
            yield self._suspect("class_weights twice", "has class_weights twice", wrong_steps.WeightedTwice())
            if self.options.get("label_smoothing"):
                says = "multiplies the target's term alone by its class weight, not the smoothed ones"
                yield self._suspect("smoothing without weights", says, wrong_steps.TargetWeighted())
        if (weights := self.options.get("weights")) is not None:
            if self.options.get("z_loss") is not None:
                yield Suspect("z_loss without weights", f"{self.noun} has a z_loss without the weights", self._bare_z)
            yield self._suspect("weights twice", "has weights twice", weights=np.asarray(weights) ** 2)
        if (t := self.options.get("temperature")) is not None:
            yield self._suspect("temperature", "is multiplied by the temperature where it divides", temperature=1 / t)
            yield self._suspect("temperature twice", "divides by the temperature twice", temperature=t * t)
            yield self._suspect("temperature", "misses the factor of the temperature", wrong_steps.Flat())
        if (c := self.options.get("logit_softcap")) is not None:
            capped = c * np.tanh(self.logits / c) / self.options.get("temperature", 1.0)
            says = "has the softcap before the temperature"
            if self.what == "loss" and "temperature" in self.options:
                yield self._suspect("softcap first", says, logits=capped, temperature=None, logit_softcap=None)
            yield self._suspect("softcap", "misses the slope of the softcap", wrong_steps.Flat())
        if self.options.get("algorithm") == "explicit":
            yield self._suspect("not clipped", "does not clip probabilities at 1e-10", algorithm="stable")
            yield self._suspect("clip gradient", "flows through clipped probabilities", wrong_steps.Unclipped())
        else:
            yield self._suspect("clipped", "clips probabilities at 1e-10", algorithm="explicit")
        if self.grad_output is not None and np.ndim(self.grad_output):
            g = np.asarray(self.grad_output)
            yield self._suspect("grad_output", "takes grad_output along another axis", grad_output=_turned(g))
            first = np.broadcast_to(g.reshape(-1)[:1].reshape((1,) * g.ndim), g.shape)
            yield self._suspect("grad_output", "takes the first grad_output for all", grad_output=first)
        for name in NOT_LOOKED_AT:
            given = self.grad_output if name == "grad_output" else self.options.get(name)
            if given is not None:
                changes: dict[str, Any] = {name: None}
                if name == "ignore_index" and self.hard:
                    changes["targets"] = np.where(self.targets == given, np.maximum(given, 0), self.targets)
                yield self._suspect(f"no {name}", f"does not look at {name}", **changes)

    def _bare_z(self) -> Any:
        return self.by(z_loss=None) + self.by(weights=None) - self.by(weights=None, z_loss=None)

    def _targets(self) -> Iterator[Suspect]:
        V = self.logits.shape[-1] if self.logits.ndim else 0
        t, ignored = self.targets, self.options.get("ignore_index")
        if not V or t.shape not in (self.logits.shape[:-1], self.logits.shape):
            return
        if not self.hard:
            top = (np.arange(V) == t.argmax(axis=-1)[..., None]).astype(np.float64)
            if self.what == "d_logits":
                yield self._suspect("soft mass", "is p - q, as if soft targets summed to 1", wrong_steps.MassOne())
            yield self._suspect("soft argmax", "is that of the likeliest class alone, not of soft targets", targets=top)
            total = t.sum(axis=-1, keepdims=True)
            yield self._suspect("soft normalised", "divides soft targets by their sum", targets=t / total)
            return
        counted = np.ones(t.shape, dtype=bool) if ignored is None else t != ignored
        for by, words in ((1, "one class too high"), (-1, "one class too low")):
            for moved in (np.clip(t + by, 0, V - 1), (t + by) % V):
                there = np.where(counted, moved, t)
                yield self._suspect(f"targets {words}", f"is that of targets {words}", targets=there)
        zero = np.where(counted, 0, t)
        yield self._suspect("target 0", "is that of class 0, whatever the target", targets=zero)
        likeliest = np.where(counted, self.logits.argmax(axis=-1), t)
        yield self._suspect("target top", "is that of the likeliest class, not of the target", targets=likeliest)
        if ignored is not None:
            for key, words, value in (("0", "class 0", 0), ("last", "the last class", V - 1)):
                changes = {"targets": np.where(counted, t, value), "ignore_index": None}
                yield self._suspect(f"ignored as {key}", f"counts ignored tokens, as of {words}", **changes)

    def _probabilities(self) -> Iterator[Suspect]:
        for e in (1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5):
            yield self._suspect("log of p + e", f"is made of log(p + {e:g}), not of log p", wrong_steps.Added(e))
        if self.what == "loss":
            yield Suspect("bits", "the loss is in bits, by a logarithm to the base 2", lambda: self.exact / math.log(2))
            says = "the loss is made by a logarithm to the base 10"
            yield Suspect("base 10", says, lambda: self.exact / math.log(10))
        yield from map(self._times, (-1.0, 2.0, 0.5))

    def _sums(self) -> Iterator[Suspect]:
        V = self.logits.shape[-1] if self.logits.ndim else 0
        for n in sorted({-V % m for m in (*MULTIPLES, 128 * 1024)} - {0}):
            says = f"has {n} zeros more in the sum of exponentials"
            yield self._suspect("zeros in the sum", says, wrong_steps.Padded(n))
        for kept in sorted({V // m * m for m in MULTIPLES} - {0, V} | ({V - 1} if V > 1 else set())):
            says = f"leaves classes from {kept} on out of the sum of exponentials"
            yield self._suspect("classes missing", says, wrong_steps.Cut(kept))

    def _running(self) -> Iterator[Suspect]:
        """Sums over many tokens that are made one after the other in few digits."""
        if self.what == "loss" and self.options.get("reduction", "mean") in ("mean", "sum"):
            for words, *which in (
                ("tokens", True, False),
                ("weights", False, True),
                ("tokens and weights", True, True),
            ):
                says = f"is off as by a running sum of the {words} in float32"
                yield self._suspect("running sum", says, wrong_steps.Running(*which))

    def _gradients(self) -> Iterator[Suspect]:
        yield Suspect("no gradient", "the gradient is 0 in every entry", lambda: 0 * self.exact)
        if self.exact.ndim > 1:
            for by in (1, -1):
                says = "the gradient of each token is its neighbour's"
                yield Suspect("rows moved", says, partial(np.roll, self.exact, by, axis=-2))
        yield self._suspect("no target", "is p, without what the target takes off", wrong_steps.NoTarget())

    def _measures(self) -> Iterator[Suspect]:
        """What a measure of rows may be of, besides what was asked for."""
        name = MEASURES[self.what]

        def suspect(key: str, says: str, **changes: Any) -> Suspect:
            return Suspect(f"{name} {key}", f"{self.what} {says}", partial(self._measured, name, **changes))

        direction = self.options.get("direction", "forward")
        if name == "kl_divergence" and direction in ("forward", "reverse"):
            other = "reverse" if direction == "forward" else "forward"
            yield suspect("direction", f"is that of the other direction, {other!r}, not {direction!r}", direction=other)
        if name == "kl_divergence" and direction == "jensen-shannon":
            share = 1 - self.options.get("mixture", 0.5)
            yield suspect("mixture", "has the shares of teacher and student the other way round", mixture=share)
        for option in ("temperature", "logit_softcap", "weights", "grad_output"):
            if option in self.options or (option == "grad_output" and self.grad_output is not None):
                yield suspect(f"no {option}", f"does not look at {option}", **{option: None})
        if (t := self.options.get("temperature")) is not None and name == "kl_divergence":
            warm = self.targets * t
            yield suspect("teacher", "does not divide the teacher's logits by the temperature", other=warm)

    def _measured(self, name: str, other: Any = None, **changes: Any) -> Any:
        given = {"grad_output": self.grad_output, **self.options, **changes}
        options = {option: value for option, value in given.items() if value is not None}
        arrays = [self.logits] if name == "entropy" else [self.logits, self.targets if other is None else other]
        ask = getattr(TokensReference(), f"{name}_and_grad")
        return ask(*arrays, **options)[int(self.what.startswith("d_"))]

    def overflow(self) -> Iterator[Suspect]:
        """That no maximum was taken off."""
        largest = np.abs(self.logits).max(initial=0.0)
        past = OVERFLOWS[self.compute_dtype] < largest < LARGE and not np.isfinite(self.given[self.off]).any()
        if self.what == "loss" and past:
            yield Suspect("overflow", f"{self.noun} is the log of exponentials that overflow, or are 0")

    def digits(self) -> Iterator[Suspect]:
        """The dtype to which the logits, or the result, were rounded: one that the error is gone with."""
        finite = np.isfinite(self.given) & np.isfinite(self.exact)
        apart = np.abs(self.given - self.exact)[finite].max(initial=0.0)
        some = finite & (self.given != 0)
        for name in FEWER.get(self.dtype if self.what == "d_logits" else self.compute_dtype, ()):
            if (repeatable.rounded(self.exact, name) != self.exact)[some].sum() < FEWEST:
                continue
            # A rounding on the way is one of the logits, or of 1.
            largest = np.abs(self.logits[np.isfinite(self.logits)]).max(initial=1.0)
            if apart > 8 * largest * units.EPS[name] / 2:
                continue
            if np.array_equal(repeatable.rounded(self.given, name), self.given, equal_nan=True):
                says = f"{self.noun} has the digits of {name}, not of {self.compute_dtype}"
                yield Suspect(f"digits of {name}", says)
                return
            with np.errstate(all="ignore"), contextlib.suppress(Exception):
                formula = np.asarray(self.by(logits=repeatable.rounded(self.logits, name)), dtype=np.float64)
                if formula.shape == self.given.shape and np.abs(self.given - formula)[finite].max() < apart / 30:
                    yield Suspect(f"logits in {name}", f"{self.noun} is that of logits rounded to {name}")
                    return

    def _multiple(self) -> Iterator[Suspect]:
        """That every entry is the same multiple of the exact one."""
        some = np.isfinite(self.exact) & (np.abs(self.exact) > 1e-3 * np.abs(self.exact[np.isfinite(self.exact)]).max())
        if some.sum() < 2 or not np.isfinite(self.given).all():
            return
        with np.errstate(all="ignore"):
            factor = float(np.median(self.given[some] / self.exact[some]))
        suspect = self._times(factor)
        if np.isfinite(factor) and self.explains(suspect.formula):
            yield suspect

    def _times(self, factor: float) -> Suspect:
        everywhere = " in every entry" if self.exact.size > 1 else ""
        says = f"is {factor:.3g} times the exact one{everywhere}" if abs(factor + 1) > 1e-3 else "has the other sign"
        return Suspect(f"{self.what} times {factor:.2g}", f"{self.noun} {says}", lambda: factor * self.exact)


def _few(values: Any) -> str:
    """A number, or the first of them."""
    values = np.unique(np.asarray(values, dtype=np.float64).reshape(-1))
    return " or ".join(f"{value:.6g}" for value in values[:3]) + (" or others" if values.size > 3 else "")


def _turned(array: np.ndarray) -> np.ndarray:
    return array.transpose().reshape(array.shape) if array.ndim > 1 else array[::-1]
