"""P1 to P3: a vocabulary in shards on four devices of JAX, inside `shard_map`. `tests/test_several_devices.py` runs
this file in a process of its own, which has four.
"""

from __future__ import annotations

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tests.shard_cases import OPTIONS, SIZES, SOFT, STARTS, V, inputs

import crossent
from crossent_conformance import oracle, units

pytestmark = pytest.mark.usefixtures("_wide")
WIDTH = max(SIZES)
STARTS_OF, SIZES_OF = jnp.asarray(STARTS, jnp.int32), jnp.asarray(SIZES, jnp.int32)
PLACES = np.concatenate([rank * WIDTH + np.arange(SIZES[rank]) for rank in range(4)])
LAST = P(None, None, "classes")
QUICK = ("plain", "classes-smoothed", "sequence", "soft-smoothed")
EVERY_OPTION = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.extended) for name in OPTIONS]
)


@cache
def _mesh():
    return jax.make_mesh((4,), ("classes",), axis_types=(AxisType.Auto,))


def _spread(a, fill=7.0):
    """The classes where devices have them, each with as many columns as the largest has."""
    return jnp.full((*a.shape[:-1], 4 * WIDTH), fill, a.dtype).at[..., PLACES].set(a)


def _shard(check=True):
    """Within `shard_map`, by numbers that only the program knows."""
    i = jax.lax.axis_index("classes")
    return crossent.VocabularyShard(STARTS_OF[i], SIZES_OF[i], "classes", check=check)


def _call(function, options, soft, *, outs, check=True):
    """A function of all classes, whose devices each know theirs."""
    arrays = {key: jnp.asarray(a) for key, a in options.items() if isinstance(a, np.ndarray)}
    rest = {key: a for key, a in options.items() if key not in arrays}
    if "class_weights" in arrays:
        arrays["class_weights"] = _spread(arrays["class_weights"])

    def local(x, t, arrays):
        return function(x, t, vocabulary=_shard(check), **arrays, **rest)

    specs = {key: P("classes") if key == "class_weights" else P() for key in arrays}
    of = jax.shard_map(local, mesh=_mesh(), in_specs=(LAST, LAST if soft else P(), specs), out_specs=outs)
    return lambda x, t: of(x, t, arrays)


def _collectives(function, *given):
    text = jax.jit(function).lower(*given).compile().as_text()
    assert "all-gather" not in text
    return len(re.findall(r" all-reduce(?:-start)?\(", text))


@EVERY_OPTION
def test_P1_loss_and_gradient(name):
    x, targets, options = inputs(name, "float32")
    soft = name in SOFT
    exact = oracle.cross_entropy(x.astype(np.float64), targets.astype(float) if soft else targets, **options)
    logits, t = _spread(jnp.asarray(x)), _spread(jnp.asarray(targets)) if soft else jnp.asarray(targets)
    loss = _call(crossent.cross_entropy, options, soft, outs=P())
    pair = _call(crossent.cross_entropy_and_grad, options, soft, outs=(P(), LAST))
    # Called as it is, each of its operations is compiled by itself, which takes long and is asked of one.
    called = loss if name == "plain" else jax.jit(loss)
    found = [jax.jit(pair)(logits, t), (called(logits, t), jax.jit(jax.grad(lambda x: loss(x, t).sum()))(logits))]
    for value, gradient in found:
        units.check(np.asarray(value), exact[0], "float32", what="loss")
        d = np.asarray(gradient)
        units.check(d[..., PLACES], exact[1], "float32", what="d_logits")
        assert not np.delete(d, PLACES, axis=-1).any()
    # A maximum and a sum, and none for the gradient; with checks, one of the ranges.
    count = 3 if soft and "label_smoothing" in options else 2
    without = _call(crossent.cross_entropy, options, soft, outs=P(), check=False)
    assert _collectives(without, logits, t) == count
    assert _collectives(jax.grad(lambda x: without(x, t).sum()), logits) == count
    assert _collectives(loss, logits, t) == count + 1


@pytest.mark.parametrize("name", ["classes-smoothed", "uniform-z", "soft-smoothed", "soft-classes"])
def test_P1_derivatives_of_the_others_and_second_ones(name):
    x, targets, options = inputs(name)
    x = np.where(np.isfinite(x), x, -1.0)
    soft = name in SOFT
    options = {key: a for key, a in options.items() if not isinstance(a, np.ndarray)}

    def local(x, t, w, u):
        return crossent.cross_entropy(x, t, weights=w, class_weights=u, vocabulary=_shard(), **options)

    specs = (LAST, LAST if soft else P(), P(), P("classes"))
    of_shards = jax.shard_map(local, mesh=_mesh(), in_specs=specs, out_specs=P())

    def sharded(x, w, u, q):
        return of_shards(_spread(x), _spread(q) if soft else jnp.asarray(targets), w, _spread(u))

    def whole(x, w, u, q):
        t = q if soft else jnp.asarray(targets)
        return crossent.cross_entropy(x, t, weights=w, class_weights=u, **options)

    q = targets if soft else np.zeros_like(x)
    given = tuple(map(jnp.asarray, (x, np.linspace(0.25, 2, 4), np.linspace(0.5, 2, V), q)))
    results = []
    for loss in (sharded, whole):
        first = jax.grad(loss, argnums=(0, 1, 2, 3) if soft else (0, 1, 2))

        def second(x, *rest, loss=loss):
            return jax.grad(lambda x: (jax.grad(loss)(x, *rest) ** 2).sum())(x)

        results.append([*jax.jit(first)(*given), jax.jit(second)(*given)])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory", [None, 2000])
