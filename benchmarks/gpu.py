"""Speed on a GPU against a copy in its own memory: every engine of `xent`, torch eager and compiled, Liger and Quack
where they are installed, the textbook version on CuPy.

`python -m benchmarks.gpu FILE --backend torch-cuda --backend cupy` rewrites FILE after every case, so that what is
finished outlives an interruption. Every figure is the median of device-event times with the buffers taking turns, after
a warm-up, and counts only if the answer agrees with float64. Exit code 1 if one of `xent`'s own figures is missing or
wrong; a peer's failure is a line in FILE.

A gradient in place of the logits would leave the next call a gradient to read. So before every such call, untimed,
the logits are put back into the memory that it works in, and more memory than any cache has is written.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import gpu_contenders
from benchmarks.gpu_contenders import COPY, Contender
from benchmarks.gpu_library import LIBRARIES, Library
from benchmarks.table import aligned

VOCABULARIES = (32768, 131072, 4096, 262144, 50257, 128256)
"""The most telling first. Rows of 50257 begin at any alignment; 128256 is no power of two."""
LOGITS_BYTES = 2**30
SHARE_OF_MEMORY = 24
"""The logits' share of the free memory is at most one in this many: two buffers, the gradient, torch's temporaries."""
BUFFERS = 2
"""Logits take turns; each alone is many times the cache."""
WARM_UPS, SAMPLES = 3, 31
CHECKED_ROWS = 32
# float16's covers gradients of 1/N below its normal range; both halves' a loss that a peer returns in half precision.
TOLERANCES = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Case:
    """Logits of one library, dtype and size."""

    library: Library
    dtype: str
    v: int
    n: int

    @property
    def nbytes(self) -> int:
        """The bytes of one buffer of logits."""
        return self.n * self.v * self.library.itemsize(self.dtype)


def cases(libraries: Sequence[Library], vocabularies: Sequence[int], nbytes: int) -> Iterator[Case]:
    """Every library, dtype and vocabulary, as many rows as make at least `nbytes`, or what the memory allows."""
    for library in libraries:
        allowed = min(nbytes, library.free_memory() // SHARE_OF_MEMORY)
        for dtype in library.dtypes:
            for v in vocabularies:
                row = v * library.itemsize(dtype)
                yield Case(library, dtype, v, max(CHECKED_ROWS, math.ceil(allowed / row)))


@dataclass(frozen=True)
class Data:
    """What a case is measured on, and the exact answer for the first buffer."""

    buffers: list[Any]
    targets: Any
    out: Any
    exact: dict[float, tuple[float, Any]]
    """For each smoothing."""

    @classmethod
    def of(cls, case: Case, smoothings: set[float]) -> Data:
        """Made on the case's device."""
        buffers, targets, out = case.library.data(case.n, case.v, case.dtype, BUFFERS)
        exact = {one: case.library.exact(buffers[0], targets, CHECKED_ROWS, one) for one in smoothings}
        return cls(buffers, targets, out, exact)


def measure(case: Case, contender: Contender, data: Data) -> list[float]:
    """The times of some calls in milliseconds, after the answer of one was checked."""
    library, function = case.library, contender.make(case.library)
    sources = itertools.cycle(data.buffers)

    def put_back() -> None:
        data.out[...] = next(sources)
        library.flush()

    if contender.in_place:
        before, turns = put_back, [data.out]
    else:
        before, turns = None, data.buffers
    calls = [partial(function, x, data.targets, data.out) for x in turns]
    if before is not None:
        before()
    result = calls[0]()
    if contender.name != COPY:
        _check(case, result, data.exact[contender.smoothing])
    del result
    wanted = list(itertools.islice(itertools.cycle(calls), WARM_UPS + SAMPLES))
    return library.times(wanted, before)[WARM_UPS:]


def _check(case: Case, result: Any, exact: tuple[float, Any]) -> None:
    """The mean loss over all rows and the gradient of the first few against float64."""
    exact_loss, exact_head = exact
    tolerance = TOLERANCES[case.dtype]
    loss, gradient = result if isinstance(result, tuple) else (result, None)
    error = abs(float(loss) - exact_loss) / exact_loss
    if not error <= tolerance:
        raise AssertionError(f"mean loss off by {error:.1e} of it")
    if gradient is not None:
        found = case.library.float64(gradient[:CHECKED_ROWS])
        error = float(abs(found - exact_head).max()) * case.n
        if not error <= tolerance:
            raise AssertionError(f"gradient off by {error:.1e} of its largest entry")


def run(
    chosen: Sequence[Case],
    contenders: Callable[[Library], list[Contender]],
    seconds: float,
    save: Callable[[Any], None],
) -> list[dict[str, Any]]:
    """All figures: of every case what is quick to start, then what has to be compiled first, until the time is up."""
    deadline = time.monotonic() + seconds
    figures: list[dict[str, Any]] = []
    for slow in (False, True):
        for case in chosen:
            wanted = [one for one in contenders(case.library) if one.slow_start is slow]
            if wanted:
                figures += _of_case(case, wanted, deadline)
                case.library.release()
                save(figures)
    return figures


