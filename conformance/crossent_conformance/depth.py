"""How many random inputs a test sees, and which: the seed and the depth of the run.

Both come from the environment, because tests are made when they are imported: CROSSENT_CONFORMANCE_SEED is a whole
number (0 by default), CROSSENT_CONFORMANCE_THOROUGH is 1 for ten times as many inputs, CROSSENT_CONFORMANCE_QUICK for
few. The same seed gives the same inputs. CROSSENT_CONFORMANCE_TIME_LIMIT is what a case may take, in seconds.

    @depth.examples(problems(), st.booleans(), count=40)
    def test_V1_anything(place, subject, problem, flag): ...

is a test with the fixtures `place` and `subject`, run with 40 draws of hypothesis. Draws that do not apply to the
subject are passed over; where none does, neither does the test. An input that fails is not made smaller by hypothesis,
which may take minutes: `shrink` has two seconds.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from crossent_conformance.implementation import DoesNotApply

THOROUGH = os.environ.get("CROSSENT_CONFORMANCE_THOROUGH") == "1"
QUICK = os.environ.get("CROSSENT_CONFORMANCE_QUICK") == "1"
TIME_LIMIT = float(os.environ.get("CROSSENT_CONFORMANCE_TIME_LIMIT") or "inf")
SEED = int(os.environ.get("CROSSENT_CONFORMANCE_SEED") or 0)

_SETTINGS = hypothesis.settings(
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def number(count: int, slow: bool) -> int:
    """How many of `count` inputs a run takes; on a slow backend fewer, unless it is thorough, and in a quick one."""
    if THOROUGH:
        return 10 * count
    return max(3, count // 16) if slow or QUICK else count


def spares(place: Any) -> bool:
    """Whether a test may leave out at the place what is asked elsewhere: on a slow backend, unless it is thorough."""
    return place.backend.slow and not THOROUGH


def part(requests: Sequence[Any], place: Any) -> Sequence[Any]:
    """The requests; every third of them at a place that is spared."""
    return requests[::3] if spares(place) else requests


def examples(
    *strategies: st.SearchStrategy[Any], count: int, always: tuple[tuple[Any, ...], ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of so many draws, and of the tuples in `always` before them."""

    def decorate(body: Callable[..., None]) -> Callable[..., None]:
        def test(place: Any, subject: Any) -> None:
            lacks: list[DoesNotApply | None] = []

            def ask(drawn: tuple[Any, ...]) -> None:
                try:
                    body(place, subject, *drawn)
                except DoesNotApply as lack:
                    lacks.append(lack)
                else:
                    lacks.append(None)

            run = hypothesis.given(st.tuples(*strategies))(ask)
            for values in always:
                run = hypothesis.example(values)(run)
            run = hypothesis.seed(zlib.crc32(body.__name__.encode()) + SEED)(run)
            settings = hypothesis.settings(_SETTINGS, max_examples=number(count, place.backend.slow))
            settings(run)()
            if lacks and (lack := lacks[0]) is not None and all(lacks):
                raise lack

        test.__name__ = test.__qualname__ = body.__name__
        test.__module__, test.__doc__ = body.__module__, body.__doc__
        return test

    return decorate
