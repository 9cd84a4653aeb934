"""Where in the implementation something happened: of a stack, what is its own, and not what the suite did around it.

    raised(error, file)     of an exception
    crashed(log, file)      of what faulthandler, and whoever else, left on stderr before the interpreter ended

`file` is the implementation's, whose frames are shown however deep in a library the innermost one lies.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

HERE = Path(__file__).parent
IMPLEMENTATIONS = ("peers", "reference", "subjects_crossent.py")
"""What of this package stands under test."""
CALLERS = (HERE / "adapter.py", HERE / "modules.py")
"""What of this package calls the implementation."""
MOST = 3
"""More frames than these are not told; of the implementation's file, as many again."""
BEFORE = 2
"""Lines before the fatal error, in which a library may say why it gave up."""
_FATAL = re.compile(r"^(Fatal Python error|Windows fatal exception)")
_STACK = re.compile(r"^(Current thread|Thread|Stack)\b.*\(most recent call first\)")
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')


@dataclass(frozen=True)
class Frame:
    """A call that had not come back."""

    file: str
    line: int
    function: str
    source: str = ""

    def __str__(self) -> str:
        """In one line."""
        return f'  File "{self.file}", line {self.line}, in {self.function}' + (self.source and f": {self.source}")

    @property
    def is_ours(self) -> bool:
        """Whether it is the suite's."""
        path = Path(self.file)
        return path.is_relative_to(HERE) and path.relative_to(HERE).parts[0] not in IMPLEMENTATIONS


def raised(error: BaseException, file: str | None) -> list[Frame]:
    """Where the implementation raised the error: its own lines, innermost first, then that of a library.

    Nothing where it was the suite that raised it.
    """
    stack = [
        Frame(entry.filename, entry.lineno or 0, entry.name, entry.line or "")
        for entry in reversed(traceback.extract_tb(error.__traceback__))
    ]
    inner = _inner(stack)
    around = stack[len(inner)] if len(inner) < len(stack) else None
    called = around is not None and Path(around.file) in CALLERS
    own = [frame for frame in inner if frame.file == file]
    if own:
        return [*own[:MOST], *(frame for frame in inner[:1] if frame.file != file)]
    return inner[:MOST] if called else []


def crashed(log: str, file: str | None) -> str:
    """The fatal error and where it happened; the end of the log where there is none."""
    lines = log.splitlines()
    fatal = max((at for at, line in enumerate(lines) if _FATAL.match(line)), default=None)
    if fatal is None:
        return log.strip()[-1200:]
    before = [line for line in lines[max(0, fatal - BEFORE) : fatal] if line.strip() and not _FRAME.match(line)]
    found = _few(_telling(_stacks(lines[fatal:]), file), file)
    return "\n".join([*(line[:300] for line in before), lines[fatal], *map(str, found)])


def _stacks(lines: Sequence[str]) -> list[list[Frame]]:
    """The stack of each thread, the one that crashed first."""
    found: list[tuple[bool, list[Frame]]] = []
    for line in lines:
        if _STACK.match(line):
            found.append((not line.startswith("Current"), []))
        elif (frame := _FRAME.match(line)) and found:
            found[-1][1].append(Frame(frame["file"], int(frame["line"]), frame["function"]))
    return [stack for _, stack in sorted(found, key=lambda each: each[0])]


def _telling(stacks: list[list[Frame]], file: str | None) -> list[Frame]:
    """The frames of the thread that crashed; of the one that called the implementation, where it has none of them."""
    inner = [_inner(stack) for stack in stacks]
    by_the_file = [frames for frames in inner if any(frame.file == file for frame in frames)]
    return next(iter([*by_the_file, *filter(None, inner), *stacks]), [])


def _inner(stack: Sequence[Frame]) -> list[Frame]:
    return list(takewhile(lambda frame: not frame.is_ours, stack))


def _few(frames: Sequence[Frame], file: str | None) -> list[Frame]:
    return [*frames[:MOST], *[frame for frame in frames[MOST:] if frame.file == file][:MOST]]
