"""What a refused call is (clauses A3, A5, S6, L6 and T4), and short ways to write one down; `bad_calls` has them.

A `Bad` is called with the subject and a function `make(values, dtype=None)` that gives the backend's array of NumPy
values. The call must fail with an error of the type, whose text has the argument's name and what was given for it: a
shape as a tuple, or words of which any will do. `only` says on which backends it can be made; `words` are what
`crossent` says besides, of what is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossent_conformance import texts

IMMUTABLE = ("jax", "dask")
MUTABLE = ("numpy", "torch", "torch-cuda", "cupy", "array-api-strict", "mlx", "dpnp", "ndonnx")

LOGITS = np.linspace(-1.0, 1.0, 24).reshape(6, 4)
TARGETS = np.array([0, 1, 2, 3, 0, 1])
SOFT = np.full((6, 4), 0.25)
SEQUENCES = LOGITS.reshape(2, 3, 4)
IDS = TARGETS.reshape(2, 3)
WEIGHT = np.linspace(1.0, -1.0, 20).reshape(5, 4)
BIAS = np.linspace(0.0, 1.0, 5)
Given = tuple[int, ...] | str | list[str]


@dataclass(frozen=True)
class Bad:
    """One refused call."""

    name: str
    error: type[Exception]
    call: Callable[[Any, Callable], Any]
    argument: str
    given: Given
    words: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    clause: str = "A5"

    def __str__(self) -> str:
        """The name, as a test's id."""
        return self.name

    def is_named_by(self, text: str, *names: str) -> bool:
        """Whether the text of an error names the argument, which may have other names too, and what was given."""
        if not texts.names_argument(text, self.argument, *names):
            return False
        if isinstance(self.given, tuple):
            return texts.names_shape(text, self.given)
        return texts.names_any(text, [self.given] if isinstance(self.given, str) else self.given)


def bad(
    name: str,
    error: type[Exception],
    given: Given,
    *words: str,
    only: tuple[str, ...] | None = None,
    clause: str = "A5",
    **changes: Any,
) -> Bad:
    """A call with some arguments replaced, the last of them by what is refused.

    `make` gets arrays, floating ones as float32. A value that is a function of `make` is called with it. What belongs
    to the gradient is asked of `loss_and_grad`.
    """

    def call(subject: Any, make: Callable) -> Any:
        arguments = {"logits": LOGITS, "targets": TARGETS, **changes}
        made = {key: _made(value, make) for key, value in arguments.items()}
        function = subject.loss_and_grad if made.keys() & {"out", "grad_output"} else subject.loss
        return function(made.pop("logits"), made.pop("targets"), **made)

    return Bad(name, error, call, next(reversed(changes)), given, words, only, clause)


def linear(
    name: str, error: type[Exception], given: Given, *words: str, only: tuple[str, ...] | None = None, **changes: Any
) -> Bad:
    """A call of the linear loss, likewise; a tuple of arrays is `out`, words are `needs`."""

    def call(subject: Any, make: Callable) -> Any:
        arguments = {"hidden": LOGITS, "targets": TARGETS, "weight": WEIGHT, "bias": BIAS, **changes}
        made = {
            key: tuple(_made(part, make) for part in value) if isinstance(value, tuple) else _made(value, make)
            for key, value in arguments.items()
        }
        of_gradients = made.keys() & {"out", "grad_output", "needs"}
        function = subject.linear_loss_and_grads if of_gradients else subject.linear_loss
        return function(made.pop("hidden"), made.pop("targets"), **made)

    argument = next(reversed(changes))
    return Bad(name, error, call, argument, given, words, only, "L6")


BESIDE_LOGITS: dict[str, tuple[str, np.ndarray] | None] = {
    "token_log_probs": ("token_ids", TARGETS),
    "token_statistics": ("targets", TARGETS),
    "entropy": None,
    "kl_divergence": ("teacher_logits", LOGITS),
}
"""What rows tell besides their loss, and the array besides the logits that it is of."""


def measured(
    name: str,
    error: type[Exception],
    of: str,
    given: Given,
    *words: str,
    only: tuple[str, ...] | None = None,
    **changes: Any,
) -> Bad:
    """A call of what rows tell besides their loss, likewise."""

    def call(subject: Any, make: Callable) -> Any:
        beside = BESIDE_LOGITS[of]
        arguments = {"logits": LOGITS, **(dict([beside]) if beside else {}), **changes}
        made = {key: _made(value, make) for key, value in arguments.items()}
        function = subject.measure(of, gradient=bool(made.keys() & {"out", "grad_output"}))
        first = [made.pop(name) for name in ("logits", *(beside[:1] if beside else ()))]
        return function(*first, **made)

    return Bad(name, error, call, next(reversed(changes)), given, words, only, "T4")


def _made(value: Any, make: Callable) -> Any:
    if callable(value):
        return value(make)
    if isinstance(value, np.ndarray):
        return make(value, "float32" if value.dtype.kind == "f" else None)
    return value


def typed(values: Any, dtype: str) -> Callable:
    return lambda make: make(np.asarray(values), dtype)


def plain(value: Any) -> Callable:
    return lambda _make: value


def object_(name: str, error: type[Exception], argument: str, given: Given, *words: str, **options: Any) -> Bad:
    def call(subject: Any, make: Callable) -> Any:
        made = {key: _made(value, make) for key, value in options.items()}
        return subject.loss_object(**made).forward(make(LOGITS, "float32"), make(TARGETS))

    return Bad(name, error, call, argument, given, words)


def backward(name: str, error: type[Exception], grad_output: Any, given: Given, *words: str, **options: Any) -> Bad:
    def call(subject: Any, make: Callable) -> Any:
        loss_fn = subject.loss_object(**options)
        loss_fn.forward(make(LOGITS, "float32"), make(TARGETS))
        return loss_fn.backward(_made(grad_output, make))

    return Bad(name, error, call, "grad_output", given, words)


def shift(name: str, error: type[Exception], logits: Any, ids: Any, argument: str, given: Given, *words: str) -> Bad:
    def call(subject: Any, make: Callable) -> Any:
        return subject.shift(_made(logits, make), _made(ids, make))

    return Bad(name, error, call, argument, given, words)


def perplexity(name: str, error: type[Exception], loss: Any, *given: str) -> Bad:
    return Bad(name, error, lambda subject, make: subject.perplexity(_made(loss, make)), "loss", list(given))
