"""Calls that the contract refuses (clauses A3 and A5), as data: what is wrong, which error, what its text must name.

A `Bad` is called with the subject and a function `make(values, dtype=None)` that gives the backend's array of NumPy
values. The same call must fail with the same type and text on every backend; `only` says where it can be made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

IMMUTABLE = ("jax", "dask")
MUTABLE = ("numpy", "torch", "torch-cuda", "cupy", "array-api-strict")

LOGITS = np.linspace(-1.0, 1.0, 24).reshape(2, 3, 4)
TARGETS = np.array([[0, 1, 2], [3, 0, 1]])
SOFT = np.full((2, 3, 4), 0.25)


@dataclass(frozen=True)
class Bad:
    """One refused call."""

    name: str
    error: type[Exception]
    call: Callable[[Any, Callable], Any]
    names: tuple[str, ...]
    only: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """The name, as a test's id."""
        return self.name


def _bad(name: str, error: type[Exception], *names: str, only: tuple[str, ...] | None = None, **changes: Any) -> Bad:
    """A call of the loss and its gradient with some arguments replaced; `make` gets arrays, floating ones as float32.

    A value that is a function of `make` is called with it.
    """

    def call(subject: Any, make: Callable) -> Any:
        arguments = {"logits": LOGITS, "targets": TARGETS, **changes}
        given = {key: _made(value, make) for key, value in arguments.items()}
        return subject.loss_and_grad(given.pop("logits"), given.pop("targets"), **given)

    return Bad(name, error, call, names, only)


def _made(value: Any, make: Callable) -> Any:
    if callable(value):
        return value(make)
    if isinstance(value, np.ndarray):
        return make(value, "float32" if value.dtype.kind == "f" else None)
    return value


def _typed(values: Any, dtype: str) -> Callable:
    return lambda make: make(np.asarray(values), dtype)


def _plain(value: Any) -> Callable:
    return lambda _make: value


def _object(name: str, error: type[Exception], *names: str, **options: Any) -> Bad:
    def call(subject: Any, make: Callable) -> Any:
        given = {key: _made(value, make) for key, value in options.items()}
        return subject.loss_object(**given).forward(make(LOGITS, "float32"), make(TARGETS))

    return Bad(name, error, call, names)


def _backward(name: str, error: type[Exception], grad_output: Any, *names: str, **options: Any) -> Bad:
    def call(subject: Any, make: Callable) -> Any:
        loss_fn = subject.loss_object(**options)
        loss_fn.forward(make(LOGITS, "float32"), make(TARGETS))
        return loss_fn.backward(_made(grad_output, make))

    return Bad(name, error, call, names)


def _shift(name: str, error: type[Exception], logits: Any, token_ids: Any, *names: str) -> Bad:
    return Bad(name, error, lambda subject, make: subject.shift(_made(logits, make), _made(token_ids, make)), names)


def _perplexity(name: str, error: type[Exception], loss: Any, *names: str) -> Bad:
    return Bad(name, error, lambda subject, make: subject.perplexity(_made(loss, make)), names)


