"""Clauses A3 to A5: what is refused, by the same error and text on every backend, before anything is written."""

from __future__ import annotations

import numpy as np
import pytest

from xent_conformance import agree, backends, cases
from xent_conformance.backends import DIRECT, Mode
from xent_conformance.bad_calls import BAD_CALLS, LOGITS, SOFT, TARGETS

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
READABLE = (Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST)
UNREADABLE = (Mode.TRACED, Mode.LAZY)


def _maker(backend):
    return lambda values, dtype=None: backend.asarray(values, dtype or str(values.dtype))


def _error(backend, function, mode=Mode.EAGER):
    with backend.context(mode), backend.during_call(), pytest.raises(Exception) as caught:  # noqa: PT011
        function()
    return type(caught.value), str(caught.value)


@pytest.mark.clause("A3")
@pytest.mark.places(modes=(*DIRECT, Mode.TRACED), dtypes=("float32",))
@pytest.mark.parametrize("dtype", INTEGERS)
def test_A3_every_integer_dtype(place, subject, dtype):
    logits, targets = cases.random((2, 3), 5)
    for options in ({}, {"ignore_index": 2}, {"label_smoothing": 0.125, "reduction": "none"}):
        agree.with_oracle(place, subject, logits, targets.astype(dtype), **options)


@pytest.mark.clause("A3")
@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
@pytest.mark.parametrize("dtype", INTEGERS)
def test_A3_integers_at_the_ends_of_their_dtype(place, subject, dtype):
    V = min(int(np.iinfo(dtype).max), 299) + 1
    logits, _ = cases.random((4,), V)
    targets = np.array([0, V - 1, V // 2, 1]).astype(dtype)
    agree.with_oracle(place, subject, logits, targets, reduction="none")


@pytest.mark.clause("A3", "A4")
@pytest.mark.places(modes=READABLE, dtypes=("float32",), sparse=True)
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("uint64", 2**63),
        ("uint64", 2**64 - 1),
        ("uint64", 2**64 - 100),
        ("uint32", 2**32 - 1),
        ("uint32", 2**31),
        ("uint16", 2**16 - 1),
        ("uint8", 255),
        ("uint8", 156),
        ("int8", -1),
        ("int8", -128),
        ("int16", -(2**15)),
        ("int32", -(2**31)),
        ("int64", -(2**63)),
        ("int64", 2**63 - 1),
        ("int64", 2**32 + 1),
    ],
)
def test_A3_values_past_a_signed_integer_do_not_wrap(place, subject, dtype, value):
    """Neither into the vocabulary nor onto ignore_index, whatever integer the implementation computes with."""
    logits, targets = place.put(LOGITS, place.dtype), TARGETS.astype(dtype)
    targets[1, 1] = value
    t = place.put(targets)
    for options in ({}, {"ignore_index": -100}, {"ignore_index": -5}):
        with pytest.raises(IndexError) as caught:
            subject.loss(logits, t, **options)
        assert f"targets[1, 1] is {value};" in str(caught.value)
        loss = subject.loss(logits, t, check_targets=False, reduction="none", **options)
        assert np.isnan(place.to_numpy(loss)).tolist() == [[False] * 3, [False, True, False]]


@pytest.mark.clause("A3")
@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
@pytest.mark.parametrize(
    ("dtype", "ignored"), [("uint8", 255), ("uint8", 2), ("uint64", 2**63 - 1), ("int8", -100), ("int8", -1)]
)
def test_A3_ignored_values_of_narrow_integers(place, subject, dtype, ignored):
    targets = TARGETS.astype(dtype)
    targets[0, 1] = ignored
    agree.with_oracle(place, subject, LOGITS, targets, ignore_index=ignored)


