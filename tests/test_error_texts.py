"""The words of `crossent`'s refusals, on one backend that can make the call: the clauses ask that all have the same."""

from __future__ import annotations

import re

import numpy as np
import pytest

import crossent
from crossent import libraries
from crossent_conformance import backends, subject, texts
from crossent_conformance.bad_calls import ARGUMENTS, BAD_CALLS, MEMORY, mixed
from crossent_conformance.clauses.test_refusals import maker
from crossent_conformance.refused import LOGITS, SEQUENCES, TARGETS

OURS = subject.load(subject.DEFAULT)
BOTH = (crossent.cross_entropy, crossent.cross_entropy_and_grad)


def make_on(*names):
    """What makes the arrays of the first of the backends that is here."""
    for name in names:
        if not isinstance(backend := backends.load(name), str):
            return maker(backend)
    pytest.skip(f"none of {names}")


@pytest.mark.parametrize("bad", BAD_CALLS, ids=str)
@pytest.mark.parametrize("function", ["loss", "loss_and_grad"])
def test_every_refusal_says_what_is_accepted(bad, function, monkeypatch):
    monkeypatch.setattr(OURS, "loss", getattr(OURS, function))
    make = make_on(*(("numpy",) if bad.only is None or "numpy" in bad.only else bad.only))
    with pytest.raises(bad.error) as caught:
        bad.call(OURS, make)
    text = str(caught.value)
    assert caught.type is bad.error
    assert bad.is_named_by(text)
    assert all(word in text for word in bad.words)
    assert not isinstance(bad.given, tuple) or str(bad.given) in text
    assert "accepted: " in text or bad.name in ("object-unknown-option", "object-weights-among-options")


@pytest.mark.parametrize("argument", ARGUMENTS)
@pytest.mark.parametrize("of", ["library", "device"])
def test_one_library_and_one_device_only(argument, of):
    torch = pytest.importorskip("torch")
    values = ARGUMENTS[argument]
    name = "targets" if argument == "soft" else argument
    kind, text, value = {
        "library": (TypeError, f"{name} is a numpy array and logits is a torch array; accepted: one library", values),
        "device": (
            ValueError,
            f"{name} is on device meta and logits is on device cpu; accepted: the same for both",
            torch.tensor(values).to("meta", torch.float32 if values.dtype.kind == "f" else torch.int64),
        ),
    }[of]
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        mixed(OURS, make_on("torch"), argument, value)


@pytest.mark.parametrize(
    ("targets", "options", "text"),
    [
        (np.array([[0, 0, 5], [0, 77, 0]]), {}, "targets[0, 2] is 5; accepted: 0 to 3 (V = 4)"),
        (
            np.full((2, 3), -1),
            {"ignore_index": 5},
            "targets[0, 0] is -1; accepted: 0 to 3 (V = 4), or ignore_index = 5",
        ),
        (np.full((2, 3), 2**64 - 1, np.uint64), {}, f"targets[0, 0] is {2**64 - 1}; accepted: 0 to 3 (V = 4)"),
        (np.full((2, 3), -128, np.int8), {}, "targets[0, 0] is -128; accepted: 0 to 3 (V = 4)"),
        (np.asarray(4), {}, "targets is 4; accepted: 0 to 3 (V = 4)"),
        (
            np.full((2, 3), -100),
            {},
            "targets[0, 0] is -100; accepted: 0 to 3 (V = 4), or name it: ignore_index=-100",
        ),
        (
            np.full((2, 3), -100),
            {"ignore_index": 0},
            "targets[0, 0] is -100; accepted: 0 to 3 (V = 4), or ignore_index = 0",
        ),
    ],
    ids=["first", "ignored", "uint64", "int8", "0d", "usually ignored", "another is"],
)
def test_targets_out_of_range(targets, options, text):
    x = SEQUENCES if targets.ndim else LOGITS[0]
    for function in (*BOTH, lambda x, t, **options: crossent.CrossEntropyLoss(**options).forward(x, t)):
        with pytest.raises(IndexError, match=f"^{re.escape(text)}$"):
            function(x, targets, **options)


@pytest.mark.parametrize("option", ["label_smooth", "weight", "ieee", "coefficients", "re\x1b[2J\ud800d"])
@pytest.mark.parametrize("function", BOTH)
def test_unknown_options(function, option):
    shown = re.escape(repr(option))
    with pytest.raises(TypeError, match=f"unexpected keyword argument {shown}; accepted: "):
        function(LOGITS, TARGETS, **{option: None})


def test_unknown_options_of_hidden_states():
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'chunk'; accepted: .*temperature.*memory$"):
        crossent.linear_cross_entropy(LOGITS, LOGITS, TARGETS, chunk=3)


@pytest.mark.parametrize("argument", ["logits", "targets", "weights", "class_weights", "grad_output", "out"])
def test_masked_arrays(argument):
    arguments = {"logits": LOGITS, "targets": TARGETS}
    arguments[argument] = np.ma.masked_array({"logits": LOGITS, **ARGUMENTS}[argument])
    with pytest.raises(TypeError, match=f"^{argument} is a masked array.*accepted:"):
        crossent.cross_entropy_and_grad(arguments.pop("logits"), arguments.pop("targets"), **arguments)


