"""Clause A6: nothing waits for a device but the check of the targets, and that waits once.

What makes Python wait is a value that comes out of an array: `bool`, `int`, `item`, `nonzero`, `__array__`. They are
counted. Host memory is at hand and may be looked at through NumPy; a traced array has no values at all.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from unittest import mock

import numpy as np
import pytest

from crossent_conformance import agree, cases
from crossent_conformance.backends import DIRECT, Mode

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
OPTIONS = {
    "plain": {},
    "weights": {"weights": np.array([[0.5, 2.0, 0.0], [1.0, 1.5, 4.0]]), "denominator": "tokens"},
    "classes": {"class_weights": np.array([1.0, 0.5, 2.0, 0.25, 1.5]), "label_smoothing": 0.125},
    "ignore-z": {"ignore_index": 2, "z_loss": 0.0625, "reduction": "sequence"},
    "explicit": {"algorithm": "explicit"},
    "denominator": {"denominator": np.asarray(3.0)},
}


@contextlib.contextmanager
def _counting_torch():
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = Counter()
    tolist = Tensor.tolist

    def counted(tensor):
        seen["tolist"] += 1
        return tolist(tensor)

    class Counts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            if name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique_dim", "masked_select"):
                seen[name] += 1
            return func(*args, **(kwargs or {}))

    # In host memory it is no operation.
    with mock.patch.object(Tensor, "tolist", counted), Counts():
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


def _arguments(place, options, soft=False):
    return *place.pair(*cases.small(soft)), place.options(options)


COUNTED = ("torch", "torch-cuda", "jax", "array-api-strict")
CALLS = {
    "loss": lambda subject, x, t, options: subject.loss(x, t, **options),
    "gradient": lambda subject, x, t, options: subject.loss_and_grad(x, t, **options),
    "in-place": lambda subject, x, t, options: subject.loss_and_grad(x, t, out=x, **options),
}


def _has_meaning(place, options, call, soft=False):
    return not (soft and "ignore_index" in options) and (call != "in-place" or place.backend.name != "jax")


@pytest.mark.places(backends=COUNTED, modes=(Mode.EAGER, Mode.STRICTEST), sparse=True, when=_has_meaning)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("call", CALLS)
def test_A6_no_synchronisation_without_the_check(place, subject, call, options, soft, monkeypatch):
    agree.serves_soft(place, subject, soft)
    x, t, options = _arguments(place, options, soft)
    options["check_targets"] = False
    CALLS[call](subject, x, t, options)  # what a first call compiles or caches is not what this is about
    with _counting(place, monkeypatch) as seen:
        CALLS[call](subject, x, t, options)
    assert not seen, f"it waits for {dict(seen)}"


@pytest.mark.places(backends=COUNTED, modes=(Mode.EAGER, Mode.STRICTEST), sparse=True, when=_has_meaning)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("call", ["loss", "gradient"])
def test_A6_the_check_waits_once(place, subject, call, options, monkeypatch):
    x, t, options = _arguments(place, options)
    CALLS[call](subject, x, t, options)
    with _counting(place, monkeypatch) as seen:
        CALLS[call](subject, x, t, options)
    assert seen.total() <= 1, f"it waits for {dict(seen)}"


@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_A6_the_check_changes_no_result(place, subject, options):
    x, t, options = _arguments(place, options)
    with place.backend.during_call():
        checked = subject.loss(x, t, **options)
        unchecked = subject.loss(x, t, check_targets=False, **options)
    agree.alike(place, checked, unchecked)


@pytest.mark.places(
    backends=("jax",), modes=(Mode.TRACED,), when=lambda place, options, soft: not (soft and "ignore_index" in options)
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_A6_tracing_shows_that_no_value_is_needed(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    jax = place.backend.jax
    x, t, options = _arguments(place, options, soft)
    plain = {name: value for name, value in options.items() if not hasattr(value, "dtype")}
    arrays = {name: value for name, value in options.items() if name not in plain}
    shapes = jax.eval_shape(lambda a, b, c: subject.loss_and_grad(a, b, **c, **plain), x, t, arrays)
    agree.same(shapes[1].shape, x.shape, "the shape of the gradient")
