"""Clauses A1, A2 and A11: whose arrays come back, that inputs stay as they were, and that any layout will do.

How an array lies in memory changes no bit of the result: what is compared here is compared exactly.
"""

from __future__ import annotations

import numpy as np
import pytest

from xent_conformance import agree, cases
from xent_conformance.backends import DIRECT, HALF, NOT_DOUBLED, Mode

IN_MEMORY = ("numpy", "torch", "torch-cuda", "cupy", "array-api-strict")
"""Backends whose arrays can be written."""
STRIDES = ("numpy", "torch", "torch-cuda", "cupy")
"""Backends whose slices are views."""
OPTIONS = [
    {},
    {"weights": np.array([[0.5, 2.0, 0.0], [1.0, 1.5, 4.0]])},
    {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "label_smoothing": 0.125},
    {"ignore_index": 2, "z_loss": 0.0625},
    {"algorithm": "explicit"},
]
OPTION_IDS = ["plain", "weights", "classes-smoothed", "ignore-z", "explicit"]


def _bits(place, *arrays):
    return [np.array(place.to_numpy(array)) for array in arrays]


def _same(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.dtype.name == b.dtype.name
        np.testing.assert_array_equal(a, b)


def _unaligned(array):
    raw = np.empty(array.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def _problem(soft=False):
    logits, targets = cases.random((2, 3), 5)
    return cases.eighths(logits), cases.eighths(cases.generator(9).random(logits.shape)) if soft else targets


@pytest.mark.clause("A1")
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_A1_library_device_laziness_and_dtypes(place, subject, soft):
    logits, targets = _problem(soft)
    for reduction in ("none",) if place.mode is Mode.BROADCAST else ("none", "sequence", "mean", "sum"):
        loss, d_logits = place.call(subject.loss_and_grad, logits, targets, reduction=reduction)
        alone = place.call(subject.loss, logits, targets, reduction=reduction)
        for array, dtype in ((loss, place.compute_dtype), (alone, place.compute_dtype), (d_logits, place.dtype)):
            assert place.backend.owns(array)
            assert place.backend.dtype_name(array) == dtype


@pytest.mark.clause("A1")
@pytest.mark.places(modes=DIRECT)
@pytest.mark.parametrize("other", ["float64", "float32", "float16", "bfloat16", "int8", "uint16", "int64", "bool"])
def test_A1_only_the_logits_decide(place, subject, other):
    if other.startswith(("float", "bfloat")) and other not in place.backend.dtypes:
        return
    logits, targets = _problem()
    x, t = place.put(logits, place.dtype), place.put(targets)
    weights = place.put(np.array([1, 0, 1]), other)
    calls = [{"weights": weights}]
    if other != "bool":
        calls += [
            {"class_weights": place.put(np.array([1, 2, 0, 1, 3]), other)},
            {"denominator": place.put(np.asarray(3), other)},
        ]
    if other in place.backend.dtypes:
        calls += [{"grad_output": place.put(np.asarray(0.5), other)}]
    for options in calls:
        with place.backend.during_call():
            loss, d_logits = subject.loss_and_grad(x, t, **options)
        assert place.backend.dtype_name(loss) == place.compute_dtype, options
        assert place.backend.dtype_name(d_logits) == place.dtype, options
    if other in place.backend.dtypes:
        soft = place.put(np.full((2, 3, 5), 0.25), other)
        with place.backend.during_call():
            loss, d_logits = subject.loss_and_grad(x, soft)
        assert (place.backend.dtype_name(loss), place.backend.dtype_name(d_logits)) == (
            place.compute_dtype,
            place.dtype,
        )


@pytest.mark.clause("A1")
@pytest.mark.places(dtypes=HALF, modes=tuple(mode for mode in NOT_DOUBLED if mode is not Mode.TRACED))
@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_IDS)
def test_A1_half_precision_is_widened_before_any_arithmetic(place, subject, options):
    """The loss is that of the widened logits, the gradient the rounding of theirs."""
    logits, targets = cases.random((2, 3), 5)
    logits = place.round(logits)
    arrays = {
        name: place.put(value, "float32") if isinstance(value, np.ndarray) else value for name, value in options.items()
    }
    t = place.put(targets)
    with place.backend.during_call():
        half = subject.loss_and_grad(place.put(logits, place.dtype), t, **arrays)
        wide = subject.loss_and_grad(place.put(logits, "float32"), t, **arrays)
    loss, d_logits = _bits(place, *half)
    wide_loss, wide_gradient = _bits(place, *wide)
    _same([loss, d_logits.astype(np.float64)], [wide_loss, place.round(wide_gradient)])


@pytest.mark.clause("A1")
@pytest.mark.places(dtypes=("float32",), backends=("torch",))
def test_A1_a_device_without_values(place, subject):
    torch = place.backend.torch
    x, t = torch.empty(4, 5, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    loss, d_logits = subject.loss_and_grad(x, t)
    assert (loss.device.type, d_logits.device.type) == ("meta", "meta")
    assert (loss.shape, d_logits.shape) == ((), (4, 5))


@pytest.mark.clause("A2")
@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_IDS)
def test_A2_every_layout_gives_the_contracts_values(place, subject, options):
    if place.mode is Mode.BROADCAST:
        options = {**options, "reduction": "none"}
    agree.with_oracle(place, subject, *_problem(), **options)


@pytest.mark.clause("A2")
@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_IDS)
def test_A2_inputs_stay_as_they_are(place, subject, soft, options):
    if soft and "ignore_index" in options:
        options = {"z_loss": 0.0625}
    logits, targets = _problem(soft)
    x, t = place.put(logits, place.dtype), place.put(targets, place.dtype if soft else None)
    arrays = {
        name: place.put(value, place.compute_dtype) for name, value in options.items() if isinstance(value, np.ndarray)
    }
    plain = {name: value for name, value in options.items() if name not in arrays}
    g = place.put(np.asarray(0.75), place.compute_dtype)
    inputs = [x, t, g, *arrays.values()]
    before = _bits(place, *inputs)
    subject.loss(x, t, **arrays, **plain)
    subject.loss_and_grad(x, t, grad_output=g, **arrays, **plain)
    loss_fn = subject.loss_object(**plain, **{k: v for k, v in arrays.items() if k != "weights"})
    loss_fn.forward(x, t, arrays.get("weights"))
    loss_fn.backward(g)
    _same(_bits(place, *inputs), before)


