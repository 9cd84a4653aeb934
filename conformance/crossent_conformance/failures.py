"""A failing case as the report tells it: what kind of failure, the smallest input that shows it, expected and given."""

from __future__ import annotations

from typing import Any

from crossent_conformance import evidence, frames, results, shrink
from crossent_conformance.adapter import UnderTest
from crossent_conformance.places import Place

SECONDS = 2.0
"""How long a failing input may be made smaller."""


def told(error: BaseException, case: str, place: Place, subject: UnderTest, small: bool) -> results.Failure:
    """The failure behind the error that a case raised; `small` says whether to look for a smaller input."""
    where = {"dtype": place.dtype, "mode": place.mode.value}
    if isinstance(error, evidence.Disagreement):
        smaller = shrink.smallest(place, subject, error, seconds=SECONDS) if small else error
        return results.Failure(
            case=case,
            kind="disagrees",
            message=_short(str(smaller)),
            shrunk=smaller is not error,
            input=results.described(smaller.logits, smaller.targets, subject.handed_over(smaller.options), **where),
            what=smaller.what,
            expected=smaller.expected,
            given=smaller.given,
            error=smaller.error,
        )
    known = _last_call(subject, **where)
    if by := frames.raised(error, subject.file):
        return results.Failure(case=case, kind="raises", message=_where(error, by), input=known)
    told = results.Failure(case=case, kind=_kind(error), message=_short(_words(error)), input=known)
    if isinstance(error, evidence.Unlike):
        told.expected, told.given = error.expected, error.given
    return told


def _last_call(subject: UnderTest, dtype: str, mode: str) -> dict[str, Any] | None:
    """The call that the test made through its place, or else the one that the implementation was handed."""
    last = evidence.last_call()
    if last is not None:
        options = subject.handed_over(last.options)
        return results.described(last.logits, last.targets, options, dtype=dtype, mode=mode)
    return None if subject.witness is None else subject.witness.last(mode)


def _where(error: BaseException, by: list[frames.Frame]) -> str:
    """The error, below its first line where the implementation raised it, and what else the error says."""
    first, _, more = f"{type(error).__name__}: {error}".partition("\n")
    return "\n".join([_short(first), *map(str, by), *([_short(more)] if more.strip() else [])])


def _kind(error: BaseException) -> str:
    if isinstance(error, evidence.WrongTypeError):
        return "wrong type"
    if isinstance(error, evidence.NotRefusedError):
        return "not refused"
    return "disagrees" if isinstance(error, AssertionError) else "raises"


def _words(error: BaseException) -> str:
    if isinstance(error, AssertionError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _short(text: str) -> str:
    return text if len(text) <= 1500 else text[:1500] + " …"
