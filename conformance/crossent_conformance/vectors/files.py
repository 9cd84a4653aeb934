"""The writer: every file of a version, in the same bytes each time.

No clock, no generator of random numbers but its own, no compression.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from crossent_conformance.vectors import arrays, reductions, special_values, values
from crossent_conformance.vectors.answers import answered
from crossent_conformance.vectors.cases import EXACT, Case, floats

VERSION = "1.0"
"""A case that is added raises the second number; one that is changed or taken away the first, and has a new folder."""
FORMAT = "crossent-vectors/1"
SCHEMA = "schema.json"
MANIFEST = "MANIFEST.json"
ARRAYS = "vectors.npz"
_CLAUSES = values.CLAUSES | reductions.CLAUSES | special_values.CLAUSES | arrays.CLAUSES


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
            arrays = {"logits": floats(given["logits"]).reshape(*given["tokens"], given["classes"])}
            for name in filter(given.__contains__, EXACT):
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
