"""Launches that are planned before there are addresses: what a compiled program has to know of one.

The program's own runtime allocates the memory, says the stream, and calls machine code that puts both into what is
planned here and launches it (`numba_cpu/launching.py`). A program may run on any device of the process, so there is a
line for each: the structures of the launch, and the kernel's argument, without addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from crossent.engines import cuda
from crossent.engines.cuda import launch
from crossent.engines.cuda.argument import FORMATS, POINTERS, Problem, place_matrix, problem_of_logits
from crossent.engines.cuda.launch import Place
from crossent.engines.cuda.memory import Matrix
from crossent.math.rows import Rows


class Launch(NamedTuple):
    """A launch in a program.

    name: of the walk. places: of its kernel on each device. lines: for each device, what `launch.configuration` makes,
    and the argument. words: where in the argument the addresses of arrays stand, by their names.
    """

    name: str
    places: tuple[Place, ...]
    lines: tuple[bytes, ...]
    words: dict[str, int]


def planned(
    rows: Rows, shape: tuple[int, int], formats: Mapping[str, str], devices: tuple[int, ...], *, gradient: bool
) -> Launch:
    """The launch for rows whose arrays lie side by side, each from a multiple of 16 bytes on.

    rows: of their arrays nothing is asked but whether they are there. formats: the dtypes of arrays, by their names.
    """
    n, v = shape
    x = Matrix(0, v, 1, (n, v), formats["logits"])
    d = x if gradient else None
    argument = problem_of_logits(rows.coefficients, x, 0, v)
    if d is not None:
        place_matrix(argument, "gradient", d)
    if rows.soft is not None:
        place_matrix(argument, "soft", x._replace(format=formats["soft"]))
    if "scales" in formats:
        argument.scales_row, argument.scales_format = 1, FORMATS[formats["scales"]]
    name, places, lines = "", [], []
    for device in devices:
        chosen, loaded, found = cuda.planned(rows, "walk" if gradient else "losses", x, d, device)
        cuda.share_out(argument, found)
        name = "_".join(map(str, chosen)).lower()
        places.append(loaded.place)
        lines.append(launch.configuration(found.shape) + bytes(argument))
    return Launch(name, tuple(places), tuple(lines), {word: getattr(Problem, word).offset for word in POINTERS})
