"""The findings still reproduce: each script runs in a process of its own, and ends with 0.

Those of packages that the development extras bring run here; the others run in `make scoreboard`, and are named.
"""

import tomllib
from pathlib import Path

import pytest

from crossent_conformance.findings import found

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "findings"
FINDINGS = {finding.name: finding for finding in found(FOLDER)}
DEVELOPMENT = ("torch", "optax", "scipy")
HERE = [name for name, finding in FINDINGS.items() if finding.package in DEVELOPMENT]
ELSEWHERE = [name for name in FINDINGS if name not in HERE]


@pytest.mark.extended
@pytest.mark.parametrize("name", HERE)
def test_it_reproduces(name):
    done = FINDINGS[name].run()
    assert done.returncode == 0, f"mended upstream, or the script is wrong:\n{done.stdout}{done.stderr}"
    assert "documented:" in done.stdout


def test_the_others_need_the_extra_of_the_peers(capsys):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for name in ELSEWHERE:
        assert any(line.startswith(FINDINGS[name].package) for line in extras["peers"]), name
    with capsys.disabled():
        print(f"\nleft to make scoreboard: {', '.join(ELSEWHERE)}")


def test_each_has_its_page_and_is_listed():
    assert {page.stem for page in FOLDER.glob("*.md")} == {*FINDINGS, "README"}
    for name in FINDINGS:
        page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
        for part in ("**Documented**", "**Given**", "**Contract**", f"python docs/findings/{name}.py"):
            assert part in page, name
        assert f"| [{name}]({name}.md) |" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_exit_code_tells_what_is_mended(tmp_path):
    script = tmp_path / "torch_mended.py"
    script.write_text("raise SystemExit(1)", encoding="utf-8")
    (mended,) = found(tmp_path)
    assert mended.package == "torch"
    assert mended.run().returncode == 1
