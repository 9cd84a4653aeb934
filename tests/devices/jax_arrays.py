"""A13: JAX's arrays on four devices give what the definition gives. `tests/test_several_devices.py` runs this file in a
process of its own, which has four.
"""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tests.devices import functions

import crossent
from crossent_conformance import oracle, units

N, S, V = 8, 4, 16
EVERY_KIND = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
# Shapes of meshes, and how the axes of the logits are spread over them.
LAYOUTS = {
    "batch": ((4,), P("a")),
    "batch-sequence": ((2, 2), P("a", "b")),
    "vocabulary": ((4,), P(None, None, "a")),
    "batch-vocabulary": ((2, 2), P("a", None, "b")),
}
QUICK = ("batch", "batch-sequence")
EVERY_LAYOUT = pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=() if name in QUICK else pytest.mark.extended) for name in LAYOUTS]
)
TOKEN_WEIGHTS, CLASS_WEIGHTS = np.linspace(0, 2, S, dtype=np.float32), np.linspace(0.5, 2, V, dtype=np.float32)
OPTIONS = {
    "plain": {},
    "classes": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.125, "ignore_index": 3},
    "sequence": {"weights": TOKEN_WEIGHTS, "z_loss": 0.25, "reduction": "sequence", "denominator": "tokens"},
    "none": {"reduction": "none", "ignore_index": 3},
    "soft": {"label_smoothing": 0.125, "weights": TOKEN_WEIGHTS, "denominator": 2.5, "class_weights": CLASS_WEIGHTS},
}
LESS = ("plain", "classes")
EVERY_OPTION = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in LESS else pytest.mark.extended) for name in OPTIONS]
)


def _mesh(kind, shape):
    return jax.make_mesh(shape, ("a", "b")[: len(shape)], axis_types=(kind,) * len(shape))


def _put(x, mesh, spec):
    return jax.device_put(x, NamedSharding(mesh, spec))


def _inputs(soft=False):
    rng = np.random.default_rng(0)
    x, t = (3 * rng.standard_normal((N, S, V))).astype(np.float32), rng.integers(0, V, (N, S)).astype(np.int32)
    x[0, 0, 5], t[0, 0], t[1, 1] = -np.inf, 4, 3
    return (x, rng.random((N, S, V)).astype(np.float32)) if soft else (x, t)


def _check(found, exact, what="loss"):
    units.check(np.asarray(found), exact, "float32", what=what)


