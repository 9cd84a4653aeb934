"""What a library is asked: which one an array is of, and that all of a call stays on the device of its arrays.

That no backend is imported by looking is `test_import.py`.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import crossent
from crossent import libraries
from crossent.engines import select
from crossent.libraries import NUMPY
from crossent.libraries.base import AsGraph, InRuns


class Subclass(np.ndarray):
    """An array of NumPy's."""


class Foreign:
    """An array of a library that nobody has heard of, which keeps to the standard: NumPy's in disguise."""

    namespace = ModuleType("some.array_library")
    namespace.__getattr__ = lambda name: getattr(np, name)
    device = "cpu"

    def __array_namespace__(self, api_version=None):
        return self.namespace


def _module(name):
    return pytest.importorskip(name)


ARRAYS = {
    "array": ("numpy", lambda: np.zeros(3)),
    "subclass": ("numpy", lambda: np.zeros(3).view(Subclass)),
    "masked": ("numpy", lambda: np.ma.zeros(3)),
    "scalar": ("numpy", lambda: np.int64(3)),
    "tensor": ("torch", lambda: _module("torch").zeros(3)),
    "parameter": ("torch", lambda: _module("torch").nn.Parameter(_module("torch").zeros(3))),
    "jax": ("jax", lambda: _module("jax.numpy").zeros(3)),
    "dask": ("dask", lambda: _module("dask.array").zeros(3)),
    "strict": ("array-api-strict", lambda: _module("array_api_strict").zeros(3)),
    # Served, and not installed for the tests of every build.
    "mlx": ("mlx", lambda: _module("mlx.core").zeros(3)),
    "dpnp": ("dpnp", lambda: _module("dpnp").zeros(3)),
    "ndonnx": ("ndonnx", lambda: _module("ndonnx").zeros(3)),
    "foreign": ("some", Foreign),
}


@pytest.mark.parametrize(("name", "make"), ARRAYS.values(), ids=ARRAYS)
def test_the_library_of_an_array(name, make):
    x = make()
    library = libraries.of(x)
    assert library.name == name
    assert library is library.family is libraries.of(make())
    assert libraries.is_array(x)
    assert library.xp is not None


def test_a_file_serves_arrays_that_do_not_know_the_standard(monkeypatch):
    class Plain:
        pass

    module = ModuleType("some_module")
    module.Plain, module.LIBRARY = Plain, libraries.Library(np, "some")
    assert libraries.of(Plain()) is None
    monkeypatch.setitem(sys.modules, "some_module", module)
    monkeypatch.setitem(sys.modules, "crossent.libraries.some_file", module)
    monkeypatch.setattr(libraries, "_FILES", (*libraries._FILES, ("some_module", "Plain", "some_file")))
    monkeypatch.setattr(libraries, "_by_type", {})
    assert libraries.of(Plain()) is module.LIBRARY


def test_the_library_of_a_tracer():
    jax = _module("jax")
    found = []
    jax.jit(lambda x: found.append(libraries.of(x)) or x)(jax.numpy.zeros(3))
    jax.grad(lambda x: found.append(libraries.of(x)) or x.sum())(jax.numpy.zeros(3))
    assert found == [libraries.of(jax.numpy.zeros(3))] * 2


def test_what_a_namespace_has_to_have_is_what_is_taken_of_one():
    root, taken = Path(crossent.__file__).parent, set()
    shared = [*(root / "math").glob("*.py"), *map(root.joinpath, ("libraries/base.py", "engines/array_api.py"))]
    for file in [*shared, *map(root.joinpath, ("api.py", "checks.py", "linear.py", "problem.py", "views.py"))]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and (getattr(node.value, "id", "") or getattr(node.value, "attr", "")) == "xp"
            ):
                taken.add(node.attr)
    # NumPy's own, where arrays are written in place.
    assert sorted(taken - {"copyto", "__name__"}) == list(libraries._TAKEN)


@pytest.mark.parametrize("lacking", ["arange", "device"])
def test_what_claims_the_standard_and_lacks_some_is_refused_by_its_module(monkeypatch, lacking):
    monkeypatch.setattr(libraries, "_by_type", {})
    if lacking == "device":
        monkeypatch.delattr(Foreign, "device")
    else:
        names = {name: None for name in ("__name__", *libraries._TAKEN) if name != lacking}
        monkeypatch.setattr(Foreign, "namespace", SimpleNamespace(**names))
    assert libraries.of(Foreign()) is None
    text = f"logits is {__name__}.Foreign; accepted: an array of shape (..., V), of {libraries.SERVED}"
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        crossent.cross_entropy(Foreign(), np.zeros(3, int))


