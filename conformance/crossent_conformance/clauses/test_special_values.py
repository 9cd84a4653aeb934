"""Clauses S1 to S4: infinities, NaN and ignored tokens.

What an option means is for other clauses to say. Here results are compared with those of ordinary logits under the
same options: an ignored row of NaN with an ignored row of numbers, a logit of -inf with one so low that its exponential
is 0.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import NOT_DOUBLED
from crossent_conformance.drawn import SPECIAL, UNCOMPILED, filled, ignoring, problems

CLASS_WEIGHTS = np.array([1.0, 0.5, 2.0, 0.25])
OPTIONS = {
    "plain": {},
    "others": {"label_smoothing": 0.125},
    "uniform": {"label_smoothing": 0.125, "smoothing": "uniform"},
    "z-loss": {"z_loss": 0.0625},
    "class weights": {"class_weights": CLASS_WEIGHTS},
    "all": {"label_smoothing": 0.125, "z_loss": 0.0625, "class_weights": CLASS_WEIGHTS},
    "explicit": {"algorithm": "explicit"},
}
UNSMOOTHED = {name: OPTIONS[name] for name in ("plain", "z-loss", "class weights")}
"""Options under which a class at -inf is as good as one that is very low; smoothing shares by finite classes (V8)."""
LOW = -1e4
WIDE = 4
SOME = np.array([0.5, -1.0, 2.0, 1.25])
SOME_TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


def _is_asked(place, options, ignored=-100):
    """On a slow backend only with no option and with all of them."""
    if not depth.spares(place):
        return True
    return options in (OPTIONS["plain"], OPTIONS["all"]) and (ignored == -100 or not options)


def _with_special(kinds, positions=range(1, WIDE + 1)):
    """Every choice of positions for every special value and every target; every second row is an ordinary one."""
    rows, targets = [], []
    for kind in kinds:
        for count in positions:
            for chosen in itertools.combinations(range(WIDE), count):
                for target in range(WIDE):
                    row = SOME.copy()
                    row[list(chosen)] = kind
                    rows += [row, np.roll(SOME, target)]
                    targets += [target, (target + 1) % WIDE]
    return np.array(rows), np.array(targets)


def _strewn(data, logits, kinds):
    """The logits with special ones among them."""
    chosen = filled(data.draw, logits.shape, st.sampled_from([0.0, 1.0])).astype(bool)
    return np.where(chosen, filled(data.draw, logits.shape, kinds), logits)


def _of_special_and_ordinary(place, subject, logits, targets, instead, **options):
    """What finite logits in the places of the special ones give, and what these give."""
    ordinary = np.where(np.isfinite(logits), logits, instead)
    return [agree.both(place, subject, x, targets, **options) for x in (ordinary, logits)]


def _check_ignored(place, subject, logits, targets, ignored, *, reduction="none", **options):
    clean, results = _of_special_and_ordinary(place, subject, logits, targets, 0.5, reduction=reduction, **options)
    agree.both_alike(place, results, clean)
    if reduction == "none":
        agree.every(agree.is_zero, results, rows=ignored)
    else:
        agree.every(agree.is_zero, results[1:], rows=ignored, what=["d_logits"])


@pytest.mark.places(sparse=True, when=_is_asked)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("ignored", [-100, 2, "weight", "class"], ids=str)
def test_S1_ignored_tokens_are_zero_whatever_they_hold(place, subject, options, ignored):
    logits, targets = _with_special([np.nan, np.inf, -np.inf], positions=(1, 3, 4))
    odd = np.arange(len(targets)) % 2 == 1
    if ignored == "weight":
        options = {**options, "weights": np.where(odd, 1.0, 0.0)}
    else:
        index = 1 if ignored == "class" else ignored
        targets = np.where(odd, np.where(targets == index, 3, targets), index)
        by_class = {"class_weights": np.where(np.arange(WIDE) == 1, 0.0, CLASS_WEIGHTS)}
        options = {**options, **(by_class if ignored == "class" else {"ignore_index": ignored})}
    _check_ignored(place, subject, logits, targets, ~odd, **options)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
def test_S1_ignored_tokens_leave_reductions_clean(place, subject, reduction):
    logits, targets = _with_special([np.nan, np.inf, -np.inf], positions=(1, 4))
    targets[::2] = -100
    logits, targets = logits.reshape(2, -1, WIDE), targets.reshape(2, -1)
    _check_ignored(place, subject, logits, targets, targets == -100, reduction=reduction, ignore_index=-100)


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(SOME_TOKENS), st.data(), count=50)
def test_S1_anything_in_ignored_rows(place, subject, problem, data):
    logits, targets = problem
    targets, options = data.draw(ignoring(targets, logits.shape[-1]))
    ignored = options["weights"] == 0 if "weights" in options else targets == options["ignore_index"]
    assume(ignored.any())
    special = np.where(ignored[..., None], _strewn(data, logits, SPECIAL), logits)
    options["reduction"] = data.draw(st.sampled_from(["none", "sum", "mean"]))
    _check_ignored(place, subject, special, targets, ignored, **options)


def _check_off_the_target(place, subject, logits, targets, **options):
    expected, results = _of_special_and_ordinary(place, subject, logits, targets, LOW, reduction="none", **options)
    agree.both_alike(place, results, expected)
    agree.every(np.isfinite, results)
    agree.every(agree.is_zero, results[1:], rows=np.isneginf(logits), what=["d_logits"])


@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
def test_S2_minus_infinity_off_the_target(place, subject, options):
    logits, targets = _with_special([-np.inf], positions=(1, 2, 3))
    off = np.isfinite(logits[np.arange(len(targets)), targets])
    _check_off_the_target(place, subject, logits[off], targets[off], **options)


@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    "options", [{}, {"class_weights": CLASS_WEIGHTS}, {"algorithm": "explicit"}], ids=["plain", "weights", "explicit"]
)
def test_S2_all_but_the_target(place, subject, options):
    targets = np.arange(WIDE)
    logits = np.where(np.arange(WIDE) == targets[:, None], 3.0, -np.inf)
    agree.every(agree.is_zero, agree.both(place, subject, logits, targets, reduction="none", **options))


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_S2_a_block_of_minus_infinity(place, subject):
    logits, targets = cases.vocabulary(9000)
    logits = logits.copy()
    logits[0, :8192], logits[1, 8192:], logits[2, 1024:], logits[3, :-1], logits[4, ::2] = (-np.inf,) * 5
    _check_off_the_target(place, subject, logits, np.array([8999, 5, 0, 8999, 1, targets[5]]))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(SOME_TOKENS), st.data(), count=50)
def test_S2_minus_infinity_anywhere_off_the_target(place, subject, problem, data):
    logits, targets = problem
    is_target = np.arange(logits.shape[-1]) == targets[..., None]
    special = np.where(is_target, logits, _strewn(data, logits, st.just(-math.inf)))
    _check_off_the_target(place, subject, special, targets)


def _check_on_the_target(place, subject, logits, targets, **options):
    """The loss is infinite, the gradient is the limit; gives that back."""
    (_, expected), (loss, d_logits) = _of_special_and_ordinary(
        place, subject, logits, targets, LOW, reduction="none", **options
    )
    agree.every(np.isposinf, [loss], what=["loss"])
    if d_logits is not agree.NO_GRADIENT:
        agree.alike(place, d_logits, expected, what="d_logits")
    return d_logits


@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
def test_S3_minus_infinity_on_the_target(place, subject, options):
    logits = np.array([[-np.inf, 1.0, 2.0, 0.5], [0.0, -np.inf, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf, 1.0]])
    targets = np.array([0, 2, 1])
    d_logits = _check_on_the_target(place, subject, logits, targets, **options)
    if not options and d_logits is not agree.NO_GRADIENT:
        at = d_logits[np.arange(3), targets]
        agree.within(at, at == -1, "-1", what="d_logits at the target, of row")


@pytest.mark.places(sparse=True)
def test_S3_soft_targets_with_mass_on_minus_infinity(place, subject):
    agree.serves_soft(place, subject)
    logits = np.array([[-np.inf, 1.0, 2.0], [0.0, -np.inf, 1.0]])
    _check_on_the_target(place, subject, logits, np.array([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]]))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(problems(SOME_TOKENS), count=30)
def test_S3_minus_infinity_on_any_target(place, subject, problem):
    logits, targets = problem
    V = logits.shape[-1]
    assume(V > 1)
    _check_on_the_target(place, subject, np.where(np.arange(V) == targets[..., None], -math.inf, logits), targets)


def _check_nan(place, subject, logits, targets, rows, **options):
    """These rows are NaN, and the others what they are without them."""
    clean, results = _of_special_and_ordinary(place, subject, logits, targets, 0.5, reduction="none", **options)
    agree.every(np.isnan, results, rows=rows)
    agree.both_alike(place, results, clean, rows=~rows)


def _even(logits):
    return np.arange(len(logits)) % 2 == 0


@pytest.mark.places(sparse=True, when=_is_asked)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_S4_nan_and_plus_infinity_fill_their_row_alone(place, subject, options):
    logits, targets = _with_special([np.nan, np.inf])
    only, only_targets = _with_special([-np.inf], positions=(WIDE,))
    logits, targets = np.concatenate([logits, only]), np.concatenate([targets, only_targets])
    _check_nan(place, subject, logits, targets, _even(logits), **options)


@pytest.mark.places(sparse=True)
def test_S4_soft_targets(place, subject):
    agree.serves_soft(place, subject)
    logits, targets = _with_special([np.nan, np.inf])
    soft = np.where(np.arange(WIDE) == targets[:, None], 0.75, 0.125)
    _check_nan(place, subject, logits, soft, _even(logits))


@pytest.mark.places(sparse=True)
def test_S4_mixed_infinities_and_nan(place, subject):
    kinds = list(itertools.product([np.nan, np.inf, -np.inf], repeat=3))
    logits = np.full((2 * len(kinds), 3), 0.5)
    logits[::2] = kinds
    for target in range(3):
        _check_nan(place, subject, logits, np.full(len(logits), target), _even(logits))


@pytest.mark.places(modes=UNCOMPILED, sparse=True)
@depth.examples(
    st.booleans().flatmap(lambda soft: problems(st.integers(2, 4).map(lambda n: (n,)), soft=soft)), st.data(), count=50
)
def test_S4_nan_and_infinity_anywhere(place, subject, problem, data):
    logits, targets = problem
    agree.serves_soft(place, subject, targets.dtype.kind == "f")
    rows = filled(data.draw, logits.shape[:1], st.sampled_from([0.0, 1.0])).astype(bool)
    assume(rows.any())
    special = logits.copy()
    special[rows] = _strewn(data, logits[rows], SPECIAL)
    special[rows, data.draw(st.integers(0, logits.shape[1] - 1))] = data.draw(st.sampled_from([math.nan, math.inf]))
    _check_nan(place, subject, special, targets, rows)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
def test_S4_reduced_losses_are_nan_and_other_gradients_are_not(place, subject, reduction):
    logits, targets = cases.random((3, 4), 5)
    logits = logits.copy()
    logits[1, 2, 3] = np.nan
    loss, d_logits = agree.both(place, subject, logits, targets, reduction=reduction)
    agree.same(int(np.isnan(loss).sum()), 1, "losses that are NaN")
    if d_logits is not agree.NO_GRADIENT:
        found = int(np.isnan(d_logits).sum()), int(np.isnan(d_logits[1, 2]).sum())
        agree.same(found, (5, 5), "entries of the gradient that are NaN, in all and of that row")
