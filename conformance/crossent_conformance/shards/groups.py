"""How the processes that have the shards reach each other, and what they say: counted where it is said.

gloo    torch.distributed, which finds the others by a file
mpi     MPI, whose `mpiexec` starts the processes
one     a process that has all shards, as chunks or on devices
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import shutil
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from crossent_conformance.implementation import DoesNotApply

COLLECTIVES = ("allreduce", "allgather", "reduce", "gather", "scatter", "bcast", "alltoall", "scan", "reduce_scatter")
CONNECTING = timedelta(seconds=120)
"""How long torch waits for the others; that they hang is found out by who waits for all of them."""


class Group:
    """A process among those that have the shards."""

    handle: Any = None
    """What the libraries take for the group."""
    rank = 0
    ranks = 1
    met: list[tuple[str, int]] | None = None
    """The collectives since `counting` began, each with how many numbers this process gave; None: cannot be told."""

    def __init__(self, rank: int, ranks: int, folder: str) -> None:
        """Join the others, which meet in that folder."""
        raise NotImplementedError

    @staticmethod
    def commands(ranks: int, rank: list[str]) -> list[list[str]]:
        """The processes to start, of which each runs the command `rank` with its number, or several."""
        raise NotImplementedError

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Collectives within are counted."""
        yield

    def leave(self) -> None:
        """It is over."""


class Gloo(Group):
    """A process group of torch.distributed."""

    def __init__(self, rank: int, ranks: int, folder: str) -> None:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        store = Path(folder, "store").as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=CONNECTING)
        self.handle, self.rank, self.ranks = dist.group.WORLD, rank, ranks

    @staticmethod
    def commands(ranks: int, rank: list[str]) -> list[list[str]]:
        return [[*rank, str(number)] for number in range(ranks)]

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """As torch dispatches them, whoever asks for them."""
        from torch import Tensor
        from torch.distributed.tensor import DTensor
        from torch.utils._python_dispatch import TorchDispatchMode
        from torch.utils._pytree import tree_flatten

        met: list[tuple[str, int]] = []

        class Counting(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                if any(issubclass(kind, DTensor) for kind in types):  # which first becomes what it consists of
                    return NotImplemented
                if function.namespace in ("c10d", "_c10d_functional") and "_tensor" not in function.name():
                    # An all-gather has what it gives beside where it puts what it gets.
                    given = args[1] if "gather" in function.name() and function.namespace == "c10d" else args[0]
                    tensors = [x for x in tree_flatten(given)[0] if isinstance(x, Tensor)]
                    met.append((function.name(), sum(x.numel() for x in tensors)))
                return function(*args, **(kwargs or {}))

        self.met = met
        with Counting():
            yield

    def leave(self) -> None:
        import torch.distributed as dist

        dist.destroy_process_group()


class Mpi(Group):
    """A communicator of mpi4py, which counts."""

    def __init__(self, rank: int, ranks: int, folder: str) -> None:
        from mpi4py import MPI

        group = self

        class Counting(MPI.Intracomm):
            def __getattribute__(self, name: str) -> Any:
                found = super().__getattribute__(name)
                if group.met is None or not _is_collective(name):
                    return found

                def counted(given: Any = None, *args: Any, **kwargs: Any) -> Any:
                    assert group.met is not None
                    memory = args[0] if given is MPI.IN_PLACE else given
                    group.met.append((name, math.prod(getattr(memory, "shape", ()))))
                    return found(given, *args, **kwargs)

                return counted

        self.handle = Counting(MPI.COMM_WORLD)
        self.rank, self.ranks = self.handle.rank, self.handle.size

    @staticmethod
    def commands(ranks: int, rank: list[str]) -> list[list[str]]:
        if importlib.util.find_spec("mpi4py") is None:
            raise DoesNotApply("mpi4py (pip install 'crossent[mpi]')")
        beside = Path(sys.executable).parent / "mpiexec"
        mpiexec = str(beside) if beside.is_file() else shutil.which("mpiexec")
        if mpiexec is None:
            raise DoesNotApply("mpiexec, beside Python or on the PATH (pip install mpich)")
        return [[mpiexec, "-n", str(ranks), *rank, "0"]]

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        self.met = []
        yield


class One(Group):
    """One process with all that there is."""

    def __init__(self, rank: int, ranks: int, folder: str) -> None:
        self.ranks = ranks

    @staticmethod
    def commands(ranks: int, rank: list[str]) -> list[list[str]]:
        return [[*rank, "0"]]


def _is_collective(name: str) -> bool:
    """Whether a method of a communicator is one, of objects or memory, waited for or not."""
    return name.lower().removeprefix("i").removesuffix("v") in COLLECTIVES


GROUPS: dict[str, type[Group]] = {"gloo": Gloo, "mpi": Mpi, "one": One}
