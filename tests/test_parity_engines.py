"""`crossent parity`: which code answered on each side, and what the same code on both sides is worth."""

import json
import os
from unittest import mock

import numpy as np
import pytest
from tests.pages import read
from tests.parity_runs import TWO, edited, fails, parity_of

from crossent.engines import select
from crossent_conformance import backends
from crossent_conformance.adapter import UnderTest
from crossent_conformance.arguments import UsageError
from crossent_conformance.parity import compare, file, shown
from crossent_conformance.parity.cases import CASES
from crossent_conformance.places import Place
from crossent_conformance.subjects_crossent import subject

HOST = ("--backend", "numpy", "torch")
NUMBA = "the same machine code (numba) walked the logits of numpy and torch"


def test_one_engine_on_both_sides_is_no_parity(capsys, tmp_path):
    path, page = tmp_path / "parity.json", tmp_path / "parity.html"
    picked = ("--case", "plain", "errors", "--dtype", "float32", "--engine", "numba")
    with pytest.raises(UsageError, match="the same machine code walked all logits: see the notes; accepted: another"):
        parity_of(None, *picked, "--html", page, backends=HOST)
    printed, shown_by_page = capsys.readouterr().out, read(page.read_text(encoding="utf-8")).words
    for words in (f"{NUMBA} in 1 of 1 cells", "0 (0) same engine", "engine of torch: numba\n"):
        assert words in printed
    assert "same engine: the same machine code walked the logits of numpy and torch (numba):\n" in printed
    for said in (printed, shown_by_page):
        assert "parity was not tested by different code" in said
        assert "parity holds" not in said
    for words in (NUMBA[1:], "pair that is compared there: numpy and torch (numba).", "torch: numba"):
        assert words in shown_by_page
    assert parity_of(None, *picked, "--json", path, backends=HOST) == 0
    assert "parity was not tested by different code; the answers of numpy, torch are" in capsys.readouterr().out
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["holds"] is None
    assert document["same_code"] == [{"between": ["numpy", "torch"], "engines": ["numba"], "cells": 1, "of": 1}]
    assert document["cases"][0]["engines"] == {"numpy": "numba", "torch": "numba"}
    assert parity_of(None, *picked, "--baseline", path, backends=HOST) == 0  # of another version or machine
    assert "parity holds. " in capsys.readouterr().out


def test_the_cells_that_different_code_answered_are_counted(capsys):
    three = (*HOST, "array-api-strict")
    assert parity_of(None, "--case", "plain", "--engine", "numpy=numba", "torch=numba", backends=three) == 0
    printed = capsys.readouterr().out
    assert "parity holds in 2 of 3 cells; in the others the same machine code walked all logits." in printed
    assert f"{NUMBA} in 3 of 3 cells" in printed
    assert printed.count("0 (0) same engine") == 1


def test_each_backend_has_the_engine_that_is_asked_for(capsys, tmp_path):
    path = tmp_path / "parity.json"
    picked = ("--case", "plain", "explicit", "--engine", "numba", "numpy=array_api", "--json", path)
    assert parity_of(None, *picked, backends=HOST) == 0
    printed = capsys.readouterr().out
    assert "parity holds. " in printed
    assert "same engine" not in printed
    assert "explicit  no" in printed
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["cases"][0]["engines"] == {"numpy": "array_api of numpy", "torch": "numba"}
    assert document["cases"][-1]["answers"]["torch"]["lacks"].startswith("engine='numba': it has no clipped prob")
    assert "--engine numba numpy=array_api" in document["command"]


@pytest.mark.parametrize(
    ("name", "engines", "message"),
    [
        (None, "fast", "unknown engine 'fast'; accepted: auto, numba, cuda, array_api"),
        (None, "numpy=", "unknown engine ''; accepted: auto"),
        (None, "jax=numba", "unknown backend of --engine 'jax'; accepted: numpy, array-api-strict"),
        (None, "numba", "backend array-api-strict: engine='numba': it walks eager NumPy arrays"),
        (None, "numpy=auto numpy=numba", "--engine numpy=auto numpy=numba: two for numpy; accepted: one"),
        ("same", "numba", "same tells of no engines; accepted: without --engine"),
    ],
)
def test_an_engine_that_cannot_serve_is_a_mistake_before_anything_runs(capsys, name, engines, message):
    with pytest.raises(UsageError) as caught:
        parity_of(name, "--engine", *engines.split())
    assert message in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_nothing_is_said_of_the_engines_of_other_subjects(capsys, tmp_path):
    path = tmp_path / "parity.json"
    assert parity_of("same", "--case", "plain", "--json", path) == 0
    assert "engine" not in capsys.readouterr().out
    assert json.loads(path.read_text(encoding="utf-8"))["cases"][0]["engines"] == {}