@pytest.mark.clause("A4")
@pytest.mark.places(modes=READABLE, sparse=True)
@pytest.mark.parametrize("value", [-1, 4, 5, -4, -100, 2**31 - 1, -(2**31)])
def test_A4_the_first_offending_target_is_named(place, subject, value):
    targets = TARGETS.copy()
    targets[0, 2], targets[1, 1] = value, 77
    x, t = place.put(LOGITS, place.dtype), place.put(targets)
    for function in (subject.loss, subject.loss_and_grad, subject.loss_object().forward):
        with pytest.raises(IndexError) as caught:
            function(x, t)
        assert str(caught.value) == f"targets[0, 2] is {value}; accepted: 0 to 3 (V = 4)"
    with pytest.raises(IndexError) as caught:
        subject.loss(x, t, ignore_index=value)
    assert str(caught.value) == f"targets[1, 1] is 77; accepted: 0 to 3 (V = 4), or ignore_index = {value}"


@pytest.mark.clause("A4")
@pytest.mark.places(modes=READABLE, dtypes=("float32",))
def test_A4_any_rank(place, subject):
    for tokens, where in [((), ""), ((3,), "[2]"), ((2, 1, 2), "[1, 0, 1]")]:
        targets = np.zeros(tokens, dtype=np.int64)
        targets[(-1,) * len(tokens)] = 4
        with pytest.raises(IndexError) as caught:
            subject.loss(place.put(np.zeros((*tokens, 4)), place.dtype), place.put(targets))
        assert str(caught.value) == f"targets{where} is 4; accepted: 0 to 3 (V = 4)"


@pytest.mark.clause("A4")
@pytest.mark.places(
    modes=(Mode.EAGER, Mode.STRICTEST), backends=("numpy", "torch", "torch-cuda", "cupy", "array-api-strict")
)
def test_A4_nothing_is_written_before_the_error(place, subject):
    x = place.put(LOGITS, place.dtype)
    out = place.put(np.full(LOGITS.shape, 7.0), place.dtype)
    before = np.array(place.to_numpy(x))
    targets = TARGETS.copy()
    targets[1, 2] = 4
    for memory in (out, x):
        with pytest.raises(IndexError):
            subject.loss_and_grad(x, place.put(targets), out=memory)
    assert (place.to_numpy(out) == 7).all()
    np.testing.assert_array_equal(place.to_numpy(x), before)


@pytest.mark.clause("A4")
@pytest.mark.places(modes=(*READABLE, *UNREADABLE), sparse=True)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.125},
        {"weights": np.array([[1.0, 0.5, 2.0], [1.0, 1.0, 4.0]])},
        {"class_weights": np.array([1.0, 0.5, 2.0, 0.25])},
        {"algorithm": "explicit"},
        {"z_loss": 0.5},
    ],
    ids=["plain", "smoothed", "weights", "classes", "explicit", "z"],
)
@pytest.mark.parametrize("value", [-1, 4, -4, -100, 2**31 - 1, -(2**63)])
def test_A4_where_nothing_is_read_the_row_is_nan(place, subject, options, value):
    targets = TARGETS.copy()
    targets[0, 2] = value
    options = {**options, "reduction": "none", "check_targets": False}
    loss, d_logits = place.evaluate(subject.loss_and_grad, LOGITS, targets, **options)
    clean_loss, clean_gradient = place.evaluate(subject.loss_and_grad, LOGITS, TARGETS, **options)
    clean_loss, clean_gradient = clean_loss.copy(), clean_gradient.copy()
    clean_loss[0, 2] = clean_gradient[0, 2] = np.nan
    np.testing.assert_array_equal(loss, clean_loss)
    np.testing.assert_array_equal(d_logits, clean_gradient)


@pytest.mark.clause("A4")
@pytest.mark.places(modes=UNREADABLE)
def test_A4_tracing_and_laziness_cannot_raise(place, subject):
    targets = TARGETS.copy()
    targets[1, 0] = 4
    for options in ({}, {"ignore_index": 1}, {"ignore_index": -100, "label_smoothing": 0.25}):
        loss, d_logits = place.evaluate(subject.loss_and_grad, LOGITS, targets, reduction="none", **options)
        assert np.isnan(loss).tolist() == [[False] * 3, [True, False, False]]
        assert np.isnan(d_logits).all(axis=-1).tolist() == np.isnan(d_logits).any(axis=-1).tolist()
        assert np.isnan(d_logits).any(axis=-1).tolist() == np.isnan(loss).tolist()
        assert np.isnan(place.evaluate(subject.loss, LOGITS, targets, **options))


