"""A call on a device's memory, on a machine without one: torch's CPU tensors are taken for a device's.

What a device does to CuPy arrays and CUDA tensors is the same code as here. Where no engine compiles for its memory
(`device`), the array-API engine walks it as it walks a device's; where one does (`walks`), a stand-in walks unseen, and
what is counted is what a call costs besides: operations that launch a kernel, and memory.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

import crossent
from crossent.engines import array_api, select
from crossent.libraries import NUMPY

torch = pytest.importorskip("torch")
from tests.torch_operations import Operations  # noqa: E402
from torch.utils._python_dispatch import _disable_current_modes  # noqa: E402

from crossent.libraries.torch import formula  # noqa: E402
from crossent.libraries.torch.library import AS_NUMPY, TORCH  # noqa: E402
from crossent.libraries.torch.tensors import Torch  # noqa: E402

OPTIONS = {
    "plain": {},
    "ignore": {"reduction": "none", "ignore_index": 1},
    "smoothed-classes": {"label_smoothing": 0.1, "class_weights": torch.linspace(0, 2, 11)},
    "tokens-z": {"weights": torch.linspace(0, 2, 9), "z_loss": 0.01, "denominator": "tokens"},
    "explicit": {"algorithm": "explicit", "reduction": "sum"},
    "uniform-sequence": {"smoothing": "uniform", "label_smoothing": 0.25, "reduction": "sequence"},
}
EVERY_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
HARD_AND_SOFT = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
MORE = [pytest.param(dtype, marks=pytest.mark.extended) for dtype in (torch.float64, torch.float16, torch.bfloat16)]
IGNORING = pytest.mark.parametrize("ignore_index", [None, -100])


@pytest.fixture
def device(monkeypatch):
    """Take host memory for a device's that no engine compiles for, in blocks of a row or of a size in bytes."""

    def take(block=64):
        monkeypatch.setattr(Torch, "memory_of", lambda self, device: ("", 0))
        monkeypatch.setattr(array_api, "DEVICE_BLOCK", block)

    return take


def _walk_unseen(library, rows, losses, scale, out):
    with _disable_current_modes():
        bad = (rows.targets < 0) | (rows.targets >= rows.vocabulary)
        if rows.weight is not None:
            bad &= rows.weight != 0
        rows = formula.entered(AS_NUMPY, rows._replace(targets=torch.where(bad | (rows.targets < 0), 0, rows.targets)))
        d = None if out is None else AS_NUMPY.enter_matrix(out)
        rows = rows._replace(dtype=AS_NUMPY.enter(losses).dtype)
        array_api.walk(NUMPY, rows, AS_NUMPY.enter(losses), AS_NUMPY.enter(scale), d)
        losses.masked_fill_(bad, math.nan)
        if out is not None:
            out.masked_fill_(bad[:, None], math.nan)


@pytest.fixture
def walks(monkeypatch):
    """Take host memory for that of a device with a compiled engine; the walks that it is asked for."""
    seen = []

    def walk(library, rows, losses, scale, out):
        seen.append("losses" if out is None else "gradient")
        _walk_unseen(library, rows, losses, scale, out)

    monkeypatch.setattr(Torch, "memory_of", lambda self, device: ("cuda", 0))
    monkeypatch.setattr(select, "best", lambda *kind: "cuda")
    monkeypatch.setattr(select, "engine", lambda _: SimpleNamespace(walk=walk))
    return seen


def _inputs(dtype=torch.float32, soft=False, shape=(4, 9, 11)):
    generator = torch.Generator().manual_seed(7)
    x = (3 * torch.randn(shape, generator=generator)).to(dtype)
    if soft:
        return x, torch.rand(shape, generator=generator).to(dtype)
    t = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    if len(shape) == 3:
        x[0, 0, 3], t[0, 0] = -torch.inf, 5
    return x, t


def _followed(dtype=torch.float32, shape=(6, 9)):
    x, t = _inputs(dtype, shape=shape)
    return x.requires_grad_(), t


