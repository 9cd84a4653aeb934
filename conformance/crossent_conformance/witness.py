"""The call that was handed over last, in a file that outlives the process: what a crash or a hang leaves of its input.

    witness = Witness(path)                             in the worker
    witness.saw("loss", logits, targets, options)       before each call of the implementation
    read(path, mode)                                    in the parent: an input as a report tells it, or None

A record is written into memory that the file shares, which costs a few microseconds. Its values are told where there
are few, and where to read them asks no library to compute or to wait.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance import evidence
from crossent_conformance.results import MOST_LOGITS

SIZE = 1 << 15
_LENGTH = 8


class Witness:
    """The one that writes."""

    def __init__(self, path: str) -> None:
        self._path = path
        with open(path, "w+b") as file:
            file.truncate(SIZE)
            self._memory = mmap.mmap(file.fileno(), SIZE)

    def last(self, mode: str = "") -> dict[str, Any] | None:
        """The last call, as `read` tells it."""
        return read(self._path, mode)

    def forget(self) -> None:
        """Nothing has been called."""
        self._memory[:_LENGTH] = bytes(_LENGTH)

    def saw(
        self, function: str, logits: Any = None, targets: Any = None, options: dict[str, Any] | None = None
    ) -> None:
        """The implementation is called with these. Whatever they are, to tell them must not be what fails."""
        with contextlib.suppress(Exception):
            self._write(function, logits, targets, options or {})

    def _write(self, function: str, logits: Any, targets: Any, options: dict[str, Any]) -> None:
        last = evidence.last_call()
        record = {
            "function": function,
            "logits": _told(logits, None if last is None else last.logits),
            "targets": _told(targets, None if last is None else last.targets),
            "options": {name: _told(value) for name, value in options.items()},
        }
        content = json.dumps(record, default=repr).encode()
        if len(content) > SIZE - _LENGTH:
            content = json.dumps({**record, "logits": None, "targets": None, "options": {}}).encode()
        # In one go: other threads see, and leave, the one record or the other.
        self._memory[: _LENGTH + len(content)] = len(content).to_bytes(_LENGTH, "little") + content


def read(path: str, mode: str = "") -> dict[str, Any] | None:
    """The last call, as `results.described` tells an input, and by which function."""
    try:
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:_LENGTH], "little")
        record = json.loads(content[_LENGTH : _LENGTH + length]) if length else None
    except (OSError, ValueError):  # whoever brought the process down may have written there
        return None
    if not isinstance(record, dict):
        return None
    logits, targets = record["logits"], record["targets"]
    return {
        "function": record["function"],
        "logits": _part(logits, "values"),
        "targets": _part(targets, "values"),
        "options": {name: _shown(value) for name, value in record["options"].items()},
        "shape": _part(logits, "shape"),
        "dtype": _part(logits, "dtype"),
        "targets_shape": _part(targets, "shape"),
        "targets_dtype": _part(targets, "dtype"),
        "mode": mode,
    }


def in_words(call: dict[str, Any]) -> str:
    """A call that was read, in one line."""
    parts = [
        f"{name} {tuple(call[shape])} {call[dtype]}"
        for name, shape, dtype in (("logits", "shape", "dtype"), ("targets", "targets_shape", "targets_dtype"))
        if call[shape] is not None
    ]
    parts += [f"{name}={value!r}" for name, value in call["options"].items()]
    return f"{call['function']}({', '.join(parts)})"


def _part(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, dict) else None


def _shown(told: Any) -> Any:
    if not isinstance(told, dict):
        return told
    return told["values"] if told["values"] is not None else f"an array of shape {tuple(told['shape'])}"


def _told(value: Any, mirror: np.ndarray | None = None) -> Any:
    """An argument in what JSON has; `mirror` has the values of an array of its shape."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return repr(value)[:200]
    try:
        shape = [int(length) for length in value.shape]
    except Exception:  # of a length that is not known yet
        shape = []
    values = _values(value, shape)
    if values is None and mirror is not None and list(mirror.shape) == shape and mirror.size <= MOST_LOGITS:
        values = mirror.tolist()
    return {"shape": shape, "dtype": str(value.dtype).rpartition(".")[2], "values": values}


def _values(array: Any, shape: list[int]) -> Any:
    """The numbers, where they are few and lie in this process's memory as NumPy's do."""
    if math.prod(shape) > MOST_LOGITS:
        return None
    try:
        if isinstance(array, np.ndarray | np.generic):
            return array.tolist()
        if _is_plain_tensor(array):
            return array.tolist()
        inside = getattr(array, "_array", None) if type(array).__module__.startswith("array_api_strict") else None
        return inside.tolist() if isinstance(inside, np.ndarray) else None
    except Exception:  # under a transformation, for one
        return None


def _is_plain_tensor(array: Any) -> bool:
    """Whether it is a tensor of host memory, and nobody listens to what is done with tensors."""
    torch = sys.modules.get("torch")
    return (
        torch is not None
        and type(array) is torch.Tensor
        and array.device.type == "cpu"
        and torch._C._len_torch_dispatch_stack() == 0
    )
