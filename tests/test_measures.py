"""What rows tell besides their loss, where the suite's clauses T do not reach: engines against each other, the bits
that functions share, frameworks' transformations, hidden states, and teachers of few classes.
"""

from __future__ import annotations

import tracemalloc
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

import crossent
from crossent.engines.numba_cpu import measures
from crossent_conformance import oracle_tokens, units

DIRECTIONS = ("forward", "reverse", "jensen-shannon")
OPTIONS = [{}, {"temperature": 0.7}, {"logit_softcap": 20.0, "temperature": 1.3}]
IDS = ["plain", "scaled", "capped"]


def _special(v, dtype, seed=1):
    """Rows of a student and a teacher, of every kind: sure, masked, tied, NaN, ±∞, and some that are ordinary."""
    rng = np.random.default_rng(seed)
    x = 5 * rng.standard_normal((12, v))
    y = np.where(np.arange(12)[:, None] % 2, x + 0.2 * rng.standard_normal((12, v)), 4 * rng.standard_normal((12, v)))
    t = rng.integers(0, v, 12)
    x[1] *= 8
    if v > 3:
        x[2, 1], x[5, 1], x[8, 3] = 40, np.nan, np.inf
        x[3, ::2] = y[3, ::2] = -np.inf
        x[4], x[6], y[7, 2] = -np.inf, 0, -np.inf
        t[3] = v - 1
    dtype = getattr(torch, dtype)
    return torch.tensor(x).to(dtype), torch.tensor(y).to(dtype), torch.tensor(t)


def _same(a, b, rtol, atol=0.0):
    np.testing.assert_allclose(a.double().numpy(), b.double().numpy(), rtol=rtol, atol=atol)


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
# Few classes are the clauses': both engines beside 60 digits.
@pytest.mark.parametrize("v", [112, 113, 4097, 9000])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_engines_agree(dtype, v, options):
    x, y, t = _special(v, dtype)
    weights = torch.arange(12) / 6.0
    rtol = 1e-13 if dtype == "float64" else 6e-6
    found = crossent.token_statistics(x, t, engine="numba", **options)
    for a, b in zip(found, crossent.token_statistics(x, t, engine="array_api", **options), strict=True):
        _same(a, b, rtol)
    calls = [(crossent.entropy_and_grad, (x,), {})]
    calls += [(crossent.kl_divergence_and_grad, (x, y), {"direction": d, "mixture": 0.3}) for d in DIRECTIONS]
    for function, given, more in calls:
        asked = {"weights": weights, "reduction": "none"} | more | options
        (value, d), (other, d_other) = (function(*given, engine=engine, **asked) for engine in ("numba", "array_api"))
        # Distances of up to 400 round what a divergence is made of.
        _same(value, other, 50 * rtol, 100 * rtol * 1e-3)
        step = 2.0**-8 if dtype == "bfloat16" else 2e3 * rtol
        scale = float(torch.nan_to_num(d_other, 0, 0, 0).abs().max())
        _same(d, d_other, step, step * scale)
        assert not d[0].any()


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("v", [5, 100, 5000, 70_000])
def test_functions_share_their_bits_and_no_neighbour_changes_them(v, engine):
    x, y, t = (a.numpy() for a in _special(v, "float32"))
    loss = crossent.cross_entropy(x, t, reduction="none", engine=engine)
    found = crossent.token_statistics(x, t, engine=engine)
    np.testing.assert_array_equal(found.loss, loss)
    np.testing.assert_array_equal(found.log_prob, -loss)
    np.testing.assert_array_equal(crossent.token_log_probs(x, t, engine=engine), -loss)
    np.testing.assert_array_equal(crossent.token_log_probs(x, t[:, None], engine=engine)[:, 0], -loss)
    ids = np.stack([t, t], axis=1)
    for i in (0, 3, 9):
        one = crossent.token_statistics(x[i : i + 1], t[i : i + 1], engine=engine)
        for a, b in zip(found, one, strict=True):
            np.testing.assert_array_equal(a[i], b[0])
        for function, given in (
            (crossent.entropy, (x,)), (crossent.kl_divergence, (x, y)), (crossent.token_log_probs, (x, ids)),
        ):  # fmt: skip
            more = {} if function is crossent.token_log_probs else {"reduction": "none"}
            alone = function(*(a[i : i + 1] for a in given), engine=engine, **more)
            np.testing.assert_array_equal(alone[0], function(*given, engine=engine, **more)[i])


def test_statistics_on_the_graph_are_those_off_it():
    x, _, t = _special(300, "float32")
    found = crossent.token_statistics(x.requires_grad_(), t)
    for a, b in zip(found, crossent.token_statistics(x.detach(), t), strict=True):
        np.testing.assert_array_equal(a.detach(), b)
    assert [a.requires_grad for a in found] == [True] * 4 + [False] * 2
    assert torch.autograd.grad(found.entropy[9:].sum(), x)[0][9:].any()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("size", [1e-6, 0.1, 0.3, 0.34, 0.36, 0.4, 1.0, 4.0])
