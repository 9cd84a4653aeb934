"""Test vectors for implementations in any language: conformance/vectors/README.md says what they hold.

    python -m xent_conformance.vectors --write conformance/vectors    make them again
    python -m xent_conformance.vectors --check conformance/vectors    compare the files with what would be written

    for case in vectors.read("conformance/vectors"):
        logits, targets, options = case.arguments()
        loss, d_logits = some_cross_entropy_and_grad(logits.astype(case.dtype), targets, **options)
        assert case.worst(loss, d_logits) <= 1

The same bytes each time: no clock, no generator of random numbers but its own, no compression.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from xent_conformance import units, vector_arrays, vector_reductions, vector_special, vector_values
from xent_conformance.vector_answers import answered

VERSION = "1.0"
"""A case that is added raises the second number; one that is changed or taken away the first, and has a new folder."""
FOLDER = "v1"
FORMAT = "xent-vectors/1"
SCHEMA = "schema.json"
MANIFEST = "MANIFEST.json"
ARRAYS = "vectors.npz"
_EXACT = ("loss", "d_logits", "perplexity")
_CLAUSES = vector_values.CLAUSES | vector_reductions.CLAUSES | vector_special.CLAUSES | vector_arrays.CLAUSES


@dataclass(frozen=True)
class Case:
    """One case of the files."""

    written: dict[str, Any]

    @property
    def id(self) -> str:
        return self.written["id"]

    @property
    def dtype(self) -> str:
        """The dtype that the logits are to be given in."""
        return self.written["dtype"]

    def arguments(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Logits as float64, targets in their dtype (bfloat16: float64), options; repetitions made."""
        given = self.written
        tokens, V, columns = tuple(given["tokens"]), given["classes"], self._counts("columns")
        logits = self._rows(_floats(given["logits"]).reshape(*tokens, V).repeat(columns, axis=-1))
        if "int" in given["targets_dtype"]:
            numbers = [int(target) for target in given["targets"]]  # not all of them are exact in float64
            targets = np.array(numbers, dtype=given["targets_dtype"]).reshape(tokens)
        else:
            targets = _floats(given["targets"]).reshape(*tokens, V).repeat(columns, axis=-1)
            targets = targets if given["targets_dtype"] == "bfloat16" else targets.astype(given["targets_dtype"])
        options = dict(given["options"])
        if "weights" in options:
            options["weights"] = self._rows(_floats(options["weights"]).reshape(tokens))
        if "class_weights" in options:
            options["class_weights"] = _floats(options["class_weights"]).repeat(columns)
        if "grad_output" in options:
            options["grad_output"] = _floats(options["grad_output"]).reshape(given["loss_shape"])
        if "ignore_index" in options:
            options["ignore_index"] = int(options["ignore_index"])
        return logits, self._rows(targets), options

    def expected(self, name: str) -> units.Exact:
        """The exact "loss", "d_logits" or "perplexity", as written: without repetitions, but in its shape."""
        given = self.written
        shape = (*given["tokens"], given["classes"]) if name == "d_logits" else tuple(given["loss_shape"])
        high = _floats(given[name])
        low = [_low(text, value) for text, value in zip(given[name], high.tolist(), strict=True)]
        return units.Exact(*(np.array(part).reshape(shape) for part in (high, low, given[f"{name}_allowed"])))

    def worst(self, loss: Any, d_logits: Any = None, perplexity: Any = None) -> float:
        """The largest error as a fraction of what is allowed: 1 is the limit, inf a wrong shape, NaN or infinity."""
        worst, eps = 0.0, self.written["eps"]
        for name, given in zip(_EXACT, (loss, d_logits, perplexity), strict=True):
            if given is None:
                continue
            exact, got = self.expected(name), np.asarray(given, dtype=np.float64)
            if name == "d_logits" or self.written["options"].get("reduction") == "none":
                exact = units.Exact(*(self._rows(part) for part in (exact.high, exact.low, exact.allowed)))
            if name == "d_logits":
                columns = self._counts("columns")
                exact = units.Exact(*(part.repeat(columns, axis=-1) for part in (exact.high, exact.low, exact.allowed)))
            if got.shape != exact.shape:
                return float("inf")
            worst = max(worst, _worst(got, exact, eps))
            if name == "d_logits" and "row_sums_allowed" in self.written:
                sums = np.array([math.fsum(row) for row in got.reshape(-1, got.shape[-1]).tolist()])
                nothing, allowed = np.zeros_like(sums), np.array(self.written["row_sums_allowed"])
                worst = max(worst, _worst(sums, units.Exact(nothing, nothing, allowed), eps))
        if loss is not None and (np.asarray(loss) < self.written.get("loss_at_least", -np.inf)).any():
            return float("inf")
        return worst

    def _counts(self, axis: str) -> Any:
        return self.written.get("repeat", {}).get(axis, 1)

    def _rows(self, array: np.ndarray) -> np.ndarray:
        rows = self._counts("rows")
        return array if rows == 1 else array.repeat(rows, axis=0)


