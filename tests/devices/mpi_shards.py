"""P1 to P4 through MPI: `tests/test_shards.py` runs this file in four processes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.shard_cases import OPTIONS, SIZES, SOFT, STARTS, inputs, of_rank

import crossent
from crossent_conformance import oracle, units


def check(world, name, shard):
    """A case, whose losses have the same bits everywhere."""
    x, targets, options = inputs(name, "float32")
    wide = targets.astype(float) if name in SOFT else targets
    exact = oracle.cross_entropy(x.astype(np.float64), wide, **options)
    logits, t, given = of_rank(world.rank, x, targets, options)
    loss, gradient = crossent.cross_entropy_and_grad(logits, t, vocabulary=shard, **given)
    units.check(loss, exact[0], "float32", what="loss")
    assert len(set(world.allgather(loss.tobytes()))) == 1
    expected = exact[1][..., STARTS[world.rank] : STARTS[world.rank] + SIZES[world.rank]]
    units.check(gradient, expected, "float32", what="d_logits")


def raised(world, call):
    """The kind and the text of an error on all ranks."""
    try:
        call()
    except Exception as error:
        return world.allgather((type(error).__name__, str(error)))
    raise AssertionError("no error")


def main():
    """Every case, then faults."""
    # Here, since MPI begins with its import, and so would wherever examples in docstrings are looked for.
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank = world.rank
    shard = crossent.VocabularyShard(STARTS[rank], SIZES[rank], world)
    for name in OPTIONS:
        check(world, name, shard)
    x, targets, _ = inputs("plain", "float32")
    logits = of_rank(rank, x, targets, {})[0]
    found = raised(world, lambda: crossent.cross_entropy(logits[rank // 3 :], targets[rank // 3 :], vocabulary=shard))
    assert all("tokens is (3, 4) on rank 0 and (2, 4) on rank 3" in text for _, text in found), found
    found = raised(world, lambda: crossent.VocabularyShard(rank * 4, 5, world))
    assert all("rank 1, classes 4 to 8, overlaps with that of rank 0" in text for _, text in found), found
    targets[2, 1] = 23
    found = raised(world, lambda: crossent.cross_entropy(logits, targets, vocabulary=shard))
    assert all(text.startswith("targets[2, 1] is 23; accepted: 0 to 22") for _, text in found), found
    sys.stdout.write(f"rank {rank} is done\n")


if __name__ == "__main__":
    main()
