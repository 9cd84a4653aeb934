"""From macros and an architecture to a cubin: compiled by NVRTC when it is first needed, and kept on disk.

NVRTC is called through cuda.bindings, which has had the same functions since CUDA 12. cuda.core on top of it would add
nothing here: its names moved between 0.3 and 1.0, and its cache of programs (1.0 and later) hands out damaged files,
raises where the folder can not be written, and knows nothing of the headers of a source.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from crossent.engines import kept
from crossent.engines.compiling import LOGGER, Once, log_if_slow

Macros: TypeAlias = tuple[tuple[str, str], ...]


class Compiled(NamedTuple):
    """What NVRTC made of a source."""

    cubin: bytes
    log: str  # with the registers, the stack and the spills of every kernel


@Once
def cubin(source: Path, macros: Macros, architecture: str) -> bytes:
    """The machine code of that source for an architecture such as "sm_90"; from memory, the disk, or the compiler.

    Raises
    ------
    RuntimeError
        Where it does not compile, with the compiler's words, or where there is no compiler.
    """
    path = kept.path(f"{name_of_made(source, macros, architecture)}.cubin")
    found = kept.read(path)
    if found is None:
        with log_if_slow(f"crossent compiles {_name(source, macros, architecture)}, which takes some seconds"):
            found = compiled(source, macros, architecture).cubin
        kept.keep(path, found)
    return found


def compiled(source: Path, macros: Macros, architecture: str) -> Compiled:
    """That source, compiled now, whatever is kept. It may include files from its own folder."""
    nvrtc, what = _nvrtc(), _name(source, macros, architecture)
    options = (*_options(macros, architecture), f"--include-path={source.parent}")
    program = _value(nvrtc.nvrtcCreateProgram(source.read_bytes(), os.fsencode(source.name), 0, [], []))
    try:
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), [os.fsencode(option) for option in options])
        log = bytearray(_value(nvrtc.nvrtcGetProgramLogSize(program)))
        _value(nvrtc.nvrtcGetProgramLog(program, log))
        words = log.rstrip(b"\0").decode(errors="replace").strip()
        if code:
            raise RuntimeError(f"NVRTC {'.'.join(map(str, version()))} does not compile {what} ({code.name}):\n{words}")
        machine_code = bytearray(_value(nvrtc.nvrtcGetCUBINSize(program)))
        _value(nvrtc.nvrtcGetCUBIN(program, machine_code))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    LOGGER.debug("%s\n%s", what, words)
    return Compiled(bytes(machine_code), words)


@functools.cache
def version() -> tuple[int, int]:
    """The version of the NVRTC that is found here, major and minor; RuntimeError where there is none."""
    code, major, minor = _nvrtc().nvrtcVersion()
    _value((code,))
    return major, minor


@functools.cache
def architectures() -> frozenset[str]:
    """The architectures that NVRTC makes machine code for."""
    return frozenset(f"sm_{number}" for number in _value(_nvrtc().nvrtcGetSupportedArchs()))


def name_of_made(source: Path, macros: Macros, architecture: str) -> str:
    """A name for what the compiler makes, which changes with all that it is made from."""
    texts = [
        (path.name, path.read_bytes()) for path in sorted(source.parent.iterdir()) if path.suffix in (".cu", ".cuh")
    ]
    return kept.name(f"{source.stem}-{architecture}", version(), _options(macros, architecture), source.name, texts)


def _options(macros: Macros, architecture: str) -> tuple[str, ...]:
    """The options that what is made depends on. ptxas is asked for registers and spills; it costs nothing."""
    defined = (f"--define-macro={name}={value}" for name, value in macros)
    return (f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v", *defined)


def _name(source: Path, macros: Macros, architecture: str) -> str:
    return " ".join([source.name, "for", architecture, *(f"{name}={value}" for name, value in macros)])


@functools.cache
def _nvrtc() -> Any:
    from cuda.bindings import nvrtc

    return nvrtc


def _value(result: tuple[Any, ...]) -> Any:
    """The value of a call of NVRTC's, if it has one; RuntimeError where it went wrong."""
    code, *values = result
    if code:
        raise RuntimeError(f"NVRTC answers {code.name}")
    return values[0] if values else None