def _arrays(options, put):
    return {key: put(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}


@EVERY_KIND
@EVERY_LAYOUT
@EVERY_OPTION
def test_A13_loss_and_gradient(kind, layout, name):
    x, t = _inputs(soft=name == "soft")
    exact = oracle.cross_entropy(x.astype(np.float64), t, **OPTIONS[name])
    shape, spec = LAYOUTS[layout]
    mesh = _mesh(kind, shape)
    logits, targets = _put(x, mesh, spec), _put(t, mesh, P(*spec[: t.ndim]))
    on_mesh = _arrays(OPTIONS[name], lambda a: _put(a, mesh, P()))
    beside = _arrays(OPTIONS[name], jnp.asarray)
    found = [
        (crossent.cross_entropy(logits, targets, **on_mesh), None),
        crossent.cross_entropy_and_grad(logits, jnp.asarray(t), **beside),
        jax.jit(partial(crossent.cross_entropy_and_grad, **beside))(logits, targets),
    ]
    with jax.set_mesh(mesh):
        of = partial(crossent.cross_entropy, **on_mesh)
        grad = jax.jit(jax.grad(lambda x, t: of(x, t).sum()))
        found += [(of(logits, targets), grad(logits, targets))]
    for loss, gradient in found:
        _check(loss, exact[0])
        assert len(loss.devices()) == 4
        if gradient is not None:
            _check(gradient, exact[1], "d_logits")
            assert gradient.sharding.is_equivalent_to(logits.sharding, 3)


# More rows than a device would walk in one block.
LARGE = {
    "batch": ((4,), (4096, 1024), P("a")),
    "batch-sequence": ((2, 2), (4, 1024, 1024), P("a", "b")),
    "vocabulary": ((4,), (4096, 1024), P(None, "a")),
}


@EVERY_KIND
@pytest.mark.parametrize(("devices", "shape", "spec"), LARGE.values(), ids=LARGE)
def test_A13_no_logits_are_gathered(kind, devices, shape, spec):
    mesh = _mesh(kind, devices)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    t = jax.ShapeDtypeStruct(shape[:-1], jnp.int32, sharding=NamedSharding(mesh, P(*spec[: len(shape) - 1])))
    for call in (crossent.cross_entropy_and_grad, partial(crossent.cross_entropy, ignore_index=3, label_smoothing=0.1)):
        text = jax.jit(call).lower(x, t).compile().as_text()
        assert "all-reduce" in text
        assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


# What a call has, and in how many sums over the classes it meets: smoothed soft targets have sums in their masses.
SMOOTHED, UNIFORM = {"label_smoothing": 0.1}, {"label_smoothing": 0.1, "smoothing": "uniform"}
MEETINGS = {
    "plain": ({}, 1),
    "classes": ({"class_weights": P(), "ignore_index": 3} | SMOOTHED, 1),
    "soft": ({"soft": True}, 1),
    "soft-smoothed": ({"soft": True} | SMOOTHED, 2),
    "ignored": ({"ignore_index": 3}, 1),
    "smoothed": (SMOOTHED, 1),
    "uniform": (UNIFORM, 1),
    "weighed": ({"class_weights": P()}, 1),
    "weighed-in-parts": ({"class_weights": P("b")}, 1),
    "z": ({"z_loss": 0.1}, 1),
    "capped": ({"logit_softcap": 5.0, "temperature": 2.0}, 1),
    "soft-weighed": ({"soft": True, "class_weights": P("b"), "z_loss": 0.1}, 1),
    "soft-uniform": ({"soft": True} | UNIFORM, 2),
}
OFTEN = ("plain", "classes", "soft", "soft-smoothed")
# On both axes of a mesh every call, on one of them again those.
EVERY_MEETING = [
    *(pytest.param((2, 2), P("a", "b"), k, marks=() if k in OFTEN else pytest.mark.extended) for k in MEETINGS),
    *(pytest.param((1, 4), P(None, "b"), k, marks=pytest.mark.extended) for k in OFTEN),
]


def _collectives(text):
    """The operation of each all-reduce of more than a few numbers in a program, and how many each of its arrays has."""
    assert not re.search(r"all-gather|all-to-all|collective-|reduce-scatter", text)
    found = []
    for shapes, name in re.findall(r"= (.*) all-reduce(?:-start)?\(.*to_apply=(\S+?)[,\s]", text):
        sizes = [math.prod(int(n) for n in shape.split(",") if n) for shape in re.findall(r"\[([\d,]*)\]", shapes)]
        if max(sizes) > 1:
            body = re.search(rf"^{re.escape(name)} .*?\n\s+ROOT [^\n]*? (\w+)\(", text, re.M | re.S)
            found.append((body[1], sizes))
    return found


@pytest.mark.clause("P2")
@EVERY_KIND
@pytest.mark.parametrize(("devices", "places", "name"), EVERY_MEETING)
def test_P2_devices_meet_for_a_maximum_and_a_sum(kind, devices, places, name):
    """Of as many numbers as there are rows, and for a gradient no more often."""
    options, sums = MEETINGS[name]
    options, n, v = dict(options), 64, 256
    mesh = _mesh(kind, devices)

    def shaped(dtype, spec, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    x, u = shaped(jnp.float32, places, n, v), options.pop("class_weights", None)
    t = x if options.pop("soft", False) else shaped(jnp.int32, P(places[0]), n)
    classes = None if u is None else shaped(jnp.float32, u, v)

    def loss(x, t, u, reduction="mean"):
        return crossent.cross_entropy(x, t, class_weights=u, reduction=reduction, **options)

    def pair(x, t, u):
        return crossent.cross_entropy_and_grad(x, t, class_weights=u, **options)

    for call in (partial(loss, reduction="none"), pair, jax.value_and_grad(loss)):
        with jax.set_mesh(mesh):
            found = _collectives(jax.jit(call).lower(x, t, classes).compile().as_text())
        assert [kind for kind, _ in found] == ["maximum"] + ["add"] * sums
        # At most eight numbers a row; the total of the rows that are somewhere is one more.
        assert all(n // devices[0] <= sum(sizes) <= 8 * n // devices[0] + 1 for _, sizes in found)


@EVERY_KIND
def test_A13_several_likeliest_classes(kind):
    """On one device and on several; each device knows of its own."""
    rng = np.random.default_rng(2)
    x, q = 3 * rng.standard_normal((5, V)), rng.random((5, V))
    x[0], x[1, [2, 3]], x[2, [1, 9, 15]], x[3, 7] = 0, 8, 9, 50
    # As likely as it gets in the masses, too.
    q[0], q[1, [4, 12]], q[4] = 1, 3, np.arange(V) == 5
    q /= q.sum(1, keepdims=True)
    mesh = _mesh(kind, (4,))
    given = [_put(a.astype(np.float32), mesh, P(None, "a")) for a in (x, q)]
    for options in ({}, {"label_smoothing": 0.125}):
        exact = oracle.cross_entropy(np.asarray(given[0], np.float64), np.asarray(given[1]), **options)
        loss, gradient = crossent.cross_entropy_and_grad(*given, **options)
        _check(loss, exact[0])
        _check(gradient, exact[1], "d_logits")
    with jax.set_mesh(mesh):
        hessian = np.asarray(jax.jit(jax.hessian(crossent.cross_entropy))(*given))
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    for i in range(5):
        np.testing.assert_allclose(5 * hessian[i, :, i], np.diag(p[i]) - np.outer(p[i], p[i]), atol=1e-6)


@EVERY_KIND
@pytest.mark.parametrize("rows", [8, 4096], ids=["small", "in-blocks"])
def test_A13_inside_shard_map(kind, rows):
    """With its checks: results vary along the axes that the logits or another input vary along."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((rows, 1024), dtype=np.float32), rng.integers(0, 1024, rows).astype(np.int32)
    u = np.linspace(0.5, 2, 4096, dtype=np.float32).reshape(4, 1024)
    mesh = _mesh(kind, (4,))

    def of_part(x, t):
        return jax.lax.pmean(crossent.cross_entropy(x, t), "a"), jax.grad(crossent.cross_entropy)(x, t) / 4

    spread = jax.jit(jax.shard_map(of_part, mesh=mesh, in_specs=(P("a"), P("a")), out_specs=(P(), P("a"))))
    loss, gradient = spread(_put(x, mesh, P("a")), _put(t, mesh, P("a")))
    expected = crossent.cross_entropy_and_grad(x, t)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], rtol=4e-6, atol=1e-12)

    def of_weights(x, t, u):
        return crossent.cross_entropy(x, t, class_weights=u[0])[None]

    spread = jax.jit(jax.shard_map(of_weights, mesh=mesh, in_specs=(P(), P(), P("a")), out_specs=P("a")))
    losses = spread(_put(x, mesh, P()), _put(t, mesh, P()), _put(u, mesh, P("a")))
    for loss, weights in zip(losses, u, strict=True):
        np.testing.assert_allclose(loss, crossent.cross_entropy(x, t, class_weights=weights), rtol=1e-6)


def test_A13_what_is_not_committed_goes_where_the_logits_are():
    x, t = _inputs()
    exact = oracle.cross_entropy(
        x.astype(np.float64), t, weights=TOKEN_WEIGHTS, class_weights=CLASS_WEIGHTS, denominator=3
    )
    third = jax.devices()[2]
    beside = {"weights": jnp.asarray(TOKEN_WEIGHTS), "class_weights": jnp.asarray(CLASS_WEIGHTS), "denominator": 3}
    one = jnp.float32(1)
    found = crossent.cross_entropy_and_grad(jax.device_put(x, third), jnp.asarray(t), grad_output=one, **beside)
    # Logits that are not committed follow the targets that are.
    found += crossent.cross_entropy_and_grad(jnp.asarray(x), jax.device_put(t, third), **beside)
    assert all(result.devices() == {third} for result in found)
    for loss, gradient in (found[:2], found[2:]):
        _check(loss, exact[0])
        _check(gradient, exact[1], "d_logits")


@EVERY_KIND
def test_A5_what_is_committed_elsewhere_is_refused(kind):
    x, t = _inputs()
    first, *_, last = sorted(map(str, jax.devices()))
    logits, elsewhere = _put(x, _mesh(kind, (4,)), P("a")), jax.device_put(t, jax.devices()[3])
    message = rf"targets is on device {last} and logits is on device {first}, .*{last}; accepted: the same for both"
    with pytest.raises(ValueError, match=message):
        crossent.cross_entropy(logits, elsewhere)
    with pytest.raises(IndexError, match=r"targets\[7, 2\] is 16"):
        crossent.cross_entropy(
            logits, _put(np.where(np.arange(N * S).reshape(N, S) == 30, V, t), _mesh(kind, (4,)), P())
        )


@EVERY_KIND
def test_A13_no_tokens(kind):
    mesh = _mesh(kind, (4,))
    logits, targets = _put(np.zeros((0, 5), np.float32), mesh, P()), _put(np.zeros(0, np.int32), mesh, P())
    for loss, gradient in (
        (crossent.cross_entropy(logits, targets), logits),
        crossent.cross_entropy_and_grad(logits, targets),
    ):
        assert loss == 0
        assert gradient.shape == (0, 5)
        assert len(loss.devices()) == len(gradient.devices()) == 4


def test_A13_a_gradient_begins_outside_of_set_mesh():
    """And a loss there meets other numbers of the mesh."""
    x, t = _inputs()
    mesh = _mesh(AxisType.Explicit, (4,))
    logits, targets, number = _put(x, mesh, P("a")), _put(t, mesh, P("a")), _put(np.float32(2), mesh, P())
    exact = oracle.cross_entropy(x.astype(np.float64), t)
    _check(jax.grad(crossent.cross_entropy)(logits, targets), exact[1], "d_logits")
    for of in (crossent.cross_entropy, jax.jit(crossent.cross_entropy)):
        np.testing.assert_allclose(of(logits, targets) + number, exact[0].high + 2, rtol=1e-6)


@pytest.mark.extended
@EVERY_KIND
def test_A13_other_derivatives(kind):
    x, t = _inputs()
    mesh = _mesh(kind, (4,))
    logits, targets, direction = _put(x[:, 1], mesh, P("a")), _put(t[:, 1], mesh, P("a")), _put(x[:, 2], mesh, P("a"))
    with jax.set_mesh(mesh):
        _, change = jax.jvp(lambda x: crossent.cross_entropy(x, targets), (logits,), (direction,))
        hessian = jax.hessian(crossent.cross_entropy)(logits, targets)
        each = jax.vmap(jax.grad(crossent.cross_entropy))(logits[:, None], targets[:, None])
    gradient = crossent.cross_entropy_and_grad(x[:, 1], t[:, 1])[1]
    np.testing.assert_allclose(change, (gradient * x[:, 2]).sum(), rtol=1e-5)
    np.testing.assert_allclose(each[:, 0] / N, gradient, rtol=4e-6, atol=1e-9)
    np.testing.assert_allclose(np.asarray(hessian).sum((2, 3)), 0, atol=1e-6)


# --- hidden states ----------------------------------------------------------------------------------------------------


def _linear_inputs():
    rng = np.random.default_rng(1)
    hidden, weight = rng.standard_normal((N, S, 6)), rng.standard_normal((V, 6))
    return hidden.astype(np.float32), weight.astype(np.float32), rng.integers(0, V, (N, S)).astype(np.int32)


def _linear_loss(hidden, weight, targets, **options):
    # Room for some of the tokens of a device.
    return crossent.linear_cross_entropy(hidden, weight, targets, ignore_index=3, memory=700, **options)


@EVERY_KIND
@pytest.mark.parametrize("shape", [(N, S), (N * S,)], ids=["batch", "rows"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_A13_hidden_states(kind, shape, reduction):
    hidden, weight, targets = _linear_inputs()
    hidden, targets = hidden.reshape(*shape, 6), targets.reshape(shape)
    targets = jnp.asarray(targets)
    one = jax.value_and_grad(lambda *given: _linear_loss(*given, targets, reduction=reduction).sum(), (0, 1))
    expected = one(jnp.asarray(hidden), jnp.asarray(weight))
    mesh = _mesh(kind, (4,))
    given = _put(hidden, mesh, P("a")), _put(weight, mesh, P())
    beside = _put(targets, mesh, P("a"))

    def loss(hidden, weight, targets):
        return _linear_loss(hidden, weight, targets, reduction=reduction).sum()

    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, (0, 1)))
        found, text = step(*given, beside), step.lower(*given, beside).compile().as_text()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute"))


def test_A13_hidden_states_inside_shard_map():
    hidden, weight, targets = map(jnp.asarray, _linear_inputs())
    mesh = _mesh(AxisType.Auto, (4,))

    def local(hidden, weight, targets):
        return jax.lax.psum(_linear_loss(hidden, weight, targets, reduction="sum"), "a")

    loss = jax.shard_map(local, mesh=mesh, in_specs=(P("a"), P(), P("a")), out_specs=P())
    found = jax.value_and_grad(loss, (0, 1))(hidden, weight, targets)
    one = jax.value_and_grad(lambda *given: _linear_loss(*given, targets, reduction="sum"), (0, 1))
    expected = one(hidden, weight)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)


# --- what rows tell besides their loss --------------------------------------------------------------------------------


def _numbers_and_gradients(row, name, given, beside):
    """The numbers of a call, and the derivatives of a function of them by what may be differentiated."""
    followed = functions.floats(name, beside)

    def value(given, others):
        found = functions.numbers(row, given, beside | dict(zip(followed, others, strict=True)))
        # Each token's derivative comes back times its own number.
        return sum((a * a).sum() for a in found if a.dtype == jnp.float64), found

    others = [beside[key] for key in followed]
    (_, found), gradients = jax.value_and_grad(value, (0, 1), has_aux=True)(given, others)
    return jax.tree.leaves((found, gradients))


def _same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-11, atol=1e-13)


# Kinds of meshes and layouts in all pairs; options with each kind and with each layout.
MEASURED = [
    (AxisType.Explicit, "batch-vocabulary", functions.EVERY),
    *(
        pytest.param(*more, marks=pytest.mark.extended)
        for more in (
            (AxisType.Auto, "batch-vocabulary", {}),
            (AxisType.Explicit, "batch", functions.EVERY),
            (AxisType.Auto, "batch", {}),
            (AxisType.Explicit, "vocabulary", {}),
            (AxisType.Auto, "vocabulary", functions.EVERY),
        )
    ),
]


@pytest.mark.usefixtures("_wide")
@pytest.mark.parametrize(("kind", "layout", "options"), MEASURED, ids=str)
@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_A13_tokens_and_measures(kind, layout, name, options):
    function, keys, more = functions.FUNCTIONS[name]
    row = function, keys, more | options
    x, beside = functions.inputs(N, S, V, options)
    expected = _numbers_and_gradients(row, name, (jnp.asarray(x),), {key: jnp.asarray(a) for key, a in beside.items()})
    shape, spec = LAYOUTS[layout]
    mesh = _mesh(kind, shape)
    logits = _put(x, mesh, spec)
    # The teacher is whole.
    places = dict.fromkeys(beside, P(*spec[:2])) | {"z": P(), "weights": P()}
    parts = {key: _put(a, mesh, places[key]) for key, a in beside.items()}
    with jax.set_mesh(mesh):
        _same(jax.jit(partial(_numbers_and_gradients, row, name))((logits,), parts), expected)
    found = functions.numbers(row, (logits,), parts)
    _same(found, expected[: len(found)])
    if functions.has_gradient(row):
        value = expected[0]
        pairs = [functions.numbers(row, (logits,), parts, (None, jnp.asarray(2 * value)))]
        jitted = jax.jit(lambda x, beside: functions.numbers(row, (x,), beside, (None, 2 * value)))
        pairs += [jitted(logits, parts)]
        for pair in pairs:
            _same(pair, expected[:2])
            assert pair[1].sharding.is_equivalent_to(logits.sharding, 3)


@EVERY_KIND
def test_A13_no_logits_are_gathered_for_classes(kind):
    mesh = _mesh(kind, (4,))

    def shaped(dtype, spec, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    x, ids = shaped(jnp.float32, P(None, "a"), 64, 1024), shaped(jnp.int32, P(), 64, 3)
    for call, other in (
        (crossent.token_log_probs, ids),
        (crossent.token_log_probs_and_grad, ids),
        (partial(crossent.kl_divergence_and_grad, direction="reverse"), x),
    ):
        text = jax.jit(call).lower(x, other).compile().as_text()
        assert "all-reduce" in text
        assert not any(word in text for word in ("all-to-all", "collective-permute"))
        # Of each device the likeliest class.
        gathered = [math.prod(map(int, n.split(","))) for n in re.findall(r"\[([\d,]+)\]\S* all-gather\(", text)]
        assert max(gathered, default=0) <= 4 * 64


@pytest.mark.usefixtures("_wide")
@EVERY_KIND
@pytest.mark.parametrize("name", functions.LINEAR)
def test_A13_tokens_of_hidden_states(kind, name):
    hidden, weight, t = (x.astype(np.float64) for x in _linear_inputs())
    beside = {"t": t.astype(np.int32), "ids": np.stack([t, t[::-1]], -1).astype(np.int32)}
    row, mesh = functions.LINEAR[name], _mesh(kind, (4,))

    def value(hidden, weight, beside):
        found = functions.numbers(row, (hidden, weight), beside, memory=1400)
        return sum((a * a).sum() for a in found if a.dtype == jnp.float64), found

    of = jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))
    expected = of(hidden, weight, beside)
    spread = {key: _put(a, mesh, P("a")) for key, a in beside.items()}
    with jax.set_mesh(mesh):
        found = of(_put(hidden, mesh, P("a")), _put(weight, mesh, P()), spread)
    _same(jax.tree.leaves(found), jax.tree.leaves(expected))


@pytest.mark.parametrize("check", [True, False])
def test_A13_within_shard_map_each_device_walks_its_rows(check):
    mesh = _mesh(AxisType.Auto, (4,))
    x, t = _inputs()
    x, t = jnp.asarray(x), jnp.asarray(t)

    def gradient(x, t):
        return jax.grad(lambda x: crossent.cross_entropy(x, t, reduction="sum"))(x)

    mapped = jax.jit(jax.shard_map(gradient, mesh=mesh, in_specs=(P("a"), P("a")), out_specs=P("a"), check_vma=check))
    spread = _put(x, mesh, P("a"))
    text = mapped.lower(spread, t).compile().as_text()
    # Where a handler is known; else the formula, which moves nothing either.
    if "engine 'numba'" in crossent.explain(x):
        assert "crossent_walk" in text
    assert "all-gather" not in text
    np.testing.assert_allclose(np.asarray(mapped(spread, t)), np.asarray(gradient(x, t)), atol=1e-6)


# --- machine code on each device --------------------------------------------------------------------------------------

ROWS = {
    "batch": ((4,), (8, 4, 300), P("a")),
    "batch-sequence": ((2, 2), (8, 4, 300), P("a", "b")),
    "both-on-one": ((2, 2), (8, 4, 300), P(("b", "a"))),
    "one-of-two": ((2, 2), (8, 300), P("b")),
    "three-of-four": ((3,), (6, 10), P("a")),
    "replicated": ((4,), (8, 300), P()),
}
MOVES = ("all-gather", "all-to-all", "collective-permute", "all-reduce", "reduce-scatter")
EVERY_PARTITIONER = pytest.mark.parametrize("is_shardy", [True, False], ids=["shardy", "gspmd"])


def _is_walked(text):
    return 'custom_call_target="crossent_' in text


@pytest.fixture
def partitioner(is_shardy):
    jax.config.update("jax_use_shardy_partitioner", is_shardy)
    yield
    jax.config.update("jax_use_shardy_partitioner", True)


@pytest.fixture
def _is_called():
    if "engine 'numba'" not in crossent.explain(jnp.zeros((2, 3))):
        pytest.skip("machine code cannot be called here, and the formula is in its place")


def _mesh_of(kind, devices):
    return jax.make_mesh(
        devices,
        ("a", "b")[: len(devices)],
        axis_types=(kind,) * len(devices),
        devices=jax.devices()[: math.prod(devices)],
    )


@pytest.mark.usefixtures("_is_called", "partitioner")
@EVERY_PARTITIONER
@EVERY_KIND
@pytest.mark.parametrize(("devices", "shape", "spec"), ROWS.values(), ids=ROWS)
def test_A13_each_device_walks_its_rows(devices, shape, spec, kind, is_shardy):
    """With NumPy's bits, and nothing moves."""
    if not is_shardy and kind == AxisType.Explicit:
        pytest.skip("explicit axes are Shardy's")
    rng = np.random.default_rng(0)
    x, v = (3 * rng.standard_normal(shape)).astype(np.float32), shape[-1]
    t, soft = rng.integers(0, v, shape[:-1]).astype(np.int32), rng.random(shape, np.float32)
    w, u = rng.random(shape[:-1], np.float32), rng.random(v, np.float32)
    mesh, of_tokens = _mesh_of(kind, devices), P(*spec[: len(shape) - 1])
    for targets, place, options in (
        (t, of_tokens, {"weights": w, "class_weights": u, "label_smoothing": 0.1, "z_loss": 0.01}),
        (soft, spec, {"weights": w}),
    ):
        places = {"weights": of_tokens, "class_weights": P()}
        beside = {name: _put(a, mesh, places[name]) if name in places else a for name, a in options.items()}
        call = jax.jit(partial(crossent.cross_entropy_and_grad, reduction="none", **beside))
        given = _put(x, mesh, spec), _put(targets, mesh, place)
        text = call.lower(*given).compile().as_text()
        assert _is_walked(text)
        assert not any(word in text for word in MOVES)
        expected = crossent.cross_entropy_and_grad(x, targets, reduction="none", **options)
        eager = crossent.cross_entropy_and_grad(*given, reduction="none", **beside)
        for pair in (call(*given), eager):
            for a, b in zip(pair, expected, strict=True):
                np.testing.assert_array_equal(np.asarray(a), b)
            assert pair[1].sharding.is_equivalent_to(given[0].sharding, len(shape))
        step = jax.jit(jax.value_and_grad(crossent.cross_entropy))
        with jax.set_mesh(mesh):
            assert _is_walked(step.lower(*given).compile().as_text())
            value, d = step(*given)
        expected = crossent.cross_entropy_and_grad(x, targets)
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(np.asarray(d), expected[1], rtol=4e-6, atol=1e-9)


@pytest.mark.usefixtures("_is_called", "partitioner")
@EVERY_PARTITIONER
def test_A13_parts_of_different_sizes(is_shardy):
    """What XLA fills up is no row and no class."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((7, 13), np.float32), rng.integers(0, 13, 7).astype(np.int32)
    u, q, mesh = rng.random(13, np.float32), rng.random((7, 13), np.float32), _mesh(AxisType.Auto, (2, 2))
    for spec in (P(("a", "b")), P(None, ("a", "b")), P("a", "b"), P("b", "a")):
        place = NamedSharding(mesh, spec)

        def call(x, t, u, place=place, **options):
            x = jax.lax.with_sharding_constraint(x, place)
            return crossent.cross_entropy_and_grad(x, t, class_weights=u, reduction="none", **options)

        for given in ((x, t, u), (x, q, u)):
            options = {"label_smoothing": 0.125, "z_loss": 0.01}
            program = jax.jit(partial(call, **options)).lower(*(_put(a, mesh, P()) for a in given)).compile()
            assert _is_walked(program.as_text()) == (len(spec) == 1)
            found = program(*(_put(a, mesh, P()) for a in given))
            expected = crossent.cross_entropy_and_grad(*given[:2], class_weights=u, reduction="none", **options)
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(np.asarray(a), b, rtol=4e-6, atol=1e-6)


@pytest.mark.usefixtures("_is_called", "partitioner")
@EVERY_PARTITIONER
@pytest.mark.parametrize("spec", [P("b"), P(("b", "a")), P(None, "b")], ids=str)
def test_A13_devices_in_another_order(spec, is_shardy):
    """Also within a context that has their mesh."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((8, 300), np.float32), rng.integers(0, 300, 8).astype(np.int32)
    mesh = jax.sharding.Mesh(np.array(jax.devices())[[3, 1, 0, 2]].reshape(2, 2), ("a", "b"))
    given = _put(x, mesh, spec), _put(t, mesh, P(*spec[:1]))
    call = partial(crossent.cross_entropy_and_grad, reduction="none")
    expected = call(x, t)
    for is_within in (False, True):
        with jax.set_mesh(mesh) if is_within else nullcontext():
            program = jax.jit(partial(call)).lower(*given).compile()
        assert _is_walked(program.as_text()) == (spec[0] is not None)
        for a, b in zip(program(*given), expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=4e-6, atol=1e-6)


@pytest.mark.usefixtures("_is_called")
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_A13_rows_of_every_dtype_are_walked(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 300)), dtype)
        t, mesh = jnp.arange(8), _mesh(AxisType.Auto, (4,))
        call = jax.jit(partial(crossent.cross_entropy_and_grad, reduction="none"))
        expected, given = call(x, t), (_put(x, mesh, P("a")), _put(t, mesh, P("a")))
        assert _is_walked(call.lower(*given).compile().as_text())
        for a, b in zip(call(*given), expected, strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.usefixtures("_is_called", "_wide")
def test_A13_spread_rows_are_transformed_as_the_formula_is():
    rng, mesh = np.random.default_rng(0), _mesh(AxisType.Auto, (4,))
    x, t, u = rng.standard_normal((4, 6, 5)), rng.integers(0, 5, (4, 6)), rng.random((3, 5))
    given = _put(x, mesh, P("a")), _put(t, mesh, P("a")), _put(u, mesh, P())

    def of(engine):
        def loss(x, t, u):
            return crossent.cross_entropy(x, t, class_weights=u, label_smoothing=0.1, engine=engine)

        return loss

    one = (*given[:2], given[2][0])
    for transform, args, is_walked in (
        (lambda f: jax.vmap(jax.grad(f), (0, 0, None)), one, True),
        (lambda f: jax.vmap(jax.grad(f), (1, 1, None)), one, True),
        (lambda f: lambda x, t, u: jax.jvp(lambda x: f(x, t, u), (x,), (x * x,)), one, True),
        (lambda f: jax.grad(lambda x, t, u: f(x, t, u) ** 2, (0, 2)), one, True),
        (jax.hessian, one, False),
        (lambda f: jax.vmap(jax.grad(f), (None, None, 0)), given, False),
    ):
        functions = [jax.jit(transform(of(engine))) for engine in ("numba", "array_api")]
        assert _is_walked(functions[0].lower(*args).compile().as_text()) == is_walked
        found, expected = (jax.tree.leaves(function(*args)) for function in functions)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("_is_called")
def test_A13_the_gradient_goes_over_spread_logits_that_are_donated():
    mesh = _mesh(AxisType.Auto, (4,))
    x, t = np.random.default_rng(0).standard_normal((64, 300), np.float32), np.zeros(64, np.int32)
    for donated in ((), 0):
        step = jax.jit(crossent.cross_entropy_and_grad, donate_argnums=donated)
        given = _put(x, mesh, P("a")), _put(t, mesh, P("a"))
        text = step.lower(*given).compile().as_text()
        assert ("output_to_operand_aliasing" in text) == (donated == 0)
        assert " copy(" not in text
        np.testing.assert_array_equal(np.asarray(step(*given)[1]), crossent.cross_entropy_and_grad(x, t)[1])


@pytest.mark.usefixtures("_is_called")
def test_A13_programs_of_other_options_are_other_texts():
    """By which JAX finds those that it keeps on disk."""
    mesh = _mesh(AxisType.Auto, (4,))
    x, t = _put(np.zeros((8, 5), np.float32), mesh, P("a")), _put(np.zeros(8, np.int32), mesh, P("a"))
    texts = set()
    for smoothing in (0.1, 0.2, 0.2):
        call = partial(crossent.cross_entropy_and_grad, reduction="none", label_smoothing=smoothing)
        # Without the number of the Python object that XLA asks.
        texts.add(re.sub(r"backend_config = \"\d+\"", "", jax.jit(call).lower(x, t).as_text()))
    assert len(texts) == 2


@pytest.mark.usefixtures("_is_called")
@EVERY_KIND
def test_A13_explain_says_where_rows_are_walked(kind):
    mesh, apart = _mesh(kind, (4,)), "rows that have all their classes on one device, and these are spread"
    rows, classes = (_put(np.zeros((8, 8), np.float32), mesh, spec) for spec in (P("a"), P(None, "a")))
    said = []
    assert "engine 'numba'" in crossent.explain(rows)
    assert apart in crossent.explain(classes)
    with pytest.raises(ValueError, match=apart):
        crossent.cross_entropy(classes, jnp.zeros(8, jnp.int32), engine="numba")
    with pytest.raises(ValueError, match="rows of cross-entropies alone"):
        crossent.entropy(rows, engine="numba")
    for x in (rows, classes):
        jax.jit(lambda x: said.append(crossent.explain(x))).trace(x)
    assert "engine 'numba'" in said[0]
    assert "in a program of several devices numba walks rows" in said[0]
    # Only explicit axes say in a trace what is spread.
    assert (apart in said[1]) == (kind == AxisType.Explicit)
    assert ("in a program of several devices numba walks rows" in said[1]) == (kind == AxisType.Auto)