def read(folder: str | Path) -> list[Case]:
    """Every case of the JSON files in the folder, in the order of their clauses."""
    files = sorted((Path(folder) / FOLDER).glob("[A-Z][0-9]*.json"), key=lambda file: _order(file.stem))
    if not files:
        raise FileNotFoundError(f"there are no vectors in {Path(folder) / FOLDER}")
    return [Case(case) for file in files for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]


def _order(clause: str) -> tuple[int, int]:
    return "VRSA".find(clause[0]), int(clause[1:])


def _floats(values: list[Any]) -> np.ndarray:
    return np.array([float(value) for value in values], dtype=np.float64)


def _low(text: str, high: float) -> float:
    """What the nearest float64 leaves of the digits."""
    return float(Decimal(text) - Decimal(high)) if np.isfinite(high) else 0.0


def _worst(got: np.ndarray, exact: units.Exact, eps: float) -> float:
    if got.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs((got - exact.high) - exact.low)
        fraction = np.where(error == 0, 0.0, error / (exact.allowed * eps))
    same = (got == exact.high) | (np.isnan(got) & np.isnan(exact.high))
    finite = np.isfinite(got) & np.isfinite(exact.high)
    return float(np.where(finite, fraction, np.where(same, 0.0, np.inf)).max())


def generate() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every clause with its cases, answered by the oracle."""
    for clause, (questions, dtypes) in _CLAUSES.items():
        yield clause, [answered(clause, question, dtype) for dtype in dtypes for question in questions(dtype)]


def files(schema: bytes) -> dict[str, bytes]:
    """What a folder of this version holds: the names and bytes of its files."""
    made = dict(generate())
    found = {f"{clause}.json": _page(clause, cases) for clause, cases in made.items()}
    found[ARRAYS] = _arrays([Case(case) for cases in made.values() for case in cases])
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in (found | {SCHEMA: schema}).items()}
    counts = {clause: len(cases) for clause, cases in made.items()}
    manifest = {"format": FORMAT, "version": VERSION, "cases": counts, "sha256": sums}
    return found | {MANIFEST: (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()}


def _page(clause: str, cases: list[dict[str, Any]]) -> bytes:
    """JSON with sorted keys, a line for each, so that a difference shows where it is."""
    pages = []
    for case in cases:
        lines = [
            f"   {json.dumps(key)}: {json.dumps(case[key], sort_keys=True, allow_nan=False)}" for key in sorted(case)
        ]
        pages.append("  {\n" + ",\n".join(lines) + "\n  }")
    head = f' "clause": "{clause}",\n "format": "{FORMAT}",\n "version": "{VERSION}"'
    return ('{\n "cases": [\n' + ",\n".join(pages) + "\n ],\n" + head + "\n}\n").encode()


def _arrays(cases: list[Case]) -> bytes:
    """The same as an npz: arrays under "<id>/<name>", and "index", the rest of the cases as JSON in bytes."""
    index, stored = {}, io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as archive:
        for case in cases:
            given = case.written
            arrays = {"logits": _floats(given["logits"]).reshape(*given["tokens"], given["classes"])}
            for name in filter(given.__contains__, _EXACT):
                exact = case.expected(name)
                arrays |= {name: exact.high, f"{name}_low": exact.low, f"{name}_allowed": exact.allowed}
            for name, array in arrays.items():
                _store(archive, f"{case.id}/{name}", array)
            index[case.id] = {name: value for name, value in given.items() if name not in arrays}
        text = json.dumps(index, sort_keys=True, allow_nan=False).encode()
        _store(archive, "index", np.frombuffer(text, dtype=np.uint8))
    return stored.getvalue()


def _store(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.create_system = 3  # the same on every system
    archive.writestr(entry, content.getvalue())


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or compare with them."""
    program = "python -m xent_conformance.vectors"
    parser = argparse.ArgumentParser(prog=program, description="Test vectors for cross-entropy.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", metavar="FOLDER", type=Path, help="write the vectors")
    action.add_argument(
        "--check", metavar="FOLDER", type=Path, help="exit code 1 where a file is not what is generated"
    )
    asked = parser.parse_args(arguments)
    folder = (asked.write or asked.check) / FOLDER
    if not (folder / SCHEMA).is_file():
        parser.error(f"{folder / SCHEMA} is missing: it is written by hand, and the manifest names it")
    made = files((folder / SCHEMA).read_bytes())
    if asked.write:
        for name, content in made.items():
            (folder / name).write_bytes(content)
        return 0
    present = {file.name for file in folder.iterdir()} - {SCHEMA}
    wrong = [name for name in sorted(made.keys() | present) if not _holds(folder / name, made.get(name))]
    print("\n".join(f"{name} is not what is generated" for name in wrong) or f"{len(made)} files are as generated")
    return 1 if wrong else 0


def _holds(file: Path, content: bytes | None) -> bool:
    return content is not None and file.is_file() and file.read_bytes() == content


if __name__ == "__main__":
    sys.exit(main())
