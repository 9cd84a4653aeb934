"""Clause L6: tests of other clauses, asked of the linear loss with logits as hidden states and the identity as weight.

Each runs where its own marks say, at few of its parameters. What the identity cannot make is asked below: logits of −∞
come from a bias, and derivatives are those of weight and bias too.
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from crossent_conformance import agree, cases, places
from crossent_conformance.backends import NOT_DOUBLED, Mode
from crossent_conformance.clauses import test_concurrency as concurrency
from crossent_conformance.clauses import test_derivatives as derivatives
from crossent_conformance.clauses import test_integers as integers
from crossent_conformance.clauses import test_layouts as layouts
from crossent_conformance.clauses import test_namespaces as namespaces
from crossent_conformance.clauses import test_out as out
from crossent_conformance.clauses import test_reductions as reductions
from crossent_conformance.clauses import test_sizes as sizes
from crossent_conformance.clauses import test_special_values as special
from crossent_conformance.clauses import test_synchronisation as synchronisation
from crossent_conformance.clauses import test_targets as targets

ASKED = [
    *(
        (reductions.test_R1_shapes, {"tokens": shape, "reduction": name})
        for shape in ((), (2, 3))
        for name in cases.REDUCTIONS
    ),
    (reductions.test_R2_denominators, {"reduction": "sequence", "soft": False, "denominator": "tokens"}),
    (reductions.test_R2_weights_at_the_ends_of_the_dtype, {"reduction": "mean", "kind": "tokens", "end": "largest"}),
    *(
        (reductions.test_R3_empty_batch, {"reduction": name, "tokens": (0, 3), "options": {}, "soft": False})
        for name in cases.REDUCTIONS
    ),
    (reductions.test_S6_no_classes_and_no_tokens, {"reduction": "mean"}),
    (reductions.test_R4_a_million_tokens, {"reduction": "mean"}),
    (special.test_S1_ignored_tokens_are_zero_whatever_they_hold, {"options": special.OPTIONS["all"], "ignored": -100}),
    (special.test_S4_nan_and_plus_infinity_fill_their_row_alone, {"options": special.OPTIONS["all"]}),
    (special.test_S4_soft_targets, {}),
    (special.test_S4_reduced_losses_are_nan_and_other_gradients_are_not, {"reduction": "sequence"}),
    (sizes.test_S5_finite_logits_of_any_size, {}),
    (sizes.test_S6_one_class, {"options": {}, "soft": False}),
    *(
        (namespaces.test_A1_library_device_laziness_and_dtype, {"soft": soft, "name": "loss_and_grad"})
        for soft in (False, True)
    ),
    (namespaces.test_A11_nothing_but_the_standard, {"soft": False, "algorithm": "stable", "reduction": "mean"}),
    (namespaces.test_A12_a_device_without_float64, {"soft": True, "algorithm": "stable"}),
    (
        layouts.test_A2_every_layout_gives_what_contiguous_arrays_give,
        {"soft": False, "options": layouts.OPTIONS["ignore-z"]},
    ),
    *(
        (layouts.test_A2_inputs_stay_as_they_are, {"soft": False, "options": {}, "call": layouts.CALLS[name]})
        for name in ("loss", "scaled")
    ),
    *((out.test_A2_out, {"kind": kind, "options": {}}) for kind in ("own", "strided", "next-row")),
    (integers.test_A3_every_integer_dtype, {"dtype": "uint8", "options": {}}),
    (targets.test_A4_the_first_offending_target_is_named, {"value": -4, "call": "gradient"}),
    (targets.test_A4_nothing_is_written_before_the_error, {"memory": "logits"}),
    (targets.test_A4_where_nothing_is_read_the_row_is_nan, {"options": {}, "value": 4}),
    *(
        (
            synchronisation.test_A6_no_synchronisation_without_the_check,
            {"options": options, "call": "gradient", "soft": False},
        )
        for options in ({}, synchronisation.OPTIONS["ignore-z"])
    ),
    (synchronisation.test_A6_the_check_changes_no_result, {"options": synchronisation.OPTIONS["ignore-z"]}),
    (concurrency.test_A8_calls_at_once, {"tokens": (4,), "function": concurrency._loss_and_grad}),
    *(
        (derivatives.test_D1_every_path_gives_the_contracts_gradient, {"path": path, "gaps": derivatives.CONFIDENT})
        for path in dict.fromkeys(sum(derivatives.PATHS.values(), ()))
    ),
    *((derivatives.test_D1_vmap_along_any_axis, {"axis": axis, "options": {}}) for axis in (0, 1)),
    (derivatives.test_D1_hessian, {"compiled": False}),
]


def _is_asked(place, asked):
    """Whether the test's own marks have that place."""
    function, parameters = asked
    marks = {mark.name: mark.kwargs for mark in getattr(function, "pytestmark", ())}
    narrowed = dict(marks.get("places", {}))
    when = narrowed.pop("when", None)
    return place in places.places([place.backend], narrowed) and (when is None or when(place, **parameters))


