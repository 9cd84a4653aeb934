"""The clauses: their numbers, groups and words, read from the page of the contract that the documentation shows.

And the names of the tests that ask them, read from their files without importing these.
"""

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
_TEST = re.compile(rf"^def (test_[{''.join(GROUPS)}]\d+_\w+)\(", re.MULTILINE)
_CLAUSE = re.compile(rf"^- \*\*([{''.join(GROUPS)}]\d+)\*\* (.*)$")


def page() -> Path:
    """Where the words are."""
    return next(page for page in PAGES if page.is_file())


@cache
def clauses() -> dict[str, str]:
    """The text of every clause, in the order of the page."""
    found: dict[str, str] = {}
    current = None
    for line in page().read_text(encoding="utf-8").splitlines():
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


def in_groups() -> list[str]:
    """The clauses, a line a group: its word, the first and the last."""
    numbers = {letter: [each for each in clauses() if each.startswith(letter)] for letter in GROUPS}
    return [f"{word}: {of[0]} to {of[-1]}" for (word, of) in zip(GROUPS.values(), numbers.values(), strict=True)]


@cache
def tests() -> dict[str, str]:
    """The names of all tests, and the file of each."""
    files = sorted((HERE / "clauses").glob("test_*.py"))
    return {test: file.name for file in files for test in _TEST.findall(file.read_text(encoding="utf-8"))}


def clause_of(test: str) -> str:
    """The clause that a test's function name begins with: test_V1_confident_targets is of V1."""
    match = re.match(rf"test_([{''.join(GROUPS)}]\d+)_", test)
    if match is None:
        raise ValueError(f"{test} does not begin with the number of a clause")
    return match.group(1)
