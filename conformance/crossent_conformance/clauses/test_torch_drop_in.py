"""Clause D2: a drop-in stands where `torch.nn.functional.cross_entropy` stood, for every input that PyTorch accepts.

Both are called with equal tensors; values and gradients must agree within the wider of the two roundings, NaNs and
infinities must be in the same places, dtypes and error types must be the same. The other clauses say how accurate a
loss is; here the peer's own rounding, of the logits' dtype, is what bounds the comparison.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from crossent_conformance import depth, units
from crossent_conformance.backends import Mode
from crossent_conformance.drop_in import Both, classes_of, inputs, run, same_values

pytestmark = [
    pytest.mark.clause("D2"),
    pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,)),
    pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning"),
]
SHAPES = [(5,), (3, 5), (3, 5, 2), (2, 5, 3, 2), (2, 5, 1, 3, 2), (0, 5), (2, 5, 0), (3, 1), (1,), (1, 5)]
REDUCTIONS = ("mean", "sum", "none")


def _reductions_and_weights(weight):
    """What the other options are combined with: in a thorough run every reduction without and with weights."""
    if depth.THOROUGH:
        return list(itertools.product(REDUCTIONS, (None, weight)))
    return [("mean", None), ("mean", weight), ("sum", weight), ("none", None)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_D2_shapes_weights_reductions_smoothing(place, subject, shape, soft, smoothing):
    functions = Both(place, subject)
    logits, target = inputs(place, shape, soft)
    weight = place.put(np.linspace(0.5, 2.0, classes_of(shape)), place.dtype)
    for reduction, chosen in _reductions_and_weights(weight):
        same_values(place, functions, logits, target, reduction=reduction, weight=chosen, label_smoothing=smoothing)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 5, 2)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [2, 0, -1, -100, 5, 77])
def test_D2_ignore_index_inside_and_outside_the_classes(place, subject, shape, smoothing, ignored):
    functions = Both(place, subject)
    logits, target = inputs(place, shape)
    weight = place.put(np.linspace(0.5, 2.0, 5), place.dtype)
    for some in (
        target,
        place.backend.torch.where(target == 1, ignored, target),
        place.backend.torch.full_like(target, ignored),
    ):
        for reduction, chosen in _reductions_and_weights(weight):
            options = {"reduction": reduction, "weight": chosen, "label_smoothing": smoothing, "ignore_index": ignored}
            same_values(place, functions, logits, some, **options)


def test_D2_a_mean_over_nothing_is_nan(place, subject):
    functions = Both(place, subject)
    logits, target = inputs(place, (4, 5))
    for function in functions:
        loss = function(logits, place.backend.torch.full_like(target, -100))
        assert math.isnan(loss.item())
        assert function(logits, place.backend.torch.full_like(target, -100), reduction="sum").item() == 0


@pytest.mark.parametrize(
    "weight",
    [np.zeros(5), np.array([0.0, 1, 0, 2, 0]), np.array([1.0, np.inf, 1, 1, 1]), np.array([np.nan, 1, 1, 1, 1])],
    ids=["zero", "some-zero", "infinite", "nan"],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_strange_weights(place, subject, weight, smoothing, soft):
    functions = Both(place, subject)
    logits, target = inputs(place, (6, 5), soft)
    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "weight": place.put(weight, place.dtype), "label_smoothing": smoothing}
        if np.isfinite(weight).all():
            same_values(place, functions, logits, target, **options)
            continue
        theirs, ours = (run(function, logits, target, **options)[0] for function in functions)
        np.testing.assert_array_equal(place.to_numpy(ours.isnan()), place.to_numpy(theirs.isnan()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["target", "elsewhere", "row", "ignored-row"])
def test_D2_logits_that_are_not_finite(place, subject, smoothing, soft, value, where):
    functions = Both(place, subject)
    if soft and where == "ignored-row":
        where = "zero-row"
    logits, target = inputs(place, (4, 5), soft)
    if where == "zero-row":
        target[2] = 0
        logits[2, 3] = value
    elif where == "ignored-row":
        target[2] = -100
        logits[2, 3] = value
    elif where == "row":
        logits[2] = value
    else:
        target_class = int(target[2].argmax()) if soft else int(target[2])
        logits[2, target_class if where == "target" else (target_class + 1) % 5] = value
    for reduction in REDUCTIONS:
        same_values(place, functions, logits, target, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_layouts(place, subject, soft):
    functions = Both(place, subject)
    torch = place.backend.torch
    logits, target = inputs(place, (2, 5, 3, 4), soft)
    layouts = [
        (logits.contiguous(memory_format=torch.channels_last), target),
        (logits.transpose(2, 3).contiguous().transpose(2, 3), target.transpose(-1, -2).contiguous().transpose(-1, -2)),
        (torch.cat([logits, logits], dim=1)[:, 5:], target),
        (logits[..., ::2], target[..., ::2]),
        (logits[:1].expand(2, 5, 3, 4), target[:1].expand(target.shape)),
    ]
    for x, t in layouts:
        same_values(place, functions, x, t)
        same_values(place, functions, x, t, reduction="none", label_smoothing=0.1)


@pytest.mark.parametrize(
    "deprecated",
    [
        {"size_average": True},
        {"size_average": False},
        {"reduce": True},
        {"reduce": False},
        {"size_average": False, "reduce": True},
        {"size_average": True, "reduce": False},
    ],
    ids=str,
)
def test_D2_deprecated_arguments(place, subject, deprecated):
    functions = Both(place, subject)
    logits, target = inputs(place, (4, 5))
    for reduction in REDUCTIONS:
        same_values(place, functions, logits, target, reduction=reduction, **deprecated)
    theirs, ours = (function(logits, target, None, False, 1, True, "mean", 0.1) for function in functions)
    np.testing.assert_allclose(place.to_numpy(ours), place.to_numpy(theirs), rtol=16 * units.EPS[place.dtype])
