"""`crossent parity --baseline`: what the JSON keeps, what is a regression, what is no baseline."""

import json

import numpy as np
import pytest
from tests.parity_runs import TWO, edited, fails, parity_of

from crossent_conformance import units
from crossent_conformance.arguments import UsageError
from crossent_conformance.parity import answers, command, file
from crossent_conformance.parity.cases import CASES, Case


@pytest.fixture
def baseline(tmp_path, capsys):
    """A run of crossent on NumPy and array-api-strict."""
    path = tmp_path / "baseline.json"
    assert parity_of("same", "--case", "plain", "z-loss", "errors", "--json", path) == 0
    capsys.readouterr()
    return path


def test_the_json_holds_the_results_bit_for_bit(baseline):
    results = file.read(baseline)
    assert [(asked.case, asked.dtype) for asked in results.asked] == [
        (case, dtype) for case in ("plain", "z-loss") for dtype in ("float64", "float32")
    ]
    for asked in results.asked:
        problem = CASES[asked.case].problem(asked.dtype, 0)
        assert asked.inputs == problem.fingerprint
        for answer in asked.answers.values():
            loss, d_logits = answer["loss"], answer["d_logits"]
            assert (loss.dtype, str(loss.values.dtype)) == (asked.dtype, asked.dtype)
            assert loss.values.shape == problem.targets.shape
            fractions = units.errors(d_logits.values, problem.exact["d_logits"], asked.dtype)
            assert fractions.max() <= 1
            assert d_logits.values.any()


def test_infinities_nan_and_half_precision_survive_the_file(tmp_path):
    values = np.array([[1.5, -0.0, np.inf], [-np.inf, np.nan, 2.0**-133]], dtype=np.float32)
    for dtype, array in (("bfloat16", values), ("float16", values.astype(np.float16)), ("float32", values[:0])):
        given = answers.Array(dtype, array)
        back = file._decoded(json.loads(json.dumps(file._array(given))))
        assert back.dtype == dtype
        assert back.values.shape == array.shape
        assert back.values.tobytes() == array.tobytes()


@pytest.mark.parametrize("asked", [TWO, ("--backend", "numpy")], ids=["two", "one"])
def test_the_same_results_again_hold(capsys, baseline, asked):
    assert parity_of("same", "--baseline", baseline, "--case", "plain", "z-loss", "errors", backends=asked) == 0
    printed = capsys.readouterr().out
    assert f"Largest difference to the baseline of {json.loads(baseline.read_text())['created']}" in printed
    assert ("not asked now: array-api-strict" in printed) == (len(asked) == 2)


def test_one_backend_alone_is_recorded_for_later(capsys, tmp_path):
    path, page, picked = tmp_path / "numpy.json", tmp_path / "numpy.html", ("--case", "plain", "z-loss", "errors")
    one, other = ("--backend", "numpy"), ("--backend", "array-api-strict")
    assert parity_of("same", *picked, "--json", path, "--html", page, backends=one) == 0
    printed = capsys.readouterr().out
    assert "nothing was compared; the answers of numpy are for a later --baseline" in printed
    assert "holds" not in printed
    assert "refused calls, compared with nothing" in printed
    assert "parity holds" not in page.read_text(encoding="utf-8")
    assert "nothing was compared; the answers of numpy" in page.read_text(encoding="utf-8")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["holds"] is None
    assert [case["dtype"] for case in document["cases"]] == ["float64", "float32", "float16"] * 2
    assert parity_of("same", *picked, "--baseline", path, backends=other) == 0
    assert "parity holds" in capsys.readouterr().out
    fails(capsys, parity_of("far", *picked, "--baseline", path, backends=other), "and numpy of the baseline differ by")
    with pytest.raises(UsageError, match="numpy alone has nothing to be compared with"):
        parity_of("same", *picked, "--html", page, backends=one)
    with pytest.raises(UsageError, match="nothing could be compared"):
        parity_of("loss_alone", "--case", "z-loss", "--json", path, backends=one)


def test_the_conclusion_names_every_pair_that_is_as_far_apart(capsys, baseline):
    picked = ("--baseline", baseline, "--case", "plain", "--dtype", "float32")
    printed = fails(capsys, parity_of("far", *picked))
    assert (
        "loss, numpy and array-api-strict; array-api-strict and numpy of the baseline; "
        "array-api-strict and array-api-strict of the baseline."
    ) in printed
    only = ("--backend", "array-api-strict")
    printed = fails(capsys, parity_of("far", *picked, backends=only))
    assert "loss, array-api-strict and numpy of the baseline; array-api-strict and array-api" in printed


GONE = "any more: the subject lacks z_loss"