def _options(options, dtype, soft=False):
    if dtype == torch.float64:
        options = {k: x.double() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    return {k: x for k, x in options.items() if not (soft and k == "ignore_index")}


def _tolerance(dtype):
    return 32 * torch.finfo(dtype).eps


# --- the array-API engine walks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, *MORE], ids=str)
@HARD_AND_SOFT
@EVERY_OPTION
@pytest.mark.parametrize("block", [1 << 27, 64], ids=["one-block", "small-blocks"])
def test_the_same_as_host_memory(device, dtype, soft, options, block):
    options = _options(options, dtype, soft)
    x, t = _inputs(dtype, soft)
    expected = crossent.cross_entropy_and_grad(x, t, **options)
    device(block)
    before = x.clone()
    loss, d_logits = crossent.cross_entropy_and_grad(x, t, **options)
    torch.testing.assert_close(loss, expected[0], rtol=_tolerance(loss.dtype), atol=0)
    torch.testing.assert_close(d_logits, expected[1], rtol=_tolerance(dtype), atol=_tolerance(dtype) / 16)
    torch.testing.assert_close(crossent.cross_entropy(x, t, **options), loss, rtol=0, atol=0)
    assert torch.equal(x, before)


OUTS = {
    "own": lambda x: x,
    "apart": lambda x: torch.full_like(x, 7),
    "strided": lambda x: torch.full((8, 9, 22), 7.0, dtype=x.dtype)[::2, :, ::2],
    "transposed": lambda x: torch.full((9, 11, 4), 7.0, dtype=x.dtype).permute(2, 0, 1),
}


@BOTH
@pytest.mark.parametrize("make", OUTS.values(), ids=OUTS)
@EVERY_OPTION
def test_out(device, dtype, make, options):
    device()
    x, t = _inputs(dtype)
    expected = crossent.cross_entropy_and_grad(x, t, **options)
    out = make(x)
    loss, d_logits = crossent.cross_entropy_and_grad(x, t, out, **options)
    assert d_logits is out
    torch.testing.assert_close(loss, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(d_logits, expected[1], rtol=0, atol=0)


@pytest.mark.clause("A6")
@BOTH
@HARD_AND_SOFT
@EVERY_OPTION
def test_A6_nothing_waits_without_the_check(device, dtype, soft, options):
    device()
    options = {**_options(options, dtype, soft), "check_targets": False}
    x, t = _inputs(dtype, soft)
    with Operations() as operations:
        crossent.cross_entropy(x.clone().requires_grad_(), t, **options).sum().backward()
        crossent.cross_entropy(x, t, **options)
        crossent.cross_entropy_and_grad(x, t, **options)
        crossent.cross_entropy_and_grad(x, t, x, **options)
    assert operations.names
    assert not operations.waits


@pytest.mark.clause("A6")
@EVERY_OPTION
def test_A6_the_check_waits_once(device, options):
    device()
    x, t = _inputs()
    with Operations() as operations:
        crossent.cross_entropy_and_grad(x, t, **options)
    assert len(operations.waits) == 1


@pytest.mark.clause("S1", "S4")
@BOTH
def test_S4_special_rows(device, dtype):
    x, t = _inputs(dtype)
    x[1, 2, 4], x[1, 3, 0], x[2, 0], x[3, 1, 5] = torch.nan, torch.inf, -torch.inf, torch.nan
    t[3, 1] = -100
    expected = crossent.cross_entropy_and_grad(x, t, ignore_index=-100, reduction="none")
    device()
    got = crossent.cross_entropy_and_grad(x, t, ignore_index=-100, reduction="none")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=_tolerance(dtype), atol=_tolerance(dtype), equal_nan=True)
    assert torch.isnan(got[0]).sum() == 3
    assert (got[1][3, 1] == 0).all()


# --- a compiled engine walks ------------------------------------------------------------------------------------------

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
@pytest.mark.parametrize(("options", "forward", "backward"), COUNTS.values(), ids=COUNTS)
@BOTH
def test_the_launches_besides_the_walk(walks, options, forward, backward, dtype):
    x, t = _followed(dtype)
    with Operations() as one:
        loss = crossent.cross_entropy(x, t, **options)
    with Operations() as two:
        loss.backward(torch.ones_like(loss))
    assert one.launches == forward
    assert [name for name in two.launches if name != "ones_like"] == backward
    assert walks == ["losses", "gradient"]


@pytest.mark.clause("A6")
def test_the_launches_of_pytorchs_own_signature(walks):
    from crossent.torch import cross_entropy

    x, t = _followed()
    with Operations() as operations:
        cross_entropy(x, t)
    # Two of them keep an ignored row's NaN out of the sum.
    masked = ["scalar_tensor", "where"]
    assert operations.launches == ["ne", "mul", "aminmax", "_to_copy", "sum", *masked, "sum", "div"]


@pytest.mark.clause("A6")
def test_the_gradient_outside_the_graph_is_one_walk(walks):
    x, t = _inputs()
    with Operations() as operations:
        crossent.cross_entropy_and_grad(x, t, check_targets=False)
    assert operations.launches == ["sum", "div"]
    assert walks == ["gradient"]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 3}, {"reduction": "none", "label_smoothing": 0.1}], ids=str)
