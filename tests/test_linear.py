"""The loss of hidden states on each library, where the suite's clauses L cannot look: blocks, graphs and compilers."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent import linear
from crossent.engines import select
from crossent.libraries import NUMPY

D, V = 16, 50
SMALL = 20_000
"""Bytes of a workspace that makes several blocks of the inputs below."""


def _arrays(shape=(7, 9), dtype=np.float64):
    draw = np.random.default_rng(3)
    hidden, weight, bias = draw.normal(size=(*shape, D)), draw.normal(size=(V, D)), draw.normal(size=V)
    targets = draw.integers(0, V, shape)
    targets[2, 3:] = -100
    return *(x.astype(dtype) for x in (hidden, weight, bias)), targets


def _close(found, expected, size=1e-12):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=size)


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def products(monkeypatch):
    """The shapes of the products that NumPy makes."""
    seen, product = [], type(NUMPY).product

    def counting(self, a, b, out):
        seen.append((a.shape, b.shape))
        return product(self, a, b, out)

    monkeypatch.setattr(type(NUMPY), "product", counting)
    return seen


@pytest.mark.parametrize(("needs", "count"), [((), 1), (("hidden",), 2), (("weight",), 2), (("hidden", "weight"), 3)])
def test_what_is_not_asked_for_is_not_multiplied(products, needs, count):
    hidden, weight, _, targets = _arrays()
    _, found = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, ignore_index=-100, needs=needs)
    assert len(products) == count
    assert [x is not None for x in found] == ["hidden" in needs, "weight" in needs, False]


@pytest.mark.parametrize("memory", [1, SMALL, 2 * SMALL, None])
def test_the_workspace_changes_nothing_but_the_blocks(products, memory):
    hidden, weight, bias, targets = _arrays()
    given = {"bias": bias, "ignore_index": -100}
    loss, found = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, memory=memory, **given)
    heights = {a[0] for a, b in products if b == (D, V)}
    assert max(heights) == {1: 1, SMALL: 19, 2 * SMALL: 29, None: 57}[memory]
    expected, gradients = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, **given)
    _close((loss, *found), (expected, *gradients))


@pytest.mark.parametrize("rows", [1, 3, 4096])
def test_the_logits_of_a_block_begin_a_cache_line(rows):
    memory = NUMPY.workspace((rows, 1000), np.float32, np.zeros(1))
    assert memory.shape == (rows, 1000)
    assert memory.ctypes.data % 64 == 0


# --- torch ------------------------------------------------------------------------------------------------------------


def _tensors(dtype="float64"):
    torch = pytest.importorskip("torch")
    *floats, targets = _arrays()
    return torch, [torch.tensor(x, dtype=getattr(torch, dtype)).requires_grad_() for x in floats], torch.tensor(targets)


def _materialised(torch, hidden, weight, bias, targets, **options):
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logits = hidden.to(wide) @ weight.to(wide).T + bias.to(wide)
    return crossent.cross_entropy(logits, targets, ignore_index=-100, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "sequence"])
def test_a_torch_graph_goes_back_as_often_as_it_is_asked(reduction):
    torch, inputs, targets = _tensors()
    hidden, weight, bias = inputs
    options = {"reduction": reduction}
    expected = _materialised(torch, hidden, weight, bias, targets, **options)
    above = torch.linspace(1, 2, expected.numel(), dtype=expected.dtype).reshape(expected.shape)
    once = torch.autograd.grad(expected, inputs, above)
    loss = crossent.linear_cross_entropy(hidden, weight, targets, bias=bias, ignore_index=-100, memory=SMALL, **options)
    for _ in range(3):
        _close(torch.autograd.grad(loss, inputs, above, retain_graph=True), once)
    _close([x.detach() for x in torch.autograd.grad(loss, inputs, above, create_graph=True)], once)


def test_a_torch_gradient_that_was_given_away_may_be_written():
    torch, inputs, targets = _tensors()
    hidden, weight, bias = inputs
    loss = crossent.linear_cross_entropy(hidden, weight, targets, bias=bias, ignore_index=-100)
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    kept = [x.clone() for x in first]
    for x in first:
        x.zero_()
    _close(torch.autograd.grad(loss, inputs), kept)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_torch_does_not_follow_gets_no_gradient(frozen):
    _, inputs, targets = _tensors()
    hidden, weight, bias = inputs
    inputs[frozen].requires_grad_(False)
    crossent.linear_cross_entropy(hidden, weight, targets, bias=bias, ignore_index=-100).backward()
    assert [x.grad is None for x in inputs] == [i == frozen for i in range(3)]


def test_a_scaled_half_precision_loss_keeps_the_gradients_that_would_vanish():
    torch, (hidden, weight, _), targets = _tensors("float16")
    weights = torch.full_like(targets, 1e-9, dtype=torch.float32)
    loss = crossent.linear_cross_entropy(hidden, weight, targets, ignore_index=-100, weights=weights, reduction="sum")
    (found,) = torch.autograd.grad(loss * 1e9, weight)
    expected = crossent.linear_cross_entropy(hidden, weight, targets, ignore_index=-100, reduction="sum")
    (expected,) = torch.autograd.grad(expected, weight)
    _close([found.float()], [expected.float()], 0.01)


def test_autocast_changes_no_product():
    torch, (hidden, weight, bias), targets = _tensors("float32")
    expected = crossent.linear_cross_entropy(hidden, weight, targets, bias=bias, ignore_index=-100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = crossent.linear_cross_entropy(hidden, weight, targets, bias=bias, ignore_index=-100)
        mixed = crossent.linear_cross_entropy(hidden.bfloat16(), weight, targets, bias=bias, ignore_index=-100)
    assert loss == expected
    assert mixed.dtype == torch.float32
    assert abs(mixed - expected) < 0.01


def test_torch_serves_tensors_without_memory():
    _, (hidden, weight, bias), targets = _tensors("float32")
    given = [x.detach().to("meta") for x in (hidden, weight, targets)]
    assert crossent.linear_cross_entropy(*given, bias=bias.detach().to("meta")).shape == ()


def test_torch_products_are_whole_whatever_the_process_allows():
    torch, (hidden, weight, bias), targets = _tensors("float32")
    hidden, weight = hidden.detach().repeat(1, 20, 40), weight.detach().repeat(20, 40)
    targets, bias = targets.clamp_min(0).repeat(1, 20), bias.detach().repeat(20)
    expected = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, bias=bias)
    torch.set_float32_matmul_precision("medium")
    try:
        found = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, bias=bias)
        kept = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert kept == "medium"
    assert all(a.equal(b) for a, b in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True))


@pytest.mark.filterwarnings("ignore")  # the compiler's own, which differ from version to version
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_compile_keeps_the_loss_whole(dtype, reduction):
    torch, inputs, targets = _tensors(dtype)
    names = []

    def backend(graph, _):
        names.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    def function(hidden, weight, bias):
        return crossent.linear_cross_entropy(
            hidden, weight, targets, bias=bias, ignore_index=-100, reduction=reduction, memory=SMALL
        ).sum()

    torch.compiler.reset()
    found = torch.compile(function, fullgraph=True, backend=backend)(*inputs)
    if select.numba_problem() is None:
        assert any(("linear_walk" if reduction == "mean" else "linear_losses") in name for name in names)
    expected = function(*inputs)
    assert abs(found - expected) <= 1e-6 * abs(expected)
    size = 1e-5 if dtype == "float32" else 0.02
    pairs = zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True)
    assert all((a.float() - b.float()).abs().max() <= size for a, b in pairs)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_torch_compile_keeps_whole_refuses_a_second_derivative(reduction):
    if select.numba_problem() is not None:
        pytest.skip("without Numba the formula is compiled, which has one")
    torch, (hidden, weight, _), targets = _tensors("float32")

    def function(hidden, weight):
        return crossent.linear_cross_entropy(hidden, weight, targets, ignore_index=-100, reduction=reduction).sum()

    torch.compiler.reset()
    loss = torch.compile(function, fullgraph=True, backend="eager")(hidden, weight)
    (d,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="gradient of a compiled linear loss"):
        (loss + (d * d).sum()).backward()


# --- JAX --------------------------------------------------------------------------------------------------------------


def _jax():
    jax = pytest.importorskip("jax")
    return jax, *map(jax.numpy.asarray, _arrays(dtype=np.float32))


@pytest.mark.parametrize(
    ("reduction", "what"),
    [(r, x) for r in ("mean", "sum", "none") for x in ("weights", "class_weights", "soft")] + [("mean", "denominator")],
)
def test_jax_differentiates_what_else_there_is(reduction, what):
    jax, hidden, weight, bias, targets = _jax()
    jnp = jax.numpy
    shapes = {"weights": targets.shape, "class_weights": (V,), "denominator": (), "soft": (*targets.shape, V)}
    x = jnp.asarray(np.random.default_rng(5).uniform(0.5, 2.0, shapes[what]), jnp.float32)

    def loss(function, x, hidden):
        given = {"reduction": reduction} if what == "soft" else {what: x, "reduction": reduction, "ignore_index": -100}
        return jnp.sum(function(hidden, x if what == "soft" else targets, **given))

    def of_logits(hidden, targets, **given):
        return crossent.cross_entropy(hidden @ weight.T + bias, targets, **given)

    def of_hidden(hidden, targets, **given):
        return crossent.linear_cross_entropy(hidden, weight, targets, bias=bias, memory=SMALL, **given)

    found, expected = (jax.grad(loss, (1, 2))(each, x, hidden) for each in (of_hidden, of_logits))
    # Two units in the last place of the largest, where float32 has no more.
    largest = np.float32(max(np.abs(x).max() for x in expected))
    _close(found, expected, size=max(2e-5, 2 * np.spacing(largest)))


@pytest.mark.parametrize(("counted", "blocks"), [(0, 0), (1, 1), (22, 2), (63, 3)])
def test_jax_leaves_out_the_blocks_that_do_not_count(monkeypatch, counted, blocks):
    jax, hidden, weight, _, targets = _jax()
    from crossent.libraries import jax_linear

    seen, whole = [], linear.whole

    def counting(*given):
        jax.debug.callback(lambda: seen.append(1))
        return whole(*given)

    monkeypatch.setattr(jax_linear.linear, "whole", counting)
    jax.clear_caches()
    targets = jax.numpy.where(jax.numpy.arange(63).reshape(7, 9) % 63 < 63 - counted, -100, abs(targets) % V)
    loss = crossent.linear_cross_entropy(hidden, weight, targets, ignore_index=-100, memory=10_000)
    jax.effects_barrier()
    jax.clear_caches()
    assert jax.numpy.isfinite(loss)
    assert len(seen) == blocks


def test_jax_makes_the_gradients_of_a_mean_with_the_loss():
    jax, hidden, weight, bias, targets = _jax()

    def loss(*given):
        return crossent.linear_cross_entropy(*given[:2], targets, bias=given[2], ignore_index=-100)

    text = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(hidden, weight, bias).as_text()
    # The logits, hidden and weight; the bias has a product with ones.
    assert text.count("dot_general") == 4
