"""`crossent conform`: the matrix, the exit codes, the files; what hangs, crashes or is stopped loses nothing else."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from tests import sample_results as sample

from crossent import cli
from crossent_conformance import (
    arguments,
    backends,
    confined,
    contract,
    depth,
    files,
    junit,
    known,
    page,
    table,
    terminal,
)
from crossent_conformance.evidence import HungError
from crossent_conformance.results import Results
from crossent_conformance.run import Run, Settings

SMALL = Path(__file__).parent / "subjects" / "small.py"
ASKED = {
    "ending_badly": "test_V1_vocabulary_sizes test_V1_confident_targets",
    "crashing_in_a_library": "test_V1_vocabulary_sizes",
    "crashing_at_once": "test_V2_never_negative",
    "sleeping": "test_R5_a_row_depends_on_itself_alone",
    "sleeping_with_z_loss": "test_V9_z_loss_of_one_class",
    "of_contiguous_rows": "test_A2_*",
    "of_contiguous_rows_of_float32": "test_A2_every_layout* test_A2_numpy_layouts",
    "of_another_name": "test_A5_same_type_and_text_on_every_backend",
    "losses": "test_V10_explicit_softmax_clip_log test_V11_perplexity test_R1_shapes",
    "Renamed": "test_V1_confident_targets test_V2_never_negative",
    "of_classes_alone": "test_V7_* test_R[123]_* test_S[14]_*",
    "taking_anything": "test_V7_* test_R1_*",
    "crashing_on_soft_targets": "test_V7_soft_targets test_V2_never_negative",
    "leaking": "test_S1_ignored_tokens_* test_S1_anything_in_ignored_rows",
    "spreading": "test_S4_mixed_infinities_and_nan test_R5_other_rows_do_not_matter",
    "refusing_to_smooth": "test_V8_*",
    "refusing": "test_V2_never_negative",
    "wrapping": "test_A4_the_first_offending_target_is_named",
    "refusing_many_classes": "test_V2_never_negative test_V1_vocabulary_sizes",
    "textbook": "test_V1_confident_targets test_R1_shapes",
    "raising_in_many_ways": "test_V1_vocabulary_sizes",
    "of_python": "test_R1_shapes",
}
"""What the run that most tests look at asks of the subjects of small.py, by patterns of tests."""
LIMIT = 10.0


class Trial(Run):
    """A run that asks each subject its own tests."""

    def _asked(self, subject):
        wanted = ASKED[subject.result.spec.rpartition(":")[2]].split()
        return [case for case in super()._asked(subject) if any(fnmatch(case["function"], each) for each in wanted)]


def run(*names, kind=Run, **settings):
    """A run over subjects of small.py, on NumPy."""
    return kind(
        [f"{SMALL}:{name}" for name in names], Settings(**{"backends": ("numpy",), "workers": 1, **settings})
    ).execute()


@pytest.fixture(scope="module")
def told():
    """What the run has found, by subject."""
    results = run(*ASKED, kind=Trial, time_limit=LIMIT, workers=2, curves=False)
    assert results.complete
    assert results.fails
    found = dict(zip(ASKED, results.subjects, strict=True))
    return lambda name: found[name]


@pytest.fixture(scope="module")
def reports():
    """A run of few cases, and what is printed and written of it."""
    results = run("crashing_in_a_library", "textbook", cases=("test_V1_vocabulary_sizes", "test_R1_shapes"))
    return results, table.text(results), page.of_results(results.to_json()), junit.document(results).decode()


def outcomes(result):
    return {case.id.partition("::")[2]: case for case in result.cases}


def failures(result, *tests, dtype="float32"):
    """The failing cases of these tests in that dtype, which are some."""
    kept = [
        case.failure
        for case in result.cases
        if case.outcome == "fails" and case.dtype == dtype and any(f"::{test}" in case.id for test in tests or ("",))
    ]
    assert kept
    return kept


def test_every_clause_has_a_text_and_a_group():
    clauses = contract.clauses()
    assert list(clauses)[:2] == ["V1", "V2"]
    assert len(clauses) == 12 + 6 + 6 + 15 + 2 + 6 + 4 + 4
    assert all(len(text) > 20 and clause[0] in contract.GROUPS for clause, text in clauses.items())
    assert "60-digit oracle" in clauses["V1"]
    assert clauses["V8"].count("\n- ") == 4


def test_output_is_plain_where_there_is_no_terminal(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    long = "[red]:smile: 1.5 " + "x" * 500
    rows = terminal.columns(["", "float32"], [["V1", "FAILS 3/14 (2.00)"], ["V2", "holds 4"]], indent=2)
    plain = [long, "        float32", "  V1    FAILS 3/14 (2.00)", "  V2    holds 4"]
    assert terminal.text(long, rows).splitlines() == plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in terminal.text(rows)
    monkeypatch.delenv("NO_COLOR")
    assert "31mFAILS 3/14" in terminal.text(rows)


def test_no_text_steers_the_terminal(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    rows = terminal.columns(["", "\x1b[2J"], [["V1\x07", "holds\x9b2J"]])
    assert terminal.text("\x1b[31m\u202ered \ud800\r", rows).splitlines() == [
        r"\x1b[31m\u202ered \ud800\r",
        r"        \x1b[2J",
        r"V1\x07  holds\x9b2J",
    ]

    @arguments.told
    def mistaken(given):
        raise arguments.UsageError("\x1b[31m \ud800")

    assert mistaken(None) == 2
    assert capsys.readouterr().err == "crossent: \\x1b[31m \\ud800\n"


def test_reports_of_hostile_texts_are_valid_and_plain():
    results = Results("crossent conform", "2026-11-24T01:02:03+00:00", seed=0, thorough=False)
    results.subjects = [sample.bad()]
    results.subjects[0].cases[0].id += sample.HOSTILE
    for case in results.subjects[0].cases:
        case.message = sample.HOSTILE
        if case.failure is not None:
            case.failure = replace(case.failure, says=sample.HOSTILE)  # the sample's own serves other tests
    printed, xml = table.text(results), junit.document(results)
    shown = r"\x1b[31mred\x1b[0m \ud800"
    assert shown in printed
    assert "\x1b" not in printed
    [suite] = ElementTree.fromstring(xml)
    assert suite.get("name").endswith(f"{shown} on torch")
    assert suite[0].get("name").endswith(shown)
    told = [*suite.iterfind("testcase/failure"), *suite.iterfind("testcase/skipped")]
    assert told
    assert all(shown in element.get("message") for element in told)
    assert json.loads(results.as_text())["subjects"][0]["name"] == f"package.{sample.HOSTILE}"


@pytest.mark.extended
def test_hangs_and_crashes_fail_their_case_alone(told):
    cases = outcomes(told("ending_badly"))
    assert cases["test_V1_confident_targets[numpy-float64-eager]"].outcome == "holds"
    assert cases["test_V1_vocabulary_sizes[numpy-float32-eager-300]"].outcome in ("holds", "fails")
    sizes = {V: [c for name, c in cases.items() if f"-{V}]" in name and "sizes" in name] for V in (2, 17, 300)}
    kinds = {V: [case.kind for case in of] for V, of in sizes.items()}
    assert set(kinds[2]) <= {"raises", "not tried"}
    assert all("two classes" in case.message for case in sizes[2] if case.kind == "raises")
    # After two crashes, the other cases of a test are not tried.
    assert sum(kind == "crashes" for of in kinds.values() for kind in of) == 2
    assert all("signal 6" in case.message for case in sizes[17] if case.kind == "crashes")


@pytest.mark.extended
def test_a_crash_shows_where_and_with_what(told):
    crashed = [case for case in told("crashing_in_a_library").cases if case.kind == "crashes"]
    assert crashed
    for case in crashed:
        lines = case.message.splitlines()
        assert lines[:2] == ["the process ended with signal 6", "Fatal Python error: Aborted"]
        assert ", in deeper" in lines[2]
        assert f'File "{SMALL}"' in lines[-1]
        assert lines[-1].endswith("in crashing_in_a_library")
        assert len(lines) <= 9
        assert not [line for line in lines if "pytest" in line or "multiprocessing" in line]
        given = case.failure.input
        assert given["function"] == "crashing_in_a_library"
        assert given["shape"][-1] == 17
        assert given["targets_shape"] == given["shape"][:-1]
        assert (given["dtype"], given["mode"]) == (case.dtype, case.mode)
        assert given["options"] == {"reduction": "none"}
        assert case.last_call.startswith(f"crashing_in_a_library(logits {tuple(given['shape'])} {case.dtype}, targets ")
    [note] = told("crashing_at_once").notes
    called = "crashing_at_once(logits (3, 5) float64, targets (3,) int64)"
    assert note.startswith(f"its first call: {called}: the process ended")
    assert "Fatal Python error: Aborted" in note
    assert f'File "{SMALL}"' in note
    assert "\n" not in note


@pytest.mark.extended
def test_every_report_tells_a_crash_with_its_last_call(reports):
    results, *texts = reports
    for report in texts:
        assert "Fatal Python error: Aborted" in report
        assert "in crashing_in_a_library" in report
    printed, html, xml = texts
    assert "the last call was of crashing_in_a_library" in printed
    assert "logits of shape (24, 17), float64, eager" in printed
    assert "The last call, of crashing_in_a_library" in html
    assert "The last call: crashing_in_a_library(logits (24, 17)" in xml
    cells = [cell for cell in results.subjects[0].cells() if (cell["clause"], cell["dtype"]) == ("V1", "float64")]
    assert [cell["failure"]["kind"] for cell in cells] == ["crashes"]


@pytest.mark.extended
def test_junit_tells_failures_and_what_does_not_apply(reports):
    results, _, _, xml = reports
    for suite, subject in zip(ElementTree.fromstring(xml), results.subjects, strict=True):
        cases = [case.outcome for case in subject.cases]
        assert int(suite.get("failures")) == cases.count("fails") == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped")) == cases.count("does not apply") == len(suite.findall("testcase/skipped"))
        assert cases.count("fails") * cases.count("does not apply") > 0


@pytest.mark.extended
def test_a_hang_is_named_with_the_limit_and_the_last_call(told):
    found = told("sleeping")
    hanging = [case for case in found.cases if case.kind == "hangs"]
    failing = [case for case in found.cases if case.outcome == "fails"]
    assert 1 <= len(hanging) <= 2  # in each of the two processes, before it is known of the other
    assert len(failing) > len(hanging)
    assert {case.kind for case in failing} == {"hangs", "not tried"}
    for case in hanging:
        assert case.message == f"no answer within {LIMIT:g} seconds"
        assert case.failure.input["function"] == "sleeping"
        assert case.failure.input["shape"] == [700, 1000]
        assert case.failure.input["logits"] is None
        assert case.last_call.endswith("targets (700,) int64, reduction='none')")
    assert any(case.outcome == "holds" for case in found.cases)


@pytest.mark.extended
@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_small_call_that_hangs_shows_its_values(told, backend):
    if isinstance(backends.load(backend), str):
        pytest.skip(f"{backend} is not here")
    name, case = "sleeping_with_z_loss", "test_V9_z_loss_of_one_class"
    [found] = (
        [told(name)] if backend == "numpy" else run(name, backends=("jax",), cases=(case,), time_limit=5.0).subjects
    )
    given = next(case.failure.input for case in found.cases if case.kind == "hangs")
    assert given["logits"] == [[0.0], [3.0], [-20.0]]
    assert given["targets"] == [0, 0, 0]
    assert given["options"] == {"reduction": "none", "z_loss": 0.0625}


@pytest.mark.extended
def test_the_layouts_of_rows_reach_what_takes_rows_alone(told):
    cases = outcomes(told("of_contiguous_rows"))
    failing = {name.partition("[")[0] for name, case in cases.items() if case.outcome == "fails"}
    assert {
        "test_A2_every_layout_gives_what_contiguous_arrays_give",
        "test_A2_numpy_layouts",
        "test_A2_any_slice_of_an_array",
    } <= failing


@pytest.mark.extended
def test_an_argument_is_named_by_its_own_name(told):
    cases = outcomes(told("of_another_name"))
    name = "test_A5_same_type_and_text_on_every_backend[numpy-float32-eager-{}]"
    assert cases[name.format("logits-list")].outcome == "holds"
    assert cases[name.format("targets-list")].outcome == "fails"


@pytest.mark.extended
def test_what_does_not_apply_never_holds(told):
    cells = {(cell["clause"], cell["dtype"]): cell for cell in told("losses").cells()}
    assert cells["V10", "float64"]["status"] == "does not apply"
    assert cells["V10", "float64"]["held"] == 0
    assert "algorithm='explicit'" in cells["V10", "float64"]["lacks"]
    assert "perplexity" in cells["V11", "float32"]["lacks"]
    assert "reduction='sum'" in cells["R1", "float32"]["lacks"]
    found = told("Renamed")
    assert {cell["dtype"]: cell["status"] for cell in found.cells() if cell["clause"] == "V1"} == {
        "float64": "holds",
        "float32": "does not apply",
        "float16": "does not apply",
    }
    assert {case.message for case in found.cases if case.dtype == "float16"} == {"logits of float16"}
    assert {case.message for case in told("refusing").cases if case.dtype == "float16"} == {
        "its first call: ValueError: never"
    }


@pytest.mark.extended
def test_more_memory_than_there_is_does_not_apply():
    [memory] = run("spendthrift", cases=("test_A7_*",), time_limit=600.0).subjects[0].cases
    assert memory.outcome == "does not apply"
    assert "more memory than here" in memory.message


@pytest.mark.extended
def test_a_wrong_answer_fails_where_a_refusal_does_not(told):
    found = told("of_classes_alone")
    status = {cell["clause"]: cell["status"] for cell in found.cells() if cell["dtype"] == "float32"}
    assert status == {"V7": "does not apply", **dict.fromkeys(("R1", "R2", "R3", "S1", "S4"), "holds")}
    assert not found.fails
    assert "does not take soft targets: TypeError: targets are classes" in found.notes
    assert {cell["status"] for cell in told("taking_anything").cells()} == {"fails"}
    # A backend that was asked for by name has to be taken.
    refused = [case for case in told("refusing").cases if case.outcome == "fails"]
    assert refused
    assert all("never" in case.message for case in refused)


@pytest.mark.extended
def test_a_crash_at_what_need_not_be_taken_leaves_the_rest(told):
    found = told("crashing_on_soft_targets")
    cases = outcomes(found)
    [note] = [note for note in found.notes if "soft targets was not found out: " in note]
    assert "crashing_on_soft_targets(logits (3, 5) float32, targets (3, 5) float32): the process ended" in note
    assert cases["test_V2_never_negative[numpy-float64-eager-plain]"].outcome == "holds"
    assert cases["test_V7_soft_targets[numpy-float32-eager]"].kind == "crashes"


@pytest.mark.extended
def test_of_two_calls_the_one_that_fails_is_shown(told):
    for failure in failures(told("leaking")):
        where = re.fullmatch(
            r"loss: .* of .* are not what the other call gave, at (\(.*\)): expected .*, given nan", failure.message
        )
        assert where
        assert np.isnan(failure.given)
        assert np.isfinite(failure.expected)
        if failure.input["logits"] is not None and where[1] != "()":
            row = np.array(failure.input["logits"])[ast.literal_eval(where[1])]
            assert not np.isfinite(row).all()
    mixed, *_ = failures(told("spreading"), "test_S4")
    assert mixed.message.startswith("loss: 27 of 27 are not what the other call gave, at (1,): expected ")
    for failure in failures(told("spreading"), "test_R5"):
        assert "rows beside others" in failure.message
        assert failure.input["shape"] == [60, 37]
    rows = told("of_contiguous_rows_of_float32")
    assert {failure.input["mode"] for failure in failures(rows, "test_A2_every_layout")} == {"strided"}
    for failure in failures(rows, "test_A2_numpy_layouts"):  # a call that the test makes by itself
        assert failure.input["shape"] == [60, 7]
        assert failure.input["function"] == "of_contiguous_rows_of_float32"


@pytest.mark.extended
def test_an_option_that_always_raises_fails_and_is_said_to_do_nothing(told):
    found = told("refusing_to_smooth")
    assert not [note for note in found.notes if "smooths" in note]
    assert {cell["status"] for cell in found.cells()} == {"fails"}
    assert {case.message.splitlines()[0] for case in found.cases if case.outcome == "fails"} == {
        "ArithmeticError: no smoothing today"
    }
    assert {case.message for case in found.cases if case.outcome == "does not apply"} >= {"smoothing='uniform'"}


@pytest.mark.extended
def test_a_target_that_wraps_is_not_refused(told):
    found = {failure.case: failure for failure in failures(told("wrapping"))}
    [wrapped] = [failure for case, failure in found.items() if case.endswith("[numpy-float32-eager-loss--1]")]
    assert wrapped.kind == "not refused"
    assert wrapped.message == "the target -1 at [2] is accepted, where the contract has IndexError"
    [unnamed] = [failure for case, failure in found.items() if case.endswith("[numpy-float32-eager-loss-5]")]
    assert unnamed.kind == "disagrees"
    assert unnamed.message.startswith("the error does not name the position [2]: index 5 is out of bounds")
    assert any("gradient--1" in case for case in found)
    assert "wrong type" in {case.kind for case in told("of_python").cases}


@pytest.mark.extended
def test_what_was_never_passed_is_not_shown(told):
    for name, options in (("refusing_many_classes", {"reduction": "none"}), ("textbook", {})):
        assert all(failure.input["options"] == options for failure in failures(told(name), "test_V"))


@pytest.mark.extended
def test_an_error_is_told_first_and_where_it_was_raised(told):
    found = outcomes(told("raising_in_many_ways"))
    for V, said in {2: "SystemExit: 0", 3: "ValueError: three", 17: "AssertionError: "}.items():
        failing = found[f"test_V1_vocabulary_sizes[numpy-float32-eager-{V}]"]
        assert failing.kind == "raises"
        first, second, *_ = failing.message.splitlines()
        assert first == said
        assert second.startswith(f'  File "{SMALL}", line ')
        assert "in raising_in_many_ways: " in second
    interrupted = found["test_V1_vocabulary_sizes[numpy-float32-eager-300]"]
    assert interrupted.kind == "crashes"
    assert "the implementation raised KeyboardInterrupt" in interrupted.message


@pytest.mark.extended
def test_a_failing_cell_shows_its_smallest_input(told, reports):
    [cell] = [cell for cell in told("textbook").cells() if (cell["dtype"], cell["clause"]) == ("float32", "V1")]
    failure = cell["failure"]
    assert failure["kind"] == "disagrees"
    assert failure["shrunk"]
    assert failure["what"] == "loss"
    assert failure["error"] > 1
    assert failure["input"]["shape"][0] == 1
    assert failure["input"]["shape"][1] <= 3
    assert failure["expected"] != failure["given"]
    assert re.search(r"V1 .* WRONG \d+/\d+", reports[1])
    assert "expected" in reports[1]


@pytest.mark.extended
def test_a_slow_implementation_is_told_so_and_fails_nothing_for_it():
    whole = "test_A10_extra_memory[numpy-float32-eager-float32-tokens-loss]"
    asked = ("test_R4_a_million_tokens", "test_A7_*", whole, "test_V2_never_negative")
    [found] = run("slow", cases=asked, time_limit=LIMIT).subjects
    [slow] = [note for note in found.notes if note.startswith("is slow: ")]
    assert re.search(r"[\d,]+ logits a second; what cannot end within the time limit does not apply", slow)
    assert {case.outcome for case in found.cases if case.clause == "V2"} == {"holds", "does not apply"}
    large = [case for case in found.cases if case.clause != "V2" and case.mode == "eager"]
    large = [case for case in large if case.message != "reduction='sequence'"]
    assert {case.clause for case in large} == {"R4", "A7", "A10"}
    assert {case.outcome for case in large} == {"does not apply"}
    assert {case.message for case in large if case.clause != "A10"} >= {"2,160,000,000 logits at its speed"}
    assert all(re.fullmatch(r"[\d,]+ logits at its speed", case.message) for case in large)


def test_a_process_that_does_not_answer_hangs(monkeypatch):
    monkeypatch.setattr(confined, "STARTING", 0.0)
    monkeypatch.setattr(depth, "TIME_LIMIT", 0.01)
    with pytest.raises(HungError, match=r"no answer within 0\.01 seconds"):
        confined.run("crossent_conformance.many", "numpy", f"{SMALL}:slow")


def test_an_interruption_of_the_search_for_small_inputs_costs_no_more_than_these():
    seen = []

    def stop(results, done, planned, ended):
        seen.append((done, planned, ended))
        if results.complete:
            raise KeyboardInterrupt

    asked = Settings(("numpy",), cases=("test_V1_confident_targets",), workers=1)
    stopped = Run([f"{SMALL}:textbook"], asked, stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.execute()
    [subject] = stopped.results.subjects
    assert stopped.results.complete
    assert subject.planned == len(subject.cases)
    assert seen[-1][0] == seen[-2][0] + 1 <= seen[-1][1]  # what is looked for is planned, too
    assert [ended[1:] for *_, ended in seen if ended] == [("V1", "numpy")]
    assert "interrupted" not in table.text(stopped.results)


KNOWN = """
[[known]]
clause = "V1"
reason = "it \\u001b[31m underflows"
kind = "disagrees"
link = "of an issue"

