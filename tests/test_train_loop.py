"""Training on small texts: the loss falls, every backend takes the same path, and the figures are what they say."""

import json
from dataclasses import replace

import numpy as np
import pytest

import crossent
from crossent.info import BACKENDS
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


@pytest.mark.parametrize("name", [name for name, backend in BACKENDS.items() if backend.trains and name != "numpy"])
def test_every_backend_follows_numpys_curve_to_float32_rounding(name, corpus, numpy_run):
    problem = BACKENDS[name].problem()
    if problem is not None:
        pytest.skip(problem)
    run = train(BACKENDS[name], corpus, SETTINGS)
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
    logits, targets = crossent.shift_for_next_token(model.forward(corpus.validation), corpus.validation)
    counted = targets != PADDING
    expected = crossent.cross_entropy(logits[counted], targets[counted])
    for batch in (1, 4, 1000):
        loss, perplexity = validation_loss(model, corpus, numpy, batch)
        assert loss == pytest.approx(float(expected), rel=1e-6)
        assert perplexity == pytest.approx(np.exp(float(expected)), rel=1e-6)


def test_results_without_numpy_have_no_differences(corpus, numpy_run):
    assert Results(corpus, SETTINGS, [numpy_run]).difference(numpy_run) == 0.0
    without = Results(corpus, SETTINGS, [replace(numpy_run, backend="torch")])
    assert json.loads(json.dumps(without.as_json()))["backends"][0]["largest_difference"] is None
