"""What may stand under test: a function `f(logits, targets, **options)`, or an object with such methods, an `Adapter`.

Either gives the loss or `(loss, d_logits)`; options carry the contract's names. What an implementation cannot be asked
raises `DoesNotApply`, and the case reads "does not apply": it neither holds nor fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class DoesNotApply(NotImplementedError):  # noqa: N818 - it is no error of anybody's
    """The implementation cannot be asked this; the argument says what it lacks."""

    def __init__(self, lacks: str, *, gradient: bool = False) -> None:
        """`gradient` says that it is the gradient that cannot be had, whatever the options."""
        super().__init__(lacks)
        self.gradient = gradient


class LossObject(Protocol):
    """A loss that remembers its last input."""

    def __call__(self, logits: Any, targets: Any, weights: Any = None) -> Any: ...

    def forward(self, logits: Any, targets: Any, weights: Any = None) -> Any: ...

    def backward(self, grad_output: Any = None) -> Any: ...


@dataclass(frozen=True)
class Sharded:
    """A loss of a vocabulary that lies in shards, each on a rank of a group."""

    group: str
    """How the ranks reach each other: "gloo" (torch.distributed), "mpi", or "one": a process has all shards."""
    of: Callable[..., Any]
    """`of(group, ranges, check)`: an implementation whose logits, soft targets and class weights are those of the rank
    `group.rank` alone, and those of all shards where one process has them. `group.handle` is what libraries take for
    the group, `ranges` the first class and the number of classes of each rank, `check` whether ranks compare what they
    are given. It is called on every rank, before each call of the loss."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables for the processes; {ranks} is the number of shards."""


class Adapter:
    """What an implementation calls its options and leaves out, in terms of the contract.

    A subclass defines `loss`, with the options that there are as keyword arguments; and, where the implementation has
    them, `loss_and_grad`, `loss_object`, `perplexity`, `shift`, `threads` (a context manager that limits the threads),
    `portable` (one within which the code that serves every backend answers, where there is faster code besides),
    `drop_in` (a function with the signature of `torch.nn.functional.cross_entropy`) and `drop_in_module`,
    `linear` (`linear(hidden, weight, targets, **options)` of hidden states (..., D) and a weight (V, D); options may be
    `bias`, `classes` and `memory` besides) and `linear_and_grad` (the same with `needs`, `out` and `grad_output`, which
    gives `(loss, (d_hidden, d_weight, d_bias))`, None for what is not asked for).

    What rows tell besides their loss: `token_log_probs(logits, token_ids, **options)`, `entropy(logits, **options)` and
    `kl_divergence(logits, teacher_logits, **options)`, each with a sibling `…_and_grad` where its gradient is not
    autograd's, and giving a number for each token where `reduction` is no option; `token_statistics(logits, targets,
    **options)`, which gives an object with the attributes of `crossent.TokenStatistics`.

    `engine(logits, targets, **options)` says in a few words which code answers such a call, where there are several:
    calls of the same words run the same machine code. Where the option `engine` asks for one that cannot, it raises
    `DoesNotApply`; `engines` are what that option takes.

    `sharded(backend)` gives the `Sharded` loss of a vocabulary in shards, on that backend.
    """

    name: str = ""
    package: str = ""
    """The distribution whose version reports print."""
    backends: tuple[str, ...] | None = None
    """The backends whose arrays it takes; None: those it does not refuse."""
    dtypes: tuple[str, ...] | None = None
    """The dtypes of logits that it takes; None: those it does not refuse."""
    flat: bool | None = None
    """Whether logits of shape (N, V) are all it takes; None: found by trying."""
    fixed: Mapping[str, Any] = {}
    """What it does where it has no option: {"reduction": "mean", "smoothing": "uniform"}."""

    engines: tuple[str, ...] = ()
    """What its option `engine` takes, where it has one."""

    names: Mapping[str, str | tuple[str, ...]] = {}
    """What its errors call the contract's arguments: {"logits": "input", "targets": "target"}."""

    result: str | int | None = None
    """Of what `loss` returns, the entry or attribute that is the loss, where there is more: "loss", or 0."""

    loss: Callable[..., Any]
    """`loss(logits, targets, **options)` of logits (..., V) and targets (...), or (..., V) soft ones."""
