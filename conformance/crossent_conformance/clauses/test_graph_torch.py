"""Clause D1 in torch: what is on the autograd graph, what is not, and what the graph knows of its tensors."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases
from crossent_conformance.backends import Mode
from crossent_conformance.clauses.test_derivatives import TORCH


@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
def test_D1_nothing_is_recorded_where_nothing_is_asked(place, subject):
    torch = place.backend.torch
    x, t = place.pair(*cases.small())
    x.requires_grad_()
    assert subject.loss(x, t).requires_grad, "the loss is on no graph"
    plain = subject.loss(x.detach(), t)
    assert not plain.requires_grad, "the loss of logits that are on no graph is on one"
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = subject.loss(x, t)
        assert not loss.requires_grad, "the loss is on a graph, where none is recorded"
        agree.alike(place, loss, plain)


@pytest.mark.clause("D1", "A9")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
@pytest.mark.parametrize("by", ["function", "object"])
def test_D1_a_gradient_that_comes_back_is_on_no_graph(place, subject, by):
    x, t = place.pair(*cases.small())
    x.requires_grad_()
    if by == "function":
        loss, d_logits = subject.loss_and_grad(x, t)
        assert not loss.requires_grad, "the loss is on a graph, where none is recorded"
    else:
        loss_fn = subject.loss_object()
        loss_fn.forward(x, t)
        d_logits = loss_fn.backward()
    assert not d_logits.requires_grad, "the gradient of loss_and_grad is on a graph"


@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
def test_D1_the_graph_reaches_parameters(place, subject):
    torch = place.backend.torch
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 5, dtype=getattr(torch, place.dtype), device=place.backend.device)
    h = place.put(cases.random((6,), 4)[0], place.dtype)
    t = place.put(cases.random((6,), 5)[1])
    logits = layer(h)
    logits.retain_grad()
    subject.loss(logits, t).backward()
    expected = subject.loss_and_grad(logits.detach(), t)[1]
    agree.alike(place, logits.grad, expected)
    agree.same(layer.weight.grad.dtype, layer.weight.dtype, "the dtype of the layer's gradient")


@pytest.mark.clause("D1", "A2")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("changed", ["logits", "weights", "class_weights"])
def test_D1_what_is_written_in_between_is_noticed(place, subject, changed):
    """The gradient is that of the values that the loss had, or there is none."""
    logits, targets = cases.random((6,), 5)
    leaf, t = place.put(logits, place.dtype).requires_grad_(), place.put(targets)
    given = {
        "weights": {"weights": place.put(np.linspace(0.5, 2.0, 6), place.dtype)},
        "class_weights": {"class_weights": place.put(np.linspace(0.5, 2.0, 5), place.dtype)},
    }.get(changed, {})
    expected = subject.loss_and_grad(leaf.detach(), t, **given)[1]
    y = leaf * 1
    loss = subject.loss(y, t, **given)
    (y.detach() if changed == "logits" else given[changed]).mul_(2)
    try:
        loss.backward()
    except RuntimeError:
        return
    agree.alike(place, leaf.grad, expected)


@pytest.mark.clause("D1", "A2")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_torch_knows_what_out_overwrote(place, subject):
    logits, targets = cases.random((6,), 5)
    y = place.put(logits, place.dtype).requires_grad_() * 1
    squares = (y**2).sum()
    subject.loss_and_grad(y.detach(), place.put(targets), out=y.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()


@pytest.mark.clause("D1", "R2")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float64",))
def test_D1_with_respect_to_the_denominator(place, subject):
    torch = place.backend.torch
    x, t = (place.put(array) for array in cases.random((6,), 5))
    denominator = place.put(np.asarray(3.0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: subject.loss(x, t, denominator=d), (denominator,)), (
        "gradcheck of the denominator"
    )


@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_traced_to_a_graph_it_is_not_a_constant(place, subject):
    from torch.fx.experimental.proxy_tensor import make_fx

    (x, t), (y, u) = ([place.put(a) for a in cases.random((6,), 5, seed=seed)] for seed in (1, 2))
    # make_fx wants a value for every parameter, options too.
    graph = make_fx(lambda x, t: subject.loss(x, t))(x.float(), t)  # noqa: PLW0108
    got, expected = graph(y.float(), u), subject.loss(y.float(), u)
    agree.alike(place, got, expected)
