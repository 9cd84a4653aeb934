"""Clause D2 where PyTorch is more than strided tensors: modules, transformations, sparse and meta tensors, tracing."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from crossent_conformance import agree, units
from crossent_conformance.backends import Mode
from crossent_conformance.clauses.test_torch_drop_in import REDUCTIONS
from crossent_conformance.drop_in import Both, inputs, run, same_values

pytestmark = [
    pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,)),
    pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning"),
]


@pytest.fixture
def functions(place, subject):
    return Both(place, subject)


@pytest.mark.parametrize("name", ["weight", "soft target"])
def test_D2_gradients_of_the_other_tensors(place, functions, name):
    """A weight that requires grad is refused by both; soft targets get PyTorch's gradient."""
    torch = place.backend.torch
    logits, target = inputs(place, (4, 5), soft=name != "weight")
    results = []
    for function in functions:
        other = torch.ones(5, dtype=logits.dtype, device=logits.device) if name == "weight" else target.clone()
        other.requires_grad_()
        try:
            loss = function(logits, target, other) if name == "weight" else function(logits, other, label_smoothing=0.1)
            loss.backward()
            results.append(place.to_numpy(other.grad))
        except RuntimeError as error:
            results.append(type(error))
    if isinstance(results[0], type):
        assert results[0] is results[1], f"{results[0]!r}, where PyTorch has {results[1]!r}"
    else:
        tolerance = 32 * units.EPS[place.dtype]
        agree.near(results[1], results[0], what="values", rtol=tolerance, atol=tolerance)


def _total(function, reduction, logits, target):
    return function(logits, target, label_smoothing=0.1, reduction=reduction).sum()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_transformations(place, functions, soft):
    torch = place.backend.torch
    logits, target = inputs(place, (3, 5), soft)
    logits, target = torch.stack([logits, -logits]), torch.stack([target, target.flip(0)])
    tolerance = 32 * units.EPS[place.dtype]
    for reduction in REDUCTIONS:
        theirs, ours = (
            torch.func.vmap(torch.func.grad(partial(_total, function, reduction)))(logits, target)
            for function in functions
        )
        agree.near(place.to_numpy(ours), place.to_numpy(theirs), what="values", rtol=tolerance, atol=tolerance)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float64",))
def test_D2_second_derivatives(place, functions):
    logits, target = inputs(place, (3, 5))
    torch = place.backend.torch
    _, ours = functions
    assert torch.autograd.gradgradcheck(lambda x: ours(x, target, label_smoothing=0.1), (logits.requires_grad_(),)), (
        "gradgradcheck does not hold"
    )


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32",))
def test_D2_autocast(place, functions):
    torch = place.backend.torch
    logits, target = inputs(place, (3, 5))
    for x in (logits, logits.bfloat16(), logits.double()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs, ours = (function(x, target) for function in functions)
        agree.same(ours.dtype, theirs.dtype, "the dtype")
        agree.near(place.to_numpy(ours), place.to_numpy(theirs), what="values", rtol=1e-2)


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.filterwarnings("ignore")
def test_D2_compiles_without_a_graph_break(place, functions):
    torch = place.backend.torch
    torch.compiler.reset()
    logits, target = inputs(place, (3, 5, 2))
    theirs, ours = functions
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    same_values(place, (theirs, compiled), logits, target, ignore_index=1, label_smoothing=0.1)
    torch.compiler.reset()


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "none", "ignore_index": 1},
        {"label_smoothing": 0.1, "reduction": "sum"},
        {"weight": np.array([1.0, 0.5, 2.0, 0.25, 1.5])},
        {"size_average": False},
    ],
    ids=["plain", "none", "smoothed", "weight", "deprecated"],
)
def test_D2_the_module(place, subject, options):
    torch = place.backend.torch
    options = {k: place.put(v, place.dtype) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    modules = torch.nn.CrossEntropyLoss(**options), subject.drop_in_module(**options)
    assert isinstance(modules[1], torch.nn.Module), f"{type(modules[1]).__name__} is no torch.nn.Module"
    agree.same(repr(modules[1]), repr(modules[0]), "the text of the module")
    agree.same(modules[1].state_dict().keys(), modules[0].state_dict().keys(), "what the module's state names")
    logits, target = inputs(place, (3, 5, 2))
    same_values(place, modules, logits, target)
    again = pickle.loads(pickle.dumps(modules[1]))
    assert torch.equal(again(logits, target), modules[1](logits, target)), "a copy gives another loss"
    modules[1].load_state_dict(modules[0].state_dict())


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
        agree.same(type(ours), type(theirs), "the type")
        agree.near(place.to_numpy(ours), place.to_numpy(theirs), what="values", rtol=2e-6, atol=1e-7)
    theirs, ours = (function(logits.to("meta"), target.to("meta")) for function in functions)
    found, peers = ((each.device, each.shape, each.dtype) for each in (ours, theirs))
    agree.same(found, peers, "device, shape and dtype")


def _tangent(torch, function, logits, target):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(logits, logits.sin())
        return torch.autograd.forward_ad.unpack_dual(function(dual, target)).tangent


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
def test_D2_the_gradient_lies_as_the_input_does(place, subject):
    logits, target = inputs(place, (2, 5, 3))
    theirs, ours = (run(function, logits, target)[1] for function in Both(place, subject))
    agree.same(ours.stride(), theirs.stride(), "the strides")
