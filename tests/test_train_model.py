"""The model's gradients against central finite differences in float64, its causality, and its optimiser."""

import array_api_strict
import numpy as np
import pytest

import crossent
from crossent.train import output
from crossent.train.model import Adam, LanguageModel, cosine

RNG = np.random.default_rng(7)
IDS = RNG.integers(0, 11, (3, 5)).astype(np.int32)
WINDOW = 3


def in_float64(xp=np, window=WINDOW):
    return LanguageModel(xp, 11, window, 4, 6, 0, lambda values: xp.asarray(values.astype(np.float64), copy=True))


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "array-api-strict"])
@pytest.mark.parametrize(("window", "linear"), [(1, False), (2, True), (WINDOW, False), (WINDOW, True), (7, False)])
def test_every_parameter_has_the_gradient_of_the_mean_loss(xp, window, linear):
    """Through the chain that the loss's backward starts; tokens occur twice, and a window may be longer than a row."""
    assert len(np.unique(IDS)) < IDS.size
    model = in_float64(xp, window)
    loss_fn = output.loss(xp, linear, ignore_index=0)
    ids = xp.asarray(IDS)

    def value():
        hidden, targets = crossent.shift_for_next_token(model.forward(ids), ids)
        weight, bias = model.output
        return float(loss_fn.forward(hidden, weight, targets, bias))

    value()
    gradients = model.backward(*loss_fn.backward())
    assert len(gradients) == len(model.parameters)
    for parameter, gradient in zip(model.parameters, gradients, strict=True):
        expected = np.empty(gradient.shape)
        for index in np.ndindex(*gradient.shape):
            kept = float(parameter[index])
            parameter[index] = kept + 1e-6
            above = value()
            parameter[index] = kept - 1e-6
            expected[index] = (above - value()) / 2e-6
            parameter[index] = kept
        np.testing.assert_allclose(np.asarray(gradient), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("changed", range(5))
def test_a_token_changes_no_earlier_hidden_state(changed):
    model = in_float64()
    other = IDS.copy()
    other[:, changed] = (other[:, changed] + 1) % 11
    hidden, changed_hidden = model.forward(IDS), model.forward(other)
    seen = np.zeros(5, dtype=bool)
    seen[changed : changed + WINDOW] = True
    np.testing.assert_array_equal(np.any(changed_hidden != hidden, axis=-1), np.broadcast_to(seen, IDS.shape))


def test_adam_follows_its_definition():
    value, mean, square = RNG.standard_normal(20), 0.0, 0.0
    parameters = [value.copy()]
    optimiser = Adam(np, parameters, betas=(0.8, 0.9), epsilon=1e-3)
    for step in range(1, 6):
        gradient = RNG.standard_normal(value.shape)
        optimiser.step([gradient], 0.1)
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.9 * square + 0.1 * gradient**2
        value = value - 0.1 * (mean / (1 - 0.8**step)) / (np.sqrt(square / (1 - 0.9**step)) + 1e-3)
        np.testing.assert_allclose(parameters[0], value, rtol=1e-12)


def test_the_learning_rate_falls_from_one_to_zero():
    shares = [cosine(step, 10) for step in range(11)]
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(0.0, abs=1e-15)
    assert shares == sorted(shares, reverse=True)
