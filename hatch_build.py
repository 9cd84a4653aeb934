"""The README as the package index shows it: links that are relative to the repository would be dead there.

With an address under `Repository` in pyproject.toml's [project.urls], they lead there. As long as there is none, links
become their words and pictures are left out.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

# A link or a picture, outside the fenced blocks, which the first group takes whole.
LINK = re.compile(r"^(```.*?^```)|(!?)\[([^\[\]]*)\]\(([^)\s]+)\)", re.MULTILINE | re.DOTALL)
OUTSIDE = re.compile(r"[a-z][a-z+.-]*:")


def address(repository: str | None, path: str, kind: str = "blob") -> str | None:
    """Where a path of the repository is seen ("blob") or loaded from ("raw"), as GitHub lays addresses out."""
    return None if repository is None else f"{repository.rstrip('/')}/{kind}/HEAD/{path}"


def with_links(text: str, folder: str, target: Callable[[str, bool], str | None]) -> str:
    """A Markdown text of that folder of the repository, its relative links led elsewhere.

    target: what takes the place of a path in the repository, with its anchor; the second argument says whether it is a
    picture's. None for what has no place: the link becomes its words, a picture goes.
    """

    def replaced(match: re.Match[str]) -> str:
        fenced, picture, words, link = match.groups()
        if fenced or OUTSIDE.match(link):
            return match[0]
        path, mark, anchor = link.partition("#")
        place = posixpath.normpath(posixpath.join(folder, path)) + mark + anchor
        found = target(place, bool(picture)) if path else link  # an anchor alone stays on the page
        if found is None:
            return "" if picture else words
        return f"{picture}[{words}]({found})"

    return LINK.sub(replaced, text)


def for_index(text: str, repository: str | None) -> str:
    """README.md as the long description."""
    text = with_links(text, "", lambda path, picture: address(repository, path, "raw" if picture else "blob"))
    return re.sub(r"\n{3,}", "\n\n", text)


class CustomMetadataHook(MetadataHookInterface):
    """Puts that text into the package's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set what pyproject.toml leaves to this file."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_index(text, repository)}
