"""The CPU benchmarks: that every question can be asked at a tiny size, and what the tables say. No clock is judged."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import memory, one_revision, table
from benchmarks.contenders import ALL_DTYPES, COMPILER, COPY, NUMBA, TORCH, Contender, problem_with, read
from benchmarks.measurement import Measurement, Run, shortcomings
from benchmarks.problem import OPTIONS, Problem
from benchmarks.questions import QUESTIONS, VOCABULARIES
from benchmarks.table import lines

import crossent

ROOT = Path(__file__).resolve().parent.parent
SIZE = Problem(6, 40)


def usable(*kinds):
    """Every contender of the questions of some kinds that is here and quick to start."""
    return [
        pytest.param(question, one, id=f"{question.name}-{one.label.replace(' ', '-')}")
        for question in QUESTIONS.values()
        if question.kind in kinds
        for one in question.contenders
        if one.usable and COMPILER not in one.needs
    ]


@pytest.mark.parametrize(("question", "contender"), usable("speed", "call", "V", "N", "threads"))
def test_every_contender_is_right(question, contender):
    problem = replace(SIZE, with_options=question.with_options)
    result = contender.prepare(problem)()
    assert (result is None) is (contender.name in (COPY, "copy by torch"))
    if result is not None:
        problem.check(*read(result))


@pytest.mark.parametrize("dtype", [dtype for dtype in ALL_DTYPES if dtype != "float32"])
@pytest.mark.parametrize("question", [QUESTIONS["forward"], QUESTIONS["gradient"]], ids=lambda one: one.name)
def test_every_contender_is_right_in_every_dtype_it_is_asked_about(question, dtype):
    problem = replace(SIZE, dtype=dtype)
    asked = question.usable(problem)
    assert {COPY, TORCH} <= {one.name for one in asked}
    for one in asked:
        result = one.prepare(problem)()
        if result is not None:
            problem.check(*read(result))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_labels_are_unlike_each_other(question):
    labels = [one.label for one in question.contenders]
    assert len(set(labels)) == len(labels)
    assert all(question.find(label).label == label for label in labels)


def test_vocabularies_have_as_many_logits():
    problems = QUESTIONS["scaling-v"].problems()
    assert [one.v for one in problems] == list(VOCABULARIES)
    assert {one.n * one.v // 10**6 for one in problems} == {16}


def test_given_sizes_replace_all_but_those_of_small_calls():
    assert QUESTIONS["threads"].problems("3x4,5x6:float16") == [Problem(3, 4), Problem(5, 6, "float16")]
    assert QUESTIONS["small-forward"].problems("3x4") == [Problem(8, 16), Problem(8, 100)]
    assert QUESTIONS["options"].problems("3x4")[0].options == OPTIONS


def test_a_contender_with_threads_leaves_the_setting_as_it_was(monkeypatch):
    monkeypatch.setenv("CROSSENT_NUM_THREADS", "3")
    seen = []
    one = Contender("a", (), lambda problem: lambda: seen.append(os.environ["CROSSENT_NUM_THREADS"])).limited_to(1)
    one.prepare(SIZE)()
    assert (one.label, seen, os.environ["CROSSENT_NUM_THREADS"]) == ("a, threads=1", ["1"], "3")


def test_an_engine_that_is_not_here_is_named():
    reason = problem_with.__wrapped__(NUMBA)
    assert reason is None or NUMBA in reason
    assert "not installed" in problem_with.__wrapped__("no_such_package")


@pytest.mark.parametrize("text", ["", "12", "3x", "0x4", "4x-1", "axb", "3x4:int8", "3x4:"])
def test_a_size_must_be_two_numbers_and_a_dtype(text):
    with pytest.raises(ValueError, match="accepted: rows x vocabulary"):
        Problem.parse(text)


@pytest.mark.parametrize("text", ["3x4", "3x4:bfloat16"])
def test_a_size_is_printed_as_it_is_read(text):
    assert str(Problem.parse(text)) == text


def test_bfloat16_logits_are_half_of_a_float32():
    wide = Problem(6, 40).logits
    bits = Problem(6, 40, "bfloat16").logits
    assert bits.dtype == np.uint16
    np.testing.assert_allclose((bits.astype(np.uint32) << 16).view(np.float32), wide, rtol=2**-7)
    assert bits.nbytes == Problem(6, 40, "bfloat16").nbytes


@pytest.mark.parametrize("with_options", [False, True])
def test_the_exact_answer_is_that_of_the_definition(with_options):
    problem = Problem(70_000, 4, "float64", with_options)
    loss, gradient = crossent.cross_entropy_and_grad(problem.logits, problem.targets, **problem.options)
    problem.check(float(loss), gradient[:4])


def test_a_wrong_loss_or_gradient_is_refused():
    loss, head = SIZE.exact
    with pytest.raises(AssertionError, match="mean loss"):
        SIZE.check(1.01 * loss, None)
    with pytest.raises(AssertionError, match="gradient"):
        SIZE.check(loss, head + 0.01)


def of(question, contender, size="1000x1000", **what):
    return Measurement(question, size, contender, **what)


def test_table_has_ratios_to_torch_and_to_the_copy():
    found = [
        of("forward", COPY, seconds=1e-3),
        of("forward", "crossent numpy", seconds=2e-3),
        of("forward", TORCH, seconds=8e-3),
        of("forward", COPY, "1000x1000:float16", seconds=1e-3),
    ]
    title, head, size, _, ours, *_, other_size, half = lines(found)
    assert title == "forward"
    assert head.split("  ")[-1] == "of copy's"
    assert size.split() == ["1000x1000", "float32"]
    assert ours.split() == ["crossent", "numpy", "2", "0.25", "2.00", "2.0", "25%"]
    assert other_size.split() == ["1000x1000", "float16"]
    assert half.split()[-4:] == ["1", "1.00", "4.0", "100%"]


def test_table_of_a_size_without_torch_or_copy_has_no_ratios():
    assert lines([of("forward", "crossent numpy", seconds=2e-3)])[3].split() == ["crossent", "numpy", "2", "2.0"]


def test_small_calls_are_in_microseconds():
    found = [
        of("small-forward", "crossent numpy", "8x16", seconds=3e-5),
        of("small-forward", TORCH, "8x16", seconds=6e-5),
    ]
    assert lines(found)[3].split() == ["crossent", "numpy", "30.0", "0.50"]


def test_scaling_has_a_column_for_each_size():
    found = [of("scaling-v", "a", "10x100", seconds=1e-6), of("scaling-v", "a", "100x10", seconds=3e-6)]
    _, head, row = lines(found)
    assert head.split() == ["ns", "per", "logit", "V=100", "V=10", "worst", "/", "best"]
    assert row.split() == ["a", "1", "3", "3.0"]


def test_threads_have_their_speed_up():
    found = [of("threads", "a", threads=n, seconds=s) for n, s in ((1, 4e-3), (2, 2e-3))]
    assert lines(found)[4].split() == ["a", "2", "2", "2.00", "4.0"]


def test_memory_is_in_mebibytes_and_logits():
    found = [of("memory-forward", "a", "1024x1024", peak_bytes=2**21)]
    assert lines(found)[3].split() == ["a", "2.0", "0.50"]


def test_questions_come_in_their_own_order():
    found = [of("memory-forward", "a", peak_bytes=1), of("forward", "a", seconds=1e-3)]
    assert [title for title, _ in table.tables(found)] == ["forward", "memory of forward"]


def test_a_run_survives_its_file(tmp_path):
    run = Run(
        {"date": "2026-11-24"}, "pytest", 60.5, [], [of("memory-forward", COPY, peak_bytes=12), of("forward", COPY)]
    )
    run.save(tmp_path / "folder" / "run.json")
    assert Run.load(tmp_path / "folder" / "run.json") == run


def test_what_is_missing_makes_a_run_partial():
    assert "measurements are missing" in shortcomings([])[0]
    whole = [
        Measurement(question.name, str(problem), one.name, one.threads, rounds=7, seconds=1.0)
        for question in QUESTIONS.values()
        for problem in question.problems()
        for one in question.usable(problem)
    ]
    assert shortcomings(whole) == []
    assert shortcomings(whole[1:])[0].startswith("1 of ")
    assert shortcomings([*whole[1:], replace(whole[0], rounds=2)]) == ["there are medians of fewer than 7 rounds"]


def test_peak_memory_of_a_process(capsys):
    # Not of this process, whose peak so far may be larger than what the call takes: only that it prints a number.
    assert memory.main(["memory-gradient", "crossent numpy, array_api, out=logits", "6x40"]) == 0
    assert int(capsys.readouterr().out) >= 0


def run_benchmarks(*arguments):
    """A run of its own, outside the workers of this one, where pytest-benchmark would not measure."""
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-p", "no:cacheprovider", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip


@pytest.mark.extended
def test_a_run_from_the_command_line(tmp_path):
    file = tmp_path / "run.json"
    chosen = "(crossent-numpy and array_api) or (copy and not torch)"
    done = run_benchmarks("--sizes", "6x40", "--rounds", "1", "-k", chosen, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.load(file)
    assert {one.question for one in run.measurements} == QUESTIONS.keys() - {"small-backward"}
    assert run.shortcomings
    assert "memory of forward and gradient" in done.stdout
    assert table.main([str(file)]) == 0


def test_a_size_that_is_none_is_a_usage_error():
    done = run_benchmarks("--sizes", "6by40")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "'6by40' is not a size" in done.stdout + done.stderr


def test_one_revision_answers_its_questions(monkeypatch, capsys):
    monkeypatch.setattr(one_revision, "SECONDS", 0.0)
    assert one_revision.main([str(Path(crossent.__file__).parent), "6x40"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name.rpartition(", ")[2] for name in found} == {"6x40"}
    assert all(seconds > 0 for seconds in found.values())


def test_one_revision_refuses_another_ones_sources(tmp_path, capsys):
    assert one_revision.main([str(tmp_path), "6x40"]) == 2
    assert "which is not in" in capsys.readouterr().err


def test_what_a_revision_cannot_do_has_no_time(monkeypatch, capsys):
    monkeypatch.setattr(one_revision, "SECONDS", 0.0)
    monkeypatch.delattr(crossent, "cross_entropy_and_grad")
    found = one_revision.measured([SIZE])
    assert found["numpy, forward and gradient, out=, 6x40"] is None
    assert found["numpy, forward, 6x40"] > 0
    assert "AttributeError" in capsys.readouterr().err
