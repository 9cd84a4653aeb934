"""Each layer's backward against central finite differences in float64, and the model's causality."""

import array_api_strict
import numpy as np
import pytest

import crossent
from crossent.train.layers import CausalWindow, Embedding, Linear, Tanh
from crossent.train.model import LanguageModel, Shape
from crossent.train.optimiser import Adam, cosine

RNG = np.random.default_rng(7)
IDS = RNG.integers(0, 11, (3, 5)).astype(np.int32)
SHAPE = Shape(V=11, window=3, embedding=4, hidden=6)


@pytest.fixture(params=[np, array_api_strict], ids=["numpy", "array-api-strict"])
def xp(request):
    return request.param


def differences(f, x, step=1e-6):
    """The gradient of a scalar function of one NumPy array, changed in place."""
    gradient = np.empty_like(x)
    for index in np.ndindex(x.shape):
        kept = x[index]
        x[index] = kept + step
        above = f()
        x[index] = kept - step
        below = f()
        x[index] = kept
        gradient[index] = (above - below) / (2 * step)
    return gradient


def check(xp, make, inputs, *parameters):
    """`make(*parameters)` is a layer; its gradients are those of the sum of its outputs with random factors."""

    def build():
        return make(*(xp.asarray(parameter, copy=True) for parameter in parameters))

    factors = RNG.standard_normal(np.asarray(build().forward(xp.asarray(inputs))).shape)

    def value():
        return float(np.sum(np.asarray(build().forward(xp.asarray(inputs))) * factors))

    layer = build()
    layer.forward(xp.asarray(inputs))
    d_inputs = layer.backward(xp.asarray(factors))
    if inputs.dtype == np.float64:
        np.testing.assert_allclose(np.asarray(d_inputs), differences(value, inputs), rtol=1e-7, atol=1e-8)
    for held, parameter in zip(layer.parameters(), parameters, strict=True):
        np.testing.assert_allclose(np.asarray(held.gradient), differences(value, parameter), rtol=1e-7, atol=1e-8)


def test_embedding_adds_the_gradients_of_repeated_tokens(xp):
    assert len(np.unique(IDS)) < IDS.size
    check(xp, lambda table: Embedding(xp, table), IDS, RNG.standard_normal((11, 4)))


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_causal_window(xp, size):
    check(xp, lambda: CausalWindow(xp, size), RNG.standard_normal((2, 4, 3)))


def test_linear(xp):
    check(
        xp,
        lambda weight, bias: Linear(xp, weight, bias),
        RNG.standard_normal((2, 3, 4)),
        RNG.standard_normal((4, 5)),
        RNG.standard_normal(5),
    )


def test_tanh(xp):
    check(xp, lambda: Tanh(xp), RNG.standard_normal((2, 3, 4)))


def model_in_float64(seed=0):
    return LanguageModel(np, SHAPE, seed, lambda values: values.astype(np.float64))


def test_the_whole_model_through_the_loss():
    """The chain that the loss's backward starts gives every parameter the gradient of the mean loss."""
    model = model_in_float64()
    loss_fn = crossent.CrossEntropyLoss(ignore_index=0)

    def value():
        logits, targets = crossent.shift_for_next_token(model.forward(IDS), IDS)
        return float(loss_fn.forward(logits, targets))

    value()
    model.backward(loss_fn.backward())
    for parameter in model.parameters():
        expected = differences(value, parameter.value)
        np.testing.assert_allclose(parameter.gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("changed", range(5))
def test_a_token_changes_no_earlier_logits(changed):
    model = model_in_float64()
    logits = model.forward(IDS)
    other = IDS.copy()
    other[:, changed] = (other[:, changed] + 1) % 11
    changed_logits = model.forward(other)
    np.testing.assert_array_equal(changed_logits[:, :changed], logits[:, :changed])
    seen = slice(changed, changed + SHAPE.window)
    assert np.all(np.any(changed_logits[:, seen] != logits[:, seen], axis=-1))
    np.testing.assert_array_equal(changed_logits[:, seen.stop :], logits[:, seen.stop :])


def test_the_first_loss_is_near_log_V():
    model = LanguageModel(np, Shape(V=500), 1, lambda values: values)
    ids = RNG.integers(1, 500, (4, 33)).astype(np.int32)
    logits, targets = crossent.shift_for_next_token(model.forward(ids), ids)
    assert float(crossent.cross_entropy(logits, targets)) == pytest.approx(np.log(500), abs=0.02)


def test_adams_first_step_is_the_learning_rate_against_the_sign():
    model = model_in_float64()
    before = [parameter.value.copy() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.gradient = RNG.standard_normal(parameter.value.shape)
    Adam(np, model.parameters()).step(0.01)
    for start, parameter in zip(before, model.parameters(), strict=True):
        np.testing.assert_allclose(parameter.value, start - 0.01 * np.sign(parameter.gradient), atol=1e-6)


def test_adam_follows_its_definition_for_several_steps():
    model = model_in_float64()
    [table, *_] = model.parameters()
    value, mean, square = table.value.copy(), 0.0, 0.0
    optimiser = Adam(np, [table], betas=(0.8, 0.9), epsilon=1e-3)
    for step in range(1, 6):
        table.gradient = RNG.standard_normal(value.shape)
        optimiser.step(0.1)
        mean = 0.8 * mean + 0.2 * table.gradient
        square = 0.9 * square + 0.1 * table.gradient**2
        value = value - 0.1 * (mean / (1 - 0.8**step)) / (np.sqrt(square / (1 - 0.9**step)) + 1e-3)
    np.testing.assert_allclose(table.value, value, rtol=1e-12)


def test_the_learning_rate_falls_from_one_to_zero():
    shares = [cosine(step, 10) for step in range(11)]
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(0.0, abs=1e-15)
    assert shares == sorted(shares, reverse=True)
