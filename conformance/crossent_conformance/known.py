"""Which cases a name is of, and which cases may fail: known failures of a file, what `--allow` names, profiles.

    [[known]]
    clause = "V1"                # or case = "test_A10_*"
    reason = "it computes in half precision"
    backend = "torch"            # these may be left out
    dtype = "float16"
    severity = "extreme"         # or "wrong"
    kind = "disagrees"
    link = "an address"

Whatever is allowed is asked all the same, and is reported. The entries of a file are strict: one of which everything
that was asked holds is no known failure any more, and the run fails until it is taken out.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossent_conformance import contract, severity
from crossent_conformance.backends import BACKENDS, FLOATS, HALF

if TYPE_CHECKING:
    from crossent_conformance.results import Case

FILE, ALLOW, PROFILE = "known", "allowed", "profile"
"""Where an entry is from."""
FAILS, BEGINS, PARTLY, NOT_ASKED = "fails", "begins to hold", "holds in what was asked of it", "not asked"
"""What has become of an entry."""


class KnownError(Exception):
    """A name of nothing, or a file that does not say what may fail; the message is for who wrote it."""


@dataclass
class Entry:
    """Failures that do not count."""

    name: str
    """Clauses or cases, by a name or a pattern."""
    reason: str
    source: str
    backend: str = ""
    dtype: str = ""
    severity: str = ""
    """With one, failures of that grade alone; so of a kind."""
    kind: str = ""
    link: str = ""
    left_out: bool = False
    """Whether the run does not ask all that it is of, so that what is asked tells nothing of the rest."""

    def names(self, case: Case) -> bool:
        """Whether the case is one that it is of."""
        return (
            self.backend in ("", case.backend)
            and self.dtype in ("", case.dtype)
            and is_of(self.name, case.clause, case.id)
        )

    def covers(self, case: Case) -> bool:
        """Whether the failure of a case that it names does not count."""
        return self.severity in ("", case.grade) and self.kind in ("", case.kind)

    @property
    def where(self) -> str:
        """What it is of, in words."""
        at = " ".join(filter(None, (self.backend, self.dtype)))
        grade = f", {severity.MEANS[self.severity]}" if self.severity else ""
        return self.name + (f" on {at}" if at else "") + grade + (f", failing as {self.kind!r}" if self.kind else "")

    def state(self, held: int, failed: int, whole: bool) -> str:
        """What has become of it in a run of which so many of its cases held and failed."""
        if failed or not held:
            return FAILS if failed else NOT_ASKED
        return BEGINS if self.source == FILE and whole and not self.left_out else PARTLY


def is_of(name: str, clause: str, case: str) -> bool:
    """Whether a name, or a pattern, is of the clause, or of the case: of its test, of itself, of both after their file.

    What is in brackets may be a case's parameters as well as characters of a pattern.
    """
    file, _, own = case.partition("::")
    function = own.partition("[")[0]
    called = clause, function, own, f"{file}::{function}", case
    patterns = name, name.replace("[", "[[]")
    return name in called or any(fnmatch.fnmatchcase(each, pattern) for each in called for pattern in patterns)


def reason(entries: Iterable[Entry], case: Case) -> str:
    """Why the case that fails may; "" where it may not."""
    return next((entry.reason for entry in entries if entry.names(case) and entry.covers(case)), "")


def check(what: str, names: Iterable[str]) -> None:
    """Find out before a run that there is a clause, or a test, of each name."""
    tests = contract.tests()
    for name in names:
        if _is_of_clauses(name):
            continue
        file, separator, own = name.rpartition("::")
        test = own.partition("[")[0]
        start = re.split("[*?]", test)[0]  # what follows may be of the parameters
        found = [each for each, of in tests.items() if not separator or fnmatch.fnmatchcase(of, file)]
        if not any(each.startswith(start) if start != test else test in ("", each) for each in found):
            close = near(test, (*contract.clauses(), *tests)) or "; crossent conform --list tells them"
            raise KnownError(f"{what}: no clause or case is called {name!r}{close}")


def _is_of_clauses(name: str) -> bool:
    return bool(fnmatch.filter(contract.clauses(), name))


def near(name: str, names: Iterable[str]) -> str:
    """The names that a mistaken one may have meant, to be put behind it."""
    names = list(names)
    close = [each for each in names if each.casefold() == name.casefold()] or difflib.get_close_matches(name, names, 3)
    return f"; near it are {', '.join(close)}" if close else ""


def beside(home: Path) -> Path:
    """Where the known failures of what is written in a file are looked for."""
    return home.with_suffix(".known.toml")


def read(path: Path) -> list[Entry]:
    """The entries of a file."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KnownError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    tables = document.pop("known", [])
    if document or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        given = ", ".join(map(repr, document)) or "'known' as no array of tables"
        raise KnownError(f"{path}: {given}; accepted: tables [[known]]")
    return [_entry(f"{path}, entry {number}", table) for number, table in enumerate(tables, start=1)]


