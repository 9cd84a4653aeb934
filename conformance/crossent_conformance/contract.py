"""The clauses: their numbers, groups and words, read from the page of the contract that the documentation shows."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
PAGES = (HERE / "specification.md", HERE.parent.parent / "docs" / "specification.md")
"""The page where it is installed, and where it is in a checkout."""
GROUPS = {
    "V": "Values",
    "R": "Reductions",
    "S": "Special values",
    "A": "Arrays",
    "D": "Derivatives",
    "L": "Linear",
    "P": "Shards",
    "T": "Tokens",
}
SHARDS = "P"
"""The group whose clauses are asked in several processes."""
_CLAUSE = re.compile(rf"^- \*\*([{''.join(GROUPS)}]\d+)\*\* (.*)$")


@cache
def clauses() -> dict[str, str]:
    """The text of every clause, in the order of the page."""
    page = next(page for page in PAGES if page.is_file())
    found: dict[str, str] = {}
    current = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if match := _CLAUSE.match(line):
            current, text = match.groups()
            found[current] = text
        elif current and line.startswith("  "):
            found[current] += ("\n" if line.strip().startswith("- ") else " ") + line.strip()
        elif current and not line.strip():
            found[current] += "\n"
        else:
            current = None
    return {clause: text.strip() for clause, text in found.items()}


def clause_of(test: str) -> str:
    """The clause that a test's function name begins with: test_V1_confident_targets is of V1."""
    match = re.match(rf"test_([{''.join(GROUPS)}]\d+)_", test)
    if match is None:
        raise ValueError(f"{test} does not begin with the number of a clause")
    return match.group(1)
