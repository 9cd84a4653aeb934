"""Clauses P1 to P4: a vocabulary in shards, each in a process of its own. Asked by --shards alone."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth, texts
from crossent_conformance.backends import Mode
from crossent_conformance.shards import Partition
from crossent_conformance.subject import DoesNotApply

pytestmark = [pytest.mark.elsewhere, pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY))]
FLOAT32 = pytest.mark.places(modes=(Mode.EAGER, Mode.LAZY), dtypes=("float32",))
EVERY_DTYPE = pytest.mark.places(
    modes=(Mode.EAGER, Mode.LAZY),
    when=lambda place, kind, **_: not depth.spares(place) or place.dtype == "float32" or kind == "uneven",
)
KINDS = ("even", "uneven", "turned", "empty", "padded")
V = 23
TOKENS = (3, 4)
WEIGHTS = np.linspace(0, 2, 12).round(2).reshape(TOKENS) * 4 // 1 / 4
CLASSES = np.arange(V) % 5 / 2
"""Class weights, some of them 0, exact in every dtype."""
OPTIONS = {
    "plain": {},
    "ignore": {"ignore_index": 3},
    "others": {"label_smoothing": 0.125},
    "uniform": {"label_smoothing": 0.25, "smoothing": "uniform"},
    "classes": {"class_weights": CLASSES},
    "weights": {"weights": WEIGHTS},
    "z": {"z_loss": 0.25},
    "temperature": {"temperature": 2.0},
    "softcap": {"logit_softcap": 3.0},
}
HARD = {
    **OPTIONS,
    "several": {"class_weights": CLASSES, "label_smoothing": 0.125, "ignore_index": 3, "weights": WEIGHTS},
    "all": {"class_weights": CLASSES, "label_smoothing": 0.5, "smoothing": "uniform", "z_loss": 0.125}
    | {"logit_softcap": 4.0, "temperature": 0.5, "weights": WEIGHTS, "ignore_index": 3},
}
SOFT = {
    name: {option: value for option, value in options.items() if option != "ignore_index"}
    for name, options in HARD.items()
    if name != "ignore"
}
REDUCED = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "sequence": {"reduction": "sequence"},
    "tokens": {"denominator": "tokens", "class_weights": CLASSES},
    "number": {"denominator": 2.5, "weights": WEIGHTS},
    "weighted": {"weights": WEIGHTS, "class_weights": CLASSES, "ignore_index": 3},
    "ignored": {"ignore_index": 3, "label_smoothing": 0.125},
}


def _hard():
    """Some of them the first and the last classes, and the one that is ignored."""
    logits, targets = cases.random(TOKENS, V)
    targets = targets.copy()
    targets[0, 0], targets[0, 1], targets[1, 1], targets[2, 3] = 0, V - 1, 3, 3
    return cases.mild(cases.eighths(logits), targets), targets


def _soft():
    logits, _ = _hard()
    shares = cases.eighths(cases.generator(9).random(logits.shape))
    shares[0] = np.eye(V)[[0, V - 1, 7, 11]]
    shares[1, 0, 4:] = 0
    return logits, shares


# ---- P1


@EVERY_DTYPE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", HARD)
def test_P1_hard_targets(place, shards, kind, options):
    shards.agree(shards.partition(V, kind), *_hard(), reduction="none", **HARD[options])


@EVERY_DTYPE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", SOFT)
def test_P1_soft_targets(place, shards, kind, options):
    shards.agree(shards.partition(V, kind), *_soft(), reduction="none", **SOFT[options])


@FLOAT32
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", REDUCED)
def test_P1_reductions(place, shards, kind, options):
    shards.agree(shards.partition(V, kind), *_hard(), **REDUCED[options])


@FLOAT32
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("verb", ["loss_and_grad", "graph"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_P1_from_upstream(place, shards, reduction, verb, soft):
    options = {"reduction": reduction, "grad_output": cases.scale(reduction, TOKENS), "label_smoothing": 0.125}
    shards.agree(shards.partition(V), *(_soft() if soft else _hard()), verb=verb, **options)


@FLOAT32
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_P1_unchecked(place, shards, kind, soft):
    shards.agree(shards.partition(V, kind), *(_soft() if soft else _hard()), check=False, label_smoothing=0.125)


@EVERY_DTYPE
@pytest.mark.parametrize("kind", KINDS)
def test_P1_targets_far_ahead(place, shards, kind):
    """Whichever shard has the target and the other classes."""
    logits, targets = cases.gaps(V, (-89.0, -20.0, 1.0, 10.0, 17.0, 40.0))
    shards.agree(shards.partition(V, kind), logits, targets, reduction="none")


@EVERY_DTYPE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ["plain", "others", "uniform", "several"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_P1_masked_classes_and_ties(place, shards, kind, options, soft):
    """Shards of nothing but −∞, and maxima that several shards have."""
    logits, targets = (_soft if soft else _hard)()
    logits = logits.copy()
    for row, kept in {(0, 2): (7, 8), (0, 3): (1, 11), (1, 0): (0, 1, 2, 3), (1, 2): (0, V - 1)}.items():
        logits[(*row, [c for c in range(V) if c not in kept])] = -np.inf
    logits[2, :, ::3] = logits.max(where=np.isfinite(logits), initial=0.0) + 1
    if soft:
        targets = np.where(np.isfinite(logits), targets, 0.0)
    else:
        targets = np.where(np.isfinite(np.take_along_axis(logits, targets[..., None], -1))[..., 0], targets, 0)
        targets[0, 2:], targets[1, 2] = (7, 11), V - 1
    shards.agree(shards.partition(V, kind), logits, targets, reduction="none", **(SOFT if soft else HARD)[options])


@FLOAT32
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_P1_fewer_classes_than_shards(place, shards, classes):
    logits, targets = cases.random((5,), classes)
    shards.agree(shards.partition(classes), logits, targets)


@FLOAT32
@pytest.mark.parametrize("tokens", [(), (1,), (0,), (2, 1, 3)], ids=str)
def test_P1_tokens_of_any_shape(place, shards, tokens):
    logits, targets = cases.random(tokens, V)
    shards.agree(shards.partition(V), logits, targets, reduction="none")


@FLOAT32
def test_P1_a_large_vocabulary(place, shards):
    logits, targets = cases.vocabulary(5003)
    shards.agree(shards.partition(5003), logits, targets, label_smoothing=0.125)


@FLOAT32
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ["plain", "others", "several", "z"])
def test_P1_hidden_states(place, shards, kind, options):
    hidden, targets, weight, bias = cases.head((9,), 5, V)
    options = {name: value for name, value in HARD[options].items() if name != "weights"}
    shards.linear_agrees(shards.partition(V, kind), hidden, targets, weight=weight, bias=bias, **options)


# ---- P2


def _met(shards, logits, targets, verb="loss_and_grad", **options):
    """The collectives of a call, and how many numbers a rank gave to each."""
    answers = shards.right(shards.partition(logits.shape[-1], "even"), logits, targets, verb, counts=True, **options)
    if answers[0].met is None:
        raise DoesNotApply("a count of its collectives")
    assert all(answer.met == answers[0].met for answer in answers), "ranks that differ in their collectives"
    return [numbers for _, numbers in answers[0].met]


def _are(met, count):
    assert len(met) == count, f"{len(met)} collectives, where the contract has {count}: of {met} numbers"


@FLOAT32
@pytest.mark.parametrize("verb", ["loss", "loss_and_grad", "graph"])
@pytest.mark.parametrize("options", HARD)
def test_P2_two_collectives(place, shards, verb, options):
    _are(_met(shards, *_hard(), verb, check=False, **HARD[options]), 2)


@FLOAT32
@pytest.mark.parametrize("verb", ["loss", "loss_and_grad", "graph"])
@pytest.mark.parametrize("options", SOFT)
def test_P2_soft_targets_that_are_smoothed_take_three(place, shards, verb, options):
    smoothed = "label_smoothing" in SOFT[options]
    _are(_met(shards, *_soft(), verb, check=False, **SOFT[options]), 3 if smoothed else 2)


@FLOAT32
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", ["plain", "several"])
def test_P2_of_as_many_numbers_as_tokens(place, shards, soft, options):
    """Whatever the vocabulary; of a few for each token."""
    found = []
    for rows, classes in ((6, 23), (6, 230), (12, 23)):
        logits, targets = cases.random((rows,), classes)
        given = {name: value for name, value in HARD[options].items() if name not in ("weights", "ignore_index")}
        if "class_weights" in given:
            given["class_weights"] = np.ones(classes)
        targets = np.full(logits.shape, 1 / classes) if soft else targets
        found.append(_met(shards, logits, targets, check=False, **given))
    few, wide, many = found
    assert wide == few, f"a larger vocabulary has collectives of {wide} numbers, where it has {few}"
    agree.same(many, [2 * numbers for numbers in few], "numbers sent for twice the tokens")
    assert max(few) <= 6 * 12, f"{max(few)} numbers for 12 tokens in one exchange; accepted: 72"


@FLOAT32
def test_P2_one_number_more_where_ranks_compare(place, shards):
    without, checked = (_met(shards, *_hard(), check=check) for check in (False, True))
    agree.same(len(checked), 1 + len(without), "exchanges with the check of the ranges")
    agree.same(checked[0], 1, "exchanges of the check")


@FLOAT32
def test_P2_one_for_the_hidden_states(place, shards):
    hidden, targets, weight, bias = cases.head((9,), 5, V)
    met = _met(shards, hidden, targets, "linear", weight=weight, bias=bias, check=False)
    _are(met, 3)
    agree.same(met[-1], hidden.size, "numbers in the exchange for d_hidden")


# ---- P3


LAST = 1
"""The rank whose call is another than those of the others."""


def _each_names(answers, *words):
    """Every rank's error has all of the words."""
    for rank, answer in enumerate(answers):
        lacking = [word for word in words if word not in answer.text]
        told = f"rank {rank} raised {answer.error}: {answer.text}"
        assert not lacking, f"{' and '.join(map(repr, lacking))} named by no error: {told}"


