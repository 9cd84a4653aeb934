"""Calls of plain arrays in one step, beside the same calls in several: values, bits, errors, what is written."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

import crossent
from crossent.engines.numba_cpu import layout, one_step
from crossent.libraries import NUMPY

# One part of rows; several, whose last is not whole; rows of few and of many columns.
SHAPES = [(8, 16), (7, 300), (3000, 5), (2, 1100, 3), (40, 9000), (13,)]
OPTIONS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"ignore_index": 1},
    {"ignore_index": 1, "label_smoothing": 0.1, "z_loss": 0.01, "reduction": "sum"},
    {"ignore_index": -100, "smoothing": "uniform", "label_smoothing": 0.2, "reduction": "none"},
    {"temperature": 2.0},
    {"logit_softcap": 3.0, "temperature": 0.5},
]
EPS = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@pytest.fixture
def steps(monkeypatch):
    """How many calls have been answered in one step."""
    taken, walk = [], one_step.walk

    def counted(*given):
        taken.append(given)
        return walk(*given)

    monkeypatch.setattr("crossent.engines.numba_cpu.straight", counted)
    return taken


def _case(shape, dtype, targets="int64", seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape).astype(dtype) * 3, rng.integers(0, shape[-1], shape[:-1]).astype(targets)


def _in_several(monkeypatch, function, *given, **options):
    """The same without a step for all."""
    with monkeypatch.context() as patch:
        patch.setattr(type(NUMPY), "has_steps", False)
        return function(*given, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "targets"), [("float32", "int64"), ("float64", "int32"), ("float16", "int32")])
def test_one_step_gives_what_several_give(monkeypatch, steps, dtype, targets, shape, options):
    x, t = _case(shape, dtype, targets)
    eps = max(EPS[dtype], 2.0**-23) if dtype != "float64" else EPS[dtype]
    loss, (again, d) = crossent.cross_entropy(x, t, **options), crossent.cross_entropy_and_grad(x, t, **options)
    assert len(steps) == 2
    wanted, wanted_d = _in_several(monkeypatch, crossent.cross_entropy_and_grad, x, t, **options)
    assert len(steps) == 2
    assert (loss.shape, loss.dtype, d.shape, d.dtype) == (wanted.shape, wanted.dtype, x.shape, x.dtype)
    assert np.array_equal(loss, again)
    if options.get("reduction") == "none":
        assert np.array_equal(loss, wanted)
    np.testing.assert_allclose(loss, wanted, rtol=4 * eps)
    np.testing.assert_allclose(d.astype(float), wanted_d.astype(float), rtol=2 * EPS[dtype], atol=1e-30)
    over = x.copy()
    crossent.cross_entropy_and_grad(over, t, over, **options)
    assert np.array_equal(over, d)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_sum_of_many_parts_has_the_same_bits_with_any_number_of_threads(threads):
    x, t = _case((5000, 40), "float32")
    wanted = crossent.cross_entropy(x, t, ignore_index=3)
    crossent.set_num_threads(threads)
    try:
        assert np.array_equal(crossent.cross_entropy(x, t, ignore_index=3), wanted)
    finally:
        crossent.set_num_threads(None)


@pytest.mark.parametrize("shape", [(8, 16), (3000, 5), (40, 9000)], ids=str)
@pytest.mark.parametrize("targets", ["int64", "int32"])
@pytest.mark.parametrize("wrong", [-1, "past", -100])
@pytest.mark.parametrize("options", [{}, {"ignore_index": -2}])
def test_a_target_outside_is_an_error_that_names_it_and_nothing_is_written(shape, targets, wrong, options):
    x, t = _case(shape, "float32", targets)
    t[-3] = shape[-1] if wrong == "past" else wrong
    before, place = x.copy(), f"targets[{len(t) - 3}]"
    with pytest.raises(IndexError) as error:
        crossent.cross_entropy(x, t, **options)
    assert place in str(error.value)
    for out in (x, np.zeros_like(x)):
        kept = out.copy()
        with pytest.raises(IndexError) as error:
            crossent.cross_entropy_and_grad(x, t, out, **options)
        assert place in str(error.value)
        assert np.array_equal(out, kept)
    loss, d = crossent.cross_entropy_and_grad(x, t, check_targets=False, reduction="none", **options)
    assert np.flatnonzero(np.isnan(loss)).tolist() == [len(t) - 3]
    assert np.isnan(d[-3]).any()
    assert np.array_equal(x, before)


def test_all_ignored_is_zero_in_one_part_and_in_several(steps):
    for shape in ((8, 16), (3000, 5)):
        x, t = _case(shape, "float32")
        t[:] = -100
        x[0] = np.nan
        loss, d = crossent.cross_entropy_and_grad(x, t, ignore_index=-100)
        assert loss == 0
        assert not d.any()
    assert len(steps) == 2


def test_the_mean_of_losses_whose_sum_is_past_float64():
    x = np.zeros((400, 3))
    x[:, 0] = 1e307
    loss = crossent.cross_entropy(x, np.ones(400, int))
    assert loss == pytest.approx(1e307, rel=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        lambda x, t: (x[:, ::2], t // 2),
        lambda x, t: (x.T.copy().T, t),
        lambda x, t: (x.astype(">f4"), t),
        lambda x, t: (x, t.astype(np.uint8)),
        lambda x, t: (x, np.repeat(t, 2)[::2]),
        lambda x, t: (x[:0], t[:0]),
        lambda x, t: (x.view(np.memmap), t),
    ],
    ids=["strided", "columns", "swapped", "bytes", "strided-targets", "empty", "subclass"],
)
def test_what_is_not_plain_is_answered_in_several(steps, given):
    x, t = given(*_case((6, 8), "float32"))
    crossent.cross_entropy(x, t)
    crossent.cross_entropy(*_case((6, 8), "float32"), reduction="sequence")
    crossent.cross_entropy(*_case((6, 8), "float32"), algorithm="explicit")
    assert not steps


def test_strided_rows_and_read_only_arrays_are_plain(steps):
    x, t = _case((12, 8), "float32")
    x.flags.writeable = t.flags.writeable = False
    assert np.array_equal(crossent.cross_entropy(x[::-2], t[:6]), crossent.cross_entropy(x[::-2].copy(), t[:6]))
    with pytest.raises(ValueError, match=r"read-only|written"):
        crossent.cross_entropy_and_grad(x, t, x)
    assert len(steps) == 2


def test_targets_in_the_memory_of_the_gradient_are_read_first(steps):
    memory = np.zeros(8 * 16, np.float32)
    t = memory[:16].view(np.int64)
    t[:] = np.arange(8)
    x = _case((8, 16), "float32")[0]
    wanted = crossent.cross_entropy_and_grad(x, t.copy())[1]
    found = crossent.cross_entropy_and_grad(x, t, memory.reshape(8, 16))[1]
    assert np.array_equal(found, wanted)


def test_a_call_of_one_part_is_one_call_of_the_kernel(monkeypatch):
    x, t = _case((8, 16), "float32")
    crossent.cross_entropy(x, t)
    calls = []
    run = one_step._used["float32", None, True]
    monkeypatch.setitem(one_step._used, ("float32", None, True), lambda words: calls.append(words) or run(words))
    for options in OPTIONS[:6]:
        crossent.cross_entropy_and_grad(x, t, **options)
    assert len(calls) == 6


def test_the_height_of_a_part_depends_on_the_columns_alone():
    assert [layout.height_of(v) for v in (1, 112, 300, 10**6)] == [1024, 1024, 436, 16]


@pytest.mark.parametrize("name", ["walk-float32", "walk-short-float32"])
def test_kept_machine_code_is_run_without_numba(name, tmp_path):
    program = f"""
