"""What a report says of a failure: how bad it is, which known fault, where; and what it says first."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import (
    agree,
    backends,
    cases,
    evidence,
    failures,
    known,
    oracle,
    severity,
    shrink,
    suspects,
    table,
    units,
    whereabouts,
)
from crossent_conformance.adapter import UnderTest
from crossent_conformance.places import Place
from crossent_conformance.reference import Reference
from crossent_conformance.results import FAILS, HOLDS, KNOWN, Case, Failure, SubjectResult

PLACE = Place(backends.load("numpy"), "float64", backends.Mode.EAGER)
LOGITS, TARGETS = cases.random((6,), 5)


def _found(logits, targets, given, what="loss", **options):
    """The disagreement of a given result with the oracle."""
    exact = dict(zip(("loss", "d_logits"), oracle.cross_entropy(logits, targets, **options), strict=True))[what]
    evidence.record_call(logits, targets, options, "float64")
    with pytest.raises(evidence.Disagreement) as caught:
        units.check(np.asarray(given), exact, "float64", what=what)
    return caught.value


def _graded(error):
    return severity.graded(error, "disagrees", error.call, "float64")[:2]


def test_a_wrong_value_on_an_ordinary_input_is_wrong_and_comes_first():
    loss = Reference().loss(LOGITS, TARGETS, reduction="none")
    loss[3] *= 1.01
    found = _found(LOGITS, TARGETS, loss, reduction="none")
    assert _graded(found) == (severity.WRONG, 0)
    assert found.index == (3,)
    loss[3] = np.nan
    assert _graded(_found(LOGITS, TARGETS, loss, reduction="none")) == (severity.WRONG, 0)


@pytest.mark.parametrize("given", [0.0, 1e-8, np.nan])
def test_what_is_off_where_the_model_is_sure_is_extreme(given):
    logits = np.array([[0.0, 30.0], [0.5, 0.25]])
    loss = Reference().loss(logits, np.array([1, 0]), reduction="none")
    loss[0] = given
    assert _graded(_found(logits, np.array([1, 0]), loss, reduction="none"))[0] == severity.EXTREME


def test_a_large_loss_of_a_sure_row_is_wrong():
    logits = np.array([[0.0, 30.0]])
    assert _graded(_found(logits, np.array([1]), np.array([30.0]), reduction="none"))[0] == severity.WRONG


def test_few_digits_everywhere_are_extreme_and_named():
    logits, targets = cases.random((12,), 7)
    loss = Reference().loss(logits, targets, reduction="none").astype(np.float32).astype(np.float64)
    found = _found(logits, targets, loss, reduction="none")
    assert _graded(found)[0] == severity.EXTREME
    assert suspects.of(found)[0] == suspects.Suspect(
        "digits of float32", "the loss has the digits of float32, not of float64"
    )


def test_exponentials_past_the_dtype_are_named():
    logits = np.array([[0.0, 800.0], [0.5, 0.25]])
    loss = Reference().loss(logits, np.array([1, 0]), reduction="none")
    for given in (np.inf, np.nan):
        loss[0] = given
        [named] = suspects.of(_found(logits, np.array([1, 0]), loss, reduction="none"))
        assert named.says == "the loss is the log of exponentials that overflow, or are 0"


def test_a_temperature_that_divides_twice_is_named():
    loss = Reference().loss(LOGITS, TARGETS, temperature=4.0, reduction="none")
    found = _found(LOGITS, TARGETS, loss, temperature=2.0, reduction="none")
    assert [suspect.says for suspect in suspects.of(found)] == ["the loss divides by the temperature twice"]


@pytest.mark.parametrize(("V", "named"), [(1, []), (3, ["mean by 0"])])
def test_a_mean_by_0_is_one_of_no_tokens(V, named):
    """NaN where the loss of the one class is 0 is none."""
    logits, targets = np.zeros((1, V)), np.array([0])
    found = _found(logits, targets, np.nan, **({"ignore_index": 0} if named else {}))
    assert [suspect.key for suspect in suspects.of(found)] == named


def test_two_calls_that_differ_in_their_last_digits_are_not_wrong():
    for far, grade in ((1e-7, severity.EXTREME), (0.01, severity.WRONG)):
        with pytest.raises(evidence.Unlike) as caught:
            agree.equal(np.array([1.0 + far]), np.array([1.0]))
        assert severity.graded(caught.value, "disagrees", None, "float64")[0] == grade


def test_the_ordinary_entry_is_told_though_another_is_off_by_more():
    logits = np.array([[0.0, 40.0], [0.5, 0.25], [1.0, 0.0]])
    loss = Reference().loss(logits, np.array([1, 0, 0]), reduction="none")
    loss[0], loss[1] = 0.0, loss[1] + 0.01
    found = _found(logits, np.array([1, 0, 0]), loss, reduction="none")
    assert found.index == (1,)
    assert _graded(found) == (severity.WRONG, 0)


@pytest.mark.parametrize("options", [{}, *cases.covering(False, "stable", ("none", "mean", "sum"))[:12]], ids=str)
@pytest.mark.parametrize("what", ["loss", "d_logits"])
def test_a_right_answer_and_an_odd_one_equal_no_known_formula(what, options):
    logits, targets = cases.small()
    loss, d_logits = oracle.cross_entropy(logits, targets, **options)
    exact = (loss if what == "loss" else d_logits).high
    call = evidence.Call(logits, targets, options, "float64")
    assert suspects.named(call, what, evidence.Compared(exact, exact, np.zeros(exact.shape, dtype=bool))) == []
    odd = exact + np.random.default_rng(1).random(exact.shape)
    named = suspects.named(call, what, evidence.Compared(odd, exact, odd != exact))
    assert named == []


def test_where_a_result_is_off():
    targets = np.array([0, 2, -100, 1, -100, 3])
    call = evidence.Call(LOGITS, targets, {"ignore_index": -100}, "float64")
    exact = np.zeros(6)

    def words(off):
        return whereabouts.of(call, evidence.Compared(exact, exact, np.asarray(off)))

    assert words(targets == -100) == "2 of 6 tokens, those that are ignored"
    assert words(np.arange(6) == 5) == "1 of 6 tokens, the last"
    assert words(np.arange(6) < 9) == "every token"
    cube = evidence.Call(LOGITS[None], targets[None], {}, "float64")
    scalar = np.zeros(())
    assert whereabouts.of(cube, evidence.Compared(scalar, scalar, scalar == 0)) == "of logits of 3 axes"
    at = np.arange(5) == targets[:, None]
    assert whereabouts.of(call, evidence.Compared(exact, exact, at)).endswith("the target's entry alone")


def test_of_many_tokens_the_one_that_is_off_is_told():
    logits, targets = cases.random((40,), 10)
    evidence.record_call(logits, targets, {}, "float64")
    error = evidence.Unlike("a sum", expected=0.0, given=1.0, index=(7,))
    told = failures.told(error, "test_V4_x", PLACE, UnderTest(Reference().loss, "a test"), "V4", None)
    assert told.input["row"] == {"at": [7], "logits": logits[7].tolist(), "target": targets[7]}
    said = list(table.input_lines(told.input))
    assert said[1] == f"at [7] they are {logits[7].tolist()}, the target {targets[7]}"
    result = evidence.Unlike("a mean", expected=0.0, given=1.0)
    assert "row" not in failures.told(result, "test_R2_x", PLACE, UnderTest(Reference().loss, "a"), "R2", None).input


def test_a_smaller_input_keeps_the_fault_and_the_option_of_its_clause():
    def planted(logits, targets, *, label_smoothing=0.0, reduction="mean"):
        """Few digits everywhere, and half the smoothing."""
        loss = Reference().loss(logits, targets, label_smoothing=label_smoothing / 2)
        return np.asarray(loss, dtype=np.float32).astype(np.float64)

    under_test = UnderTest(planted, "a test")
    evidence.forget()
    with pytest.raises(evidence.Disagreement) as caught:
        agree.with_oracle(PLACE, under_test, *cases.random((6,), 5), label_smoothing=0.25, reduction="mean")
    small = shrink.smallest(PLACE, under_test, caught.value, "V8")
    assert small.call.options["label_smoothing"] == 0.25
    assert small.relative > 1e-3
    assert small.call.logits.size <= 4


def test_a_mistaken_name_is_told_what_is_near_it():
    assert known.near("v2", ["V1", "V2", "V12"]) == "; near it are V2"
    assert known.near("ttest_V1", ["test_V1_any_row", "test_V1"]) == "; near it are test_V1, test_V1_any_row"
    assert known.near("numbers", ["V1"]) == ""


def test_cases_without_the_option_that_a_small_input_needs_are_another_fault():
    def input_of(*options):
        return {"logits": None, "targets": None, "shape": [1, 2], "options": dict.fromkeys(options, 1)}

    subject = SubjectResult("a", "a", backends={"numpy": {"dtypes": ["float64"]}})
    subject.cases = [
        _case("V9", tier=0, says="weights", input=input_of("reduction", "weights"), shrunk=True),
        _case("V9", tier=0, says="both", input=input_of("weights", "z_loss", "class_weights")),
        _case("V9", tier=0, says="z", input=input_of("z_loss", "class_weights")),
        _case("V9", tier=0, says="z alone", input=input_of("z_loss")),
    ]
    assert [(fault.failure.says, fault.count) for fault in subject.faults()] == [("weights", 2), ("z alone", 2)]


def test_the_same_words_are_told_once():
    subject = SubjectResult("a", "a", backends={"numpy": {"dtypes": ["float64"]}})
    subject.cases = [_case(clause, says="the process ended with signal 6") for clause in ("V1", "R2", "S6")]
    [fault] = subject.faults()
    assert (fault.count, fault.clauses) == (3, ["V1", "R2", "S6"])


def test_of_the_names_that_fit_a_number_the_one_holds_that_fits_most():
    subject = SubjectResult("a", "a", backends={"numpy": {"dtypes": ["float64"]}})
    twice, by = {"loss times": "is 2 times the exact one"}, {"mean by V": "divides by 3, not by 6"}
    subject.cases = [_case("R1", names=by | twice), _case("V1", names=twice), _case("V1", names=twice)]
    subject.settle()
    assert [(fault.failure.says, fault.count) for fault in subject.faults()] == [("is 2 times the exact one", 3)]


def _case(clause, outcome=FAILS, dtype="float64", known="", **failure):
    told = Failure(f"test_{clause}_x", "disagrees", "words", **failure) if outcome == FAILS else None
    return Case(f"test_x.py::test_{clause}_x", clause, "numpy", dtype, "eager", outcome, failure=told, known=known)


def test_a_fault_is_told_once_the_worst_first_and_what_is_known_is_not():
    subject = SubjectResult("a", "a", backends={"numpy": {"dtypes": ["float64", "float32"]}})
    subject.cases = [
        _case("V1", severity=severity.EXTREME, tier=2, says="digits"),
        _case("S2", tier=2, says="special"),
        _case("V8", tier=0, says="smoothing", fault="smoothing", relative=0.1),
        _case("V8", tier=0, says="smoothing", fault="smoothing", relative=1.0, dtype="float32"),
        _case("R2", tier=0, says="smoothing", fault="smoothing", relative=0.1),
        _case("V9", tier=0, says="weights", relative=1.0),
        _case("R3", tier=0, says="nothing", known="no framework promises it"),
        _case("V2", HOLDS),
    ]
    faults = subject.faults()
    assert [fault.failure.says for fault in faults] == ["smoothing", "weights", "special", "digits"]
    assert faults[0].clauses == ["V8", "R2"]
    assert faults[0].case.dtype == "float32"
    assert faults[0].count == 3
    assert subject.failing(severity.WRONG) == ["V8", "V9", "R2", "S2"]
    assert subject.failing(severity.EXTREME) == ["V1"]
    cells = {(cell["clause"], cell["dtype"]): cell for cell in subject.cells()}
    assert cells["R3", "float64"]["status"] == KNOWN
    assert cells["V1", "float64"]["severity"] == severity.EXTREME
    subject.cases = [case for case in subject.cases if case.clause in ("R3", "V2")]
    assert not subject.fails