KINDS = ("disagrees", "not refused", "raises", "wrong type", "hangs", "crashes", "not tried")
_ACCEPTED = {"backend": tuple(BACKENDS), "dtype": FLOATS, "severity": severity.GRADES, "kind": KINDS}
_KEYS = ("clause", "case", *_ACCEPTED, "reason", "link")


def _entry(where: str, table: dict[str, Any]) -> Entry:
    for key, value in table.items():
        if key not in _KEYS:
            raise KnownError(f"{where}: the key {key!r}{near(key, _KEYS)}; accepted: {', '.join(_KEYS)}")
        if not isinstance(value, str) or not value.strip():
            raise KnownError(f"{where}: {key} = {value!r}; accepted: a text")
        if value not in (accepted := _ACCEPTED.get(key, (value,))):
            raise KnownError(f"{where}: {key} = {value!r}; accepted: {', '.join(accepted)}")
    if "reason" not in table:
        raise KnownError(f"{where}: there is no reason")
    named = [key for key in ("clause", "case") if key in table]
    if len(named) != 1:
        raise KnownError(f"{where}: {' and '.join(named) or 'neither clause nor case'}; accepted: one of clause, case")
    name = table[named[0]]
    if named == ["clause"] and not _is_of_clauses(name):
        raise KnownError(f"{where}: {named[0]} = {name!r}{near(name, contract.clauses())}")
    check(where, [name])
    return Entry(name, source=FILE, **{field.name: table[field.name] for field in fields(Entry) if field.name in table})


def _without(
    why: str, *names: str, dtypes: Sequence[str] = ("",), kinds: Sequence[str] = ("",), grade: str = ""
) -> list[Entry]:
    return [
        Entry(name, why, PROFILE, dtype=dtype, kind=kind, severity=grade)
        for name in names
        for dtype in dtypes
        for kind in kinds
    ]


PROFILES = {
    "framework": [
        *_without("log-softmax cancels where the model is confident, and has an end", "*", grade=severity.EXTREME),
        *_without("what is computed in half precision is rounded to it on the way", "V1", "T1", "T2", dtypes=HALF),
        *_without(
            "the dtype of a loss follows from all of its inputs, and a half stays one",
            "A1",
            "test_T1_a_*",
            "test_T4_library_*",
        ),
        *_without("a mean over nothing is 0/0", "R3", "test_S6_no_classes_and_no_tokens", kinds=("disagrees",)),
        *_without(
            "0·∞ is NaN, and a class at −∞ has its share of the smoothing",
            "test_V7_soft_targets_out_of_the_ordinary",
            "test_V8_only_finite_classes_share",
            "test_V8_a_target_that_keeps_nothing",
        ),
        *_without(
            "what passes the dtype's end on the way stays there",
            "test_R2_weights_at_the_ends_of_the_dtype",
            "test_S5_what_is_past_*",
        ),
        *_without(
            "entropies and divergences are formulas of log-probabilities, with a NaN for 0·−∞",
            "test_T2_of_divergences",
            "T3",
            "test_T4_nan_*",
        ),
        *_without("integers of few dtypes are targets", "A3", "test_A5_ignore_index_*", kinds=("raises",)),
        *_without(
            "errors are of each library's own types, and name no position",
            "A4",
            "A5",
            "A15",
            "test_A3_dtypes_*",
            "test_S6_no_classes*",
            "test_T4_refused_*",
            "test_T4_one_library_*",
            kinds=("disagrees",),
        ),
        *_without("logits are copied, and their softmax is kept", "A10", kinds=("disagrees",)),
    ],
}
"""The contract without what no framework promises: neither PyTorch, nor JAX with optax, nor Keras."""


def entries(file: Path | None, allow: Sequence[str] = (), profile: str = "") -> list[Entry]:
    """All that may fail."""
    found = [] if file is None else read(file)
    found += [Entry(name, "allowed by --allow", ALLOW) for name in allow]
    return found + [replace(entry) for entry in PROFILES.get(profile, ())]
