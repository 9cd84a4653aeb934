"""Handlers of XLA's foreign functions: from a frame to the words of a call, whose rows are walked by XLA's own threads.

The thread that XLA calls takes part after part of the rows, and so does every thread of XLA's pool that comes to help
while there are any. It waits for parts that are begun, never for a thread that has yet to begin: the pool may be full
of threads that wait like this one. What such a latecomer looks at is freed by the last that holds it; it is not the
memory of the call.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from crossent.engines.numba_cpu.elements import (
    add_atomically,
    call_at,
    load_double,
    load_int32,
    load_place,
    load_single,
    scratch,
    store_double,
    store_place,
)
from crossent.engines.numba_cpu.layout import SHORT, SMALL, WORD
from crossent.engines.numba_cpu.vectors import declared, inline
from crossent.engines.numba_cpu.xla import (
    ADVICE,
    API,
    ARGUMENTS,
    ATTRIBUTES,
    CALL,
    CHOSEN_AT,
    CONTEXT,
    COUNT_OF_ARGUMENTS,
    COUNT_OF_RESULTS,
    DATA,
    DESTROY_ERROR,
    DIMS,
    DONE,
    EXTENSION,
    HEIGHT,
    HOLDERS,
    IS_METADATA,
    LIMIT,
    METADATA,
    NEXT,
    NUM_THREADS,
    PART_AT,
    PARTS,
    RANK,
    RESULTS,
    ROWS,
    ROWS_OF_CLASSES,
    SCALES,
    SCHEDULE,
    SHARED,
    SIZE_OF_SCALES,
    STEP_OF_CLASSES,
    TYPE_OF_EXTENSION,
    VERSION,
    VERSION_OF_METADATA,
    WALK,
    WALK_AT,
    WORDS_OF_ATTRIBUTE,
)

_SHARED = SHARED + CALL
# Rows whose scales are widened at a time, and the most threads that are asked for help.
_SCALES = 256
_SCRATCH = 8 * _SCALES
_HELPERS = 255
# Parts for each thread: a core that other processes slow down takes fewer.
_PARTS = 8
# Rows of a few columns are walked a vector of rows at a time.
_TOGETHER = 64
# Bytes from which a new buffer is worth large pages, and of a small one (or several).
_LARGE, _PAGE = 4 * 1024 * 1024, 64 * 1024
_class_weights, _scales, _scale, _start, _stop, _classes, _logits, _out, _out_step = (
    WORD[name] for name in ("class_weights", "scales", "scale", "start", "stop", "classes", "logits", "out", "out_step")
)


def external(name: str, doc: str, takes: int) -> Any:
    """A function of the system's, which every process has."""

    def function(*_: Any) -> Any:
        def emit(context: Any, builder: Any, sig: Any, args: list[ir.Value]) -> ir.Value:
            word = ir.IntType(64)
            return builder.call(declared(builder, name, ir.FunctionType(word, [word] * takes)), args)

        return signature(types.intp, *[types.intp] * takes), emit

    def of_none(typingctx: Any) -> Any:
        return function()

    def of_one(typingctx: Any, number: Any) -> Any:
        return function()

    def of_three(typingctx: Any, first: Any, second: Any, third: Any) -> Any:
        return function()

    made = {0: of_none, 1: of_one, 3: of_three}[takes]
    made.__name__, made.__doc__ = name, doc
    return intrinsic(made)


allocate = external("malloc", "The address of so many bytes, 0 where there are none.", 1)
free = external("free", "Give back what `allocate` gave.", 1)
give_way = external("sched_yield", "Let another thread run.", 0)

advise = external("madvise", "Tell the system what memory is for: an address of a page, so many bytes, what.", 3)


@inline
def copied(source: int, target: int, size: int) -> None:
    """Copy so many bytes, a word at a time."""
    for i in range(0, size, 8):
        store_place(target + i, load_place(source + i))


@inline
def _walk(shared: int, words: int, scales: int, start: int, stop: int) -> None:
    """Walk the rows from `start` to `stop`. words: those of the call, a thread's own. scales: a place for float64."""
    walk, given, size = load_place(shared + WALK), load_place(shared + SCALES), load_place(shared + SIZE_OF_SCALES)
    height, step = load_place(shared + ROWS_OF_CLASSES), load_place(shared + STEP_OF_CLASSES)
    of_classes, factor = load_place(shared + SHARED + _class_weights), load_double(shared + SHARED + _scale)
    i = start
    while i < stop:
        group = i // height
        j = min(stop, (group + 1) * height)
        if of_classes != 0:
            store_place(words + _class_weights, of_classes + group * step)
        if given != 0:
            j = min(j, i + _SCALES)
            for k in range(j - i):
                scale = load_double(given + 8 * (i + k)) if size == 8 else load_single(given + 4 * (i + k))
                store_double(scales + 8 * k, scale * factor)
            store_place(words + _scales, scales - 8 * i)
        store_place(words + _start, i)
        store_place(words + _stop, j)
        call_at(walk, words)
        i = j


@inline
def _take_parts(shared: int) -> None:
    words, scales = scratch(CALL), scratch(_SCRATCH)
    parts, height, n = load_place(shared + PARTS), load_place(shared + HEIGHT), load_place(shared + ROWS)
    copied(shared + SHARED, words, CALL)
    while True:
        number = add_atomically(shared + NEXT, 1)
        if number >= parts:
            break
        _walk(shared, words, scales, number * height, min(n, (number + 1) * height))
        add_atomically(shared + DONE, 1)


@inline
def _let_go(shared: int) -> None:
    if add_atomically(shared + HOLDERS, -1) == 1:
        free(shared)


