"""Clause D1 in torch and JAX: every way to a derivative, each under the others.

Whatever the path, the gradient is the contract's: accurate for confident targets (V1), in rows that sum to zero (V4).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth, oracle, units
from crossent_conformance.backends import Mode
from crossent_conformance.subject import DoesNotApply

TORCH = ("torch", "torch-cuda")
BOTH = (*TORCH, "jax")
CLASS_WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25, 1.5])
WEIGHTS = np.array([[0.5, 2.0, 0.0], [1.5, 0.25, 1.0]])
OPTIONS = {
    "plain": {},
    "ignore": {"reduction": "sum", "ignore_index": 1},
    "smoothed": {"reduction": "none", "label_smoothing": 0.1},
    "uniform-classes": {"label_smoothing": 0.25, "smoothing": "uniform", "class_weights": CLASS_WEIGHTS},
    "sequence-weights-z": {"reduction": "sequence", "weights": WEIGHTS, "z_loss": 0.0625},
    "tokens": {"denominator": "tokens", "weights": np.array([0.5, 2.0, 1.0]), "ignore_index": 0},
    "explicit": {"algorithm": "explicit", "reduction": "sum"},
    "transformed": {"temperature": 0.75, "logit_softcap": 4.0, "label_smoothing": 0.1},
}
OTHER_OPTIONS = {
    "mean": {},
    "none": {"reduction": "none"},
    "sequence-smoothed": {"reduction": "sequence", "label_smoothing": 0.125},
    "sum-smoothed": {"reduction": "sum", "label_smoothing": 0.125},
}
CONFIDENT = (5.0, 10.0, 15.0, 17.0, 20.0, 40.0, 60.0)
"""Gaps at which the formula of the loss cancels, and with it the derivative of the formula."""


class _Torch:
    """The derivatives of torch, of functions of (N, V) logits and targets."""

    forward = ()

    def __init__(self, backend):
        self.torch = backend.torch
        self.vmap = lambda f, in_axes=0, out_axes=0: self.torch.func.vmap(f, in_axes, out_axes)
        self.hessian = lambda f: self.torch.func.jacrev(self.torch.func.jacrev(f))

    def paths(self, loss):
        torch, grad = self.torch, self.torch.autograd.grad

        def leaf(x):
            return x.detach().requires_grad_()

        def backward(x, t, of_a_leaf=True):
            x = leaf(x)
            loss(x if of_a_leaf else x * 1, t).backward()
            return x.grad

        def create_graph(x, t):
            x = leaf(x)
            return grad(loss(x, t), x, create_graph=True)[0].detach()

        def retained(x, t):
            x = leaf(x)
            value = loss(x, t)
            first = grad(value, x, retain_graph=True)[0]
            second = grad(value, x)[0]
            assert torch.equal(first, second), "the gradients of two backward passes are not the same"
            return second

        return {
            "backward": backward,
            "create_graph": create_graph,
            "retained": retained,
            "grad": torch.func.grad(loss),
            "vmap(grad)": lambda x, t: torch.func.vmap(torch.func.grad(lambda a, b: loss(a, b) / len(t)))(x, t),
            "jacrev": torch.func.jacrev(loss),
            "non-leaf": partial(backward, of_a_leaf=False),
        }

    def pull(self, loss, x, g):
        x.requires_grad_()
        value = loss(x)
        assert value.requires_grad, "the loss is on no graph"
        value.backward(g.to(value.dtype))
        return value, x.grad

    def check(self, function, inputs, order):
        """Differences: of the last input alone, then of all."""
        for value in reversed(inputs):
            value.requires_grad_()
            assert self.torch.autograd.gradcheck(function, inputs), "gradcheck does not hold"
        assert order == 1 or self.torch.autograd.gradgradcheck(function, inputs), "gradgradcheck does not hold"


class _Jax:
    """The derivatives of JAX."""

    forward = ("jacfwd", "jvp")
    """Paths whose results are tangents, of the dtype of the loss."""

    def __init__(self, backend):
        self.jax = backend.jax
        self.vmap, self.hessian = self.jax.vmap, self.jax.hessian

    def paths(self, loss):
        jax = self.jax

        def by_jvp(x, t):
            directions = jax.numpy.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)
            return jax.vmap(lambda dx: jax.jvp(lambda a: loss(a, t), (x,), (dx,))[1])(directions).reshape(x.shape)

        return {
            "grad": jax.grad(loss),
            "jit(grad)": jax.jit(jax.grad(loss)),
            "grad(jit)": jax.grad(jax.jit(loss)),
            "vmap(grad)": lambda x, t: jax.vmap(jax.grad(lambda a, b: loss(a, b) / len(t)))(x, t),
            "jacrev": jax.jacrev(loss),
            "jacfwd": jax.jacfwd(loss),
            "vjp": lambda x, t: self.pull(lambda a: loss(a, t), x, jax.numpy.ones(()))[1],
            "jvp": by_jvp,
        }

    def pull(self, loss, x, g):
        value, back = self.jax.vjp(loss, x)
        return value, back(g.astype(value.dtype))[0]

    def check(self, function, inputs, order):
        from jax.test_util import check_grads

        check_grads(self.jax.jit(function), tuple(inputs), order=order, modes=("fwd", "rev"))


def _framework(place):
    return (_Jax if place.backend.name == "jax" else _Torch)(place.backend)


PATHS = {
    "torch": ("backward", "create_graph", "retained", "grad", "vmap(grad)", "jacrev", "non-leaf"),
    "jax": ("grad", "jit(grad)", "grad(jit)", "vmap(grad)", "jacrev", "jacfwd", "vjp", "jvp"),
}


def _leads(place, path):
    return path in PATHS[place.backend.name.partition("-")[0]]


def _is_asked(place, path, gaps):
    """JAX compiles every dtype anew: one path for confident targets stands for the others there."""
    known = place.backend.name != "jax" or place.dtype == "float32" or (path == "grad" and gaps is CONFIDENT)
    return _leads(place, path) and known


def _has_meaning(place, options, soft):
    """Soft targets have no number to ignore; on a slow backend, with each of the options, they are for another run."""
    return not (soft and ("ignore_index" in options or (options and depth.spares(place))))


def _is_short(place, options, soft):
    """What of the second derivatives, which take seconds to compile, there is time for."""
    some = options in (OPTIONS["plain"], OPTIONS["explicit"], OPTIONS["transformed"])
    return _has_meaning(place, options, soft) and (not depth.spares(place) or some)


@pytest.mark.places(backends=BOTH, modes=(Mode.EAGER, Mode.STRIDED), when=_is_asked)
@pytest.mark.parametrize("path", dict.fromkeys(PATHS["torch"] + PATHS["jax"]))
@pytest.mark.parametrize("gaps", [cases.MILD_GAPS, CONFIDENT], ids=["mild", "confident"])
def test_D1_every_path_gives_the_contracts_gradient(place, subject, path, gaps):
    logits, targets = cases.gaps(8, gaps)
    logits = place.round(logits)
    agree.to_begin_with(place, subject, logits, targets)
    _, exact = oracle.cross_entropy(logits, targets)
    framework = _framework(place)
    d_logits = framework.paths(subject.loss)[path](*place.pair(logits, targets))
    kinds = (place.dtype, place.compute_dtype) if path in framework.forward else (place.dtype,)
    found = place.backend.dtype_name(d_logits)
    assert found in kinds, f"the dtype of the gradient: {found}; accepted: {' or '.join(kinds)}"
    agree.gradient(place, place.to_numpy(d_logits), exact)


@pytest.mark.places(backends=BOTH, modes=(Mode.EAGER,), sparse=True, when=_has_meaning)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_D1_backward_with_every_option(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    logits, targets = cases.small(soft)
    g = cases.scale(options.get("reduction", "mean"), low=32)
    agree.to_begin_with(place, subject, logits, targets, grad_output=g, **options)
    exact_loss, exact = oracle.cross_entropy(
        logits, place.round(targets) if soft else targets, grad_output=g, **options
    )
    x, t = place.pair(logits, targets)
    function = partial(subject.loss, targets=t, **place.options(options))
    loss, d_logits = _framework(place).pull(function, x, place.put(g, place.compute_dtype))
    agree.loss(place, place.to_numpy(loss), exact_loss)
    agree.gradient(place, place.to_numpy(d_logits), exact)


@pytest.mark.places(backends=BOTH, modes=(Mode.EAGER,), dtypes=("float64",), when=_is_short)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.long
def test_D1_first_and_second_derivatives_are_differences(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    x, t = place.pair(*cases.small(soft))
    _framework(place).check(partial(subject.loss, targets=t, **place.options(options)), [x], order=2)


def _is_an_input(place, of, soft, options):
    """Each of the others once where derivatives are compiled."""
    short = soft == (of == "soft") and options is OTHER_OPTIONS["sequence-smoothed" if of == "weights" else "mean"]
    return (soft or of != "soft") and (short or not depth.spares(place))


@pytest.mark.places(backends=BOTH, modes=(Mode.EAGER,), dtypes=("float64",), when=_is_an_input)
@pytest.mark.parametrize("of", ["weights", "class_weights", "soft"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OTHER_OPTIONS.values(), ids=OTHER_OPTIONS)
@pytest.mark.long
def test_D1_with_respect_to_other_inputs(place, subject, of, soft, options):
    agree.serves_soft(place, subject, soft)
    x, t = place.pair(*cases.small(soft))
    given = {"weights": np.array([[0.5, 2.0, 1.0], [1.5, 0.25, 1.0]]), "class_weights": CLASS_WEIGHTS}
    name, other = ("targets", t) if of == "soft" else (of, place.put(given[of]))
    _framework(place).check(lambda x, o: subject.loss(x, **{"targets": t, **options, name: o}), [x, other], order=1)


@pytest.mark.places(
    backends=BOTH,
    modes=(Mode.EAGER,),
    dtypes=("float64", "float32"),
    when=lambda place, compiled: not compiled or place.backend.name == "jax",
)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_D1_hessian(place, subject, compiled):
    logits, targets = cases.random((), 6)
    x, t = place.pair(logits, targets)
    hessian = _framework(place).hessian(lambda a: subject.loss(a, t))
    found = place.to_numpy((place.backend.jax.jit(hessian) if compiled else hessian)(x))
    p = np.exp(place.round(logits)) / np.exp(place.round(logits)).sum()
    exact = np.diag(p) - np.outer(p, p)
    agree.near(found, exact, what="the second derivative", atol=8 * units.EPS[place.dtype], by="the formula gives")


@pytest.mark.places(
    backends=BOTH,
    modes=(Mode.EAGER,),
    sparse=True,
    when=lambda place, axis, options: not (options and axis) or not depth.spares(place),
)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 1}, {"label_smoothing": 0.125}], ids=["plain", "ignore", "smoothed"]
)
def test_D1_vmap_along_any_axis(place, subject, axis, options):
    x, t = place.pair(*cases.random((4, 3, 2), 5))
    vmap, function = _framework(place).vmap, partial(subject.loss, reduction="none", **options)
    agree.alike(place, vmap(function, axis, axis)(x, t), function(x, t))
    one_by_one = np.stack([place.to_numpy(function(a, t[0])) for a in x])
    agree.alike(place, vmap(function, (0, None))(x, t[0]), one_by_one)


@pytest.mark.clause("D1", "S1")
@pytest.mark.places(backends=BOTH, modes=(Mode.EAGER,), sparse=True, when=_leads)
@pytest.mark.parametrize("path", ["backward", "create_graph", "grad", "jit(grad)", "jacrev", "jacfwd", "jvp"])
def test_D1_what_an_ignored_row_holds_goes_nowhere(place, subject, path):
    logits, targets = cases.random((4,), 5)
    targets = np.where(np.arange(4) % 2 == 1, -100, targets)
    dirty = logits.copy()
    dirty[1], dirty[3, 2] = np.nan, np.inf
    gradient = _framework(place).paths(partial(subject.loss, ignore_index=-100))[path]
    _, plain = agree.both(place, subject, dirty, targets, ignore_index=-100)
    if not np.isfinite(plain).all():
        raise DoesNotApply("a gradient that ignores what an ignored row holds to begin with")
    clean, got = (place.to_numpy(gradient(*place.pair(x, targets))) for x in (logits, dirty))
    agree.alike(place, got, clean)
    agree.every(agree.is_zero, [got], [1, 3], what=["d_logits"])


@pytest.mark.clause("D1", "V11")
@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), sparse=True)
@pytest.mark.parametrize("name", ["loss", "loss_and_grad", "shift", "perplexity"])
def test_D1_jit_of_every_function(place, subject, name):
    jax = place.backend.jax
    arguments = (place.put(1.5, place.compute_dtype),) if name == "perplexity" else place.pair(*cases.small())
    function = getattr(subject, name)
    compiled, eager = jax.jit(function)(*arguments), function(*arguments)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        agree.same(a.dtype, b.dtype, "the dtype under jit")
        agree.alike(place, a, b)


@pytest.mark.places(backends=("jax",), modes=(Mode.EAGER,), dtypes=("float32",))
def test_D1_inside_a_scan_with_donated_parameters(place, subject):
    """A training loop under the compiler: the loss falls."""
    jax, jnp = place.backend.jax, place.backend.jax.numpy
    h, t = place.put(cases.random((16,), 4)[0], place.dtype), place.put(cases.random((16,), 5)[1])

    def step(w, _):
        loss, d = jax.value_and_grad(lambda w: subject.loss(h @ w, t))(w)
        return w - 0.1 * d, loss

    _, losses = jax.jit(lambda w: jax.lax.scan(step, w, length=20), donate_argnums=0)(jnp.zeros((4, 5), h.dtype))
    steps = np.diff(place.to_numpy(losses))
    agree.within(steps, steps < 0, "less than 0", what="the change of the loss by a step")
