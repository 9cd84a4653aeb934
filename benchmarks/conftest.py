"""The benchmarks' switches, the one fixture that measures, and the tables at the end.

A test with the fixtures `question` and `problem` runs for every question whose table shows what the test measures, on
each of its problems; with `contender`, for every contender that is here and takes it.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import host, table
from benchmarks.contenders import read
from benchmarks.device import device
from benchmarks.measurement import ROUNDS, Measurement, Run, shortcomings
from benchmarks.problem import Problem
from benchmarks.questions import CALL, LINEAR, MEMORY, QUESTIONS

# Bytes that are touched before a measurement, in sizes of the logits: more than most contenders take.
FRESH = 4
SHORT = 1e-3
"""Seconds; shorter calls are timed in loops, which a clock can tell apart."""
SHORT_ROUNDS, SHORT_ITERATIONS = 25, 20
WARM_UPS, GPU_ROUNDS = 3, 31
FEW = 64
"""Rows that are enough to check an answer and to warm up, where all of them take seconds."""

_found = pytest.StashKey[list[Measurement]]()
_host = pytest.StashKey[dict]()
_began = pytest.StashKey[float]()


def pytest_addoption(parser):
    group = parser.getgroup("cross-entropy benchmarks")
    group.addoption(
        "--sizes",
        default=os.environ.get("CROSSENT_BENCH_SIZES"),
        help="rows x vocabulary and perhaps :dtype, separated by commas, for all but small calls"
        " (default: $CROSSENT_BENCH_SIZES, or each question's own)",
    )
    group.addoption(
        "--rounds", type=int, default=ROUNDS, help="rounds of a large call; the median counts (%(default)s)"
    )
    group.addoption("--json", type=Path, metavar="FILE", help="keep the run for benchmarks.table and benchmarks.report")


def pytest_configure(config):
    try:
        for size in (config.getoption("sizes") or "1x1").split(","):
            Problem.parse(size)
    except ValueError as error:
        raise pytest.UsageError(f"--sizes: {error}") from None
    config.stash[_found] = []
    config.stash[_began] = time.monotonic()
    config.stash[_host] = host.facts()
    # pytest-benchmark's own table has a row for every statistic but none for what is compared here.
    config.option.benchmark_quiet = True
    config.option.benchmark_columns = config.option.benchmark_columns or ["median", "rounds"]


def pytest_report_header(config):
    return host.lines(config.stash[_host])


def pytest_generate_tests(metafunc):
    if "question" not in metafunc.fixturenames:
        return
    kind = metafunc.function.__name__.removeprefix("test_")
    sizes = metafunc.config.getoption("sizes")
    asked = [
        (question, problem)
        for question in QUESTIONS.values()
        if kind == (question.kind if question.kind in (MEMORY, LINEAR) else "time")
        for problem in question.problems(sizes)
    ]
    if "contender" not in metafunc.fixturenames:
        metafunc.parametrize(("question", "problem"), asked, ids=[f"{one.name}-{problem}" for one, problem in asked])
        return
    asked = [(question, problem, one) for question, problem in asked for one in question.usable(problem)]
    asked.sort(key=lambda one: one[2].gpu is not None and one[2].compiles)
    ids = [f"{question.name}-{problem}-{one.label.replace(' ', '-')}" for question, problem, one in asked]
    metafunc.parametrize(("question", "problem", "contender"), asked, ids=ids)


@pytest.fixture
def record(request, benchmark, question, problem, record_property):
    """Keep a measurement of a contender, for the tables and in the test's report."""

    def record(contender, **what: float):
        benchmark.group = f"{question.title}, {problem.title}"
        found = Measurement(question.name, str(problem), contender.name, contender.threads, **what)
        request.config.stash[_found].append(found)
        record_property("measurement", asdict(found))

    return record


@pytest.fixture
def measure(request, benchmark, question, contender, problem, record):
    """Check a contender's answer, then time it: a large call alone, short ones in loops, by the device's own clock."""

    def measure():
        call = contender.prepare(problem)
        put_back = getattr(call, "put_back", None)
        if put_back is not None:
            put_back()  # what compiles has called already
        result = call()
        if result is not None:
            problem.check(*read(result))
        # Freed before the rounds: each of them may then use its memory again, as a training step would.
        del result
        if contender.gpu and question.kind != CALL:
            gpu = device(contender.gpu)
            gpu.times(call, WARM_UPS, put_back)
            times = benchmark.pedantic(gpu.times, (call, GPU_ROUNDS, put_back))
            low, _, high = statistics.quantiles(times, n=4)
            middle = statistics.median(times)
            record(contender, seconds=middle, rounds=GPU_ROUNDS, spread=(high - low) / middle)
            return
        _touch(FRESH * problem.nbytes)
        began = time.perf_counter()
        call()
        if time.perf_counter() - began < SHORT:
            benchmark.pedantic(call, rounds=SHORT_ROUNDS, iterations=SHORT_ITERATIONS)
        else:
            benchmark.pedantic(call, rounds=request.config.getoption("rounds"))
        if benchmark.stats is not None:
            stats = benchmark.stats.stats
            record(contender, seconds=stats.median, rounds=stats.rounds)

    return measure


@pytest.fixture
def take_turns(benchmark, question, problem, record):
    """Check the answers of a question's contenders on a few rows, then time their calls in turn."""

    def take_turns():
        contenders = question.usable(problem)
        few = replace(problem, n=min(problem.n, FEW))
        for one in contenders:
            result = one.prepare(few)()
            if result is not None:
                few.check(*read(result))
        calls = {one: one.prepare(problem) for one in contenders}
        times = {one: [] for one in contenders}

        def turn():
            for one, call in calls.items():
                began = time.perf_counter()
                call()
                times[one].append(time.perf_counter() - began)

        benchmark.pedantic(turn, rounds=question.rounds)
        if benchmark.stats is not None:
            for one, seconds in times.items():
                record(one, seconds=statistics.median(seconds), rounds=len(seconds))

    return take_turns


def _touch(nbytes: int) -> None:
    """Use so much memory once. In a virtual machine the first use of a page costs several times any later one."""
    np.ones(nbytes, np.uint8)


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash[_found]
    if found:
        terminalreporter.section("medians")
        for line in [*host.lines(config.stash[_host]), "", *table.lines(found)]:
            terminalreporter.write_line(line)


def pytest_sessionfinish(session):
    config = session.config
    file = config.getoption("json")
    if file is not None:
        found = config.stash[_found]
        command = " ".join(["python -m pytest", *map(str, config.invocation_params.args)])
        seconds = time.monotonic() - config.stash[_began]
        Run(config.stash[_host], command, seconds, shortcomings(found), found).save(file)