import sys, numpy as np, crossent
x = np.zeros({(4, 10) if "short" in name else (4, 300)}, np.float32)
print(crossent.cross_entropy(x, np.arange(4), engine="numba"), "numba" in sys.modules)
"""
    environment = {**os.environ, "CROSSENT_CACHE_DIR": str(tmp_path)}
    done = [
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment, timeout=120
        ).stdout.split()
        for _ in range(2)
    ]
    assert [each[1] for each in done] == ["True", "False"]
    assert done[0][0] == done[1][0]
    (file,) = tmp_path.iterdir()
    assert file.name.startswith(f"{name}-")


torch = pytest.importorskip("torch")


def test_a_small_loss_on_torchs_graph_is_one_step_whose_gradient_is_kept(steps):
    x, t = (torch.from_numpy(a) for a in _case((8, 16), "float32"))
    x.requires_grad_()
    loss = crossent.cross_entropy(x, t, ignore_index=2)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert len(steps) == 1
    (again,) = torch.autograd.grad(loss, x, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss, x, torch.tensor(2.0), retain_graph=True)
    (followed,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(followed.square().sum(), x)
    exact = x.detach().double().requires_grad_()
    (of_exact,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(exact, t.long(), ignore_index=2), exact, create_graph=True
    )
    (second_of_exact,) = torch.autograd.grad(of_exact.square().sum(), exact)
    for found in (first, again, scaled / 2, followed.detach()):
        torch.testing.assert_close(found.double(), of_exact.detach(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(second.double(), second_of_exact, rtol=1e-4, atol=1e-8)
    with torch.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x, torch.tensor(3.0))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_are_plain_arrays_too(steps, dtype):
    x = torch.linspace(-3, 3, 96).reshape(6, 16).to(getattr(torch, dtype))
    t = torch.arange(6)
    loss, (again, d) = crossent.cross_entropy(x, t), crossent.cross_entropy_and_grad(x, t)
    assert len(steps) == 2
    wanted = crossent.cross_entropy(x, t, weights=torch.ones(6))
    assert torch.equal(loss, again)
    torch.testing.assert_close(loss, wanted)
    version = x._version
    crossent.cross_entropy_and_grad(x, t, x)
    assert torch.equal(x, d)
    assert x._version > version


@pytest.mark.parametrize("shape", [(8, 16), (3000, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("ignored", [[], [1], "all"], ids=str)
def test_pytorchs_signature_takes_a_step_where_no_target_is_ignored(monkeypatch, dtype, shape, ignored):
    from crossent import torch as ours

    found, walk = [], one_step.walk
    monkeypatch.setattr("crossent.engines.numba_cpu.straight", lambda *given: found.append(walk(*given)) or found[-1])
    x, t = (
        torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype)),
        torch.arange(shape[0]),
    )
    t = t % shape[1]
    t[slice(None) if ignored == "all" else ignored] = -100
    exact = x.double().requires_grad_()
    x.requires_grad_()
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "sum"}):
        loss, wanted = ours.cross_entropy(x, t, **options), torch.nn.functional.cross_entropy(exact, t, **options)
        (d,), (wanted_d,) = torch.autograd.grad(loss, x), torch.autograd.grad(wanted, exact)
        for one, other in ((loss.detach(), wanted), (d, wanted_d)):
            torch.testing.assert_close(
                one, other.to(x.dtype), rtol=2 * torch.finfo(x.dtype).eps, atol=1e-8, equal_nan=True
            )
    took = [value is not None for value in found]
    assert took == ([] if dtype == "float64" else [not ignored] * 3)


def test_a_tensor_whose_storage_is_freed_is_an_error():
    x, t = torch.randn(6, 10), torch.arange(6)
    for freed in ("logits", "targets"):
        given = {"logits": x.clone(), "targets": t.clone()}
        given[freed].untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="has no memory"):
            crossent.cross_entropy(**given)


def test_a_parameter_is_no_memory_for_its_gradient():
    x, t = torch.nn.Parameter(torch.randn(6, 10)), torch.arange(6)
    kept = x.detach().clone()
    with torch.no_grad(), pytest.raises(ValueError, match=r"^out requires a gradient of its own"):
        crossent.cross_entropy_and_grad(x, t, x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_what_a_transformation_closes_over_is_a_constant(requires_grad):
    x, t, s = torch.randn(6, 10, requires_grad=requires_grad), torch.arange(6), torch.tensor(2.0)
    loss = crossent.cross_entropy(x, t)
    torch.testing.assert_close(torch.func.grad(lambda s: crossent.cross_entropy(x, t) * s)(s), loss)
    torch.testing.assert_close(torch.vmap(lambda s: crossent.cross_entropy(x, t) * s)(s[None])[0], 2 * loss)
    found = torch.func.grad(lambda s: crossent.cross_entropy_and_grad(x.detach(), t)[0] * s)(s)
    torch.testing.assert_close(found, loss)


def test_what_is_wrong_with_the_arrays_comes_before_what_is_wrong_with_the_options():
    x, t = _case((6, 8), "float32")
    for function in (crossent.cross_entropy, crossent.cross_entropy_and_grad):
        with pytest.raises(ValueError, match=r"^targets has dtype"):
            function(x, t[:-1], reduction="foo")
        with pytest.raises(ValueError, match=r"^reduction is 'foo'"):
            function(x, t, reduction="foo")
