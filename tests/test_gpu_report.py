"""The page of a run on a GPU, from a FABRICATED record: what it says, that it stays the same, what it refuses."""

import json
import shutil
from xml.etree import ElementTree

import pytest
from benchmarks import gpu_plots, gpu_report, report
from tests import sample_gpu

PAGE = f"words\n\n{gpu_report.BEGIN}\n\nnothing yet\n\n{report.END}\n\nmore words\n"
NAME = "2000-01-01-fabricated-gpu"


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """A folder of its own in place of docs/."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "performance.md").write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(report, "DOCS", folder)
    return folder


def written(tmp_path, record, *arguments):
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(record), encoding="utf-8")
    return gpu_report.main([str(file), *arguments])


def test_the_page_has_machine_verdicts_tables_and_pictures(docs, tmp_path):
    assert written(tmp_path, sample_gpu.record()) == 0
    page = (docs / "evidence" / f"{NAME}.md").read_text(encoding="utf-8")
    for line in (
        "# FABRICATED GPU, 2000-01-01",
        "| driver | 0.0 |",
        "| conformance-cupy | failed (1) | 1 | 3 tests, 1 failures, 0 errors, 0 skipped |",
        "| conformance-cupy | `a::b` | FABRICATED |",
        "| accuracy | passed | Is it? | FABRICATED \\| 0.5 |",
        "| torch_compile | not here | Does it? | FABRICATED |",
        "| memcheck, cupy | passed | FABRICATED |",
        "| torch-cuda | float32 | forward and gradient, in place | 93% at V=4096; 90% reached |",
        "checks-cupy: python3 -m x",
        "torch-cuda | bfloat16 | 4096 | 131072 | forward | crossent array_api | FABRICATED: out of memory",
    ):
        assert line in page.splitlines(), line
    # 4096 classes and a lost figure; 1 GiB of logits at 95 % of a copy at 4000 GB/s less its start.
    assert "| forward | crossent array_api | – | 394 (10%) |" in page
    assert "| forward and gradient | crossent cuda, out=, unchecked | 3742 (95%) |" in page
    assert "| 16 bits | forward | crossent cuda, unchecked | 1.010 |" in page
    assert json.loads((docs / "evidence" / f"{NAME}.json").read_text(encoding="utf-8"))["commit"] == "fabricated"
    for ending in ("size", "vocabulary"):
        assert f"../images/{NAME}-{ending}.svg" in page


def test_the_page_of_all_speeds_shows_it_between_its_marks(docs, tmp_path):
    assert written(tmp_path, sample_gpu.record()) == 0
    page = (docs / "performance.md").read_text(encoding="utf-8")
    assert page.startswith("words\n")
    assert page.endswith("more words\n")
    assert "nothing yet" not in page
    assert f"](evidence/{NAME}.md)" in page
    assert f"](images/{NAME}-size.svg)" in page


def test_the_same_record_gives_the_same_bytes(docs, tmp_path):
    assert written(tmp_path, sample_gpu.record()) == 0
    before = {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()}
    assert len(before) == 5
    assert written(tmp_path, sample_gpu.record()) == 0
    assert {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()} == before


def test_pictures_have_a_line_for_every_contender_and_the_copy(tmp_path):
    figures = [one for backend in ("torch-cuda", "cupy") for one in sample_gpu.figures(backend)]
    for path, words in gpu_plots.draw(figures, tmp_path, "x"):
        drawn = "".join(ElementTree.parse(path).getroot().itertext())
        names = [
            "copy of the logits, torch-cuda",
            "crossent cuda, torch-cuda",
            "crossent cuda, cupy",
            "F.cross_entropy, torch-cuda",
        ]
        if path.name == "x-vocabulary.svg":
            names += ["crossent array_api, cupy", "F.cross_entropy, torch.compile, torch-cuda"]
        for name in (*names, "forward, 16 bits", "forward and gradient, 32 bits", words):
            assert name in drawn, name
    assert {path.name for path in tmp_path.iterdir()} == {"x-size.svg", "x-vocabulary.svg"}


def test_a_goal_missed_or_not_measured_is_said():
    figures = sample_gpu.figures("cupy")
    forward = [one for one in figures if one["contender"] == "crossent cuda, unchecked" and one["dtype"] == "float32"]
    forward[2]["share_of_copy"] = 0.7
    rows = {row[1:3]: row[3] for row in gpu_report.goals(figures)}
    assert rows["float32", "forward"] == f"70% at V={forward[2]['V']}; 90% missed"
    assert rows["float16", "forward"].endswith("90% reached")
    del forward[1]["share_of_copy"]
    rows = {row[1:3]: row[3] for row in gpu_report.goals(figures)}
    assert rows["float32", "forward"] == f"not measured at V={forward[1]['V']}"


@pytest.mark.parametrize("change", [{"dry_run_on_cpu": True}, {"gpus": []}])
def test_what_says_nothing_of_a_gpu_does_not_reach_the_docs(docs, tmp_path, change, capsys):
    record = sample_gpu.record() | change
    assert written(tmp_path, record) == 1
    assert "is of no GPU" in capsys.readouterr().err
    assert [path.name for path in docs.rglob("*")] == ["performance.md"]
    assert written(tmp_path, record, "--docs", str(tmp_path / "elsewhere")) == 0
    (page,) = (tmp_path / "elsewhere" / "evidence").glob("*.md")
    assert ("A dry run on a CPU" in page.read_text(encoding="utf-8")) is bool(record["dry_run_on_cpu"])
    shutil.rmtree(tmp_path / "elsewhere")


def test_the_real_page_has_the_marks():
    page = (report.DOCS / report.PAGE).read_text(encoding="utf-8")
    assert "new" in report.replaced(page, "new", gpu_report.BEGIN)
    assert report.replaced(page, "new").count(gpu_report.BEGIN) == 1
