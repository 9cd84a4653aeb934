"""The mutants: deliberately broken losses, each a fault that people make, and the clause that kills each.

    for mutant in mutants(file): mutant.name, mutant.spec, mutant.fault, mutant.clause

A mutant is a class of a file of this folder whose docstring is that clause and the fault, in one sentence; most are the
clean implementation with one step overridden. A clause has one or two, but for faults that no other clause finds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FILES = sorted(path.stem for path in HERE.glob("*.py") if path != Path(__file__))


@dataclass(frozen=True)
class Mutant:
    """A broken loss."""

    name: str
    spec: str
    fault: str
    clause: str


def mutants(file: str) -> Iterator[Mutant]:
    """The mutants of a file, without importing it."""
    path = HERE / f"{file}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            clause, _, fault = (ast.get_docstring(node) or "").partition(": ")
            yield Mutant(node.name, f"{path}:{node.name}", fault, clause)
