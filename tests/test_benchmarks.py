"""The CPU benchmarks: that every question can be asked at a tiny size, what tables, pages and comparisons say.

No clock is judged.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmarks import compare, device, memory, one_revision, plots, report, table, tokens
from benchmarks.contenders import COMPILER, COPY, NUMBA, TORCH, Contender, problem_with, read
from benchmarks.linear import TORCH_CHUNKED
from benchmarks.measurement import Measurement, Run, shortcomings
from benchmarks.pairs import Comparison, by_chance, order
from benchmarks.problem import OPTIONS, Problem
from benchmarks.questions import QUESTIONS, VOCABULARIES
from benchmarks.tokens import FORMULA, LOSS

import crossent

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path(__file__).resolve().parent / "sample_benchmarks.json"
SIZE = Problem(6, 40)


def _small(question, dtype="float32"):
    width = question.problems()[0].width and 12
    return replace(SIZE, dtype=dtype, with_options=question.with_options, width=width)


def quick():
    """Every contender that is here and quick to start, in each dtype that it is asked about."""
    return [
        pytest.param(_small(one, dtype), contender, one.kind,
                     id=f"{one.name}-{dtype}-{contender.label.replace(' ', '-')}")
        for one in QUESTIONS.values()
        if one.kind != "memory"
        for dtype in dict.fromkeys(problem.dtype for problem in one.problems())
        for contender in one.contenders
        if dtype in contender.dtypes and contender.usable and COMPILER not in contender.needs
    ]  # fmt: skip


@pytest.mark.parametrize(("problem", "contender", "kind"), quick())
def test_every_contender_is_right(problem, contender, kind):
    result = contender.prepare(problem)()
    assert (result is None) is (kind == "tokens" or contender.name.startswith(("copy", "products")))
    if result is not None:
        problem.check(*read(result))


def test_what_overwrites_its_logits_puts_them_back():
    one = QUESTIONS["memory-gradient"].find("crossent numpy, array_api, out=logits")
    call = one.prepare(SIZE)
    for _ in range(3):
        SIZE.check(*read(call()))
        call.put_back()


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_labels_are_unlike_each_other(question):
    labels = [one.label for one in question.contenders]
    assert len(set(labels)) == len(labels)
    assert all(question.find(label).label == label for label in labels)


def test_on_a_gpu_both_engines_and_the_peers_that_are_installed_compete():
    labels = {one.label for one in QUESTIONS["gpu-gradient"].contenders}
    ways = ("cuda", "cuda, out=", "cuda, out=logits", "cuda, out=, unchecked", "array_api, out=")
    assert labels >= {f"crossent {backend}, {way}" for backend in ("cupy", "torch-cuda") for way in ways}
    assert labels >= {COPY, TORCH, "torch.compile", "Liger", "Quack", "Apex", "textbook cupy"}
    assert all(one.gpu for name in QUESTIONS if name.startswith("gpu") for one in QUESTIONS[name].contenders)
    assert {one.v for one in QUESTIONS["gpu-forward"].problems()} >= {50257, 262144}
    assert all(2**30 <= one.nbytes < 1.01 * 2**30 for one in QUESTIONS["gpu-forward"].problems())


def test_a_device_times_calls_alone_and_behind_a_full_queue():
    class Counted(device.Device):
        clock, said = 0.0, ()

        def say(self, *what):
            self.said = (*self.said, *what)

        synchronize, delay = lambda self: self.say("wait"), lambda self, seconds: self.say("delay")
        flush, seconds = lambda self: self.say("flush"), lambda self, start, stop: stop - start

        def event(self):
            self.clock += 1
            return self.clock

    one = Counted()
    assert one.times(lambda: one.say("call"), 2, lambda: one.say("put back")) == [1.0, 1.0]
    assert one.said == ("wait", "delay", *("put back", "flush", "call") * 2, "wait")


def test_vocabularies_have_as_many_logits():
    problems = QUESTIONS["scaling-v"].problems()
    assert [one.v for one in problems] == list(VOCABULARIES)
    assert {one.n * one.v // 10**6 for one in problems} == {16}


def test_given_sizes_replace_all_but_those_of_small_calls():
    assert QUESTIONS["threads"].problems("3x4,5x6:float16") == [Problem(3, 4), Problem(5, 6, "float16")]
    assert QUESTIONS["small-forward"].problems("3x4") == [Problem(8, 16), Problem(8, 100)]
    assert QUESTIONS["options"].problems("3x4")[0].options == OPTIONS
    assert QUESTIONS["linear"].problems("3x4,3x2x4") == [Problem(3, 4, width=2)]
    assert QUESTIONS["forward"].problems("3x4,3x2x4") == [Problem(3, 4)]


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


@pytest.mark.parametrize(
    "text", ["", "12", "3x", "0x4", "4x-1", "axb", "3x4:int8", "3x4:", "3x0x4", "2x3x4x5", "3x2x4:float16"]
)
def test_a_size_must_be_two_numbers_and_a_dtype(text):
    with pytest.raises(ValueError, match="accepted: rows x vocabulary"):
        Problem.parse(text)
    assert [str(Problem.parse(size)) for size in ("3x4", "3x4:bfloat16", "3x2x4")] == ["3x4", "3x4:bfloat16", "3x2x4"]


def test_bfloat16_logits_are_half_of_a_float32():
    wide, bits = SIZE.logits, replace(SIZE, dtype="bfloat16").logits
    assert bits.dtype == np.uint16
    np.testing.assert_allclose((bits.astype(np.uint32) << 16).view(np.float32), wide, rtol=2**-7)
    assert bits.nbytes == replace(SIZE, dtype="bfloat16").nbytes


@pytest.mark.parametrize("with_options", [False, True])
@pytest.mark.parametrize("distinct", [2**25, 4 * 1000])
def test_the_exact_answer_is_that_of_the_definition(monkeypatch, with_options, distinct):
    """Of rows that are all drawn, and of rows that repeat."""
    monkeypatch.setattr("benchmarks.problem.DISTINCT", distinct)
    problem = Problem(69_999 - distinct % 2000, 4, "float64", with_options)
    assert len(np.unique(problem.logits, axis=0)) == min(problem.n, distinct // 4)
    loss, gradient = crossent.cross_entropy_and_grad(problem.logits, problem.targets, **problem.options)
    problem.check(float(loss), gradient[:4])


def test_the_exact_answer_of_hidden_states_is_that_of_the_definition(monkeypatch):
    monkeypatch.setattr("benchmarks.problem.DISTINCT", 64)
    problem = Problem(30, 5, width=3)
    assert (len(np.unique(problem.hidden, axis=0)), problem.head.shape) == (16, (5, 3))
    hidden, head = (x.astype(np.float64) for x in (problem.hidden, problem.head))
    loss, gradients = crossent.linear_cross_entropy_and_grad(hidden, head, problem.targets)
    problem.check(float(loss), gradients[0][:4])
    np.testing.assert_array_equal(read((loss, gradients))[1], gradients[0][:4])


@pytest.mark.parametrize("problem", [SIZE, replace(SIZE, width=12)], ids=str)
def test_a_wrong_loss_or_gradient_is_refused(problem):
    loss, head = problem.exact
    with pytest.raises(AssertionError, match="mean loss"):
        problem.check(1.01 * loss, None)
    with pytest.raises(AssertionError, match="gradient"):
        problem.check(loss, head + 0.01)


# Tables and runs.


def of(question, contender, size="1000x1000", **what):
    return Measurement(question, size, contender, **what)


def test_table_has_ratios_to_torch_and_to_the_copy():
    found = [
        of("forward", COPY, seconds=1e-3),
        of("forward", "crossent numpy", seconds=2e-3),
        of("forward", TORCH, seconds=8e-3),
        of("forward", COPY, "1000x1000:float16", seconds=1e-3),
    ]
    title, head, size, _, ours, *_, other_size, half = table.lines(found)
    assert title == "forward"
    assert head.split("  ")[-1] == "of copy's"
    assert size.split() == ["1000x1000", "float32"]
    assert ours.split() == ["crossent", "numpy", "2", "0.25", "2.00", "2.0", "25%"]
    assert other_size.split() == ["1000x1000", "float16"]
    assert half.split()[-4:] == ["1", "1.00", "4.0", "100%"]


@pytest.mark.parametrize(
    ("found", "line", "cells"),
    [
        ([of("forward", "crossent", seconds=2e-3)], 3, ["crossent", "2", "2.0"]),
        ([of("small-forward", "a", "8x16", seconds=3e-5), of("small-forward", TORCH, "8x16", seconds=6e-5)], 3,
         ["a", "30.0", "0.50"]),
        ([of("scaling-v", "a", "10x100", seconds=1e-6), of("scaling-v", "a", "100x10", seconds=3e-6)], 1,
         ["ns", "per", "logit", "V=100", "V=10", "worst", "/", "best"]),
        ([of("scaling-v", "a", "10x100", seconds=1e-6), of("scaling-v", "a", "100x10", seconds=3e-6)], 2,
         ["a", "1", "3", "3.0"]),
        ([of("threads", "a", threads=n, seconds=s) for n, s in ((1, 4e-3), (2, 2e-3))], 4,
         ["a", "2", "2", "2.00", "4.0"]),
        ([of("memory-forward", "a", "1024x1024", peak_bytes=2**21)], 3, ["a", "2.0", "0.50"]),
        ([of("linear", name, "8x4x9", seconds=s) for name, s in (
            ("products by torch, 1 rows", 3.0), ("products by torch, 2 rows", 2.0), ("crossent torch", 2.5),
            (TORCH, 5.0), (TORCH_CHUNKED, 10.0))], 5, ["crossent", "torch", "2500.0", "1.25", "0.25", "0.50"]),
        ([of("linear", name, "8x4x9", seconds=s) for name, s in (
            ("products by torch, 1 rows", 3.0), ("products by jax", 2.0), ("crossent jax, jit", 3.0))], 5,
         ["crossent", "jax,", "jit", "3000.0", "1.50"]),
        ([of("tokens", name, seconds=s) for name, s in (
            (LOSS, 2.0), (FORMULA, 10.0), (f"{FORMULA}, gradient", 40.0), ("crossent a, gradient, out=", 5.0))], 6,
         ["crossent", "a,", "gradient,", "out=", "5000.0", "2.50", "0.12"]),
        ([of("memory-forward", "a", peak_bytes=1), of("forward", "a", seconds=1e-3)], 0, ["forward"]),
    ],
    ids=["no-ratio-without-torch", "microseconds", "a-column-a-size", "worst-over-best", "speed-up", "MiB",
         "over-products", "over-its-own-products", "over-the-formula-with-its-gradient", "order"],
)  # fmt: skip
def test_a_line_of_a_table(found, line, cells):
    assert table.lines(found)[line].split() == cells


def test_a_run_survives_its_file(tmp_path):
    measured = [of("memory-forward", COPY, peak_bytes=12), of("forward", COPY)]
    run = Run({"date": "2026-11-24"}, "pytest", 60.5, [], measured)
    run.save(tmp_path / "folder" / "run.json")
    assert Run.load(tmp_path / "folder" / "run.json") == run


def test_what_is_missing_makes_a_run_partial():
    assert "measurements are missing" in shortcomings([])[0]
    whole = [
        Measurement(question.name, str(problem), one.name, one.threads, rounds=question.rounds or 7, seconds=1.0)
        for question in QUESTIONS.values()
        for problem in question.problems()
        for one in question.usable(problem)
    ]
    assert shortcomings(whole) == []
    assert shortcomings(whole[1:])[0].startswith("1 of ")
    assert shortcomings([*whole[1:], replace(whole[0], rounds=2)]) == ["there are medians of too few rounds"]
    few = [replace(one, rounds=one.rounds - (one.question == "linear")) for one in whole]
    assert shortcomings(few) == ["there are medians of too few rounds"]


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
    chosen = "(crossent-numpy and array_api) or (copy and not torch) or linear or tokens or divergences"
    done = run_benchmarks("--sizes", "6x40,6x4x40", "--rounds", "1", "-k", chosen, "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    run = Run.load(file)
    on_cpu = {name for name in QUESTIONS if not name.startswith("gpu-")}
    assert {one.question for one in run.measurements} >= on_cpu - {"small-backward"}
    assert run.shortcomings
    assert "memory of forward and gradient" in done.stdout
    assert table.main([str(file)]) == 0


def test_a_size_that_is_none_is_a_usage_error():
    done = run_benchmarks("--sizes", "6by40")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "'6by40' is not a size" in done.stdout + done.stderr


# The page of a run.

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
    assert report.replaced((report.DOCS / report.PAGE).read_text(encoding="utf-8"), "new")
    with pytest.raises(ValueError, match="begin: make bench"):
        report.replaced("words", "new")


def test_the_page_has_machine_versions_date_command_tables_and_plots(docs, tmp_path):
    run = Run.load(SAMPLE)
    assert report.main([str(SAMPLE)]) == 0
    page = (docs / "performance.md").read_text(encoding="utf-8")
    assert page.startswith("words\n")
    assert page.endswith("more words\n")
    host = (run.host["date"], run.host["processor"], run.host["crossent"], "numpy 2.4.6")
    for said in (*host, f"{run.command} (1.8 minutes)", "### Forward and gradient against V, N·V constant"):
        assert said in page
    for name in ("roofline", "vocabulary", "memory"):
        assert f"(images/benchmarks-{name}.svg)" in page
        assert ElementTree.parse(docs / "images" / f"benchmarks-{name}.svg").getroot().tag.endswith("svg")
    roofline = (docs / "images" / "benchmarks-roofline.svg").read_text(encoding="utf-8")
    assert ">textbook numpy</text>" in roofline
    assert "copy: " in roofline
    assert "<dc:date>" not in roofline
    # The same run gives the same bytes.
    assert report.main([str(SAMPLE), "--docs", str(tmp_path / "again")]) == 0
    again = [path for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(again) == 4
    for path in again:
        assert path.read_bytes() == (docs / path.relative_to(tmp_path / "again")).read_bytes()


def test_a_part_of_a_run_does_not_reach_the_page(docs, tmp_path, capsys):
    values = json.loads(SAMPLE.read_text(encoding="utf-8")) | {"shortcomings": ["3 of 4 measurements are missing"]}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    assert report.main([str(file)]) == 1
    assert "stays as it is: 3 of 4 measurements are missing" in capsys.readouterr().err
    assert (docs / "performance.md").read_text(encoding="utf-8") == PAGE
    assert report.main([str(file), "--docs", str(tmp_path / "elsewhere")]) == 0
    assert plots.draw([], tmp_path) == []


# Comparing revisions.


def test_revisions_take_turns_and_ratios_are_new_over_base_pair_by_pair():
    assert order(3) == ["base", "new", "new", "base", "base", "new"]
    one = Comparison.of([1.0, 2.0, 4.0], [2.0, 2.0, 3.0])
    assert (one.ratios, one.median, one.slower, one.microseconds) == ((2.0, 1.0, 0.75), 1.0, 1, (2e6, 2e6))
    assert [by_chance(agreeing, 7) for agreeing in (7, 6, 0)] == [1 / 128, 8 / 128, 1]


def test_spread_leaves_out_the_outermost_seventh():
    assert Comparison((9.0, 1.1, 1.0, 1.2, 0.9, 1.0, 0.1)).spread == (0.9, 1.2)
    assert Comparison((2.0, 1.0)).spread == (1.0, 2.0)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([1.3] * 7, "SLOWER"),
        ([1.3] * 6 + [0.2], "SLOWER"),
        ([1.3] * 5 + [0.9] * 2, "unclear"),
        ([0.7] * 6 + [5.0], "faster"),
        ([0.7] * 4 + [1.2] * 3, "unclear"),
        ([1.02] * 7, "no change seen"),
        ([1.0, 3.0, 1.0, 3.0, 1.0, 1.0, 1.0], "no change seen"),
        ([1.5] * 3, "unclear"),
        ([1.5] * 4, "SLOWER"),
    ],
)
def test_a_verdict_needs_the_median_and_most_of_the_pairs(ratios, verdict):
    assert Comparison(tuple(ratios)).verdict() == verdict
    assert Comparison((1.08,) * 7).verdict(1.05) == "SLOWER"


def test_a_question_that_the_base_cannot_answer_is_named_and_one_that_it_alone_answers_left_out():
    base, new = {"a": 1.0, "b": None, "d": 1.0}, {"a": 1.0, "b": 2.0, "c": 3.0, "d": None}
    found = compare.comparisons([base] * 2, [new] * 2)
    assert found == {"a": Comparison((1.0, 1.0), (1e6, 1e6)), "b": None, "c": None}
    _, both, new_only, _ = compare.lines(found, 1.1)
    assert both.split()[:7] == ["a", "1,000,000.0", "1,000,000.0", "1.00", "1.00", "1.00", "1.00"]
    assert both.endswith("0 of 2   no change seen")
    assert new_only.split(maxsplit=1) == ["b", "not in the base"]


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 0), (2.0, 1), (0.5, 0)])
def test_exit_code_says_whether_anything_is_slower(monkeypatch, capsys, ratio, code):
    new = compare.ROOT / "src"
    monkeypatch.setattr(compare, "unpacked", lambda revision, folder: folder)
    monkeypatch.setattr(compare, "times_of", lambda source, sizes: {"a": ratio if source == new else 1.0})
    assert compare.main(["some-revision", "--pairs", "4"]) == code
    assert f"{ratio:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("x", "--sizes", "3by4"), ("x", "--pairs", "0")])
def test_unusable_arguments_are_refused(arguments):
    with pytest.raises(SystemExit, match="2"):
        compare.main(arguments)


def test_one_revision_answers_its_questions_with_its_own_sources(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(one_revision, "SECONDS", 0.0)
    monkeypatch.setattr(one_revision, "ROUNDS", 1)
    assert one_revision.main([str(Path(crossent.__file__).parent), "6x40"]) == 0
    found = json.loads(capsys.readouterr().out)
    ways = ("numpy, forward", "torch without a graph, forward", "torch, forward and backward")
    options = ("", ", class weights", ", label smoothing", ", soft targets")
    assert found.keys() >= {f"{way}{option}, 6x40" for way in ways for option in options}
    assert all(seconds > 0 for seconds in found.values())
    assert one_revision.main([str(tmp_path), "6x40"]) == 2
    assert "which is not in" in capsys.readouterr().err
    # What a revision cannot do has no time.
    monkeypatch.delattr(crossent, "cross_entropy_and_grad")
    found = one_revision.measured([SIZE])
    assert found["numpy, forward and gradient, out=, 6x40"] is None
    assert found["numpy, forward, 6x40"] > 0
    assert "AttributeError" in capsys.readouterr().err


needs_history = pytest.mark.skipif(
    subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode != 0,
    reason="a tree without history",
)


@needs_history
def test_an_unknown_revision_is_one_line_and_2(capsys):
    assert compare.main(["no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err


@pytest.mark.extended
@needs_history
def test_the_last_commit_is_measured_beside_this_tree(capsys):
    def worktrees():
        listed = ["git", "worktree", "list", "--porcelain"]
        done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
        return [line for line in done.stdout.splitlines() if line.startswith("worktree")]

    before = worktrees()
    assert compare.main(["HEAD", "--sizes", "4x10", "--pairs", "1"]) in (0, 1)
    assert "numpy, forward and gradient, out=, soft targets, 4x10" in capsys.readouterr().out
    assert worktrees() == before


def test_a_wrong_answer_of_tokens_has_no_time():
    wrong = tokens._contender("crossent wrong", lambda x, t, *_: (x.logsumexp(-1),), tokens._numbers)
    with pytest.raises(ValueError, match="an answer is off by"):
        wrong.prepare(SIZE)