@pytest.mark.clause("A2")
@pytest.mark.places(backends=("numpy",), modes=(Mode.EAGER,))
@pytest.mark.parametrize(
    "lay_out",
    [
        np.asfortranarray,
        lambda a: np.flip(np.flip(a).copy()),
        lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        _unaligned,
        lambda a: np.repeat(a, 3, axis=0)[1::3],
        lambda a: np.pad(a, [(1, 1)] * a.ndim)[(slice(1, -1),) * a.ndim],
    ],
    ids=["fortran", "backwards", "classes-first", "byte-swapped", "unaligned", "every-third", "inner"],
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_A2_numpy_layouts(place, subject, lay_out, soft):
    rng = cases.generator(21)
    logits = (3 * rng.standard_normal((3, 4, 5, 7))).astype(place.dtype)
    targets = rng.random(logits.shape).astype(place.dtype) if soft else rng.integers(0, 7, (3, 4, 5))
    u = np.array([1.0, 0.5, 2.0, 0.25, 1.5, 0.0, 1.0], dtype=place.compute_dtype)
    options = {"label_smoothing": 0.125, "reduction": "none"}
    expected = subject.loss_and_grad(logits, targets, class_weights=u, **options)
    x, t, w = lay_out(logits), lay_out(targets), lay_out(u)
    np.testing.assert_array_equal(x, logits)
    got = subject.loss_and_grad(x, t, class_weights=w, **options)
    _same(got, expected)
    loss = subject.loss(x, t, class_weights=w, **options)
    np.testing.assert_array_equal(loss, expected[0])


@pytest.mark.clause("A2")
@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,))
@pytest.mark.parametrize("kind", ["classes-first", "channels-last", "offset", "expanded", "negated"])
def test_A2_torch_layouts(place, subject, kind):
    torch = place.backend.torch
    x = place.put(cases.random((4, 3, 2), 6)[0], place.dtype)
    t = place.put(cases.random((4, 3, 2), 6)[1])
    if kind == "classes-first":
        strange = x.movedim(-1, 1).contiguous().movedim(1, -1)
    elif kind == "channels-last":
        strange = x.contiguous(memory_format=torch.channels_last)
    elif kind == "offset":
        strange = torch.cat([x, x], dim=-1)[..., 6:]
    elif kind == "expanded":
        x = x[:1].repeat(4, 1, 1, 1)
        strange = x[:1].expand(4, 3, 2, 6)
    else:
        strange = torch._neg_view(-x)
    before = strange.clone()
    expected = subject.loss_and_grad(x, t, reduction="none")
    _same(_bits(place, *subject.loss_and_grad(strange, t, reduction="none")), _bits(place, *expected))
    assert torch.equal(strange, before)


