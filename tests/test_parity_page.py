"""The page of `crossent parity`: it stands alone, and escapes whatever a subject says."""

from tests.pages import read
from tests.parity_runs import SUBJECTS, TWO, parity_of


def test_the_page_stands_alone(tmp_path):
    baseline, path = tmp_path / "baseline.json", tmp_path / "page.html"
    assert parity_of("same", "--case", "plain", "z-loss", "--json", baseline) == 0
    assert parity_of("far", "--case", "plain", "z-loss", "--baseline", baseline, "--html", path) == 1
    page = read(path.read_text(encoding="utf-8"))
    assert "plain float32 loss: numpy and array-api-strict differ" in page.text
    assert "✕ fails" in page.text
    assert "To the baseline of" in page.text


def test_the_page_escapes_what_a_subject_says(tmp_path):
    path = tmp_path / "page.html"
    name = tmp_path / "<b>.py"
    name.write_text(SUBJECTS.read_text(encoding="utf-8").replace("two classes", "<i>two</i>"), encoding="utf-8")
    arguments = ("--subject", f"{name}:raising", *TWO, "--case", "plain-V2", "--html", path)
    assert parity_of(None, *arguments, backends=()) == 1
    page = path.read_text(encoding="utf-8")
    assert "&lt;i&gt;two&lt;/i&gt;" in page
    assert "<i>" not in page
    assert "<b>.py" not in page
