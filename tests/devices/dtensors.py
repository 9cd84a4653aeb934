"""A13: DTensors give what the definition gives. `tests/test_several_devices.py` runs this file in two processes, and
every test in both.
"""

from __future__ import annotations

import math
import os
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.devices import functions
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

import crossent
import crossent.torch
from crossent.engines import select
from crossent_conformance import oracle, units

# No process has as many rows or classes as the other.
N, S, V = 5, 4, 7
WHOLE = Replicate()
LAYOUTS = {"batch": Shard(0), "sequence": Shard(1), "vocabulary": Shard(2), "replicated": WHOLE}
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
TOKEN_WEIGHTS, CLASS_WEIGHTS = np.linspace(0, 2, S, dtype=np.float32), np.linspace(0.5, 2, V, dtype=np.float32)
OPTIONS = {
    "plain": {},
    "classes": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.125, "ignore_index": 3},
    "sequence": {"weights": TOKEN_WEIGHTS, "z_loss": 0.25, "reduction": "sequence", "denominator": "tokens"},
    "none": {"reduction": "none", "ignore_index": 3, "label_smoothing": 0.25, "smoothing": "uniform"},
    "explicit": {"algorithm": "explicit", "reduction": "sum"},
    "soft": {"label_smoothing": 0.125, "weights": TOKEN_WEIGHTS, "denominator": 2.5, "class_weights": CLASS_WEIGHTS},
}
EVERY_OPTION = pytest.mark.parametrize("name", OPTIONS)


@pytest.fixture(scope="module", autouse=True)
def processes():
    """The two, of which one that fails stops the other."""
    torch.set_num_threads(1)
    rank, store = int(os.environ["RANK"]), f"file://{os.environ['STORE']}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def mesh(processes):
    return init_device_mesh("cpu", (2,))


def _tokens(place):
    """Where that lies which belongs to tokens."""
    return WHOLE if place == LAYOUTS["vocabulary"] else place


def _inputs(soft=False, dtype=torch.float32):
    rng = np.random.default_rng(0)
    x, t = (3 * rng.standard_normal((N, S, V))).astype(np.float32), rng.integers(0, V, (N, S))
    x[0, 0, 5], t[0, 0], t[1, 1] = -np.inf, 4, 3
    targets = torch.from_numpy(rng.random((N, S, V)).astype(np.float32)).to(dtype) if soft else torch.from_numpy(t)
    return torch.from_numpy(x).to(dtype), targets


def _check(found, exact, what="loss"):
    units.check(found.full_tensor().numpy(), exact, "float32", what=what)


@EVERY_LAYOUT
@EVERY_OPTION
def test_A13_loss_and_gradient(mesh, layout, name):
    soft = name == "soft"
    x, t = _inputs(soft)
    exact = oracle.cross_entropy(x.double().numpy(), t.double().numpy() if soft else t.numpy(), **OPTIONS[name])
    beside = {key: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for key, a in OPTIONS[name].items()}
    on_mesh = {
        key: distribute_tensor(a, mesh, [WHOLE]) if isinstance(a, torch.Tensor) else a for key, a in beside.items()
    }
    logits = distribute_tensor(x, mesh, [layout]).requires_grad_()
    targets = distribute_tensor(t, mesh, [layout if soft else _tokens(layout)])
    loss = crossent.cross_entropy(logits, targets, **on_mesh)
    loss.backward(torch.ones_like(loss))
    found = [(loss.detach(), logits.grad)]
    found += [crossent.cross_entropy_and_grad(logits, targets, **on_mesh)]
    # A tensor that is no DTensor is the same on both.
    found += [crossent.cross_entropy_and_grad(logits, t, None, torch.ones_like(loss), **beside)]
    for value, gradient in found:
        _check(value, exact[0])
        _check(gradient, exact[1], "d_logits")
        assert gradient.placements == logits.placements
        assert not any(place.is_partial() for place in value.placements)
        assert not value.requires_grad


