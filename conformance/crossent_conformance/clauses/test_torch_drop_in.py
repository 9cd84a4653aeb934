"""Clause D2: a drop-in stands where `torch.nn.functional.cross_entropy` stood, for every input that PyTorch accepts.

Both are called with equal tensors; values and gradients must agree within the wider of the two roundings, NaNs and
infinities must be in the same places, dtypes and error types must be the same. The other clauses say how accurate a
loss is; here the peer's own rounding, of the logits' dtype, is what bounds the comparison.
"""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest

from crossent_conformance import agree, depth, units
from crossent_conformance.backends import Mode
from crossent_conformance.drop_in import Both, classes_of, inputs, run, same_outcome, same_values

pytestmark = [
    pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,)),
    pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning"),
]
SHAPES = [(5,), (3, 5), (3, 5, 2), (2, 5, 3, 2), (2, 5, 1, 3, 2), (0, 5), (2, 5, 0), (3, 1), (1,), (1, 5)]
REDUCTIONS = ("mean", "sum", "none")


@pytest.fixture
def functions(place, subject):
    return Both(place, subject)


def _reductions_and_weights(weight):
    """What the other options are combined with: in a thorough run every reduction without and with weights."""
    if depth.THOROUGH:
        return list(itertools.product(REDUCTIONS, (None, weight)))
    return [("mean", None), ("mean", weight), ("sum", weight), ("none", None)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_D2_shapes_weights_reductions_smoothing(place, functions, shape, soft, smoothing):
    logits, target = inputs(place, shape, soft)
    weight = place.put(np.linspace(0.5, 2.0, classes_of(shape)), place.dtype)
    for reduction, chosen in _reductions_and_weights(weight):
        same_values(place, functions, logits, target, reduction=reduction, weight=chosen, label_smoothing=smoothing)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 5, 2)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [2, 0, -1, -100, 5, 77])
def test_D2_ignore_index_inside_and_outside_the_classes(place, functions, shape, smoothing, ignored):
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


@pytest.mark.parametrize(
    "weight",
    [np.zeros(5), np.array([0.0, 1, 0, 2, 0]), np.array([1.0, np.inf, 1, 1, 1]), np.array([np.nan, 1, 1, 1, 1])],
    ids=["zero", "some-zero", "infinite", "nan"],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_strange_weights(place, functions, weight, smoothing, soft):
    logits, target = inputs(place, (6, 5), soft)
    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "weight": place.put(weight, place.dtype), "label_smoothing": smoothing}
        if np.isfinite(weight).all():
            same_values(place, functions, logits, target, **options)
            continue
        theirs, ours = (run(function, logits, target, **options)[0] for function in functions)
        agree.same(
            place.to_numpy(ours.isnan()).tolist(), place.to_numpy(theirs.isnan()).tolist(), "which losses are NaN"
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["target", "elsewhere", "row", "ignored-row"])
def test_D2_logits_that_are_not_finite(place, functions, smoothing, soft, value, where):
    logits, target = inputs(place, (4, 5), soft)
    at = int(target[2].argmax() if soft else target[2])
    if where == "ignored-row":
        target[2] = 0 if soft else -100
    logits[2, {"target": at, "elsewhere": (at + 1) % 5, "row": slice(None), "ignored-row": 3}[where]] = value
    for reduction in REDUCTIONS:
        same_values(place, functions, logits, target, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_layouts(place, functions, soft):
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
def test_D2_deprecated_arguments(place, functions, deprecated):
    logits, target = inputs(place, (4, 5))
    for reduction in REDUCTIONS:
        same_values(place, functions, logits, target, reduction=reduction, **deprecated)
    theirs, ours = (function(logits, target, None, False, 1, True, "mean", 0.1) for function in functions)
    tolerance = 16 * units.EPS[place.dtype]
    agree.near(place.to_numpy(ours), place.to_numpy(theirs), what="values", rtol=tolerance, by="PyTorch's are")


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int32", "int64", "float64", "float32", "float16", "bfloat16", "bool"]
)
def test_D2_dtypes_of_targets(place, functions, dtype):
    """Accepted by both, or refused by both with the same type of error."""
    torch = place.backend.torch
    logits, target = inputs(place, (4, 5))
    for some in (
        target.to(getattr(torch, dtype)),
        torch.zeros(4, 5, dtype=getattr(torch, dtype), device=logits.device),
    ):
        same_outcome(place, functions, logits, some)
        same_outcome(place, functions, logits, some, label_smoothing=0.1)


