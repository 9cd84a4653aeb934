"""All that the clauses ask one by one, together: any shape, dtype, options and special values give the oracle's values.

The suite keeps clauses apart, so that a report says which one fails. Here only `crossent` is asked, and whatever fails
is a fault of its own. `CROSSENT_CONFORMANCE_THOROUGH=1 pytest tests/test_any_input.py` makes some 60,000 calls.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth, units
from crossent_conformance.backends import Mode
from crossent_conformance.drawn import EXACT, SOFT, SPECIAL, UNCOMPILED, WEIGHT, filled

AT_THE_END = 2.0**1000
"""Logits of that size stand for three quarters of the largest number of the dtype."""
ELEMENTS = (
    EXACT,
    st.one_of(EXACT, EXACT, EXACT, SPECIAL),
    st.one_of(EXACT, st.sampled_from([-AT_THE_END, AT_THE_END])),
)


@st.composite
def problems(draw):
    """Logits and targets: any shape of up to three token axes, finite or not, of any size, hard or soft."""
    tokens, V = tuple(draw(st.lists(st.integers(0, 3), max_size=3))), draw(st.integers(1, 6))
    elements = draw(st.sampled_from(ELEMENTS))
    logits = filled(draw, (*tokens, V), elements)
    if draw(st.booleans()):
        return logits, filled(draw, (*tokens, V), SOFT)
    size = math.prod(tokens)
    dtype = draw(st.sampled_from(["int64", "int32", "uint8", "int8"]))
    targets = draw(st.lists(st.integers(0, V - 1), min_size=size, max_size=size))
    return logits, np.array(targets, dtype=dtype).reshape(tokens)


@st.composite
def options_for(draw, logits, targets):
    """A combination that the contract allows."""
    tokens, V = logits.shape[:-1], logits.shape[-1]
    soft = targets.dtype.kind == "f"
    ends = (np.abs(logits) == AT_THE_END).any()
    # The loss of a token may be past the dtype, and a mean of it not.
    reductions = ["none", "sum"] if ends else ["none", "sum", "mean", "sequence"] if tokens else ["none", "sum", "mean"]
    reduction = draw(st.sampled_from(reductions))
    options = {
        "reduction": reduction,
        "algorithm": draw(st.sampled_from(["stable", "stable", "explicit"])),
        "check_targets": draw(st.booleans()),
    }
    if draw(st.booleans()):
        kept = draw(st.integers(0, len(tokens)))
        options["weights"] = filled(draw, tuple(draw(st.sampled_from([n, 1])) for n in tokens[kept:]), WEIGHT)
    if draw(st.booleans()):
        options["class_weights"] = filled(draw, (V,), WEIGHT)
    if not soft and draw(st.booleans()):
        options["ignore_index"] = draw(
            st.one_of(st.integers(0, V - 1), st.sampled_from([-100, -1, V, 2**40, -(2**63)]))
        )
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.125, 0.5]))
        options["smoothing"] = draw(st.sampled_from(["others", "uniform"]))
    if draw(st.booleans()) and not ends:
        options["z_loss"] = draw(st.sampled_from([0.0, 0.0625, 1.0]))
    if draw(st.booleans()) and not ends:
        options["temperature"] = draw(st.sampled_from([0.5, 1.0, 3.0]))
        options["logit_softcap"] = draw(st.sampled_from([None, 2.0, 30.0]))
    if reduction in ("mean", "sequence"):
        options["denominator"] = draw(st.sampled_from([None, "tokens", 2, 0.5]))
    options["grad_output"] = filled(draw, cases.loss_shape(reduction, tokens), st.sampled_from([0.5, 1.0, 1.5]))
    return options


@pytest.mark.places(modes=(*UNCOMPILED, Mode.PORTABLE), sparse=True)
@depth.examples(problems(), st.data(), count=300)
def test_any_input_with_any_options(place, subject, problem, data):
    logits, targets = problem
    options = data.draw(options_for(logits, targets))
    logits = np.where(np.abs(logits) == AT_THE_END, np.sign(logits) * 0.75 * units.LARGEST[place.dtype], logits)
    weights = options.get("weights")
    if weights is not None and options.get("denominator", "") is None and data.draw(st.booleans()):
        options["weights"] = np.asarray(weights * (0.25 * units.LARGEST[place.compute_dtype]))
    if weights is not None and targets.dtype == np.int64 and data.draw(st.booleans()):
        # What does not count may have any target.
        anything = data.draw(st.sampled_from([-1, logits.shape[-1], -(2**63), 2**31]))
        targets = np.where(np.broadcast_to(weights == 0, targets.shape), anything, targets)
    agree.with_oracle(place, subject, logits, targets, precise=True, **options)
