"""What the tests of clause D2 share: PyTorch's loss beside the one that stands for it, and what makes them equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from crossent_conformance import cases, units


class Both:
    """PyTorch's function, and the one that stands for it; a subject that has none does not apply."""

    def __init__(self, place: Any, subject: Any) -> None:
        self._place, self._subject = place, subject

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        """The two, PyTorch's first. The subject is asked for its own only here: within the test."""
        own = self._subject.drop_in
        yield self._place.backend.torch.nn.functional.cross_entropy
        yield own


def tokens_of(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def classes_of(shape):
    return shape[1] if len(shape) > 1 else shape[0]


def inputs(place, shape, soft=False, seed=0):
    rng = cases.generator(40 + seed, *shape)
    logits = place.put(3 * rng.standard_normal(shape), place.dtype)
    if soft:
        return logits, place.put(rng.random(shape), place.dtype)
    return logits, place.put(rng.integers(0, classes_of(shape), tokens_of(shape)))


def run(function, logits, target, **options):
    """Loss and gradient, with a gradient of the loss that is not one."""
    x = logits.detach().clone().requires_grad_()
    loss = function(x, target, **options)
    loss.backward((loss.detach() * 0 + 1).nan_to_num(1, 1, 1) * 0.5)
    return loss.detach(), x.grad


def same_values(place, functions, logits, target, **options):
    theirs, ours = (run(function, logits, target, **options) for function in functions)
    # PyTorch's log-softmax rounds at the size of the logits, its sums once more per term in the logits' dtype.
    finite = logits.detach().double()[logits.detach().isfinite()]
    size = 1 + math.log(max(2, classes_of(logits.shape))) + (float(finite.abs().max()) if finite.numel() else 0.0)
    terms = max(1, math.prod(tokens_of(tuple(logits.shape)))) if options.get("reduction") == "sum" else 1
    heaviest = max(1.0, float(options["weight"].double().max())) if options.get("weight") is not None else 1.0
    for name, mine, peers in zip(("loss", "gradient"), ours, theirs, strict=True):
        assert mine.dtype == peers.dtype, name
        assert mine.shape == peers.shape, name
        got, expected = place.to_numpy(mine).astype(np.float64), place.to_numpy(peers).astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=f"NaN in the {name}, {options}")
        tolerance = 8 * units.EPS[place.dtype] * size * terms * heaviest
        np.testing.assert_allclose(
            got, expected, rtol=8 * units.EPS[place.dtype], atol=tolerance, err_msg=f"{name}, {options}"
        )


def same_outcome(place, functions, *arguments, **options):
    outcomes = []
    for function in functions:
        try:
            outcomes.append(function(*arguments, **options))
        except Exception as error:
            outcomes.append(type(error))
    theirs, ours = outcomes
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, f"{ours} where PyTorch has {theirs}"
        return
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(
        place.to_numpy(ours), place.to_numpy(theirs), rtol=16 * units.EPS[place.dtype], atol=64 * units.EPS[place.dtype]
    )
