"""Which classes are whose: the shards of a vocabulary, as ranks have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np


@dataclass(frozen=True)
class Partition:
    """The first class and the number of classes of each rank, and how many columns more its arrays have."""

    ranges: tuple[tuple[int, int], ...]
    padding: tuple[int, ...]

    def __str__(self) -> str:
        """As failures tell it."""
        padded = f", padded by {' '.join(map(str, self.padding))}" if any(self.padding) else ""
        return " ".join(f"{start}:{start + size}" for start, size in self.ranges) + padded

    @property
    def is_in_order(self) -> bool:
        """Whether each shard begins where that of the rank before ends."""
        return [start for start, _ in self.ranges] == [0, *accumulate(self.sizes)][:-1]

    @property
    def sizes(self) -> list[int]:
        return [size for _, size in self.ranges]

    def columns(self, whole: np.ndarray, fill: float) -> Iterator[np.ndarray]:
        """The part of each rank along the last axis."""
        for (start, size), more in zip(self.ranges, self.padding, strict=True):
            part = whole[..., start : start + size]
            yield np.concatenate([part, np.full((*part.shape[:-1], more), fill, part.dtype)], axis=-1)

    def joined(self, parts: list[np.ndarray]) -> np.ndarray:
        """The whole again; what there is in the padding has to be 0."""
        found = {}
        for rank, ((start, size), part) in enumerate(zip(self.ranges, parts, strict=True)):
            width = size + self.padding[rank]
            assert part.shape[-1] == width, f"rank {rank} gave a gradient of {part.shape[-1]} columns, not {width}"
            assert (part[..., size:] == 0).all(), f"rank {rank} gave padding a gradient that is not 0"
            if size:
                found[start] = part[..., :size]
        return np.concatenate([found[start] for start in sorted(found)], axis=-1)


def _of(sizes: list[int], padding: list[int] | None = None) -> Partition:
    starts = [0, *accumulate(sizes)]
    return Partition(tuple(zip(starts, sizes, strict=False)), tuple(padding or [0] * len(sizes)))


def partitions(V: int, ranks: int) -> dict[str, Partition]:
    """Of each kind one: shards as even as can be, uneven, in another order than the ranks, some empty, padded."""
    even = _of([len(part) for part in np.array_split(np.arange(V), ranks)])
    bounds = [0, *sorted({round(V * (i / ranks) ** 1.7) for i in range(1, ranks)} | {V})]
    sizes = [after - before for before, after in pairwise(bounds)]
    sizes = ([0] * ranks + sizes)[-ranks:]
    uneven = _of(sizes)
    # The first has nothing, and one between two others, where there are so many.
    halves = np.array_split(np.arange(V), max(1, ranks - ranks // 2))
    empty = [0] * ranks
    for rank, part in zip(range(ranks - 1, -1, -2), reversed(halves), strict=True):
        empty[rank] = len(part)
    return {
        "even": even,
        "uneven": uneven,
        "turned": Partition(uneven.ranges[::-1], uneven.padding),
        "empty": _of(empty),
        "padded": _of(sizes, [rank % 3 for rank in range(1, ranks + 1)]),
    }