def _several(shards):
    if shards.ranks < 2:
        raise DoesNotApply("a second shard, which --shards 2 has")
    return shards.partition(V, "even")


@FLOAT32
@pytest.mark.parametrize("fault", ["overlap", "gap", "before"])
def test_P3_ranges_that_do_not_fit(place, shards, fault):
    fits = _several(shards)
    first, last = {"overlap": (-1, 0), "gap": (1, 0), "before": (0, -1)}[fault]
    ranges = list(fits.ranges)
    start, stop = ranges[LAST][0] + first, sum(ranges[LAST]) + last
    ranges[LAST] = (start, stop - start)
    if fault == "before" and shards.ranks == 2:
        raise DoesNotApply("a third shard, which --shards 3 has")
    answers = shards.refused(Partition(tuple(ranges), fits.padding), *_hard())
    agree.same({answer.error for answer in answers}, {"ValueError"}, "the errors of the ranks")
    assert len({answer.text for answer in answers}) == 1, f"several errors: {[answer.text for answer in answers]}"
    rank, start, size = (LAST + 1, *ranges[LAST + 1]) if fault == "before" else (LAST, *ranges[LAST])
    _each_names(answers, f"rank {rank}", str(start), str(start + size - 1))


@FLOAT32
@pytest.mark.parametrize("value", [-1, 2.5, "0"])
def test_P3_a_range_that_is_none(place, shards, value):
    def change(rank, call):
        if rank == LAST:
            call.range = (value, call.range[1])

    answers = shards.refused(_several(shards), *_hard(), change=change)
    _each_names(answers, str(value))
    _each_names([answer for rank, answer in enumerate(answers) if rank != LAST], f"rank {LAST}")