@pytest.mark.clause("A2", "S6")
@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.LAZY, Mode.STRICTEST, Mode.TRACED), sparse=True)
@pytest.mark.parametrize("shape", [(0, 5), (2, 0, 5), (0, 0, 5), (0, 0)], ids=str)
def test_A2_arrays_of_no_tokens(place, subject, shape):
    for reduction in ("none", "sequence", "mean", "sum"):
        loss, d_logits = place.evaluate(
            subject.loss_and_grad, np.zeros(shape), np.zeros(shape[:-1], dtype=np.int64), reduction=reduction
        )
        assert d_logits.shape == shape
        assert loss.shape == {"none": shape[:-1], "sequence": shape[:-2]}.get(reduction, ())
        assert (loss == 0).all()


def _out_of(place, x, kind):
    """Memory for the gradient of `x` by kind, the logits to call with, and what must not change around it."""
    if kind == "own":
        return x, x, None
    if kind == "apart":
        return x, place.put(np.full(x.shape, 7.0), place.dtype), None
    wide = place.put(np.full((2 * x.shape[0], x.shape[1] + 2, x.shape[2] + 1), 7.0), place.dtype)
    if kind == "strided":
        return x, wide[1::2, 1:-1, 1:], wide
    wide[:2, 1:-1, 1:] = x
    logits = wide[:2, 1:-1, 1:]
    return logits, (wide[1:3, 1:-1, 1:] if kind == "next-row" else wide[:2, 1:-1, :-1]), None


@pytest.mark.clause("A2")
@pytest.mark.places(backends=IN_MEMORY, modes=(Mode.EAGER, Mode.STRICTEST))
@pytest.mark.parametrize("options", OPTIONS, ids=OPTION_IDS)
@pytest.mark.parametrize("kind", ["own", "apart", "strided", "next-row", "next-class"])
def test_A2_out(place, subject, kind, options):
    """`out` receives what would have come back, whatever its memory has to do with that of the logits."""
    if kind not in ("own", "apart") and place.backend.name not in STRIDES:
        return
    logits, targets = _problem()
    options = {
        name: place.put(value, place.compute_dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    t = place.put(targets)
    expected = _bits(place, *subject.loss_and_grad(place.put(logits, place.dtype), t, **options))
    x, out, around = _out_of(place, place.put(logits, place.dtype), kind)
    loss, d_logits = subject.loss_and_grad(x, t, out=out, **options)
    assert d_logits is out
    _same(_bits(place, loss, out), expected)
    if around is not None:
        left = np.array(place.to_numpy(around))
        left[1::2, 1:-1, 1:] = 7
        assert (left == 7).all()


@pytest.mark.clause("A2")
@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,))
def test_A2_out_that_runs_backwards_through_the_logits(place, subject):
    if place.backend.name.startswith("torch"):
        return
    logits, targets = cases.random((6,), 5)
    expected = subject.loss_and_grad(place.put(logits, place.dtype), place.put(targets))
    x = place.put(logits, place.dtype)
    got = subject.loss_and_grad(x, place.put(targets), out=x[::-1])
    _same(_bits(place, *got), _bits(place, *expected))