[[known]]
case = "test_R1_shapes"
backend = "numpy"
reason = "none"

[[known]]
clause = "A10"
reason = "it copies"
"""


@pytest.fixture
def textbook(tmp_path):
    """The textbook's loss in a file of its own, with known failures beside it: what `crossent conform` makes of it."""
    (tmp_path / "my_loss.py").write_text("from tests.subjects.small import textbook\n", encoding="utf-8")

    def conform(*more, known=""):
        (tmp_path / "my_loss.known.toml").write_text(known, encoding="utf-8")
        command = ["conform", f"{tmp_path / 'my_loss.py'}:textbook", "--backend", "numpy", *more]
        return cli.main(command)

    return conform


V1_AND_R1 = ("--case", "test_V1_confident_targets", "test_R1_shapes")


@pytest.mark.extended
def test_known_failures_do_not_count_and_are_strict(textbook, tmp_path, capsys):
    assert textbook(*V1_AND_R1) == 1
    assert "not counted" not in capsys.readouterr().out.lower()
    reports = [f"--{name}={tmp_path / name}" for name in ("json", "html", "junit")]
    assert textbook(*V1_AND_R1, *reports, known=KNOWN) == 1
    captured = capsys.readouterr()
    assert re.search(r"V1 +known \d+/\d+", captured.out)
    assert "WRONG" not in captured.out
    assert "extreme" not in captured.out
    assert r"  it \x1b[31m underflows (of an issue)" in captured.out
    assert "    V1, failing as 'disagrees': 12 cases of 12 fail" in captured.out
    assert "  none\n    test_R1_shapes on numpy: BEGINS TO HOLD\n" in captured.out
    assert "  it copies\n    A10: not asked\n" in captured.out
    assert "begin to hold, and are to be taken out of their file: test_R1_shapes on numpy." in captured.out
    assert re.search(r"^V1 numpy: \d+ known to fail", captured.err, re.MULTILINE)
    [subject] = json.loads((tmp_path / "json").read_text())["subjects"]
    assert [each["state"] for each in subject["may_fail"]] == ["fails", "begins to hold", "not asked"]
    failing = {case["known"] for case in subject["cases"] if case["outcome"] == "fails"}
    assert failing == {"it \x1b[31m underflows"}
    suites = ElementTree.parse(tmp_path / "junit").getroot()
    assert [suite.get("failures") for suite in suites] == ["0", "1"]
    assert "○ known" in (tmp_path / "html").read_text()
    first, _, rest = KNOWN.partition("[[known]]\ncase")
    assert textbook(*V1_AND_R1, known=first + "[[known]]\nclause" + rest.partition("[[known]]\nclause")[2]) == 0
    assert ": holds, but for what may fail" in capsys.readouterr().out