class Tensor:
    """An array of a library that is not served."""

    __module__, __qualname__, shape = "some.library", "Tensor", (6, 4)


@pytest.mark.parametrize("argument", ["logits", "targets", "weights", "class_weights", "grad_output", "out"])
@pytest.mark.parametrize(
    ("x", "start", "end"),
    [
        ([[0.0]], " is list; ", "; make an array of it first"),
        ((1.0,), " is tuple; ", "; make an array of it first"),
        (Tensor(), " is some.library.Tensor; ", f", of {libraries.SERVED}"),
    ],
    ids=["list", "tuple", "foreign"],
)
def test_what_is_no_array_is_told_what_to_do(argument, x, start, end):
    arguments = {"logits": LOGITS, "targets": TARGETS, "reduction": "none", argument: x}
    with pytest.raises(TypeError, match=f"^{argument}{re.escape(start)}accepted: .*{re.escape(end)}$"):
        crossent.cross_entropy_and_grad(arguments.pop("logits"), arguments.pop("targets"), **arguments)


@pytest.mark.parametrize("argument", ["denominator", "ignore_index", "label_smoothing"])
def test_a_foreign_array_is_named_and_not_printed(argument):
    with pytest.raises(TypeError, match=f"^{argument} is some.library.Tensor; accepted: "):
        crossent.cross_entropy(LOGITS, TARGETS, **{argument: Tensor()})


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_one_hot_rows_are_told_what_to_do(dtype):
    text = (
        "accepted: any integer dtype of shape (6,), or a floating dtype of shape (6, 4) (soft targets); of one-hot rows"
    )
    kind = TypeError if dtype == "bool" else ValueError
    with pytest.raises(kind, match=f"{re.escape(text)} their argmax, or the same in a floating dtype$"):
        crossent.cross_entropy(LOGITS, np.eye(4)[TARGETS].astype(dtype))


def test_an_engine_that_cannot_serve_tensors_names_their_library():
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS), torch.tensor(TARGETS)
    for logits in (x, x.clone().requires_grad_()):
        for function in BOTH:
            with pytest.raises(
                ValueError, match=r"engine is 'cuda', .* logits are torch arrays in host memory; accepted"
            ):
                function(logits, t, engine="cuda")


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_that_cannot_take_the_gradient(kind):
    library, make_memory, _ = MEMORY[kind]
    make = make_on(library)
    fault = {"read-only": "is read-only", "broadcast": "is read-only", "requires-grad": "requires a gradient"}
    text = f"out {fault.get(kind, 'has elements that share memory')}.*; accepted: "
    with pytest.raises(ValueError, match=text):
        crossent.cross_entropy_and_grad(make(LOGITS), make(TARGETS), out=make_memory(make(LOGITS)))


@pytest.mark.parametrize("argument", ["logits", "targets", "weights", "class_weights"])
def test_dense_tensors_only(argument):
    torch = pytest.importorskip("torch")
    x = torch.tensor(LOGITS)
    arguments = {"logits": x, "targets": torch.tensor(TARGETS)}
    arguments[argument] = {"logits": x, "targets": x, "weights": x[:, 0], "class_weights": x[0]}[argument].to_sparse()
    with pytest.raises(TypeError, match=f"{argument} is a sparse, nested or opaque tensor; accepted: .*dense"):
        crossent.cross_entropy(**arguments)


@pytest.mark.parametrize("argument", ["logits", "targets"])
def test_unknown_lengths(argument):
    array = pytest.importorskip("dask.array")
    arguments = {"logits": array.from_array(LOGITS), "targets": array.from_array(TARGETS)}
    arguments[argument] = arguments[argument][array.ones(6, dtype=bool)]
    with pytest.raises(ValueError, match=rf"^{argument} has the unknown shape .*accepted: a shape of known lengths"):
        crossent.cross_entropy(**arguments)


def test_backward_before_forward():
    with pytest.raises(RuntimeError, match=r"backward\(\).*forward"):
        crossent.CrossEntropyLoss().backward()


@pytest.mark.parametrize(
    ("text", "position", "value", "lacks"),
    [
        ("target -1 at [2], where V = 4", 2, -1, ""),
        ("target -1, where V = 4", 2, -1, "the position [2]"),
        ("at (2,), of 4", 2, -1, "the value -1"),
        ("target -1 at 2", 2, -1, "V = 4"),
        ("out of range", 2, -1, "the position [2] and the value -1 and V = 4"),
        ("4 of 4", 4, 4, "the position [4], the value 4, V = 4 each by numbers of its own"),
    ],
)
def test_what_an_error_of_a_target_does_not_name(text, position, value, lacks):
    assert texts.lacks_of_target(text, (position,), value, 4) == lacks
