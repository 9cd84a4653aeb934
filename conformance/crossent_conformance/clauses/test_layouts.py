"""Clause A2 of what goes in: inputs stay as they are, and how an array lies in memory decides nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import Mode
from crossent_conformance.subject import DoesNotApply

STRIDES = ("numpy", "torch", "torch-cuda", "cupy")
"""Backends whose slices are views."""
OPTIONS = {
    "plain": {},
    "weights": {"weights": np.array([[0.5, 2.0, 0.0], [1.0, 1.5, 4.0]])},
    "classes-smoothed": {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "label_smoothing": 0.125},
    "ignore-z": {"ignore_index": 2, "z_loss": 0.0625},
    "explicit": {"algorithm": "explicit"},
}


def _tokens(subject, *shape):
    """The shape of the tokens: to flatten an array for the subject may copy it, and then its layout is not asked."""
    return (math.prod(shape),) if subject.is_flat else shape


def _problem(subject, soft, options):
    """Logits, targets and options, the tokens of all in a shape that the subject takes."""
    tokens = _tokens(subject, 2, 3)
    logits, targets = (array.reshape(tokens + array.shape[2:]) for array in cases.small(soft))
    return logits, targets, {name: v.reshape(tokens) if name == "weights" else v for name, v in options.items()}


def _has_meaning(place, soft, options, **_others):
    return not (soft and "ignore_index" in options)


def _is_asked(place, soft, options, call):
    return _has_meaning(place, soft, options) and not (options and depth.spares(place))


@pytest.mark.places(modes=(Mode.READONLY, Mode.STRIDED, Mode.BROADCAST), when=_has_meaning)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_A2_every_layout_gives_what_contiguous_arrays_give(place, subject, soft, options):
    agree.serves_soft(place, subject, soft)
    logits, targets, options = _problem(subject, soft, {**options, "reduction": "none"})
    expected = agree.both(replace(place, mode=Mode.EAGER), subject, logits, targets, **options)
    results = agree.both(place, subject, logits, targets, **options)
    agree.both_alike(place, results, expected)


def _by_an_object(subject, x, t, g, options):
    loss_fn = subject.loss_object(**{name: value for name, value in options.items() if name != "weights"})
    loss_fn.forward(x, t, options.get("weights"))
    loss_fn.backward(g)


CALLS = {
    "loss": lambda subject, x, t, g, options: subject.loss(x, t, **options),
    "gradient": lambda subject, x, t, g, options: subject.loss_and_grad(x, t, **options),
    "scaled": lambda subject, x, t, g, options: subject.loss_and_grad(x, t, grad_output=g, **options),
    "object": _by_an_object,
}


@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST), sparse=True, when=_is_asked)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_A2_inputs_stay_as_they_are(place, subject, call, soft, options):
    agree.serves_soft(place, subject, soft)
    logits, targets, options = _problem(subject, soft, options)
    (x, t), options = place.pair(logits, targets), place.options(options)
    g = place.put(np.asarray(0.75), place.compute_dtype)
    inputs = [x, t, g, *(value for name, value in options.items() if name in ("weights", "class_weights"))]
    before = place.copies(inputs)
    call(subject, x, t, g, options)
    for array, values in zip(inputs, before, strict=True):
        agree.unchanged(place.to_numpy(array), values, "an input")


def _unaligned(array):
    raw = np.empty(array.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


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
@pytest.mark.parametrize("kind", ["hard", "soft", "class-weights"])
def test_A2_numpy_layouts(place, subject, lay_out, kind):
    agree.serves_soft(place, subject, kind == "soft")
    rng = cases.generator(21)
    tokens = _tokens(subject, 3, 4, 5)
    logits = (3 * rng.standard_normal((*tokens, 7))).astype(place.dtype)
    targets = rng.random(logits.shape).astype(place.dtype) if kind == "soft" else rng.integers(0, 7, tokens)
    options = {}
    if kind == "class-weights":
        options["class_weights"] = np.array([1.0, 0.5, 2.0, 0.25, 1.5, 0.0, 1.0], dtype=place.compute_dtype)
    x, t, strange = lay_out(logits), lay_out(targets), {name: lay_out(value) for name, value in options.items()}
    agree.unchanged(x, logits, "the logits")
    expected = [subject.loss(logits, targets, reduction="sum", **options)]
    agree.all_alike(place, [subject.loss(x, t, reduction="sum", **strange)], expected)
    expected = subject.loss_and_grad(logits, targets, **options)
    agree.all_alike(place, subject.loss_and_grad(x, t, **strange), expected)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,))
@pytest.mark.parametrize("kind", ["classes-first", "channels-last", "offset", "expanded", "negated"])
def test_A2_torch_layouts(place, subject, kind):
    torch = place.backend.torch
    x, t = place.pair(*cases.random(_tokens(subject, 4, 3, 2), 6))
    if kind == "classes-first":
        first = x.ndim // 2 - 1  # after the batch, where there is one
        strange = x.movedim(-1, first).contiguous().movedim(first, -1)
    elif kind == "channels-last":
        if x.ndim != 4:
            raise DoesNotApply("logits of four axes")
        strange = x.contiguous(memory_format=torch.channels_last)
    elif kind == "offset":
        strange = torch.cat([x, x], dim=-1)[..., 6:]
    elif kind == "expanded":
        strange = x[:1].expand(x.shape)
        x = strange.clone(memory_format=torch.contiguous_format)
    else:
        strange = torch._neg_view(-x)
    before = strange.clone()
    expected = subject.loss_and_grad(x, t)
    agree.all_alike(place, subject.loss_and_grad(strange, t), expected)
    assert torch.equal(strange, before), "the logits are not what they were before the call"


@pytest.mark.places(modes=(Mode.EAGER,), backends=STRIDES, sparse=True)
@depth.examples(st.data(), count=60)
def test_A2_any_slice_of_an_array(place, subject, data):
    """Views cut out of a larger array give what their copies give, and nothing is written."""
    x, alone, whole, t = sliced(place, subject, data)
    expected = subject.loss_and_grad(alone, t)
    before = np.array(place.to_numpy(whole))
    agree.all_alike(place, subject.loss_and_grad(x, t), expected)
    agree.unchanged(place.to_numpy(whole), before, "the memory around the logits")


def sliced(place, subject, data):
    """A view of an array, a copy of the view, the whole array, targets for the view."""
    rank = 2 if subject.is_flat else 3
    axes = data.draw(st.permutations(range(rank)))
    torch = place.backend.name.startswith("torch")
    steps = st.sampled_from([1, 2] if torch else [1, 2, -1, -2])
    cut = tuple(slice(None, None, data.draw(steps)) for _ in range(rank))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    whole = place.put(rng.standard_normal((4, 5, 6)[-rank:]), place.dtype)
    x = (whole.permute(*axes) if torch else whole.transpose(axes))[cut]
    alone = place.put(np.array(place.to_numpy(x)), place.dtype)
    return x, alone, whole, place.put(rng.integers(0, x.shape[-1], tuple(x.shape[:-1])))
