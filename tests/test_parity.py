"""`crossent parity`: what it compares, what it calls different, what is a mistake of the user, its page."""

import json

import pytest
from tests.pages import read
from tests.parity_runs import SUBJECTS, TWO, fails, parity_of

from crossent import cli
from crossent_conformance import backends, files
from crossent_conformance.arguments import UsageError
from crossent_conformance.parity import answers, command
from crossent_conformance.parity.cases import CASES


def test_crossent_agrees_with_itself(capsys):
    assert parity_of(None, backends=("--backend", "numpy", "torch", "array-api-strict")) == 0
    printed = capsys.readouterr().out
    for name in CASES:
        assert f"\n{name} " in printed
    assert "errors: " in printed
    assert "the same type and text" in printed
    assert "crossent: parity holds." in printed


@pytest.mark.parametrize(
    ("name", "case", "words"),
    [
        ("far", "plain", "plain float32 loss: numpy and array-api-strict differ"),
        ("over", "plain", "plain float32 loss: numpy and array-api-strict differ by"),
        ("nan_elsewhere", "special", "numpy and array-api-strict are not the same"),
        ("raising", "plain-V2", "not the same: numpy: values; array-api-strict: ZeroDivisionError: two classes"),
        ("raising_apart", "plain-V2", "not the same: numpy: ValueError: two; array-api-strict: ZeroDivisionError: two"),
        ("other_shape", "plain", "shapes (8,) and (8, 1)"),
        ("other_dtype", "plain", "plain float32 loss: numpy and array-api-strict are not the same: dtypes float64 and"),
        ("of_python", "sum", "WrongTypeError: builtins.float came back, not an array of array-api-strict"),
        ("other_text", "errors", "errors reduction-word: numpy: ValueError: "),
        ("other_text", "errors", "; array-api-strict: ValueError: strictly: "),
        ("accepting", "errors", "; array-api-strict: accepted"),
    ],
)
def test_what_differs_fails(capsys, name, case, words):
    printed = fails(capsys, parity_of(name, "--case", case), words)
    if name == "far":
        line = next(line for line in printed.splitlines() if "plain float32 loss" in line)
        first, second = (float(word) for word in line.rpartition("allowed: ")[2].partition(",")[0].split(" and "))
        assert second / first == pytest.approx(1 + 2.0**-10)
        assert "d_logits" not in printed.partition("What fails:")[2].replace(line, "").partition("Largest")[0]


def test_a_difference_within_what_is_allowed_is_told_in_eps(capsys, tmp_path):
    path = tmp_path / "near.json"
    assert parity_of("near", "--case", "plain", "--dtype", "float32", "--json", path) == 0
    [case] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert case["largest"]["loss"]["eps"] == pytest.approx(4, abs=0.6)
    assert case["largest"]["loss"]["fraction"] == pytest.approx(0.5, abs=0.1)
    assert case["largest"]["loss"]["between"] == ["numpy", "array-api-strict"]
    assert case["largest"]["d_logits"]["eps"] == 0
    assert "loss, numpy and array-api-strict." in capsys.readouterr().out


def test_results_are_kept_whatever_happens_to_the_array():
    assert parity_of("reusing", "--case", "plain", "explicit") == 0


def test_the_same_error_everywhere_is_parity(capsys):
    assert parity_of("raising_everywhere", "--case", "plain", "plain-V2") == 0
    assert "plain-V2  raises" in capsys.readouterr().out


