"""The functions that tell more of rows than their loss, and what they are called with, for arrays of any library."""

from __future__ import annotations

import numpy as np
import pytest

import crossent

DIRECTIONS = ("forward", "reverse", "jensen-shannon")
TAILS = [("renormalise", "forward"), ("drop", "forward"), *(("bin", direction) for direction in DIRECTIONS)]
# The function, what it is called with beside the logits, and options.
FUNCTIONS = {
    "one": ("token_log_probs", ("t",), {}),
    "several": ("token_log_probs", ("ids",), {}),
    "statistics": ("token_statistics", ("t",), {}),
    "entropy": ("entropy", (), {}),
    "entropy-sequence": ("entropy", (), {"reduction": "sequence"}),
    **{d: ("kl_divergence", ("z",), {"direction": d, "mixture": 0.3}) for d in DIRECTIONS},
    **{f"{tail}-{d}": ("kl_divergence", ("few", "log_q"), {"direction": d, "tail": tail}) for tail, d in TAILS},
}
LINEAR = {
    "one": ("linear_token_log_probs", ("t",), {}),
    "several": ("linear_token_log_probs", ("ids",), {}),
    "statistics": ("linear_token_statistics", ("t",), {}),
}
EVERY = {"temperature": 1.3, "logit_softcap": 8.0}
PLAIN_AND_EVERY = pytest.mark.parametrize(
    "options",
    [pytest.param({}, marks=pytest.mark.extended), EVERY],
    ids=["plain", "every"],
)
IGNORED = 3


def inputs(n, s, v, options):
    """Logits, and what stands beside them by name: classes and a teacher, as logits and as its likeliest classes."""
    rng = np.random.default_rng(0)
    x, z = 3 * rng.standard_normal((2, n, s, v))
    t, ids = rng.integers(0, v, (n, s)), rng.integers(0, v, (n, s, 3))
    x[0, 0, 5] = z[0, 0, 5] = -np.inf
    t[0, 0], ids[0, 0] = 4, (4, 4, 1)
    few = np.argsort(-z, axis=-1)[..., :3]
    log_q = np.take_along_axis(z, few, -1) - np.log(np.exp(z).sum(-1, keepdims=True))
    beside = {"t": t, "ids": ids, "few": few, "z": z, "log_q": log_q}
    if options:
        x[1, -1], t[1, -1], ids[1, -1], ids[2, 0, 1] = np.nan, IGNORED, IGNORED, IGNORED
        beside["weights"] = np.linspace(2, 0, s)
    return x, beside


def floats(name, beside):
    """The names of what stands beside logits and may be differentiated."""
    function, keys, _ = FUNCTIONS[name]
    return [key for key in (*keys, *_weights(function, beside)) if key in ("z", "log_q", "weights")]


def numbers(row, given, beside, rest=(), **options):
    """What a function tells, as a tuple. row: of a table above. rest: of its variant with the gradient, (out, grad)."""
    function, keys, more = row
    args = [beside[key] for key in keys]
    if keys == ("few", "log_q"):
        args = [tuple(args)]
    if "t" in keys or "ids" in keys:
        options["ignore_index"] = IGNORED
    weights = _weights(function, beside)
    call = getattr(crossent, f"{function}_and_grad" if rest else function)
    found = call(*given, *args, *rest, **{key: beside[key] for key in weights}, **more, **options)
    return tuple(found) if isinstance(found, tuple) else (found,)


def _weights(function, beside):
    return () if function.endswith("statistics") else tuple(key for key in beside if key == "weights")


def has_gradient(row):
    """Whether there is a variant with the gradient."""
    return hasattr(crossent, f"{row[0]}_and_grad")
