"""P1 to P3: a vocabulary in shards on torch's processes, where the clauses do not look, which `test_conform_shards.py`
asks in four. `tests/test_several_devices.py` runs this file in four, every test in all of them.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.shard_cases import OPTIONS, SIZES, SOFT, STARTS, V, inputs, of_rank, part
from torch.distributed.device_mesh import init_device_mesh

import crossent
from crossent_conformance import oracle, units

# The file is imported, too, where examples in docstrings are looked for.
RANK = int(os.environ.get("RANK", "0"))
EVERY_OPTION = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def processes():
    """The four, of which one that fails stops the others."""
    torch.set_num_threads(1)
    store = f"file://{os.environ['STORE']}"
    dist.init_process_group("gloo", init_method=store, rank=RANK, world_size=4, timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shard(processes):
    return crossent.VocabularyShard(STARTS[RANK], SIZES[RANK], dist.group.WORLD)


@pytest.fixture
def moved(monkeypatch):
    """The kind and the size of what processes put together."""
    found, reduce = [], dist.all_reduce

    def counted(x, op, group):
        found.append(("max" if op == dist.ReduceOp.MAX else "sum", x.numel()))
        reduce(x, op, group)

    monkeypatch.setattr(dist, "all_reduce", counted)
    return found


def _own(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(part(a, RANK))) for a in arrays]


def _of_rank(name, dtype="float32"):
    logits, t, options = of_rank(RANK, *inputs(name, dtype))
    tensors = {key: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for key, a in options.items()}
    return torch.from_numpy(np.ascontiguousarray(logits)), torch.from_numpy(np.ascontiguousarray(t)), tensors


def _exact(name):
    x, targets, options = inputs(name, "float32")
    wide = targets.astype(float) if name in SOFT else targets
    loss, gradient = oracle.cross_entropy(x.astype(np.float64), wide, **options)
    return loss, gradient[..., STARTS[RANK] : STARTS[RANK] + SIZES[RANK]]


@EVERY_OPTION
def test_P1_loss_and_gradient_on_the_graph(shard, moved, name):
    """Of the logits alone, and of weights besides; the pair is the clauses'."""
    exact, expected = _exact(name)
    x, t, options = _of_rank(name)
    ones = torch.ones(t.shape[:2]) if name not in SOFT else torch.ones(x.shape[:2])
    for given in (options, {"weights": ones.requires_grad_()} | options):
        logits = x.clone().requires_grad_()
        moved.clear()
        loss = crossent.cross_entropy(logits, t, vocabulary=shard, **given)
        forward = [kind for kind, _ in moved]
        assert forward == (["max", "sum", "sum"] if name in SOFT and "label_smoothing" in options else ["max", "sum"])
        assert all(size <= 12 * 6 for _, size in moved)
        gradient = torch.autograd.grad(loss.sum(), logits)[0]
        assert len(moved) == len(forward)
        units.check(loss.detach().numpy(), exact, "float32", what="loss")
        units.check(gradient.numpy(), expected, "float32", what="d_logits")