@pytest.mark.extended
def test_an_entry_is_not_strict_where_some_of_it_is_not_asked(textbook, capsys):
    known = '[[known]]\nclause = "R1"\nreason = "none"'
    assert textbook("--case", "test_R1_shapes", known=known) == 0
    assert "R1: holds in what was asked of it" in capsys.readouterr().out
    assert textbook("--clause", "R1", "--quick", known=known) == 0
    printed = capsys.readouterr().out
    assert "R1: holds in what was asked of it" in printed
    assert "A quick run: each test in one dtype and mode" in printed
    assert textbook("--clause", "R1", known=known) == 1


@pytest.mark.extended
def test_what_is_allowed_or_left_out_is_said(textbook, capsys):
    assert textbook(*V1_AND_R1, "--allow", "V1") == 0
    printed = capsys.readouterr().out
    assert "  allowed by --allow\n    V1: 12 cases of 12 fail" in printed
    assert "Allowed to fail: V1." in printed
    assert textbook(*V1_AND_R1, "--exclude", "test_V1_confident*") == 0
    printed = capsys.readouterr().out
    assert "Left out: test_V1_confident*. Nothing is known of these." in printed
    assert "V1 " not in printed
    assert textbook(*V1_AND_R1, "--profile", "framework") == 0
    printed = capsys.readouterr().out
    assert "Profile framework: what it is without was asked, and does not count" in printed
    assert "off in few digits, or only where the model is confident or the logits are extreme: " in printed
    wrong = [f"{SMALL}:taking_anything", "--backend", "numpy", "--case", "test_V7_soft_targets"]
    assert cli.main(["conform", *wrong, "--profile", "framework"]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("known = 3", "'known' as no array of tables; accepted: tables [[known]]"),
        ("[[unknown]]", "'unknown'; accepted: tables [[known]]"),
        ("[[known", "end of document|line 1"),
        ('[[known]]\nclause = "V1"', "entry 1: there is no reason"),
        ('[[known]]\nclause = "V1"\nreason = " "', "entry 1: reason = ' '; accepted: a text"),
        ('[[known]]\nreason = "so"', "entry 1: neither clause nor case; accepted: one of clause, case"),
        ('[[known]]\nclause = "V1"\ncase = "V1"\nreason = "so"', "clause and case; accepted: one of"),
        ('[[known]]\nclause = "V77"\nreason = "so"', "entry 1: clause = 'V77'; near it are V7"),
        ('[[known]]\ncase = "test_V1_any_raw"\nreason = "so"', "called 'test_V1_any_raw'; near it are test_V1_any_row"),
        ('[[known]]\nclause = "V1"\nreasons = "so"', "the key 'reasons'; near it are reason"),
        ('[[known]]\nclause = "V1"\nreason = "so"\ndtype = "half"', "dtype = 'half'; accepted: float64, float32"),
        ('[[known]]\nclause = "V1"\nreason = "so"\nbackend = 3', "backend = 3; accepted: a text"),
    ],
)
def test_a_file_of_known_failures_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "known.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(known.KnownError) as refused:
        known.read(file)
    assert str(refused.value).startswith(str(file))
    assert any(words in str(refused.value) for words in message.split("|"))


