"""`python -m crossent_conformance.vectors`: answer the cases of the files anew, or compare.

Every file of a version is written with the answers to its cases, in the same bytes each time. What is asked stands in
the files alone; a new case is an object with the fields of `answers.QUESTION`, by hand or by a program, and is answered
when the files are written again. No clock, no random numbers, no compression.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance.vectors import EXACT, FOLDER, Case, floats, pages
from crossent_conformance.vectors.answers import answered

VERSION = "1.0"
"""A case that is added raises the second number; one that is changed or taken away the first, and has a new folder."""
FORMAT = "crossent-vectors/1"
SCHEMA = "schema.json"
MANIFEST = "MANIFEST.json"
ARRAYS = "vectors.npz"


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or compare with them."""
    program = "python -m crossent_conformance.vectors"
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
    made = files(folder)
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


def files(folder: Path) -> dict[str, bytes]:
    """What the folder of this version should hold: the names and bytes of its files."""
    made = {clause: [answered(case) for case in cases] for clause, cases in pages(folder).items()}
    found = {f"{clause}.json": _page(clause, cases) for clause, cases in made.items()}
    found[ARRAYS] = _arrays([Case(case) for cases in made.values() for case in cases])
    sums = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in (found | {SCHEMA: (folder / SCHEMA).read_bytes()}).items()
    }
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


if __name__ == "__main__":
    sys.exit(main())
