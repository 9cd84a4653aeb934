"""Clause D1 in torch: the loss on the autograd graph, any number of times, under every transformation of torch.

Whatever the path, the gradient is the contract's: accurate for confident targets (V1), in rows that sum to zero (V4).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from crossent_conformance import agree, cases, oracle, units
from crossent_conformance.backends import Mode
from crossent_conformance.subject import DoesNotApply

OPTIONS = [
    {},
    {"reduction": "sum", "ignore_index": 1},
    {"reduction": "none", "label_smoothing": 0.1},
    {"label_smoothing": 0.25, "smoothing": "uniform", "class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5])},
    {"reduction": "sequence", "weights": np.array([[0.5, 2.0, 0.0], [1.5, 0.25, 1.0]]), "z_loss": 0.0625},
    {"denominator": "tokens", "weights": np.array([0.5, 2.0, 1.0]), "ignore_index": 0},
    {"algorithm": "explicit", "reduction": "sum"},
]
IDS = ["plain", "ignore", "smoothed", "uniform-classes", "sequence-weights-z", "tokens", "explicit"]
TORCH = ("torch", "torch-cuda")


CONFIDENT = (5.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0)
"""Gaps at which the formula of the loss cancels, and with it the derivative of the formula."""


def has_meaning(place, options, soft):
    """Soft targets have no number to ignore."""
    return not (soft and "ignore_index" in options)


def problem(soft=False):
    """Logits and targets of shape (2, 3) in 5 classes."""
    logits, targets = cases.random((2, 3), 5)
    return cases.eighths(logits), cases.eighths(cases.generator(9).random(logits.shape)) if soft else targets


def placed(place, options):
    """The options with the place's arrays."""
    return {
        name: place.put(value, place.compute_dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }


def _paths(place, subject):
    """Name -> function of logits and targets that gives the gradient of the mean loss of (N, V) logits."""
    torch = place.backend.torch

    def total(x, t):
        return subject.loss(x, t)

    def backward(x, t):
        x = x.detach().requires_grad_()
        total(x, t).backward()
        return x.grad

    def create_graph(x, t):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(total(x, t), x, create_graph=True)[0].detach()

    def retained(x, t):
        x = x.detach().requires_grad_()
        loss = total(x, t)
        first = torch.autograd.grad(loss, x, retain_graph=True)[0]
        second = torch.autograd.grad(loss, x)[0]
        assert torch.equal(first, second)
        return second

    def per_sample(x, t):
        return torch.func.vmap(torch.func.grad(lambda a, b: total(a, b) / len(t)))(x, t)

    def non_leaf(x, t):
        x = x.detach().requires_grad_()
        total(x * 1, t).backward()
        return x.grad

    return {
        "backward": backward,
        "create_graph": create_graph,
        "retained": retained,
        "func.grad": torch.func.grad(total),
        "vmap(grad)": per_sample,
        "jacrev": torch.func.jacrev(total),
        "non-leaf": non_leaf,
    }


PATHS = ("backward", "create_graph", "retained", "func.grad", "vmap(grad)", "jacrev", "non-leaf")


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER, Mode.STRIDED))
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gaps", [cases.MILD_GAPS, CONFIDENT], ids=["mild", "confident"])
def test_D1_every_path_gives_the_contracts_gradient(place, subject, path, gaps):
    logits, targets = cases.gaps(8, gaps)
    logits = place.round(logits)
    agree.to_begin_with(place, subject, logits, targets)
    _, exact = oracle.cross_entropy(logits, targets)
    d_logits = _paths(place, subject)[path](place.put(logits, place.dtype), place.put(targets))
    assert place.backend.dtype_name(d_logits) == place.dtype
    agree.gradient(place, place.to_numpy(d_logits), exact)


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), when=has_meaning)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_backward_with_every_option(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    torch = place.backend.torch
    logits, targets = problem(soft)
    shape = {"none": (2, 3), "sequence": (2,)}.get(options.get("reduction"), ())
    g = np.asarray(cases.generator(4).integers(32, 96, shape) / 64)
    agree.to_begin_with(place, subject, logits, targets, grad_output=g, **options)
    _, exact = oracle.cross_entropy(logits, place.round(targets) if soft else targets, grad_output=g, **options)
    x, t = place.put(logits, place.dtype).requires_grad_(), place.put(targets, place.dtype if soft else None)
    loss = subject.loss(x, t, **placed(place, options))
    assert loss.requires_grad
    loss.backward(place.put(g, place.compute_dtype).to(loss.dtype))
    agree.gradient(place, place.to_numpy(x.grad), exact)
    with torch.no_grad():
        again = subject.loss(x, t, **placed(place, options))
    agree.alike(place, place.to_numpy(again), place.to_numpy(loss))


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float64",), when=has_meaning)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_first_and_second_derivatives_are_differences(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    torch = place.backend.torch
    logits, targets = problem(soft)
    t = place.put(targets, place.dtype if soft else None)
    function = partial(subject.loss, targets=t, **placed(place, options))
    x = place.put(logits, place.dtype).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


@pytest.mark.clause("D1")
@pytest.mark.places(
    backends=TORCH,
    modes=(Mode.EAGER,),
    dtypes=("float64",),
    when=lambda place, of, soft, **_others: soft or of != "soft",
)
@pytest.mark.parametrize("of", ["weights", "class_weights", "soft"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("reduction", ["none", "sequence", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
def test_D1_with_respect_to_other_inputs(place, subject, of, reduction, soft, smoothing):
    agree.serves_soft(place, subject, soft)
    torch = place.backend.torch
    logits, targets = problem(soft)
    x, t = place.put(logits, place.dtype), place.put(targets)
    other = {
        "weights": place.put(np.array([[0.5, 2.0, 1.0], [1.5, 0.25, 1.0]])),
        "class_weights": place.put(np.array([1.0, 0.5, 2.0, 0.25, 1.5])),
        "soft": t,
    }[of].requires_grad_()
    options = {"reduction": reduction, "label_smoothing": smoothing}

    def function(x, other):
        if of == "soft":
            return subject.loss(x, other, **options)
        return subject.loss(x, t, **{of: other}, **options)

    assert torch.autograd.gradcheck(function, (x, other))
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), other))


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float64", "float32"))
def test_D1_hessian(place, subject):
    torch = place.backend.torch
    logits, targets = cases.random((), 6)
    x, t = place.put(logits, place.dtype), place.put(targets)
    reverse = torch.func.jacrev(torch.func.jacrev(lambda a: subject.loss(a, t)))(x)
    p = np.exp(place.round(logits)) / np.exp(place.round(logits)).sum()
    np.testing.assert_allclose(
        place.to_numpy(reverse), np.diag(p) - np.outer(p, p), rtol=0, atol=8 * units.EPS[place.dtype]
    )


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 1}, {"label_smoothing": 0.125}], ids=["plain", "ignore", "smoothed"]
)
def test_D1_vmap_along_any_axis(place, subject, axis, options):
    torch = place.backend.torch
    logits, targets = cases.random((4, 3, 2), 5)
    x, t = place.put(logits, place.dtype), place.put(targets)
    options = {"reduction": "none", **options}
    expected = subject.loss(x, t, **options)
    mapped = torch.func.vmap(lambda a, b: subject.loss(a, b, **options), in_dims=axis, out_dims=axis)(x, t)
    agree.alike(place, place.to_numpy(mapped), place.to_numpy(expected))
    shared = torch.func.vmap(lambda a: subject.loss(a, t[0], **options))(x)
    one_by_one = torch.stack([subject.loss(a, t[0], **options) for a in x])
    agree.alike(place, place.to_numpy(shared), place.to_numpy(one_by_one))


@pytest.mark.clause("D1", "S1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
@pytest.mark.parametrize("path", ["backward", "create_graph", "func.grad", "jacrev"])
def test_D1_what_an_ignored_row_holds_goes_nowhere(place, subject, path):
    logits, targets = cases.random((4,), 5)
    targets = np.where(np.arange(4) % 2 == 1, -100, targets)
    dirty = logits.copy()
    dirty[1], dirty[3, 2] = np.nan, np.inf
    ignoring = type("Ignoring", (), {"loss": staticmethod(partial(subject.loss, ignore_index=-100))})
    gradient = _paths(place, ignoring)[path]
    t = place.put(targets)
    expected = place.to_numpy(gradient(place.put(logits, place.dtype), t))
    _, plain = agree.both(place, subject, dirty, targets, ignore_index=-100)
    if not np.isfinite(plain).all():
        raise DoesNotApply("a gradient that ignores what an ignored row holds to begin with")
    got = place.to_numpy(gradient(place.put(dirty, place.dtype), t))
    agree.alike(place, got, expected)
    assert (got[[1, 3]] == 0).all()
