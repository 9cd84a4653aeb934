"""Clauses A1, A11, A12: whose arrays come back, of which dtypes; of the standard alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import DIRECT, FLOATS, HALF, NOT_DOUBLED, Mode


def _reductions(place):
    names = ("none",) if place.mode is Mode.BROADCAST else cases.REDUCTIONS
    return depth.part([{"reduction": name} for name in names], place)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("name", ["loss", "loss_and_grad"])
def test_A1_library_device_laziness_and_dtype(place, subject, soft, name):
    agree.serves_soft(place, subject, soft)

    def check(options):
        result = place.call(getattr(subject, name), *cases.small(soft), **options)
        parts = [result] if name == "loss" else result
        place.check_owned(*parts)
        found = [place.backend.dtype_name(part) for part in parts]
        agree.same(found, [place.compute_dtype, place.dtype][: len(parts)], "the dtypes of loss and gradient")

    agree.each(_reductions(place), check)


def _can_be(place, argument, other):
    if depth.spares(place) and place.dtype not in ("float32", "bfloat16"):
        return False
    if other in FLOATS:
        return other in place.backend.dtypes and (other, place.mode) != ("float64", Mode.NO_FLOAT64)
    return argument == "weights" or (argument in ("class_weights", "denominator") and other != "bool")


@pytest.mark.places(modes=DIRECT, when=_can_be)
@pytest.mark.parametrize("argument", ["soft", "weights", "class_weights", "denominator", "grad_output"])
@pytest.mark.parametrize("other", [*FLOATS, "int8", "uint16", "int64", "bool"])
def test_A1_only_the_logits_decide(place, subject, argument, other):
    agree.serves_soft(place, subject, argument == "soft")
    logits, targets = cases.small()
    values = {
        "soft": np.full((2, 3, 5), 0.25),
        "weights": np.array([[1, 0, 1], [1, 1, 0]]),
        "class_weights": np.array([1, 2, 0, 1, 3]),
        "denominator": np.asarray(3),
        "grad_output": np.asarray(0.5),
    }[argument]
    x, given = place.put(logits, place.dtype), place.put(values, other)
    targets = given if argument == "soft" else place.put(targets)
    options = {} if argument == "soft" else {argument: given}
    with place.backend.during_call():
        loss, d_logits = subject.loss_and_grad(x, targets, **options)
    place.check_owned(loss, d_logits)
    agree.same(place.backend.dtype_name(loss), place.compute_dtype, "the dtype of the loss")
    agree.same(place.backend.dtype_name(d_logits), place.dtype, "the dtype of the gradient")


@pytest.mark.clause("A1", "V1")
@pytest.mark.places(dtypes=HALF, modes=tuple(mode for mode in NOT_DOUBLED if mode is not Mode.TRACED))
@pytest.mark.parametrize("V", [5, 5000])
def test_A1_half_precision_is_widened_before_any_arithmetic(place, subject, V):
    """Half precision holds neither the differences nor the sum of so many exponentials."""
    agree.with_oracle(place, subject, *cases.vocabulary(V), reduction="none", precise=True)


@pytest.mark.places(dtypes=HALF, modes=DIRECT)
def test_A1_half_precision_is_accumulated_in_float32(place, subject):
    """A mean of half-precision logits of many tokens has the digits of float32."""
    agree.with_oracle(place, subject, *cases.random((3000,), 3), reduction="mean", precise=True)


@pytest.mark.places(modes=(Mode.STRICTEST,))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_A11_nothing_but_the_standard(place, subject, soft, algorithm, reduction):
    """The results are those that came while the library had the rest of the standard, too."""
    agree.serves_soft(place, subject, soft)
    logits, targets = cases.small(soft)
    everything = replace(place, mode=Mode.EAGER)

    def check(options):
        with everything.backend.context(Mode.EAGER):
            expected = agree.both(everything, subject, logits, targets, **options)
        results = agree.both(place, subject, logits, targets, **options)
        agree.both_alike(place, results, expected)

    agree.each(cases.pairwise(list(cases.combinations(soft, algorithm, reduction))), check)


@pytest.mark.places(modes=(Mode.STRICTEST,))
def test_A11_the_shift_and_perplexity(place, subject):
    x, ids = (
        place.put(array, dtype) for array, dtype in zip(cases.random((2, 4), 5), (place.dtype, None), strict=True)
    )
    logits, targets = subject.shift(x, ids)
    agree.same((logits.shape, targets.shape), ((2, 3, 5), (2, 3)), "the shapes that the shift gives")
    found = subject.perplexity(place.put(np.asarray(1.0), place.dtype))
    place.check_owned(found)


@pytest.mark.places(modes=(Mode.NO_FLOAT64,))
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
def test_A12_a_device_without_float64(place, subject, soft, algorithm):
    agree.serves_soft(place, subject, soft)
    problem = cases.small(soft)
    requests = cases.covering(soft, algorithm)
    agree.each(requests, lambda options: agree.with_oracle(place, subject, *problem, **options))
