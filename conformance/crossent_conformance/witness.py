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
            record = _record(function, logits, targets, options or {})
            content = json.dumps(record, default=repr).encode()
            if len(content) > SIZE - _LENGTH:
                content = json.dumps({**record, "logits": None, "targets": None, "options": {}}).encode()
            # In one go: other threads see, and leave, the one record or the other.
            self._memory[: _LENGTH + len(content)] = len(content).to_bytes(_LENGTH, "little") + content


def read(path: str, mode: str = "") -> dict[str, Any] | None:
    """The last call, as `described` tells an input, and by which function."""
    try:
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:_LENGTH], "little")
        record = json.loads(content[_LENGTH : _LENGTH + length]) if length else None
    except (OSError, ValueError):  # whoever brought the process down may have written there
        return None
    return {**record, "mode": mode} if isinstance(record, dict) else None


def described(call: evidence.Call, options: dict[str, Any], dtype: str, mode: str) -> dict[str, Any]:
    """An input for the report: its numbers where they are few, else its shape alone."""
    record = _record("", call.logits, call.targets, options)
    told = {name: record[name] for name in ("logits", "targets", "options", "shape")}
    return {**told, "dtype": dtype, "mode": mode}


def in_words(call: dict[str, Any]) -> str:
    """A call that was read, in one line."""
    parts = [
        f"{name} {tuple(call[shape])} {call[dtype]}"
        for name, shape, dtype in (("logits", "shape", "dtype"), ("targets", "targets_shape", "targets_dtype"))
        if call[shape] is not None
    ]
    parts += [f"{name}={value!r}" for name, value in call["options"].items()]
    return f"{call['function']}({', '.join(parts)})"


def _record(function: str, logits: Any, targets: Any, options: dict[str, Any]) -> dict[str, Any]:
    last = evidence.last_call()
    x = _array(logits, None if last is None else last.logits)
    t = _array(targets, None if last is None else last.targets)
    return {
        "function": function,
        "logits": x["values"],
        "targets": t["values"],
        "options": {name: _option(value) for name, value in options.items()},
        "shape": x["shape"],
        "dtype": x["dtype"],
        "targets_shape": t["shape"],
        "targets_dtype": t["dtype"],
    }


def _option(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    array = _array(value)
    if array["shape"] is None:
        return repr(value)[:200]
    return array["values"] if array["values"] is not None else f"an array of shape {tuple(array['shape'])}"


def _array(value: Any, mirror: np.ndarray | None = None) -> dict[str, Any]:
    """Of an array shape, dtype and values, where these are known; `mirror` has the values of an array of its shape."""
    if not (hasattr(value, "shape") and hasattr(value, "dtype")):
        return {"shape": None, "dtype": None, "values": None}
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
        if isinstance(array, np.ndarray | np.generic) or _is_plain_tensor(array):
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
