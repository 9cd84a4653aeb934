"""Speed on a GPU against a copy in its own memory: every engine of `crossent`, torch eager and compiled, Liger and
Quack where they are installed, the textbook version on CuPy.

`python -m benchmarks.gpu FILE --backend torch-cuda --backend cupy` rewrites FILE after every case, so that what is
finished outlives an interruption. Every figure is the median of device-event times with the buffers taking turns, after
a warm-up, and counts only if the answer agrees with float64. Exit code 1 if one of `crossent`'s own figures is missing
or wrong; a peer's failure is a line in FILE.

A gradient in place of the logits would leave the next call a gradient to read. So before every such call, untimed,
the logits are put back into the memory that it works in, and more memory than any cache has is read.
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
SWEPT_VOCABULARY = 32768
SWEPT_BYTES = (2**22, 2**24, 2**26, 2**28, 2**32)
"""Sizes besides that one, at which some contenders are measured."""
VOCABULARY, SIZES = "vocabulary", "size"
"""What a figure is one of: over vocabularies at one size, or over sizes at one vocabulary."""
SHARE_OF_MEMORY = 24
"""The logits' share of the free memory is at most one in this many: two buffers, the gradient, torch's temporaries."""
BUFFERS = 2
"""Logits take turns, as many of them as no cache holds, and two at least."""
WARM_UPS, SAMPLES = 3, 31
CHECKED_ROWS = 32
# float16's covers gradients of 1/N below its normal range; both halves' a loss that a peer returns in half precision.
TOLERANCES = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Case:
    """Logits of one library, dtype and size; of a sweep over sizes, or else over vocabularies."""

    library: Library
    dtype: str
    v: int
    n: int
    swept: bool = False

    @property
    def nbytes(self) -> int:
        """The bytes of one buffer of logits."""
        return self.n * self.v * self.library.itemsize(self.dtype)

    @property
    def buffers(self) -> int:
        """How many logits take turns."""
        return max(BUFFERS, -(-self.library.cache_bytes // self.nbytes))


def cases(
    libraries: Sequence[Library], vocabularies: Sequence[int], nbytes: int, swept: Sequence[int] = ()
) -> Iterator[Case]:
    """Every library, dtype and vocabulary, as many rows as make at least `nbytes`, or what the memory allows.

    After them, for `swept` numbers of bytes, a vocabulary that is in the middle.
    """
    for library in libraries:
        most = library.free_memory() // SHARE_OF_MEMORY
        for dtype in library.dtypes:
            for v in vocabularies:
                yield Case(library, dtype, v, _rows(library, dtype, v, min(nbytes, most)))
            for size in swept:
                v = min(SWEPT_VOCABULARY, max(vocabularies))
                yield Case(library, dtype, v, _rows(library, dtype, v, min(size, most)), swept=True)


def _rows(library: Library, dtype: str, v: int, nbytes: int) -> int:
    return max(CHECKED_ROWS, math.ceil(nbytes / (v * library.itemsize(dtype))))


@dataclass(frozen=True)
class Data:
    """What a case is measured on, and the exact answer for the first buffer."""

    buffers: list[Any]
    targets: Any
    outs: list[Any]
    """As many as logits where these are smaller than a cache."""
    exact: dict[float, tuple[float, Any]]
    """For each smoothing."""

    @classmethod
    def of(cls, case: Case, smoothings: set[float]) -> Data:
        """Made on the case's device."""
        buffers, targets, out = case.library.data(case.n, case.v, case.dtype, case.buffers)
        outs = [out]
        if len(buffers) > BUFFERS:
            outs += [case.library.empty(case.n, case.v, case.dtype) for _ in buffers[1:]]
        exact = {one: case.library.exact(buffers[0], targets, CHECKED_ROWS, one) for one in smoothings}
        return cls(buffers, targets, outs, exact)


def measure(case: Case, contender: Contender, data: Data) -> list[float]:
    """The times of some calls in milliseconds, after the answer of one was checked."""
    library, function = case.library, contender.make(case.library)
    sources = itertools.cycle(data.buffers)

    def put_back() -> None:
        data.outs[0][...] = next(sources)
        library.flush()

    before = put_back if contender.in_place else None
    turns = data.outs[:1] if contender.in_place else data.buffers
    calls = [partial(function, x, data.targets, out) for x, out in zip(turns, itertools.cycle(data.outs), strict=False)]
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
            wanted = [one for one in contenders(case.library) if one.slow_start is slow and one.swept >= case.swept]
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
        "series": SIZES if case.swept else VOCABULARY,
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


def _case_of(figure: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(figure[key] for key in ("backend", "dtype", "series", "V", "N"))


def cupy_to_torch(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where both libraries answered alike, torch's GB/s over CuPy's: above 1, CuPy's calls took longer.

    float16 and bfloat16 are paired: as many bytes.
    """
    found: dict[str, dict[tuple[Any, ...], float]] = {"cupy": {}, "torch-cuda": {}}
    for one in figures:
        if one["ours"] and one["backend"] in found and one["series"] == VOCABULARY and "ms" in one:
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
    """Two tables, over vocabularies and over sizes, cells in ms and share of the copy."""
    text = []
    for series, column, unit in ((VOCABULARY, "V", "V="), (SIZES, "logits_bytes", "bytes=")):
        chosen = [one for one in figures if one["series"] == series]
        columns = sorted({one[column] for one in chosen})
        rows: dict[tuple[str, ...], dict[int, str]] = {}
        for one in sorted(chosen, key=lambda one: (one["backend"], one["dtype"], one["question"])):
            key = one["backend"], one["dtype"], one["question"], one["contender"]
            share = f" {one['share_of_copy']:4.0%}" if "share_of_copy" in one else ""
            rows.setdefault(key, {})[one[column]] = f"{one['ms']:.3f}{share}" if "ms" in one else "failed"
        if rows:
            head = ("ms, share of the copy's GB/s", *(f"{unit}{value}" for value in columns))
            text += aligned(
                [head, *((" | ".join(key), *(cells.get(at, "") for at in columns)) for key, cells in rows.items())]
            )
    return text


def failures(figures: list[dict[str, Any]]) -> list[str]:
    """The figures that are missing, one line each."""
    names = ("backend", "dtype", "V", "N", "question", "contender", "error")
    return [" | ".join(str(one[name]) for name in names) for one in figures if "error" in one]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, save, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("file", type=Path, help="the JSON to write")
    parser.add_argument("--backend", action="append", required=True, choices=list(LIBRARIES))
    parser.add_argument("--vocabularies", type=int, nargs="+", default=VOCABULARIES, metavar="V")
    parser.add_argument("--logits-bytes", type=int, default=LOGITS_BYTES, metavar="BYTES")
    parser.add_argument("--sizes", type=int, nargs="*", default=SWEPT_BYTES, metavar="BYTES")
    parser.add_argument("--seconds", type=float, default=120.0, help="start nothing new after this time")
    given = parser.parse_args(arguments)

    libraries = [LIBRARIES[name]() for name in given.backend]

    def save(figures: list[dict[str, Any]]) -> None:
        text = json.dumps({"warm_ups": WARM_UPS, "samples": SAMPLES, "figures": with_rates(figures)}, indent=1)
        given.file.write_text(text + "\n", encoding="utf-8")

    chosen = list(cases(libraries, given.vocabularies, given.logits_bytes, given.sizes))
    figures = run(chosen, gpu_contenders.of, given.seconds, save)
    print("\n".join([*lines(figures), *failures(figures)]))
    return int(any("error" in one and one["ours"] for one in figures))


if __name__ == "__main__":
    sys.exit(main())
