"""Draw the pictures that pages draw themselves: `python -m docs.pictures` runs their examples and keeps the figures.

Such a page leaves a matplotlib figure under the name `figure`, and shows `images/PAGE-WORD.svg`.
"""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import matplotlib
from benchmarks.plots import SETTINGS, save

DOCS = Path(__file__).parent
PICTURES = {"evaluation": ("reliability", "Reliability of a model of counts, without a temperature and with one")}
"""Of each page the picture's word, and its title, for those who hear it."""


def names_of(page: Path) -> dict[str, Any]:
    """What a page's examples leave behind; they have to print what the page says."""
    test = doctest.DocTestParser().get_doctest(page.read_text(encoding="utf-8"), {}, page.name, str(page), 0)
    if doctest.DocTestRunner().run(test, clear_globs=False).failed:
        raise SystemExit(f"{page.name} prints something else than it says")
    return test.globs


def main() -> None:
    """Draw all."""
    for page, (word, title) in PICTURES.items():
        with matplotlib.rc_context(SETTINGS):
            save(names_of(DOCS / f"{page}.md")["figure"], DOCS / "images" / f"{page}-{word}.svg", title)


if __name__ == "__main__":
    main()