def test_what_a_subject_lacks_is_not_compared(capsys):
    assert parity_of("loss_alone", "--case", "plain", "z-loss", "--dtype", "float64") == 0
    assert "z-loss  no\n" in capsys.readouterr().out
    with pytest.raises(UsageError, match="nothing could be compared"):
        parity_of("loss_alone", "--case", "z-loss")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "tensorflow"), "unknown backend 'tensorflow'; accepted: numpy, torch"),
        (
            ("--backend", "numpy"),
            "numpy alone has nothing to be compared with; accepted: two backends, --baseline, or --json to record",
        ),
        ((*TWO, "--slack", "3"), "--slack 3 without --baseline; accepted: both, or neither"),
        ((*TWO, "--case", "plane"), "no case is called 'plane'; accepted: plain, plain-V1"),
        (
            (*TWO, "--dtype", "float8"),
            "unknown dtype 'float8'; near it are float64, float32, float16; accepted: float64",
        ),
        ((*TWO, "--dtype", "float16"), "float16 cannot be compared: of the backends, numpy has it; accepted: float64"),
        ((*TWO, "--dtype", "bfloat16"), "bfloat16 cannot be compared: of the backends, none has it"),
        ((*TWO, "--json", "no/such/file.json"), "cannot write no/such/file.json: there is no directory no/such"),
        ((*TWO, "--html", "."), "cannot write .: it is a directory"),
        ((*TWO, "--json", "/proc/x.json"), "cannot write /proc/x.json: "),
        ((*TWO, "--html", "/proc/x.html"), "cannot write /proc/x.html: "),
        ((*TWO, "--subject", "nowhere:loss"), "there is no module 'nowhere'"),
        ((*TWO, "--baseline", "missing.json"), "cannot read missing.json: No such file or directory"),
        (("--results", "missing.json"), "cannot read missing.json: No such file or directory"),
        (("--results", "missing.json", "--seed", "1"), "--results has a subject, a seed and engines of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        parity_of(None, *arguments, backends=())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_after_all_is_told_at_the_end(capsys, monkeypatch, tmp_path):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(
        UsageError, match=r"^cannot write .*a\.json: No space left on device; cannot write .*b\.html: No"
    ):
        parity_of("same", "--case", "plain", "--json", tmp_path / "a.json", "--html", tmp_path / "b.html")
    assert "parity holds" in capsys.readouterr().out


def test_a_backend_that_cannot_be_asked_says_why(capsys, monkeypatch):
    with pytest.raises(UsageError, match=r"backend array-api-strict: .* does not take its arrays: Attr"):
        parity_of("numpy_alone", "--case", "plain")
    load, here = backends.load, ("numpy", "array-api-strict")
    monkeypatch.setattr(command, "load", lambda name: load(name) if name in here else f"not installed: {name}")
    with pytest.raises(UsageError, match="backend jax: not installed: jax"):
        parity_of("same", backends=("--backend", "numpy", "jax"))
    assert parity_of("same", "--case", "plain", backends=()) == 0
    assert "torch: not covered: not installed: torch" in capsys.readouterr().out


def test_through_the_command_line(capsys, monkeypatch, tmp_path):
    assert cli.main(["parity", *TWO, "--case", "plain"]) == 0
    assert cli.main(["parity", "--subject", f"{SUBJECTS}:far", *TWO, "--case", "plain"]) == 1
    capsys.readouterr()
    assert cli.main(["parity", "--backend", "numpy"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("crossent: numpy alone")
    assert captured.err.count("\n") == 1

    def interrupted(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(answers, "ask_all", interrupted)
    assert cli.main(["parity", *TWO, "--json", str(tmp_path / "new.json")]) == 130
    assert not list(tmp_path.iterdir())


def test_the_page_stands_alone(tmp_path):
    baseline, path = tmp_path / "baseline.json", tmp_path / "page.html"
    assert parity_of("same", "--case", "plain", "z-loss", "--json", baseline) == 0
    assert parity_of("far", "--case", "plain", "z-loss", "--baseline", baseline, "--html", path) == 1
    page = read(path.read_text(encoding="utf-8"))
    for words in ("plain float32 loss: numpy and array-api-strict differ", "✕ fails", "To the baseline of"):
        assert words in page.text


def test_the_page_escapes_what_a_subject_says(tmp_path):
    path, name = tmp_path / "page.html", tmp_path / "<b>.py"
    name.write_text(SUBJECTS.read_text(encoding="utf-8").replace("two classes", "<i>two</i>"), encoding="utf-8")
    arguments = ("--subject", f"{name}:raising", *TWO, "--case", "plain-V2", "--html", path)
    assert parity_of(None, *arguments, backends=()) == 1
    page = path.read_text(encoding="utf-8")
    assert "&lt;i&gt;two&lt;/i&gt;" in page
    assert "<i>" not in page
    assert "<b>.py" not in page