@pytest.mark.parametrize("name", ["classes-smoothed", "uniform-z", "soft-smoothed", "soft-uniform", "soft-classes"])
def test_P1_derivatives_of_the_others_and_second_ones(shard, name):
    x, targets, options = inputs(name)
    x = np.where(np.isfinite(x), x, -1.0)
    results = []
    for mine, vocabulary in ((False, None), (True, shard)):
        leaves = [x, np.linspace(0.5, 2, V), *([targets] if name in SOFT else [])]
        leaves = _own(*leaves) if mine else [torch.from_numpy(a) for a in leaves]
        logits, u, *q = (a.clone().requires_grad_() for a in leaves)
        w = torch.linspace(0.25, 2, 4, dtype=torch.float64).requires_grad_()
        given = options | {"weights": w, "class_weights": u, "vocabulary": vocabulary}
        of = partial(crossent.cross_entropy, targets=q[0] if q else torch.from_numpy(targets))
        first = torch.autograd.grad(of(logits, **given), (logits, u, *q, w))
        seconds = []
        for more in (given, {key: value for key, value in given.items() if key not in ("weights", "class_weights")}):
            loss = of(logits, **more)
            gradient = torch.autograd.grad(loss * loss, logits, create_graph=True)[0]
            seconds.append(torch.autograd.grad((gradient * gradient).sum(), logits)[0])
        results.append([*first, *seconds])
    for expected, found in zip(*results, strict=True):
        own = _own(expected.numpy())[0] if expected.shape[-1] == V else expected
        torch.testing.assert_close(found, own, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("memory", [None, 2000])
def test_P2_hidden_states(shard, moved, memory, reduction):
    rng = np.random.default_rng(1)
    hidden, weight, bias = (rng.standard_normal(shape) for shape in ((3, 4, 6), (V, 6), (V,)))
    targets = torch.from_numpy(inputs("plain")[1])
    results = []
    for mine in (False, True):
        own_weight = np.moveaxis(part(np.moveaxis(weight, 0, -1), RANK), -1, 0)
        given = (hidden, own_weight, part(bias, RANK)) if mine else (hidden, weight, bias)
        h, w, b = (torch.from_numpy(np.ascontiguousarray(a)).requires_grad_() for a in given)
        beside = torch.linspace(0.25, 2, 4, dtype=torch.float64).requires_grad_()
        options = {
            "bias": b,
            "memory": memory,
            "reduction": reduction,
            "vocabulary": shard if mine else None,
            "z_loss": 0.1,
        }
        moved.clear()
        loss = crossent.linear_cross_entropy(h, w, targets, ignore_index=3, **options)
        first = torch.autograd.grad(loss.sum(), (h, w, b))
        kinds = [kind for kind, _ in moved]
        value = crossent.linear_cross_entropy(h, w, targets, weights=beside, **options).sum()
        gradient = torch.autograd.grad(value, (h, beside), create_graph=True)
        second = torch.autograd.grad((gradient[0] ** 2).sum(), (h, w, beside))
        results.append([loss.detach(), *first, *(g.detach() for g in gradient), *second])
    # In the backward pass none but that of the hidden states.
    assert kinds == ["max", "sum", "sum"]
    for expected, found in zip(*results, strict=True):
        own = expected[STARTS[RANK] : STARTS[RANK] + SIZES[RANK]] if expected.shape[:1] == (V,) else expected
        torch.testing.assert_close(found, own, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.extended)])
@pytest.mark.parametrize("name", ["classes-smoothed", "soft-smoothed"])
def test_D1_compiled(shard, name, backend):
    torch._dynamo.reset()
    exact, expected = _exact(name)
    x, t, options = _of_rank(name)
    compiled = partial(torch.compile, fullgraph=True, backend=backend)
    logits = x.clone().requires_grad_()
    loss = compiled(partial(crossent.cross_entropy, vocabulary=shard, **options))(logits, t)
    loss.backward()
    pair = compiled(partial(crossent.cross_entropy_and_grad, vocabulary=shard, **options))(x, t)
    for value, gradient in ((loss.detach(), logits.grad), pair):
        units.check(value.numpy(), exact, "float32", what="loss")
        units.check(gradient.numpy(), expected, "float32", what="d_logits")


@pytest.mark.filterwarnings("ignore")
def test_D1_a_compiled_program_does_not_walk_parts_as_rows(shard):
    torch._dynamo.reset()
    x, t, _ = _of_rank("plain")
    call = torch.compile(partial(crossent.cross_entropy, vocabulary=shard, engine="numba"), backend="aot_eager")
    with pytest.raises(ValueError, match=r"engine is 'numba'.*vocabulary=.*accepted: 'auto', 'array_api'"):
        call(x, t)


def test_P1_a_mesh_of_two_axes():
    """Two vocabularies of two shards each, whose processes know nothing of the others."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    with pytest.raises(ValueError, match="group is a DeviceMesh of 2 dimensions; accepted: one"):
        crossent.VocabularyShard(0, 5, mesh)
    data, tensor = mesh.get_local_rank("data"), mesh.get_local_rank("tensor")
    generator = torch.Generator().manual_seed(data)
    x, t = torch.randn(6, 8, generator=generator), torch.randint(8, (6,), generator=generator)
    own = crossent.VocabularyShard(3 * tensor, 3 + 2 * tensor, mesh["tensor"])
    found = crossent.cross_entropy(x[:, own.start : own.start + own.size], t, vocabulary=own)
    torch.testing.assert_close(found, crossent.cross_entropy(x, t))


@pytest.mark.clause("P3")
def test_P3_arrays_of_another_library(shard):
    x, targets, _ = inputs("plain", "float32")
    with pytest.raises(TypeError, match=r"^logits is a numpy array; accepted by the group of vocabulary=: torch$"):
        crossent.cross_entropy(part(x, RANK), targets, vocabulary=shard)