DIFFERENT = {
    "reduction": ("sum", "mean"),
    "label_smoothing": (0.125, 0.25),
    "smoothing": ("uniform", "others"),
    "ignore_index": (3, 4),
    "z_loss": (0.5, 0.25),
    "temperature": (2.0, 3.0),
    "logit_softcap": (3.0, 5.0),
    "denominator": (2.5, 3.5),
    "algorithm": ("stable", "explicit"),
}


@FLOAT32
@pytest.mark.parametrize("name", DIFFERENT)
def test_P3_options_that_differ(place, shards, name):
    usual, other = DIFFERENT[name]

    def change(rank, call):
        call.options = {"label_smoothing": 0.125, **call.options, name: other if rank == LAST else usual}

    answers = shards.refused(_several(shards), *_hard(), change=change)
    words = (str(usual), str(other)) if name != "algorithm" else (str(other),)
    _each_names([answer for rank, answer in enumerate(answers) if rank != LAST], f"rank {LAST}", *words)
    shards.agree(shards.partition(V, "even"), *_hard())


@FLOAT32
@pytest.mark.parametrize("name", ["weights", "class_weights", "ignore_index"])
def test_P3_an_option_that_one_has_not(place, shards, name):
    value = {"weights": WEIGHTS, "class_weights": CLASSES, "ignore_index": 3}[name]

    def change(rank, call):
        if rank == LAST:
            del call.options[name]

    answers = shards.refused(_several(shards), *_hard(), change=change, **{name: value})
    _each_names(answers, f"rank {LAST}", name)