SIGNATURE = {
    "plain": {},
    "ignored": {"ignore_index": 3},
    "smoothed-sum": {"label_smoothing": 0.125, "reduction": "sum"},
    "classes-none": {"weight": torch.from_numpy(CLASS_WEIGHTS), "reduction": "none"},
    "classes": {"weight": torch.from_numpy(CLASS_WEIGHTS), "label_smoothing": 0.125, "ignore_index": 3},
}


@EVERY_LAYOUT
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", SIGNATURE.values(), ids=SIGNATURE)
def test_A13_pytorchs_own_signature(mesh, layout, soft, options):
    x, t = _inputs(soft)
    x[0, 0, 5] = 0
    options = {key: value for key, value in options.items() if not (soft and key == "ignore_index")}
    x, t = x.movedim(-1, 1).contiguous().requires_grad_(), t.movedim(-1, 1).contiguous() if soft else t
    theirs = F.cross_entropy(x, t, **options)
    theirs.sum().backward()
    on_mesh = {
        key: distribute_tensor(a, mesh, [WHOLE]) if isinstance(a, torch.Tensor) else a for key, a in options.items()
    }
    place = {"S(1)": Shard(2), "S(2)": Shard(1)}.get(f"S({getattr(layout, 'dim', None)})", layout)
    logits = distribute_tensor(x.detach(), mesh, [place]).requires_grad_()
    targets = distribute_tensor(t, mesh, [place if soft else _tokens(layout)])
    loss = crossent.torch.cross_entropy(logits, targets, **on_mesh)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach().full_tensor(), theirs.detach())
    torch.testing.assert_close(logits.grad.full_tensor(), x.grad)
    assert logits.grad.placements == logits.placements


