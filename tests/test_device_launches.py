"""What a call on a device costs besides the walk of the logits: operations that launch a kernel, and memory.

Host memory is taken for a device's, and an engine of our own stands in for the device's: it walks the logits where
nobody counts.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

import crossent
from crossent import arrays, checks, choice
from crossent.engines import ENGINES, array_api

torch = pytest.importorskip("torch")
python_dispatch = pytest.importorskip("torch.utils._python_dispatch")

# What only makes a view or memory, and reads.
NO_LAUNCH = {"alias", "detach", "select", "slice", "view", "_unsafe_view", "expand", "unsqueeze", "lift_fresh"}
NO_LAUNCH |= {"empty", "empty_like", "new_empty", "_local_scalar_dense"}


class Launches(python_dispatch.TorchDispatchMode):
    """The names of the operations that launch a kernel."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name not in NO_LAUNCH:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def walks(monkeypatch):
    """Take host memory for that of a device with a compiled engine; the walks that it is asked for."""
    seen = []
    in_host = array_api._walk_host

    def run(xp, rows, losses, scale=1.0, out=None):
        seen.append("losses" if out is None else "gradient")
        bad = (rows.targets < 0) | (rows.targets >= rows.logits.shape[1])
        if rows.weight is not None:
            bad &= rows.weight != 0
        safe = rows._replace(targets=torch.where((rows.targets < 0) | bad, 0, rows.targets))
        with python_dispatch._disable_current_modes():
            in_host(*array_api.in_host(safe, losses, scale, out))
            losses.masked_fill_(bad, math.nan)
            if out is not None:
                out.masked_fill_(bad[:, None], math.nan)

    def stand_in(xp, rows, losses, scale=1.0, out=None):
        with python_dispatch._disable_current_modes():
            run(xp, rows, losses, scale, out)

    monkeypatch.setattr(arrays, "is_host_memory", lambda _: False)
    monkeypatch.setattr(
        choice, "obstacle", lambda name, _logits, _coefficients: "busy" if name == "array_api" else None
    )
    monkeypatch.setattr(choice, "engine", lambda _: SimpleNamespace(run=stand_in))
    return seen


def _inputs(n=6, v=9, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(n, v, generator=generator).to(dtype)
    return x.requires_grad_(), torch.randint(v, (n,), generator=generator)


def _launches(x, t, **options):
    with Launches() as forward:
        loss = crossent.cross_entropy(x, t, **options)
    with Launches() as backward:
        loss.backward(torch.ones_like(loss))
    return forward.names, [name for name in backward.names if name != "ones_like"]


# Besides the walk, forward and backward.
COUNTS = {
    "mean": ({}, ["aminmax", "sum", "div"], ["div"]),
    "mean-unchecked": ({"check_targets": False}, ["sum", "div"], ["div"]),
    "sum-unchecked": ({"check_targets": False, "reduction": "sum"}, ["sum", "_to_copy"], ["_to_copy"]),
    "denominator": ({"denominator": 3.0}, ["aminmax", "sum", "div"], ["div"]),
    "ignore": (
        {"ignore_index": -100},
        ["ne", "mul", "aminmax", "_to_copy", "sum", "clamp_min", "sum", "div"],
        ["div"],
    ),
    "smoothed": ({"label_smoothing": 0.1, "z_loss": 1e-4}, ["aminmax", "sum", "div"], ["div"]),
}


@pytest.mark.clause("A6")
@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_launches_besides_the_walk(walks, name, dtype):
    options, forward, backward = COUNTS[name]
    x, t = _inputs(dtype=dtype)
    assert _launches(x, t, **options) == (forward, backward)
    assert walks == ["losses", "gradient"]


@pytest.mark.clause("A6")
def test_the_launches_of_pytorchs_own_signature(walks):
    from crossent.torch import cross_entropy

    x, t = _inputs()
    with Launches() as launches:
        cross_entropy(x, t)
    # Two of them keep an ignored row's NaN out of the sum.
    masked = ["scalar_tensor", "where"]
    assert launches.names == ["ne", "mul", "aminmax", "_to_copy", "sum", *masked, "sum", "div"]


@pytest.mark.clause("A6")
def test_the_gradient_outside_the_graph_is_one_walk(walks):
    x, t = _inputs()
    with Launches() as launches:
        crossent.cross_entropy_and_grad(x.detach(), t, check_targets=False)
    assert launches.names == ["sum", "div"]
    assert walks == ["gradient"]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 3}, {"reduction": "none", "label_smoothing": 0.1}], ids=str)
def test_loss_and_gradient_are_those_of_host_memory(request, check, options):
    x, t = _inputs(dtype=torch.float64)
    expected = crossent.cross_entropy(x, t, engine="array_api", **options)
    grad = torch.linspace(1, 2, 6, dtype=x.dtype) if expected.ndim else torch.tensor(0.25, dtype=x.dtype)
    expected_grad = torch.autograd.grad(expected, x, grad)[0]
    request.getfixturevalue("walks")
    loss = crossent.cross_entropy(x, t, check_targets=check, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, x, grad)[0], expected_grad, rtol=1e-14, atol=1e-17)


