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
        xent.set_num_threads(count)
        try:
            yield
        finally:
            xent.set_num_threads(None)

    @contextlib.contextmanager
    def portable(self) -> Iterator[None]:
        """Calls within are answered by the engine for any array library."""
        before = os.environ.get("XENT_ENGINE")
        os.environ["XENT_ENGINE"] = "array_api"
        try:
            yield
        finally:
            if before is None:
                del os.environ["XENT_ENGINE"]
            else:
                os.environ["XENT_ENGINE"] = before


subject = Xent()