@pytest.mark.parametrize(
    ("name", "failing", "words", "holding"),
    [
        ("far", "--case plain --backend array-api-strict", "plain float32 loss: array-api-strict and numpy of the", ""),
        ("near", "--case plain --dtype float32", "array-api-strict differ by 4", "--slack 5"),
        ("near", "--case plain --dtype float32", "eps, in the baseline by 0: ", ""),
        ("lacking", "--case plain z-loss", f"z-loss float32: numpy has no loss and no d_logits {GONE}", "--case plain"),
        ("float64_alone", "--case plain", "plain float32: numpy has no loss and no d_logits any", "--dtype float64"),
    ],
)
def test_a_regression_fails_unless_something_else_is_picked(capsys, baseline, name, failing, words, holding):
    backend = () if "--backend" in failing else TWO
    picked = ("--baseline", baseline, *failing.split())
    fails(capsys, parity_of(name, *picked, backends=backend), words)
    if holding.startswith("--case"):
        picked = picked[:2]
    if holding:
        assert parity_of(name, *picked, *holding.split()) == 0


def test_a_case_that_the_suite_has_no_more_fails_unless_others_are_picked(capsys, monkeypatch, baseline):
    names = tuple(name for name in answers.NAMES if name in ("plain", "errors"))
    monkeypatch.setattr(answers, "NAMES", names)
    fails(capsys, parity_of("same", "--baseline", baseline), "z-loss float64: numpy has no loss", "it was not asked")
    assert parity_of("same", "--baseline", baseline, "--case", "plain") == 0


def test_a_backend_that_is_not_asked_is_not_missed(capsys, baseline):
    def only_strict(data):
        for case in data["cases"]:
            del case["answers"]["numpy"]

    edited(baseline, only_strict)
    assert parity_of("same", "--baseline", baseline, "--case", "plain", backends=("--backend", "numpy")) == 0


def test_a_dtype_of_one_backend_is_compared_with_the_baseline(capsys, tmp_path):
    path = tmp_path / "torch.json"
    one = ("--backend", "torch")
    with pytest.raises(UsageError, match="torch alone has nothing to be compared with"):
        parity_of("same", backends=one)
    assert parity_of("same", "--case", "plain", "--json", path, backends=("--backend", "torch", "numpy")) == 0
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert [case["dtype"] for case in cases] == ["float64", "float32", "float16"]
    edited(path, lambda data: data["cases"].append({**data["cases"][0], "dtype": "bfloat16", "answers": {}}))
    capsys.readouterr()
    words = "plain bfloat16: cannot be compared: the baseline had other inputs"
    fails(capsys, parity_of("same", "--case", "plain", "--baseline", path, backends=one), words)


def test_other_inputs_under_the_same_name_are_incomparable(capsys, monkeypatch, baseline):
    def other(draw):
        logits, targets, options = CASES["z-loss"].make(draw)
        return 2 * logits, targets, options

    changed = Case("plain", "ten other classes", other)
    monkeypatch.setitem(CASES, "plain", changed)
    code = parity_of("same", "--baseline", baseline, "--case", "plain")
    fails(capsys, code, "plain float32: cannot be compared: the baseline had other inputs")


def test_an_error_that_changed_fails(capsys, baseline):
    def change(data):
        for refusal in data["errors"]["logits-list"].values():
            refusal[1] = "logits must not be a list"
        data["errors"]["invented"] = {"numpy": ["TypeError", "never"]}

    edited(baseline, change)
    code = parity_of("same", "--baseline", baseline, "--case", "errors")
    words = "numpy of the baseline, array-api-strict of the baseline: TypeError: logits must not be a list"
    printed = fails(capsys, code, words, "errors invented: refused in the baseline, not any more")
    assert "2 differ" in printed
    assert parity_of("same", "--baseline", baseline, "--case", "plain") == 0


def test_results_of_a_file_are_compared_without_asking(capsys, monkeypatch, tmp_path, baseline):
    path = tmp_path / "far.json"
    assert parity_of("far", "--case", "plain", "--json", path) == 1
    monkeypatch.setattr(command, "load", pytest.fail)
    capsys.readouterr()
    picked = ("--case", "plain", "--baseline", baseline)
    code = parity_of(None, "--results", path, *picked, backends=())
    fails(capsys, code, "array-api-strict and numpy of the baseline differ", "numpy and array-api-strict differ")
    assert parity_of(None, "--results", path, *picked, backends=("--backend", "numpy")) == 0
    assert parity_of(None, "--results", baseline, "--baseline", baseline, backends=()) == 0


def test_a_dtype_that_no_other_backend_had_is_not_missed_in_results_of_a_file(capsys, tmp_path):
    both, fewer = tmp_path / "both.json", tmp_path / "fewer.json"
    assert parity_of("same", "--case", "plain", "--json", both, backends=("--backend", "numpy", "torch")) == 0
    assert parity_of("same", "--case", "plain", "--json", fewer) == 0
    capsys.readouterr()
    assert parity_of(None, "--results", fewer, "--baseline", both, backends=()) == 0
    assert "Note: in the baseline, not asked now: torch, float16.\n" in capsys.readouterr().out
    edited(fewer, lambda data: data["backends"]["numpy"].update(dtypes=["float64", "float32"]))
    code = parity_of(None, "--results", fewer, "--baseline", both, backends=())
    fails(capsys, code, "plain float16: numpy has no loss and no d_logits any more: it was not asked")