def test_loss_and_gradient_are_those_of_host_memory(request, check, options):
    x, t = _followed(torch.float64)
    expected = crossent.cross_entropy(x, t, engine="array_api", **options)
    grad = torch.linspace(1, 2, 6, dtype=x.dtype) if expected.ndim else torch.tensor(0.25, dtype=x.dtype)
    expected_grad = torch.autograd.grad(expected, x, grad)[0]
    request.getfixturevalue("walks")
    loss = crossent.cross_entropy(x, t, check_targets=check, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, x, grad)[0], expected_grad, rtol=1e-14, atol=1e-17)


@pytest.mark.clause("A4")
@IGNORING
@pytest.mark.parametrize("engine", ["array_api", "numba"])
def test_A4_an_unchecked_target_is_the_same_to_every_engine(engine, ignore_index):
    if engine == "numba" and select.numba_problem():
        pytest.skip("Numba is not here; CROSSENT_REQUIRE_ENGINES makes that a failure")
    x, t = _inputs(shape=(6, 9))
    t[1], t[4] = 9, -2
    options = {"check_targets": False, "ignore_index": ignore_index, "engine": engine}
    loss, d_logits = crossent.cross_entropy_and_grad(x, t, **options)
    assert loss.isnan()
    assert d_logits.isnan().sum(1).tolist() == [0, 9, 0, 0, 9, 0]
    loss, d_logits = crossent.cross_entropy_and_grad(x, t, class_weights=torch.ones(9), **options)
    assert loss.isnan()
    assert d_logits.isnan().all()


@pytest.mark.clause("A4")
@IGNORING
def test_A4_the_row_of_an_unchecked_target_is_nan_and_no_other(walks, ignore_index):
    x, t = _followed()
    t[1], t[4] = 9, -2
    loss = crossent.cross_entropy(x, t, check_targets=False, ignore_index=ignore_index)
    loss.backward()
    assert loss.isnan()
    assert x.grad.isnan().sum(1).tolist() == [0, 9, 0, 0, 9, 0]


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
    x, t = _followed()
    for place, value in bad.items():
        t[place] = value
    with pytest.raises(IndexError, match=named):
        crossent.cross_entropy(x, t, ignore_index=ignore_index)
    assert not walks


@pytest.mark.clause("A10")
def test_A10_the_graph_keeps_the_inputs_and_little_else(walks):
    x, t = _followed(shape=(64, 500))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        loss = crossent.cross_entropy(x, t)
    assert [saved.data_ptr() for saved in kept] == [x.data_ptr(), t.data_ptr()]
    node = loss.grad_fn
    held = [y for y in (*node.rows, *node.ending, *node.gradients) if isinstance(y, torch.Tensor)]
    assert [y.data_ptr() for y in held] == [t.data_ptr()]


@pytest.mark.clause("D1")
def test_D1_what_is_written_in_between_is_noticed(walks):
    x, t = _followed()
    loss = crossent.cross_entropy(x, t)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.clause("D1")
def test_D1_a_gradient_to_be_differentiated_is_the_formulas(walks):
    x, t = _followed(torch.float64)
    assert torch.autograd.gradgradcheck(lambda x: crossent.cross_entropy(x, t), (x,))


def test_a_check_in_a_captured_graph_is_refused(walks, monkeypatch):
    from crossent.torch import cross_entropy

    x, t = _followed()
    monkeypatch.setattr(Torch, "is_captured", lambda self, x: True)
    for call in (crossent.cross_entropy, crossent.cross_entropy_and_grad):
        with pytest.raises(RuntimeError, match=r"while a CUDA graph is captured.*accepted: check_targets=False"):
            call(x, t)
    assert not walks
    with Operations() as operations:
        crossent.cross_entropy(x, t, check_targets=False).backward()
        cross_entropy(x, t).backward()
    assert not operations.waits
    assert "aminmax" not in operations.launches


@pytest.mark.parametrize("capturing", [True, False])
def test_torch_is_asked_whether_a_graph_is_captured(monkeypatch, capturing):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert TORCH.is_captured(SimpleNamespace(device=torch.device("cuda"))) is capturing
    assert not TORCH.is_captured(torch.zeros(1))
