"""Which tokens, or entries, of a result are off, where a property of the input says which they are.

words = whereabouts.of(call, whole)         "3 of 12 tokens, those that are ignored"; "" where nothing is to be said
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crossent_conformance.evidence import Call, Compared
from crossent_conformance.severity import LEAD

BLOCKS = tuple(2**k for k in range(2, 11))
"""Sizes of blocks, past the last whole one of which rows may be forgotten."""


def of(call: Call, whole: Compared) -> str:
    """The tokens, or the entries, that are off, where a property of the input says which they are."""
    logits, off = np.asarray(call.logits, dtype=np.float64), whole.off
    tokens = logits.shape[:-1]
    if not tokens or off.shape[: len(tokens)] != tokens or logits.shape[-1] == 0:
        return f"of logits of {logits.ndim} axes" if logits.ndim > 2 else ""
    found = []
    per_token, lead = off.reshape(*tokens, -1).any(axis=-1), _lead(call, logits)
    if not per_token.all():
        same = [words for words, those in _kinds(call, logits, lead) if np.array_equal(those, per_token)]
        if not same and lead is not None and lead[per_token].min() > lead[~per_token].max():
            same = [f"those whose target is ahead by {lead[per_token].min():.3g} or more"]
        count = f"{int(per_token.sum())} of {per_token.size} tokens"
        found.append(f"{count}, {same[0]}" if same else count)
    elif per_token.size > 1:
        found.append("every token")
    elif lead is not None and lead.size and LEAD < lead.item() < np.inf:
        found.append(f"the target is ahead by {lead.item():.3g}")
    if off.shape == logits.shape and lead is not None:
        at = np.arange(logits.shape[-1]) == call.targets[..., None]
        if not (off & ~at).any():
            found.append("the target's entry alone")
        elif not (off & at).any():
            found.append("not at the target's entry")
    return "; ".join(found)


def _lead(call: Call, logits: np.ndarray) -> np.ndarray | None:
    """How far each target is ahead of the other classes, NaN for what is no class; None for soft targets."""
    t, V = call.targets, logits.shape[-1]
    if t.shape != logits.shape[:-1] or t.dtype.kind not in "iu":
        return None
    at = np.arange(V) == t[..., None]
    own, others = (np.where(those, logits, -np.inf).max(axis=-1) for those in (at, ~at))
    with np.errstate(invalid="ignore"):
        return np.where(at.any(axis=-1), own - others, np.nan)


def _kinds(call: Call, logits: np.ndarray, lead: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    tokens, V = logits.shape[:-1], logits.shape[-1]
    options, t = call.options, call.targets
    weights = options.get("weights")
    with np.errstate(invalid="ignore"):
        top = logits.max(axis=-1)
        yield "those with NaN among their logits", np.isnan(logits).any(axis=-1)
        yield "those with +inf among their logits", np.asarray(np.isposinf(logits).any(axis=-1))
        yield "those with -inf among their logits", np.asarray(np.isneginf(logits).any(axis=-1))
        if weights is not None:
            nothing = np.broadcast_to(np.asarray(weights) == 0, tokens)
            yield "those of weight 0", nothing
            yield "those of a weight", ~nothing
        if lead is not None:
            ignored = options.get("ignore_index")
            if ignored is not None:
                yield "those that are ignored", np.asarray(t == ignored)
                yield "those that are not ignored", np.asarray(t != ignored)
            yield "those whose target is the likeliest class", lead >= 0
            yield "those whose target is not the likeliest class", lead < 0
            yield "those whose target is class 0", t == 0
            yield "those whose target is the last class", t == V - 1
        elif t.shape == logits.shape:
            total = np.abs(t.sum(axis=-1) - 1) > 1e-6
            yield "those whose soft targets do not sum to 1", total
        yield "those of a logit above 88", top > 88
    if len(tokens) == 1:
        place = np.arange(tokens[0])
        yield "the last", place == tokens[0] - 1
        yield "all but the first", place > 0
        for m in BLOCKS:
            yield f"those past the last whole block of {m}", place >= tokens[0] // m * m
