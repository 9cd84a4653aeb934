"""The inputs of `crossent parity`: named, seeded, the same on every machine and under every version of every library.

Results that never meet are compared by the fingerprints of their inputs: see `repeatable`. A case's numbers depend on
its name and the seed, on no other case.

    problem = case.problem("float32", seed=0)      what is asked: logits, targets, options, in float64 NumPy arrays
    problem.exact                                  the oracle's loss and gradient
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from crossent_conformance import oracle
from crossent_conformance.repeatable import Draw, fingerprint, rounded
from crossent_conformance.units import Exact

GAPS = (-1000.0, -89.0, -20.0, -5.0, -1.0, -0.25, 0.0, 0.25, 1.0, 5.0, 10.0, 15.0, 17.0, 20.0, 25.0, 40.0, 69.0)
"""How far the target is ahead: losses from 1000 down to 1e-30."""
WIDE_GAPS = (90.0, 120.0, 300.0, 600.0, 680.0)
"""Losses that only float64 holds; the others have to be as small."""
INFINITY = float("inf")
NAN = float("nan")


Given = tuple[np.ndarray, np.ndarray, dict[str, Any]]


@dataclass(frozen=True)
class Problem:
    """What is asked, in numbers that the dtype holds."""

    logits: np.ndarray
    targets: np.ndarray
    options: dict[str, Any]
    fingerprint: str

    @cached_property
    def exact(self) -> dict[str, Exact]:
        """The oracle's answer, under the names of the results."""
        loss, d_logits = oracle.cross_entropy(self.logits, self.targets, **self.options)
        return {"loss": loss, "d_logits": d_logits}


@dataclass(frozen=True)
class Case:
    """One question of the list."""

    name: str
    about: str
    make: Callable[[Draw], Given]

    @cache  # noqa: B019 - a case lives as long as the list
    def problem(self, dtype: str, seed: int) -> Problem:
        """The case in that dtype."""
        logits, targets, options = self.make(Draw(f"{self.name}/{seed}"))
        logits = rounded(logits, dtype)
        targets = rounded(targets, dtype) if targets.dtype.kind == "f" else targets
        return Problem(logits, targets, options, fingerprint(logits, targets, options))


# ---- the list


def _random(*tokens: int, V: int, soft: bool = False, scale: float = 2.0, **options: Any) -> Callable[[Draw], Given]:
    """Hard targets, or soft ones; an option that is a function is made of the case's numbers."""

    def make(draw: Draw) -> Given:
        logits = draw.logits(*tokens, V, scale=scale)
        targets = draw.distributions(*tokens, V) if soft else draw.targets(*tokens, V=V)
        return logits, targets, {name: value(draw) if callable(value) else value for name, value in options.items()}

    return make


def _weights(*shape: int) -> Callable[[Draw], np.ndarray]:
    return lambda draw: draw.weights(*shape)


def _confident(gaps: tuple[float, ...], V: int, **options: Any) -> Callable[[Draw], Given]:
    """Two rows a gap: the target ahead of equal logits, and of the largest of scattered ones."""

    def make(draw: Draw) -> Given:
        logits, targets = np.zeros((2 * len(gaps), V)), draw.targets(2 * len(gaps), V=V)
        logits[1::2] = draw.logits(len(gaps), V)
        rows = np.arange(2 * len(gaps))
        logits[rows, targets] = -INFINITY
        logits -= logits.max(axis=1, keepdims=True)
        logits[rows, targets] = np.repeat(gaps, 2)
        return logits, targets, dict(options)

    return make


def _shifted(draw: Draw) -> Given:
    offsets = np.array([-8192.0, -1024.0, -64.0, 64.0, 1024.0, 8192.0])
    return draw.eighths(6, 10) + offsets[:, None], draw.targets(6, V=10), {"reduction": "none"}


def _vocabulary(draw: Draw) -> Given:
    logits, targets = draw.eighths(3, 50257), draw.targets(3, V=50257)
    logits[1, targets[1]] = 24.0
    logits[2, targets[2]] = 96.0
    return logits, targets, {"reduction": "none"}


def _many(draw: Draw) -> Given:
    """Few distinct rows, a hundred times over."""
    return (np.tile(draw.logits(32, 8), (128, 1)), np.tile(draw.targets(32, V=8), 128), {"reduction": "mean"})


def _special(**options: Any) -> Callable[[Draw], Given]:
    """A row for each special value: off the target, on it, everywhere; and an ordinary row first and last."""

    def make(draw: Draw) -> Given:
        logits, targets = draw.logits(10, 6), np.arange(10) % 6
        logits[1, 3] = -INFINITY
        logits[2, [0, 1, 3, 4, 5]] = -INFINITY
        logits[3, 3] = -INFINITY
        logits[4, :] = -INFINITY
        logits[5, 0] = NAN
        logits[6, 0] = NAN
        logits[7, 3] = INFINITY
        logits[8, 2] = INFINITY
        return logits, targets, dict(options)

    return make


def _ignored(draw: Draw) -> Given:
    logits, targets = draw.logits(6, 5), draw.targets(6, V=5)
    logits[1, 2], logits[3, :], logits[4, 0] = NAN, -INFINITY, INFINITY
    targets[[1, 3]] = -100
    weights = draw.weights(6)
    weights[4] = 0.0
    return logits, targets, {"weights": weights, "ignore_index": -100}