def _named(asked):
    function, parameters = asked
    values = [getattr(value, "__name__", str(value)).replace(" ", "") for value in parameters.values()]
    return "-".join([function.__name__.removeprefix("test_"), *values])


@pytest.mark.places(when=_is_asked)
@pytest.mark.parametrize("asked", ASKED, ids=_named)
def test_L6_another_clause(place, subject, asked, monkeypatch):
    function, parameters = asked
    if "monkeypatch" in inspect.signature(function).parameters:
        parameters = {**parameters, "monkeypatch": monkeypatch}
    function(place, subject.through_identity(), **parameters)


@pytest.mark.clause("L6", "S2", "S3")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("on", [False, True], ids=["off the target", "on the target"])
def test_L6_logits_of_minus_infinity(place, subject, on):
    hidden, _, weight, bias = cases.head((6,), 4, 7)
    bias = np.where(np.arange(7) % 3 == 1, -np.inf, bias)
    targets = np.array([0, 2, 3, 5, 6, 4 if on else 0])
    agree.linear_with_oracle(place, subject, hidden, targets, weight=weight, bias=bias, reduction="none")


@pytest.mark.clause("L6", "S4")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_L6_nan_in_a_hidden_state_is_its_own_row(place, subject):
    hidden, targets, weight, bias = cases.head((6,), 4, 7)
    hidden = hidden.copy()
    hidden[2, 1] = np.nan
    needs = {"needs": ("hidden",), "reduction": "none"}
    agree.linear_with_oracle(place, subject, hidden, targets, weight=weight, bias=bias, **needs)


@pytest.mark.clause("L6", "D1")
@pytest.mark.places(
    backends=derivatives.BOTH,
    modes=(Mode.EAGER,),
    dtypes=("float64",),
    when=derivatives._is_short,
)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", derivatives.OPTIONS.values(), ids=derivatives.OPTIONS)
def test_L6_derivatives_of_hidden_weight_and_bias_are_differences(place, subject, options, soft):
    agree.serves_soft(place, subject, soft)
    hidden, targets, weight, bias = cases.head((2, 3), 3, 5)
    x, t = place.pair(hidden, cases.small(soft)[1] if soft else targets)
    head, options = place.options({"weight": weight, "bias": bias}), place.options(options)

    def of(x, weight, bias):
        return subject.linear_loss(x, t, weight=weight, bias=bias, **options)

    derivatives._framework(place).check(of, [x, *head.values()], order=2)


@pytest.mark.clause("L6", "D1")
@pytest.mark.places(backends=derivatives.BOTH, modes=(Mode.EAGER,), sparse=True)
@pytest.mark.parametrize("of", ["weight", "bias"])
def test_L6_vmap_over_a_head(place, subject, of):
    hidden, targets, weight, bias = cases.head((6,), 4, 7)
    x, t = place.pair(hidden, targets)
    head = {"weight": weight, "bias": bias}
    several = place.options({of: np.stack([head[of], -head[of], 2 * head[of]])})[of]
    rest = {name: value for name, value in place.options(head).items() if name != of}

    def function(part):
        return subject.linear_loss(x, t, **rest, **{of: part}, reduction="none")

    one_by_one = np.stack([place.to_numpy(function(part)) for part in several])
    agree.alike(place, derivatives._framework(place).vmap(function)(several), one_by_one)