def test_a_name_is_a_clause_a_case_or_a_pattern():
    case = "test_values.py::test_V1_any_row[numpy-float32-eager-(2, 3)]"
    right = [
        "V1",
        "V*",
        "test_V1_any_row",
        "test_V1_*",
        "*-(2, 3)]",
        "test_V1_any_row[[]numpy*",
        "test_V1_any_row[numpy-*",
    ]
    right += [case, case.partition("::")[2], "test_values.py::test_V1_any_row", "test_values.py::*"]
    assert all(known.is_of(name, "V1", case) for name in right)
    wrong = ("V", "V2", "test_V1", "test_V1_any_row[torch-*", "test_other.py::test_V1_any_row")
    assert not any(known.is_of(name, "V1", case) for name in wrong)


def test_a_name_of_nothing_is_refused_before_a_run():
    right = ["V1", "T*", "test_V1_any_row", "test_V1_any_row[numpy-float32-eager]", "test_P1_reductions*mean-uneven*"]
    known.check("--case", [*right, "test_values.py::test_V1_*", "*-float32-*", "test_V?_any_row"])
    for wrong in ("V0", "test_V1_any", "test_V1_anything*", "test_V1_any[numpy]", "test_other.py::test_V1_any_row"):
        with pytest.raises(known.KnownError, match="--case: no clause or case is called "):
            known.check("--case", [wrong])


