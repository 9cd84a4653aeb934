"""What the kernels know of XLA: its structures, and handlers of its foreign functions that walk the rows of a program.

A handler is a function of C's of a call frame. The structures have the places below in the versions of XLA's interface
that are listed; a jaxlib says its own version, and the sizes of the structures, to the first handler it is told of.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from crossent.engines import threads
from crossent.engines.compiling import Once
from crossent.engines.numba_cpu import native
from crossent.engines.numba_cpu.kernel import kernel
from crossent.engines.numba_cpu.layout import WORD, Call, Kind

# Places in the structures, in bytes.
EXTENSION, API, CONTEXT = 8, 16, 24
ARGUMENTS, COUNT_OF_ARGUMENTS, RESULTS, COUNT_OF_RESULTS, ATTRIBUTES = 72, 56, 112, 96, 160
DATA, RANK, DIMS = 24, 32, 40
WORDS_OF_ATTRIBUTE = 16
TYPE_OF_EXTENSION, METADATA, VERSION_OF_METADATA = 8, 24, 24
VERSION_OF_API, CREATE_ERROR, DESTROY_ERROR, STREAM, SCHEDULE, NUM_THREADS = 32, 48, 64, 80, 136, 144
TRAITS_OF_METADATA: Final = 32
IS_METADATA: Final = 1
# Of what a handler does, that it is the same in every call, so that a graph of launches may hold it.
IS_REPLAYED: Final = 1
INTERNAL: Final = 13
"""The kind of an error."""

# Of a handler's own line of words: what it is told when it is made.
VERSION, WALK_AT, PART_AT, LIMIT, CHOSEN_AT, ADVICE = range(0, 48, 8)
# Of the words that all threads of a call share, ahead of those of the call.
NEXT, DONE, HOLDERS, PARTS, HEIGHT, ROWS, ROWS_OF_CLASSES, STEP_OF_CLASSES, SCALES, SIZE_OF_SCALES, WALK = range(
    0, 88, 8
)
SHARED: Final = 88
CALL: Final = 8 * len(Call._fields)
# Of the line of words of a handler that launches, behind its version: the driver's functions, what is said where they
# fail, where in a launch a stream and the address of what is more belong, whether there is more, where that and the
# argument begin; and then the devices: how many, and a context and a function of each.
CURRENT_AT, LAUNCH_AT, NAME_AT, FAILED, UNNAMED, NOWHERE, MISPLACED = range(8, 64, 8)
STREAM_OF_LAUNCH, MORE_OF_LAUNCH, HAS_MORE, MORE, ARGUMENT, DEVICES, PLACES = range(64, 120, 8)
MOST_OF_LAUNCH: Final = 1024
"""The bytes of a launch, at most."""
ALIGNMENT: Final = 16
"""What the addresses of matrices are multiples of, which XLA sees to."""
# What is said: the first and then the driver's name of an error, or the second.
_TEXTS: Final = (
    "crossent cannot launch its kernel: the driver answers ",
    "an error that has no name",
    "crossent cannot launch its kernel: it is loaded on other devices than this program runs on",
    "crossent cannot launch its kernel: a matrix of the program begins at no multiple of 16 bytes",
)
# Functions by the stems of their names: where they are, and what they are for, in words.
_FUNCTIONS: Final = {
    "ffi-part": ("ffi", "part", "threads of XLA's programs"),
    "ffi-handler": ("ffi", "handle", "calls of XLA's programs"),
    "ffi-launcher": ("launching", "handle", "launches of XLA's programs"),
}
# Linux's MADV_HUGEPAGE.
_LARGE_PAGES: Final = 14


class Sizes(NamedTuple):
    """Those of structures, in bytes."""

    frame: int
    arguments: int
    results: int
    attributes: int
    extension: int
    metadata: int
    api: int


KNOWN: Final = {
    (0, 3): Sizes(168, 40, 40, 48, 32, 36, 192),
    (0, 5): Sizes(168, 40, 40, 48, 32, 36, 208),
}
"""The versions of the interface in which the structures have these places."""


class Interface(NamedTuple):
    """What a jaxlib says of itself."""

    version: tuple[int, int]
    sizes: Sizes

    @property
    def problem(self) -> str | None:
        """Why no handler can be made for it; None where one can."""
        major, minor = self.version
        if self.version not in KNOWN:
            known = ", ".join(f"{a}.{b}" for a, b in KNOWN)
            return f"XLA's foreign functions have version {major}.{minor}; known are {known}"
        if self.sizes != KNOWN[self.version]:
            return f"XLA's foreign functions of version {major}.{minor} have structures of sizes that are not known"
        return None


def asked(frame: int) -> Interface | None:
    """What a frame says that asks for metadata, which is answered; None for another, or where it does not say."""
    extension, api = _word(frame + EXTENSION), _word(frame + API)
    if not extension or not api or ctypes.c_int32.from_address(extension + TYPE_OF_EXTENSION).value != IS_METADATA:
        return None
    metadata, version = _word(extension + METADATA), _word(api + VERSION_OF_API)
    ctypes.c_int64.from_address(metadata + VERSION_OF_METADATA).value = version
    places = (frame, frame + 40, frame + 80, frame + 120, extension, metadata, api)
    return Interface((version & 0xFFFFFFFF, version >> 32), Sizes(*map(_word, places)))


def _word(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


@Once
def handler(kind: Kind, version: tuple[int, int]) -> int:
    """The address of a handler that walks rows of that kind; it stays for as long as the process."""
    walk, part, handle = kernel(kind), _native("ffi-part"), _native("ffi-handler")
    line = (ctypes.c_int64 * 6)(
        _packed(version),
        native.address_of(walk),
        native.address_of(part),
        threads.number_of_environment(),
        ctypes.addressof(threads.CHOSEN),
        _LARGE_PAGES if sys.platform == "linux" else 0,
    )
    _kept.append((line, walk, part, handle))
    name = f"crossent_handler_{kind.stem.replace('-', '_')}"
    return native.with_word(native.address_of(handle), ctypes.addressof(line), name)


class Driver(NamedTuple):
    """What a handler is told of a driver that launches kernels: functions by their addresses, and its structures.

    current: of the place where a context is written; launch: of a configuration, a function, the place of the
    addresses of its arguments, and 0; error_name: of an error and the place of its name. A launch has `size` bytes
    ahead of its argument: a configuration, which has a stream at `stream`, and at `more` the address of what begins
    at `begin`, if there is a number at `has_more`.
    """

    current: int
    launch: int
    error_name: int
    size: int
    stream: int
    more: int
    has_more: int
    begin: int


@Once
def launcher(name: str, driver: Driver, places: tuple[tuple[int, int], ...], version: tuple[int, int]) -> int:
    """The address of a handler that launches a kernel of that name on XLA's stream; it stays likewise.

    places: for each device, a context and the function that is loaded in it.
    """
    handle = _native("ffi-launcher")
    texts = [ctypes.create_string_buffer(text.encode()) for text in _TEXTS]
    words = [
        *(_packed(version), driver.current, driver.launch, driver.error_name, *map(ctypes.addressof, texts)),
        *(driver.stream, driver.more, driver.has_more, driver.begin, driver.size),
        *(len(places), *(word for place in places for word in place)),
    ]
    line = (ctypes.c_int64 * len(words))(*words)
    _kept.append((line, texts, handle))
    return native.with_word(native.address_of(handle), ctypes.addressof(line), f"crossent_launcher_{name}")


def launches(lines: tuple[bytes, ...], words: list[int]) -> Any:
    """What a program holds of a launch: the bytes from one device's line to the next, 0 where all are alike; how long
    a line is; where in the argument the addresses of its buffers belong; the lines.
    """
    (size,) = {len(line) for line in lines}
    if size > MOST_OF_LAUNCH:
        raise ValueError(f"a launch has {size} bytes, and {MOST_OF_LAUNCH} at most are known how to be copied")
    step, kept = (0, lines[:1]) if len(set(lines)) == 1 else (size, lines)
    return np.concatenate([np.array([step, size, *words], np.int64), np.frombuffer(b"".join(kept), np.int64)])


_kept: list[Any] = []


def _packed(version: tuple[int, int]) -> int:
    major, minor = version
    return minor << 32 | major


def of_programs() -> list[tuple[str, Callable[[], object]]]:
    """The names of what programs of a CPU need besides kernels, and what makes each."""
    return [(stem, partial(_native, stem)) for stem in ("ffi-part", "ffi-handler")] if os.name == "posix" else []


def _native(stem: str) -> Any:
    module, name_of_function, what = _FUNCTIONS[stem]

    def make(name: str) -> bytes:
        from crossent.engines.numba_cpu import program

        made = importlib.import_module(f"{__package__}.{module}")
        return program.object_file(getattr(made, name_of_function), name)

    return native.function(stem, what, make)


def attribute(call: bytes, arguments: tuple[str, ...], results: tuple[str, ...]) -> Any:
    """What a program holds of a call: its words without addresses, and which words are the addresses of its buffers."""
    roles = [WORD[name] for name in (*arguments, *results)]
    return np.concatenate([np.frombuffer(call, np.int64), np.array(roles, np.int64)])