@EVERY_OPTION
def test_P2_hidden_states(name, memory):
    _, targets, options = inputs(name)
    soft = name in SOFT
    rng = np.random.default_rng(1)
    hidden, weight, bias = (rng.standard_normal(shape) for shape in ((3, 4, 6), (V, 6), (V,)))
    expected, gradients = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, bias=bias, **options)
    arrays = {key: jnp.asarray(a) for key, a in options.items() if isinstance(a, np.ndarray)}
    rest = {key: a for key, a in options.items() if key not in arrays} | {"memory": memory}
    if "class_weights" in arrays:
        arrays["class_weights"] = _spread(arrays["class_weights"])
    t = _spread(jnp.asarray(targets)) if soft else jnp.asarray(targets)
    given = jnp.asarray(hidden), _spread(jnp.asarray(weight.T)).T, _spread(jnp.asarray(bias))

    def in_parts(function, outs):
        def local(h, w, b, t, arrays):
            return function(h, w, t, bias=b, vocabulary=_shard(), **arrays, **rest)

        specs = {key: P("classes") if key == "class_weights" else P() for key in arrays}
        ins = (P(), P("classes"), P("classes"), LAST if soft else P(), specs)
        of = jax.shard_map(local, mesh=_mesh(), in_specs=ins, out_specs=outs)
        return lambda h, w, b: of(h, w, b, t, arrays)

    pair = in_parts(crossent.linear_cross_entropy_and_grad, (P(), (P(), P("classes"), P("classes"))))
    value, found = jax.jit(pair)(*given)
    loss = in_parts(crossent.linear_cross_entropy, P())
    again = jax.jit(jax.grad(lambda *given: loss(*given).sum(), argnums=(0, 1, 2)))(*given)
    np.testing.assert_allclose(np.asarray(value), expected, rtol=1e-11, atol=1e-13)
    for d_hidden, d_weight, d_bias in (found, again):
        made = d_hidden, np.asarray(d_weight)[PLACES], np.asarray(d_bias)[PLACES]
        for d, exact in zip(made, gradients, strict=True):
            np.testing.assert_allclose(np.asarray(d), exact, rtol=1e-10, atol=1e-12)


RANGES = {
    "overlap": ((0, 7, 6, 18), (7, 0, 12, 5)),
    "gap": ((0, 7, 8, 18), (7, 0, 10, 5)),
    "late": ((1, 7, 7, 18), (6, 0, 11, 5)),
    "empty": ((0, 0, 0, 0), (0, 0, 0, 0)),
    "more-than-columns": ((0, 7, 7, 19), (7, 0, 12, 4)),
}


@pytest.mark.parametrize(("starts", "sizes"), RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("name", ["plain", "soft"])
def test_P3_ranges_that_do_not_fit_are_nan(name, starts, sizes):
    """A program that is traced raises nothing."""
    x, targets, _ = inputs(name)
    soft = name in SOFT

    def local(x, t):
        i = jax.lax.axis_index("classes")
        shard = crossent.VocabularyShard(jnp.asarray(starts)[i], jnp.asarray(sizes)[i], "classes")
        return crossent.cross_entropy(x, t, vocabulary=shard, reduction="none")

    of = jax.shard_map(local, mesh=_mesh(), in_specs=(LAST, LAST if soft else P()), out_specs=P())
    found = of(_spread(jnp.asarray(x)), _spread(jnp.asarray(targets), 0.0) if soft else jnp.asarray(targets))
    assert np.isnan(found).all()


def test_an_axis_that_is_not_there():
    with pytest.raises(ValueError, match="group is 'rows', an axis that JAX does not know here; accepted: one that"):
        crossent.VocabularyShard(0, 4, "rows")


def test_P1_shards_of_one_size_and_no_tokens():
    """Where sizes are plain numbers, shapes are what they say."""
    x, t = np.random.default_rng(2).standard_normal((6, 8)), np.arange(6)

    def local(x, t):
        shard = crossent.VocabularyShard(2 * jax.lax.axis_index("classes"), 2, "classes")
        return crossent.cross_entropy(x, t, vocabulary=shard)

    of = jax.shard_map(local, mesh=_mesh(), in_specs=(P(None, "classes"), P()), out_specs=P())
    np.testing.assert_allclose(of(x, t), crossent.cross_entropy(x, t), rtol=1e-14)
    assert of(x[:0], t[:0]) == 0
    padded = partial(jnp.pad, pad_width=((0, 0), (0, 1)), constant_values=9)
    parts = jnp.concatenate([padded(x[:, 2 * i : 2 * i + 2]) for i in range(4)], axis=1)
    np.testing.assert_allclose(of(parts, t), crossent.cross_entropy(x, t), rtol=1e-14)