def test_an_array_without_values_is_refused():
    ndonnx = _module("ndonnx")
    logits, targets = ndonnx.asarray(np.zeros((2, 3))), ndonnx.asarray(np.array([0, 1]))
    crossent.cross_entropy(logits, targets)
    for x, t, name in (
        (ndonnx.argument(shape=(2, 3), dtype=ndonnx.float64), targets, "logits"),
        (logits, ndonnx.argument(shape=(2,), dtype=ndonnx.int64), "targets"),
    ):
        with pytest.raises(
            TypeError, match=f"^{name} is an ndonnx array that has no values yet; accepted: .*, with values$"
        ):
            crossent.cross_entropy(x, t)


class Values:
    """An array whose parts are copies, which may be read-only."""

    def __init__(self, data, readonly=False):
        self.data, self.readonly = data, readonly

    def __getitem__(self, place):
        return Values(self.data[place].copy(), self.readonly)

    def __setitem__(self, place, value):
        if self.readonly:
            raise TypeError("immutable")
        self.data[place] = value

    def __eq__(self, other):
        return self.data == other

    __hash__ = None


@pytest.mark.parametrize("readonly", [False, True])
def test_an_unknown_library_without_views_is_walked_as_a_graph(readonly):
    xp = SimpleNamespace(__name__="some", full=lambda shape, value: Values(np.full(shape, value), readonly))
    assert type(libraries._of_namespace.__wrapped__(xp)) is AsGraph
    assert type(libraries._of_namespace.__wrapped__(np)) is libraries.Library


