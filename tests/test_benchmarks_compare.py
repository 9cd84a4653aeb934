"""Comparing revisions: what the pairs say, as pure functions, and one comparison of this tree with itself."""

import subprocess
from pathlib import Path

import pytest
from benchmarks import compare
from benchmarks.pairs import Comparison, by_chance, order

ROOT = Path(__file__).resolve().parent.parent


def test_revisions_take_turns_at_going_first():
    assert order(3) == ["base", "new", "new", "base", "base", "new"]


def test_ratios_are_new_over_base_pair_by_pair():
    one = Comparison.of([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert one.ratios == (2.0, 1.0, 0.5)
    assert one.median == 1.0
    assert one.slower == 1


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


def test_the_threshold_decides_what_counts():
    one = Comparison((1.08,) * 7)
    assert one.verdict(1.1) == "no change seen"
    assert one.verdict(1.05) == "SLOWER"


def test_chance_is_that_of_a_fair_coin():
    assert by_chance(7, 7) == 1 / 128
    assert by_chance(6, 7) == 8 / 128
    assert by_chance(0, 7) == 1


def test_a_question_that_the_base_cannot_answer_is_named():
    found = compare.comparisons([{"a": 1.0, "b": None}, {"a": 1.0, "b": None}], [{"a": 1.0, "b": 2.0, "c": 3.0}] * 2)
    assert found == {"a": Comparison((1.0, 1.0)), "b": None, "c": None}
    _, both, new_only, _ = compare.lines(found, 1.1)
    assert both.split()[:5] == ["a", "1.00", "1.00", "1.00", "1.00"]
    assert both.endswith("0 of 2   no change seen")
    assert new_only.split(maxsplit=1) == ["b", "not in the base"]


def test_a_question_that_only_the_base_answers_is_left_out():
    assert compare.comparisons([{"a": 1.0}], [{"a": None}]) == {}


@pytest.mark.parametrize(("ratio", "code"), [(1.0, 0), (2.0, 1), (0.5, 0)])
def test_exit_code_says_whether_anything_is_slower(monkeypatch, capsys, ratio, code):
    monkeypatch.setattr(compare, "unpacked", lambda revision, folder: folder)
    monkeypatch.setattr(
        compare, "times_of", lambda source, sizes: {"a": ratio if source == compare.ROOT / "src" else 1.0}
    )
    assert compare.main(["some-revision", "--pairs", "4"]) == code
    assert f"{ratio:.2f}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("x", "--sizes", "3by4"), ("x", "--pairs", "0")])
def test_unusable_arguments_are_refused(arguments):
    with pytest.raises(SystemExit, match="2"):
        compare.main(arguments)


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
    before = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, check=False).stdout
    assert compare.main(["HEAD", "--sizes", "4x10", "--pairs", "1"]) in (0, 1)
    printed = capsys.readouterr().out
    assert "numpy, forward and gradient, out=, soft targets, 4x10" in printed
    assert subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, check=False).stdout == before