def _nothing(draw: Draw) -> Given:
    return draw.logits(2, 3, 5), np.full((2, 3), -100), {"ignore_index": -100, "reduction": "sequence"}


def _everything(targets: bool, algorithm: str) -> Callable[[Draw], Given]:
    def make(draw: Draw) -> Given:
        options: dict[str, Any] = {
            "weights": draw.weights(4, 6),
            "class_weights": draw.weights(7),
            "label_smoothing": 0.125,
            "z_loss": 0.015625,
            "reduction": "sequence",
            "denominator": 4.0,
            "algorithm": algorithm,
            "grad_output": draw.weights(4),
        }
        if targets:
            return draw.logits(4, 6, 7), draw.targets(4, 6, V=7), options | {"ignore_index": 3}
        return draw.logits(4, 6, 7), draw.distributions(4, 6, 7), options | {"smoothing": "uniform"}

    return make


CASES = {
    case.name: case
    for case in (
        Case("plain", "ten classes", _random(8, V=10, reduction="none")),
        Case("plain-V1", "a single class", _random(3, V=1, reduction="none")),
        Case("plain-V2", "two classes", _random(8, V=2, reduction="none")),
        Case("plain-V1000", "a thousand classes", _random(3, V=1000, reduction="none")),
        Case("plain-0d", "one token, without an axis", _random(V=5, reduction="none")),
        Case("plain-4d", "three axes of tokens", _random(2, 3, 2, V=5, reduction="none")),
        Case("no-tokens", "an empty batch", _random(0, V=5, reduction="mean")),
        Case("confident", "the target ahead, or behind", _confident(GAPS, 10, reduction="none")),
        Case("confident-wide", "losses down to 1e-295", _confident(WIDE_GAPS, 10, reduction="none")),
        Case("large-logits", "logits up to 8192", _random(8, V=10, scale=2048.0, reduction="none")),
        Case("shifted", "a constant added to each row", _shifted),
        Case("vocabulary", "50257 classes", _vocabulary),
        Case("many-tokens", "the mean of 4096 tokens", _many),
        Case("mean", "the mean", _random(4, 6, V=7, reduction="mean")),
        Case("sum", "the sum", _random(4, 6, V=7, reduction="sum")),
        Case("sequence", "a mean for each sequence", _random(4, 6, V=7, reduction="sequence")),
        Case("ignore-index", "one class ignored", _random(4, 6, V=7, ignore_index=3)),
        Case("nothing-counted", "every token ignored", _nothing),
        Case("weights", "a weight for each token", _random(4, 6, V=7, weights=_weights(4, 6))),
        Case("class-weights", "a weight for each class", _random(4, 6, V=7, class_weights=_weights(7))),
        Case("both-weights", "both", _random(4, 6, V=7, weights=_weights(6), class_weights=_weights(7))),
        Case("denominator-tokens", "divided by the number of tokens",
             _random(4, 6, V=7, weights=_weights(4, 6), denominator="tokens")),
        Case("denominator-number", "divided by a number", _random(4, 6, V=7, denominator=10.0)),
        Case("denominator-array", "divided by a 0-d array",
             _random(4, 6, V=7, denominator=lambda _draw: np.asarray(10.0))),
        Case("grad-output", "a scale for each row's gradient",
             _random(4, 6, V=7, reduction="none", grad_output=_weights(4, 6))),
        Case("smoothing-others", "label smoothing over the other classes",
             _random(4, 6, V=7, reduction="none", label_smoothing=0.125)),
        Case("smoothing-uniform", "label smoothing over all classes",
             _random(4, 6, V=7, reduction="none", label_smoothing=0.125, smoothing="uniform")),
        Case("smoothing-weights", "label smoothing with class weights",
             _random(4, 6, V=7, label_smoothing=0.125, smoothing="uniform", class_weights=_weights(7))),
        Case("smoothing-confident", "label smoothing where the target is ahead",
             _confident(GAPS, 10, reduction="none", label_smoothing=0.125)),
        Case("z-loss", "z-loss", _random(4, 6, V=7, reduction="none", z_loss=0.015625)),
        Case("soft", "probabilities as targets", _random(4, 6, V=7, soft=True, reduction="none")),
        Case("soft-weights", "with both weights",
             _random(4, 6, V=7, soft=True, weights=_weights(4, 6), class_weights=_weights(7))),
        Case("soft-smoothing", "with label smoothing", _random(4, 6, V=7, soft=True, label_smoothing=0.125)),
        Case("explicit", "softmax, clip, logarithm", _random(8, V=10, reduction="none", algorithm="explicit")),
        Case("explicit-clipped", "where the clip is reached",
             _confident((-89.0, -30.0, -5.0, 0.0, 5.0), 10, reduction="none", algorithm="explicit")),
        Case("everything", "all options at once", _everything(True, "stable")),
        Case("everything-soft", "all options at once, soft targets", _everything(False, "stable")),
        Case("everything-explicit", "all options at once, explicit", _everything(True, "explicit")),
        Case("special", "NaN and infinities", _special(reduction="none")),
        Case("special-smoothing", "NaN and infinities with label smoothing",
             _special(reduction="none", label_smoothing=0.125)),
        Case("special-ignored", "NaN and infinities in rows that do not count", _ignored),
    )
}  # fmt: skip
"""By name, in the order of the report."""
