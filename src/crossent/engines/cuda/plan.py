"""Which walk is compiled and how many threads run it.

The order of a row's sums depends on its length, on dtypes and, for targets that are more than one class, on the device:
never on how many rows there are, nor on where they lie.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from crossent.engines.cuda.launch import Kernel, Properties, Shape
from crossent.engines.cuda.memory import Matrix

# Elements of 16 bytes, and the kernel's name for them.
_FORMATS: Final = {
    "bfloat16": ("Bfloat16", 8),
    "float16": ("Float16", 8),
    "float32": ("Float32", 4),
    "float64": ("Float64", 2),
}
LAYOUTS: Final = ("ALIGNED", "UNALIGNED", "STRIDED")
# What rows have: one target each, or several; or what is measured of them, alone or beside a teacher's.
TARGETS: Final = (
    "HARD", "SMOOTHED", "LOG_SUM_EXP", "ENTROPY", "SPREAD", "SOFT", "FORWARD", "REVERSE", "JENSEN_SHANNON",
)  # fmt: skip
LANES: Final = (1, 8, 32)
TRANSFORMS: Final = ("PLAIN", "SCALED", "CAPPED")
VERBS: Final = ("losses", "walk", "describe", "statistics", "gradient")
# What pieces of rows are for, which are long.
_HALVES: Final = VERBS[3:]
# A row is gone over several times for those that are a distribution.
_SPREADS: Final = TARGETS[4:]
# The measures, those of rows themselves and those beside a teacher's.
_ALONE, _BESIDE = TARGETS[2:4], TARGETS[6:]
# The warps of a block where a row is too long for one warp, and not held in registers.
_WARPS = 8
# Classes that a warp alone goes over, of targets that are more than one class; and those of a block of a cluster.
_FOR_A_WARP, _FOR_A_BLOCK = 1024, 16384
# The most blocks of a cluster; and of one whose size decides bits, which should be alike on all devices.
_LARGEST_CLUSTER, _PORTABLE_CLUSTER = 16, 8


class Variant(NamedTuple):
    """What the kernel's macros choose."""

    format: str
    layout: str
    targets: str
    verb: str
    lanes: int
    transform: str = "PLAIN"

    @property
    def macros(self) -> tuple[tuple[str, str], ...]:
        """The macros, by name."""
        return (
            ("CROSSENT_FORMAT", _FORMATS[self.format][0]),
            ("CROSSENT_LAYOUT", self.layout),
            ("CROSSENT_TARGETS", self.targets),
            ("CROSSENT_PASS", self.verb.upper()),
            ("CROSSENT_TRANSFORM", self.transform),
            ("CROSSENT_LANES", str(self.lanes)),
            ("CROSSENT_THREADS", str(self.threads)),
        )

    @property
    def threads(self) -> int:
        """The most threads of a block, of which two run at once: so many that the registers suffice."""
        if self.describes:
            # Short rows have no more threads than these, and single elements want registers.
            if self.layout == "STRIDED" and self.lanes < 32:
                return 128
            return 192 if self.format == "float64" else 256
        if self.format == "float64" or self.layout == "STRIDED" or self.lanes < 32 or self.verb == "gradient":
            return 256
        if self.targets == "SMOOTHED":
            return 256 if self.in_granule == 8 else 384
        return 512 if self.layout == "ALIGNED" else 384

    @property
    def describes(self) -> bool:
        """Whether pieces of a row have all sums of its distribution, which need registers."""
        return self.verb == "describe" or self.targets in _ALONE

    @property
    def in_granule(self) -> int:
        """Elements in 16 bytes."""
        return _FORMATS[self.format][1]

    @property
    def width(self) -> int:
        """Classes of a tile."""
        return self.lanes * self.in_granule * _granules(self.targets, self.in_granule)


class Plan(NamedTuple):
    """The threads of a launch, and the pieces that a row is walked in."""

    shape: Shape
    pieces: int


def variant(logits: Matrix, out: Matrix | None, targets: str, verb: str, transform: str = "PLAIN") -> Variant:
    """The walk for those matrices."""
    layout = "STRIDED" if targets in _SPREADS else _layout(logits, out)
    return _variant(logits.format, logits.shape[1], layout, targets, verb, transform)


