"""Clause V5: in float64, central differences of the loss are its gradient, with every combination of options.

On other backends than NumPy fewer combinations are taken, in which every two values that may meet do meet; where a call
costs a compilation or a graph, one. A thorough run takes them all.
"""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth, evidence
from crossent_conformance.backends import DIRECT, Mode

STEP = 1e-4


def _logits_and_targets(soft, scale=3.0):
    logits, targets = cases.random((2, 3), 5, scale)
    logits = logits.copy()
    logits[1, 2, 0] -= 60.0  # past the clip of algorithm="explicit", where its term is constant
    return logits, cases.generator(3).random(logits.shape) if soft else targets


def _check(place, subject, logits, targets, direction, options):
    def value(logits):
        return float(place.evaluate(subject.loss, logits, targets, **options).sum())

    _, d_logits = agree.both(place, subject, logits, targets, **options)
    terms = d_logits * direction
    difference = (value(logits + STEP * direction) - value(logits - STEP * direction)) / (2 * STEP)
    size = max(
        np.abs(terms).sum(), np.abs(d_logits).max()
    )  # an entry that happens to be nearly 0 has no digits to show
    said = float(terms.sum())
    if not abs(difference - said) <= 1e-7 * size:
        times = said / difference if difference else np.inf
        raise evidence.Unlike(
            f"along a direction the loss rises by {difference:.8g} and the gradient says {said:.8g}"
            + (f", {times:.3g} times as much" if abs(times - 1) > 0.01 else ""),
            expected=difference,
            given=said,
            scale=float(size),
        )


@pytest.mark.places(
    dtypes=("float64",),
    modes=DIRECT,
    when=lambda place, reduction, algorithm, soft: (
        not depth.spares(place) or algorithm == "stable" or reduction == "mean"
    ),
)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sequence"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V5_every_combination_of_options(place, subject, soft, algorithm, reduction):
    agree.serves_soft(place, subject, soft)
    logits, targets = _logits_and_targets(soft)
    every = list(cases.combinations(soft, algorithm, reduction))
    if not depth.THOROUGH and place.backend.name != "numpy":
        every = cases.covering(soft, algorithm, (reduction,))
    if depth.spares(place):
        every = every[1:2]
    rng = cases.generator(8)
    agree.each(
        every,
        lambda options: _check(place, subject, logits, targets, rng.standard_normal(logits.shape), options),
    )


@pytest.mark.places(dtypes=("float64",), backends=("numpy",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V5_every_entry(place, subject, soft, algorithm):
    agree.serves_soft(place, subject, soft)
    logits, targets = _logits_and_targets(soft, scale=0.7)  # differences show no slope below 1e-5 to seven digits

    def check_entries(options):
        for entry in np.ndindex(logits.shape):
            if entry == (1, 2, 0):
                continue
            direction = np.zeros(logits.shape)
            direction[entry] = 1.0
            _check(place, subject, logits, targets, direction, options)

    agree.each(cases.covering(soft, algorithm, ("mean",)), check_entries)
