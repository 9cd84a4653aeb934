"""The inputs of `crossent parity`, which must never change by accident, and how it counts differences."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest

from crossent_conformance import backends, repeatable, units
from crossent_conformance.parity import answers, compare
from crossent_conformance.parity.cases import CASES, Case


def test_the_inputs_are_those_of_every_earlier_version():
    """Another value makes every baseline that anybody keeps incomparable: say so in CHANGELOG.md."""
    fingerprints = "".join(
        case.problem(dtype, seed).fingerprint for case in CASES.values() for dtype in backends.FLOATS for seed in (0, 1)
    )
    assert hashlib.sha256(fingerprints.encode()).hexdigest()[:16] == "aa19117e7ad5f041"


def test_a_case_depends_on_its_name_and_the_seed_alone():
    first = CASES["plain"].problem("float32", 0)
    other = Case("plain2", "", CASES["plain"].make).problem("float32", 0)
    assert len({first.fingerprint, other.fingerprint, CASES["plain"].problem("float32", 1).fingerprint}) == 3


def test_values_are_rounded_to_the_nearest_of_the_dtype_ties_to_even():
    torch = pytest.importorskip("torch")
    values = repeatable.Draw("rounding").logits(4000, scale=64.0)
    values[:6] = [np.nan, np.inf, -np.inf, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 0.0]
    for dtype in backends.FLOATS:
        expected = torch.tensor(values).to(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(repeatable.rounded(values, dtype), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_two_results_at_the_ends_of_what_is_allowed_are_allowed(dtype):
    problem = CASES["soft-weights"].problem(dtype, 0)
    exact = problem.exact["d_logits"]
    reach = exact.allowed * units.EPS["float32"]
    size = compare._size_of_terms(exact.allowed)
    for factor in (0.99, 1.01):
        _, fractions = compare._apart(
            exact.high + factor * reach, exact.high - factor * reach, exact, size, "float32", "float32"
        )
        assert fractions.max() == pytest.approx(factor, rel=1e-3)


def test_a_unit_is_relative_to_the_value_or_to_terms_that_cancel():
    values = np.array([1e-300, 1e-30, 1e-3, 0.5, 1.0, 7.0])
    allowed = np.array([units.allowance(10, value) * value for value in values])
    np.testing.assert_allclose(compare._size_of_terms(allowed), values, rtol=1e-12)
    high = np.array([0.0])  # 1/2 - 1/2: eight eps of the terms are allowed, and told as eight
    exact = units.Exact(high, high, np.array([units.allowance(10, 0.5) * 0.5 + 2.0]))
    size = compare._size_of_terms(exact.allowed)
    eps, fractions = compare._apart(high + 4 * 2.0**-23, high, exact, size, "float32", "float32")
    assert math.isclose(eps[0], 4 / size[0])
    assert 0.5 <= size[0] <= 1.5
    assert fractions[0] < 1


def far(first, second, exact, dtype, what="d_logits"):
    """How far two results are apart whose exact value is known."""
    value = units.Exact(*(np.array([part]) for part in (exact, 0.0, units.allowance(10, exact) * exact)))
    size = compare._size_of_terms(value.allowed)
    one, other = (answers.Array(dtype, np.array([part], dtype=dtype)) for part in (first, second))
    return compare._far(one, other, value, size, dtype, what)[:2]


def test_neighbours_in_half_precision_are_allowed_and_an_eps_apart():
    step = 2.0**-10
    eps, fraction = far(1 + step, 1 + 2 * step, 1 + 1.5 * step, "float16")
    assert eps == pytest.approx(1, abs=0.01)
    assert 0.9 < fraction <= 1
    assert far(1 + step, 1 + 3 * step, 1 + 2 * step, "float16")[1] > 1
    least = 2.0**-24
    assert far(3 * least, 4 * least, 3.5 * least, "float16") == pytest.approx((1, 1), abs=0.01)


def test_below_the_floor_results_need_only_be_as_small():
    assert far(0.0, 9e-31, 1e-36, "float32") == (0, 0)
    assert far(0.0, 1e-29, 1e-36, "float32")[1] > 1
    assert far(0.0, 9e-31, 1e-29, "float32")[1] > 1


def test_reading_the_arguments_imports_no_more_than_numpy():
    code = (
        "import argparse, sys; from crossent_conformance import command; "
        "from crossent_conformance.parity import command as parity; "
        "[each.configure(argparse.ArgumentParser()) for each in (command, parity)]; "
        "print([name for name in ('pytest', 'mpmath', 'rich', 'jinja2', 'torch', 'jax') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