_LOGITS_AND_TARGETS = [
    _bad("logits-list", TypeError, "logits", "list", logits=_plain([[0.0, 1.0]])),
    _bad("logits-none", TypeError, "logits", "None", logits=None),
    _bad("logits-number", TypeError, "logits", "float", logits=1.5),
    _bad("logits-integer-dtype", TypeError, "logits", "int64", "float32", logits=_typed(LOGITS * 10, "int64")),
    _bad("logits-bool-dtype", TypeError, "logits", "bool", logits=_typed(LOGITS > 0, "bool")),
    _bad("logits-complex-dtype", TypeError, "logits", "complex64", logits=_typed(LOGITS, "complex64")),
    _bad("logits-0d", ValueError, "logits", "()", logits=np.asarray(1.0), targets=np.asarray(0)),
    _bad("logits-no-classes", ValueError, "logits", "(2, 3, 0)", logits=np.zeros((2, 3, 0))),
    _bad("targets-list", TypeError, "targets", "list", targets=_plain([[0, 1, 2], [3, 0, 1]])),
    _bad("targets-none", TypeError, "targets", "None", targets=None),
    _bad("targets-number", TypeError, "targets", "int", targets=1),
    _bad("targets-bool", TypeError, "targets", "bool", "(2, 3)", targets=_typed(TARGETS > 0, "bool")),
    _bad("targets-complex", TypeError, "targets", "complex64", targets=_typed(TARGETS, "complex64")),
    _bad(
        "targets-float-of-hard-shape", TypeError, "targets", "float32", "(2, 3, 4)", targets=_typed(TARGETS, "float32")
    ),
    _bad("targets-float-too-wide", TypeError, "targets", "(2, 3, 5)", targets=np.zeros((2, 3, 5))),
    _bad("targets-float-broadcastable", TypeError, "targets", "(3, 4)", targets=np.zeros((3, 4))),
    _bad("targets-bool-of-soft-shape", TypeError, "targets", "bool", targets=_typed(SOFT > 0, "bool")),
    _bad("targets-short", ValueError, "targets", "(2, 2)", "(2, 3)", targets=TARGETS[:, :2]),
    _bad("targets-flat", ValueError, "targets", "(6,)", "(2, 3)", targets=TARGETS.reshape(-1)),
    _bad("targets-0d", ValueError, "targets", "()", "(2, 3)", targets=np.asarray(1)),
    _bad(
        "targets-integers-of-soft-shape",
        ValueError,
        "targets",
        "(2, 3, 4)",
        targets=np.zeros((2, 3, 4), dtype=np.int64),
    ),
    _bad("targets-with-a-one", ValueError, "targets", "(2, 3, 1)", targets=TARGETS[..., None]),
]

_WEIGHTS = [
    _bad("weights-list", TypeError, "weights", "list", weights=_plain([1.0, 2.0, 3.0])),
    _bad("weights-number", TypeError, "weights", "float", weights=2.0),
    _bad("weights-complex", TypeError, "weights", "complex64", weights=_typed(np.ones((2, 3)), "complex64")),
    _bad("weights-shape", ValueError, "weights", "(2,)", "(2, 3)", weights=np.ones(2)),
    _bad("weights-of-the-logits-shape", ValueError, "weights", "(2, 3, 4)", "(2, 3)", weights=np.ones((2, 3, 4))),
    _bad("weights-more-axes", ValueError, "weights", "(1, 2, 3)", weights=np.ones((1, 2, 3))),
    _bad("class-weights-list", TypeError, "class_weights", "list", class_weights=_plain([1.0] * 4)),
    _bad("class-weights-number", TypeError, "class_weights", "float", class_weights=2.0),
    _bad("class-weights-shape", ValueError, "class_weights", "(3,)", "(4,)", class_weights=np.ones(3)),
    _bad("class-weights-one", ValueError, "class_weights", "(1,)", "(4,)", class_weights=np.ones(1)),
    _bad("class-weights-2d", ValueError, "class_weights", "(1, 4)", "(4,)", class_weights=np.ones((1, 4))),
    _bad("class-weights-bool", TypeError, "class_weights", "bool", class_weights=_typed(np.ones(4), "bool")),
    _bad(
        "class-weights-complex", TypeError, "class_weights", "complex64", class_weights=_typed(np.ones(4), "complex64")
    ),
]

_WORDS = [
    _bad("reduction-word", ValueError, "reduction", "'average'", "'mean'", "'sequence'", reduction="average"),
    _bad("reduction-case", ValueError, "reduction", "'Mean'", reduction="Mean"),
    _bad("reduction-none", TypeError, "reduction", "None", "'none'", reduction=None),
    _bad("reduction-bool", TypeError, "reduction", "True", reduction=True),
    _bad(
        "sequence-of-one-token",
        ValueError,
        "reduction",
        "'sequence'",
        "()",
        logits=np.zeros(4),
        targets=np.asarray(1),
        reduction="sequence",
    ),
    _bad("smoothing-word", ValueError, "smoothing", "'even'", "'others'", "'uniform'", smoothing="even"),
    _bad("smoothing-type", TypeError, "smoothing", "0.1", smoothing=0.1),
    _bad("algorithm-word", ValueError, "algorithm", "'fast'", "'stable'", "'explicit'", algorithm="fast"),
    _bad("algorithm-type", TypeError, "algorithm", "None", algorithm=None),
    _bad("engine-word", ValueError, "engine", "'warp'", "'auto'", engine="warp"),
    _bad("engine-type", TypeError, "engine", "1", engine=1),
    _bad("check-targets-number", TypeError, "check_targets", "1", check_targets=1),
    _bad("check-targets-none", TypeError, "check_targets", "None", check_targets=None),
]

