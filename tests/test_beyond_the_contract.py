"""What `crossent` keeps where the contract leaves room: bits, not just digits; arrays without values or sizes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import crossent
from crossent_conformance import backends, cases, oracle, units
from crossent_conformance.backends import Mode
from crossent_conformance.places import Place

IN_MEMORY = [name for name in ("numpy", "torch", "array-api-strict") if not isinstance(backends.load(name), str)]
OPTIONS = [
    {},
    {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "label_smoothing": 0.125},
    {"ignore_index": 2, "z_loss": 0.0625},
    {"algorithm": "explicit"},
]


def _bits(place, tokens, options, dtype="float32", in_place=False):
    """Loss and gradient of small logits, which any float of the suite holds, as arrays of `dtype`."""
    logits, targets = cases.random(tokens, 5)
    x, t, options = place.put(cases.eighths(logits), dtype), place.put(targets), place.options(options)
    results = crossent.cross_entropy_and_grad(x, t, **options, **({"out": x} if in_place else {}))
    assert not in_place or results[1] is x
    return [np.array(place.to_numpy(result)) for result in results]


def _same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", IN_MEMORY)
def test_out_comes_back_itself_with_the_same_bits(name, options):
    place = Place(backends.load(name), "float32", Mode.EAGER)
    _same(_bits(place, (2, 3), options, in_place=True), _bits(place, (2, 3), options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", [name for name in IN_MEMORY if name != "array-api-strict"])
def test_how_an_array_lies_changes_no_bit(name, options):
    eager, strided = (Place(backends.load(name), "float32", mode) for mode in (Mode.EAGER, Mode.STRIDED))
    _same(_bits(eager, (2, 3, 4), options), _bits(strided, (2, 3, 4), options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("name", "dtype"),
    [pair for pair in (("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16")) if pair[0] in IN_MEMORY],
)
def test_half_precision_gives_the_bits_of_the_widened_logits(name, dtype, options):
    place = Place(backends.load(name), dtype, Mode.EAGER)
    loss, d_logits = _bits(place, (2, 3), options, dtype)
    wide_loss, wide = _bits(place, (2, 3), options)
    _same([loss, d_logits.astype(np.float64)], [wide_loss, place.round(wide)])


@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence", "none"])
def test_a_loss_without_dimensions_is_an_array(reduction):
    x, t = np.zeros((3, 4), dtype=np.float32), np.zeros(3, dtype=np.int64)
    if reduction == "none":
        x, t = x[0], t[0, ...]
    for loss in (
        crossent.cross_entropy(x, t, reduction=reduction),
        crossent.cross_entropy_and_grad(x, t, reduction=reduction)[0],
        crossent.cross_entropy(x[..., :0, :], t[..., :0], reduction=reduction) if t.ndim else np.zeros(()),
    ):
        assert type(loss) is np.ndarray
        assert loss.shape == ()


@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 2, "label_smoothing": 0.1}, {"algorithm": "explicit"}], ids=str
)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_tensors_without_values_will_do(dtype, options):
    torch = pytest.importorskip("torch")
    x = torch.empty(2, 3, 5, dtype=getattr(torch, dtype), device="meta")
    loss, d_logits = crossent.cross_entropy_and_grad(x, torch.empty(2, 3, dtype=torch.int64, device="meta"), **options)
    assert (loss.device.type, d_logits.device.type) == ("meta", "meta")
    assert (loss.shape, d_logits.shape, d_logits.dtype) == ((), x.shape, x.dtype)


PROGRAMS = {
    "mean": {},
    "sum": {"reduction": "sum", "label_smoothing": 0.125, "z_loss": 0.25},
    "none": {"reduction": "none", "ignore_index": 3},
    "sequence": {"reduction": "sequence"},
    "tokens": {"denominator": "tokens", "ignore_index": 3},
    "explicit": {"algorithm": "explicit"},
}


@pytest.mark.parametrize("options", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("lengths", [pytest.param("b, 4, 6", marks=pytest.mark.extended), "b, s, v"])
def test_D1_a_program_of_jax_for_any_size(options, lengths):
    jax = pytest.importorskip("jax")
    from jax import export

    shape = export.symbolic_shape(lengths)
    x, t = cases.random((3, 4), 6)
    x, t = x.astype(np.float32), t.astype(np.int32)

    def call(x, t):
        of = partial(crossent.cross_entropy, targets=t, **options)
        return of(x), jax.grad(lambda x: of(x).sum())(x), *crossent.cross_entropy_and_grad(x, t, **options)

    sizes = jax.ShapeDtypeStruct(shape, x.dtype), jax.ShapeDtypeStruct(shape[:-1], t.dtype)
    found = export.export(jax.jit(call))(*sizes).call(x, t)
    for given, exact in zip(found, 2 * oracle.cross_entropy(x.astype(np.float64), t, **options), strict=True):
        units.check(np.asarray(given), exact, "float32")


@pytest.mark.clause("R4", "D1")
def test_R4_a_program_of_jax_adds_a_million_losses():
    jax = pytest.importorskip("jax")
    from jax import export

    (rows,) = export.symbolic_shape("b")
    x, t = np.tile(np.float32([0, -1.375]), (1_000_003, 1)), np.zeros(1_000_003, np.int32)
    sizes = jax.ShapeDtypeStruct((rows, 2), x.dtype), jax.ShapeDtypeStruct((rows,), t.dtype)
    for reduction in ("sum", "mean"):
        program = export.export(jax.jit(partial(crossent.cross_entropy, reduction=reduction)))(*sizes)
        exact = crossent.cross_entropy(x.astype(np.float64), t, reduction=reduction)
        assert abs(float(program.call(x, t)) - exact) <= units.allowance(2) * units.EPS["float32"] * exact


def test_the_perplexity_of_an_array_is_an_array_and_of_a_number_a_number():
    """NumPy's own functions give scalars where there are no dimensions; the types promise an array."""
    for loss in (np.asarray(np.float32(2)), np.asarray(2.0), np.ones(3)):
        perplexity = crossent.perplexity(loss)
        assert type(perplexity) is np.ndarray
        assert (perplexity.shape, perplexity.dtype) == (loss.shape, loss.dtype)
    for number in (0.0, 1.5, 1e6, float("inf"), float("nan")):
        assert type(crossent.perplexity(number)) is float


