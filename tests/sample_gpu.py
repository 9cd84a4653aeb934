"""A FABRICATED record of a run on a GPU, for the tests of its page alone. Nobody measured a number in here."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks import gpu
from benchmarks.gpu_contenders import COPY, FORWARD, GRADIENT, SMOOTHED

ROOF = 4000.0
VOCABULARIES = (4096, 32768, 50257, 128256, 131072, 262144)
SHARES = {
    "crossent cuda": 0.95,
    "crossent cuda, unchecked": 0.96,
    "crossent cuda, out=": 0.94,
    "crossent cuda, out=, unchecked": 0.95,
    "crossent cuda, out=logits": 0.93,
    "crossent array_api": 0.1,
    "crossent array_api, out=": 0.12,
    "F.cross_entropy": 0.25,
    "F.cross_entropy, torch.compile": 0.45,
    "textbook": 0.08,
}


def record() -> dict[str, Any]:
    """The whole of it."""
    parts = [_part("checks-cupy", _checks()), _part("conformance-cupy", _tests(), status=1)]
    parts += [_part(f"benchmarks-{backend}", {"figures": figures(backend)}) for backend in ("torch-cuda", "cupy")]
    parts.append(_part("sanitizer", _sanitizer()))
    return {
        "crossent": "crossent 0.0.0",
        "commit": "fabricated",
        "source_sha256": "0" * 64,
        "date": "2000-01-01T00:00:00+00:00",
        "dry_run_on_cpu": False,
        "gpus": [
            {"name": "FABRICATED GPU", "driver_version": "0.0", "memory.total": "1 MiB", "compute_cap": "0.0"},
        ],
        "processor": "FABRICATED",
        "cores": 1,
        "versions": {"numpy": "0.0"},
        "backends": {"cupy": "cuda:0", "torch-cuda": "cuda:0"},
        "parts": parts,
    }


def _part(name: str, result: Any, *, status: int = 0) -> dict[str, Any]:
    return {
        "name": name, "date": "2000-01-01T00:00:00+00:00", "driver": "0.0", "command": "python3 -m x",
        "status": status, "seconds": 1, "limit": 9, "result": result,
    }  # fmt: skip


def _checks() -> dict[str, Any]:
    checks = [
        {"name": "accuracy", "verdict": "passed", "what": "Is it?", "text": "FABRICATED | 0.5", "seconds": 1.0},
        {"name": "torch_compile", "verdict": "not here", "what": "Does it?", "text": "FABRICATED", "seconds": 0.0},
    ]
    return {"backend": "cupy", "device": "FABRICATED GPU", "engine": "cuda", "checks": checks}


def _tests() -> dict[str, Any]:
    failed = [{"test": "a::b", "message": "FABRICATED"}]
    return {"tests": 3, "failures": 1, "errors": 0, "skipped": 0, "failed": failed}


def _sanitizer() -> dict[str, Any]:
    return {"sanitizer": [{"name": "memcheck, cupy", "verdict": "passed", "text": "FABRICATED", "seconds": 2.0}]}


def figures(backend: str) -> list[dict[str, Any]]:
    """Made up from the shares above: slower where calls are small, and CuPy a hair behind torch."""
    half = "float16" if backend == "cupy" else "bfloat16"
    foreign = ("F.cross_entropy", "F.cross_entropy, torch.compile") if backend == "cupy" else ("textbook",)
    sizes = [(gpu.VOCABULARY, v, 2**30) for v in VOCABULARIES]
    sizes += [(gpu.SIZES, 32768, nbytes) for nbytes in gpu.SWEPT_BYTES]
    found = []
    for dtype, (series, v, nbytes) in itertools.product((half, "float32"), sizes):
        rate = ROOF * nbytes / (nbytes + 2**24) * (0.99 if backend == "cupy" else 1.0)
        found.append(_figure(backend, dtype, series, v, nbytes, "copy", COPY, rate))
        for question, (name, share) in itertools.product((FORWARD, GRADIENT, SMOOTHED), SHARES.items()):
            smoothed = question == SMOOTHED and "unchecked" not in name and "logits" not in name
            with_out = ("out=" in name) == (question != FORWARD)
            if (
                name in foreign
                or not (smoothed or question != SMOOTHED)
                or not (with_out or not name.startswith("crossent"))
            ):
                continue
            swept = "unchecked" in name or name in ("F.cross_entropy", "textbook")
            if series == gpu.VOCABULARY or (swept and question != SMOOTHED):
                found.append(_figure(backend, dtype, series, v, nbytes, question, name, rate * share))
    lost = next(one for one in found if one["contender"] == "crossent array_api")
    lost |= {"error": "FABRICATED: out of memory"}
    del lost["ms"], lost["quartiles_ms"]
    return gpu.with_rates(found)


def _figure(
    backend: str, dtype: str, series: str, v: int, nbytes: int, question: str, name: str, rate: float
) -> dict[str, Any]:
    moved = nbytes * (1 if question == FORWARD else 2)
    ms = moved / rate / 1e6
    return {
        "backend": backend, "device": "FABRICATED GPU", "dtype": dtype, "series": series, "V": v,
        "N": nbytes // v // (4 if dtype == "float32" else 2), "logits_bytes": nbytes, "question": question,
        "contender": name, "ours": name.startswith("crossent"), "bytes_moved": moved, "ms": ms,
        "quartiles_ms": [0.99 * ms, 1.01 * ms],
    }  # fmt: skip