def test_every_name_of_a_profile_is_one():
    for profile in known.PROFILES:
        entries = known.entries(None, profile=profile)
        assert all(len(entry.reason) > 20 for entry in entries)
        known.check(profile, [entry.name for entry in entries])
        assert {entry.kind for entry in entries} <= {"", *known.KINDS}


@pytest.mark.extended
def test_tests_are_listed_and_nothing_is_run(capsys):
    assert cli.main(["conform", "--list", "--backend", "numpy", "--exclude", "V*", "--clause", "V2", "S2"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "Values: V1 to V12" in captured.out
    assert re.search(r"^S2  test_\w+\.py::test_S2_\w+ +numpy +\d+ +float64 float32 float16: eager", captured.out, re.M)
    assert "V2  " not in captured.out
    assert cli.main(["conform", "--list", "--backend", "numpy", "--case", "test_V2_never_negative"]) == 0
    assert "::test_V2_never_negative[numpy-float64-eager-plain]" in capsys.readouterr().out


@pytest.mark.extended
def test_the_names_of_tests_are_read_from_their_files():
    cases = Run([], Settings(("numpy", "torch", "jax"), shards=2)).cases()
    elsewhere = {test for test in contract.tests() if re.match(r"test_A1[12]_|.*_on_a_device$", test)}
    assert {case["function"] for case in cases} == set(contract.tests()) - elsewhere
    assert all(contract.tests()[case["function"]] == case["id"].partition("::")[0] for case in cases)


@pytest.mark.extended
def test_a_quick_run_asks_each_test_in_one_cell_that_there_is():
    [found] = run("Renamed", quick=True, clauses=("V1", "V2", "A10")).subjects
    assert {case.dtype for case in found.cases} == {"float64"}  # the only one that it takes
    tests = [re.sub(r"numpy-float64-\w+", "", case.id) for case in found.cases]
    assert len(tests) == len(set(tests)) > 10
    assert not [case for case in found.cases if case.clause == "A10"]


@pytest.mark.extended
def test_a_case_may_be_called_as_reports_print_it():
    whole = "test_R1_shapes[numpy-float64-eager-none-(2, 3)]"
    for name in (whole, f"test_reductions.py::{whole}"):
        assert [case.id for case in run("Renamed", cases=(name,)).subjects[0].cases] == [f"test_reductions.py::{whole}"]
    found = run("Renamed", cases=("test_values.py::test_V2_never_negative", "*V6_raising*[[]numpy-float64-eager]"))
    names = {case.id.partition("[")[0] for case in found.subjects[0].cases if case.outcome == "holds"}
    assert names == {
        "test_values.py::test_V2_never_negative",
        "test_values.py::test_V6_raising_the_target_lowers_the_loss",
    }
    assert found.subjects[0].curves == []  # these come with a full run only


@pytest.mark.extended
def test_nothing_is_left_in_the_folder_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "temporary").mkdir()
    run("Renamed", cases=("test_V1_any_row",))
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert not [path for path in (tmp_path / "temporary").iterdir() if path.name.startswith("crossent")]


@pytest.mark.extended
def test_same_seed_same_cases():
    def found(seed):
        [subject] = run("losses", cases=("test_V3_*",), seed=seed).subjects
        return [(case.id, case.outcome, case.worst) for case in subject.cases]

    first, other = found(5), found(6)
    assert first == found(5)
    assert [case[0] for case in first] == [case[0] for case in other]
    assert first != other


def test_the_command_writes_every_file(tmp_path, capsys):
    files = {name: tmp_path / f"report.{name}" for name in ("json", "html", "junit")}
    arguments = ["conform", f"{SMALL}:Renamed", "--backend", "numpy", "--clause", "V2", "S2", "--seed", "3"]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "seed 3" in printed
    assert "renamed: holds" in printed
    document = json.loads(files["json"].read_text(), parse_constant=pytest.fail)
    assert document["format"] == "crossent-conformance/1"
    assert document["complete"]
    assert document["clauses_asked"] == ["V2", "S2"]
    [subject] = document["subjects"]
    assert {cell["clause"] for cell in subject["cells"]} == {"V2", "S2"}
    assert "<!doctype html>" in files["html"].read_text().lower()
    suites = ElementTree.parse(files["junit"]).getroot()
    assert sum(int(suite.get("tests")) for suite in suites) == len(subject["cases"])


@pytest.mark.extended
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([f"{SMALL}:textbook", "--backend", "numpy", "--case", "test_V1_confident*"], 1, ""),
        (
            [f"{SMALL}:Renamed", "--backend", "numpy", "--case", "test_V1_nothing"],
            2,
            "--case: no clause or case is called 'test_V1_nothing'",
        ),
        ([f"{SMALL}:Renamed", "--backend", "numpy", "--clause", "V11"], 2, "nothing that was asked applies"),
        ([f"{SMALL}:Renamed", "--backend", "theano"], 2, "unknown backend 'theano'; accepted: numpy, torch"),
        ([f"{SMALL}:Renamed", "--clause", "V0"], 2, "unknown clause 'V0'; near it are V10; accepted: V1, V2"),
        ([f"{SMALL}:Renamed", "--exclude", "V99"], 2, "--exclude: no clause or case is called 'V99'; near it are V9"),
        (
            [f"{SMALL}:Renamed", "--allow", "test_V1_any_\x1bw"],
            2,
            "is called 'test_V1_any_\\x1bw'; near it are test_V1_any_",
        ),
        ([f"{SMALL}:Renamed", "--known", "no.toml"], 2, "no.toml: No such file or directory"),
        ([f"{SMALL}:Renamed", "--quick", "--thorough"], 2, "--quick and --thorough; accepted: one of them"),
        ([f"{SMALL}:nothing", "--backend", "numpy"], 2, "there is no 'nothing'"),
        ([f"{SMALL}:refusing", "--clause", "V1"], 2, "takes arrays of no backend"),
        ([f"{SMALL}:Renamed", "--backend", "array-api-strict", "--clause", "V1"], 2, "does not name this backend"),
        ([f"{SMALL}:Renamed", "--json", "no/where.json"], 2, "cannot write no/where.json"),
        ([f"{SMALL}:Renamed", "--json", "/proc/x.json"], 2, "cannot write /proc/x.json: "),
        ([f"{SMALL}:Renamed", "--html", "/proc/x.html"], 2, "cannot write /proc/x.html: "),
        ([f"{SMALL}:Renamed", "--junit", "/proc/x.xml"], 2, "cannot write /proc/x.xml: "),
        ([f"{SMALL}:Renamed", "--time-limit", "0"], 2, "'0' is not a number of seconds above 0"),
        ([f"{SMALL}:Renamed", "--seed", "-1"], 2, "'-1' is not a whole number"),
        ([f"{SMALL}:Renamed", "--workers", "0"], 2, "'0' is not a whole number of at least 1"),
        ([], 2, "required: SUBJECT"),
    ],
    ids=lambda value: "" if isinstance(value, int) else None,
)
def test_exit_codes(capsys, arguments, code, message):
    try:
        found = cli.main(["conform", *arguments])
    except SystemExit as stopped:
        found = stopped.code
    captured = capsys.readouterr()
    assert found == code, captured.err
    lines = captured.err.splitlines()
    assert message in "\n".join(lines[-1:])
    # Before a mistake that shows at the end, and where there is none, a line a clause.
    assert all(re.fullmatch(r"[A-Z]\d+ numpy: .+ \(\d+ s\)", line) for line in (lines[:-1] if code == 2 else lines))


