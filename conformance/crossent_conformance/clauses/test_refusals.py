"""Clause A5: what is refused, by the same error and text on every backend, naming the argument and what was given."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, backends, texts
from crossent_conformance.backends import DIRECT, Mode
from crossent_conformance.bad_calls import of_clause
from crossent_conformance.refused import LOGITS, SOFT, TARGETS


def maker(backend):
    """What makes NumPy values the backend's arrays."""
    return lambda values, dtype=None: backend.asarray(values, dtype or str(values.dtype))


def _is_served_by_numpy(subject):
    """Whether the subject takes NumPy's arrays besides those of the place, so that there is something to compare."""
    numpy = backends.load("numpy")
    try:
        return numpy.owns(subject.loss(numpy.asarray(LOGITS, "float32"), TARGETS))
    except Exception:
        return False


def check_refused(place, subject, bad):
    """The type, what the text names, and that it is the same for NumPy's arrays."""
    with subject.unassisted():
        with place.backend.during_call():
            error = agree.refusal(lambda: bad.call(subject, maker(place.backend)), bad.error)
        assert bad.is_named_by(str(error), *subject.names_of(bad.argument)), (
            f"{bad.argument} and {bad.given} are not both named: {error}"
        )
        if place.backend.name == "numpy" or "numpy" not in (bad.only or ("numpy",)) or not _is_served_by_numpy(subject):
            return
        same = agree.refusal(lambda: bad.call(subject, maker(backends.load("numpy"))), bad.error)
        assert (type(error), str(error)) == (type(same), str(same))


def _can_be_made(place, bad):
    return bad.only is None or place.backend.name in bad.only


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT, when=_can_be_made)
@pytest.mark.parametrize("bad", of_clause("A5"), ids=str)
def test_A5_same_type_and_text_on_every_backend(place, subject, bad):
    check_refused(place, subject, bad)


@pytest.mark.clause("A5", "S6")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("bad", of_clause("S6"), ids=str)
def test_S6_no_classes_is_refused_by_name(place, subject, bad):
    check_refused(place, subject, bad)


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("option", ["label_smooth", "no_such_option"])
def test_A5_unknown_options_are_refused_by_name(place, subject, option):
    x, t = place.put(LOGITS, place.dtype), place.put(TARGETS)
    assert option in str(agree.refusal(lambda: subject.loss(x, t, **{option: 0.5}), TypeError))


def _check_named(subject, call, argument, *words):
    error = agree.refusal(call, TypeError, ValueError)
    assert texts.names_argument(str(error), *subject.names_of(argument)), error
    assert texts.names_any(str(error), words), error


VALUES = {
    "targets": TARGETS,
    "soft": SOFT,
    "weights": np.ones(6),
    "class_weights": np.ones(4),
    "denominator": np.asarray(2.0),
    "grad_output": np.asarray(1.0),
    "out": LOGITS,
}


def _call(place, subject, argument, value):
    """The call with one argument from elsewhere."""
    x, t = place.put(LOGITS, "float32"), place.put(TARGETS)
    name = "targets" if argument == "soft" else argument
    with subject.unassisted(), place.backend.during_call():
        if name == "targets":
            subject.loss(x, value)
        elif name in ("grad_output", "out"):
            subject.loss_and_grad(x, t, **{name: value})
        else:
            subject.loss(x, t, **{name: value})


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), modes=(Mode.EAGER, Mode.LAZY))
@pytest.mark.parametrize("argument", VALUES)
def test_A5_one_library_only(place, subject, argument):
    other = backends.load("array-api-strict" if place.backend.name == "numpy" else "numpy")
    if isinstance(other, str):
        pytest.skip(f"there is no other library to mix with: array-api-strict {other}")
    values = VALUES[argument]
    foreign = other.asarray(values, "float32" if values.dtype.kind == "f" else "int64")
    name = "targets" if argument == "soft" else argument
    _check_named(subject, lambda: _call(place, subject, argument, foreign), name, other.name, other.package, "ndarray")


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), backends=("torch", "torch-cuda"), modes=(Mode.EAGER,))
@pytest.mark.parametrize("argument", VALUES)
def test_A5_one_device_only(place, subject, argument):
    values = VALUES[argument]
    elsewhere = place.put(values, "float32" if values.dtype.kind == "f" else "int64").to("meta")
    _check_named(
        subject,
        lambda: _call(place, subject, argument, elsewhere),
        "targets" if argument == "soft" else argument,
        "meta",
    )


def _numpy_memory():
    readonly = LOGITS.copy()
    readonly.flags.writeable = False
    return {
        "read-only": readonly,
        "broadcast": np.broadcast_to(LOGITS[:1], LOGITS.shape),
        "repeated-rows": np.lib.stride_tricks.as_strided(np.zeros(64), LOGITS.shape, (0, 8)),
        "overlapping-rows": np.lib.stride_tricks.as_strided(np.zeros(64), LOGITS.shape, (24, 8)),
        "overlapping-classes": np.lib.stride_tricks.as_strided(np.zeros(64), LOGITS.shape, (8, 8)),
    }


@pytest.mark.clause("A5", "A2")
@pytest.mark.places(dtypes=("float64",), backends=("numpy",), modes=(Mode.EAGER,))
@pytest.mark.parametrize("kind", _numpy_memory())
def test_A5_memory_that_cannot_take_the_gradient(place, subject, kind):
    out = _numpy_memory()[kind]
    _check_named(
        subject,
        lambda: subject.loss_and_grad(LOGITS.copy(), TARGETS, out=out),
        "out",
        "read",
        "writ",
        "memory",
        "overlap",
    )


@pytest.mark.clause("A5", "A2")
@pytest.mark.places(dtypes=("float32",), backends=("torch", "torch-cuda"), modes=(Mode.EAGER,))
@pytest.mark.parametrize("kind", ["expanded", "requires-grad"])
def test_A5_tensors_that_cannot_take_the_gradient(place, subject, kind):
    x, t = place.put(LOGITS, "float32"), place.put(TARGETS)
    out = x[:1].expand(6, 4) if kind == "expanded" else x.clone().requires_grad_()
    _check_named(subject, lambda: subject.loss_and_grad(x, t, out=out), "out", "memory", "overlap", "grad")


@pytest.mark.clause("A5")
@pytest.mark.places(dtypes=("float32",), modes=(Mode.TRACED,))
@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [("reduction", "avg", ("avg",)), ("class_weights", np.ones(3), ("(3,)", "[3]"))],
    ids=["word", "shape"],
)
def test_A5_refused_under_tracing_too(place, subject, argument, value, words):
    call = lambda: place.call(subject.loss, LOGITS, TARGETS, **{argument: value})  # noqa: E731
    _check_named(subject, call, argument, *words)
