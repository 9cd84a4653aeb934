"""Training on small texts: the loss falls, every backend takes the same path, and the figures are what they say."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import crossent
from crossent.info import BACKENDS
from crossent.train import memory, output
from crossent.train.corpus import prepare
from crossent.train.loop import Results, Settings, train, validation_loss
from crossent.train.model import LanguageModel
from crossent.train.vocabulary import PADDING

TEXT = "".join(f"{number} green bottles hanging on the wall, and if {number} fall\n" for number in range(400))
SETTINGS = Settings(steps=30, vocabulary=300, batch=4, seq=12, embedding=8, hidden=16, validations=3)


@pytest.fixture(scope="module")
def corpus():
    return prepare(TEXT, "bottles", SETTINGS.vocabulary, SETTINGS.seq)


@pytest.fixture(scope="module")
def numpy_run(corpus):
    return train(BACKENDS["numpy"], corpus, SETTINGS)


def test_the_loss_falls_from_log_V_below_the_unigram_model(corpus, numpy_run):
    assert numpy_run.losses[0] == pytest.approx(np.log(corpus.V), abs=0.05)
    assert len(numpy_run.losses) == SETTINGS.steps
    longer = train(BACKENDS["numpy"], corpus, replace(SETTINGS, steps=150))
    assert longer.validation_perplexity < 0.5 * corpus.unigram_perplexity()
    assert longer.losses[-1] < 0.5 * longer.losses[0]


def test_validation_is_taken_before_during_and_after(numpy_run):
    assert [step for step, _ in numpy_run.validation] == [0, 10, 20, 30]
    assert numpy_run.validation_perplexity == pytest.approx(np.exp(numpy_run.validation[-1][1]), rel=1e-6)


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if backend.trains])
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_every_backend_follows_numpys_curve_to_float32_rounding(name, linear, corpus, numpy_run, monkeypatch):
    """With logits and without: in blocks of a few of a step's 44 tokens."""
    problem = BACKENDS[name].problem()
    if problem is not None:
        pytest.skip(problem)
    monkeypatch.setattr(output, "BLOCKS", 2**15)
    run = train(BACKENDS[name], corpus, SETTINGS, linear=linear)
    assert (run.linear, run.label) == (linear, f"{name}, linear" if linear else name)
    spacing = np.spacing(np.float32(run.losses[0]))
    assert Results(corpus, SETTINGS, [numpy_run]).difference(run) <= 8 * spacing
    assert run.validation_perplexity == pytest.approx(numpy_run.validation_perplexity, rel=1e-5)


def test_the_seed_decides_and_progress_hears_of_every_step(corpus, numpy_run):
    heard, before = [], (corpus.training.copy(), corpus.validation.copy())
    short = replace(SETTINGS, steps=4)
    again = train(BACKENDS["numpy"], corpus, short, lambda *what: heard.append(what))
    assert heard == list(enumerate(again.losses, start=1))
    assert again.tokens_per_second > 0
    assert again.seconds > 0
    np.testing.assert_allclose(again.losses[0], numpy_run.losses[0], rtol=1e-7)
    assert abs(train(BACKENDS["numpy"], corpus, replace(short, seed=1)).losses[0] - again.losses[0]) > 1e-5
    np.testing.assert_array_equal(corpus.training, before[0], "training touches the corpus")
    np.testing.assert_array_equal(corpus.validation, before[1])


def test_padding_does_not_count_in_the_validation_loss(corpus):
    """However the windows are cut into batches, the loss is the mean over the real targets."""
    numpy = BACKENDS["numpy"]
    model = LanguageModel(np, corpus.V, 4, 8, 16, 0, numpy.array)
    assert np.any(corpus.validation == PADDING)
    hidden, targets = crossent.shift_for_next_token(model.forward(corpus.validation), corpus.validation)
    weight, bias = model.output
    counted = targets != PADDING
    expected = crossent.cross_entropy(hidden[counted] @ weight.T + bias, targets[counted])
    for batch, linear in ((1, False), (4, True), (1000, False)):
        loss, perplexity = validation_loss(model, corpus, numpy, batch, linear)
        assert loss == pytest.approx(float(expected), rel=1e-6)
        assert perplexity == pytest.approx(np.exp(float(expected)), rel=1e-6)


def test_results_without_numpy_have_no_differences(corpus, numpy_run):
    assert Results(corpus, SETTINGS, [numpy_run]).difference(numpy_run) == 0.0
    without = Results(corpus, SETTINGS, [replace(numpy_run, backend="torch")])
    assert json.loads(json.dumps(without.as_json()))["backends"][0]["largest_difference"] is None


def test_a_way_differs_from_its_own_backends_curve(corpus, numpy_run):
    moved = [loss + 0.5 for loss in numpy_run.losses]
    there = [
        numpy_run,
        replace(numpy_run, losses=moved, linear=True),
        replace(numpy_run, backend="torch", losses=moved),
    ]
    results = Results(corpus, SETTINGS, [*there, replace(there[2], linear=True), replace(there[2], backend="jax")])
    assert results.reference is numpy_run
    assert [results.difference_of_ways(run) for run in results.runs] == [None, 0.5, None, 0.0, None]
    alone = replace(numpy_run, linear=True)
    assert Results(corpus, SETTINGS, [alone]).difference_of_ways(alone) is None


@pytest.mark.parametrize("linear", [False, True], ids=["logits", "linear"])
def test_without_logits_no_array_is_as_large_as_they_are(linear):
    """NumPy's arrays as Python counts them: a block, and the gradients; or logits and their gradient."""
    n, v, width = 4096, 2048, 16
    step = memory.step_of(BACKENDS["numpy"], v, width, n, linear)
    step()
    tracemalloc.start()
    try:
        step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    logits = 4 * n * v
    assert peak < output.BLOCKS + logits / 8 if linear else peak >= 2 * logits


def test_the_memory_of_a_step_is_seen():
    seen = []

    def step():
        held = np.ones(2**25, dtype=np.uint8)  # written, so that it is there
        seen.append(held[-1])

    assert 0.8 * 2**25 < memory.rise(step, 0.5) < 2 * 2**25
    assert len(seen) > memory.WARM_UPS


@pytest.mark.extended
def test_a_process_of_its_own_measures_both_ways():
    logits, linear = (memory.peak(BACKENDS["numpy"], 2048, 32, 4096, linear) for linear in (False, True))
    assert logits > 4 * 4096 * 2048
    assert 0 < linear < logits / 3


def test_without_statm_ps_tells_and_without_both_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(memory, "_STATM", Path("/no/such/file"))
    asked = []

    def told(command, **_):
        asked.append(command)
        return type("Done", (), {"stdout": b" 2048\n"})

    monkeypatch.setattr(memory.subprocess, "run", told)
    assert memory.resident() == 2**21
    assert asked[0][:3] == ["ps", "-o", "rss="]

    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(memory.subprocess, "run", absent)
    assert memory.resident() is None
    assert memory.rise(lambda: None, 0.01) is None
    # Nothing in this machine's memory is measured of arrays that lie on a device.
    elsewhere = replace(BACKENDS["numpy"], name="cupy")
    monkeypatch.setattr(type(elsewhere), "device_name", lambda self: "cuda:0")
    assert memory.peak(elsewhere, 10, 4, 8, True) is None
