"""The page of a run: from a stored one, byte for byte the same each time, and never from a part of a run."""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from benchmarks import plots, report
from benchmarks.measurement import Run

SAMPLE = Path(__file__).resolve().parent / "sample_benchmarks.json"
PAGE = "words\n\n<!-- begin: make bench -->\n\nold\n\n<!-- end -->\n\nmore words\n"


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """A folder of its own in place of docs/."""
    (tmp_path / "performance.md").write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(report, "DOCS", tmp_path)
    return tmp_path


def test_only_the_part_between_the_marks_is_replaced():
    page = report.replaced(PAGE, "new")
    assert page == PAGE.replace("old", "new")
    assert report.replaced(page, "new") == page


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="begin: make bench"):
        report.replaced("words", "new")


def test_the_real_page_has_the_marks():
    assert report.replaced((report.DOCS / report.PAGE).read_text(encoding="utf-8"), "new")


def test_the_page_has_machine_versions_date_command_tables_and_plots(docs):
    run = Run.load(SAMPLE)
    assert report.main([str(SAMPLE)]) == 0
    page = (docs / "performance.md").read_text(encoding="utf-8")
    assert page.startswith("words\n")
    assert page.endswith("more words\n")
    for said in (
        run.host["date"],
        run.host["processor"],
        run.host["crossent"],
        "numpy 2.4.6",
        f"{run.command} (1.8 minutes)",
    ):
        assert said in page
    assert "### Forward and gradient against V, N·V constant" in page
    for name in ("benchmarks-roofline.svg", "benchmarks-vocabulary.svg", "benchmarks-memory.svg"):
        assert f"(images/{name})" in page
        assert ElementTree.parse(docs / "images" / name).getroot().tag.endswith("svg")


def test_the_same_run_gives_the_same_bytes(docs, tmp_path):
    written = []
    for name in ("first", "second"):
        assert report.main([str(SAMPLE), "--docs", str(tmp_path / name)]) == 0
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()})
    assert len(written[0]) == 4
    assert written[0] == written[1]


def test_plots_hold_their_text_and_no_date(docs):
    report.main([str(SAMPLE)])
    roofline = (docs / "images" / "benchmarks-roofline.svg").read_text(encoding="utf-8")
    assert ">textbook numpy</text>" in roofline
    assert "copy: " in roofline
    assert "<dc:date>" not in roofline


def test_a_part_of_a_run_does_not_reach_the_page(docs, tmp_path, capsys):
    values = json.loads(SAMPLE.read_text(encoding="utf-8")) | {"shortcomings": ["3 of 4 measurements are missing"]}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    assert report.main([str(file)]) == 1
    assert "stays as it is: 3 of 4 measurements are missing" in capsys.readouterr().err
    assert (docs / "performance.md").read_text(encoding="utf-8") == PAGE
    assert report.main([str(file), "--docs", str(tmp_path / "elsewhere")]) == 0
    shutil.rmtree(tmp_path / "elsewhere")


def test_a_run_without_the_figures_of_a_plot_has_no_plot(tmp_path):
    assert plots.draw([], tmp_path) == []