INVALID = {
    "target-past-classes": lambda x, t, torch: ((x, t + 5), {}),
    "target-negative": lambda x, t, torch: ((x, t - 6), {}),
    "target-past-classes-smoothed": lambda x, t, torch: ((x, t + 5), {"label_smoothing": 0.1}),
    "target-past-classes-weight": lambda x, t, torch: ((x, t + 5), {"weight": torch.ones(5, dtype=x.dtype)}),
    "target-short": lambda x, t, torch: ((x, t[:2]), {}),
    "target-2d": lambda x, t, torch: ((x, t[:, None]), {}),
    "target-0d": lambda x, t, torch: ((x, t[0]), {}),
    "target-of-one-row": lambda x, t, torch: ((x[0], t), {}),
    "input-0d": lambda x, t, torch: ((x[0, 0], t[0]), {}),
    "input-3d-target-1d": lambda x, t, torch: ((x[..., None], t), {}),
    "weight-short": lambda x, t, torch: ((x, t), {"weight": torch.ones(4, dtype=x.dtype)}),
    "weight-2d": lambda x, t, torch: ((x, t), {"weight": torch.ones(1, 5, dtype=x.dtype)}),
    "weight-integers": lambda x, t, torch: ((x, t), {"weight": torch.ones(5, dtype=torch.int64)}),
    "weight-other-float": lambda x, t, torch: ((x, t), {"weight": torch.ones(5, dtype=torch.float64)}),
    "weight-list": lambda x, t, torch: ((x, t), {"weight": [1.0] * 5}),
    "reduction-word": lambda x, t, torch: ((x, t), {"reduction": "average"}),
    "reduction-none": lambda x, t, torch: ((x, t), {"reduction": None}),
    "smoothing-negative": lambda x, t, torch: ((x, t), {"label_smoothing": -0.1}),
    "smoothing-past-one": lambda x, t, torch: ((x, t), {"label_smoothing": 1.1}),
    "smoothing-text": lambda x, t, torch: ((x, t), {"label_smoothing": "0.1"}),
    "smoothing-integer": lambda x, t, torch: ((x, t), {"label_smoothing": 1}),
    "ignore-index-float": lambda x, t, torch: ((x, t), {"ignore_index": 1.0}),
    "ignore-index-none": lambda x, t, torch: ((x, t), {"ignore_index": None}),
    "ignore-index-bool": lambda x, t, torch: ((x, t), {"ignore_index": True}),
    "soft-with-ignore-index": lambda x, t, torch: ((x, torch.full_like(x, 0.2)), {"ignore_index": 1}),
    "soft-with-integers": lambda x, t, torch: ((x, torch.ones(4, 5, dtype=torch.int64)), {}),
    "soft-other-float": lambda x, t, torch: ((x, torch.full((4, 5), 0.2, dtype=torch.float64)), {}),
    "soft-other-shape": lambda x, t, torch: ((x, torch.full((4, 6), 0.2, dtype=x.dtype)), {}),
    "input-integers": lambda x, t, torch: ((x.long(), t), {}),
    "input-complex": lambda x, t, torch: ((x.to(torch.complex64), t), {}),
    "input-list": lambda x, t, torch: (([[0.0, 1.0]], t), {}),
    "input-none": lambda x, t, torch: ((None, t), {}),
    "input-numpy": lambda x, t, torch: ((np.zeros((4, 5)), t), {}),
    "target-list": lambda x, t, torch: ((x, [0, 1, 2, 3]), {}),
    "target-none": lambda x, t, torch: ((x, None), {}),
    "no-classes": lambda x, t, torch: ((x[:, :0], t), {}),
    "no-classes-no-rows": lambda x, t, torch: ((x[:0, :0], t[:0]), {}),
    "no-classes-soft": lambda x, t, torch: ((x[:, :0], x[:, :0]), {}),
    "unknown-argument": lambda x, t, torch: ((x, t), {"z_loss": 0.1}),
}


@pytest.mark.parametrize("name", INVALID)
def test_D2_invalid_input_fails_as_in_pytorch(place, functions, name):
    logits, target = inputs(place, (4, 5))
    torch = place.backend.torch
    with torch.device(logits.device):
        arguments, options = INVALID[name](logits, target, torch)
        same_outcome(place, functions, *arguments, **options)


def test_D2_positional_arguments_and_signature(place, functions):
    theirs, ours = (inspect.signature(function).parameters.values() for function in functions)
    found, peers = ([(each.name, each.default) for each in of] for of in (ours, theirs))
    agree.same(found, peers, "the parameters")
    logits, target = inputs(place, (4, 5))
    weight = place.put(np.linspace(0.5, 2.0, 5), place.dtype)
    same_outcome(place, functions, logits, target, weight, None, 2, None, "sum", 0.25)
    same_outcome(place, functions, input=logits, target=target, weight=weight)
