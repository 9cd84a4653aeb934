"""Clause D1 in torch: the loss on the autograd graph, any number of times, under every transformation of torch.

Whatever the path, the gradient is the contract's: accurate for confident targets (V1), in rows that sum to zero (V4).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from xent_conformance import cases, oracle, units
from xent_conformance.backends import Mode

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


def _problem(soft=False):
    logits, targets = cases.random((2, 3), 5)
    return cases.eighths(logits), cases.eighths(cases.generator(9).random(logits.shape)) if soft else targets


def _placed(place, options):
    return {
        name: place.put(value, place.compute_dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }


def _paths(place, subject):
    """Name -> function of logits and targets that gives the gradient of the sum of the losses of (N, V) logits."""
    torch = place.backend.torch

    def total(x, t):
        return subject.loss(x, t, reduction="sum")

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
        return torch.func.vmap(torch.func.grad(subject.loss))(x, t)

    def non_leaf(x, t):
        x = x.detach().requires_grad_()
        subject.loss(x * 1, t, reduction="none").sum().backward()
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


@pytest.mark.clause("D1", "V1", "V4")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER, Mode.STRIDED))
@pytest.mark.parametrize("path", PATHS)
def test_D1_confident_rows_keep_their_digits(place, subject, path):
    logits, targets = cases.gaps(10, (-20.0, -5.0, 0.0, 5.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0))
    logits = place.round(logits)
    _, exact = oracle.cross_entropy(logits, targets, reduction="sum")
    d_logits = _paths(place, subject)[path](place.put(logits, place.dtype), place.put(targets))
    assert place.backend.dtype_name(d_logits) == place.dtype
    d_logits = place.to_numpy(d_logits)
    units.check(d_logits, exact, place.compute_dtype, stored=place.dtype)
    if place.dtype == place.compute_dtype:
        d_logits = d_logits.astype(np.float64)
        largest = np.abs(d_logits).max(axis=1)
        allowed = np.array([units.allowance(10, size) * size for size in largest]) * units.EPS[place.dtype]
        assert (np.abs(d_logits.sum(axis=1)) <= allowed).all()


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_backward_with_every_option(place, subject, options, soft):
    if soft:
        options = {name: value for name, value in options.items() if name != "ignore_index"}
    torch = place.backend.torch
    logits, targets = _problem(soft)
    shape = {"none": (2, 3), "sequence": (2,)}.get(options.get("reduction"), ())
    g = cases.generator(4).integers(32, 96, shape) / 64
    exact_loss, exact = oracle.cross_entropy(logits, targets, grad_output=g, **options)
    x = place.put(logits, place.dtype).requires_grad_()
    loss = subject.loss(x, place.put(targets, place.dtype if soft else None), **_placed(place, options))
    assert loss.requires_grad
    assert place.backend.dtype_name(loss) == place.compute_dtype
    loss.backward(place.put(g, place.compute_dtype))
    assert x.grad.dtype == x.dtype
    units.check(place.to_numpy(loss), exact_loss, place.compute_dtype)
    units.check(place.to_numpy(x.grad), exact, place.compute_dtype, stored=place.dtype)
    with torch.no_grad():
        again = subject.loss(x, place.put(targets, place.dtype if soft else None), **_placed(place, options))
    np.testing.assert_allclose(place.to_numpy(again), place.to_numpy(loss), rtol=4 * units.EPS[place.compute_dtype])


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float64",))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_first_and_second_derivatives_are_differences(place, subject, options, soft):
    if soft:
        options = {name: value for name, value in options.items() if name != "ignore_index"}
    torch = place.backend.torch
    logits, targets = _problem(soft)
    t = place.put(targets, place.dtype if soft else None)
    function = partial(subject.loss, targets=t, **_placed(place, options))
    x = place.put(logits, place.dtype).requires_grad_()
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float64",))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("reduction", ["none", "sequence", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.125])
def test_D1_with_respect_to_weights_and_soft_targets(place, subject, reduction, soft, smoothing):
    torch = place.backend.torch
    logits, targets = _problem(soft)
    t = place.put(targets, place.dtype if soft else None)
    x, w, u = (
        place.put(values, place.dtype).requires_grad_()
        for values in (logits, np.array([[0.5, 2.0, 1.0], [1.5, 0.25, 1.0]]), np.array([1.0, 0.5, 2.0, 0.25, 1.5]))
    )
    inputs = [x, w, u, t.requires_grad_()] if soft else [x, w, u]

    def function(x, w, u, q=t):
        return subject.loss(x, q, weights=w, class_weights=u, reduction=reduction, label_smoothing=smoothing)

    assert torch.autograd.gradcheck(function, inputs)
    x = x.detach()
    constant = [x, *inputs[1:]]
    assert torch.autograd.gradcheck(function, constant)


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
def test_D1_vmap_along_any_axis(place, subject, axis):
    torch = place.backend.torch
    logits, targets = cases.random((4, 3, 2), 5)
    x, t = place.put(logits, place.dtype), place.put(targets)
    options = {"reduction": "none", "label_smoothing": 0.125, "ignore_index": 1}
    expected = place.to_numpy(subject.loss(x, t, **options))
    mapped = torch.func.vmap(lambda a, b: subject.loss(a, b, **options), in_dims=axis, out_dims=axis)(x, t)
    np.testing.assert_allclose(place.to_numpy(mapped), expected, rtol=4 * units.EPS[place.compute_dtype])
    shared = torch.func.vmap(lambda a: subject.loss(a, t[0], **options))(x)
    one_by_one = torch.stack([subject.loss(a, t[0], **options) for a in x])
    np.testing.assert_allclose(
        place.to_numpy(shared), place.to_numpy(one_by_one), rtol=4 * units.EPS[place.compute_dtype]
    )


@pytest.mark.clause("D1", "S1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
@pytest.mark.parametrize("path", ["backward", "create_graph", "func.grad", "jacrev"])
def test_D1_what_an_ignored_row_holds_goes_nowhere(place, subject, path):
    logits, targets = cases.random((4,), 5)
    targets[1] = targets[3] = -100
    dirty = logits.copy()
    dirty[1], dirty[3, 2] = np.nan, np.inf
    ignoring = type("Ignoring", (), {"loss": staticmethod(partial(subject.loss, ignore_index=-100))})
    gradient = _paths(place, ignoring)[path]
    t = place.put(targets)
    got = place.to_numpy(gradient(place.put(dirty, place.dtype), t))
    expected = place.to_numpy(gradient(place.put(logits, place.dtype), t))
    np.testing.assert_array_equal(got, expected)
    assert (got[[1, 3]] == 0).all()


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,))
def test_D1_nothing_is_recorded_where_nothing_is_asked(place, subject):
    torch = place.backend.torch
    x, t = place.put(_problem()[0], place.dtype).requires_grad_(), place.put(_problem()[1])
    plain = subject.loss(x.detach(), t)
    assert not plain.requires_grad
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            loss = subject.loss(x, t)
        assert not loss.requires_grad
        assert torch.equal(loss, plain)
    loss, d_logits = subject.loss_and_grad(x, t)
    assert not loss.requires_grad
    assert not d_logits.requires_grad
    loss_fn = subject.loss_object()
    loss_fn.forward(x, t)
    assert not loss_fn.backward().requires_grad


@pytest.mark.clause("D1")
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
    torch.testing.assert_close(logits.grad, expected, rtol=4 * units.EPS[place.dtype], atol=0)
    assert layer.weight.grad.dtype == layer.weight.dtype


@pytest.mark.clause("D1", "A2")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_what_is_written_in_between_is_noticed(place, subject):
    logits, targets = cases.random((6,), 5)
    for changed in ("logits", "class_weights", "weights"):
        x, t = place.put(logits, place.dtype) * 1, place.put(targets)
        given = {"class_weights": place.put(np.ones(5), place.dtype), "weights": place.put(np.ones(6), place.dtype)}
        leaf = x.requires_grad_()
        y = leaf * 1
        loss = subject.loss(y, t, **given)
        {"logits": y.detach(), **given}[changed].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    y = leaf * 1
    squares = (y**2).sum()
    subject.loss_and_grad(y.detach(), t, out=y.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squares.backward()


@pytest.mark.clause("D1", "R2")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float64",))
def test_D1_with_respect_to_the_denominator(place, subject):
    torch = place.backend.torch
    x, t = (place.put(a) for a in cases.random((6,), 5))
    denominator = place.put(np.asarray(3.0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: subject.loss(x, t, denominator=d), (denominator,))


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_traced_to_a_graph_it_is_not_a_constant(place, subject):
    from torch.fx.experimental.proxy_tensor import make_fx

    (x, t), (y, u) = ([place.put(a) for a in cases.random((6,), 5, seed=seed)] for seed in (1, 2))
    # make_fx wants a value for every parameter, options too.
    graph = make_fx(lambda x, t: subject.loss(x, t))(x.float(), t)  # noqa: PLW0108
    got, expected = graph(y.float(), u), subject.loss(y.float(), u)
    np.testing.assert_allclose(place.to_numpy(got), place.to_numpy(expected), rtol=1e-6)


@pytest.fixture
def fresh_compiler(place, tmp_path_factory, monkeypatch):
    """A compiler that has seen nothing, with its caches outside the project."""
    torch = place.backend.torch
    cache = tmp_path_factory.getbasetemp() / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    torch.compiler.reset()
    yield torch
    torch.compiler.reset()


def _compiled(torch, function, backend, x, t, dynamic=None, **options):
    """Loss and gradient through the compiled function, compared with nothing yet."""
    compiled = torch.compile(partial(function, **options), fullgraph=True, backend=backend, dynamic=dynamic)
    x = x.detach().requires_grad_()
    loss = compiled(x, t)
    (loss if loss.ndim == 0 else loss.sum()).backward()
    return loss.detach(), x.grad


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ from version to version
def test_D1_compile_for_any_shape(place, subject, fresh_compiler):
    logits, targets = _problem()
    x, t = place.put(logits, place.dtype), place.put(targets)
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 1e-3}):
        loss, d_logits = _compiled(fresh_compiler, subject.loss, "aot_eager", x, t, dynamic=True, **options)
        exact_loss, exact = oracle.cross_entropy(place.round(logits), targets, **options)
        units.check(place.to_numpy(loss), exact_loss, place.compute_dtype)
        units.check(place.to_numpy(d_logits), exact, place.compute_dtype)


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
@pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ from version to version
def test_D1_compile_without_a_graph_break(place, subject, options, fresh_compiler):
    torch = fresh_compiler
    logits, targets = _problem()
    placed = _placed(place, options)
    x, t = place.put(logits, place.dtype), place.put(targets)
    loss, d_logits = _compiled(torch, subject.loss, "aot_eager", x, t, **placed)
    summed = {**options, "grad_output": np.ones({"none": (2, 3), "sequence": (2,)}.get(options.get("reduction"), ()))}
    exact_loss, exact = oracle.cross_entropy(logits, targets, **summed)
    units.check(place.to_numpy(loss), exact_loss, place.compute_dtype)
    units.check(place.to_numpy(d_logits), exact, place.compute_dtype, stored=place.dtype)


@pytest.mark.clause("D1", "V1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")
def test_D1_compiled_confident_rows(place, subject, fresh_compiler, backend):
    logits, targets = cases.gaps(10, (-20.0, 0.0, 5.0, 10.0, 15.0, 17.0, 20.0, 40.0))
    exact_loss, exact = oracle.cross_entropy(logits, targets, reduction="sum")
    x, t = place.put(logits, place.dtype), place.put(targets)
    loss, d_logits = _compiled(fresh_compiler, subject.loss, backend, x, t, reduction="sum")
    units.check(place.to_numpy(loss), exact_loss, place.compute_dtype)
    units.check(place.to_numpy(d_logits), exact, place.compute_dtype)


@pytest.mark.clause("D1")
@pytest.mark.places(backends=TORCH, modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.filterwarnings("ignore")
def test_D1_compiled_loss_and_grad(place, subject, fresh_compiler):
    x, t = place.put(_problem()[0], place.dtype), place.put(_problem()[1])
    compiled = fresh_compiler.compile(subject.loss_and_grad, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(x, t), subject.loss_and_grad(x, t), strict=True):
        np.testing.assert_allclose(place.to_numpy(got), place.to_numpy(expected), rtol=1e-6)
