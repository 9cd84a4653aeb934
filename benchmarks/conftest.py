"""The benchmarks' switches, the one fixture that measures, and the table at the end.

`question` on a test says what it asks; the test then runs for every contender that is here and every size.
"""

from __future__ import annotations

import os

import pytest

from benchmarks import contenders, host, table
from benchmarks.problem import Problem
from benchmarks.questions import QUESTIONS
from benchmarks.table import Measurement

SIZES = "2048x50257,4096x10000"
MEMORY_SIZES = "2048x50257"
ROUNDS = 7
SMALL_ROUNDS, SMALL_ITERATIONS = 25, 20

_found = pytest.StashKey[list[Measurement]]()


def pytest_addoption(parser):
    group = parser.getgroup("cross-entropy benchmarks")
    group.addoption(
        "--sizes",
        default=os.environ.get("XENT_BENCH_SIZES"),
        help=f"rows x vocabulary, separated by commas (default: $XENT_BENCH_SIZES, or {SIZES}; memory: {MEMORY_SIZES})",
    )
    group.addoption(
        "--rounds", type=int, default=ROUNDS, help="rounds of a large call; the median counts (%(default)s)"
    )


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "question(name, sizes=): the question of benchmarks/questions.py that a test asks"
    )
    config.stash[_found] = []
    # pytest-benchmark's own table has a row for every statistic but none for what is compared here.
    config.option.benchmark_quiet = True
    config.option.benchmark_columns = config.option.benchmark_columns or ["median", "rounds"]


def pytest_report_header(config):
    return host.lines()


def pytest_generate_tests(metafunc):
    marker = metafunc.definition.get_closest_marker("question")
    if marker is None:
        return
    question = QUESTIONS[marker.args[0]]
    text = marker.kwargs.get("sizes") or metafunc.config.getoption("sizes")
    if text is None:
        text = MEMORY_SIZES if question.name.startswith("memory") else SIZES
    try:
        sizes = [Problem.parse(size) for size in text.split(",")]
    except ValueError as error:
        raise pytest.UsageError(f"--sizes: {error}") from None
    metafunc.parametrize("problem", sizes, ids=str, scope="session")
    metafunc.parametrize("contender", question.usable, ids=lambda one: one.name.replace(" ", "-"))


@pytest.fixture
def record(request, benchmark, contender, problem):
    """Keep a measurement for the table, and in pytest-benchmark's JSON."""
    question = QUESTIONS[request.node.get_closest_marker("question").args[0]]

    def record(**what: float):
        measurement = Measurement(question.name, str(problem), contender.name, problem.nbytes, **what)
        benchmark.group = f"{question.title}, {problem}"
        benchmark.extra_info.update(measurement.as_json())
        request.config.stash[_found].append(measurement)

    return record


@pytest.fixture
def measure(request, benchmark, contender, problem, record):
    """Check a contender's answer, then time it: a large call alone, small ones in loops that a clock can tell apart."""

    def measure(*, small: bool = False):
        call = contender.prepare(problem)
        result = call()
        if contender.name != contenders.COPY:
            problem.check(*contenders.read(result))
        # Freed before the rounds: each of them may then use its memory again, as a training step would.
        del result
        if small:
            benchmark.pedantic(call, rounds=SMALL_ROUNDS, iterations=SMALL_ITERATIONS, warmup_rounds=1)
        else:
            benchmark.pedantic(call, rounds=request.config.getoption("rounds"), warmup_rounds=1)
        if benchmark.stats is not None:
            record(seconds=benchmark.stats.stats.median)

    return measure


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash[_found]
    if found:
        terminalreporter.section("medians")
        for line in [*host.lines(), "", *table.lines(found)]:
            terminalreporter.write_line(line)
