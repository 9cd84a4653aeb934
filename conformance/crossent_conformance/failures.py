"""A failing case as the report tells it: how bad it is, what is wrong in words, the input, expected and given."""

from __future__ import annotations

import math
from typing import Any

from crossent_conformance import evidence, frames, results, severity, shrink, suspects, whereabouts, witness
from crossent_conformance.adapter import UnderTest
from crossent_conformance.places import Place

SECONDS = 2.0
"""How long a failing input may be made smaller."""
MOST_CLASSES = 16
"""A row of so many classes is told where the logits are too many."""
MOST_LOGITS = 2_000_000
"""Of more logits than these nothing is said but the entry that is off."""


def told(
    error: BaseException, case: str, place: Place, subject: UnderTest, clause: str, small: str | None
) -> results.Failure:
    """The failure behind the error that a case of the clause raised.

    `small` asks for a smaller input, if there is one, that shows the suspect of that key, or "" for any other fault.
    """
    found = error if small is None else shrink.smallest(place, subject, error, clause, small, SECONDS)
    by = frames.raised(found, subject.file)
    kind = "raises" if by else _kind(found)
    call = found.call if isinstance(found, evidence.Disagreement) else evidence.last_call()
    named = suspects.of(found) if isinstance(found, evidence.Disagreement) and not by else []
    grade, tier, relative = severity.graded(found, kind, call, place.dtype)
    failure = results.Failure(
        case=case,
        kind=kind,
        message=_where(found, by) if by else _short(_words(found)),
        says=named[0].says if named else _said(found, call, by, kind),
        fault=named[0].key if named else "",
        names={suspect.key: suspect.says for suspect in named},
        severity=grade,
        tier=tier,
        relative=relative,
        shrunk=found is not error,
        input=_input(found, place, subject),
    )
    if isinstance(found, evidence.Unlike) and not by:
        failure.expected, failure.given = found.expected, found.given
    if isinstance(found, evidence.Disagreement):
        failure.what, failure.error = found.what, found.error
    return failure


def _said(error: BaseException, call: evidence.Call | None, by: list[frames.Frame], kind: str) -> str:
    """What is wrong in words, where no suspect explains it."""
    if not isinstance(error, evidence.Disagreement) or by:
        first = _words(error) if not by else f"{type(error).__name__}: {error}"
        said = _short(first.strip().partition("\n")[0] or f"it {kind}", 300)
        at = "" if not isinstance(error, evidence.Unlike) or by else _at(call, error.whole)
        return said + (at if "those" in at or "entry" in at else "")
    entry = f"{error.what}{list(error.index) if error.index else ''}"
    if math.isnan(error.given):
        says = f"{entry} is NaN, and should be {error.expected:.6g}"
    else:
        alike = f"{error.given:.6g}" == f"{error.expected:.6g}"
        given, expected = (f"{value:.12g}" if alike else f"{value:.6g}" for value in (error.given, error.expected))
        says = f"{entry} is {given}, and should be {expected}"
    return says + _at(call, error.whole)


def _at(call: evidence.Call | None, whole: evidence.Compared | None) -> str:
    """Which tokens or entries are off, in brackets."""
    if call is None or whole is None or call.logits.size > MOST_LOGITS:
        return ""
    at = whereabouts.of(call, whole)
    return f" ({at})" if at else ""


def _input(error: BaseException, place: Place, subject: UnderTest) -> dict[str, Any] | None:
    """The call that shows the error: that of the test through its place, or else the one that was handed over last."""
    call = error.call if isinstance(error, evidence.Disagreement) else evidence.last_call()
    mode = place.mode.value
    if call is None:
        return None if subject.witness is None else subject.witness.last(mode)
    told = witness.described(call, subject.handed_over(call.options), place.dtype, mode)
    if told["logits"] is None and isinstance(error, evidence.Unlike):
        told |= _row(call, error.index)
    return told


def _row(call: evidence.Call, index: tuple[int, ...]) -> dict[str, Any]:
    """Of many tokens the one that is off, where its classes are few."""
    token = index[: call.logits.ndim - 1]
    if len(token) < call.logits.ndim - 1 or call.logits.shape[-1] > MOST_CLASSES:
        return {}
    try:
        row, target = call.logits[token], call.targets[token]
    except IndexError:  # the result has another shape than the tokens
        return {}
    return {"row": {"at": list(token), "logits": row.tolist(), "target": target.tolist()}}


def _where(error: BaseException, by: list[frames.Frame]) -> str:
    """The error, below its first line where the implementation raised it, and what else the error says."""
    first, _, more = f"{type(error).__name__}: {error}".partition("\n")
    return "\n".join([_short(first), *map(str, by), *([_short(more)] if more.strip() else [])])


def _kind(error: BaseException) -> str:
    if isinstance(error, evidence.WrongTypeError):
        return "wrong type"
    if isinstance(error, evidence.NotRefusedError):
        return "not refused"
    if isinstance(error, evidence.HungError):
        return "hangs"
    return "disagrees" if isinstance(error, AssertionError) else "raises"


def _words(error: BaseException) -> str:
    if isinstance(error, AssertionError):
        words, _, compared = str(error).partition("\nassert ")  # what pytest adds to a text
        return words if compared and words else str(error)
    return f"{type(error).__name__}: {error}"


def _short(text: str, length: int = 1500) -> str:
    return text if len(text) <= length else text[:length] + " …"