@FLOAT32
def test_P3_other_targets(place, shards):
    def change(rank, call):
        if rank == LAST:
            call.targets = call.targets.copy()
            call.targets[1, 2] = (call.targets[1, 2] + 1) % V

    _each_names(shards.refused(_several(shards), *_hard(), change=change), f"rank {LAST}", "targets")


@FLOAT32
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_P3_another_number_of_tokens(place, shards, soft):
    def change(rank, call):
        if rank == LAST:
            call.logits, call.targets = call.logits[:2], call.targets[:2]

    answers = shards.refused(_several(shards), *(_soft() if soft else _hard()), change=change)
    _each_names(answers, f"rank {LAST}", "2", "3")


@FLOAT32
def test_P3_hard_targets_on_one_and_soft_on_the_others(place, shards):
    def change(rank, call):
        if rank == LAST:
            call.targets = _hard()[1]

    shards.refused(_several(shards), *_soft(), change=change)


REFUSED = {
    "label_smoothing": lambda call: call.options.update(label_smoothing=1.5),
    "reduction": lambda call: call.options.update(reduction="median"),
    "logits": lambda call: setattr(call, "logits", call.logits[..., :-1]),
    "targets": lambda call: setattr(call, "targets", call.targets[:1]),
}


@FLOAT32
@pytest.mark.parametrize("what", REFUSED)
def test_P3_what_one_alone_is_refused(place, shards, what):
    def change(rank, call):
        if rank == LAST:
            REFUSED[what](call)

    answers = shards.refused(_several(shards), *_hard(), change=change)
    assert texts.names_argument(answers[LAST].text, *shards.subject.names_of(what)), (
        f"the error does not name {what}: {answers[LAST].text}"
    )
    _each_names([answer for rank, answer in enumerate(answers) if rank != LAST], f"rank {LAST}", answers[LAST].text)
    shards.agree(shards.partition(V, "even"), *_hard())


# ---- P4


@FLOAT32
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1, V, V + 2, -100, 2**31 - 1, 2**40])
def test_P4_a_target_that_is_no_class(place, shards, kind, value):
    """Not even where the padding would be."""
    logits, targets = _hard()
    targets[1, 2], targets[2, 0] = value, 77
    if place.backend.modes[0] is Mode.LAZY or place.backend.name == "jax":
        raise DoesNotApply("a look at the targets of an array that is lazy, or traced in shard_map")
    answers = shards.refused(shards.partition(V, kind), logits, targets)
    agree.same({answer.error for answer in answers}, {"IndexError"}, "the errors of the ranks")
    for answer in answers:
        lacks = texts.lacks_of_target(answer.text, (1, 2), value, V)
        assert not lacks, f"the error does not name {lacks}: {answer.text}"


@FLOAT32
@pytest.mark.parametrize("kind", KINDS)
def test_P4_every_class_may_be_a_target(place, shards, kind):
    logits, _ = cases.random((V,), V)
    targets = np.arange(V)
    shards.agree(shards.partition(V, kind), cases.mild(logits, targets), targets, reduction="none")


@FLOAT32
@pytest.mark.parametrize("value", [-1, V, -100])
def test_P4_an_ignored_target_is_not_looked_at(place, shards, value):
    logits, targets = _hard()
    targets[1, 2] = value
    shards.agree(shards.partition(V), logits, targets, ignore_index=value)


@FLOAT32
@pytest.mark.parametrize("value", [-1, V, V + 2])
@pytest.mark.parametrize("kind", KINDS)
def test_P4_unchecked_it_is_nan(place, shards, kind, value):
    logits, targets = _hard()
    targets[1, 2] = value
    options = {"reduction": "none", "check_targets": False}
    for answer in shards.right(shards.partition(V, kind), logits, targets, "loss", **options):
        bad = np.zeros(TOKENS, bool)
        bad[1, 2] = True
        agree.same(np.isnan(answer.parts[0]).tolist(), np.asarray(bad).tolist(), "which losses are NaN")
