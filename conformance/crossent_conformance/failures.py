"""A failing case as the report tells it: what kind of failure, the smallest input that shows it, expected and given."""

from __future__ import annotations

from typing import Any

from crossent_conformance import evidence, frames, results, shrink, witness
from crossent_conformance.adapter import UnderTest
from crossent_conformance.places import Place

SECONDS = 2.0
"""How long a failing input may be made smaller."""


def told(error: BaseException, case: str, place: Place, subject: UnderTest, small: bool) -> results.Failure:
    """The failure behind the error that a case raised; `small` says whether to look for a smaller input."""
    found = shrink.smallest(place, subject, error, seconds=SECONDS) if small else error
    by = frames.raised(found, subject.file)
    failure = results.Failure(
        case=case,
        kind="raises" if by else _kind(found),
        message=_where(found, by) if by else _short(_words(found)),
        shrunk=found is not error,
        input=_input(found, place, subject),
    )
    if isinstance(found, evidence.Unlike) and not by:
        failure.expected, failure.given = found.expected, found.given
    if isinstance(found, evidence.Disagreement):
        failure.what, failure.error = found.what, found.error
    return failure


def _input(error: BaseException, place: Place, subject: UnderTest) -> dict[str, Any] | None:
    """The call that shows the error: that of the test through its place, or else the one that was handed over last."""
    call = error.call if isinstance(error, evidence.Disagreement) else evidence.last_call()
    mode = place.mode.value
    if call is None:
        return None if subject.witness is None else subject.witness.last(mode)
    return witness.described(call, subject.handed_over(call.options), place.dtype, mode)


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
        return str(error)
    return f"{type(error).__name__}: {error}"


def _short(text: str) -> str:
    return text if len(text) <= 1500 else text[:1500] + " …"