class Moved(TorchDispatchMode):
    """How many numbers each collective operation takes."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented
        if "c10d" in str(func) and not any(word in str(func) for word in ("wait", "wrap")):
            self.sizes += [x.numel() for x in torch.utils._pytree.tree_leaves(args[:1]) if isinstance(x, torch.Tensor)]
        return func(*args, **(kwargs or {}))


@EVERY_LAYOUT
@EVERY_OPTION
def test_A13_no_logits_are_gathered(mesh, layout, name):
    """What moves belongs to tokens, a number of each at a time."""
    soft = name == "soft"
    generator = torch.Generator().manual_seed(0)
    x, q = torch.randn((2, 6, S, 64), generator=generator)
    t = q if soft else torch.randint(64, (6, S), generator=generator)
    options = {key: a if key != "class_weights" else np.ones(64, np.float32) for key, a in OPTIONS[name].items()}
    options = {key: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for key, a in options.items()}
    logits = distribute_tensor(x, mesh, [layout]).requires_grad_()
    targets = distribute_tensor(t, mesh, [layout if soft else _tokens(layout)])
    with Moved() as moved:
        loss = crossent.cross_entropy(logits, targets, **options)
        forward = len(moved.sizes)
        loss.backward(torch.ones_like(loss))
        backward = len(moved.sizes) - forward
        crossent.cross_entropy_and_grad(logits, targets, **options)
    # The numbers of a token that are added up go together; its classes here are 32.
    assert max(moved.sizes, default=0) <= 7 * 6 * S
    assert bool(moved.sizes) == (layout != WHOLE)
    if layout == LAYOUTS["vocabulary"] and name != "explicit":
        # A maximum and a sum; what smoothed soft targets ask first is a sum more.
        assert (forward, backward) == (3 if soft else 2, 0)
        assert len(moved.sizes) == 2 * forward


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_A13_a_mesh_of_two_axes(shape):
    """Rows on one, classes on the other."""
    mesh = init_device_mesh("cpu", shape)
    x, t = _inputs()
    options = {"ignore_index": 3, "label_smoothing": 0.125}
    exact = oracle.cross_entropy(x.double().numpy(), t.numpy(), **options)
    for first in (Shard(0), Shard(1)):
        logits = distribute_tensor(x, mesh, [first, Shard(2)]).requires_grad_()
        targets = distribute_tensor(t, mesh, [first, WHOLE])
        with Moved() as moved:
            loss = crossent.cross_entropy(logits, targets, **options)
            loss.backward()
        assert 0 < max(moved.sizes) <= 5 * N * S
        _check(loss.detach(), exact[0])
        _check(logits.grad, exact[1], "d_logits")
        assert logits.grad.placements == logits.placements


@pytest.mark.parametrize("v", [8, 7], ids=["even", "uneven"])
@pytest.mark.parametrize(
    "options",
    [{}, {"ignore_index": 1}, {"weight": torch.linspace(0.5, 2, 8)}, {"reduction": "sum"}, {"reduction": "none"}],
    ids=["plain", "ignored", "classes", "sum", "none"],
)
def test_A13_loss_parallel_gives_the_same(mesh, v, options):
    x, t = torch.randn((N, v), generator=torch.Generator().manual_seed(0)), torch.arange(N)
    targets = distribute_tensor(t, mesh, [WHOLE])
    options = {k: distribute_tensor(a[:v], mesh, [WHOLE]) if k == "weight" else a for k, a in options.items()}
    found = []
    for function in (F.cross_entropy, crossent.torch.cross_entropy):
        logits = distribute_tensor(x, mesh, [Shard(1)]).requires_grad_()
        with loss_parallel():
            loss = function(logits, targets, **options)
            loss.sum().backward()
        assert loss.placements == (WHOLE,)
        assert logits.grad.placements == (Shard(1),)
        found.append((loss.detach().full_tensor(), logits.grad.full_tensor()))
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


@EVERY_LAYOUT
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_A13_derivatives_of_the_others_and_second_ones(mesh, layout, soft):
    x, t = _inputs(soft, torch.float64)
    x[0, 0, 5] = 0
    plain = [x, torch.linspace(0.25, 2, S).double(), torch.linspace(0.5, 2, V).double(), *([t] if soft else [])]
    places = [layout, WHOLE, WHOLE, layout]
    spread = [distribute_tensor(a, mesh, [place]) for a, place in zip(plain, places, strict=False)]
    results = []
    for leaves, targets in ((plain, t), (spread, distribute_tensor(t, mesh, [layout if soft else _tokens(layout)]))):
        x, w, u, *q = (a.detach().requires_grad_() for a in leaves)
        of = partial(crossent.cross_entropy, targets=q[0] if q else targets, label_smoothing=0.125)
        first = torch.autograd.grad(of(x, weights=w, class_weights=u), (x, w, u, *q))
        value = of(x)
        # The gradient depends on the loss, too.
        gradient = torch.autograd.grad(value * value, x, create_graph=True)[0]
        second = torch.autograd.grad((gradient * gradient).sum(), x)[0]
        results.append([*first, second, crossent.cross_entropy_and_grad(x, q[0] if q else targets)[1]])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.full_tensor(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.clause("A4")
@EVERY_LAYOUT
def test_A4_a_bad_target_is_named_on_every_process(mesh, layout):
    x, t = _inputs()
    t[3, 2], t[4, 1] = V, -2
    logits, targets = distribute_tensor(x, mesh, [layout]), distribute_tensor(t, mesh, [_tokens(layout)])
    with pytest.raises(IndexError, match=r"targets\[3, 2\] is 7; accepted: 0 to 6"):
        crossent.cross_entropy(logits, targets)
    with pytest.raises(IndexError):
        crossent.torch.cross_entropy(logits.movedim(-1, 1), targets)
    loss, gradient = crossent.cross_entropy_and_grad(logits, targets, check_targets=False, reduction="none")
    assert loss.full_tensor().isnan().nonzero().tolist() == [[3, 2], [4, 1]]
    assert gradient.full_tensor().isnan().sum(-1).nonzero().tolist() == [[3, 2], [4, 1]]


UNUSUAL = {
    "no-class-for-one": (lambda x, mesh: distribute_tensor(x[..., :1], mesh, [Shard(2)]), Shard(2)),
    "no-row-for-one": (lambda x, mesh: distribute_tensor(x[:1], mesh, [Shard(0)]), Shard(0)),
    "one-token": (lambda x, mesh: distribute_tensor(x[0, 1], mesh, [Shard(0)]), Shard(0)),
    "no-tokens": (lambda x, mesh: distribute_tensor(x[:0], mesh, [WHOLE]), WHOLE),
    "a-sum": (lambda x, mesh: DTensor.from_local(x.nan_to_num(neginf=-9) / 2, mesh, [Partial()]), WHOLE),
    "no-dtensor": (lambda x, mesh: x, None),
}


@pytest.mark.parametrize(("make", "layout"), UNUSUAL.values(), ids=UNUSUAL)
def test_A13_unusual_logits(mesh, make, layout):
    x, t = _inputs()
    logits = make(x, mesh).detach().requires_grad_()
    whole = (logits.full_tensor() if layout else logits).detach()
    t = t.reshape(-1)[: math.prod(logits.shape[:-1])].reshape(logits.shape[:-1]) % whole.shape[-1]
    targets = distribute_tensor(t, mesh, [WHOLE])
    loss = crossent.cross_entropy(logits, targets)
    loss.backward()
    exact = oracle.cross_entropy(whole.double().numpy(), t.numpy())
    _check(loss.detach(), exact[0])
    d = crossent.cross_entropy_and_grad(logits, targets)[1]
    for gradient in (logits.grad, d):
        full = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        units.check(full.numpy(), exact[1], "float32", what="d_logits")
    assert d.placements == ((layout,) if layout else (WHOLE,))


def test_A13_out(mesh):
    x, t = _inputs()
    exact = oracle.cross_entropy(x.double().numpy(), t.numpy())
    for layout in LAYOUTS.values():
        logits, targets = distribute_tensor(x.clone(), mesh, [layout]), distribute_tensor(t, mesh, [_tokens(layout)])
        for out in (torch.zeros_like(logits), logits):
            assert crossent.cross_entropy_and_grad(logits, targets, out)[1] is out
            _check(out, exact[1], "d_logits")


def test_A5_what_cannot_be_served(mesh):
    x, t = _inputs()
    logits, other = distribute_tensor(x, mesh, [Shard(2)]), init_device_mesh("cpu", (1, 2))
    with pytest.raises(ValueError, match=r"targets is on device cpu of DeviceMesh\(.*; accepted: the same for both"):
        crossent.cross_entropy(logits, distribute_tensor(t, other, [WHOLE, WHOLE]))
    for given, options in ((logits, {"algorithm": "explicit"}), (distribute_tensor(x, other, [Shard(2)] * 2), {})):
        with pytest.raises(ValueError, match=r"engine is 'numba'.*in parts of rows; accepted: 'auto', 'array_api'"):
            crossent.cross_entropy(given, t, engine="numba", **options)
        assert crossent.explain(given, **options).splitlines()[0].endswith("'array_api'")
    # What a process has of the rows of a loss is walked as its own tensors are.
    assert crossent.explain(logits).splitlines()[0].endswith(crossent.explain(x).splitlines()[0].rpartition(" ")[2])
    if select.numba_problem() is None:
        loss = crossent.cross_entropy(logits, t, engine="numba")
        _check(loss, oracle.cross_entropy(x.double().numpy(), t.numpy())[0])
    whole = distribute_tensor(x, mesh, [Shard(0)])
    assert crossent.explain(whole).splitlines()[0].endswith(crossent.explain(x).splitlines()[0].rpartition(" ")[2])


@pytest.mark.extended
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["batch", "vocabulary"])
def test_D1_compiled(mesh, layout):
    torch._dynamo.reset()
    x, t = _inputs()
    exact = oracle.cross_entropy(x.double().numpy(), t.numpy())
    logits = distribute_tensor(x, mesh, [LAYOUTS[layout]]).requires_grad_()
    targets = distribute_tensor(t, mesh, [_tokens(LAYOUTS[layout])])
    compiled = partial(torch.compile, fullgraph=True, backend="aot_eager")
    loss = compiled(crossent.cross_entropy)(logits, targets)
    loss.backward()
    for value, gradient in (
        (loss.detach(), logits.grad),
        compiled(crossent.cross_entropy_and_grad)(logits.detach(), targets),
    ):
        _check(value, exact[0])
        _check(gradient, exact[1], "d_logits")
    x, weight = x[..., :5].clone(), torch.linspace(-1, 1, V * 5).reshape(V, 5)
    value, made = crossent.linear_cross_entropy_and_grad(x, weight, t)
    hidden = distribute_tensor(x, mesh, [_tokens(LAYOUTS[layout])]).requires_grad_()
    weight = distribute_tensor(weight, mesh, [Shard(0) if layout == "vocabulary" else WHOLE]).requires_grad_()
    loss = compiled(crossent.linear_cross_entropy)(hidden, weight, targets)
    loss.backward()
    again, others = compiled(crossent.linear_cross_entropy_and_grad)(hidden.detach(), weight.detach(), targets)
    for found, expected in zip(
        (loss.detach(), again, hidden.grad, weight.grad, *others[:2]), (value, value, *made[:2], *made[:2]), strict=True
    ):
        torch.testing.assert_close(found.full_tensor(), expected)


HIDDEN = pytest.mark.parametrize(
    "spread", [Shard(0), Shard(1), Shard(2), WHOLE], ids=["batch", "sequence", "features", "replicated"]
)
WEIGHT = pytest.mark.parametrize("of_weight", [WHOLE, Shard(0)], ids=["whole-weight", "vocabulary"])


def _linear(v, soft=False):
    rng = np.random.default_rng(1)
    given = [torch.from_numpy(rng.standard_normal(shape)).requires_grad_() for shape in ((N, S, 6), (v, 6), (v,))]
    targets = rng.random((N, S, v)) if soft else rng.integers(0, v, (N, S))
    return given, torch.from_numpy(targets)


def _same_linear(given, targets, mesh, places, of_targets, options):
    """A linear loss, its derivatives and second ones, and what gives the gradients itself."""
    spread = [distribute_tensor(x.detach(), mesh, p).requires_grad_() for x, p in zip(given, places, strict=True)]
    found = []
    for leaves, t in ((given, targets), (spread, distribute_tensor(targets, mesh, of_targets))):
        hidden, weight, bias = leaves
        value = crossent.linear_cross_entropy(hidden, weight, t, bias=bias, memory=1000, **options)
        first = torch.autograd.grad(value.sum(), leaves, retain_graph=True)
        gradient = torch.autograd.grad((value * value).sum(), hidden, create_graph=True)[0]
        second = torch.autograd.grad((gradient * gradient).sum(), weight)
        constants = (x.detach() for x in leaves)
        again, made = crossent.linear_cross_entropy_and_grad(
            *(next(constants), next(constants), t), bias=next(constants), **options
        )
        found.append([value.detach(), *first, *second, again, *made])
        if leaves is spread:
            assert [x.placements for x in (*first, *made)] == [x.placements for x in spread] * 2
    for expected, own in zip(*found, strict=True):
        torch.testing.assert_close(own.full_tensor(), expected)


@HIDDEN
@WEIGHT
@pytest.mark.parametrize("name", ["mean", "none", "soft", "padded"])
def test_A13_hidden_states(mesh, spread, of_weight, name):
    soft = name in ("soft", "padded")
    given, targets = _linear(V, soft)
    options = {"label_smoothing": 0.125} if soft else {"ignore_index": 3, "reduction": name}
    if name == "padded":
        # Of the classes but the last two, which is not how torch cuts five.
        targets, options = targets[..., :5], options | {"classes": 5}
    of_targets = WHOLE if spread == Shard(2) else spread
    _same_linear(given, targets, mesh, ([spread], [of_weight], [of_weight]), [of_targets], options)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
@pytest.mark.parametrize("v", [V, 1], ids=["uneven", "one-class"])
def test_A13_hidden_states_on_a_mesh_of_two_axes(shape, v):
    """Tokens on one, the classes of the weight on the other."""
    mesh = init_device_mesh("cpu", shape)
    given, targets = _linear(v)
    of_classes = [WHOLE, Shard(0)]
    _same_linear(given, targets, mesh, ([Shard(0), WHOLE], of_classes, of_classes), [Shard(0), WHOLE], {})
    # Classes over both: each process has them all.
    both = [Shard(0), Shard(0)]
    _same_linear(given, targets, mesh, ([WHOLE, WHOLE], both, both), [WHOLE, WHOLE], {})


@pytest.mark.parametrize("spread", [None, WHOLE], ids=["no-dtensor", "replicated"])
@pytest.mark.parametrize("classes", [None, 200], ids=["whole", "padded"])
def test_A13_no_weight_is_gathered(mesh, spread, classes):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn((N, 8), generator=generator), torch.randn((256, 8), generator=generator)
    hidden = (hidden if spread is None else distribute_tensor(hidden, mesh, [spread])).requires_grad_()
    weight = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_()
    with Moved() as moved:
        loss = crossent.linear_cross_entropy(hidden, weight, torch.arange(N), classes=classes)
        forward = len(moved.sizes)
        loss.backward()
    # A maximum and a sum of numbers of tokens, and the sum of the gradients of the hidden states.
    assert moved.sizes == [N, 2 * N, N * 8]
    assert forward == 2


# --- what rows tell besides their loss --------------------------------------------------------------------------------


def _made(row, given, beside, leaves):
    """The numbers of a call, and the first and second derivatives of a function of them by the leaves."""
    found = functions.numbers(row, given, beside)
    # Each token's derivative comes back times its own number.
    value = sum((a * a).sum() for a in found if a.requires_grad)
    first = torch.autograd.grad(value, leaves, create_graph=True)
    second = torch.autograd.grad((first[0] * first[0]).sum(), leaves[0])[0]
    # That of a row of NaN has no meaning, whether it counts or not.
    return [*(a.detach() for a in found), *(a.detach() for a in first), second.nan_to_num()]


def _same(found, expected):
    for a, b in zip(found, expected, strict=True):
        whole = a.full_tensor() if isinstance(a, DTensor) else a
        torch.testing.assert_close(whole, b, rtol=1e-11, atol=1e-13)


@EVERY_LAYOUT
@functions.PLAIN_AND_EVERY
@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_A13_tokens_and_measures(mesh, layout, name, options):
    function, keys, more = functions.FUNCTIONS[name]
    row = function, keys, more | options
    x, beside = functions.inputs(N, S, V, options)
    x, beside = torch.from_numpy(x), {key: torch.from_numpy(a) for key, a in beside.items()}
    followed = functions.floats(name, beside)
    for key in followed:
        beside[key].requires_grad_()
    x.requires_grad_()
    expected = _made(row, (x,), beside, [x, *(beside[key] for key in followed)])
    # A teacher lies as the student does, or whole, or in other parts.
    for place in (layout, WHOLE, Shard(0)) if "z" in keys else (layout,):
        places = dict.fromkeys(beside, _tokens(place)) | {"z": place, "weights": WHOLE}
        parts = {
            key: distribute_tensor(a.detach(), mesh, [places[key]]).requires_grad_(key in followed)
            for key, a in beside.items()
        }
        logits = distribute_tensor(x.detach(), mesh, [layout]).requires_grad_()
        found = _made(row, (logits,), parts, [logits, *(parts[key] for key in followed)])
        _same(found, expected)
        if functions.has_gradient(row):
            value = found[0]
            # And tensors that are none are the same on both.
            for given in (parts, {key: a.detach() for key, a in beside.items()}):
                pair = functions.numbers(row, (logits,), given, (None, value + value))
                _same(pair, [expected[0], expected[1 if function != "token_statistics" else 6]])
                assert pair[1].placements == logits.placements
                assert not any(a.requires_grad for a in pair)


@pytest.mark.parametrize(("make", "layout"), UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("name", ["several", "statistics", "forward", "bin-reverse"])
def test_A13_tokens_and_measures_of_unusual_logits(mesh, make, layout, name):
    """Beside tensors of which some alone are DTensors."""
    x, beside = functions.inputs(N, S, V, {})
    logits = make(torch.from_numpy(x), mesh).detach().requires_grad_()
    whole = (logits.full_tensor() if layout else logits).detach().requires_grad_()
    v, tokens = whole.shape[-1], whole.shape[:-1]
    beside = {key: torch.from_numpy(a).reshape(-1, *a.shape[2:])[: math.prod(tokens)] for key, a in beside.items()}
    beside = {key: a.reshape((*tokens, *a.shape[1:])) for key, a in beside.items()}
    if v == 1:
        beside = {key: a[..., :1] if a.ndim > len(tokens) else a for key, a in beside.items()}
        beside |= {key: 0 * beside[key] for key in ("t", "ids", "few", "log_q")}
    beside["z"] = whole.detach() + 1 - torch.arange(v) / 8
    row = functions.FUNCTIONS[name]
    expected = functions.numbers(row, (whole,), beside)
    last = functions.FUNCTIONS[name][1][-1]
    found = functions.numbers(row, (logits,), beside | {last: distribute_tensor(beside[last], mesh, [WHOLE])})
    _same([a.detach() for a in found], [a.detach() for a in expected])
    for a in (found, expected):
        sum(each.sum() for each in a if each.requires_grad).backward()
    _same([logits.grad], [whole.grad])


@EVERY_LAYOUT
@pytest.mark.parametrize("name", ["several", "statistics", "entropy", "jensen-shannon", "bin-reverse"])
def test_A13_no_logits_are_gathered_for_tokens_and_measures(mesh, layout, name):
    x, beside = functions.inputs(6, S, 64, {})
    places = dict.fromkeys(beside, _tokens(layout)) | {"z": layout}
    parts = {key: distribute_tensor(torch.from_numpy(a), mesh, [places[key]]) for key, a in beside.items()}
    logits = distribute_tensor(torch.from_numpy(x), mesh, [layout]).requires_grad_()
    with Moved() as moved:
        found = functions.numbers(functions.FUNCTIONS[name], (logits,), parts)
        sum(a.sum() for a in found if a.requires_grad).backward()
    # Of as many classes as are asked for, and the likeliest.
    assert max(moved.sizes, default=0) <= 4 * 6 * S


@pytest.mark.clause("A4")
@EVERY_LAYOUT
def test_A4_a_bad_class_is_named_on_every_process(mesh, layout):
    x, beside = functions.inputs(N, S, V, {})
    ids, few = torch.from_numpy(beside["ids"]), torch.from_numpy(beside["few"])
    ids[3, 2, 1], few[4, 0, 0] = V, few[4, 0, 1]
    logits, log_q = distribute_tensor(torch.from_numpy(x), mesh, [layout]), torch.from_numpy(beside["log_q"])
    ids, few = (distribute_tensor(a, mesh, [_tokens(layout)]) for a in (ids, few))
    with pytest.raises(IndexError, match=r"token_ids\[3, 2, 1\] is 7; accepted: 0 to 6"):
        crossent.token_log_probs(logits, ids)
    with pytest.raises(ValueError, match=r"teacher_logits\[0\] has a class twice in a row"):
        crossent.kl_divergence(logits, (few, log_q))


@pytest.mark.parametrize("name", functions.LINEAR)
@HIDDEN
@WEIGHT
def test_A13_tokens_of_hidden_states(mesh, spread, of_weight, name):
    rng = np.random.default_rng(1)
    given = [torch.from_numpy(rng.standard_normal(shape)).requires_grad_() for shape in ((N, S, 6), (V, 6))]
    beside = {key: torch.from_numpy(rng.integers(0, V, (N, S, *more))) for key, more in (("t", ()), ("ids", (2,)))}
    row = functions.LINEAR[name]
    expected = _made(row, given, beside, given)
    parts = [
        distribute_tensor(x.detach(), mesh, [p]).requires_grad_()
        for x, p in zip(given, (spread, of_weight), strict=True)
    ]
    of_tokens = WHOLE if spread == Shard(2) else spread
    found = _made(row, parts, {key: distribute_tensor(a, mesh, [of_tokens]) for key, a in beside.items()}, parts)
    _same(found, expected)
