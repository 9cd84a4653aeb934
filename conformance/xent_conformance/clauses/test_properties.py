"""Properties that hold for every input: shapes, dtypes, options and special values as hypothesis thinks of them.

The oracle says what is right wherever the contract does; the other properties need no oracle and see larger inputs.
Examples are derived from the test's name, so every run sees the same ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from xent_conformance import agree, oracle, units
from xent_conformance.backends import HALF, Mode

DIRECT = (Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.LAZY, Mode.STRICTEST)
"""Modes that compile nothing by shape."""

few = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
many = settings(few, max_examples=120)

EXACT = st.integers(-160, 160).map(lambda n: n / 8)
"""Logits that every dtype of the suite holds exactly."""
SPECIAL = st.sampled_from([-math.inf, -math.inf, math.inf, math.nan])
ANY_TOKENS = st.lists(st.integers(0, 3), max_size=3)
WEIGHT = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 3.0])


def _filled(draw, shape, elements):
    size = math.prod(shape)
    return np.array(draw(st.lists(elements, min_size=size, max_size=size)), dtype=np.float64).reshape(shape)


@st.composite
def problems(draw, special: bool = True, soft: bool | None = None, tokens: Any = ANY_TOKENS):
    """Logits, targets and V: any shape of up to three token axes, finite or not."""
    tokens = tuple(draw(tokens))
    V = draw(st.integers(1, 6))
    elements = st.one_of(EXACT, EXACT, EXACT, SPECIAL) if special and draw(st.booleans()) else EXACT
    logits = _filled(draw, (*tokens, V), elements)
    if draw(st.booleans()) if soft is None else soft:
        return logits, _filled(draw, (*tokens, V), st.sampled_from([0.0, 0.0, 0.125, 0.5, 1.0]))
    size = math.prod(tokens)
    dtype = draw(st.sampled_from(["int64", "int32", "uint8", "int8"]))
    targets = draw(st.lists(st.integers(0, V - 1), min_size=size, max_size=size))
    return logits, np.array(targets, dtype=dtype).reshape(tokens)


@st.composite
def options_for(draw, logits, targets):
    """A combination that the contract allows."""
    tokens, V = logits.shape[:-1], logits.shape[-1]
    soft = targets.dtype.kind == "f"
    reduction = draw(st.sampled_from(["none", "sum", "mean", "sequence"] if tokens else ["none", "sum", "mean"]))
    options = {"reduction": reduction, "algorithm": draw(st.sampled_from(["stable", "stable", "explicit"]))}
    if draw(st.booleans()):
        kept = draw(st.integers(0, len(tokens)))
        shape = tuple(draw(st.sampled_from([n, 1])) for n in tokens[kept:])
        options["weights"] = _filled(draw, shape, WEIGHT)
    if draw(st.booleans()):
        options["class_weights"] = _filled(draw, (V,), WEIGHT)
    if not soft and draw(st.booleans()):
        options["ignore_index"] = draw(st.one_of(st.integers(0, V - 1), st.sampled_from([-100, -1, V, 2**40])))
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.125, 0.5, 1.0]))
        options["smoothing"] = draw(st.sampled_from(["others", "uniform"]))
    if draw(st.booleans()):
        options["z_loss"] = draw(st.sampled_from([0.0, 0.0625, 1.0]))
    if reduction in ("mean", "sequence"):
        options["denominator"] = draw(st.sampled_from([None, "tokens", 2, 0.5]))
    shape = {"none": tokens, "sequence": tokens[:-1]}.get(reduction, ())
    options["grad_output"] = _filled(draw, shape, st.sampled_from([0.5, 1.0, 1.5]))
    return options


@pytest.mark.clause("V1", "V7", "V8", "V9", "V10", "R1", "R2", "R3", "R6", "S1", "S2", "S3", "S4", "S6", "A2", "A3")
@pytest.mark.places(modes=DIRECT, sparse=True)
@few
@given(st.data())
def test_V9_any_input_with_any_options_is_the_oracles(place, subject, data):
    logits, targets = data.draw(problems())
    options = data.draw(options_for(logits, targets))
    agree.with_oracle(place, subject, logits, targets, **options)


@pytest.mark.clause("V1", "S2", "S3", "S4")
@pytest.mark.places(modes=DIRECT, sparse=True)
@many
@given(problems(soft=False, tokens=st.just((2,))))
def test_V1_any_row(place, subject, problem):
    agree.with_oracle(place, subject, *problem, reduction="none")


@pytest.mark.clause("V2", "S5")
@pytest.mark.places(modes=DIRECT, sparse=True)
@many
@given(st.data())
def test_S5_finite_logits_of_any_size(place, subject, data):
    """Never NaN, never negative; infinite only where the true loss is past the dtype."""
    largest = units.LARGEST[place.dtype]
    sizes = st.one_of(
        st.floats(-1e4, 1e4), st.floats(-largest, largest), st.sampled_from([largest, -largest, 0.0, -0.0, 1e-38])
    )
    V = data.draw(st.integers(1, 9))
    logits = place.round(_filled(data.draw, (3, V), sizes))
    assume(np.isfinite(logits).all())
    targets = np.array(data.draw(st.lists(st.integers(0, V - 1), min_size=3, max_size=3)))
    smoothing = data.draw(st.sampled_from([0.0, 0.0, 0.125]))
    options = {"reduction": "none", "label_smoothing": smoothing}
    loss, d_logits = place.evaluate(subject.loss_and_grad, logits, targets, **options)
    assert not np.isnan(loss).any()
    assert not np.isnan(d_logits).any()
    assert (loss >= 0).all()
    assert not np.signbit(loss[loss == 0]).any()
    exact, _ = oracle.cross_entropy(logits, targets, **options)
    infinite = np.isinf(loss)
    assert (exact.high[infinite] >= 0.999 * units.LARGEST[place.compute_dtype]).all()


@pytest.mark.clause("V3")
@pytest.mark.places(modes=DIRECT, sparse=True)
@few
@given(
    problems(special=False, soft=False, tokens=st.just((3,))), st.sampled_from([-64.0, 8.0, 1024.0, 4096.0, -8192.0])
)
def test_V3_any_exact_shift(place, subject, problem, shift):
    logits, targets = problem
    assume((place.round(logits + shift) == logits + shift).all())
    exact_loss, exact = oracle.cross_entropy(logits, targets, reduction="none")
    loss, d_logits = place.evaluate(subject.loss_and_grad, logits + shift, targets, reduction="none")
    units.check(loss, exact_loss, place.compute_dtype)
    units.check(d_logits, exact, place.compute_dtype, stored=place.dtype)


@pytest.mark.clause("V4")
@pytest.mark.places(modes=DIRECT, sparse=True)
@many
@given(st.sampled_from([1, 2, 3, 8, 65, 400]), st.integers(0, 2**32 - 1), st.floats(0.0, 60.0), st.floats(-80.0, 80.0))
@example(8, 0, 0.0, 20.0)
@example(237, 0, 0.0, 0.0)
def test_V4_rows_of_the_gradient_sum_to_zero(place, subject, V, seed, scale, gap):
    rng = np.random.default_rng(seed)
    logits, targets = scale * rng.standard_normal((3, V)), rng.integers(0, V, 3)
    logits[np.arange(3), targets] = logits.max(axis=1) + gap
    logits = place.round(np.clip(logits, -1e4, 1e4))
    _, d_logits = place.evaluate(subject.loss_and_grad, logits, targets, reduction="none")
    d_logits = d_logits.astype(np.float64)
    largest = np.abs(d_logits).max(axis=1)
    allowed = np.array([units.allowance(V, size) * size for size in largest]) * units.EPS[place.compute_dtype]
    allowed += units.FLOOR[place.compute_dtype] * V
    if place.dtype in HALF:
        allowed += units.half_ulp(d_logits, place.dtype).sum(axis=1)
    # Summed exactly: the sum of a row must not add a rounding of its own.
    assert (np.abs([math.fsum(row) for row in d_logits.tolist()]) <= allowed).all()


@pytest.mark.clause("R5")
@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST), sparse=True)
@few
@given(st.data())
def test_R5_a_row_knows_nothing_of_its_company(place, subject, data):
    """Reordered, repeated, alone: the same bits."""
    logits, targets = data.draw(problems(tokens=st.just((4,))))
    order = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6)))
    options = {"reduction": "none", "label_smoothing": data.draw(st.sampled_from([0.0, 0.125]))}
    loss, d_logits = place.evaluate(subject.loss_and_grad, logits, targets, **options)
    again, d_again = place.evaluate(subject.loss_and_grad, logits[order], targets[order], **options)
    np.testing.assert_array_equal(again, loss[order])
    np.testing.assert_array_equal(d_again, d_logits[order])


@pytest.mark.clause("V7")
@pytest.mark.places(modes=DIRECT, sparse=True)
@few
@given(st.data())
def test_V7_one_hot_targets_are_hard_targets(place, subject, data):
    logits, targets = data.draw(problems(soft=False, special=False))
    smoothed = {
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.125])),
        "smoothing": data.draw(st.sampled_from(["others", "uniform"])),
    }
    one_hot = (np.arange(logits.shape[-1]) == targets[..., None]).astype(np.float64)
    exact_loss, exact = oracle.cross_entropy(logits, targets, reduction="none", **smoothed)
    loss, d_logits = place.evaluate(subject.loss_and_grad, logits, one_hot, reduction="none", **smoothed)
    units.check(loss, exact_loss, place.compute_dtype)
    soft = oracle.cross_entropy(logits, one_hot, reduction="none", **smoothed)[1]
    # The target's entry of soft targets is allowed what a sum of two terms is.
    exact = units.Exact(exact.high, exact.low, np.maximum(exact.allowed, soft.allowed))
    units.check(d_logits, exact, place.compute_dtype, stored=place.dtype)


@pytest.mark.clause("A4", "A3")
@pytest.mark.places(modes=(Mode.EAGER, Mode.READONLY, Mode.STRIDED, Mode.STRICTEST), dtypes=("float32",))
@many
@given(st.data())
def test_A4_any_integers_as_targets(place, subject, data):
    """Refused with the first offending position, or right: there is nothing between."""
    dtype = data.draw(st.sampled_from(["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]))
    bounds = np.iinfo(dtype)
    values = st.one_of(st.integers(0, 4), st.integers(0, 4), st.integers(int(bounds.min), int(bounds.max)))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    size = math.prod(shape)
    targets = np.array(data.draw(st.lists(values, min_size=size, max_size=size)), dtype=dtype).reshape(shape)
    ignore = data.draw(
        st.one_of(
            st.none(),
            st.sampled_from([-100, -1, 255]),
            st.integers(-(2**63), 2**63 - 1),
            st.sampled_from(targets.ravel().tolist()),
        )
    )
    assume(ignore is None or ignore < 2**63)
    logits = np.linspace(-2.0, 2.0, 5 * size).reshape(*shape, 5)
    bad = [i for i in np.ndindex(shape) if not 0 <= int(targets[i]) < 5 and int(targets[i]) != ignore]
    x, t = place.put(logits, place.dtype), place.put(targets)
    if bad:
        name = f"targets[{', '.join(map(str, bad[0]))}]" if shape else "targets"
        with pytest.raises(IndexError) as caught:
            subject.loss(x, t, ignore_index=ignore)
        assert str(caught.value).startswith(f"{name} is {int(targets[bad[0]])}; accepted: 0 to 4 (V = 5)")
    else:
        subject.loss(x, t, ignore_index=ignore)
    loss = place.to_numpy(subject.loss(x, t, ignore_index=ignore, reduction="none", check_targets=False))
    assert [i for i in np.ndindex(shape) if np.isnan(loss[i])] == bad
    assert all(loss[i] == 0 for i in np.ndindex(shape) if int(targets[i]) == ignore)


@pytest.mark.clause("A2", "R5")
@pytest.mark.places(modes=(Mode.EAGER,), backends=("numpy", "torch", "torch-cuda", "cupy"), sparse=True)
@many
@given(st.data())
def test_A2_any_slice_of_an_array(place, subject, data):
    """Views cut out of a larger array give what their copies give, and nothing is written; nor past `out`."""
    axes = data.draw(st.permutations([0, 1, 2]))
    torch = place.backend.name.startswith("torch")
    steps = st.sampled_from([1, 2] if torch else [1, 2, -1, -2])
    cut = tuple(slice(None, None, data.draw(steps)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = rng.standard_normal((4, 5, 6))
    whole = place.put(values, place.dtype)
    x = (whole.permute(*axes) if torch else whole.transpose(axes))[cut]
    alone = place.put(np.array(place.to_numpy(x)), place.dtype)
    t = place.put(rng.integers(0, x.shape[-1], tuple(x.shape[:-1])))
    expected = [np.array(place.to_numpy(part)) for part in subject.loss_and_grad(alone, t)]
    before = np.array(place.to_numpy(whole))
    for out in (None, x):
        got = subject.loss_and_grad(x, t, out=out)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(place.to_numpy(a), b)
        if out is None:
            np.testing.assert_array_equal(place.to_numpy(whole), before)
    inside = place.put(np.zeros((4, 5, 6)), "float32")
    (inside.permute(*axes) if torch else inside.transpose(axes))[cut][...] = 1
    outside = place.to_numpy(inside) == 0
    np.testing.assert_array_equal(place.to_numpy(whole)[outside], before[outside])


@pytest.mark.clause("V11")
@pytest.mark.places(modes=DIRECT, sparse=True)
@few
@given(st.one_of(st.floats(0, 1e6), st.sampled_from([math.inf, math.nan])))
def test_V11_perplexity_of_any_loss(place, subject, loss):
    loss = float(np.asarray(loss, dtype=place.compute_dtype))
    got = float(place.to_numpy(subject.perplexity(place.put(np.asarray(loss), place.compute_dtype))))
    plain = subject.perplexity(loss)
    with np.errstate(over="ignore"):
        expected = float(np.exp(np.asarray(loss, dtype=place.compute_dtype)))
    np.testing.assert_allclose(got, expected, rtol=16 * units.EPS[place.compute_dtype] * max(1.0, min(loss, 100.0)))
    assert isinstance(plain, float)
