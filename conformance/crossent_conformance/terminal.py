"""Reports in a terminal: columns and colours by rich. Elsewhere lines are plain, and never cut.

What a report is made of may come from anywhere: it is escaped here, so that no text has a say in how a terminal looks.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from crossent_conformance.escaped import escaped

STYLES = {
    "FAILS": "bold red",
    "WRONG": "bold red",
    "extreme": "yellow",
    "holds": "green",
    "known": "dim",
    "does": "dim",
    "no": "dim",
    "raises": "dim",
}
"""How the cells that begin with these words look."""
ANY_WIDTH = 10_000


def columns(heads: Iterable[str], rows: Iterable[Sequence[str]], indent: int = 0) -> Table:
    """A table; the first column is never broken."""
    table = Table(box=None, pad_edge=indent > 0, padding=(0, 2, 0, indent), header_style="bold")
    for place, head in enumerate(heads):
        table.add_column(Text(escaped(head)), no_wrap=place == 0)
    for row in rows:
        table.add_row(*(Text(escaped(cell), style=STYLES.get(cell.partition(" ")[0], "")) for cell in row))
    return table


def text(*parts: RenderableType) -> str:
    """The parts below each other, as standard output shows them."""
    is_terminal = sys.stdout.isatty()
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=is_terminal or None, width=None if is_terminal else ANY_WIDTH, markup=False,
        highlight=False, emoji=False,
    )  # fmt: skip
    for part in parts:
        console.print(escaped(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
