"""The contenders of the loss that makes its logits: `crossent`, PyTorch's ways to the same, and what bounds them all.

The bound is three matrix products a block of rows: the logits, the gradient of the hidden states, and that of the
weight. Nothing is done between them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import crossent
from benchmarks.contenders import TORCH as OF_LOGITS
from benchmarks.contenders import Call, Contender
from benchmarks.problem import Problem

TORCH_CHUNKED = "torch F.linear_cross_entropy, chunked"
_OPTIONS = "torch.nn.modules.linear_cross_entropy_options"
"""The module of PyTorch, from 2.13 on, that the chunked one needs."""
MEBIBYTES = (32, 64, 256, 512)
"""Of blocks, beside the 128 that are the default."""
ROWS = (256, 512, 1024, 2048)


# One problem's at a time, shared by all contenders, of which none writes to them.
@lru_cache(maxsize=1)
def _tensors(problem: Problem) -> tuple[Any, Any, Any]:
    import torch

    hidden, head = (torch.tensor(x).requires_grad_(True) for x in (problem.hidden, problem.head))
    return hidden, head, torch.tensor(problem.targets)


def _of_torch(loss: Any, problem: Problem) -> Call:
    """Forward and backward of a loss of hidden states, weight and targets."""
    import torch

    hidden, head, targets = _tensors(problem)

    def call() -> Any:
        found = loss(hidden, head, targets)
        return found.detach(), torch.autograd.grad(found, (hidden, head))

    return call


def _chunked(hidden: Any, head: Any, targets: Any) -> Any:
    import torch

    options = torch.nn.LinearCrossEntropyOptions()
    return torch.nn.functional.linear_cross_entropy(hidden, head, targets, options=options)


def _materialised(hidden: Any, head: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(hidden @ head.T, targets)


def _products(rows: int, problem: Problem) -> Call:
    import torch

    hidden, head = (x.detach() for x in _tensors(problem)[:2])
    logits = torch.zeros(min(rows, problem.n), problem.v)
    d_hidden, d_head = torch.zeros_like(hidden), torch.zeros_like(head)

    def call() -> None:
        for i in range(0, problem.n, rows):
            block = hidden[i : i + rows]
            z = torch.mm(block, head.T, out=logits[: len(block)])
            torch.mm(z, head, out=d_hidden[i : i + rows])
            torch.addmm(d_head, z.T, block, beta=int(i > 0), out=d_head)

    return call


def _numpy(problem: Problem) -> Call:
    return partial(crossent.linear_cross_entropy_and_grad, problem.hidden, problem.head, problem.targets)


def _jitted(make: Any, problem: Problem) -> Call:
    """Compiled before the first call."""
    import jax
    import jax.numpy as jnp

    given = tuple(map(jnp.array, (problem.hidden, problem.head, problem.targets)))
    compiled = jax.jit(make(jax)).lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def _jax_products(jax: Any) -> Any:
    def products(hidden: Any, head: Any, targets: Any) -> Any:
        z = hidden @ head.T
        return z @ head, z.T @ hidden

    return products


def _jax_products_call(problem: Problem) -> Call:
    call = _jitted(_jax_products, problem)
    return lambda: call() and None


NUMPY = Contender("crossent numpy", (), _numpy)
TORCH = Contender("crossent torch", ("torch",), partial(_of_torch, crossent.linear_cross_entropy))
BLOCKS = [
    Contender(
        f"crossent torch, memory={mebibytes} MiB", ("torch",),
        partial(_of_torch, partial(crossent.linear_cross_entropy, memory=mebibytes * 2**20)),
    )
    for mebibytes in MEBIBYTES
]  # fmt: skip
JAX = Contender(
    "crossent jax, jit", ("jax",),
    partial(_jitted, lambda jax: jax.value_and_grad(crossent.linear_cross_entropy, argnums=(0, 1))),
)  # fmt: skip
PEERS = [
    Contender(TORCH_CHUNKED, ("torch", _OPTIONS), partial(_of_torch, _chunked)),
    Contender(OF_LOGITS, ("torch",), partial(_of_torch, _materialised)),
]
PRODUCTS = [Contender(f"products by torch, {rows} rows", ("torch",), partial(_products, rows)) for rows in ROWS]
JAX_PRODUCTS = Contender("products by jax", ("jax",), _jax_products_call)
