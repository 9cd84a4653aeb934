"""Clauses S1 to S4: infinities, NaN and ignored tokens.

What an option means is for other clauses to say. Here results are compared with those of ordinary logits under the
same options: an ignored row of NaN with an ignored row of numbers, a logit of -inf with one so low that its exponential
is 0.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import NOT_DOUBLED

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


@pytest.mark.clause("S1")
@pytest.mark.places(sparse=True, when=_is_asked)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("ignored", [-100, 2, "weight"], ids=str)
def test_S1_ignored_tokens_are_zero_whatever_they_hold(place, subject, options, ignored):
    logits, targets = _with_special([np.nan, np.inf, -np.inf], positions=(1, 3, 4))
    ordinary = np.where(np.isfinite(logits), logits, 0.5)
    if ignored == "weight":
        options = {**options, "weights": np.where(np.arange(len(targets)) % 2 == 0, 0.0, 1.0)}
    else:
        targets = np.where(np.arange(len(targets)) % 2 == 0, ignored, np.where(targets == ignored, 1, targets))
        options = {**options, "ignore_index": ignored}
    clean = agree.both(place, subject, ordinary, targets, reduction="none", **options)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    agree.both_alike(place, (loss, d_logits), clean)
    assert (loss[::2] == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits[::2] == 0).all()


@pytest.mark.clause("S1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
def test_S1_ignored_tokens_leave_reductions_clean(place, subject, reduction):
    logits, targets = _with_special([np.nan, np.inf, -np.inf], positions=(1, 4))
    targets[::2] = -100
    logits, targets = logits.reshape(2, -1, WIDE), targets.reshape(2, -1)
    options = {"reduction": reduction, "ignore_index": -100}
    ordinary = np.where(np.isfinite(logits), logits, 0.5)
    clean, results = (agree.both(place, subject, x, targets, **options) for x in (ordinary, logits))
    agree.both_alike(place, results, clean)
    assert np.isfinite(results[0]).all()


@pytest.mark.clause("S1")
@pytest.mark.places(sparse=True)
def test_S1_a_class_of_weight_zero_is_not_counted(place, subject):
    logits, targets = _with_special([np.nan, np.inf], positions=(1,))
    targets = np.where(np.arange(len(targets)) % 2 == 0, 1, 2)
    options = {"reduction": "none", "class_weights": np.array([1.0, 0.0, 2.0, 0.5])}
    loss, d_logits = agree.both(place, subject, logits, targets, **options)
    assert (loss[::2] == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits[::2] == 0).all()
    assert np.isfinite(loss).all()


@pytest.mark.clause("S2")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
def test_S2_minus_infinity_off_the_target(place, subject, options):
    logits, targets = _with_special([-np.inf], positions=(1, 2, 3))
    off = np.isfinite(logits[np.arange(len(targets)), targets])
    logits, targets = logits[off], targets[off]
    expected, (loss, d_logits) = (
        agree.both(place, subject, x, targets, reduction="none", **options)
        for x in (np.where(np.isfinite(logits), logits, LOW), logits)
    )
    agree.both_alike(place, (loss, d_logits), expected)
    assert np.isfinite(loss).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits[np.isneginf(logits)] == 0).all()


@pytest.mark.clause("S2")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize(
    "options", [{}, {"class_weights": CLASS_WEIGHTS}, {"algorithm": "explicit"}], ids=["plain", "weights", "explicit"]
)
def test_S2_all_but_the_target(place, subject, options):
    targets = np.arange(WIDE)
    logits = np.where(np.arange(WIDE) == targets[:, None], 3.0, -np.inf)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    assert (loss == 0).all()
    if d_logits is not agree.NO_GRADIENT:
        assert (d_logits == 0).all()


@pytest.mark.clause("S2")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_S2_a_block_of_minus_infinity(place, subject):
    logits, targets = cases.vocabulary(9000)
    logits = logits.copy()
    logits[0, :8192], logits[1, 8192:], logits[2, 1024:], logits[3, :-1], logits[4, ::2] = (-np.inf,) * 5
    targets = np.array([8999, 5, 0, 8999, 1, targets[5]])
    low = np.where(np.isfinite(logits), logits, LOW)
    expected, results = (agree.both(place, subject, x, targets, reduction="none") for x in (low, logits))
    agree.both_alike(place, results, expected)


@pytest.mark.clause("S3")
@pytest.mark.places(sparse=True)
@pytest.mark.parametrize("options", UNSMOOTHED.values(), ids=UNSMOOTHED)
def test_S3_minus_infinity_on_the_target(place, subject, options):
    logits = np.array([[-np.inf, 1.0, 2.0, 0.5], [0.0, -np.inf, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf, 1.0]])
    targets = np.array([0, 2, 1])
    low = np.where(np.isfinite(logits), logits, LOW)
    _, expected = agree.both(place, subject, low, targets, reduction="none", **options)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    assert np.isposinf(loss).all()
    if d_logits is agree.NO_GRADIENT:
        return
    agree.alike(place, d_logits, expected, what="d_logits")
    if not options:
        assert d_logits[0, 0] == d_logits[1, 2] == d_logits[2, 1] == -1


@pytest.mark.clause("S3")
@pytest.mark.places(sparse=True)
def test_S3_soft_targets_with_mass_on_minus_infinity(place, subject):
    agree.serves_soft(place, subject)
    logits = np.array([[-np.inf, 1.0, 2.0], [0.0, -np.inf, 1.0]])
    soft = np.array([[0.25, 0.25, 0.5], [0.0, 1.0, 0.0]])
    low = np.where(np.isfinite(logits), logits, LOW)
    _, expected = agree.both(place, subject, low, soft, reduction="none")
    loss, d_logits = agree.both(place, subject, logits, soft, reduction="none")
    assert np.isposinf(loss).all()
    if d_logits is not agree.NO_GRADIENT:
        agree.alike(place, d_logits, expected, what="d_logits")


def _only_every_second_row_is_nan(place, subject, logits, targets, **options):
    ordinary = np.where(np.isfinite(logits), logits, 0.5)
    clean = agree.both(place, subject, ordinary, targets, reduction="none", **options)
    loss, d_logits = agree.both(place, subject, logits, targets, reduction="none", **options)
    assert np.isnan(loss[::2]).all()
    if d_logits is not agree.NO_GRADIENT:
        assert np.isnan(d_logits[::2]).all()
    agree.both_alike(place, (loss, d_logits), clean, rows=slice(1, None, 2))


@pytest.mark.clause("S4")
@pytest.mark.places(sparse=True, when=_is_asked)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_S4_nan_and_plus_infinity_fill_their_row_alone(place, subject, options):
    logits, targets = _with_special([np.nan, np.inf])
    only, only_targets = _with_special([-np.inf], positions=(WIDE,))
    logits, targets = np.concatenate([logits, only]), np.concatenate([targets, only_targets])
    _only_every_second_row_is_nan(place, subject, logits, targets, **options)


@pytest.mark.clause("S4")
@pytest.mark.places(sparse=True)
def test_S4_soft_targets(place, subject):
    agree.serves_soft(place, subject)
    logits, targets = _with_special([np.nan, np.inf])
    soft = np.where(np.arange(WIDE) == targets[:, None], 0.75, 0.125)
    _only_every_second_row_is_nan(place, subject, logits, soft)


@pytest.mark.clause("S4")
@pytest.mark.places(sparse=True)
def test_S4_mixed_infinities_and_nan(place, subject):
    kinds = [row for row in itertools.product([np.nan, np.inf, -np.inf, 1.0], repeat=3) if 1.0 not in row]
    logits = np.full((2 * len(kinds), 3), 0.5)
    logits[::2] = kinds
    for target in range(3):
        _only_every_second_row_is_nan(place, subject, logits, np.full(len(logits), target))


@pytest.mark.clause("S4")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", ["mean", "sum", "sequence"])
def test_S4_reduced_losses_are_nan_and_other_gradients_are_not(place, subject, reduction):
    logits, targets = cases.random((3, 4), 5)
    logits = logits.copy()
    logits[1, 2, 3] = np.nan
    loss, d_logits = agree.both(place, subject, logits, targets, reduction=reduction)
    assert np.isnan(loss).sum() == 1
    if d_logits is not agree.NO_GRADIENT:
        assert np.isnan(d_logits).sum() == np.isnan(d_logits[1, 2]).sum() == 5