_NUMBERS = [
    _bad("label-smoothing-negative", ValueError, "label_smoothing", "-0.1", label_smoothing=-0.1),
    _bad("label-smoothing-past-one", ValueError, "label_smoothing", "1.5", label_smoothing=1.5),
    _bad("label-smoothing-nan", ValueError, "label_smoothing", "nan", label_smoothing=float("nan")),
    _bad("label-smoothing-bool", TypeError, "label_smoothing", "True", label_smoothing=True),
    _bad("label-smoothing-text", TypeError, "label_smoothing", "'0.1'", label_smoothing="0.1"),
    _bad("label-smoothing-none", TypeError, "label_smoothing", "None", label_smoothing=None),
    _bad("label-smoothing-array", TypeError, "label_smoothing", "(1,)", label_smoothing=np.full(1, 0.1)),
    _bad("z-loss-negative", ValueError, "z_loss", "-1.0", z_loss=-1.0),
    _bad("z-loss-nan", ValueError, "z_loss", "nan", z_loss=float("nan")),
    _bad("z-loss-infinite", ValueError, "z_loss", "inf", z_loss=float("inf")),
    _bad("z-loss-bool", TypeError, "z_loss", "False", z_loss=False),
    _bad("z-loss-complex", TypeError, "z_loss", "1j", z_loss=1j),
    _bad("ignore-index-float", TypeError, "ignore_index", "1.0", ignore_index=1.0),
    _bad("ignore-index-text", TypeError, "ignore_index", "'1'", ignore_index="1"),
    _bad("ignore-index-bool", TypeError, "ignore_index", "True", ignore_index=True),
    _bad("ignore-index-array", TypeError, "ignore_index", "()", ignore_index=np.asarray(1)),
    _bad("ignore-index-too-large", ValueError, "ignore_index", str(2**63), ignore_index=2**63),
    _bad("denominator-zero", ValueError, "denominator", "0", denominator=0),
    _bad("denominator-negative", ValueError, "denominator", "-2.0", denominator=-2.0),
    _bad("denominator-nan", ValueError, "denominator", "nan", denominator=float("nan")),
    _bad("denominator-infinite", ValueError, "denominator", "inf", denominator=float("inf")),
    _bad("denominator-bool", TypeError, "denominator", "True", denominator=True),
    _bad("denominator-word", ValueError, "denominator", "'weights'", "tokens", denominator="weights"),
    _bad("denominator-list", TypeError, "denominator", "list", denominator=[3]),
    _bad("denominator-1d", ValueError, "denominator", "(1,)", denominator=np.ones(1)),
    _bad("denominator-bool-array", TypeError, "denominator", "bool", denominator=_typed(np.asarray(True), "bool")),
    _bad(
        "denominator-complex-array",
        TypeError,
        "denominator",
        "complex64",
        denominator=_typed(np.asarray(1), "complex64"),
    ),
]

_COMBINATIONS = [
    _bad("ignore-index-with-soft-targets", ValueError, "ignore_index", "soft targets", targets=SOFT, ignore_index=1),
    _bad("denominator-with-sum", ValueError, "denominator", "'sum'", reduction="sum", denominator=2.0),
    _bad("denominator-with-none", ValueError, "denominator", "'none'", reduction="none", denominator="tokens"),
]

