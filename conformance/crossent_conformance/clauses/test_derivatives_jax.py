"""Clause D1 in JAX: grad, jvp, hessian, vmap and jit, and each under the others.

Whatever the path, the gradient is the contract's: accurate for confident targets (V1), in rows that sum to zero (V4).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import Mode
from crossent_conformance.subject import DoesNotApply

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


CONFIDENT = (5.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0)
"""Gaps at which the formula of the loss cancels, and with it the derivative of the formula."""


def _has_meaning(place, options, soft):
    """Soft targets have no number to ignore; with each of the options they are asked in a thorough run."""
    return not (soft and ("ignore_index" in options or (options and depth.spares(place))))


def _is_short(place, options, soft):
    """What of the second derivatives, which take seconds to compile, there is time for."""
    return _has_meaning(place, options, soft) and (not depth.spares(place) or options in (OPTIONS[0], OPTIONS[5]))


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
        "vmap(grad)": lambda x, t: jax.vmap(jax.grad(lambda a, b: function(a, b) / len(t)))(x, t),
        "jacrev": jax.jacrev(function),
        "jacfwd": jax.jacfwd(function),
        "vjp": by_vjp,
        "jvp": by_jvp,
    }[path]


@pytest.mark.clause("D1")
@pytest.mark.places(
    backends=("jax",),
    modes=(Mode.EAGER,),
    when=lambda place, path, gaps: place.dtype == "float32" or (path == "grad" and gaps is CONFIDENT),
)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("gaps", [cases.MILD_GAPS, CONFIDENT], ids=["mild", "confident"])
def test_D1_every_path_gives_the_contracts_gradient(place, subject, path, gaps):
    logits, targets = cases.gaps(8, gaps)
    logits = place.round(logits)
    agree.to_begin_with(place, subject, logits, targets)
    _, exact = oracle.cross_entropy(logits, targets)
    d_logits = _gradient(place, subject.loss, path)(place.put(logits, place.dtype), place.put(targets))
    forward = path in ("jacfwd", "jvp")  # a tangent has the dtype of the loss
    assert place.backend.dtype_name(d_logits) in ((place.dtype, place.compute_dtype) if forward else (place.dtype,))
    agree.gradient(place, place.to_numpy(d_logits), exact)


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), sparse=True, when=_has_meaning)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_grad_with_every_option(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    logits, targets = _problem(soft)
    agree.to_begin_with(place, subject, logits, targets, **options)
    _, exact = oracle.cross_entropy(logits, targets, **options)
    x, t = place.put(logits, place.dtype), place.put(targets, place.dtype if soft else None)
    d_logits = place.backend.jax.grad(partial(subject.loss, **_placed(place, options)))(x, t)
    agree.gradient(place, place.to_numpy(d_logits), exact)


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float64",), when=_is_short)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_D1_first_and_second_derivatives_are_differences(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    from jax.test_util import check_grads

    logits, targets = _problem(soft)
    t = place.put(targets, place.dtype if soft else None)
    function = partial(subject.loss, targets=t, **_placed(place, options))
    check_grads(place.backend.jax.jit(function), (place.put(logits, place.dtype),), order=2, modes=("fwd", "rev"))


@pytest.mark.clause("D1")
@pytest.mark.places(
    backends=("jax",),
    modes=(Mode.EAGER,),
    dtypes=("float64",),
    when=lambda place, of, soft, options: (
        (soft or of != "soft")
        and (not depth.spares(place) or (soft == (of == "soft") and bool(options) == (of == "weights")))
    ),
)
@pytest.mark.parametrize("of", ["weights", "class_weights", "soft"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.125}], ids=["mean", "smoothed"])
def test_D1_with_respect_to_other_inputs(place, subject, of, options, soft):
    agree.serves_soft(place, subject, soft)
    from jax.test_util import check_grads

    logits, targets = _problem(soft)
    x, t = place.put(logits, place.dtype), place.put(targets, place.dtype if soft else None)
    other = {
        "weights": place.put(np.array([[0.5, 2.0, 1.0], [1.5, 0.25, 1.0]]), place.dtype),
        "class_weights": place.put(np.array([1.0, 0.5, 2.0, 0.25, 1.5]), place.dtype),
        "soft": t,
    }[of]

    def function(x, other):
        if of == "soft":
            return subject.loss(x, other, **options)
        return subject.loss(x, t, **{of: other}, **options)

    check_grads(place.backend.jax.jit(function), (x, other), order=1, modes=("fwd", "rev"))


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
@pytest.mark.places(
    backends=("jax",),
    modes=(Mode.EAGER,),
    sparse=True,
    when=lambda place, axis, options: not (options and axis) or not depth.spares(place),
)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 1}, {"label_smoothing": 0.125}], ids=["plain", "ignore", "smoothed"]
)
def test_D1_vmap_along_any_axis(place, subject, axis, options):
    jax = place.backend.jax
    logits, targets = cases.random((4, 3, 2), 5)
    x, t = place.put(logits, place.dtype), place.put(targets)
    function = partial(subject.loss, reduction="none", **options)
    expected = place.to_numpy(function(x, t))
    agree.alike(place, place.to_numpy(jax.vmap(function, in_axes=axis, out_axes=axis)(x, t)), expected)
    one_by_one = np.stack([place.to_numpy(function(a, t[0])) for a in x])
    agree.alike(place, place.to_numpy(jax.vmap(function, in_axes=(0, None))(x, t[0])), one_by_one)


@pytest.mark.clause("D1", "S1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), sparse=True)
@pytest.mark.parametrize("path", ["grad", "jit(grad)", "jacfwd", "jvp"])
def test_D1_what_an_ignored_row_holds_goes_nowhere(place, subject, path):
    logits, targets = cases.random((4,), 5)
    targets = np.where(np.arange(4) % 2 == 1, -100, targets)
    dirty = logits.copy()
    dirty[1], dirty[3, 2] = np.nan, np.inf
    gradient = _gradient(place, partial(subject.loss, ignore_index=-100), path)
    t = place.put(targets)
    _, plain = agree.both(place, subject, dirty, targets, ignore_index=-100)
    if not np.isfinite(plain).all():
        raise DoesNotApply("a gradient that ignores what an ignored row holds to begin with")
    got = place.to_numpy(gradient(place.put(dirty, place.dtype), t))
    agree.alike(place, got, place.to_numpy(gradient(place.put(logits, place.dtype), t)))
    assert (got[[1, 3]] == 0).all()


@pytest.mark.clause("D1")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), sparse=True)
@pytest.mark.parametrize("name", ["loss", "loss_and_grad", "shift"])
def test_D1_jit_of_every_function(place, subject, name):
    jax = place.backend.jax
    x, t = place.put(_problem()[0], place.dtype), place.put(_problem()[1])
    function = getattr(subject, name)
    compiled, eager = jax.jit(function)(x, t), function(x, t)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        assert a.dtype == b.dtype
        agree.alike(place, place.to_numpy(a), place.to_numpy(b))


@pytest.mark.clause("D1", "V11")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), sparse=True)
def test_D1_jit_of_perplexity(place, subject):
    loss = place.put(np.asarray(1.5), place.compute_dtype)
    got = place.backend.jax.jit(subject.perplexity)(loss)
    agree.alike(place, place.to_numpy(got), place.to_numpy(subject.perplexity(loss)))


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
