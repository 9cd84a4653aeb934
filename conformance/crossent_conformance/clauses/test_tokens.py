"""Clauses T1 to T4: what rows tell besides their loss, its gradients, divergences, and what takes no part in them."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import adapter, agree, cases, depth, oracle_tokens, units
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, ONCE, Mode
from crossent_conformance.clauses import test_derivatives as derivatives
from crossent_conformance.measures import REDUCED, STATISTICS
from crossent_conformance.refused import MUTABLE

INF, NAN = np.inf, np.nan
MEASURES = ("token_log_probs", *REDUCED)
DIRECTIONS = {
    "forward": {"direction": "forward"},
    "reverse": {"direction": "reverse"},
    "js": {"direction": "jensen-shannon"},
    "js-tenth": {"direction": "jensen-shannon", "mixture": 0.1},
}
TEACHERS = {
    "other": lambda x: x[::-1, ::-1] / 2,
    "confident": lambda x: np.where(np.arange(x.shape[-1]) == 2, x + 18, x),
    "masked": lambda x: _masked(x / 2, 1),
    # Softmax forgets what is added to all; the differences of logits do not.
    "moved": lambda x: x + 2e4 + 0.3 * cases.generator(8).standard_normal(x.shape),
    **{f"near-{d}": lambda x, d=d: x + d * cases.generator(8).standard_normal(x.shape) for d in (2, 1e-3, 1e-5, 1e-7)},
}
TRANSFORMS = {"plain": {}, "cold": {"temperature": 0.7}, "both": {"temperature": 1.5, "logit_softcap": 8.0}}


def _masked(logits, seed=0):
    """Some classes left out of every row, and all but one of the last."""
    out = cases.generator(seed).random(logits.shape) < 0.4
    out[..., 0], out[-1] = False, np.arange(logits.shape[-1]) > 0
    return np.where(out, -INF, logits)


ROWS = {
    "random": cases.random((8,), 6, sure=True)[0],
    "confident": cases.gaps(6, (5.0, 17.0, 20.0, 40.0, 60.0))[0],
    "far": cases.random((8,), 6, 4e3, sure=True)[0],
    "masked": _masked(cases.random((8,), 6, sure=True)[0]),
}


def _spared(place, rows="masked", teacher="other", transform=None, **_others):
    """On a slow backend few of the rows and teachers stand for the others."""
    some = rows in ("confident", "masked") and teacher in ("other", "near-0.001")
    return not depth.spares(place) or (some and transform in (None, TRANSFORMS["plain"], TRANSFORMS["both"]))


def _ids(logits, *several):
    return cases.generator(3).integers(0, logits.shape[-1], (*logits.shape[:-1], *several))


def _asked(name, logits):
    """The measure of that name, what it is of, and its options for numbers of each token.

    The name may be that of a direction, or "several": log-probabilities of several classes.
    """
    if name == "several":
        return "token_log_probs", logits, _ids(logits, 3), {}
    if name == "entropy":
        return name, logits, None, {"reduction": "none"}
    if name not in ("kl_divergence", *DIRECTIONS):
        return name, logits, _ids(logits), {}
    teacher = cases.random(logits.shape[:-1], logits.shape[-1], seed=7)[0]
    return "kl_divergence", logits, teacher, {"reduction": "none", **DIRECTIONS.get(name, {})}


# ---- T1


@pytest.mark.places(modes=NOT_DOUBLED)
def test_T1_a_log_probability_is_the_negative_of_the_loss(place, subject):
    logits, targets = cases.gaps(10)
    loss = place.evaluate(subject.loss, logits, targets, reduction="none")
    found = place.evaluate(subject.measure("token_log_probs"), logits, targets)
    agree.same(str(found.dtype), place.compute_dtype, "the dtype")
    agree.equal(found, -loss, what="log_prob")
    agree.every(agree.is_at_most_zero, [found], what=["log_prob"])


@pytest.mark.places(modes=ONCE, sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("several", [(), (1,), (4,)], ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_T1_log_probabilities(place, subject, rows, several, transform):
    arrays = ROWS[rows], _ids(ROWS[rows], *several)
    found, _ = agree.measured_with_oracle(place, subject, "token_log_probs", *arrays, only="value", **transform)
    agree.every(agree.is_at_most_zero, [found], what=["log_prob"])


WIDE = cases.gaps(6, cases.WIDE_GAPS)[0]
"""Rows whose entropies only float64 holds."""


@pytest.mark.places(sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("rows", [*ROWS, "wide"])
def test_T1_entropy(place, subject, rows, transform):
    logits = ROWS.get(rows, WIDE)
    asked = {"only": "value", "reduction": "none", **transform}
    found, _ = agree.measured_with_oracle(place, subject, "entropy", logits, **asked)
    n = (np.isfinite(logits) | ("logit_softcap" in transform)).sum(axis=-1)
    agree.every(agree.is_at_least_zero, [found], what=["entropy"])
    most = np.log(n) * (1 + units.allowance(6) * units.EPS[place.compute_dtype])
    agree.within(found, found <= most, "at most log V", what="entropy")


@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("V", [1, 2, 33, 5000, 70000])
def test_T1_entropy_of_vocabularies(place, subject, V):
    logits = np.array([[3.0], [0.0]]) if V == 1 else cases.vocabulary(V, sure=True)[0]
    agree.measured_with_oracle(place, subject, "entropy", logits, only="value", reduction="none")


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("rows", ROWS)
def test_T1_statistics(place, subject, rows, transform):
    """A rank counts larger logits: those that tie do not, and those that only rounding makes tie do."""
    logits = place.round(ROWS[rows])
    ids = _ids(logits)
    logits[::2, 1] = logits[::2][np.arange(len(ids[::2])), ids[::2]]
    _check_statistics(place, subject, logits, ids, **transform)


@pytest.mark.places(modes=DIRECT, sparse=True)
def test_T1_statistics_of_long_rows(place, subject):
    """Whose classes are in one part alone, or sure of one: the pieces of a row merge, and nothing at all is a piece."""
    logits = place.round(cases.eighths(8 * cases.generator(4).standard_normal((4, 150_001))))
    logits[1, :70_000], logits[2, 70_000:], logits[3, 140_000] = -INF, -INF, 60.0
    _check_statistics(place, subject, logits, np.array([149_999, 70_001, 3, 140_000]))


def _check_statistics(place, subject, logits, ids, **transform):
    found = place.evaluate(subject.measure("token_statistics"), logits, ids, **transform)
    agree.same({str(part.dtype) for part in found[:-1]}, {place.compute_dtype}, "the dtypes")
    loss, log_prob, log_sum_exp, entropy, rank, most_likely = found
    exact, _ = oracle_tokens.log_probs(logits, ids, **transform)
    units.check(log_prob, exact, place.compute_dtype, what="log_prob")
    agree.equal(loss, -log_prob, what="loss")
    for given, of in ((log_sum_exp, "log_sum_exp"), (entropy, "entropy")):
        exact, _ = getattr(oracle_tokens, of)(logits, reduction="none", **transform)
        units.check(given, exact, place.compute_dtype, what=of)
    own = np.take_along_axis(logits, ids[:, None], axis=-1)
    agree.equal(rank, (logits > own).sum(axis=-1), what="rank")
    agree.equal(most_likely, rank == 0, what="most_likely")


# ---- T2


@pytest.mark.places(modes=ONCE, sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("several", [(), (1,), (4,)], ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_T2_of_log_probabilities(place, subject, rows, several, transform):
    """A class may be asked for twice."""
    ids = _ids(ROWS[rows], *several)
    asked = {"only": "gradient", "grad_output": cases.generator(5).integers(-64, 64, ids.shape) / 32, **transform}
    agree.measured_with_oracle(place, subject, "token_log_probs", ROWS[rows], ids, **asked)


@pytest.mark.places(sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("rows", [*ROWS, "wide"])
def test_T2_of_entropy(place, subject, rows, transform):
    asked = {"only": "gradient", "reduction": "none", **transform}
    agree.measured_with_oracle(place, subject, "entropy", ROWS.get(rows, WIDE), **asked)


@pytest.mark.places(modes=ONCE, sparse=True, when=_spared)
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_T2_of_divergences(place, subject, direction, rows, teacher):
    arrays = ROWS[rows], TEACHERS[teacher](ROWS[rows])
    asked = {"only": "gradient", "reduction": "none", **direction}
    agree.measured_with_oracle(place, subject, "kl_divergence", *arrays, **asked)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("name", REDUCED)
def test_T2_every_reduction_and_upstream_gradient(place, subject, name, reduction):
    _, *arrays, _ = _asked(name, cases.small()[0])
    asked = {"only": "gradient", "reduction": reduction, "grad_output": cases.scale(reduction)}
    agree.measured_with_oracle(place, subject, name, *arrays, **asked)


@pytest.mark.places(backends=MUTABLE, modes=(Mode.EAGER, Mode.STRICTEST), sparse=True)
@pytest.mark.parametrize("own", [False, True], ids=["apart", "the logits"])
@pytest.mark.parametrize("name", [*MEASURES, "several"])
def test_T2_out(place, subject, name, own):
    name, logits, other, options = _asked(name, ROWS["random"])
    x, *rest = place.pair(logits, other) if other is not None else (place.put(logits, place.dtype),)
    ask = subject.measure(name, gradient=True)
    expected = place.copies(ask(x, *rest, **options))
    out = x if own else place.put(np.full(logits.shape, 7.0), place.dtype)
    found = ask(x, *rest, out=out, **options)
    for part, array, value in zip(found, (found[0], out), expected, strict=True):
        agree.equal(place.to_numpy(part), value)
        agree.equal(place.to_numpy(array), value)


OF_STATISTICS = ("log_sum_exp", "statistics entropy")


def _function(place, subject, name, **options):
    """What a framework differentiates: a function of logits."""
    of, logits, other, rows_alone = _asked(name, cases.small()[0])
    rest = () if other is None else place.pair(logits, other)[1:]
    if name in OF_STATISTICS:
        line = STATISTICS.index(name.rpartition(" ")[2])
        return lambda x: subject.measure("token_statistics")(x, *rest, **options)[line]
    return lambda x: subject.measure(of)(x, *rest, **rows_alone, **options)


@pytest.mark.clause("T2", "D1")
@pytest.mark.places(modes=(Mode.EAGER,), backends=derivatives.BOTH, sparse=True)
@pytest.mark.parametrize("name", [*MEASURES, "several", *OF_STATISTICS])
def test_T2_on_the_graph(place, subject, name):
    _, x, other, _ = _asked(name.rpartition(" ")[2], place.round(cases.small()[0]))
    if name == "kl_divergence":
        exact, exact_gradient = oracle_tokens.kl_divergence(
            x, place.round(other), reduction="none", dtype=place.compute_dtype
        )
    elif name in OF_STATISTICS or name == "entropy":
        exact, exact_gradient = getattr(oracle_tokens, name.rpartition(" ")[2])(x, reduction="none")
    else:
        exact, exact_gradient = oracle_tokens.log_probs(x, other)
    found, d = adapter.differentiated(_function(place, subject, name), (place.put(x, place.dtype),), None)
    units.check(place.to_numpy(found), exact, place.compute_dtype, what=name)
    # Of several classes it is a sum that is made in the dtype of the logits.
    agree.gradient(place, place.to_numpy(d), exact_gradient, precise=name != "several")


@pytest.mark.clause("T2", "D1", "V5")
@pytest.mark.places(backends=derivatives.BOTH, modes=(Mode.EAGER,), dtypes=("float64",))
@pytest.mark.parametrize("transform", [{}, {"temperature": 0.75, "logit_softcap": 4.0}], ids=["plain", "transformed"])
@pytest.mark.parametrize("name", [*MEASURES, "several", *OF_STATISTICS, *DIRECTIONS])
def test_T2_derivatives_are_differences(place, subject, name, transform):
    function = _function(place, subject, name, **transform)
    derivatives._framework(place).check(function, [place.put(cases.small()[0], place.dtype)], order=2)


@pytest.mark.clause("T2", "D1")
@pytest.mark.places(backends=derivatives.BOTH, modes=(Mode.EAGER,), dtypes=("float64",))
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_T2_of_a_teacher_and_of_weights(place, subject, direction):
    logits, teacher = place.pair(*_asked("kl_divergence", cases.random((3,), 5)[0])[1:3])
    weights = place.put(np.array([1.0, -0.5, 2.0]), place.dtype)

    def function(logits, teacher, weights):
        ask = subject.measure("kl_divergence")
        return ask(logits, teacher, weights=weights, reduction="sum", temperature=1.5, **direction)

    derivatives._framework(place).check(function, [logits, teacher, weights], order=2)


# ---- T3


@pytest.mark.places(modes=ONCE, sparse=True, when=_spared)
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_T3_divergences(place, subject, direction, rows, teacher):
    arrays = ROWS[rows], TEACHERS[teacher](ROWS[rows])
    asked = {"only": "value", "reduction": "none", **direction}
    found, _ = agree.measured_with_oracle(place, subject, "kl_divergence", *arrays, **asked)
    agree.every(agree.is_at_least_zero, [found], what=["kl_divergence"])


@pytest.mark.places(sparse=True, when=_spared)
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_T3_equal_logits_are_0_apart_to_the_bit(place, subject, direction, rows, transform):
    x = ROWS[rows]
    found = agree.measured(place, subject, "kl_divergence", x, x, reduction="none", **direction, **transform)
    agree.every(agree.is_zero, found)


@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_T3_what_one_side_leaves_out(place, subject, direction):
    """By −∞; a class that is less likely than the dtype can say is not left out."""
    all_of, some = [0.0, 1.0, 2.0, -1.0], [0.0, -INF, 2.0, -1.0]
    tiny, few = [0.0, -9000.0, 2.0, -1.0], [-INF, -INF, 2.0, -INF]
    pairs = [(all_of, some), (some, all_of), (tiny, some), (some, tiny), (few, some), (some, few), (few, few)]
    x, y = map(np.array, zip(*pairs, strict=True))
    agree.measured_with_oracle(place, subject, "kl_divergence", x, y, only="value", reduction="none", **direction)


@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("transform", [{"temperature": 4.0}, {"temperature": 0.25}, TRANSFORMS["both"]], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_T3_a_temperature_is_of_both_sides(place, subject, direction, transform):
    x = ROWS["random"]
    options = {"only": "value", "reduction": "none", **direction, **transform}
    agree.measured_with_oracle(place, subject, "kl_divergence", x, TEACHERS["other"](x), **options)


# ---- T4


@pytest.mark.clause("T4", "S2", "S4")
@pytest.mark.places(
    modes=NOT_DOUBLED,
    sparse=True,
    when=lambda place, name, side: side == "student" or name in ("kl_divergence", *DIRECTIONS),
)
@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("name", [*MEASURES, "several", *DIRECTIONS])
def test_T4_nan_infinities_and_nothing_fill_their_row_alone(place, subject, name, side):
    name, logits, other, options = _asked(name, ROWS["random"][:5])
    spoilt = logits.copy()
    spoilt[1, 2], spoilt[2, 0], spoilt[3] = NAN, INF, -INF
    logits, other = (spoilt, other) if side == "student" else (other, spoilt)
    found = agree.measured_with_oracle(place, subject, name, logits, other, **options)
    for part in found:
        if part is not agree.NO_GRADIENT:
            agree.every(np.isnan, [part], slice(1, 4), what=["the result"])
            agree.every(np.isfinite, [part], [0, 4], what=["the result"])


@pytest.mark.clause("T4", "S4")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_T4_statistics_of_spoilt_rows(place, subject):
    """And of a target that is left out: its loss is infinite, and every class that is not is likelier."""
    logits = np.array([[0.0, NAN, 1.0], [0.0, INF, 1.0], [-INF] * 3, [0.0, -INF, 1.0], [0.5, 1.0, 0.0]])
    targets = np.array([0, 1, 2, 1, 1])
    found = dict(zip(STATISTICS, place.evaluate(subject.measure("token_statistics"), logits, targets), strict=True))
    for name in STATISTICS[:-1]:
        agree.every(np.isnan, [found[name]], slice(3), what=[name])
    agree.same(found["most_likely"].tolist(), [False, False, False, False, True], "most_likely")
    agree.same((found["log_prob"][3], found["rank"][3]), (-INF, 2), "log_prob and rank of a target at -inf")


KEPT = np.array([True, False, True, True, False, True])


@pytest.mark.clause("T4", "S1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS[:1] + cases.REDUCTIONS[2:])
@pytest.mark.parametrize("name", REDUCED)
def test_T4_weights_of_0_hide_what_rows_hold(place, subject, name, reduction):
    _, logits, other, _ = _asked(name, cases.random((6,), 5)[0])
    spoilt = np.where(KEPT[:, None], logits, [[NAN, INF, -INF, 0.0, 1.0]])
    other = None if other is None else np.where(KEPT[:, None], other, NAN)
    weights = np.where(KEPT, [0.5, 1.0, 2.0, 1.0, 1.0, -0.25], 0.0)
    for options in ({}, {"denominator": "tokens"}, {"denominator": 2.5}) if reduction == "mean" else ({},):
        given, d = agree.measured_with_oracle(
            place, subject, name, spoilt, other, weights=weights, reduction=reduction, **options
        )
        agree.every(agree.is_zero, (d,), ~KEPT)
        if reduction == "none":
            agree.every(agree.is_zero, (given,), ~KEPT)


@pytest.mark.clause("T4", "S1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("several", [(), (3,)], ids=str)
@pytest.mark.parametrize("kind", ["index", "weight"])
def test_T4_log_probabilities_that_do_not_count(place, subject, kind, several):
    logits = np.where(KEPT[:, None], cases.random((6,), 5)[0], [[NAN, INF, -INF, 0.0, 1.0]])
    ids = _ids(logits, *several)
    kept = KEPT.reshape(-1, *([1] * len(several)))
    ids = np.where(kept, ids, -7)
    options = {"weights": np.where(KEPT, 2.0, 0.0)} if kind == "weight" else {"ignore_index": -7}
    if several and kind == "index":
        ids[0, 1] = -7
    found = agree.measured_with_oracle(place, subject, "token_log_probs", logits, ids, **options)
    agree.every(agree.is_zero, found, ~KEPT)


@pytest.mark.clause("T4", "S1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_T4_statistics_of_ignored_tokens(place, subject):
    logits = np.where(KEPT[:, None], cases.random((6,), 5)[0], NAN)
    targets = np.where(KEPT, _ids(logits), -100)
    ask = subject.measure("token_statistics")
    *found, rank, most_likely = place.evaluate(ask, logits, targets, ignore_index=-100)
    agree.every(agree.is_zero, (*found, rank + 1, most_likely), ~KEPT)
    agree.every(agree.is_at_least_zero, [rank], KEPT, what=["rank"])
    agree.every(np.isfinite, found)


@pytest.mark.clause("T4", "A4")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("value", [-1, 5])
def test_T4_classes_outside_of_the_vocabulary(place, subject, value):
    """Where nothing is read, their own numbers are NaN."""
    logits, ids = cases.random((6,), 5)[0], _ids(cases.random((6,), 5)[0], 3)
    ids[2, 1] = value
    ask = subject.measure("token_log_probs")
    found = place.evaluate(ask, logits, ids, check_targets=False)
    outside = (ids == value) & (np.arange(6) == 2)[:, None]
    agree.within(found, np.isnan(found) == outside, "NaN for what is no class, numbers for others", what="log_prob")
    if place.mode in (Mode.TRACED, Mode.LAZY):
        return
    error = agree.refusal(lambda: place.call(ask, logits, ids), IndexError)
    assert "2, 1" in str(error), f"the error does not name the place [2, 1]: {error}"


@pytest.mark.clause("T4", "R3", "S6")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("name", REDUCED)
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 1), (0, 2, 0)], ids=str)
def test_T4_nothing_and_one_class(place, subject, name, reduction, shape):
    x = np.zeros(shape)
    arrays = (x, x) if name == "kl_divergence" else (x, None)
    value, d = agree.measured(place, subject, name, *arrays, reduction=reduction)
    agree.same(value.shape, cases.loss_shape(reduction, shape[:-1]), "the shape")
    agree.every(agree.is_zero, (value, d))


@pytest.mark.clause("T4", "S6")
@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("name", ["token_log_probs", "token_statistics", "several"])
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 3, 1), (0, 2, 0), (5,)], ids=str)
def test_T4_log_probabilities_of_nothing_and_of_one_class(place, subject, name, shape):
    """And of a single row."""
    ids = np.zeros((*shape[:-1], *((2,) if name == "several" else ())), dtype=np.int64)
    ask = subject.measure("token_log_probs" if name == "several" else name, gradient=name != "token_statistics")
    parts = place.evaluate(ask, np.zeros(shape), ids)
    shapes = {ids.shape, *(() if name == "token_statistics" else (shape,))}
    agree.same({part.shape for part in parts}, shapes, "the shapes")
    if shape != (5,):
        agree.every(agree.is_zero, parts[:5])


@pytest.mark.clause("T4", "R5")
@pytest.mark.places(modes=DIRECT, sparse=True)
@pytest.mark.parametrize("V", [3, 37, 1000])
@pytest.mark.parametrize("name", [*MEASURES, "token_statistics", *DIRECTIONS])
def test_T4_a_row_depends_on_itself_alone(place, subject, name, V):
    name, logits, other, options = _asked(name, cases.random((300,), V)[0])
    ask = subject.measure(name, gradient=name != "token_statistics")

    def numbers(rows):
        given = None if other is None else other[rows]
        return place.evaluate(ask, logits[rows], given, **options)

    whole = numbers(slice(None))
    order = cases.generator(V).permutation(300)
    parts = [order] if place.backend.compiles_each_shape else [order, slice(0, 1), slice(1, 6), slice(100, 233)]
    for part in parts:
        for alone, all_of_them in zip(numbers(part), whole, strict=True):
            agree.equal(alone, all_of_them[part], what=f"{name} of some rows of 300")


@pytest.mark.clause("T4", "A1", "A2")
@pytest.mark.places(modes=ONCE)
@pytest.mark.parametrize("name", [*MEASURES, "token_statistics"])
def test_T4_library_dtype_and_inputs(place, subject, name):
    name, logits, other, options = _asked(name, ROWS["random"])
    before = logits.copy()
    parts = place.call(subject.measure(name), logits, other, **options)
    parts = parts if isinstance(parts, tuple) else (parts,)
    place.check_owned(*parts)
    agree.same({place.backend.dtype_name(part) for part in parts[:5]}, {place.compute_dtype}, "the dtypes")
    agree.unchanged(logits, before, "the logits")
