"""`python -m crossent_conformance.vectors`: answer the cases of the files anew, or compare."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from crossent_conformance.vectors.cases import FOLDER
from crossent_conformance.vectors.files import SCHEMA, files


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


if __name__ == "__main__":
    sys.exit(main())
