"""What the text of an error must name (clauses A4 and A5), in whatever words.

A position is its indices one after the other, a shape its lengths; an argument is its name, with spaces or underscores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

NO_AXES = ("()", "[]", "0-d", "0d", "0 dim", "0-dim", "zero-dim", "scalar", "no dim", "no axes")
"""Ways to say that an array has no axes."""


def numbers(text: str) -> list[int]:
    """The whole numbers in the text, in order."""
    return [int(found) for found in re.findall(r"(?<![\w.])-?\d+(?![\w.]*\d)", text)]


def _without(found: list[int], run: Sequence[int]) -> list[list[int]]:
    """What is left of the numbers without the run, for each place where the run occurs."""
    size = len(run)
    places = [i for i in range(len(found) - size + 1) if found[i : i + size] == list(run)]
    return [found[:i] + found[i + size :] for i in places]


def lacks_of_target(text: str, position: tuple[int, ...], value: int, classes: int) -> str:
    """What the text lacks of a target's position, its value and V, each in a place of its own; "" where it has all."""
    found = numbers(text)
    left = [rest for others in _without(found, position) for rest in _without(others, [value])]
    if any(classes in rest for rest in left):
        return ""
    named = {
        f"the position {list(position)}": bool(_without(found, position)),
        f"the value {value}": value in found,
        f"V = {classes}": classes in found,
    }
    missing = [what for what, is_there in named.items() if not is_there]
    return " and ".join(missing) if missing else f"{', '.join(named)} each by numbers of its own"


def names_argument(text: str, *names: str) -> bool:
    """Whether the text has one of the argument's names."""
    return any(_plain(name) in _plain(text) for name in names)


def names_shape(text: str, shape: tuple[int, ...]) -> bool:
    """Whether the text has the shape."""
    return bool(_without(numbers(text), shape)) if shape else any(word in text.lower() for word in NO_AXES)


def names_any(text: str, words: Sequence[str]) -> bool:
    """Whether the text has one of the words."""
    return any(word.lower() in text.lower() for word in words)


def _plain(text: str) -> str:
    return text.lower().replace("_", " ").replace("-", " ")