@functools.lru_cache(maxsize=4096)
def _variant(format: str, classes: int, layout: str, targets: str, verb: str, transform: str) -> Variant:
    count = _FORMATS[format][1]
    granules = -(-classes // count)
    if targets in _SPREADS or verb in _HALVES or granules > 8 * _granules(targets, count):
        return Variant(format, layout, targets, verb, 32, transform)
    # There is nothing to be gained by knowing that a short row is aligned.
    layout = "UNALIGNED" if layout == "ALIGNED" else layout
    return Variant(format, layout, targets, verb, 1 if granules <= 4 else 8, transform)


def all_variants() -> list[Variant]:
    """Every walk that `variant` may ask for."""
    found = []
    for format in _FORMATS:
        for targets in TARGETS:
            for verb in verbs_of(targets):
                found += [
                    Variant(format, layout, targets, verb, lanes)
                    for lanes in (LANES[-1:] if verb in _HALVES or targets in _SPREADS else LANES)
                    for layout in (LAYOUTS[-1:] if targets in _SPREADS else LAYOUTS)
                    if lanes == 32 or layout != "ALIGNED"
                ]
    return [chosen._replace(transform=transform) for transform in TRANSFORMS for chosen in found]


def verbs_of(targets: str) -> tuple[str, ...]:
    """What is done with rows that have such targets: a measure is walked, and those with one target each described."""
    if targets in (*_ALONE, *_BESIDE):
        return VERBS[:2]
    return tuple(verb for verb in VERBS if verb != "describe" or targets == "HARD")


def _granules(targets: str, count: int) -> int:
    """How many times 16 bytes a lane holds, as in `tile.cuh`."""
    return 4 if targets == "SMOOTHED" and count > 2 else 8


def _layout(logits: Matrix, out: Matrix | None) -> str:
    if not (_is_dense(logits) and (out is None or _is_dense(out))):
        return "STRIDED"
    begins = _begins(logits)
    # The gradient's rows have to begin as the logits' do.
    if out is not None and _begins(out) != begins:
        return "STRIDED"
    return "UNALIGNED" if any(begins) else "ALIGNED"


def _is_dense(x: Matrix) -> bool:
    """Whether the elements of a row lie side by side."""
    return x.column == 1 or x.shape[1] == 1


def _begins(x: Matrix) -> tuple[int, int]:
    """How far behind a 16-byte boundary the first row begins, and each other more than the one before."""
    return x.address % 16, x.row * x.itemsize % 16 if x.shape[0] > 1 else 0


def _entry(chosen: Variant) -> int:
    """Bytes of shared memory for a piece: what warps tell one another, twice."""
    if chosen.targets in _SPREADS:
        return 2 * 4 * 8
    size = 8 if chosen.format == "float64" else 4
    return 2 * (4 * size + (2 * 4 if chosen.describes else 0))


@functools.cache
def most_classes(format: str, device: Properties) -> int:
    """The longest row that the kernel can walk on a device, whatever its targets and whatever is done with it."""
    shortest = [Variant(format, "STRIDED", *some, 32) for some in (("SMOOTHED", "walk"), ("HARD", "describe"))]
    return min(device.shared // _entry(chosen) * chosen.width for chosen in shortest)


@functools.lru_cache(maxsize=4096)
def plan(chosen: Variant, rows: int, classes: int, kernel: Kernel, device: Properties) -> Plan:
    """The threads for so many rows of so many classes."""
    spreads = chosen.targets in _SPREADS
    alone, pieces = classes <= _FOR_A_WARP, 1
    if not spreads:
        pieces = -(-classes // chosen.width) if chosen.lanes == 32 else 1
        alone = pieces == 1
    if alone:
        threads = 128
        return Plan(Shape(min(-(-rows * chosen.lanes // threads), kernel.active_clusters(threads, 1)), threads), 1)
    if spreads:
        most, cluster = _WARPS, _cluster_for(classes / _FOR_A_BLOCK, device, _PORTABLE_CLUSTER)
    else:
        most = chosen.threads // 32
        if chosen.verb != "walk":
            most = min(most, _WARPS)
        cluster = _cluster_for(_wanted_blocks(chosen, rows, pieces, device), device, _LARGEST_CLUSTER)
    while True:
        if spreads:
            pieces = _WARPS * cluster
        warps, shared = min(most, -(-pieces // cluster)), pieces * _entry(chosen)
        at_once = kernel.active_clusters(32 * warps, cluster, shared)
        if at_once or cluster == 1:
            return Plan(Shape(cluster * min(rows, max(at_once, 1)), 32 * warps, cluster, shared), pieces)
        # Large clusters are not to be had on every device that has clusters, and on a slice of one not even small ones.
        cluster //= 2


def _wanted_blocks(chosen: Variant, rows: int, pieces: int, device: Properties) -> float:
    """How many blocks should walk a row of so many tiles."""
    # Rows that are too few to occupy the device are shared out among more blocks.
    wanted = min(pieces, 2 * device.multiprocessors / rows)
    # A warp holds one tile in registers between its sums and its gradient.
    return max(wanted, pieces / (chosen.threads // 32)) if chosen.verb == "walk" else wanted


def _cluster_for(blocks: float, device: Properties, most: int) -> int:
    """The smallest power of two that is no less than `blocks`, as far as clusters go."""
    cluster = 1
    while device.clusters and cluster < min(blocks, most):
        cluster *= 2
    return cluster
