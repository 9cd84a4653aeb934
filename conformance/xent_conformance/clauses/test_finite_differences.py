"""Clause V5: in float64, central differences of the loss are its gradient, with every combination of options.

Where a call costs a compilation or a graph, fewer combinations are taken, in which every two values that may meet do
meet.
"""

from __future__ import annotations

import numpy as np
import pytest

from xent_conformance import cases
from xent_conformance.backends import DIRECT, Mode

STEP = 1e-4


def _logits_and_targets(soft, scale=3.0):
    logits, targets = cases.random((2, 3), 5, scale)
    logits = logits.copy()
    logits[1, 2, 0] -= 60.0  # past the clip of algorithm="explicit", where its term is constant
    return logits, cases.generator(3).random(logits.shape) if soft else targets


def _check(place, subject, logits, targets, direction, options):
    def value(logits):
        loss = place.evaluate(subject.loss, logits, targets, **forward)
        return float((loss * options["grad_output"]).sum())

    forward = {name: option for name, option in options.items() if name != "grad_output"}
    _, d_logits = place.evaluate(subject.loss_and_grad, logits, targets, **options)
    difference = (value(logits + STEP * direction) - value(logits - STEP * direction)) / (2 * STEP)
    terms = d_logits * direction
    assert abs(difference - terms.sum()) <= 1e-7 * np.abs(terms).sum(), (
        f"slope {difference!r}, gradient {terms.sum()!r} with {forward}"
    )


@pytest.mark.clause("V5")
@pytest.mark.places(dtypes=("float64",), modes=DIRECT)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sequence"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V5_every_combination_of_options(place, subject, soft, algorithm, reduction):
    logits, targets = _logits_and_targets(soft)
    every = cases.combinations(soft, algorithm, reduction)
    if place.backend.slow:
        every = [options for options in cases.covering(soft, algorithm) if options["reduction"] == reduction]
    rng = cases.generator(8)
    for options in every:
        _check(place, subject, logits, targets, rng.standard_normal(logits.shape), options)


@pytest.mark.clause("V5")
@pytest.mark.places(dtypes=("float64",), backends=("numpy",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_V5_every_entry(place, subject, soft, algorithm):
    logits, targets = _logits_and_targets(soft, scale=0.7)  # differences show no slope below 1e-5 to seven digits
    for options in cases.covering(soft, algorithm, ("mean",)):
        for entry in np.ndindex(logits.shape):
            if entry == (1, 2, 0):
                continue
            direction = np.zeros(logits.shape)
            direction[entry] = 1.0
            _check(place, subject, logits, targets, direction, options)
