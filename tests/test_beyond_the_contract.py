"""What `crossent` keeps where the contract leaves room: bits, not just digits; tensors without values."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent_conformance import backends, cases
from crossent_conformance.backends import Mode
from crossent_conformance.places import Place

IN_MEMORY = [name for name in ("numpy", "torch", "array-api-strict") if not isinstance(backends.load(name), str)]
OPTIONS = [
    {},
    {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "label_smoothing": 0.125},
    {"ignore_index": 2, "z_loss": 0.0625},
    {"algorithm": "explicit"},
]


def _place(name, dtype="float32", mode=Mode.EAGER):
    return Place(backends.load(name), dtype, mode)


def _bits(place, arrays):
    return [np.array(place.to_numpy(array)) for array in arrays]


def _same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def _made(place, options):
    return {
        name: place.put(value, place.compute_dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", IN_MEMORY)
def test_out_comes_back_itself_with_the_same_bits(name, options):
    place = _place(name)
    logits, targets = cases.random((2, 3), 5)
    options, t = _made(place, options), place.put(targets)
    expected = _bits(place, crossent.cross_entropy_and_grad(place.put(logits, "float32"), t, **options))
    x = place.put(logits, "float32")
    result = crossent.cross_entropy_and_grad(x, t, out=x, **options)
    assert result[1] is x
    _same(_bits(place, result), expected)


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


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_how_an_array_lies_changes_no_bit(name, options):
    if isinstance(backends.load(name), str):
        pytest.skip(backends.load(name))
    eager, strided = _place(name), _place(name, mode=Mode.STRIDED)
    logits, targets = cases.random((2, 3, 4), 5)
    results = [
        _bits(
            place,
            crossent.cross_entropy_and_grad(place.put(logits, "float32"), place.put(targets), **_made(place, options)),
        )
        for place in (eager, strided)
    ]
    _same(*results)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("name", "dtype"), [("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16")])
def test_half_precision_gives_the_bits_of_the_widened_logits(name, dtype, options):
    if isinstance(backends.load(name), str):
        pytest.skip(backends.load(name))
    place = _place(name, dtype)
    logits, targets = cases.random((2, 3), 5)
    logits, t, options = place.round(logits), place.put(targets), _made(place, options)
    loss, d_logits = _bits(place, crossent.cross_entropy_and_grad(place.put(logits, dtype), t, **options))
    wide_loss, wide = _bits(place, crossent.cross_entropy_and_grad(place.put(logits, "float32"), t, **options))
    _same([loss, d_logits.astype(np.float64)], [wide_loss, place.round(wide)])


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


def test_the_perplexity_of_a_numpy_array_is_an_array():
    """NumPy's own functions give scalars where there are no dimensions; the types promise an array."""
    for loss in (np.asarray(np.float32(2)), np.asarray(2.0), np.ones(3)):
        perplexity = crossent.perplexity(loss)
        assert type(perplexity) is np.ndarray
        assert (perplexity.shape, perplexity.dtype) == (loss.shape, loss.dtype)


def test_a_loss_object_may_say_the_type_of_its_gradient():
    loss_fn = crossent.CrossEntropyLoss[np.ndarray](ignore_index=0)
    assert type(loss_fn) is crossent.CrossEntropyLoss
    assert repr(loss_fn) == "CrossEntropyLoss(ignore_index=0)"


def test_the_perplexity_of_a_number_is_a_number():
    for loss in (0.0, 1.5, 1e6, float("inf"), float("nan")):
        assert type(crossent.perplexity(loss)) is float


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
