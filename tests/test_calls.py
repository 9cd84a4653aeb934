"""What a small call costs in Python: how many functions it calls, and that it asks nothing of an array twice."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

import crossent
from crossent import libraries
from crossent.libraries import Library

X, T = np.linspace(-2, 2, 128, dtype=np.float32).reshape(8, 16), np.arange(8)
# And how many functions a loss without a graph calls at most.
BACKENDS = {"numpy": 20, "torch": 30}
OPTIONS = {
    "plain": {},
    "ignored": {"ignore_index": 3, "label_smoothing": 0.1},
    "weighed": {"weights": True, "class_weights": True, "denominator": "tokens"},
}


def _frames(call):
    """What the Python functions that a call calls were given, when it has been called before."""
    call(), call()
    seen = []

    def profile(frame, event, _):
        if event == "call":
            seen.append((frame.f_code.co_name, dict(frame.f_locals), frame.f_back and frame.f_back.f_code.co_name))

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen[1:]  # without `call` itself


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_small_loss_calls_few_functions(backend):
    array = pytest.importorskip(backend).asarray
    x, t = array(X), array(T)
    # The collector may call functions of anybody's meanwhile, but hardly every time.
    calls = [_frames(lambda: crossent.cross_entropy(x, t)) for _ in range(5)]
    names = min(([name for name, _, _ in seen] for seen in calls), key=len)
    assert names[0] == "cross_entropy"
    assert len(names) <= BACKENDS[backend], names


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("function", [crossent.cross_entropy, crossent.cross_entropy_and_grad])
def test_no_question_is_asked_twice(backend, options, function):
    array = pytest.importorskip(backend).asarray
    given = {"weights": array(np.ones(8, np.float32)), "class_weights": array(np.ones(16, np.float32))}
    options = {name: given.get(name, value) for name, value in options.items()}
    x, t = array(X), array(T)
    asked, kept = Counter(), []
    for name, values, caller in _frames(lambda: function(x, t, **options)):
        library, about, *_ = [*values.values(), None, None]
        # An answer may make use of that of a superclass, and a cast, which may have two dtypes, is no question.
        if not isinstance(library, Library) or name in (caller, "cast") or libraries.of(about) is None:
            continue
        kept.append(about)
        asked[name, id(about)] += 1
    twice = {name: n for (name, _), n in asked.items() if n > 1}
    assert asked
    assert not twice
