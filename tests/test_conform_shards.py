"""`crossent conform --shards`: what is asked, what is told, and that no process is left behind."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pytest

from crossent import cli
from crossent_conformance import page, table
from crossent_conformance.results import FAILS, HOLDS, NOT, Results
from crossent_conformance.run import Run, Settings
from crossent_conformance.shards import partitions

SUBJECTS = Path(__file__).parent / "subjects" / "shards.py"
CLAUSES = ("P1", "P2", "P3", "P4")
needs_mpi = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")


def run(spec, *cases, backends=("numpy",), shards=2, clauses=CLAUSES, **settings):
    asked = Settings(backends, clauses, cases, curves=False, shards=shards, workers=1, **settings)
    return Run([spec], asked).execute()


def outcomes(results):
    return {case.outcome for case in results.subjects[0].cases}


def processes():
    """The command lines that run, where the system tells them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def is_left(spec):
    deadline = time.monotonic() + 10
    while any("shards.rank" in line and spec in line for line in processes()):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("V", [1, 2, 5, 23])
def test_partitions_have_every_class_once(ranks, V):
    for kind, partition in partitions(V, ranks).items():
        assert len(partition.ranges) == len(partition.padding) == ranks
        has = [c for start, size in partition.ranges for c in range(start, start + size)]
        assert sorted(has) == list(range(V)), kind
        whole = np.arange(2.0 * V).reshape(2, V)
        parts = list(partition.columns(whole, 0.0))
        assert [part.shape[1] for part in parts] == [
            size + more for size, more in zip(partition.sizes, partition.padding, strict=True)
        ]
        np.testing.assert_array_equal(partition.joined(parts), whole)


def test_partitions_are_of_every_kind():
    found = partitions(23, 4)
    assert found["even"].sizes == [6, 6, 6, 5]
    assert len(set(found["uneven"].sizes)) == 4
    assert found["turned"].sizes == found["uneven"].sizes[::-1]
    assert not found["turned"].is_in_order
    assert found["empty"].sizes[0] == found["empty"].sizes[2] == 0
    assert any(found["padded"].padding)


def test_padding_has_no_gradient():
    partition = partitions(5, 2)["padded"]
    parts = list(partition.columns(np.ones((1, 5)), 1.0))
    with pytest.raises(AssertionError, match="rank 0 gave padding a gradient that is not 0"):
        partition.joined(parts)


def test_without_shards_the_report_says_what_was_not_asked():
    results = run(f"{SUBJECTS}:whole", "test_V2_never_negative", clauses=(), shards=0)
    assert not [case for case in results.subjects[0].cases if case.clause in CLAUSES]
    words = "P1, P2, P3, P4 were not asked: --shards 4 asks them, in four processes."
    assert words in table.text(results)
    assert words in page.of_results(results.to_json())


def test_other_clauses_than_those_of_shards_are_no_reason_to_say_so():
    results = Results("", "", 0, False, clauses_asked=["V1"])
    assert results.not_asked == []


def test_clauses_of_shards_want_shards(capsys):
    assert cli.main(["conform", f"{SUBJECTS}:subject", "--backend", "numpy", "--clause", "P1"]) == 2
    assert "--clause P1 without --shards; accepted: --shards N, as --shards 4" in capsys.readouterr().err


def test_an_implementation_without_shards_does_not_hold():
    results = run(f"{SUBJECTS}:whole", "test_P1_hard_targets")
    assert outcomes(results) == {NOT}
    assert {case.message for case in results.subjects[0].cases} == {"a vocabulary in shards"}


@needs_mpi
def test_what_holds_is_told_with_the_command(tmp_path, capsys):
    file = tmp_path / "results.json"
    case = "test_P1_reductions*mean-uneven*"
    arguments = [f"{SUBJECTS}:subject", "--backend", "numpy", "--shards", "2", "--clause", "P1", "--case", case]
    assert cli.main(["conform", *arguments, "--workers", "1", "--json", str(file)]) == 0
    assert "holds" in capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["shards"] == 2
    assert "--shards 2" in document["command"]
    assert document["not_asked"] == []
    assert not is_left(str(SUBJECTS))


@needs_mpi
def test_a_rank_that_does_not_answer_is_named_and_ended():
    results = run(f"{SUBJECTS}:Sleeping", "test_P1_a_large_vocabulary", time_limit=4.0)
    (case,) = results.subjects[0].cases
    assert case.outcome == FAILS
    assert case.kind == "hangs"
    assert "ranks 0, 1 did not answer within 4 seconds" in case.message
    assert not is_left(str(SUBJECTS))


@needs_mpi
def test_a_rank_that_ends_is_told_with_its_last_words():
    results = run(f"{SUBJECTS}:Ending", "test_P1_a_large_vocabulary", time_limit=30.0)
    (case,) = results.subjects[0].cases
    assert case.outcome == FAILS
    assert "ended" in case.message
    assert "no more of this" in case.message
    assert not is_left(str(SUBJECTS))


QUICK = (
    "test_P1_reductions*weighted-empty*",
    "test_P1_fewer*",
    "test_P2_two_collectives*several-loss?",
    "test_P3_other_targets",
    "test_P4_a_target_that_is_no_class*-23-even?",
)
OURS = "crossent_conformance.subjects_crossent:subject"


@pytest.mark.parametrize("backend", [pytest.param("numpy", marks=needs_mpi), "torch"])
def test_ours_in_two_processes(backend):
    results = run(OURS, *QUICK, backends=(backend,), time_limit=120.0)
    assert [f"{case.id}: {case.message}" for case in results.subjects[0].cases if case.outcome == FAILS] == []
    assert outcomes(results) == {HOLDS}
    assert {case.clause for case in results.subjects[0].cases} == set(CLAUSES)


LOOK = "a look at the targets of an array that is lazy, or traced in shard_map"
LACKS = {
    "numpy": {"a gradient: there is no autograd for these arrays", "grad_output"},
    "torch": set(),
    "dask": {
        "a count of its collectives",
        "a gradient: there is no autograd for these arrays",
        LOOK,
        "calls that differ between its shards",
        "grad_output",
        "shards that are padded, or do not follow each other in the order of their ranks",
    },
    "jax": {
        "a count of its collectives",
        "a linear loss",
        LOOK,
        "calls that differ between its shards",
        "shards that are padded, or do not follow each other in the order of their ranks",
    },
}


@pytest.mark.extended
@pytest.mark.parametrize("backend", [pytest.param("numpy", marks=needs_mpi), "torch", "dask", "jax"])
def test_ours_in_four_shards(backend):
    """Each has what it is asked for; what a library cannot have is listed here."""
    cases = run(OURS, backends=(backend,), shards=4, time_limit=120.0).subjects[0].cases
    assert [f"{case.id}: {case.message}" for case in cases if case.outcome == FAILS] == []
    assert {case.message for case in cases if case.outcome == NOT} == LACKS[backend]
    assert {case.clause for case in cases if case.outcome == HOLDS} == {"P1", "P4"} | (
        set() if backend in ("dask", "jax") else {"P2", "P3"}
    )


@pytest.mark.extended
def test_the_parallel_loss_of_torch_makes_its_collectives():
    """Within what makes DTensors of its arrays, collectives are counted as well."""
    spec = "crossent_conformance.peers.torch_shards:parallel"
    cases = run(spec, "test_P1_fewer*", "test_P2_two*plain*", backends=("torch",), shards=4).subjects[0].cases
    counted = [case.message for case in cases if case.clause == "P2"]
    assert counted
    assert all("3 collectives, where the contract has 2: of [12, 12, 12] numbers" in message for message in counted)
