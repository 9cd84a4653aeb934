"""Other people's cross-entropies, each as an adapter in a small file of its own.

    crossent conform crossent_conformance.peers.torch:functional

An adapter says what a function takes and does; an option that it lacks is absent from the signature of its `loss`. None
of them imports its package before it is called, so this list can be read where nothing is installed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any

import array_api_compat

from crossent_conformance import linear
from crossent_conformance.adapter import SOFT, is_compiling, is_soft
from crossent_conformance.implementation import Adapter, DoesNotApply


@dataclass(frozen=True)
class Peer:
    """Where a peer's adapter is, which distribution brings the peer, and the backends where it lives, best first."""

    label: str
    """A name short enough for the head of a column."""
    spec: str
    package: str
    backends: tuple[str, ...]
    how: str
    """What the adapter does that a reader of results has to know."""
    besides: tuple[str, ...] = ()
    """Distributions of which the adapter needs one besides."""

    @property
    def version(self) -> str | None:
        """The version that is installed, None where there is none. The textbook is of no package, and always there."""
        if self.besides and not any(map(installed, self.besides)):
            return None
        return installed(self.package) if self.package else ""


def installed(package: str) -> str | None:
    """The version of a distribution that is installed; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


_HERE = "crossent_conformance.peers"
_TORCH = ("torch-cuda", "torch")
_IDENTITY = (
    "the logits as hidden states, the identity as weight; up to 4096 classes and finite logits, which that keeps"
)

PEERS = (
    Peer("torch", f"{_HERE}.torch:functional", "torch", _TORCH, "as it is"),
    Peer("torch nll", f"{_HERE}.torch:log_softmax", "torch", _TORCH, "as it is"),
    Peer("torch linear", f"{_HERE}.torch:linear", "torch", _TORCH, _IDENTITY),
    Peer(
        "torch chunked", f"{_HERE}.torch:chunked", "torch", _TORCH, f"{_IDENTITY}; with `LinearCrossEntropyOptions()`"
    ),
    Peer("optax", f"{_HERE}.optax:integer", "optax", ("jax",), "as it is"),
    Peer("optax dense", f"{_HERE}.optax:dense", "optax", ("jax",), "hard targets as one-hot rows"),
    Peer("scipy lse", f"{_HERE}.scipy:logsumexp", "scipy", ("numpy",), "gradient: `scipy.special.softmax` − one-hot"),
    Peer("scipy log_softmax", f"{_HERE}.scipy:log_softmax", "scipy", ("numpy",), "values alone"),
    Peer(
        "sklearn", f"{_HERE}.sklearn:log_loss", "scikit-learn", ("numpy",), "of `scipy.special.softmax`; values alone"
    ),
    Peer("keras", f"{_HERE}.keras:sparse", "keras", ("jax",), "on its JAX backend, `dtype` that of the logits"),
    Peer("keras torch", f"{_HERE}.keras:on_torch", "keras", _TORCH, "the same on its torch backend"),
    Peer(
        "keras TF",
        f"{_HERE}.keras:on_tensorflow",
        "keras",
        ("numpy",),
        "the same on TensorFlow, with its gradient",
        ("tensorflow", "tensorflow-cpu"),
    ),
    Peer(
        "Liger",
        f"{_HERE}.liger:cross_entropy",
        "liger-kernel",
        _TORCH,
        "on a CPU under Triton's interpreter, there without class weights; without float64: it computes in float32",
    ),
    Peer(
        "cce compile",
        f"{_HERE}.cut_cross_entropy:torch_compile",
        "cut-cross-entropy",
        _TORCH,
        f'{_IDENTITY}; `impl="torch_compile"`, which computes in float32',
        ("triton",),
    ),
    Peer("tokamax", f"{_HERE}.tokamax:xla", "tokamax", ("jax",), f'{_IDENTITY}; `implementation="xla"`'),
    Peer(
        "tokamax chunked",
        f"{_HERE}.tokamax:chunked",
        "tokamax",
        ("jax",),
        f'{_IDENTITY}; `implementation="chunked_xla"`',
    ),
    Peer(
        "transformers",
        f"{_HERE}.transformers:causal",
        "transformers",
        _TORCH,
        "the targets as `shift_labels`; computes in float32",
    ),
    Peer("textbook", f"{_HERE}.textbook:textbook", "", ("numpy",), "−mean(log(softmax + 1e-10))"),
)


def usual(reduction: str, ignore_index: int | None) -> dict[str, Any]:
    """These options, for peers that ignore some class of their own where none is named."""
    if reduction == "sequence":
        raise DoesNotApply("reduction='sequence'")
    return {"reduction": reduction, **({} if ignore_index is None else {"ignore_index": ignore_index})}


def refuse_soft(logits: Any, targets: Any) -> None:
    """Soft targets do not apply to a peer that takes class numbers alone."""
    if is_soft(logits, targets):
        raise DoesNotApply(SOFT)


def refuse_soft_of_classes(targets: Any) -> None:
    """The same of a linear loss, whose logits nobody has."""
    if targets.ndim > 1 and "float" in str(targets.dtype):
        raise DoesNotApply(SOFT)


def in_direction(direction: str, teacher: Any, student: Any) -> tuple[Any, Any]:
    """The distribution whose mean a divergence is, and the other, for peers that have no mixture of the two."""
    if direction == "jensen-shannon":
        raise DoesNotApply("direction='jensen-shannon'")
    return (student, teacher) if direction == "reverse" else (teacher, student)


def identity(logits: Any) -> Any:
    """The weight of a linear loss whose hidden states are the logits: finite ones, as far as that can be looked at."""
    xp, is_finite = array_api_compat.array_namespace(logits), True
    with contextlib.suppress(RuntimeError, TypeError):  # under a transformation of torch's, of JAX's
        is_finite = is_compiling() or bool(xp.all(xp.isfinite(logits)))
    if not is_finite:
        raise DoesNotApply("logits that are not finite: the product with the identity spoils their rows")
    return linear.identity(logits)


class OfLogits(Adapter):
    """A peer that has no linear loss: it is given a product."""

    def linear(self, hidden, weight, targets, *, bias=None):
        """Of a product before it."""
        refuse_soft_of_classes(targets)
        logits = hidden @ weight.T
        return self.loss(logits if bias is None else logits + bias, targets)