def test_results_of_other_inputs_fail(capsys, baseline):
    edited(baseline, lambda data: data["cases"][0].update(inputs="0" * 32))
    words = "plain float64: cannot be compared: this version of the suite has other inputs"
    fails(capsys, parity_of(None, "--results", baseline, backends=()), words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON: "),
        ("[" * 100_000, "is not JSON: "),
        ("[1, 2]", "its format is None; accepted: 'crossent-parity/1'"),
        ('{"format": "crossent-parity/2"}', "its format is 'crossent-parity/2'; accepted: 'crossent-parity/1'"),
        ('{"format": "crossent-conformance/1"}', "its format is 'crossent-conformance/1'; accepted: "),
        ('{"format": "crossent-parity/1"}', "is damaged: KeyError: "),
        (b"\xff\xfe\x00", "is not text"),
    ],
    ids=["empty", "deep", "list", "version", "other", "hollow", "binary"],
)
def test_a_file_of_something_else_is_one_line(tmp_path, text, message):
    path = tmp_path / "baseline.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        parity_of("same", "--baseline", path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda case: case["answers"]["numpy"]["loss"].update(bytes="AAAA"),
        lambda case: case["answers"]["numpy"]["loss"].update(bytes="?"),
        lambda case: case["answers"]["numpy"]["loss"].update(shape=[2]),
        lambda case: case["answers"]["numpy"]["loss"].update(shape=[2**40]),
        lambda case: case["answers"]["numpy"]["loss"].update(shape=[2**80]),
        lambda case: case["answers"]["numpy"]["loss"].update(shape=[9]),
        lambda case: case["answers"]["numpy"]["loss"].update(shape=[-1]),
        lambda case: case["answers"]["numpy"]["loss"].update(dtype="object"),
        lambda case: case["answers"].update(numpy=[1]),
        lambda case: case.update(dtype="float8"),
        lambda case: case.update(case=["plain"]),
        lambda case: case.update(inputs=None),
        lambda case: case.update(answers=None),
    ],
)
def test_a_damaged_file_is_one_line(baseline, damage):
    edited(baseline, lambda data: damage(data["cases"][0]))
    with pytest.raises(UsageError, match="is damaged: ") as caught:
        parity_of("same", "--baseline", baseline)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.update(backends={}),
        lambda data: data.update(seed=-1),
        lambda data: data["backends"]["numpy"].update(dtypes=1),
        lambda data: data["backends"]["numpy"].update(dtypes=[1]),
        lambda data: data["backends"]["numpy"].update(notes=[None]),
        lambda data: data["backends"]["numpy"].update(version=None),
        lambda data: data["errors"]["logits-list"].update(numpy=[]),
        lambda data: data["errors"]["logits-list"].update(numpy=[1, "text"]),
    ],
)
def test_what_is_said_of_backends_and_errors_is_read_with_care(baseline, damage):
    edited(baseline, damage)
    with pytest.raises(UsageError, match="is damaged: "):
        parity_of("same", "--baseline", baseline)


def test_no_text_of_a_file_steers_the_terminal_or_stands_in_a_page(capsys, tmp_path, baseline):
    hostile, page = "\x1b[31m\ud800<b>", tmp_path / "page.html"

    def rename(data):
        for name, backend in list(data["backends"].items()):
            backend.update(version=f"1{hostile}", notes=[hostile])
            data["backends"][name + hostile] = backend
        data["subject"].update(name=hostile, version=hostile)
        data.update(created=hostile, command=hostile, not_covered={hostile: hostile})
        data["errors"] = {name + hostile: {"numpy": [hostile, hostile]} for name in data["errors"]}
        data["cases"][0]["answers"]["numpy"] = {"raises": [hostile, hostile]}
        data["cases"][1]["case"] += hostile

    results = tmp_path / "results.json"
    results.write_bytes(baseline.read_bytes())
    edited(baseline, rename)
    for files in (("--results", results, "--baseline", baseline), ("--results", baseline, "--baseline", results)):
        assert parity_of(None, *files, "--html", page, backends=()) == 1
        printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
        assert r"\x1b[31m\ud800<b>" in printed
        assert r"\x1b[31m\ud800&lt;b&gt;" in written
        assert "\x1b" not in printed + written
        assert "\ud800" not in printed


def test_the_baselines_seed_is_taken_and_no_other(capsys, tmp_path):
    path, again = tmp_path / "seven.json", tmp_path / "again.json"
    assert parity_of("same", "--case", "plain", "--seed", "7", "--json", path) == 0
    assert parity_of("same", "--case", "plain", "--baseline", path, "--json", again) == 0
    assert json.loads(again.read_text(encoding="utf-8"))["seed"] == 7
    with pytest.raises(UsageError, match="the baseline has seed 7, not 0"):
        parity_of("same", "--case", "plain", "--baseline", path, "--seed", "0")