@pytest.mark.clause("A4")
@pytest.mark.parametrize("engine", [name for name in ENGINES if choice.compiled("cpu", name) or name == "array_api"])
@pytest.mark.parametrize("ignore_index", [None, -100])
def test_A4_an_unchecked_target_is_the_same_to_every_engine(engine, ignore_index):
    x, t = _inputs()
    t[1], t[4] = 9, -2
    options = {"check_targets": False, "ignore_index": ignore_index, "engine": engine}
    loss, d_logits = crossent.cross_entropy_and_grad(x.detach(), t, **options)
    assert loss.isnan()
    assert d_logits.isnan().sum(1).tolist() == [0, 9, 0, 0, 9, 0]
    loss, d_logits = crossent.cross_entropy_and_grad(x.detach(), t, class_weights=torch.ones(9), **options)
    assert loss.isnan()
    assert d_logits.isnan().all()


@pytest.mark.clause("A4")
@pytest.mark.parametrize("ignore_index", [None, -100])
def test_A4_the_row_of_an_unchecked_target_is_nan_and_no_other(walks, ignore_index):
    x, t = _inputs()
    t[1], t[4] = 9, -2
    loss = crossent.cross_entropy(x, t, check_targets=False, ignore_index=ignore_index)
    loss.backward()
    assert loss.isnan()
    assert x.grad.isnan().all(1).tolist() == [False, True, False, False, True, False]
    assert x.grad.isnan().any(1).tolist() == [False, True, False, False, True, False]


@pytest.mark.clause("A4")
@pytest.mark.parametrize(
    ("bad", "ignore_index", "named"),
    [
        ({3: 9}, None, r"targets\[3\] is 9"),
        ({3: 10, 5: -1}, None, r"targets\[3\] is 10"),
        ({2: -5, 4: 9}, None, r"targets\[2\] is -5"),
        ({1: -100, 4: -1}, -100, r"targets\[4\] is -1"),
        ({1: 50, 5: 51}, 50, r"targets\[5\] is 51"),
    ],
)
def test_A4_the_first_offender_is_named(walks, bad, ignore_index, named):
    x, t = _inputs()
    for place, value in bad.items():
        t[place] = value
    with pytest.raises(IndexError, match=named):
        crossent.cross_entropy(x, t, ignore_index=ignore_index)
    assert not walks


@pytest.mark.clause("A10")
def test_A10_the_graph_keeps_the_inputs_and_little_else(walks):
    x, t = _inputs(64, 500)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        loss = crossent.cross_entropy(x, t)
    assert [saved.data_ptr() for saved in kept] == [x.data_ptr(), t.data_ptr()]
    held = loss.grad_fn.call
    assert held.logits is held.targets is None
    assert held.tokens.classes.data_ptr() == t.data_ptr()


@pytest.mark.clause("D1")
def test_D1_what_is_written_in_between_is_noticed(walks):
    x, t = _inputs()
    loss = crossent.cross_entropy(x, t)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.clause("D1")
def test_D1_a_gradient_to_be_differentiated_is_the_formulas(walks):
    x, t = _inputs(dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: crossent.cross_entropy(x, t), (x,))


def test_a_check_in_a_captured_graph_is_refused(walks, monkeypatch):
    from crossent.torch import cross_entropy

    x, t = _inputs()
    monkeypatch.setattr(arrays, "is_captured", lambda _: True)
    monkeypatch.setattr(checks, "is_captured", lambda _: True)
    for call in (crossent.cross_entropy, crossent.cross_entropy_and_grad):
        with pytest.raises(RuntimeError, match=r"while a CUDA graph is captured.*accepted: check_targets=False"):
            call(x, t)
    assert not walks
    with Launches() as launches:
        crossent.cross_entropy(x, t, check_targets=False).backward()
        cross_entropy(x, t).backward()
    assert "_local_scalar_dense" not in launches.names
    assert "aminmax" not in launches.names


def test_who_is_asked_whether_a_graph_is_captured(monkeypatch):
    capturing = [True]
    tensor = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(arrays, "is_torch", lambda x: x is tensor)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    assert arrays.is_captured(tensor)
    capturing[0] = False
    assert not arrays.is_captured(tensor)

    class ndarray:  # noqa: N801
        device = SimpleNamespace(id=1)

    # One stream of each device; only that of the array's own may be captured.
    streams = [SimpleNamespace(is_capturing=lambda: False), SimpleNamespace(is_capturing=lambda: capturing[0])]
    cupy = SimpleNamespace(ndarray=ndarray, cuda=SimpleNamespace(get_current_stream=lambda number: streams[number]))
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    assert not arrays.is_captured(ndarray())
    capturing[0] = True
    assert arrays.is_captured(ndarray())
    assert not arrays.is_captured(torch.zeros(1))
