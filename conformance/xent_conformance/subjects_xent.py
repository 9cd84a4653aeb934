"""`xent` as a subject: the one file of the suite that imports it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import xent
from xent_conformance.subject import Adapter


class Xent(Adapter):
    """The public functions of `xent`."""

    name = package = "xent"
    backends = ("numpy", "torch", "torch-cuda", "cupy", "jax", "dask", "array-api-strict")
    dtypes = ("float64", "float32", "float16", "bfloat16")
    flat = False
    loss = staticmethod(xent.cross_entropy)
    loss_and_grad = staticmethod(xent.cross_entropy_and_grad)
    loss_object = staticmethod(xent.CrossEntropyLoss)
    perplexity = staticmethod(xent.perplexity)
    shift = staticmethod(xent.shift_for_next_token)

    @property
    def drop_in(self) -> Any:
        """The function that stands for PyTorch's."""
        from xent import torch

        return torch.cross_entropy

    @property
    def drop_in_module(self) -> Any:
        """The module that stands for PyTorch's."""
        from xent import torch

        return torch.CrossEntropyLoss

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Calls within use at most so many threads."""
        before = os.environ.get("XENT_NUM_THREADS")
        os.environ["XENT_NUM_THREADS"] = str(count)
        try:
            yield
        finally:
            if before is None:
                del os.environ["XENT_NUM_THREADS"]
            else:
                os.environ["XENT_NUM_THREADS"] = before


subject = Xent()