def part(shared: int) -> int:
    """What a thread of XLA's pool does: take parts while there are any."""
    _take_parts(shared)
    _let_go(shared)
    return 0


@inline
def ask(function: int, context: int, first: int, second: int, size: int) -> int:
    """Call a function of XLA's with a line of so many bytes; an error, or 0."""
    line = scratch(40)
    store_place(line, size)
    store_place(line + 8, 0)
    store_place(line + 16, context)
    store_place(line + 24, first)
    store_place(line + 32, second)
    return call_at(function, line)


@inline
def _failed(api: int, error: int) -> bool:
    if error == 0:
        return False
    ask(load_place(api + DESTROY_ERROR), error, 0, 0, 24)
    return True


@inline
def _threads(frame: int, told: int) -> int:
    """How many threads there are for a call: XLA's, or as many as were chosen."""
    api, number = load_place(frame + API), scratch(8)
    chosen = load_place(load_place(told + CHOSEN_AT))
    most = chosen if chosen > 0 else load_place(told + LIMIT)
    if most <= 1:
        return 1
    store_place(number, 1)
    error = ask(load_place(api + NUM_THREADS), load_place(frame + CONTEXT), number, 0, 32)
    return 1 if _failed(api, error) else min(most, load_place(number), _HELPERS)


@inline
def _with_help(frame: int, told: int, shared: int, helpers: int) -> None:
    """Take parts beside threads of XLA's pool, and wait for those that they have begun."""
    api, context = load_place(frame + API), load_place(frame + CONTEXT)
    schedule, task, parts = load_place(api + SCHEDULE), load_place(told + PART_AT), load_place(shared + PARTS)
    store_place(shared + HOLDERS, helpers + 1)
    for _ in range(helpers):
        if _failed(api, ask(schedule, context, task, shared, 40)):
            _let_go(shared)
    _take_parts(shared)
    while add_atomically(shared + DONE, 0) < parts:
        give_way()
    _let_go(shared)


@inline
def rows_of(buffer: int) -> int:
    """The product of all axes of a buffer but the last."""
    rank, dims, rows = load_place(buffer + RANK), load_place(buffer + DIMS), 1
    for i in range(rank - 1):
        rows *= load_place(dims + 8 * i)
    return rows


@inline
def _last_of(buffer: int) -> int:
    return load_place(load_place(buffer + DIMS) + 8 * (load_place(buffer + RANK) - 1))


@inline
def _ask_for_pages(call: int, advice: int, n: int) -> None:
    """Of a large new buffer, which the system would make a small page at a time, each when it is first written to."""
    out, size = load_place(call + _out), n * load_place(call + _out_step)
    if advice == 0 or out == 0 or out == load_place(call + _logits) or size < _LARGE:
        return
    page = (out + _PAGE - 1) // _PAGE * _PAGE
    advise(page, out + size - page, advice)


def handle(words: int) -> int:
    """Answer a frame; words: its address, and that of what the handler was told when it was made."""
    frame, told = load_place(words), load_place(words + 8)
    extension = load_place(frame + EXTENSION)
    if extension != 0 and load_int32(extension + TYPE_OF_EXTENSION) == IS_METADATA:
        store_place(load_place(extension + METADATA) + VERSION_OF_METADATA, load_place(told + VERSION))
        return 0
    own = scratch(_SHARED)
    given = load_place(load_place(load_place(frame + ATTRIBUTES)) + WORDS_OF_ATTRIBUTE)
    copied(given, own + SHARED, CALL)
    roles, arguments, results = given + CALL, load_place(frame + ARGUMENTS), load_place(frame + RESULTS)
    n, classes = rows_of(load_place(arguments)), load_place(own + SHARED + _classes)
    if n <= 0:
        return 0
    store_place(own + SCALES, 0)
    store_place(own + SIZE_OF_SCALES, 4)
    store_place(own + ROWS_OF_CLASSES, n)
    store_place(own + STEP_OF_CLASSES, 0)
    # The size of numbers of rows and of classes stands where the address of scales will.
    size = load_place(own + SHARED + _scales)
    store_place(own + SHARED + _scales, 0)
    for i in range(load_place(frame + COUNT_OF_ARGUMENTS)):
        buffer, role = load_place(arguments + 8 * i), load_place(roles + 8 * i)
        data = load_place(buffer + DATA)
        if role == _scales:
            store_place(own + SCALES, data)
            store_place(own + SIZE_OF_SCALES, size)
        elif role == _class_weights:
            groups = rows_of(buffer)
            store_place(own + ROWS_OF_CLASSES, n // groups)
            store_place(own + STEP_OF_CLASSES, _last_of(buffer) * size)
        store_place(own + SHARED + role, data)
    roles += 8 * load_place(frame + COUNT_OF_ARGUMENTS)
    for i in range(load_place(frame + COUNT_OF_RESULTS)):
        buffer = load_place(results + 8 * i)
        store_place(own + SHARED + load_place(roles + 8 * i), load_place(buffer + DATA))
    _ask_for_pages(own + SHARED, load_place(told + ADVICE), n)
    store_place(own + WALK, load_place(told + WALK_AT))
    store_place(own + ROWS, n)
    store_place(own + NEXT, 0)
    store_place(own + DONE, 0)
    number = 1 if n * classes < SMALL else min(n, _threads(frame, told))
    height = n
    if number > 1:
        height = -(-n // (_PARTS * number))
        if classes <= SHORT:
            height = -(-height // _TOGETHER) * _TOGETHER
    store_place(own + HEIGHT, height)
    store_place(own + PARTS, -(-n // height))
    shared = allocate(_SHARED) if number > 1 else 0
    if shared == 0:
        _take_parts(own)
    else:
        copied(own, shared, _SHARED)
        _with_help(frame, told, shared, number - 1)
    return 0