@pytest.mark.clause("A4")
@pytest.mark.places(backends=("jax", "torch"), modes=(Mode.EAGER,), dtypes=("float32",))
def test_A4_under_vmap_the_row_is_nan(place, subject):
    targets = TARGETS.copy()
    targets[1, 0] = -1
    x, t = place.put(LOGITS, place.dtype), place.put(targets)
    vmap = place.backend.jax.vmap if place.backend.name == "jax" else place.backend.torch.func.vmap
    loss = vmap(lambda a, b: subject.loss(a, b, reduction="none"))(x, t)
    assert np.isnan(place.to_numpy(loss)).tolist() == [[False] * 3, [True, False, False]]


@pytest.mark.clause("A4")
@pytest.mark.places(modes=READABLE, dtypes=("float32",))
def test_A4_soft_targets_are_not_indices(place, subject):
    soft = SOFT.copy()
    soft[0, 0] = [-3.0, 9.0, 0.0, 2.0]
    agree.with_oracle(place, subject, LOGITS, soft)


@pytest.mark.clause("A5", "A3")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("bad", BAD_CALLS, ids=str)
def test_A5_same_type_and_text_on_every_backend(place, subject, bad):
    if bad.only and place.backend.name not in bad.only:
        return
    kind, text = _error(place.backend, lambda: bad.call(subject, _maker(place.backend)), place.mode)
    assert kind is bad.error, text
    for word in bad.names:
        assert word in text
    assert "accepted:" in text
    if bad.only is None or "numpy" in bad.only:
        numpy = backends.load("numpy")
        assert _error(numpy, lambda: bad.call(subject, _maker(numpy))) == (kind, text)


@pytest.mark.clause("A5")
@pytest.mark.parametrize("option", ["label_smooth", "weight", "limits", "followed"])
def test_A5_unknown_options_are_refused_by_name(subject, option):
    # The signature lists what is accepted, so the error is Python's own.
    for function in (subject.loss, subject.loss_and_grad):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            function(LOGITS, TARGETS, **{option: None})


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), modes=(Mode.EAGER, Mode.LAZY))
@pytest.mark.parametrize(
    "argument", ["targets", "soft", "weights", "class_weights", "denominator", "grad_output", "out"]
)
def test_A5_one_library_only(place, subject, argument):
    other = backends.load("array-api-strict" if place.backend.name == "numpy" else "numpy")
    values = {
        "targets": TARGETS,
        "soft": SOFT,
        "weights": np.ones(3),
        "class_weights": np.ones(4),
        "denominator": np.asarray(2.0),
        "grad_output": np.asarray(1.0),
        "out": LOGITS,
    }[argument]
    foreign = other.asarray(values, "float32" if values.dtype.kind == "f" else "int64")
    x, t = place.put(LOGITS, "float32"), place.put(TARGETS)
    name = "targets" if argument == "soft" else argument

    def call():
        if name == "targets":
            return subject.loss_and_grad(x, foreign)
        return subject.loss_and_grad(x, t, **{name: foreign})

    own = place.backend.name.removesuffix("-cuda")
    expected = f"{name} is a {other.name} array and logits is a {own} array; accepted: one library"
    assert _error(place.backend, call) == (TypeError, expected)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("torch", "torch-cuda"), modes=(Mode.EAGER,))
