"""Clause A6: nothing waits for a device but the check of the targets, and that waits once.

What makes Python wait is a value that comes out of an array: `bool`, `int`, `item`, `nonzero`, `__array__`. They are
counted. Host memory is at hand and may be looked at through NumPy; a traced array has no values at all.
"""

from __future__ import annotations

import contextlib
from collections import Counter

import numpy as np
import pytest

from xent_conformance import cases, units
from xent_conformance.backends import DIRECT, Mode

WAITING = (
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
    "__array__",
    "item",
    "tolist",
    "to_device",
    "__dlpack__",
)
OPTIONS = [
    {},
    {"weights": np.array([[0.5, 2.0, 0.0], [1.0, 1.5, 4.0]]), "denominator": "tokens"},
    {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "label_smoothing": 0.125},
    {"ignore_index": 2, "z_loss": 0.0625, "reduction": "sequence"},
    {"algorithm": "explicit"},
    {"denominator": np.asarray(3.0)},
]
IDS = ["plain", "weights", "classes", "ignore-z", "explicit", "denominator"]


@contextlib.contextmanager
def _counting_torch():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = Counter()

    class Counts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            if name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique_dim", "masked_select"):
                seen[name] += 1
            return func(*args, **(kwargs or {}))

    with Counts():
        yield seen


@contextlib.contextmanager
def _counting_methods(monkeypatch, kind):
    seen = Counter()

    def counted(name, method):
        def wrapper(*args, **kwargs):
            seen[name] += 1
            return method(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patch:
        for name in WAITING:
            if hasattr(kind, name):
                patch.setattr(kind, name, counted(name, getattr(kind, name)))
        yield seen


def _counting(place, monkeypatch):
    if place.backend.name.startswith("torch"):
        return _counting_torch()
    return _counting_methods(monkeypatch, type(place.put(np.zeros(1), place.dtype)))


def _arguments(place, options, soft):
    logits, targets = cases.random((2, 3), 5)
    if soft:
        targets = cases.eighths(cases.generator(9).random(logits.shape))
        options = {name: value for name, value in options.items() if name != "ignore_index"}
    options = {
        name: place.put(value, place.compute_dtype) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    return place.put(logits, place.dtype), place.put(targets, place.dtype if soft else None), options


@pytest.mark.clause("A6")
@pytest.mark.places(backends=("torch", "torch-cuda", "jax", "array-api-strict"), modes=(Mode.EAGER, Mode.STRICTEST))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_A6_no_synchronisation_without_the_check(place, subject, options, soft, monkeypatch):
    x, t, options = _arguments(place, options, soft)
    calls = [
        lambda: subject.loss(x, t, check_targets=False, **options),
        lambda: subject.loss_and_grad(x, t, check_targets=False, **options),
    ]
    if place.backend.name in ("torch", "torch-cuda", "array-api-strict"):
        calls.append(lambda: subject.loss_and_grad(x, t, out=x, check_targets=False, **options))
    for call in calls:
        call()  # what a first call compiles or caches is not what this is about
        with _counting(place, monkeypatch) as seen:
            call()
        assert not seen


@pytest.mark.clause("A6")
@pytest.mark.places(backends=("torch", "torch-cuda", "jax", "array-api-strict"), modes=(Mode.EAGER, Mode.STRICTEST))
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_A6_the_check_waits_once(place, subject, options, monkeypatch):
    x, t, options = _arguments(place, options, soft=False)
    subject.loss_and_grad(x, t, **options)
    for function in (subject.loss, subject.loss_and_grad):
        with _counting(place, monkeypatch) as seen:
            function(x, t, **options)
        assert seen.total() <= 1, seen


@pytest.mark.clause("A6")
@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_A6_the_check_changes_no_result(place, subject, options):
    x, t, options = _arguments(place, options, soft=False)
    with place.backend.during_call():
        checked = subject.loss_and_grad(x, t, **options)
        unchecked = subject.loss_and_grad(x, t, check_targets=False, **options)
    for a, b, dtype in zip(checked, unchecked, (place.compute_dtype, place.dtype), strict=True):
        np.testing.assert_allclose(place.to_numpy(a), place.to_numpy(b), rtol=4 * units.EPS[dtype], atol=0)


@pytest.mark.clause("A6")
@pytest.mark.places(backends=("jax",), modes=(Mode.TRACED,))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_A6_tracing_shows_that_no_value_is_needed(place, subject, soft):
    jax = place.backend.jax
    for options in OPTIONS:
        x, t, arrays = _arguments(place, options, soft)
        plain = {name: value for name, value in arrays.items() if not hasattr(value, "dtype")}
        arrays = {name: value for name, value in arrays.items() if name not in plain}
        shapes = jax.eval_shape(lambda a, b, c, plain=plain: subject.loss_and_grad(a, b, **c, **plain), x, t, arrays)
        assert shapes[1].shape == x.shape


@pytest.mark.clause("A6")
@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,))
def test_A6_tensors_without_values_will_do(place, subject):
    torch = place.backend.torch
    for options in ({}, {"ignore_index": 2, "label_smoothing": 0.1}, {"algorithm": "explicit"}):
        x = torch.empty(2, 3, 5, dtype=getattr(torch, place.dtype), device="meta")
        t = torch.empty(2, 3, dtype=torch.int64, device="meta")
        loss, d_logits = subject.loss_and_grad(x, t, **options)
        assert (loss.device.type, d_logits.shape) == ("meta", x.shape)
