"""Clause A3: targets of every integer dtype give what int64 gives (what is refused: `test_refusals`)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from crossent_conformance import agree, cases, depth
from crossent_conformance.backends import DIRECT, ONCE, Mode
from crossent_conformance.clauses.test_targets import READABLE
from crossent_conformance.refused import LOGITS, TARGETS

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def _as_with_int64(place, subject, logits, targets, **options):
    expected = agree.both(place, subject, logits, targets.astype(np.int64), **options)
    with subject.unassisted():
        results = agree.both(place, subject, logits, targets, **options)
    agree.both_alike(place, results, expected)


@pytest.mark.places(
    modes=ONCE,
    dtypes=("float32",),
    when=lambda place, dtype, options: (
        not depth.spares(place) or (not options and (place.mode is not Mode.TRACED or dtype in ("uint8", "int32")))
    ),
)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(
    "options", [{}, {"ignore_index": 2}, {"label_smoothing": 0.125}], ids=["plain", "ignore", "smoothed"]
)
def test_A3_every_integer_dtype(place, subject, dtype, options):
    logits, targets = cases.random((6,), 5)
    _as_with_int64(place, subject, logits, targets.astype(dtype), **options)


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
@pytest.mark.parametrize("dtype", INTEGERS)
def test_A3_integers_at_the_ends_of_their_dtype(place, subject, dtype):
    V = min(int(np.iinfo(dtype).max), 299) + 1
    logits, _ = cases.random((4,), V)
    targets = np.array([0, V - 1, V // 2, 1]).astype(dtype)
    _as_with_int64(place, subject, logits, targets)


@pytest.mark.places(modes=DIRECT, sparse=True)
@depth.examples(st.data(), count=20)
def test_A3_any_integers(place, subject, data):
    dtype = data.draw(st.sampled_from(INTEGERS))
    V = data.draw(st.sampled_from([1, 2, 100, 128, 200]))
    largest = min(V - 1, int(np.iinfo(dtype).max))
    targets = np.array(data.draw(st.lists(st.integers(0, largest), min_size=4, max_size=4)), dtype=dtype)
    _as_with_int64(place, subject, cases.random((4,), V)[0], targets)


PAST = [
    ("uint64", 2**63),
    ("uint64", 2**64 - 1),
    ("uint64", 2**64 - 100),
    ("uint32", 2**32 - 1),
    ("uint32", 2**31),
    ("uint16", 2**16 - 1),
    ("uint8", 255),
    ("uint8", 156),
    ("int8", -1),
    ("int8", -128),
    ("int16", -(2**15)),
    ("int32", -(2**31)),
    ("int64", -(2**63)),
    ("int64", 2**63 - 1),
    ("int64", 2**32 + 1),
]


@pytest.mark.clause("A3", "A4")
@pytest.mark.places(modes=READABLE, dtypes=("float32",))
@pytest.mark.parametrize(("dtype", "value"), PAST)
@pytest.mark.parametrize("ignored", [None, -100, -5])
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
def test_A3_values_past_a_signed_integer_do_not_wrap(place, subject, dtype, value, ignored, checked):
    """Neither into the vocabulary nor onto ignore_index, whatever integer the implementation computes with."""
    options = {} if ignored is None else {"ignore_index": ignored}
    targets = TARGETS.astype(dtype)
    targets[4] = value
    x, t = place.pair(LOGITS, targets)
    with subject.unassisted():
        if checked:
            agree.refusal(lambda: subject.loss(x, t, **options), Exception)  # which error: A4
            return
        options |= {"check_targets": False, "reduction": "none"}
        loss = place.evaluate(subject.loss, LOGITS, targets, **options)
    agree.same(np.isnan(loss).tolist(), [False, False, False, False, True, False], "which losses are NaN")


@pytest.mark.clause("A5", "A3")
@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
@pytest.mark.parametrize("ignored", [2**31, -(2**31) - 1, 2**40, 2**63 - 1, -(2**63), 2**32 + 1])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "int64"])
def test_A5_ignore_index_may_be_past_the_dtype_of_targets(place, subject, dtype, ignored):
    """It ignores nothing then, least of all the target that it would wrap onto."""
    _as_with_int64(place, subject, LOGITS, TARGETS.astype(dtype), ignore_index=ignored)


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
@pytest.mark.parametrize(
    ("dtype", "ignored"),
    [
        ("uint32", 2**32 - 1),
        ("uint32", 2**31),
        ("uint8", 255),
        ("uint8", 2),
        ("uint64", 2**63 - 1),
        ("int8", -100),
        ("int8", -1),
    ],
)
def test_A3_ignored_values_of_narrow_integers(place, subject, dtype, ignored):
    targets = TARGETS.astype(dtype)
    targets[1] = ignored
    _as_with_int64(place, subject, LOGITS, targets, ignore_index=ignored)