@pytest.mark.parametrize(
    ("case", "told"), [("plain", "numba"), ("explicit", "array_api"), ("soft-smoothing", "array_")]
)
def test_of_dask_the_engine_of_the_chunks_is_told(monkeypatch, case, told):
    backend, problem, walked = backends.get("dask"), CASES[case].problem("float32", 0), []
    place, engine = Place(backend, "float32", backend.modes[0]), select.engine
    monkeypatch.setattr(select, "engine", lambda name: walked.append(name) or engine(name))
    with mock.patch.dict(os.environ):
        os.environ.pop("CROSSENT_ENGINE", None)
        under_test = UnderTest(subject, "")
        said = place.call(under_test.engine, problem.logits, problem.targets, **problem.options)
        place.evaluate(under_test.loss_and_grad, problem.logits, problem.targets, **problem.options)
    assert said.startswith(told)
    assert said.endswith(" in pieces")
    assert ("numba" in walked) == (told == "numba")


# ---- the largest difference


def test_the_largest_difference_is_shown_with_its_input(capsys, tmp_path):
    path, page = tmp_path / "parity.json", tmp_path / "parity.html"
    picked = ("--case", "plain", "--dtype", "float32", "--json", path, "--html", page)
    printed = fails(capsys, parity_of("far", *picked), "\nThe largest difference: plain float32 loss, numpy and array-")
    worst = json.loads(path.read_text(encoding="utf-8"))["worst"]
    given = worst["input"]
    row = int(worst["text"].rpartition("(")[2].strip("(,)"))
    problem = CASES["plain"].problem("float32", 0)
    np.testing.assert_array_equal(np.float32(given["logits"]), np.float32(problem.logits[row]))
    assert given["targets"] == problem.targets[row]
    assert given["options"] == {"reduction": "none"}
    assert f"  logits  {given['logits']} (float32, eager)\n  targets {given['targets']}\n" in printed
    assert max(len(str(logit)) for logit in given["logits"]) <= 12
    article = read(page.read_text(encoding="utf-8")).all("article")[0]
    assert [cell.text for cell in article.all("td", cls="number")][:10] == [str(logit) for logit in given["logits"]]
    assert "reduction = none" in article.words


@pytest.mark.parametrize(
    ("case", "at", "shape", "weight"),
    [
        ("weights", (1, 2, 3), [7], lambda options: options["weights"][1, 2]),
        ("both-weights", (1, 2, 3), [7], lambda options: options["weights"][2]),
        ("everything", (1,), [6, 7], lambda options: options["weights"][1]),
        ("everything", (1, 2, 3), [7], lambda options: options["weights"][1, 2]),
        ("mean", (), [4, 6, 7], None),
        ("mean", None, [4, 6, 7], None),
        ("vocabulary", (1, 17), [50257], None),
    ],
)
def test_an_input_is_that_of_the_entry(tmp_path, case, at, shape, weight):
    path, problem = tmp_path / "parity.json", CASES[case].problem("float32", 0)
    parity_of("same", "--case", "plain", "--json", path)
    found = compare.Difference(case, "float32", "loss", ("numpy", "torch"), 1.0, 0.5, "", at)
    given = shown._input(found, file.read(path))
    assert given["shape"] == shape
    assert (given["logits"] is None) == (np.prod(shape) > 64)
    if weight is not None:
        np.testing.assert_array_equal(given["options"]["weights"], weight(problem.options))
    if case == "everything":
        assert given["options"]["grad_output"] == problem.options["grad_output"][1]


def test_files_of_earlier_versions_are_read(capsys, tmp_path):
    path = tmp_path / "parity.json"
    assert parity_of(None, "--case", "plain", "--engine", "numba", "--json", path, backends=HOST) == 0

    def earlier(data):
        del data["worst"], data["same_code"]
        for case in data["cases"]:
            del case["engines"]

    edited(path, earlier)
    capsys.readouterr()
    assert parity_of(None, "--results", path, "--baseline", path, backends=()) == 0
    assert "engine" not in capsys.readouterr().out


# ---- as it goes


@pytest.mark.parametrize("terminal", [False, True])
def test_elsewhere_than_on_a_terminal_a_case_is_a_line(capsys, monkeypatch, terminal):
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    assert parity_of("same", "--case", "plain", "mean", backends=TWO) == 0
    assert (capsys.readouterr().err == "1/2 plain\n2/2 mean\n") != terminal