_GRADIENTS = [
    _bad("grad-output-shape", ValueError, "grad_output", "(2,)", "(2, 3)", reduction="none", grad_output=np.ones(2)),
    _bad(
        "grad-output-0d-for-none",
        ValueError,
        "grad_output",
        "()",
        "(2, 3)",
        reduction="none",
        grad_output=np.asarray(1.0),
    ),
    _bad("grad-output-number-for-none", TypeError, "grad_output", "(2, 3)", reduction="none", grad_output=1.0),
    _bad("grad-output-1d-for-mean", ValueError, "grad_output", "(1,)", "()", grad_output=np.ones(1)),
    _bad("grad-output-integer", TypeError, "grad_output", "int64", grad_output=np.asarray(1)),
    _bad("grad-output-bool", TypeError, "grad_output", "bool", grad_output=True),
    _bad("grad-output-list", TypeError, "grad_output", "list", grad_output=[1.0]),
    _bad("grad-output-text", TypeError, "grad_output", "'1'", grad_output="1"),
    _bad("out-list", TypeError, "out", "list", out=_plain([0.0])),
    _bad("out-shape", ValueError, "out", "(6, 4)", "(2, 3, 4)", only=MUTABLE, out=np.zeros((6, 4))),
    _bad("out-dtype", TypeError, "out", "float64", "float32", only=MUTABLE, out=_typed(LOGITS, "float64")),
    _bad("out-integer", TypeError, "out", "int64", only=MUTABLE, out=_typed(LOGITS, "int64")),
    _bad("out-immutable", ValueError, "out", "None", only=IMMUTABLE, out=LOGITS),
    _backward("backward-shape", ValueError, np.ones(2), "grad_output", "(2,)", "()"),
    _backward("backward-list", TypeError, _plain([1.0]), "grad_output", "list", reduction="none"),
    _backward("backward-integer", TypeError, np.ones((2, 3), dtype=np.int64), "grad_output", "int64", reduction="none"),
]

_OTHERS = [
    _object("object-unknown-option", TypeError, "'label_smooth'", "label_smoothing", label_smooth=0.1),
    _object("object-weights-among-options", TypeError, "'weights'", weights=np.ones(3)),
    _object("object-reduction", ValueError, "reduction", "'avg'", "'mean'", reduction="avg"),
    _object("object-class-weights", ValueError, "class_weights", "(5,)", "(4,)", class_weights=np.ones(5)),
    _shift("shift-logits-list", TypeError, _plain([[0.0]]), TARGETS, "logits", "list"),
    _shift("shift-ids-list", TypeError, LOGITS, _plain([[0, 1, 2]]), "token_ids", "list"),
    _shift("shift-ids-none", TypeError, LOGITS, None, "token_ids", "None"),
    _shift("shift-logits-integer", TypeError, _typed(LOGITS, "int64"), TARGETS, "logits", "int64"),
    _shift("shift-ids-float", TypeError, LOGITS, _typed(TARGETS, "float32"), "token_ids", "float32"),
    _shift("shift-ids-bool", TypeError, LOGITS, _typed(TARGETS, "bool"), "token_ids", "bool"),
    _shift("shift-ids-shape", ValueError, LOGITS, TARGETS[:, :2], "token_ids", "(2, 2)", "(2, 3)"),
    _shift(
        "shift-ids-of-logits-shape", ValueError, LOGITS, np.zeros((2, 3, 4), dtype=np.int64), "token_ids", "(2, 3, 4)"
    ),
    _shift("shift-one-row", ValueError, LOGITS[0, 0], np.asarray(1), "logits", "(4,)"),
    _shift("shift-no-positions", ValueError, LOGITS[:, :0], TARGETS[:, :0], "logits", "(2, 0, 4)"),
    _perplexity("perplexity-integers", TypeError, TARGETS, "loss", "int64"),
    _perplexity("perplexity-complex", TypeError, _typed(1.0, "complex64"), "loss", "complex64"),
    _perplexity("perplexity-list", TypeError, _plain([1.0]), "loss", "list"),
    _perplexity("perplexity-none", TypeError, None, "loss", "None"),
    _perplexity("perplexity-text", TypeError, "1.0", "loss", "'1.0'"),
    _perplexity("perplexity-bool", TypeError, True, "loss", "True"),
]

BAD_CALLS = [*_LOGITS_AND_TARGETS, *_WEIGHTS, *_WORDS, *_NUMBERS, *_COMBINATIONS, *_GRADIENTS, *_OTHERS]