class OneAfterTheOther:
    """NumPy, but for sums that lose digits."""

    __name__ = "numpy"

    def __getattr__(self, name):
        return getattr(np, name)

    def sum(self, x, axis=None):
        total = np.cumsum(x, axis=axis, dtype=x.dtype)
        return total[-1] if axis is None else np.take(total, -1, axis=axis)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_long_sums_lose_no_digits_where_the_library_would(axis):
    x = np.random.default_rng(0).uniform(size=(1, 100_003) if axis in (1, -1) else (100_003, 1)).astype(np.float32)
    xp, exact = OneAfterTheOther(), np.sum(x, axis=axis, dtype=np.float64)
    assert np.abs(xp.sum(x, axis) / exact - 1).max() > 1e-6
    found = InRuns(xp).sum(x, axis=axis)
    assert found.dtype == np.float32
    assert found.shape == exact.shape
    np.testing.assert_allclose(found, exact, rtol=2.0**-22)
    assert InRuns(xp).sum(x[:8, :8], axis=axis, dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize(
    "x", [None, 3, 2.5, True, "mean", b"x", [0.0], (1,), {}, np.float32, np.dtype(float), np], ids=repr
)
def test_what_is_no_array(x):
    assert libraries.of(x) is None
    assert not libraries.is_array(x)


def test_a_library_that_is_not_imported_has_no_arrays(monkeypatch):
    for module in ("torch", "jax", "cupy", "dask.array", "array_api_strict"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(libraries, "_by_type", {})
    before = set(sys.modules)
    assert libraries.of(np.float32(3)) is NUMPY
    assert libraries.of(Foreign()).name == "some"
    assert set(sys.modules) == before


# --- devices ----------------------------------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "ignored-none": {"ignore_index": 1, "reduction": "none"},
    "sequence": {"reduction": "sequence", "weights": "token weights", "denominator": "tokens"},
    "smoothed-classes": {"label_smoothing": 0.1, "class_weights": "classes", "ignore_index": 1},
    "uniform-z": {"label_smoothing": 0.2, "smoothing": "uniform", "z_loss": 0.01, "reduction": "sum"},
    "weights": {"weights": "token weights", "denominator": 3.5},
    "denominator": {"weights": "token weights", "class_weights": "classes", "denominator": "number"},
    "explicit": {"algorithm": "explicit", "reduction": "sum"},
    "soft": {"soft": True, "label_smoothing": 0.1, "weights": "token weights"},
    "soft-classes": {"soft": True, "class_weights": "classes", "z_loss": 0.1, "reduction": "none"},
    "unchecked": {"check_targets": False, "ignore_index": 1},
}
N, V = 6, 7


def _call(options, make):
    """The arguments of a call, whose arrays `make` makes of NumPy's: logits, targets, options."""
    rng = np.random.default_rng(4)
    x, t = (3 * rng.standard_normal((2, N, V))).astype(np.float32), rng.integers(0, V, (2, N))
    q = rng.random((2, N, V)).astype(np.float32)
    made = {
        "token weights": np.linspace(0, 2, N, dtype=np.float32),
        "classes": np.linspace(0.5, 2, V, dtype=np.float32),
        "number": np.asarray(2.5, np.float32),
    }
    soft = "soft" in options
    named = {key: make(made[x]) if x in made else x for key, x in options.items() if key != "soft"}
    return make(x), make(q if soft else t.astype(np.int32)), named


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_device_of_array_api_strict_without_64_bits(request, options):
    """That a call stays on a device of the library's is asked by every clause, in two modes of their own."""
    xp = _module("array_api_strict")
    known = {getattr(each, "_device", each): each for each in xp.__array_namespace_info__().devices()}
    if "no_x64" not in known:
        pytest.skip("this version of array-api-strict has no such device")
    if "soft" in options:
        reason = "array_api_strict.argmax makes int64, which this device of its own does not have"
        request.applymarker(pytest.mark.xfail(raises=ValueError, reason=reason))
    results = []
    for place in (known["CPU_DEVICE"], known["no_x64"]):
        x, t, named = _call(options, lambda a, place=place: xp.asarray(a, device=place))
        found = [crossent.cross_entropy(x, t, **named), *crossent.cross_entropy_and_grad(x, t, **named)]
        assert {result.device for result in found} == {place}
        results.append([np.asarray(xp.asarray(result, device=known["CPU_DEVICE"])) for result in found])
    for on_cpu, there in zip(*results, strict=True):
        np.testing.assert_allclose(there.astype(float), on_cpu.astype(float), rtol=2e-6, atol=2e-7)


@pytest.fixture
def like_mps(monkeypatch):
    """Take torch's CPU tensors for those of a device whose memory nothing else sees, and that has no float64."""
    torch = _module("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    from crossent.libraries.torch import tensors

    class NoFloat64(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for x in torch.utils._pytree.tree_leaves(made):
                if isinstance(x, torch.Tensor) and x.dtype == torch.float64:
                    raise TypeError(f"{func} makes float64, which the device does not have")
            return made

    monkeypatch.setattr(tensors.Torch, "memory_of", lambda self, device: ("", 0))
    monkeypatch.setattr(tensors, "_NO_FLOAT64", ("cpu",))
    select._best.cache_clear()
    with NoFloat64():
        yield torch


def _all_of(torch, options, dtype):
    """The loss and the gradient of a call in every way there is to ask for them."""

    def make(a):
        x = torch.from_numpy(a.copy())
        return x.to(dtype) if a.ndim == 3 else x

    x, t, named = _call(options, make)
    leaves = [x.clone().requires_grad_(), *(a for a in named.values() if isinstance(a, torch.Tensor))]
    found = [crossent.cross_entropy(x, t, **named), *crossent.cross_entropy_and_grad(x, t, **named)]
    above = torch.full_like(found[0], 0.5)
    found += crossent.cross_entropy_and_grad(x, t, x.clone(), above, **named)
    loss = crossent.cross_entropy(leaves[0], t, **named)
    loss.backward(above)
    found += [loss.detach(), leaves[0].grad]
    # All that is differentiated stays on the graph then.
    leaves = [a.detach().requires_grad_() for a in leaves]
    named |= dict(zip([key for key, a in named.items() if isinstance(a, torch.Tensor)], leaves[1:], strict=True))
    loss = crossent.cross_entropy(leaves[0], t, **named)
    return [*found, loss.detach(), *torch.autograd.grad(loss, leaves, above)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_device_without_float64(request, options, dtype):
    torch = _module("torch")
    expected = _all_of(torch, options, getattr(torch, dtype))
    request.getfixturevalue("like_mps")
    found = _all_of(torch, options, getattr(torch, dtype))
    assert len(found) >= 9
    for a, b in zip(found, expected, strict=True):
        tolerance = 2.0**-7 if a.dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance / 8)


def test_pytorchs_own_signature_without_float64(like_mps):
    from crossent.torch import cross_entropy

    x, t, _ = _call({}, like_mps.from_numpy)
    x = x.reshape(-1, V).requires_grad_()
    t = t.reshape(-1).long()
    loss = cross_entropy(x, t, label_smoothing=0.1, ignore_index=1)
    theirs = like_mps.nn.functional.cross_entropy(x, t, label_smoothing=0.1, ignore_index=1)
    for a, b in zip(like_mps.autograd.grad(loss, x), like_mps.autograd.grad(theirs, x), strict=True):
        like_mps.testing.assert_close(a, b)
    like_mps.testing.assert_close(loss, theirs)
