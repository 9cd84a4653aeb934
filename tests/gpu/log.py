"""The log of a run on a GPU: JSON lines that are only ever appended, so that it keeps what was seen, whatever ends it.

`{"run": facts}` begins a call of `run.py`, `{"begin": part, "command": …}` a part, `{"test": nodeid, …}` is a test's
result, `{"end": part, "status": …, "seconds": …, "cut": …}` says how pytest ended; cut is a part that time stopped. Of
a part that begins `anew`, what the log had of it counts no more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Part:
    """What is known of a part."""

    command: str
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    ended: bool = False
    """Whether pytest came to its end, so that there is nothing left to ask."""

    @property
    def failed(self) -> list[str]:
        """The tests that failed."""
        return [name for name, one in self.tests.items() if one["outcome"] == "failed"]

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.failed:
            return "failed"
        if self.tests and all(one["outcome"] == "skipped" for one in self.tests.values()):
            return "not here"
        return "passed" if self.ended else "not finished"

    @property
    def counts(self) -> str:
        """How many tests ended how."""
        outcomes = [one["outcome"] for one in self.tests.values()]
        return ", ".join(f"{outcomes.count(word)} {word}" for word in ("passed", "failed", "skipped")) or "nothing"


def read(file: Path) -> tuple[list[dict[str, Any]], dict[str, Part]]:
    """The facts of every call, and the parts. A last line that is cut off is no line."""
    runs, parts, part = [], {}, Part("")
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if "run" in one:
            runs.append(one["run"])
        elif "begin" in one:
            if one["anew"] or one["begin"] not in parts:
                parts[one["begin"]] = Part(one["command"])
            part = parts[one["begin"]]
        elif "test" in one:
            part.tests[one["test"]] = one
        elif "end" in one:
            part.seconds += one["seconds"]
            part.ended = not one["cut"]
    return runs, parts


def append(file: Path, *lines: dict[str, Any]) -> None:
    """Write lines at the end."""
    with file.open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(line) + "\n" for line in lines)


def failure(name: str, text: str) -> dict[str, Any]:
    """The result of what no report is about."""
    return {"test": name, "outcome": "failed", "seconds": 0.0, "text": text, "seen": {}}


def said(longrepr: Any) -> str:
    """One line of what went wrong, or of why a test was skipped."""
    if isinstance(longrepr, tuple):
        longrepr = longrepr[2]
    longrepr = getattr(getattr(longrepr, "reprcrash", None), "message", longrepr)
    return " ".join(str(longrepr).split())[:400]