@pytest.mark.parametrize("argument", ["targets", "weights", "class_weights", "denominator", "grad_output", "out"])
def test_A5_one_device_only(place, subject, argument):
    values = {"weights": np.ones(3), "class_weights": np.ones(4), "denominator": np.asarray(2.0)}
    values |= {"grad_output": np.asarray(1.0), "out": LOGITS, "targets": TARGETS}
    dtype = "int64" if argument == "targets" else "float32"
    elsewhere = place.put(values[argument], dtype).to("meta")
    x = place.put(LOGITS, "float32")
    t = elsewhere if argument == "targets" else place.put(TARGETS)
    options = {} if argument == "targets" else {argument: elsewhere}
    expected = f"{argument} is on device meta and logits is on device {x.device}; accepted: one device"
    assert _error(place.backend, lambda: subject.loss_and_grad(x, t, **options)) == (ValueError, expected)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("numpy",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("argument", ["logits", "targets", "weights", "class_weights", "grad_output", "out"])
def test_A5_masked_arrays(place, subject, argument):
    arguments = {"logits": LOGITS, "targets": TARGETS, "weights": np.ones(3), "class_weights": np.ones(4)}
    arguments |= {"grad_output": np.asarray(1.0), "out": LOGITS.copy()}
    arguments[argument] = np.ma.masked_array(arguments[argument])
    with pytest.raises(TypeError, match=f"^{argument} is a masked array.*accepted:"):
        subject.loss_and_grad(arguments.pop("logits"), arguments.pop("targets"), **arguments)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("numpy",), modes=(Mode.EAGER,))
def test_A5_memory_that_cannot_take_the_gradient(place, subject):
    readonly = LOGITS.copy()
    readonly.flags.writeable = False
    for out, word in ((readonly, "read-only"), (np.broadcast_to(LOGITS[:1], LOGITS.shape), "read-only")):
        with pytest.raises(ValueError, match=rf"out is .*{word}.*; accepted: "):
            subject.loss_and_grad(LOGITS, TARGETS, out=out)
    for strides in ((0, 32, 8), (96, 24, 8), (8, 8, 8)):
        repeated = np.lib.stride_tricks.as_strided(np.zeros(64), LOGITS.shape, strides)
        with pytest.raises(ValueError, match=r"out has elements that share memory.*; accepted: "):
            subject.loss_and_grad(LOGITS, TARGETS, out=repeated)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("torch", "torch-cuda"), modes=(Mode.EAGER,))
def test_A5_tensors_that_cannot_take_the_gradient(place, subject):
    x, t = place.put(LOGITS, "float32"), place.put(TARGETS)
    with pytest.raises(ValueError, match=r"out has elements that share memory.*; accepted: "):
        subject.loss_and_grad(x, t, out=x[:1].expand(2, 3, 4))
    with pytest.raises(ValueError, match=r"out requires a gradient.*; accepted: "):
        subject.loss_and_grad(x, t, out=x.clone().requires_grad_())


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("torch",), modes=(Mode.EAGER,))
def test_A5_dense_tensors_only(place, subject):
    x, t = place.put(LOGITS, "float32"), place.put(TARGETS)
    for arguments, options, name in (
        ((x.to_sparse(), t), {}, "logits"),
        ((x, x.softmax(-1).to_sparse()), {}, "targets"),
        ((x, t), {"weights": x[:, :, 0].to_sparse()}, "weights"),
        ((x, t), {"class_weights": x[0, 0].to_sparse()}, "class_weights"),
    ):
        with pytest.raises(TypeError, match=f"{name} is a sparse, nested or opaque tensor; accepted: .*dense"):
            subject.loss(*arguments, **options)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("dask",))
def test_A5_unknown_lengths(place, subject):
    x, t = place.put(LOGITS.reshape(6, 4), "float32"), place.put(TARGETS.reshape(6))
    kept = place.put(np.ones(6), "bool")
    for arguments, name in (((x[kept], t), "logits"), ((x, t[kept]), "targets")):
        with pytest.raises(ValueError, match=rf"^{name} has the unknown shape .*accepted: a shape of known lengths"):
            subject.loss(*arguments)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), modes=(Mode.TRACED,))
def test_A5_refused_under_tracing_too(place, subject):
    for options, word in (({"reduction": "avg"}, "'avg'"), ({"class_weights": np.ones(3)}, r"\(3,\)")):
        with pytest.raises(ValueError, match=f"{word}.*accepted:"):
            place.call(subject.loss, LOGITS, TARGETS, **options)
