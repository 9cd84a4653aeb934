"""Clauses A3, A5, A15 and S6 of what is refused: by the same error everywhere, naming the argument and its value."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, backends, texts
from crossent_conformance.backends import DIRECT, Mode
from crossent_conformance.bad_calls import (
    ARGUMENTS,
    ARGUMENTS_OF_LINEAR,
    ARGUMENTS_OF_MEASURES,
    MEMORY,
    mixed,
    mixed_linear,
    mixed_measure,
    of_clause,
)
from crossent_conformance.escaped import escaped
from crossent_conformance.refused import LOGITS, TARGETS, WEIGHT


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


def _check_refused(place, subject, bad):
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
        agree.same(repr(error), repr(same), "the error of another backend")


def _can_be_made(place, bad):
    return bad.only is None or place.backend.name in bad.only


@pytest.mark.places(dtypes=("float32",), modes=DIRECT, when=_can_be_made)
@pytest.mark.parametrize("bad", of_clause("A5"), ids=str)
def test_A5_same_type_and_text_on_every_backend(place, subject, bad):
    _check_refused(place, subject, bad)


@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("bad", of_clause("A3"), ids=str)
def test_A3_dtypes_that_are_no_targets(place, subject, bad):
    _check_refused(place, subject, bad)


@pytest.mark.clause("A5", "S6")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("bad", of_clause("S6"), ids=str)
def test_S6_no_classes_is_refused_by_name(place, subject, bad):
    _check_refused(place, subject, bad)


@pytest.mark.clause("L6", "A5")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT, when=_can_be_made)
@pytest.mark.parametrize("bad", of_clause("L6"), ids=str)
def test_L6_refused_by_the_same_type_and_text_everywhere(place, subject, bad):
    _check_refused(place, subject, bad)


@pytest.mark.clause("T4", "A5")
@pytest.mark.places(dtypes=("float32",), modes=DIRECT, when=_can_be_made)
@pytest.mark.parametrize("bad", of_clause("T4"), ids=str)
def test_T4_refused_by_the_same_type_and_text_everywhere(place, subject, bad):
    _check_refused(place, subject, bad)


@pytest.mark.places(sparse=True)
def test_S6_no_classes(place, subject):
    # The shape is known even to a tracer, so every mode can raise.
    targets = np.zeros(3, dtype=np.int64)
    agree.refusal(lambda: place.call(subject.loss, np.zeros((3, 0)), targets, reduction="none"), ValueError)


@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("option", ["label_smooth", "no_such_option"])
def test_A5_unknown_options_are_refused_by_name(place, subject, option):
    x, t = place.pair(LOGITS, TARGETS)
    text = str(agree.refusal(lambda: subject.loss(x, t, **{option: 0.5}), TypeError))
    assert option in text, f"the error does not name {option}: {text}"


STEERING = "mean\x1b[31m\x9b2J\u202e\ud800"


@pytest.mark.places(dtypes=("float32",), modes=DIRECT)
@pytest.mark.parametrize("argument", ["reduction", "smoothing", "algorithm", "denominator", "label_smoothing"])
def test_A15_what_was_given_is_escaped(place, subject, argument):
    x, t = place.pair(LOGITS, TARGETS)
    text = str(agree.refusal(lambda: subject.loss(x, t, **{argument: STEERING}), TypeError, ValueError))
    assert text == escaped(text), f"the error has what was given as it is: {escaped(text)}"
    assert r"mean\x1b[31m" in text or "mean" not in text, f"the error has what was given in part: {text}"


def _check_named(subject, call, argument, words):
    error = agree.refusal(call, TypeError, ValueError)
    assert texts.names_argument(str(error), *subject.names_of(argument)), f"the error does not name {argument}: {error}"
    assert texts.names_any(str(error), words), f"the error has none of {words}: {error}"


def _elsewhere(place, values, of):
    """The values as an array of another library or device, and words of which its name is one."""
    dtype = "float32" if values.dtype.kind == "f" else "int64"
    if of == "device":
        return place.put(values, dtype).to("meta"), ("meta",)
    other = backends.load("array-api-strict" if place.backend.name == "numpy" else "numpy")
    if isinstance(other, str):
        pytest.skip(f"there is no other library to mix with: array-api-strict {other}")
    return other.asarray(values, dtype), (other.name, other.package, "ndarray")


def _has_two(place, argument, of):
    return of == "library" or place.backend.name.startswith("torch")


@pytest.mark.places(dtypes=("float32",), modes=(Mode.EAGER, Mode.LAZY), when=_has_two)
@pytest.mark.parametrize("of", ["library", "device"])
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_A5_one_library_and_one_device_only(place, subject, argument, of):
    value, words = _elsewhere(place, ARGUMENTS[argument], of)
    with subject.unassisted(), place.backend.during_call():
        name = "targets" if argument == "soft" else argument
        _check_named(subject, lambda: mixed(subject, maker(place.backend), argument, value), name, words)


@pytest.mark.clause("L6", "A5")
@pytest.mark.places(dtypes=("float32",), modes=(Mode.EAGER, Mode.LAZY), when=_has_two)
@pytest.mark.parametrize("of", ["library", "device"])
@pytest.mark.parametrize("argument", ARGUMENTS_OF_LINEAR)
def test_L6_one_library_and_one_device_only(place, subject, argument, of):
    value, words = _elsewhere(place, ARGUMENTS_OF_LINEAR[argument], of)
    with subject.unassisted(), place.backend.during_call():
        _check_named(subject, lambda: mixed_linear(subject, maker(place.backend), argument, value), argument, words)


@pytest.mark.clause("T4", "A5")
@pytest.mark.places(dtypes=("float32",), modes=(Mode.EAGER, Mode.LAZY), when=_has_two)
@pytest.mark.parametrize("of", ["library", "device"])
@pytest.mark.parametrize("argument", ARGUMENTS_OF_MEASURES)
def test_T4_one_library_and_one_device_only(place, subject, argument, of):
    value, words = _elsewhere(place, ARGUMENTS_OF_MEASURES[argument][1], of)
    with subject.unassisted(), place.backend.during_call():
        _check_named(subject, lambda: mixed_measure(subject, maker(place.backend), argument, value), argument, words)


@pytest.mark.places(dtypes=("float64",), backends=("numpy", "torch", "torch-cuda"), modes=(Mode.EAGER,))
def test_L6_gradients_that_share_memory(place, subject):
    x, t = place.pair(LOGITS, TARGETS)
    w = place.put(WEIGHT, place.dtype)
    memory = place.put(np.zeros((8, 4)), place.dtype)
    out = (memory[:6], memory[3:], None)
    _check_named(subject, lambda: subject.linear_loss_and_grads(x, t, weight=w, out=out), "out", ("memory", "overlap"))


@pytest.mark.clause("A5", "A2")
@pytest.mark.places(
    dtypes=("float64",),
    backends=("numpy", "torch", "torch-cuda"),
    modes=(Mode.EAGER,),
    when=lambda place, kind: place.backend.name.startswith(MEMORY[kind][0]),
)
@pytest.mark.parametrize("kind", MEMORY)
def test_A5_memory_that_cannot_take_the_gradient(place, subject, kind):
    x, t = place.pair(LOGITS, TARGETS)
    _, make, words = MEMORY[kind]
    out = make(place.put(LOGITS, place.dtype))
    _check_named(subject, lambda: subject.loss_and_grad(x, t, out=out), "out", words)


@pytest.mark.places(dtypes=("float32",), modes=(Mode.TRACED,))
@pytest.mark.parametrize(
    ("argument", "value", "words"),
    [("reduction", "avg", ("avg",)), ("class_weights", np.ones(3), ("(3,)", "[3]"))],
    ids=["word", "shape"],
)
def test_A5_refused_under_tracing_too(place, subject, argument, value, words):
    def call():
        return place.call(subject.loss, LOGITS, TARGETS, **{argument: value})

    _check_named(subject, call, argument, words)