@pytest.mark.clause("A2")
@pytest.mark.places(backends=IN_MEMORY, modes=(Mode.EAGER, Mode.STRICTEST))
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.25}, {"algorithm": "explicit"}], ids=["plain", "smoothed", "explicit"]
)
def test_A2_out_that_is_the_soft_targets(place, subject, options):
    logits, soft = _problem(soft=True)
    x = place.put(logits, place.dtype)
    expected = _bits(place, *subject.loss_and_grad(x, place.put(soft, place.dtype), **options))
    q = place.put(soft, place.dtype)
    loss, d_logits = subject.loss_and_grad(x, q, out=q, **options)
    assert d_logits is q
    _same(_bits(place, loss, q), expected)


@pytest.mark.clause("A2")
@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,), dtypes=("float32", "float64"))
@pytest.mark.parametrize("name", ["weights", "class_weights", "grad_output"])
def test_A2_out_that_holds_another_argument(place, subject, name):
    """A view of `out` as weights is read before it is overwritten."""
    logits, targets = cases.random((5,), 5)
    x, t = place.put(logits, place.dtype), place.put(targets)
    memory = place.put(np.tile(np.arange(1.0, 6.0), (5, 1)), place.dtype)
    alone = place.put(np.arange(1.0, 6.0), place.dtype)
    expected = _bits(place, *subject.loss_and_grad(x, t, reduction="none", **{name: alone}))
    got = subject.loss_and_grad(x, t, reduction="none", out=memory, **{name: memory[0]})
    _same(_bits(place, *got), expected)


@pytest.mark.clause("A2", "R2")
@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,), dtypes=("float64",))
def test_A2_out_that_holds_the_denominator_or_the_targets(place, subject):
    logits, targets = cases.random((4,), 5)
    x = place.put(logits, place.dtype)
    expected = _bits(place, *subject.loss_and_grad(x, place.put(targets), denominator=3.0))
    memory = place.put(np.full((4, 5), 3.0), place.dtype)
    _same(
        _bits(place, *subject.loss_and_grad(x, place.put(targets), denominator=memory[2, 2, ...], out=memory)), expected
    )
    integers = place.put(np.tile(targets[:, None], (1, 5)))
    out = integers.view(x.dtype)
    _same(_bits(place, *subject.loss_and_grad(x, integers[:, 3], denominator=3.0, out=out)), expected)


@pytest.mark.clause("A11")
@pytest.mark.places(modes=(Mode.STRICTEST,))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("reduction", ["none", "sequence", "mean", "sum"])
def test_A11_nothing_but_the_standard(place, subject, soft, algorithm, reduction):
    logits, targets = cases.random((2, 3), 5)
    logits = cases.eighths(logits)
    if soft:
        targets = cases.eighths(cases.generator(3).random(logits.shape))
    for options in cases.pairwise(list(cases.combinations(soft, algorithm, reduction))):
        agree.with_oracle(place, subject, logits, targets, **options)


@pytest.mark.clause("A11")
@pytest.mark.places(modes=(Mode.STRICTEST,))
def test_A11_the_other_functions(place, subject):
    x, ids = place.put(cases.random((2, 4), 5)[0], place.dtype), place.put(cases.random((2, 4), 5)[1])
    loss_fn = subject.loss_object(ignore_index=1)
    loss = loss_fn.forward(*subject.shift(x, ids))
    assert loss_fn.backward().shape == (2, 3, 5)
    assert place.backend.owns(subject.perplexity(loss))
    with pytest.raises(IndexError):
        subject.loss(x, ids + 5)
