"""What the kernels know of XLA: its structures, and handlers of its foreign functions that walk the rows of a program.

A handler is a function of C's of a call frame. The structures have the places below in the versions of XLA's interface
that are listed; a jaxlib says its own version, and the sizes of the structures, to the first handler it is told of.
"""

from __future__ import annotations

import ctypes
import sys
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
VERSION_OF_API, DESTROY_ERROR, SCHEDULE, NUM_THREADS = 32, 64, 136, 144
IS_METADATA: Final = 1

# Of a handler's own line of words: what it is told when it is made.
VERSION, WALK_AT, PART_AT, LIMIT, CHOSEN_AT, ADVICE = range(0, 48, 8)
# Of the words that all threads of a call share, ahead of those of the call.
NEXT, DONE, HOLDERS, PARTS, HEIGHT, ROWS, ROWS_OF_CLASSES, STEP_OF_CLASSES, SCALES, SIZE_OF_SCALES, WALK = range(
    0, 88, 8
)
SHARED: Final = 88
CALL: Final = 8 * len(Call._fields)
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
    walk, part, handle = kernel(kind), _native("ffi-part", "part"), _native("ffi-handler", "handle")
    major, minor = version
    line = (ctypes.c_int64 * 6)(
        minor << 32 | major,
        native.address_of(walk),
        native.address_of(part),
        threads.number_of_environment(),
        ctypes.addressof(threads.CHOSEN),
        _LARGE_PAGES if sys.platform == "linux" else 0,
    )
    _kept.append((line, walk, part, handle))
    name = f"crossent_handler_{kind.stem.replace('-', '_')}"
    return native.with_word(native.address_of(handle), ctypes.addressof(line), name)


_kept: list[Any] = []


def _native(stem: str, name_of_function: str) -> Any:
    def make(name: str) -> bytes:
        from crossent.engines.numba_cpu import ffi, program

        return program.object_file(getattr(ffi, name_of_function), name)

    return native.function(stem, "programs of XLA", make)


def attribute(call: bytes, arguments: tuple[str, ...], results: tuple[str, ...]) -> Any:
    """What a program holds of a call: its words without addresses, and which words are the addresses of its buffers."""
    roles = [WORD[name] for name in (*arguments, *results)]
    return np.concatenate([np.frombuffer(call, np.int64), np.array(roles, np.int64)])
