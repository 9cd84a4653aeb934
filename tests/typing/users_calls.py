"""Users' calls as type checkers see them: mypy and pyright read this file in `make lint`, nothing runs it.

A call that must be an error is marked as one; a checker that finds no error there reports the mark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
from numpy.typing import NDArray

import crossent

if TYPE_CHECKING:
    # pytest imports the file to look for examples, in environments without these too.
    import jax
    import jax.numpy as jnp
    import torch

    from crossent.torch import CrossEntropyLoss, cross_entropy

ids = np.zeros((2, 5), np.int64)


def numpy_calls(half: NDArray[np.float16], loaded: NDArray[Any]) -> None:
    logits = np.zeros((2, 5, 7), np.float32)
    loss = crossent.cross_entropy(logits, ids, reduction="none", weights=ids, z_loss=1e-4)
    assert_type(loss, NDArray[np.float32])
    assert_type(crossent.perplexity(loss), NDArray[np.float32])
    value, d_logits = crossent.cross_entropy_and_grad(logits, ids, out=logits)
    assert_type(value, NDArray[np.float32])
    assert_type(d_logits, np.ndarray[tuple[int, int, int], np.dtype[np.float32]])
    x, t = crossent.shift_for_next_token(logits, ids)
    assert_type(x, np.ndarray[tuple[int, int, int], np.dtype[np.float32]])
    assert_type(t, np.ndarray[tuple[int, int], np.dtype[np.int64]])
    # The loss of half precision is float32.
    assert_type(crossent.cross_entropy(half, ids), NDArray[Any])
    assert_type(crossent.cross_entropy_and_grad(half, ids)[1], NDArray[np.float16])
    assert_type(crossent.cross_entropy(loaded, ids), NDArray[Any])


def numpy_objects(logits: NDArray[np.float64]) -> None:
    loss_fn = crossent.CrossEntropyLoss(ignore_index=0)
    assert_type(loss_fn(logits, ids), NDArray[np.float64])
    assert_type(loss_fn.forward(logits, ids), NDArray[np.float64])
    assert_type(loss_fn.backward(), Any)
    assert_type(crossent.CrossEntropyLoss[NDArray[np.float64]](z_loss=0.1).backward(), NDArray[np.float64])


def numbers() -> None:
    assert_type(crossent.perplexity(1), float)
    assert_type(crossent.perplexity(2.5), float)
    assert_type(crossent.perplexity(np.float32(1)), np.float32)


def torch_calls(logits: torch.Tensor, targets: torch.Tensor, free: torch.nn.Parameter) -> None:
    assert_type(crossent.cross_entropy(logits, targets, label_smoothing=0.1), torch.Tensor)
    assert_type(crossent.cross_entropy_and_grad(logits, targets), tuple[torch.Tensor, torch.Tensor])
    assert_type(crossent.shift_for_next_token(logits, targets), tuple[torch.Tensor, torch.Tensor])
    assert_type(crossent.perplexity(logits), torch.Tensor)
    assert_type(crossent.CrossEntropyLoss()(logits, targets), torch.Tensor)
    # What is computed from a Parameter is a Tensor.
    assert_type(crossent.cross_entropy(free, targets), torch.Tensor)
    assert_type(crossent.cross_entropy_and_grad(free, targets), tuple[torch.Tensor, torch.Tensor])
    assert_type(crossent.shift_for_next_token(free, free), tuple[torch.Tensor, torch.nn.Parameter])
    assert_type(crossent.perplexity(free), torch.Tensor)


def drop_in(logits: torch.Tensor, targets: torch.Tensor) -> None:
    assert_type(cross_entropy(logits, targets, ignore_index=0), torch.Tensor)
    assert_type(CrossEntropyLoss(label_smoothing=0.1)(logits, targets), torch.Tensor)
    cross_entropy(logits, targets).backward()  # type: ignore[no-untyped-call]


def of_a_module(model: torch.nn.Module, tokens: torch.Tensor) -> None:
    # PyTorch's modules return Any, which stays Any: it is no NumPy array.
    logits = model(tokens)
    crossent.cross_entropy(logits, tokens, weights=tokens, z_loss=1e-4).backward()
    crossent.cross_entropy_and_grad(logits, tokens)[1].requires_grad_()
    crossent.CrossEntropyLoss()(logits, tokens).backward()
    crossent.perplexity(crossent.cross_entropy(logits, tokens)).cpu()


def jax_calls(logits: jax.Array, targets: jax.Array) -> None:
    assert_type(crossent.cross_entropy(logits, targets, reduction="sequence"), jax.Array)
    assert_type(crossent.cross_entropy(jnp.zeros((2, 7)), targets), jax.Array)
    assert_type(crossent.cross_entropy_and_grad(logits, targets), tuple[jax.Array, jax.Array])
    assert_type(crossent.shift_for_next_token(logits, targets), tuple[jax.Array, jax.Array])
    assert_type(crossent.perplexity(logits), jax.Array)
    assert_type(crossent.CrossEntropyLoss()(logits, targets), jax.Array)


def errors(logits: NDArray[np.float32], tensor: torch.Tensor) -> None:
    crossent.cross_entropy(logits, ids, reduction="average")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    crossent.cross_entropy(tensor, tensor, reduction="average")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    crossent.cross_entropy(logits, ids, smoothing="even")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    crossent.cross_entropy(logits, ids, label_smooth=0.1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    crossent.cross_entropy(tensor, tensor, label_smooth=0.1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    crossent.cross_entropy(logits, ids, ids)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    crossent.cross_entropy([[0.0, 1.0]], [1])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    crossent.cross_entropy_and_grad(logits, ids, reduction="average")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    crossent.cross_entropy_and_grad(logits, ids, logits, 1.0, ids)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    crossent.CrossEntropyLoss(reduction="average")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    crossent.CrossEntropyLoss(ignored=0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    crossent.perplexity("low")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    cross_entropy(tensor, tensor, smoothing="uniform")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
