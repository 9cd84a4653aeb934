"""Clause D2 where PyTorch is more than strided tensors: sparse and meta tensors, subclasses, tracing, dual numbers."""

from __future__ import annotations

import numpy as np
import pytest

from xent_conformance.backends import Mode
from xent_conformance.clauses.test_torch_drop_in import _inputs as inputs

pytestmark = pytest.mark.clause("D2")


@pytest.fixture
def functions(place):
    """The peer's function and ours."""
    from xent import torch as ours

    return place.backend.torch.nn.functional.cross_entropy, ours.cross_entropy


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_D2_inputs_out_of_the_ordinary(place, functions):
    torch = place.backend.torch
    logits, target = inputs(place, (3, 5))
    soft = logits.softmax(1)
    other = type("Other", (torch.Tensor,), {})
    for call in (
        lambda f: f(logits, soft.to_sparse()),
        lambda f: f(logits, target, label_smoothing=True),
        lambda f: f(logits.as_subclass(other), target),
        lambda f: torch.jit.trace(f, (logits, target), check_trace=False)(logits * 2, target),
        lambda f: _tangent(torch, f, logits, target),
    ):
        theirs, ours = (call(function) for function in functions)
        assert type(ours) is type(theirs)
        np.testing.assert_allclose(place.to_numpy(ours), place.to_numpy(theirs), rtol=2e-6, atol=1e-7)
    theirs, ours = (function(logits.to("meta"), target.to("meta")) for function in functions)
    assert (ours.device, ours.shape, ours.dtype) == (theirs.device, theirs.shape, theirs.dtype)


def _tangent(torch, function, logits, target):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, logits.sin())
        return torch.autograd.forward_ad.unpack_dual(function(dual, target)).tangent


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
def test_D2_the_gradient_lies_as_the_input_does(place, functions):
    logits, target = inputs(place, (2, 5, 3))
    x = logits.clone().requires_grad_()
    functions[1](x, target).backward()
    assert x.grad.is_contiguous()
