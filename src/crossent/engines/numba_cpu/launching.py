"""A handler of XLA's foreign functions that launches a kernel on XLA's stream. It waits for nothing.

What is launched was planned when the program was made, see `launches` in `xla.py`. The addresses of the program's
buffers and XLA's stream are put into it here, and the driver is called, which copies it before it returns.
"""

from __future__ import annotations

from crossent.engines.numba_cpu.elements import (
    answer_at,
    call_at,
    load_int32,
    load_place,
    scratch,
    store_int32,
    store_place,
)
from crossent.engines.numba_cpu.ffi import ask, copied, external, rows_of
from crossent.engines.numba_cpu.vectors import inline
from crossent.engines.numba_cpu.xla import (
    ALIGNMENT,
    API,
    ARGUMENT,
    ARGUMENTS,
    ATTRIBUTES,
    CONTEXT,
    COUNT_OF_ARGUMENTS,
    COUNT_OF_RESULTS,
    CREATE_ERROR,
    CURRENT_AT,
    DATA,
    DEVICES,
    EXTENSION,
    FAILED,
    HAS_MORE,
    INTERNAL,
    IS_METADATA,
    IS_REPLAYED,
    LAUNCH_AT,
    METADATA,
    MISPLACED,
    MORE,
    MORE_OF_LAUNCH,
    MOST_OF_LAUNCH,
    NAME_AT,
    NOWHERE,
    PLACES,
    RESULTS,
    STREAM,
    STREAM_OF_LAUNCH,
    TRAITS_OF_METADATA,
    TYPE_OF_EXTENSION,
    UNNAMED,
    VERSION,
    VERSION_OF_METADATA,
    WORDS_OF_ATTRIBUTE,
)

_TEXT, _MOST_OF_TEXT = 512, 200

append = external("strncat", "Put a text behind another, of so many bytes at most.", 3)


@inline
def _error(frame: int, told: int, text: int, code: int) -> int:
    """An error of XLA's with a text, and with the driver's name of a code, which is 0 where there is none."""
    line, place = scratch(_TEXT), scratch(8)
    store_place(line, 0)
    store_place(place, 0)
    append(line, load_place(told + text), _MOST_OF_TEXT)
    if code != 0:
        answer_at(load_place(told + NAME_AT), code, place, 0, 0)
        name = load_place(place)
        append(line, name if name != 0 else load_place(told + UNNAMED), _MOST_OF_TEXT)
    return ask(load_place(load_place(frame + API) + CREATE_ERROR), line, INTERNAL, 0, 28)


@inline
def _place(buffers: int, count: int, words: int, argument: int) -> int:
    """Write the addresses of buffers where they belong in an argument; the last of them."""
    data = 0
    for i in range(count):
        data = load_place(load_place(buffers + 8 * i) + DATA)
        store_place(argument + load_place(words + 8 * i), data)
    return data


def handle(words: int) -> int:
    """Answer a frame; words: its address, and that of what the handler was told when it was made."""
    frame, told = load_place(words), load_place(words + 8)
    extension = load_place(frame + EXTENSION)
    if extension != 0 and load_int32(extension + TYPE_OF_EXTENSION) == IS_METADATA:
        metadata = load_place(extension + METADATA)
        store_place(metadata + VERSION_OF_METADATA, load_place(told + VERSION))
        # Whatever an address or a stream is, each call launches the same.
        store_int32(metadata + TRAITS_OF_METADATA, IS_REPLAYED)
        return 0
    given = load_place(load_place(load_place(frame + ATTRIBUTES)) + WORDS_OF_ATTRIBUTE)
    arguments, results = load_place(frame + ARGUMENTS), load_place(frame + RESULTS)
    inputs, outputs = load_place(frame + COUNT_OF_ARGUMENTS), load_place(frame + COUNT_OF_RESULTS)
    if rows_of(load_place(arguments)) <= 0:
        return 0
    place = scratch(8)
    store_place(place, 0)
    code = answer_at(load_place(told + CURRENT_AT), place, 0, 0, 0)
    if code != 0:
        return _error(frame, told, FAILED, code)
    current, devices, number = load_place(place), load_place(told + DEVICES), 0
    while number < devices and load_place(told + PLACES + 16 * number) != current:
        number += 1
    if number == devices:
        return _error(frame, told, NOWHERE, 0)
    step, size, own = load_place(given), load_place(given + 8), scratch(MOST_OF_LAUNCH)
    copied(given + 16 + 8 * (inputs + outputs) + number * step, own, size)
    argument = own + load_place(told + ARGUMENT)
    logits = load_place(load_place(arguments) + DATA)
    _place(arguments, inputs, given + 16, argument)
    last = _place(results, outputs, given + 16 + 8 * inputs, argument)
    if logits % ALIGNMENT != 0 or (outputs > 1 and last % ALIGNMENT != 0):
        return _error(frame, told, MISPLACED, 0)
    asked = scratch(32)
    store_place(asked, 32)
    store_place(asked + 8, 0)
    store_place(asked + 16, load_place(frame + CONTEXT))
    store_place(asked + 24, 0)
    error = call_at(load_place(load_place(frame + API) + STREAM), asked)
    if error != 0:
        return error
    store_place(own + load_place(told + STREAM_OF_LAUNCH), load_place(asked + 24))
    if load_int32(own + load_place(told + HAS_MORE)) != 0:
        store_place(own + load_place(told + MORE_OF_LAUNCH), own + load_place(told + MORE))
    store_place(place, argument)
    function = load_place(told + PLACES + 16 * number + 8)
    code = answer_at(load_place(told + LAUNCH_AT), own, function, place, 0)
    return 0 if code == 0 else _error(frame, told, FAILED, code)
