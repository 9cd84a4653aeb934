"""The words of every refusal of `crossent`, the same on every backend. Of others the suite asks what a text names."""

from __future__ import annotations

import numpy as np
import pytest

import crossent
from crossent_conformance import adapter, backends, bad_calls, subject, texts
from crossent_conformance.clauses.test_refusals import maker
from crossent_conformance.refused import IDS, LOGITS, SEQUENCES, SOFT, TARGETS

ON_CPU = ("numpy", "torch", "jax", "dask", "array-api-strict")
LIBRARIES = [name for name in ON_CPU if not isinstance(backends.load(name), str)]


@pytest.fixture(scope="module")
def ours():
    return subject.load(subject.DEFAULT)


@pytest.fixture(params=LIBRARIES)
def backend(request):
    return backends.load(request.param)


def _refusal(backend, function, *arguments, **options):
    with backend.during_call(), pytest.raises(Exception) as caught:  # noqa: PT011
        function(*arguments, **options)
    assert not isinstance(caught.value, subject.DoesNotApply)
    return type(caught.value), str(caught.value)


def _taken_by(ours, name):
    """The subject, or one whose loss is that of loss_and_grad."""
    if name == "loss":
        return ours
    with_gradient = adapter.UnderTest(subject._find(subject.DEFAULT), subject.DEFAULT)
    with_gradient.loss = with_gradient.loss_and_grad
    return with_gradient


CALLS = [(name, bad) for name in LIBRARIES for bad in bad_calls.BAD_CALLS if bad.only is None or name in bad.only]


@pytest.mark.parametrize("function", ["loss", "loss_and_grad"])
@pytest.mark.parametrize(("name", "bad"), CALLS, ids=str)
def test_every_refusal_says_what_is_accepted(ours, name, bad, function):
    backend = backends.load(name)
    asked = _taken_by(ours, function)
    kind, text = _refusal(backend, lambda: bad.call(asked, maker(backend)))
    assert kind is bad.error
    assert bad.is_named_by(text)
    for word in bad.words:
        assert word in text
    if bad.name not in ("object-unknown-option", "object-weights-among-options"):
        assert "accepted: " in text
    if isinstance(bad.given, tuple):
        assert str(bad.given) in text
    if bad.only is None or "numpy" in bad.only:
        numpy = backends.load("numpy")
        assert _refusal(numpy, lambda: bad.call(asked, maker(numpy))) == (kind, text)


@pytest.mark.parametrize("name", [name for name in LIBRARIES if name != "dask"])
def test_targets_out_of_range(name):
    make = maker(backends.load(name))
    x, targets = make(SEQUENCES, "float32"), IDS.copy()
    targets[0, 2], targets[1, 1] = 5, 77
    t = make(targets)
    for function in (crossent.cross_entropy, crossent.cross_entropy_and_grad, crossent.CrossEntropyLoss().forward):
        with pytest.raises(IndexError) as caught:
            function(x, t)
        assert str(caught.value) == "targets[0, 2] is 5; accepted: 0 to 3 (V = 4)"
    with pytest.raises(IndexError) as caught:
        crossent.cross_entropy(x, t, ignore_index=5)
    assert str(caught.value) == "targets[1, 1] is 77; accepted: 0 to 3 (V = 4), or ignore_index = 5"
    with pytest.raises(IndexError) as caught:
        crossent.cross_entropy(make(np.zeros(4), "float32"), make(np.asarray(4)))
    assert str(caught.value) == "targets is 4; accepted: 0 to 3 (V = 4)"


@pytest.mark.parametrize("dtype", ["uint64", "int8"])
def test_a_target_is_named_by_its_own_value(dtype):
    value = {"uint64": 2**64 - 1, "int8": -128}[dtype]
    targets = TARGETS.astype(dtype)
    targets[3] = value
    with pytest.raises(IndexError, match=rf"^targets\[3\] is {value}; "):
        crossent.cross_entropy(LOGITS, targets)


@pytest.mark.parametrize("option", ["label_smooth", "weight", "limits", "followed"])
@pytest.mark.parametrize("function", [crossent.cross_entropy, crossent.cross_entropy_and_grad])
def test_unknown_options(function, option):
    # The signature lists what is accepted, so the error is Python's own.
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        function(LOGITS, TARGETS, **{option: None})


VALUES = {
    "targets": TARGETS,
    "soft": SOFT,
    "weights": np.ones(6),
    "class_weights": np.ones(4),
    "denominator": np.asarray(2.0),
    "grad_output": np.asarray(1.0),
    "out": LOGITS,
}


def _with(x, t, argument, value):
    name = "targets" if argument == "soft" else argument
    if name == "targets":
        return name, lambda: crossent.cross_entropy_and_grad(x, value)
    return name, lambda: crossent.cross_entropy_and_grad(x, t, **{name: value})


