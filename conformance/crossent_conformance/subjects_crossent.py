"""`crossent` as a subject: the one file of the suite that imports it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any

import numpy as np

import crossent
from crossent_conformance.adapter import UnderTest
from crossent_conformance.backends import BACKENDS, FLOATS
from crossent_conformance.implementation import Adapter, DoesNotApply, Sharded
from crossent_conformance.linear import ThroughIdentity

_OPERATIONS = {"array_api_strict": "numpy", "dask": "numpy", "jaxlib": "jax"}
"""Whose operations arrays of that module have, where not its own."""


class Crossent(Adapter):
    """The public functions of `crossent`."""

    name = package = "crossent"
    backends, dtypes = tuple(BACKENDS), FLOATS
    engines = ("auto", "numba", "cuda", "array_api")
    flat = False
    loss = staticmethod(crossent.cross_entropy)
    loss_and_grad = staticmethod(crossent.cross_entropy_and_grad)
    loss_object: Any = staticmethod(crossent.CrossEntropyLoss)
    perplexity = staticmethod(crossent.perplexity)
    shift = staticmethod(crossent.shift_for_next_token)
    linear = staticmethod(crossent.linear_cross_entropy)
    linear_and_grad = staticmethod(crossent.linear_cross_entropy_and_grad)
    token_log_probs = staticmethod(crossent.token_log_probs)
    token_log_probs_and_grad = staticmethod(crossent.token_log_probs_and_grad)
    token_statistics = staticmethod(crossent.token_statistics)
    entropy = staticmethod(crossent.entropy)
    entropy_and_grad = staticmethod(crossent.entropy_and_grad)
    kl_divergence = staticmethod(crossent.kl_divergence)
    kl_divergence_and_grad = staticmethod(crossent.kl_divergence_and_grad)

    @property
    def drop_in(self) -> Any:
        """The function that stands for PyTorch's."""
        from crossent import torch

        return torch.cross_entropy

    @property
    def drop_in_module(self) -> Any:
        """The module that stands for PyTorch's."""
        from crossent import torch

        return torch.CrossEntropyLoss

    @contextlib.contextmanager
    def threads(self, count: int) -> Iterator[None]:
        """Calls within use at most so many threads."""
        crossent.set_num_threads(count)
        try:
            yield
        finally:
            crossent.set_num_threads(None)

    @contextlib.contextmanager
    def portable(self) -> Iterator[None]:
        """Calls within are answered by the engine for any array library."""
        before = os.environ.get("CROSSENT_ENGINE")
        os.environ["CROSSENT_ENGINE"] = "array_api"
        try:
            yield
        finally:
            if before is None:
                del os.environ["CROSSENT_ENGINE"]
            else:
                os.environ["CROSSENT_ENGINE"] = before

    def engine(
        self,
        logits: Any,
        targets: Any,
        *,
        engine: str = "auto",
        algorithm: str = "stable",
        label_smoothing: float = 0.0,
        **_options: Any,
    ) -> str:
        """The one that `crossent.explain` tells; of that for any library also whose operations answer."""
        library = type(logits).__module__.partition(".")[0]
        in_pieces = library == "dask" and logits.numblocks[-1] > 1
        said = crossent.explain(logits, algorithm)
        if refusal := re.search(f"^{engine}: cannot serve: (.*)", said, re.MULTILINE):
            raise DoesNotApply(f"engine={engine!r}: {refusal[1]}")
        if engine == "auto":
            is_graph = in_pieces and label_smoothing and targets.ndim == logits.ndim
            if library == "dask" and algorithm == "stable" and not is_graph:  # each chunk finds its own
                said = crossent.explain(np.empty((1, logits.shape[-1]), logits.dtype))
            engine = re.findall("engine '(.*)'", said.partition("\n")[0])[0]
        if engine == "array_api":
            on = " on cuda" if getattr(getattr(logits, "device", None), "type", "") == "cuda" else ""
            engine += f" of {_OPERATIONS.get(library, library)}{on}"
        return f"{engine} in pieces" if in_pieces else engine

    def sharded(self, backend: str) -> Sharded:
        """Shards on processes, on devices, or as chunks."""
        groups = {"torch": "gloo", "numpy": "mpi"}
        if backend == "dask":
            return Sharded("one", _chunked)
        if backend == "jax":
            return Sharded("one", _on_devices, {"XLA_FLAGS": "--xla_force_host_platform_device_count={ranks}"})
        if backend not in groups:
            raise DoesNotApply(f"shards of {backend} arrays in processes of a CPU")
        return Sharded(groups[backend], _shard)


