"""The pages and what names them: the site's nav, the README on the package index, the citation.

`make docs` itself is not run here: it needs an extra, and says by itself what is broken.
"""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from docs.pictures import PICTURES
from hatch_build import LINK, OUTSIDE, for_index

import crossent

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
FIGURES = re.compile(r"^\| ([^|`]+) \| ([\d.]+) \| ([\d.]*) ?\|$", re.MULTILINE)


def text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def named(nav):
    if isinstance(nav, str):
        return [nav]
    return [page for item in (nav.values() if isinstance(nav, dict) else nav) for page in named(item)]


def test_the_nav_and_the_table_of_pages_name_every_page():
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - {"README.md"}
    made = {"index.md", "changelog.md", "security.md", "vectors.md"}
    assert sorted(named(yaml.safe_load(text("mkdocs.yml"))["nav"])) == sorted(pages | made)
    folders = ("findings/", "evidence/")  # whose own README names the others
    links = set(re.findall(r"\]\(([^)#]+\.md)\)", text("docs/README.md")))
    assert links == {page for page in pages if not page.startswith(folders) or page.endswith("/README.md")}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_reads_alike_everywhere(path):
    """Markdown of the site takes four spaces for a list in a list; repository viewers take two to five."""
    page = FENCED.sub("", path.read_text(encoding="utf-8"))
    assert not re.findall(r"^ {1,3}(?:[-*]|\d+\.) .*", page, re.MULTILINE)


def links(page):
    return [match[4] for match in LINK.finditer(page) if match[4] and not OUTSIDE.match(match[4])]


def test_the_readme_links_to_what_there_is_and_on_the_index_to_nothing_without_an_address():
    assert [link for link in links(text("README.md")) if not (ROOT / link.partition("#")[0]).exists()] == []
    page = for_index(text("README.md"), None)
    assert not links(page)
    assert "![" not in page
    assert "\n\n\n" not in page


def test_with_an_address_every_link_leads_there():
    page = for_index("[a](docs/b.md#c) ![d](docs/e.png) [f](https://g)\n```\n[h](i)\n```\n", "https://j/k/")
    assert page == (
        "[a](https://j/k/blob/HEAD/docs/b.md#c) ![d](https://j/k/raw/HEAD/docs/e.png) [f](https://g)\n```\n[h](i)\n```\n"
    )


def test_the_figures_of_the_readme_are_those_of_the_run():
    performance = text("docs/performance.md")
    rows = FIGURES.findall(text("README.md"))
    assert len(rows) == 4
    for name, milliseconds, mebibytes in rows:
        for title, figure in (("Forward and gradient", milliseconds), ("Memory of forward and gradient", mebibytes)):
            section = performance.partition(f"### {title}\n")[2].partition("### ")[0]
            first_size = section.partition("2048x50257 float32\n")[2]
            line = re.search(rf"^ +{re.escape(name)} +([\d.]+) ", first_size, re.MULTILINE)
            assert (line[1] if line else "") == figure, (name, title)


def test_the_accuracy_of_the_readme_is_that_of_the_table():
    head, _, values = text("README.md").partition("| exact |")[2].splitlines()[:3]
    names = ["exact", *(cell.strip() for cell in head.strip(" |").split(" | "))]
    table = text("docs/accuracy.md").splitlines()
    column = next(line for line in table if line.startswith("| loss, target")).split(" | ").index("17")
    for name, value in zip(names, values.strip(" |").split(" | "), strict=True):
        row = next(line for line in table if line.startswith(f"| {name} |"))
        assert row.split(" | ")[column] == value


@pytest.mark.parametrize(("page", "picture"), [(page, f"{page}-{word}.svg") for page, (word, _) in PICTURES.items()])
def test_a_page_shows_the_picture_that_its_examples_draw(page, picture):
    shown = text(f"docs/{page}.md")
    root = ElementTree.parse(DOCS / "images" / picture).getroot()
    words = "".join(root.itertext())
    assert f"](images/{picture})" in shown
    assert all(label in words for label in re.findall(r"[xy]?label=\"([\w ]+)\"", shown))
    assert all(line in words for line in re.findall(r"^(T = [\d.]+): ", shown, re.MULTILINE))


def test_the_program_of_the_page_of_shards_finds_what_one_process_finds(tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    (program,) = re.findall(r"```python\n(# parallel\.py.*?)```", text("docs/shards.md"), re.DOTALL)
    (tmp_path / "parallel.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", tmp_path / "parallel.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("loss 14.0677, as on one process") == 4


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == crossent.__version__
    released = re.search(rf"^## \[{re.escape(crossent.__version__)}\] - (\S+)$", text("CHANGELOG.md"), re.MULTILINE)
    assert released
    assert str(citation.get("date-released", "unreleased")) == released[1]
