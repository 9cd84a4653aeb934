"""What the site needs besides docs/: pages made of files elsewhere in the repository, and links that lead to others.

A link of a page is written for a repository viewer, relative to its file. Here one to a file that is a page becomes a
link to the page, and one to any other file leads to the repository's address, or becomes its words as long as
pyproject.toml's [project.urls] has no `Repository`. One to no file at all is a warning, and so the end of the build.
"""

from __future__ import annotations

import logging
import posixpath
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from hatch_build import address, with_links

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LOGGER = logging.getLogger("mkdocs.hooks.links")
ROOT = Path(__file__).parent.parent
# Pages of the site that are no files of docs/, by their files. docs/README.md is a repository viewer's table of pages.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "conformance/vectors/README.md": "vectors.md",
}
ALIASES = {"docs/README.md": "index.md"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take the repository's address from pyproject.toml, its one place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    config.repo_url = project.get("urls", {}).get("Repository")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside docs/."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Settle the links of a page."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # its section has no other page
    made_of = {page: path for path, page in PAGES.items()}
    source = made_of.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def target(path: str, picture: bool) -> str | None:
        path, mark, anchor = path.partition("#")
        if not (ROOT / path).exists():
            LOGGER.warning("%s links to %s, which does not exist", source, path)
            return None
        inside = (PAGES | ALIASES).get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if inside is None or files.get_file_from_path(inside) is None:
            return address(config.repo_url, path, "raw" if picture else "blob")
        return posixpath.relpath(inside, posixpath.dirname(page.file.src_uri) or ".") + mark + anchor

    return with_links(markdown, posixpath.dirname(source), target)
