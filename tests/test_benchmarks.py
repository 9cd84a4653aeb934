"""The CPU benchmarks: that they run at a tiny size, and what the table says."""

import pytest
from benchmarks.contenders import COPY, TORCH
from benchmarks.problem import Problem
from benchmarks.questions import QUESTIONS
from benchmarks.table import Measurement, lines

SIZE = Problem(6, 40)


def test_table_has_ratios_to_torch_and_to_the_copy():
    found = [
        Measurement("forward", "10x100", COPY, 4000, seconds=1e-6),
        Measurement("forward", "10x100", "xent numpy", 4000, seconds=2e-6),
        Measurement("forward", "10x100", TORCH, 4000, seconds=8e-6),
    ]
    printed = lines(found)
    assert printed[0] == "forward, 10x100 float32"
    assert printed[3].split() == ["xent", "numpy", "0.0", "0.25", "2.00", "2.0", "25%"]


def test_a_measurement_survives_json():
    one = Measurement("memory-forward", "10x100", COPY, 4000, peak_bytes=12)
    assert Measurement.of_json(one.as_json()) == one


@pytest.mark.parametrize("text", ["", "12", "3x", "0x4", "4x-1", "axb"])
def test_a_size_must_be_two_numbers(text):
    with pytest.raises(ValueError, match="accepted: rows x vocabulary"):
        Problem.parse(text)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        (question.name, contender.name)
        for question in QUESTIONS.values()
        if not question.name.startswith("memory")
        for contender in question.contenders
        if set(contender.needs) <= {"numpy"}
    ],
)
def test_every_numpy_contender_is_right(question, name):
    from benchmarks.contenders import read

    result = QUESTIONS[question].find(name).prepare(SIZE)()
    if name != COPY:
        SIZE.check(*read(result))


def test_a_wrong_loss_or_gradient_is_refused():
    loss, head = SIZE.exact
    with pytest.raises(AssertionError, match="mean loss"):
        SIZE.check(1.01 * loss, None)
    with pytest.raises(AssertionError, match="gradient"):
        SIZE.check(loss, head + 0.01)
