"""Clause D1 in JAX: grad, jvp, hessian, vmap and jit, and each under the others.

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
    {"label_smoothing": 0.25, "smoothing": "uniform", "class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5])},
    {"weights": np.array([[0.5, 2.0, 0.0], [1.5, 0.25, 1.0]]), "z_loss": 0.0625},
    {"denominator": "tokens", "weights": np.array([0.5, 2.0, 1.0]), "ignore_index": 0},
    {"algorithm": "explicit", "reduction": "sum"},
]
IDS = ["plain", "ignore", "uniform-classes", "weights-z", "tokens", "explicit"]
PATHS = ("grad", "jit(grad)", "grad(jit)", "vmap(grad)", "jacrev", "jacfwd", "vjp", "jvp")


def _problem(soft=False):
    logits, targets = cases.random((2, 3), 5)
    return cases.eighths(logits), cases.eighths(cases.generator(9).random(logits.shape)) if soft else targets


def _placed(place, options):
    return {
        name: place.put(value, place.compute_dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }


def _gradient(place, function, path):
    """The gradient of a scalar function of logits (N, V) and targets, by the path."""
    jax = place.backend.jax

    def by_vjp(x, t):
        loss, pull = jax.vjp(lambda a: function(a, t), x)
        return pull(jax.numpy.ones_like(loss))[0]

    def by_jvp(x, t):
        directions = jax.numpy.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
        return jax.vmap(lambda dx: jax.jvp(lambda a: function(a, t), (x,), (dx,))[1])(directions).reshape(x.shape)

    return {
        "grad": jax.grad(function),
        "jit(grad)": jax.jit(jax.grad(function)),
        "grad(jit)": jax.grad(jax.jit(function)),
        "vmap(grad)": jax.vmap(jax.grad(function)),
        "jacrev": jax.jacrev(function),
        "jacfwd": jax.jacfwd(function),
        "vjp": by_vjp,
        "jvp": by_jvp,
    }[path]


@pytest.mark.clause("D1", "V1", "V4")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("path", PATHS)
def test_D1_confident_rows_keep_their_digits(place, subject, path):
    logits, targets = cases.gaps(10, (-20.0, -5.0, 0.0, 5.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0))
    logits = place.round(logits)
    _, exact = oracle.cross_entropy(logits, targets, reduction="sum")
    function = partial(subject.loss, reduction="sum")
    d_logits = _gradient(place, function, path)(place.put(logits, place.dtype), place.put(targets))
    forward = path in ("jacfwd", "jvp")  # a tangent has the dtype of the loss
    assert place.backend.dtype_name(d_logits) in ((place.dtype, place.compute_dtype) if forward else (place.dtype,))
    d_logits = place.to_numpy(d_logits)
    units.check(d_logits, exact, place.compute_dtype, stored=place.dtype)
    if place.dtype == place.compute_dtype:
        d_logits = d_logits.astype(np.float64)
        largest = np.abs(d_logits).max(axis=1)
        allowed = np.array([units.allowance(10, size) * size for size in largest]) * units.EPS[place.dtype]
        assert (np.abs(d_logits.sum(axis=1)) <= allowed).all()


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_grad_with_every_option(place, subject, options, soft):
    if soft:
        options = {name: value for name, value in options.items() if name != "ignore_index"}
    logits, targets = _problem(soft)
    exact_loss, exact = oracle.cross_entropy(logits, targets, **options)
    x, t = place.put(logits, place.dtype), place.put(targets, place.dtype if soft else None)
    function = partial(subject.loss, **_placed(place, options))
    loss, d_logits = place.backend.jax.value_and_grad(function)(x, t)
    units.check(place.to_numpy(loss), exact_loss, place.compute_dtype)
    units.check(place.to_numpy(d_logits), exact, place.compute_dtype, stored=place.dtype)


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float64",))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_first_and_second_derivatives_are_differences(place, subject, options, soft):
    from jax.test_util import check_grads

    if soft:
        options = {name: value for name, value in options.items() if name != "ignore_index"}
    logits, targets = _problem(soft)
    t = place.put(targets, place.dtype if soft else None)
    function = partial(subject.loss, targets=t, **_placed(place, options))
    check_grads(place.backend.jax.jit(function), (place.put(logits, place.dtype),), order=2, modes=("fwd", "rev"))


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float64",))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.125}, {"reduction": "none"}], ids=["mean", "smoothed", "none"]
)
def test_D1_with_respect_to_weights_and_soft_targets(place, subject, options, soft):
    from jax.test_util import check_grads

    logits, targets = _problem(soft)
    t = place.put(targets, place.dtype if soft else None)
    x, w, u = (
        place.put(values, place.dtype)
        for values in (logits, np.array([[0.5, 2.0, 1.0], [1.5, 0.25, 1.0]]), np.array([1.0, 0.5, 2.0, 0.25, 1.5]))
    )

    def function(x, w, u, q=t):
        return subject.loss(x, q, weights=w, class_weights=u, **options)

    arguments = (x, w, u, t) if soft else (x, w, u)
    check_grads(place.backend.jax.jit(function), arguments, order=1, modes=("fwd", "rev"))


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float64", "float32"))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_D1_hessian(place, subject, compiled):
    jax = place.backend.jax
    logits, targets = cases.random((), 6)
    t = place.put(targets)
    hessian = jax.hessian(lambda a: subject.loss(a, t))
    hessian = (jax.jit(hessian) if compiled else hessian)(place.put(logits, place.dtype))
    p = np.exp(place.round(logits)) / np.exp(place.round(logits)).sum()
    np.testing.assert_allclose(
        place.to_numpy(hessian), np.diag(p) - np.outer(p, p), rtol=0, atol=8 * units.EPS[place.dtype]
    )


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_D1_vmap_along_any_axis(place, subject, axis):
    jax = place.backend.jax
    logits, targets = cases.random((4, 3, 2), 5)
    x, t = place.put(logits, place.dtype), place.put(targets)
    function = partial(subject.loss, reduction="none", label_smoothing=0.125, ignore_index=1)
    expected = place.to_numpy(function(x, t))
    mapped = jax.vmap(function, in_axes=axis, out_axes=axis)(x, t)
    np.testing.assert_allclose(place.to_numpy(mapped), expected, rtol=4 * units.EPS[place.compute_dtype])
    shared = jax.vmap(function, in_axes=(0, None))(x, t[0])
    one_by_one = np.stack([place.to_numpy(function(a, t[0])) for a in x])
    np.testing.assert_allclose(place.to_numpy(shared), one_by_one, rtol=4 * units.EPS[place.compute_dtype])


@pytest.mark.clause("D1", "S1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("path", ["grad", "jit(grad)", "jacfwd", "jvp"])
def test_D1_what_an_ignored_row_holds_goes_nowhere(place, subject, path):
    logits, targets = cases.random((4,), 5)
    targets[1] = targets[3] = -100
    dirty = logits.copy()
    dirty[1], dirty[3, 2] = np.nan, np.inf
    gradient = _gradient(place, partial(subject.loss, ignore_index=-100), path)
    t = place.put(targets)
    got = place.to_numpy(gradient(place.put(dirty, place.dtype), t))
    np.testing.assert_array_equal(got, place.to_numpy(gradient(place.put(logits, place.dtype), t)))
    assert (got[[1, 3]] == 0).all()


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,))
def test_D1_jit_of_every_function(place, subject):
    jax = place.backend.jax
    x, t = place.put(_problem()[0], place.dtype), place.put(_problem()[1])
    for function in (subject.loss, subject.loss_and_grad, subject.shift):
        compiled, eager = jax.jit(function)(x, t), function(x, t)
        for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(
                place.to_numpy(a).astype(float), place.to_numpy(b).astype(float), rtol=4 * units.EPS[place.dtype]
            )
    assert jax.jit(subject.perplexity)(subject.loss(x, t)).shape == ()


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_inside_a_scan_with_donated_parameters(place, subject):
    """A training loop under the compiler: the loss falls."""
    jax, jnp = place.backend.jax, place.backend.jax.numpy
    h, t = place.put(cases.random((16,), 4)[0], place.dtype), place.put(cases.random((16,), 5)[1])

    def step(w, _):
        loss, d = jax.value_and_grad(lambda w: subject.loss(h @ w, t))(w)
        return w - 0.1 * d, loss

    _, losses = jax.jit(lambda w: jax.lax.scan(step, w, length=20), donate_argnums=0)(jnp.zeros((4, 5), h.dtype))
    assert (np.diff(place.to_numpy(losses)) < 0).all()
