"""The words and numbers of the HTML report: escaping, counts, numbers in few characters, statuses."""

from __future__ import annotations

import math
import re
from typing import Any

from crossent_conformance.figure import text

__all__ = [
    "CLASSES",
    "FAILS",
    "HOLDS",
    "NOT",
    "SIGNS",
    "breakable",
    "clauses_by_status",
    "count",
    "number",
    "prose",
    "text",
]

HOLDS, FAILS, NOT = "holds", "fails", "does not apply"
SIGNS = {HOLDS: "✓", FAILS: "✕", NOT: "–"}
CLASSES = {HOLDS: "holds", FAILS: "fails", NOT: "not"}
"""The names of the statuses in the style sheet."""


def breakable(value: Any) -> str:
    """A dotted name, escaped, that may be broken after dots and underscores."""
    return re.sub(r"([._:/])(?=\w)", r"\1<wbr>", text(value))


def prose(value: Any) -> str:
    """The contract's words, escaped, with `code` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def count(n: int, what: str) -> str:
    """So many of something."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def number(value: Any) -> str:
    """An error in few characters; nothing for none."""
    if value is None:
        return ""
    value = float(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    if value == 0 or 0.005 <= value < 100:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    if 100 <= value < 10_000:
        return f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def clauses_by_status(subject: dict[str, Any]) -> dict[str, list[str]]:
    """The clauses of which anything fails, else anything holds, else nothing applies; in the order of the cells."""
    found: dict[str, set[str]] = {}
    for cell in subject["cells"]:
        found.setdefault(cell["clause"], set()).add(cell["status"])
    return {status: [clause for clause, statuses in found.items() if _of_all(statuses) == status] for status in SIGNS}


def _of_all(statuses: set[str]) -> str:
    return FAILS if FAILS in statuses else HOLDS if HOLDS in statuses else NOT