@pytest.mark.parametrize("argument", VALUES)
def test_one_library_only(backend, argument):
    other = backends.load("array-api-strict" if backend.name == "numpy" else "numpy")
    values = VALUES[argument]
    foreign = other.asarray(values, "float32" if values.dtype.kind == "f" else "int64")
    make = maker(backend)
    name, call = _with(make(LOGITS, "float32"), make(TARGETS), argument, foreign)
    expected = f"{name} is a {other.name} array and logits is a {backend.name} array; accepted: one library"
    assert _refusal(backend, call) == (TypeError, expected)


@pytest.mark.parametrize("argument", VALUES)
def test_one_device_only(argument):
    torch = pytest.importorskip("torch")
    values = VALUES[argument]
    dtype = torch.float32 if values.dtype.kind == "f" else torch.int64
    elsewhere = torch.tensor(values, dtype=dtype, device="meta")
    name, call = _with(torch.tensor(LOGITS), torch.tensor(TARGETS), argument, elsewhere)
    with pytest.raises(
        ValueError, match=f"^{name} is on device meta and logits is on device cpu; accepted: one device$"
    ):
        call()


@pytest.mark.parametrize("argument", ["logits", *(name for name in VALUES if name not in ("soft", "denominator"))])
def test_masked_arrays(argument):
    arguments = {"logits": LOGITS} | {name: VALUES[name] for name in VALUES if name not in ("soft", "denominator")}
    arguments["out"] = LOGITS.copy()
    arguments[argument] = np.ma.masked_array(arguments[argument])
    with pytest.raises(TypeError, match=f"^{argument} is a masked array.*accepted:"):
        crossent.cross_entropy_and_grad(arguments.pop("logits"), arguments.pop("targets"), **arguments)


def test_memory_that_cannot_take_the_gradient():
    readonly = LOGITS.copy()
    readonly.flags.writeable = False
    for out in (readonly, np.broadcast_to(LOGITS[:1], LOGITS.shape)):
        with pytest.raises(ValueError, match=r"out is read-only.*; accepted: "):
            crossent.cross_entropy_and_grad(LOGITS, TARGETS, out=out)
    for strides in ((0, 8), (24, 8), (8, 8)):
        repeated = np.lib.stride_tricks.as_strided(np.zeros(64), LOGITS.shape, strides)
        with pytest.raises(ValueError, match=r"out has elements that share memory.*; accepted: "):
            crossent.cross_entropy_and_grad(LOGITS, TARGETS, out=repeated)


def test_tensors_that_cannot_take_the_gradient():
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS), torch.tensor(TARGETS)
    with pytest.raises(ValueError, match=r"out has elements that share memory.*; accepted: "):
        crossent.cross_entropy_and_grad(x, t, out=x[:1].expand(6, 4))
    with pytest.raises(ValueError, match=r"out requires a gradient.*; accepted: "):
        crossent.cross_entropy_and_grad(x, t, out=x.clone().requires_grad_())


def test_dense_tensors_only():
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS), torch.tensor(TARGETS)
    for arguments, options, name in (
        ((x.to_sparse(), t), {}, "logits"),
        ((x, x.softmax(-1).to_sparse()), {}, "targets"),
        ((x, t), {"weights": x[:, 0].to_sparse()}, "weights"),
        ((x, t), {"class_weights": x[0].to_sparse()}, "class_weights"),
    ):
        with pytest.raises(TypeError, match=f"{name} is a sparse, nested or opaque tensor; accepted: .*dense"):
            crossent.cross_entropy(*arguments, **options)


def test_unknown_lengths():
    array = pytest.importorskip("dask.array")
    x, t, kept = array.from_array(LOGITS), array.from_array(TARGETS), array.ones(6, dtype=bool)
    for arguments, name in (((x[kept], t), "logits"), ((x, t[kept]), "targets")):
        with pytest.raises(ValueError, match=rf"^{name} has the unknown shape .*accepted: a shape of known lengths"):
            crossent.cross_entropy(*arguments)


def test_refused_under_tracing_too():
    jax = pytest.importorskip("jax")
    x, t = jax.numpy.asarray(LOGITS), jax.numpy.asarray(TARGETS)
    for options, word in (({"reduction": "avg"}, "'avg'"), ({"class_weights": jax.numpy.ones(3)}, r"\(3,\)")):
        with pytest.raises(ValueError, match=f"{word}.*accepted:"):
            jax.jit(lambda x, t, options=options: crossent.cross_entropy(x, t, **options))(x, t)


def test_backward_before_forward():
    for options in ({}, {"reduction": "none"}):
        with pytest.raises(RuntimeError, match=r"backward\(\).*forward"):
            crossent.CrossEntropyLoss(**options).backward()


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("target -1 at [2], where V = 4", ""),
        ("target -1, where V = 4", "the position [2]"),
        ("at (2,), of 4", "the value -1"),
        ("target -1 at 2", "V = 4"),
        ("out of range", "the position [2] and the value -1 and V = 4"),
    ],
)
def test_what_an_error_of_a_target_does_not_name(text, lacks):
    assert texts.lacks_of_target(text, (2,), -1, 4) == lacks


def test_one_number_does_not_name_two_things():
    assert texts.lacks_of_target("4 of 4", (4,), 4, 4) == (
        "the position [4], the value 4, V = 4 each by numbers of its own"
    )
