"""What an implementation takes, found by trying a few small calls on a backend.

Trying answers only what cannot be read from a signature or an adapter: which dtypes it refuses, whether it takes
(N, V) logits alone, which reduction or smoothing it has where it has no option for them, whether a gradient can be had
(`taken`); which reductions it refuses, and whether soft targets (`refused`); how fast it is (`pace`). What is refused
is said in a note, with the error, so that nobody mistakes "does not apply" for "holds". To answer wrongly is not to
refuse.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crossent_conformance import depth, oracle
from crossent_conformance.adapter import SOFT, Pace, Traits, UnderTest, reduction_of
from crossent_conformance.backends import Backend
from crossent_conformance.evidence import kind_of
from crossent_conformance.implementation import DoesNotApply

LOGITS = np.array([[0.5, -1.0, 2.0, 0.0, 1.0], [1.5, 0.25, -0.5, 3.0, -2.0], [0.0, 1.0, 0.0, -1.0, 0.5]])
TARGETS = np.array([2, 0, 4])
SHARES = np.array([[0.5, 0.0, 0.25, 0.25, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.125, 0.125]])
"""Soft targets."""
MAY_BE_REFUSED = ("sum", "none", "sequence")
"""Reductions that an implementation need not have, although it has an option for them."""
LONG = 0.1
"""Seconds of a call from which the time of larger ones follows."""
SLOW = 1.5e5
"""Tokens or logits a second, below which it is said that an implementation is slow."""


def examine(under_test: UnderTest, backend: Backend) -> Traits:
    """The traits of the implementation on the backend."""
    traits = taken(under_test, backend)
    if traits.refusal is not None:
        return traits
    traits = refused(under_test, backend, traits)
    return pace(under_test, backend, traits) if math.isfinite(depth.TIME_LIMIT) else traits


def taken(under_test: UnderTest, backend: Backend) -> Traits:
    """What the implementation takes and does, or why nothing can be asked."""
    if under_test.backends is not None and backend.name not in under_test.backends:
        return Traits(dtypes=(), refusal="its adapter does not name this backend", tried=False)
    traits = Traits(flat=bool(under_test.flat))
    dtypes, refusals = [], {}
    for dtype in backend.dtypes:
        if under_test.dtypes is not None and dtype not in under_test.dtypes:
            continue
        try:
            result = _result(under_test, backend, dtype)
        except Exception as error:  # whatever it raises is its way to refuse
            refusals[dtype] = _short(error)
        else:
            dtypes.append(dtype)
            traits = replace(traits, pairs=isinstance(result, tuple) and len(result) == 2)
    if not dtypes:
        reasons = list(dict.fromkeys(refusals.values())) or ["no dtype of it is taken"]
        return replace(traits, dtypes=(), refusal="; ".join(reasons))
    notes = [*under_test.notes]
    notes += [f"does not take {dtype}: {reason}" for dtype, reason in refusals.items()]
    exact = _exact(dtypes)

    if under_test.takes_anything:
        notes.append("its signature takes any option: one that it does not know is a failure, not what does not apply")
    fixed: dict[str, Any] = {}
    if not under_test.takes("reduction") and "reduction" not in under_test.fixed:
        fixed["reduction"] = _reduction(under_test, backend, exact)
        notes.append(f"always reduces by {fixed['reduction']!r}")
    smooths = under_test.takes("label_smoothing") or "label_smoothing" in under_test.fixed
    alone = smooths and not under_test.takes("smoothing")
    if alone and "smoothing" not in under_test.fixed and (smoothing := _smoothing(under_test, backend, exact)):
        fixed["smoothing"] = smoothing
        notes.append(f"always smooths by {smoothing!r}")
    traits = replace(traits, dtypes=tuple(dtypes), fixed=fixed)

    if under_test.flat is None and (reason := _error(under_test, backend, exact, LOGITS[None], TARGETS[None])):
        traits = replace(traits, flat=True)
        notes.append(f"takes logits of shape (N, V) alone, others are flattened for it: {reason}")
    if reason := _error(under_test, backend, exact, LOGITS, TARGETS.astype(np.int32)):
        traits = replace(traits, int64_only=True)
        notes.append(f"takes targets of int64 alone: {reason}")
    if reason := _no_gradient(under_test, backend, exact, traits):
        notes.append(f"gives no gradient, values alone are checked: {reason}")
    return replace(traits, gradient=reason is None, notes=tuple(notes))


def refused(under_test: UnderTest, backend: Backend, traits: Traits) -> Traits:
    """The traits with the reductions that are refused, and soft targets, if they are."""
    dtype = _exact(traits.dtypes)
    tried = {reduction_of(name): (TARGETS, {"reduction": name}) for name in MAY_BE_REFUSED}
    asked = {**(tried if under_test.takes("reduction") else {}), SOFT: (SHARES, {})}
    found = {}
    for what, (targets, options) in asked.items():
        given = backend.asarray(targets, dtype if what == SOFT else "int64")
        try:
            under_test.small_call(backend.asarray(LOGITS, dtype), given, **options)
        except NotImplementedError:  # each case will be told so
            continue
        except Exception as error:
            found[what] = _short(error)
    notes = [f"does not take {what}: {reason}" for what, reason in found.items()]
    return replace(traits, refuses=found, notes=(*traits.notes, *notes))


def pace(under_test: UnderTest, backend: Backend, traits: Traits) -> Traits:
    """The traits with how long calls take: found by larger and larger ones, up to one that takes long.

    Few classes tell of tokens, many of logits. Each is called twice, for a first call may compile.
    """
    dtype = _exact(traits.dtypes)
    under_test.begin(traits, "V1")
    call = under_test.loss_and_grad if traits.gradient else under_test.loss

    def seconds(tokens: int, classes: int) -> float:
        arrays = backend.asarray(np.zeros((tokens, classes)), dtype), backend.asarray(np.zeros(tokens, int), "int64")
        started = time.perf_counter()
        result = call(*arrays, **{**traits.fixed, **under_test.fixed})
        backend.to_numpy(result[0] if isinstance(result, tuple) else result)
        return time.perf_counter() - started

    found = {}
    try:
        for name, least, most in (("token", (16, 2), (1024, 2)), ("logit", (2, 1024), (2, 65536))):
            before, count = 0.0, least
            taken = min(seconds(*least), seconds(*least))
            if taken < LONG:
                before, count = taken, most
                taken = min(seconds(*most), seconds(*most))
            found[name] = max(taken - before, 0.0) / (count[0] if name == "token" else math.prod(count))
    except (Exception, SystemExit):  # what is wrong with it is for the tests to say
        return traits
    slow = [f"{float(f'{1 / each:.1g}'):,.0f} {what}s a second" for what, each in found.items() if each * SLOW > 1]
    notes = [f"is slow: {' and '.join(slow)}; what cannot end within the time limit does not apply"] if slow else []
    return replace(traits, pace=Pace(**found), notes=(*traits.notes, *notes))


def _exact(dtypes: Sequence[str]) -> str:
    """The dtype to try other things in."""
    return next((dtype for dtype in ("float32", "float64") if dtype in dtypes), dtypes[0])


def _call(under_test: UnderTest, backend: Backend, dtype: str, logits: Any = LOGITS, targets: Any = TARGETS) -> Any:
    result = _result(under_test, backend, dtype, logits, targets)
    return result[0] if isinstance(result, tuple) else result


def _result(under_test: UnderTest, backend: Backend, dtype: str, logits: Any = LOGITS, targets: Any = TARGETS) -> Any:
    result = under_test.small_call(backend.asarray(logits, dtype), backend.asarray(targets, str(targets.dtype)))
    loss = result[0] if isinstance(result, tuple) else result
    if not backend.owns(loss):
        accepted = "the loss as such an array, or (loss, d_logits)"
        raise TypeError(f"it returned {kind_of(loss)}, not an array of {backend.name}; accepted: {accepted}")
    return result


def _error(under_test: UnderTest, backend: Backend, dtype: str, logits: Any, targets: Any) -> str | None:
    try:
        _call(under_test, backend, dtype, logits, targets)
    except Exception as error:
        return _short(error)
    return None


def _reduction(under_test: UnderTest, backend: Backend, dtype: str) -> str:
    loss = backend.to_numpy(_call(under_test, backend, dtype))
    if loss.ndim:
        return "none"
    total, _ = oracle.cross_entropy(LOGITS, TARGETS, reduction="sum")
    return "sum" if abs(float(loss) - float(total.high)) < 0.1 else "mean"


def _smoothing(under_test: UnderTest, backend: Backend, dtype: str) -> str | None:
    """How it smooths, whichever class it takes for the target; None where that is not to be seen, and the tests will
    say what is wrong."""
    arrays = backend.asarray(LOGITS[:1], dtype), backend.asarray(TARGETS[:1], "int64")
    amount = under_test.fixed.get("label_smoothing", 0.5)
    try:
        options = {"label_smoothing": amount} if under_test.takes("label_smoothing") else {}
        result = under_test.small_call(*arrays, **options)
        loss = np.ravel(backend.to_numpy(result[0] if isinstance(result, tuple) else result))
        distance = {}
        for smoothing, target in itertools.product(("others", "uniform"), range(LOGITS.shape[-1])):
            exact, _ = oracle.cross_entropy(LOGITS[:1], np.array([target]), label_smoothing=amount, smoothing=smoothing)
            distance[smoothing, target] = abs(float(loss[0]) - float(exact.high))
    except Exception:
        return None

    def rank(found: tuple[str, int]) -> tuple[bool, bool, float]:
        """Another class is believed where the loss is nothing else."""
        far = distance[found]
        return found[1] != TARGETS[0] and not far < 1e-3, math.isnan(far), far

    nearest = min(distance, key=rank)
    return nearest[0] if math.isfinite(distance[nearest]) else None


def _no_gradient(under_test: UnderTest, backend: Backend, dtype: str, traits: Traits) -> str | None:
    """Why there is no gradient; None where there is, or where what is wrong with it is for the tests to say."""
    under_test.begin(traits, "V1")
    fixed = {**traits.fixed, **under_test.fixed}  # what it always does is what it can be asked for
    try:
        under_test.loss_and_grad(backend.asarray(LOGITS, dtype), backend.asarray(TARGETS, "int64"), **fixed)
    except DoesNotApply as error:
        return "there is no autograd for these arrays, or the loss is not on its graph" if error.gradient else None
    except Exception as error:
        # JAX cannot follow what looks at values. Any other error is one of a gradient that there is.
        jax = sys.modules.get("jax")
        return _short(error) if jax is not None and isinstance(error, jax.errors.JAXTypeError) else None
    return None


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}{'…' if len(text) > 200 else ''}"