def test_a_loss_object_may_say_the_type_of_its_gradient():
    loss_fn = crossent.CrossEntropyLoss[np.ndarray](ignore_index=0)
    assert type(loss_fn) is crossent.CrossEntropyLoss
    assert repr(loss_fn) == "CrossEntropyLoss(ignore_index=0)"


def test_the_options_of_a_loss_object_are_its_attributes():
    loss_fn = crossent.CrossEntropyLoss(ignore_index=-100, class_weights=np.ones(3))
    assert (loss_fn.ignore_index, loss_fn.reduction, loss_fn.label_smoothing) == (-100, "mean", 0.0)
    assert loss_fn.class_weights is loss_fn.options["class_weights"]
    assert not hasattr(loss_fn, "__dict__")
    assert loss_fn.denominator is None
    for name in ("reduction", "label_smooting", "weight", "options"):
        with pytest.raises(AttributeError, match=name):
            setattr(loss_fn, name, "sum")
    loss_fn.options["reduction"] = "sum"
    assert loss_fn.reduction == loss_fn.options.get("reduction", "mean") == "mean"
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        loss_fn.weight  # noqa: B018


def test_a_loss_object_outlives_no_transformation():
    jax = pytest.importorskip("jax")
    loss_fn = crossent.CrossEntropyLoss()
    with jax.checking_leaks():
        jax.jit(loss_fn)(np.zeros((2, 3), np.float32), np.array([0, 1]))
    with pytest.raises(
        RuntimeError, match=r"were gone, .* jax\.jit .*accepted: backward\(\) within the transformation"
    ):
        loss_fn.backward()


@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_good_targets_make_no_nan_on_the_way(options):
    """JAX looks at every intermediate result when it is asked to."""
    jax = pytest.importorskip("jax")
    x, t = (jax.numpy.asarray(a) for a in cases.random((2, 3), 5))
    options = {name: jax.numpy.asarray(a) if isinstance(a, np.ndarray) else a for name, a in options.items()}

    def loss(x):
        return crossent.cross_entropy(x, t, weights=jax.numpy.ones(3), **options)

    with jax.debug_nans(True):
        for function in (loss, jax.grad(loss), jax.hessian(loss)):
            jax.jit(function)(x)
            function(x)
        unchecked = crossent.cross_entropy(x, t, check_targets=False, **options)
        crossent.cross_entropy_and_grad(x, t, **options)
    assert np.isfinite(unchecked)


def _of_weights(x, w, u):
    targets = w.new_tensor([0, 1, 2, 5]).long()
    return crossent.cross_entropy(x, targets, weights=w, class_weights=u, label_smoothing=0.1, reduction="none")


def _of_soft_targets(x, q):
    return crossent.cross_entropy(x, q, label_smoothing=0.2, z_loss=0.1)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [(_of_weights, [(4, 6), (4,), (6,)]), (_of_soft_targets, [(4, 6), (4, 6)])],
    ids=["weights", "soft"],
)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_differentiation_takes_every_argument(function, shapes):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    inputs = [(torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("rows", [5, 700], ids=["made-with-the-loss", "made-later"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_every_backward_gives_a_gradient_of_its_own(rows, reduction):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((rows, 100), generator=generator, requires_grad=True)
    t = torch.randint(100, (rows,), generator=generator)
    expected = crossent.cross_entropy_and_grad(x, t, reduction=reduction)[1]
    loss = crossent.cross_entropy(x, t, reduction=reduction)
    for _ in range(3):
        [given] = torch.autograd.grad(loss, x, retain_graph=True)
        assert torch.equal(given, expected)
        given.zero_()
    for scale in (3.0, 0.0, -0.5):
        loss = crossent.cross_entropy(x, t, reduction=reduction)
        [given] = torch.autograd.grad(loss, x, torch.tensor(scale), retain_graph=True)
        torch.testing.assert_close(given, scale * expected)
        assert torch.equal(torch.autograd.grad(loss, x)[0], expected)
