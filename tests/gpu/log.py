"""The log of a run on a GPU: JSON lines that are only ever appended, so that it keeps what was seen, whatever ends it.

`{"run": facts}` begins a call of `run.py`, `{"begin": part, "command": …}` a part, `{"test": nodeid, …}` is a test's
result, `{"end": part, "status": …, "seconds": …, "cut": …}` says how pytest ended; cut is a part that time stopped. Of
a part that begins `anew`, what the log had of it counts no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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


def results(report: Path, *, cut: bool) -> Iterator[dict[str, Any]]:
    """The results in pytest's report log; a test that began and did not come back has failed, unless time cut it."""
    begun: dict[str, float] = {}
    for line in report.read_text(encoding="utf-8").splitlines() if report.exists() else ():
        try:
            one = json.loads(line)
        except ValueError:
            continue
        if one.get("$report_type") == "CollectReport" and one["outcome"] == "failed":
            yield failure(one["nodeid"], _text(one["longrepr"]))
        if one.get("$report_type") != "TestReport":
            continue
        name, outcome = one["nodeid"], one["outcome"]
        if one["when"] == "setup" and outcome == "passed":
            begun[name] = one["duration"]
        elif one["when"] != "teardown" or outcome != "passed":
            begun.pop(name, None)
            yield {
                "test": name, "outcome": outcome, "seconds": round(one["duration"], 2),
                "text": "" if outcome == "passed" else _text(one["longrepr"]), "seen": _seen(one["user_properties"]),
            }  # fmt: skip
    if not cut:
        for name in begun:
            yield failure(name, "it did not come back")


def finished(report: Path) -> bool:
    """Whether pytest came to its end."""
    return report.exists() and '"SessionFinish"' in report.read_text(encoding="utf-8")


def failure(name: str, text: str) -> dict[str, Any]:
    """The result of what no report is about."""
    return {"test": name, "outcome": "failed", "seconds": 0.0, "text": text, "seen": {}}


def _seen(properties: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What a test recorded, by name; several of one name in a row."""
    found: dict[str, Any] = {}
    for name, value in properties:
        if name == "seen":
            found[name] = f"{found[name]}; {value}" if name in found else value
        elif name == "measurement":
            found[name] = value
    return found


def _text(longrepr: Any) -> str:
    """One line of what went wrong, or of why a test was skipped."""
    if isinstance(longrepr, dict):
        longrepr = longrepr["reprcrash"]["message"] if longrepr.get("reprcrash") else "failed"
    elif isinstance(longrepr, list):
        longrepr = longrepr[2]
    return " ".join(str(longrepr).split())[:400]
