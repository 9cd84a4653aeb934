"""Clause D2 for what PyTorch refuses, or takes only in part: the same errors, dtypes and signature."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance.backends import Mode
from crossent_conformance.drop_in import Both, inputs, same_outcome

pytestmark = [
    pytest.mark.clause("D2"),
    pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,)),
    pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning"),
]


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int32", "int64", "float64", "float32", "float16", "bfloat16", "bool"]
)
def test_D2_dtypes_of_targets(place, subject, dtype):
    """Accepted by both, or refused by both with the same type of error."""
    functions = Both(place, subject)
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
def test_D2_invalid_input_fails_as_in_pytorch(place, subject, name):
    functions = Both(place, subject)
    logits, target = inputs(place, (4, 5))
    torch = place.backend.torch
    with torch.device(logits.device):
        arguments, options = INVALID[name](logits, target, torch)
        same_outcome(place, functions, *arguments, **options)


def test_D2_positional_arguments_and_signature(place, subject):
    functions = Both(place, subject)
    import inspect

    assert list(inspect.signature(functions[1]).parameters) == list(inspect.signature(functions[0]).parameters)
    defaults = [parameter.default for parameter in inspect.signature(functions[0]).parameters.values()]
    assert [parameter.default for parameter in inspect.signature(functions[1]).parameters.values()] == defaults
    logits, target = inputs(place, (4, 5))
    weight = place.put(np.linspace(0.5, 2.0, 5), place.dtype)
    same_outcome(place, functions, logits, target, weight, None, 2, None, "sum", 0.25)
    same_outcome(place, functions, input=logits, target=target, weight=weight)