def test_near_and_far_divergences_meet(size, direction):
    # On both sides of what is found in one pass.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 300)).astype(np.float32)
    y = (x + size * rng.standard_normal(x.shape)).astype(np.float32)
    options = {"direction": direction, "reduction": "none"}
    found = crossent.kl_divergence_and_grad(x, y, engine="numba", **options)
    right = oracle_tokens.kl_divergence(x.astype(float), y.astype(float), dtype="float32", **options)
    if size > 0.36:
        assert (right[0].high > measures._FAR).any()
    for each, exact in zip(found, right, strict=True):
        units.check(each, exact, "float32", what=f"{direction} divergence")


# --- derivatives ------------------------------------------------------------------------------------------------------


def _inputs(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(3 * rng.standard_normal(shape)) for _ in range(2)]


IDS_OF = torch.tensor(np.random.default_rng(5).integers(0, 9, (2, 3, 4)))
FUNCTIONS = {
    "log_probs": lambda y, x: crossent.token_log_probs(x, IDS_OF).sum(),
    "entropy": lambda y, x: crossent.entropy(x).sum(),
    "statistics": lambda y, x: _weighed(crossent.token_statistics(x, IDS_OF[..., 0])),
} | {d: lambda y, x, d=d: crossent.kl_divergence(x, y, direction=d, mixture=0.3) for d in DIRECTIONS}