@pytest.mark.extended
def test_a_file_that_cannot_be_written_after_all_is_told_at_the_end(tmp_path, capsys, monkeypatch):
    write = files.write

    def full(path, content):
        if path.suffix == ".html":
            write(path, content)
        else:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    names = {option: str(tmp_path / f"report.{option}") for option in ("json", "html", "junit")}
    arguments = [word for option, name in names.items() for word in (f"--{option}", name)]
    command = ["conform", f"{SMALL}:Renamed", "--backend", "numpy", "--case", "test_V2_never_negative", *arguments]
    assert cli.main(command) == 2
    captured = capsys.readouterr()
    assert "renamed: holds" in captured.out
    clause, _, told = captured.err.partition("\n")
    assert re.fullmatch(r"V2 numpy: 1 hold \(\d+ s\)", clause)
    assert told == (
        f"crossent: cannot write {names['json']}: No space left on device; "
        f"cannot write {names['junit']}: No space left on device\n"
    )
    assert Path(names["html"]).is_file()


@pytest.mark.extended
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_is_the_parents_affair_while_processes_start(tmp_path):
    """Each process of the suite is interrupted before it has imported anything, as Ctrl-C interrupts them all."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if '--multiprocessing-fork' in sys.orig_argv:\n"
        f"    open({str(tmp_path / 'done')!r}, 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
    )
    command = [sys.executable, "-m", "crossent", "conform", "crossent_conformance.subjects_crossent:subject"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--backend", "numpy", "--case", "test_V2_never_negative"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert (tmp_path / "done").exists()
    assert done.returncode == 0
    assert re.fullmatch(r"V2 numpy: \d+ hold \(\d+ s\)\n", done.stderr)


@pytest.mark.extended
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_run_leaves_what_it_finished(tmp_path):
    file = tmp_path / "report.json"
    command = [sys.executable, "-m", "crossent", "conform", "crossent_conformance.subjects_crossent:subject"]
    command += ["--backend", "numpy", "--json", str(file), "--workers", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while not (file.exists() and file.stat().st_size > 40_000) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    document = json.loads(file.read_text())
    assert not document["complete"]
    assert len(document["subjects"][0]["cases"]) > 5
    assert "interrupted" in printed
