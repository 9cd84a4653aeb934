"""The frame of a page: its head, its style and its script, around whatever body."""

from __future__ import annotations

from importlib import resources

from crossent_conformance.report_html.words import text

_SCRIPT = """
// Browsers of before 2025 do not all open the details that a link leads into.
function show(id) {
  const aim = id && document.getElementById(decodeURIComponent(id));
  for (let at = aim; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (aim) aim.scrollIntoView({block: "nearest"});
}
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (link) setTimeout(() => show(link.hash.slice(1)));
});
show(location.hash.slice(1));
"""


def document(title: str, body: str) -> str:
    """A whole page around a body."""
    style = resources.files("crossent_conformance.report_html").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{text(title)}</title>'
        f"<style>\n{style}</style></head>\n<body>{body}<script>{_SCRIPT}</script></body></html>\n"
    )
