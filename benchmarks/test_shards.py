"""A vocabulary in shards on 1, 2 and 4 processes of torch: how long loss and gradient take, and what a token sends.

Beside it are the whole loss on as many threads and PyTorch's `loss_parallel`, in turns, in the same processes.

    python -m pytest benchmarks/test_shards.py --benchmark-only -s
"""

from __future__ import annotations

import json
import os
import statistics
import time
from datetime import timedelta

import pytest

from benchmarks import host

TOKENS, V = 2048, 32768
ROUNDS, WARM_UPS = 7, 2
PROCESSES = (1, 2, 4)
WHOLE, SHARDS, UNCHECKED, PEER = "whole", "shards", "shards, check=False", "loss_parallel"


def _contenders(rank, ranks):
    """What a rank does in a turn, by name: a loss and the gradient of its own logits, made anew."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor.parallel import loss_parallel
    from torch.nn import functional

    import crossent

    mesh, size = init_device_mesh("cpu", (ranks,)), V // ranks
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(V, (TOKENS,), generator=generator)
    logits = torch.randn(TOKENS, size, generator=generator).requires_grad_()
    whole = torch.randn(TOKENS, V, generator=generator).requires_grad_() if rank == 0 else None

    def unsharded():
        if rank == 0:
            torch.autograd.grad(crossent.cross_entropy(whole, targets), whole)

    def sharded(shard):
        return lambda: torch.autograd.grad(crossent.cross_entropy(logits, targets, vocabulary=shard), logits)

    def peer():
        with loss_parallel():
            spread = DTensor.from_local(logits, mesh, [Shard(1)])
            torch.autograd.grad(functional.cross_entropy(spread, targets), logits)

    return {
        WHOLE: unsharded,
        SHARDS: sharded(crossent.VocabularyShard(rank * size, size, mesh)),
        UNCHECKED: sharded(crossent.VocabularyShard(rank * size, size, mesh, check=False)),
        PEER: peer,
    }


def _sent(call):
    """The collectives of a call, and their bytes."""
    import torch
    from torch.distributed.tensor import DTensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    found = []

    class Sent(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if DTensor in types:
                return NotImplemented
            name = str(func)
            if "c10d" in name and ("reduce" in name or "gather" in name):
                given = args[0] if "reduce" in name else args[1]
                found.append(sum(x.nbytes for x in tree_leaves(given) if isinstance(x, torch.Tensor)))
            return func(*args, **(kwargs or {}))

    with Sent():
        call()
    return found


def _rank(rank, ranks, store, results):
    """One process, which has a thread for itself; the whole loss has as many threads as there are processes."""
    import torch
    import torch.distributed as dist

    import crossent

    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=ranks, timeout=timedelta(minutes=2))
    contenders = _contenders(rank, ranks)
    times = {name: [] for name in contenders}
    sent = {}
    for turn in range(WARM_UPS + ROUNDS):
        for name, call in contenders.items():
            threads = min(ranks, os.cpu_count() or 1) if name == WHOLE else 1
            torch.set_num_threads(threads)
            crossent.set_num_threads(threads)
            dist.barrier()
            begun = time.perf_counter()
            call()
            dist.barrier()
            if turn >= WARM_UPS:
                times[name].append(time.perf_counter() - begun)
            elif turn == 0:
                sent[name] = _sent(call) if name != WHOLE else []
    if rank == 0:
        found = {name: {"seconds": statistics.median(times[name]), "sent": sent[name]} for name in contenders}
        results.write_text(json.dumps(found))
    dist.destroy_process_group()


def _measured(folder):
    from torch import multiprocessing

    found = {}
    for ranks in PROCESSES:
        results = folder / f"{ranks}.json"
        multiprocessing.spawn(_rank, (ranks, str(folder / f"store{ranks}"), results), ranks)
        found[ranks] = json.loads(results.read_text())
    return found


def lines(found):
    """The table."""
    yield f"{TOKENS} tokens, V = {V}, float32: loss and gradient, medians of {ROUNDS} turns, a thread a process"
    heads = {"ms": 8, "/ whole": 9, "/ loss_parallel": 17, "collectives": 13, "bytes a token": 15}
    yield f"processes  {'contender':<20}" + "".join(f"{head:>{width}}" for head, width in heads.items())
    for ranks, contenders in found.items():
        for name, one in contenders.items():
            ratios = (one["seconds"] / contenders[base]["seconds"] for base in (WHOLE, PEER))
            whole, peer = (f"{ratio:.2f}" for ratio in ratios)
            sent = ("", "") if name == WHOLE else (str(len(one["sent"])), f"{sum(one['sent']) / TOKENS:.1f}")
            yield f"{ranks:>9}  {name:<20}{one['seconds'] * 1e3:>8.1f}{whole:>9}{peer:>17}{sent[0]:>13}{sent[1]:>15}"


def test_shards(benchmark, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    found = benchmark.pedantic(_measured, (tmp_path,))
    with capsys.disabled():
        print("", *host.lines(host.facts()), *lines(found), sep="\n")
    for contenders in found.values():
        assert len(contenders[UNCHECKED]["sent"]) == 2