def _shard(group: Any, ranges: list[tuple[int, int]], check: bool) -> Any:
    """The public functions for the classes of one rank."""
    start, size = ranges[group.rank]
    always: dict[str, Any] = {"vocabulary": crossent.VocabularyShard(start, size, group.handle, check)}
    return SimpleNamespace(
        loss=partial(crossent.cross_entropy, **always),
        loss_and_grad=partial(crossent.cross_entropy_and_grad, **always),
        linear=partial(crossent.linear_cross_entropy, **always),
        linear_and_grad=partial(crossent.linear_cross_entropy_and_grad, **always),
        flat=False,
    )


def _chunked(_group: Any, ranges: list[tuple[int, int]], _check: bool) -> Any:
    """The public functions for Dask arrays whose chunks along the vocabulary are the shards."""
    sizes = tuple(size for _, size in ranges)

    def cut(function: Any) -> Any:
        @wraps(function)
        def of_chunks(logits: Any, targets: Any, **options: Any) -> Any:
            return function(_cut(logits, sizes), targets, **options)

        return of_chunks

    loss, pair = cut(crossent.cross_entropy), cut(crossent.cross_entropy_and_grad)
    return SimpleNamespace(loss=loss, loss_and_grad=pair, flat=False)


def _on_devices(_group: Any, ranges: list[tuple[int, int]], check: bool) -> Any:
    """The public functions within `shard_map`, whose devices have as many columns as the largest shard has classes."""
    import jax
    from jax.sharding import PartitionSpec

    starts, sizes = np.array(ranges, np.int32).T
    width = max(sizes.max(), 1)
    columns = np.concatenate([rank * width + np.arange(size) for rank, size in enumerate(sizes)])
    mesh = jax.make_mesh((len(ranges),), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, of_classes = PartitionSpec(), PartitionSpec("shards")

    def spread(array: Any) -> Any:
        full = jax.numpy.ones((*array.shape[:-1], len(ranges) * width), array.dtype)
        return full.at[..., columns].set(array)

    def on_devices(function: Any, gives_gradient: bool) -> Any:
        @wraps(function)
        def of_all(logits: Any, targets: Any, **options: Any) -> Any:
            last = PartitionSpec(*(None,) * (logits.ndim - 1), "shards")
            arrays = {name: x for name, x in options.items() if isinstance(x, jax.Array)}
            rest = {name: x for name, x in options.items() if name not in arrays}
            places = {name: of_classes if name == "class_weights" else whole for name in arrays}
            is_soft = targets.ndim == logits.ndim
            given = [spread(logits), spread(targets) if is_soft else targets]
            given.append({name: spread(x) if name == "class_weights" else x for name, x in arrays.items()})

            def of_part(logits: Any, targets: Any, arrays: Any) -> Any:
                rank = jax.lax.axis_index("shards")
                start, size = (jax.numpy.asarray(numbers)[rank] for numbers in (starts, sizes))
                shard = crossent.VocabularyShard(start, size, "shards", check)
                return function(logits, targets, vocabulary=shard, **arrays, **rest)

            outs = (whole, last) if gives_gradient else whole
            specs = (last, last if is_soft else whole, places)
            found = jax.jit(jax.shard_map(of_part, mesh=mesh, in_specs=specs, out_specs=outs))(*given)
            return (found[0], found[1][..., columns]) if gives_gradient else found

        return of_all

    loss, pair = on_devices(crossent.cross_entropy, False), on_devices(crossent.cross_entropy_and_grad, True)
    return SimpleNamespace(loss=loss, loss_and_grad=pair, flat=False)


def _cut(array: Any, sizes: tuple[int, ...]) -> Any:
    """The array in such chunks along its last axis; Dask itself cannot make empty ones of others."""
    import dask.array

    bounds = np.cumsum([0, *sizes])
    parts = [array[..., start:stop].rechunk({-1: -1}) for start, stop in itertools.pairwise(bounds.tolist())]
    return dask.array.concatenate(parts, axis=-1)


subject = Crossent()
through_identity = ThroughIdentity(UnderTest(subject, ""), memory=256)
"""`linear_cross_entropy` of logits as hidden states, in blocks of few of them: every clause can be asked of it."""