def _weighed(told):
    return sum((i + 1.0) * part.sum() for i, part in enumerate(told[:5]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_torchs_transformations_have_autograds_derivatives(name):
    """Which T2 is about."""
    x, y = _inputs(2, 3, 9)
    function = partial(FUNCTIONS[name], y)
    d = torch.autograd.functional.jacobian(function, x)
    _same(torch.func.grad(function)(x), d, 1e-9, 1e-12)
    _same(torch.func.jvp(function, (x,), (y,))[1], (d * y).sum(), 1e-9, 1e-12)
    _same(torch.func.hessian(function)(x), torch.autograd.functional.hessian(function, x), 1e-9, 1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_torch_compiles(name):
    results = []
    for call in (FUNCTIONS[name], torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")):
        x, y = _inputs(2, 3, 9)
        value = call(y, x.requires_grad_())
        value.backward()
        results.append((value.detach(), x.grad))
    for a, b in zip(*results, strict=True):
        _same(a, b, 1e-12, 1e-14)


# --- hidden states ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_wide")
@pytest.mark.parametrize("make", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_tokens_of_hidden_states(make):
    rng = np.random.default_rng(0)
    hidden, head, bias = rng.standard_normal((2, 5, 8)), rng.standard_normal((50, 8)), rng.standard_normal(50)
    t, ids = rng.integers(0, 50, (2, 5)), rng.integers(0, 50, (2, 5, 3))
    t[0, 0], ids[0, 0] = -1, -1
    logits = hidden @ head.T + bias
    given, more = (make(hidden), make(head)), {"bias": make(bias), "ignore_index": -1, "memory": 2000}
    for a, b in zip(
        crossent.linear_token_statistics(*given, make(t), **more),
        crossent.token_statistics(logits, t, ignore_index=-1),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13)
    for each in (t, ids):
        found = crossent.linear_token_log_probs(*given, make(each), **more)
        np.testing.assert_allclose(found, crossent.token_log_probs(logits, each, ignore_index=-1), rtol=1e-11)


def test_tokens_of_hidden_states_are_differentiated():
    rng = np.random.default_rng(0)
    hidden, head = (torch.tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((6, 8), (9, 8)))
    ids = torch.tensor(rng.integers(0, 9, (6, 3)))
    t, logits = ids[:, 0], hidden @ head.T
    log_probs, total = crossent.token_log_probs(logits, ids).sum(), {"reduction": "sum"}
    sums = [
        _weighed(crossent.linear_token_statistics(hidden, head, t)[:4])
        + crossent.linear_token_log_probs(hidden, head, ids).sum(),
        _weighed(crossent.token_statistics(logits, t)[:4]) + log_probs,
        (1 - 2) * crossent.cross_entropy(logits, t, **total)
        + 3 * logits.logsumexp(-1).sum() + 4 * crossent.entropy(logits, **total) + log_probs,
    ]  # fmt: skip
    *found, right = (torch.autograd.grad(each, (hidden, head), retain_graph=True) for each in sums)
    for ours in found:
        for a, b in zip(ours, right, strict=True):
            _same(a, b, 1e-10, 1e-12)


def test_tokens_of_hidden_states_never_make_all_logits():
    hidden, head, t = np.ones((512, 4), np.float32), np.ones((5000, 4), np.float32), np.zeros(512, int)
    crossent.linear_token_statistics(hidden[:8], head, t[:8], memory=2**20)
    tracemalloc.start()
    crossent.linear_token_statistics(hidden, head, t, memory=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20


# --- the likeliest classes of a teacher -------------------------------------------------------------------------------


def _of_pair(x, log_q, tail, direction):
    """The divergence of distributions of few classes, which T3 is about."""
    log_p, log_q = log_softmax(8 * torch.tanh(x / (8 * 1.3)), -1), log_q[..., :4]
    if tail == "drop":
        return (log_q.exp() * (log_q - log_p[..., :4])).sum(-1)
    if tail == "bin":
        log_p, log_q = (
            torch.cat([a, torch.log1p(-a.exp().sum(-1, keepdim=True))], -1) for a in (log_p[..., :4], log_q)
        )
    else:
        log_q = torch.cat([log_q, torch.full_like(log_p[..., 4:], -torch.inf)], -1)
    return crossent.kl_divergence(log_p, log_q, direction=direction, mixture=0.3, reduction="none")


TAILS = [("renormalise", "forward"), ("drop", "forward"), *product(["bin"], DIRECTIONS)]


@pytest.mark.usefixtures("_wide")
@pytest.mark.parametrize(("tail", "direction"), TAILS)
def test_a_teacher_of_few_classes(tail, direction):
    x, y = _inputs(2, 3, 20)
    log_q, weights = log_softmax(y, -1), torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 0.5]])
    ids = torch.arange(4).expand(2, 3, 4)
    x.requires_grad_()
    right = (_of_pair(x, log_q, tail, direction) * weights).sum() / weights.sum()
    d_right, right = torch.autograd.grad(right, x)[0], right.detach()
    more = {"tail": tail, "direction": direction, "mixture": 0.3, "temperature": 1.3, "logit_softcap": 8.0}
    for make in (lambda a: a.detach().numpy(), lambda a: a, lambda a: jnp.asarray(a.detach().numpy())):
        given = make(x), (make(ids), make(log_q[..., :4]))
        value, d = crossent.kl_divergence_and_grad(*given, weights=make(weights), **more)
        np.testing.assert_allclose(value, right, rtol=1e-12)
        np.testing.assert_allclose(np.asarray(d), d_right, rtol=1e-10, atol=1e-13)
        each = crossent.kl_divergence(*given, reduction="none", **more)
        each = each.detach() if isinstance(each, torch.Tensor) else np.asarray(each)
        np.testing.assert_allclose(each, _of_pair(x, log_q, tail, direction).detach(), rtol=1e-11)
    value = crossent.kl_divergence(x, (ids, log_q[..., :4]), weights=weights, **more)
    _same(torch.autograd.grad(value, x)[0], d_right, 1e-10, 1e-13)


@pytest.mark.parametrize(("tail", "direction"), TAILS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 0)], ids=str)
@pytest.mark.parametrize("make", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_a_teacher_of_no_tokens(make, shape, tail, direction):
    several = (*shape[:-1], 2)
    x, pair = make(np.zeros(shape, np.float32)), (make(np.zeros(several, int)), make(np.zeros(several, np.float32)))
    value, d = crossent.kl_divergence_and_grad(x, pair, tail=tail, direction=direction)
    assert (float(value), float(crossent.kl_divergence(x, pair, tail=tail, direction=direction))) == (0, 0)
    assert tuple(d.shape) == shape
    if isinstance(x, torch.Tensor):
        crossent.kl_divergence(x.requires_grad_(), pair, tail=tail, direction=direction).backward()
        assert x.grad.shape == shape


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("gap", [2.0, 15.0, 30.0, 60.0, 90.0, 2000.0])
def test_a_bin_of_unlikely_classes(gap, direction):
    """What the K classes leave is a sum over the others, not 1 less a sum that is nearly 1."""
    x = np.array([[0.0, -1.0, -gap, -gap - 1]], np.float32)
    pair = np.array([[0, 1]]), np.log(np.array([[0.6, 0.3]], np.float32))
    log_p = log_softmax(torch.tensor(x, dtype=torch.float64), -1)
    binned = torch.cat([log_p[:, :2], log_p[:, 2:].logsumexp(-1, keepdim=True)], -1)
    log_q = torch.log(torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64))
    right = float(crossent.kl_divergence(binned, log_q, direction=direction, mixture=0.3))
    value, d = crossent.kl_divergence_and_grad(x, pair, tail="bin", direction=direction, mixture=0.3)
    np.testing.assert_allclose(value, right, rtol=3e-5)
    given = torch.tensor(x, requires_grad=True)
    found = crossent.kl_divergence(given, tuple(map(torch.tensor, pair)), tail="bin", direction=direction, mixture=0.3)
    found.backward()
    np.testing.assert_allclose(found.detach(), right, rtol=3e-5)
    np.testing.assert_allclose(given.grad, d, rtol=1e-4, atol=1e-6)
    _, of_jax = crossent.kl_divergence_and_grad(
        jnp.asarray(x), tuple(map(jnp.asarray, pair)), tail="bin", direction=direction, mixture=0.3
    )
    np.testing.assert_allclose(of_jax, d, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_bin_of_nothing_is_the_whole_teacher(direction):
    x, y = np.array([[0.0, 1.0, -np.inf]]), np.array([[1.0, 0.0, -np.inf]])
    ids = np.array([[0, 1]])
    whole = crossent.kl_divergence_and_grad(x, y, direction=direction)
    pair = ids, crossent.token_log_probs(y, ids)
    for a, b in zip(crossent.kl_divergence_and_grad(x, pair, tail="bin", direction=direction), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)
    given = torch.tensor(x, requires_grad=True)
    crossent.kl_divergence(given, tuple(map(torch.tensor, pair)), tail="bin", direction=direction).backward()
    np.testing.assert_allclose(given.grad, whole[1], rtol=1e-14)


@pytest.mark.parametrize("tail", ["renormalise", "bin", "drop"])
@pytest.mark.parametrize(("student", "teacher"), [(np.nan, -1.0), (-np.inf, -1.0), (0.0, np.nan), (0.0, -np.inf)])
def test_what_does_not_count_has_no_part_in_gradients(student, teacher, tail):
    x, log_q = np.zeros((2, 3), np.float32), np.full((2, 2), -1.0, np.float32)
    x[1], log_q[1] = student, teacher
    given = torch.tensor(x, requires_grad=True), torch.tensor(log_q, requires_grad=True)
    pair = torch.tensor([[0, 1], [0, 1]]), given[1]
    crossent.kl_divergence(given[0], pair, weights=torch.tensor([True, False]), tail=tail).backward()
    assert not given[0].grad[1].any()
    assert not given[1].grad[1].any()
    ids = jnp.array([[0, 1], [0, 1]])
    call = partial(_of_jax, ids, jnp.asarray(log_q), tail)
    assert not jax.jit(jax.grad(call))(jnp.asarray(x))[1].any()


def _of_jax(ids, log_q, tail, x):
    return crossent.kl_divergence(x, (ids, log_q), weights=jnp.array([1.0, 0.0]), tail=tail)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_teacher_that_does_not_count_has_no_gradient(direction):
    x, y = torch.ones(2, 3), torch.zeros(2, 3)
    y[1] = torch.nan
    crossent.kl_divergence(x, y.requires_grad_(), weights=torch.tensor([1.0, 0.0]), direction=direction).backward()
    assert not y.grad[1].any()


@pytest.mark.parametrize("ids", [[0, 7], [7, 0], [0, -1]])
def test_a_class_that_is_not_there_is_nan_where_nothing_can_raise(ids):
    call = jax.jit(lambda i: crossent.kl_divergence(jnp.zeros((1, 3)), (i, jnp.full((1, 2), -1.0))))
    assert np.isnan(call(jnp.array([ids])))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"teacher": (np.zeros((2, 3), int),)}, ValueError, "teacher_logits is a tuple of length 1; accepted"),
        ({"direction": "reverse"}, ValueError, "tail is 'renormalise' with direction 'reverse'; accepted: 'bin'"),
        ({"tail": "cut"}, ValueError, "tail is 'cut'; accepted: 'renormalise', 'bin', 'drop'"),
        ({"ids": np.array([[1, 1], [0, 1]])}, ValueError, "has a class twice in a row; accepted: distinct classes"),
        ({"ids": np.array([[1, 5], [0, 1]])}, IndexError, r"teacher_logits\[0\]\[0, 1\] is 5; accepted: 0 to 4"),
        ({"log_probs": np.full((2, 2), 0.5)}, ValueError, r"teacher_logits\[1\] has numbers above 0; accepted"),
        ({"ids": np.array([0, 1])}, ValueError, r"teacher_logits\[0\] has shape \(2,\)"),
        ({"log_probs": np.zeros((2, 3))}, ValueError, r"teacher_logits\[1\] has shape \(2, 3\); accepted: a floating"),
        ({"log_probs": np.zeros((2, 2), int)}, TypeError, r"teacher_logits\[1\] has dtype int64; accepted: a floating"),
    ],
)  # fmt: skip
def test_what_is_no_such_teacher(change, kind, text):
    ids, log_probs = change.pop("ids", np.array([[0, 1], [2, 3]])), change.pop("log_probs", np.full((2, 2), -1.0))
    teacher = change.pop("teacher", (ids, log_probs))
    with pytest.raises(kind, match=text):
        crossent.kl_divergence(np.zeros((2, 5)), teacher, **change)