def _of_case(case: Case, wanted: list[Contender], deadline: float) -> list[dict[str, Any]]:
    """The figures of one case; whatever a library raises is noted, because the other figures are wanted."""
    figures = [_figure(case, contender) for contender in wanted]
    late = "not reached in the time allowed"
    try:
        data = Data.of(case, {one.smoothing for one in wanted}) if time.monotonic() < deadline else late
    except Exception as error:
        data = _one_line(error)
    for figure, contender in zip(figures, wanted, strict=True):
        if isinstance(data, str):
            figure["error"] = data
        elif time.monotonic() >= deadline:
            figure["error"] = late
        else:
            try:
                times = measure(case, contender, data)
                low, _, high = statistics.quantiles(times, n=4)
                figure |= {"ms": statistics.median(times), "quartiles_ms": [low, high], "samples_ms": times}
            except Exception as error:
                figure["error"] = _one_line(error)
    return figures


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _figure(case: Case, contender: Contender) -> dict[str, Any]:
    return {
        "backend": case.library.name,
        "device": case.library.device(),
        "dtype": case.dtype,
        "V": case.v,
        "N": case.n,
        "logits_bytes": case.nbytes,
        "question": contender.question,
        "contender": contender.name,
        "ours": contender.ours,
        "bytes_moved": contender.traffic * case.nbytes,
    }


def with_rates(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures with GB/s, and the share of the copy's GB/s of the same case."""
    copies = {}
    for one in figures:
        if "ms" in one:
            one["gigabytes_per_second"] = one["bytes_moved"] / one["ms"] / 1e6
            if one["contender"] == COPY:
                copies[_case_of(one)] = one["gigabytes_per_second"]
    for one in figures:
        if "ms" in one and _case_of(one) in copies:
            one["share_of_copy"] = one["gigabytes_per_second"] / copies[_case_of(one)]
    return figures


def _case_of(figure: dict[str, Any]) -> tuple[str, str, int]:
    return figure["backend"], figure["dtype"], figure["V"]


def cupy_to_torch(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where both libraries answered alike, torch's GB/s over CuPy's: above 1, CuPy's calls took longer.

    float16 and bfloat16 are paired: as many bytes.
    """
    found: dict[str, dict[tuple[Any, ...], float]] = {"cupy": {}, "torch-cuda": {}}
    for one in figures:
        if one["ours"] and one["backend"] in found and "ms" in one:
            bits = "32 bits" if one["dtype"] == "float32" else "16 bits"
            key = bits, one["question"], one["contender"], one["V"]
            found[one["backend"]][key] = one["gigabytes_per_second"]
    names = ("bits", "question", "contender", "V")
    return [
        dict(zip(names, key, strict=True)) | {"ratio": found["torch-cuda"][key] / rate}
        for key, rate in found["cupy"].items()
        if key in found["torch-cuda"]
    ]


def lines(figures: list[dict[str, Any]]) -> list[str]:
    """A table: a row for each contender and dtype, a column for each vocabulary, cells in ms and share of the copy."""
    vocabularies = sorted({one["V"] for one in figures})
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for one in sorted(figures, key=lambda one: (one["backend"], one["dtype"], one["question"])):
        key = one["backend"], one["dtype"], one["question"], one["contender"]
        share = f" {one['share_of_copy']:4.0%}" if "share_of_copy" in one else ""
        rows.setdefault(key, {})[one["V"]] = f"{one['ms']:.3f}{share}" if "ms" in one else "failed"
    text = [("ms, share of the copy's GB/s", *(f"V={v}" for v in vocabularies))]
    text += [(" | ".join(key), *(cells.get(v, "") for v in vocabularies)) for key, cells in rows.items()]
    return aligned(text)


def failures(figures: list[dict[str, Any]]) -> list[str]:
    """The figures that are missing, one line each."""
    names = ("backend", "dtype", "V", "question", "contender", "error")
    return [" | ".join(str(one[name]) for name in names) for one in figures if "error" in one]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, save, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON to write")
    parser.add_argument("--backend", action="append", required=True, choices=list(LIBRARIES))
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES, metavar="V")
    parser.add_argument("--logits-bytes", type=int, default=LOGITS_BYTES, metavar="BYTES")
    parser.add_argument("--seconds", type=float, default=120.0, help="start nothing new after this time")
    given = parser.parse_args(arguments)

    libraries = [LIBRARIES[name]() for name in given.backend]

    def save(figures: list[dict[str, Any]]) -> None:
        text = json.dumps({"warm_ups": WARM_UPS, "samples": SAMPLES, "figures": with_rates(figures)}, indent=1)
        given.file.write_text(text + "\n", encoding="utf-8")

    chosen = list(cases(libraries, given.vocabularies, given.logits_bytes))
    figures = run(chosen, gpu_contenders.of, given.seconds, save)
    print("\n".join([*lines(figures), *failures(figures)]))
    return int(any("error" in one and one["ours"] for one in figures))


if __name__ == "__main__":
    sys.exit(main())
