"""From macros and an architecture to a cubin: compiled by NVRTC when it is first needed, and kept on disk.

NVRTC is called through cuda.bindings, which has had the same functions since CUDA 12. cuda.core on top of it would add
nothing here: its names moved between 0.3 and 1.0, and its cache of programs (1.0 and later) hands out damaged files,
raises where the folder can not be written, and knows nothing of the headers of a source.

CROSSENT_CACHE_DIR is the folder in which cubins are kept; without it, that is `crossent` in the user's folder for
caches. Whatever happens there costs time, and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from crossent.engines.compiling import LOGGER, Once, log_if_slow

Macros: TypeAlias = tuple[tuple[str, str], ...]

# The bytes at the end of a kept file: a digest of those before. Tools that read cubins take no notice of it.
_DIGEST: Final = hashlib.sha256().digest_size


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
    path = _path(source, macros, architecture)
    found = None if path is None else _kept(path)
    if found is None:
        with log_if_slow(f"crossent compiles {_name(source, macros, architecture)}, which takes some seconds"):
            found = compiled(source, macros, architecture).cubin
        if path is not None:
            _keep(path, found)
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


def _path(source: Path, macros: Macros, architecture: str) -> Path | None:
    """Where that cubin is kept. None where there is no folder."""
    try:
        return _folder() / f"{name_of_made(source, macros, architecture)}.cubin"
    except RuntimeError as error:  # a user without a home
        _warn(error)
        return None


def name_of_made(source: Path, macros: Macros, architecture: str) -> str:
    """A name for what the compiler makes, which changes with all that it is made from."""
    texts = [
        (path.name, path.read_bytes()) for path in sorted(source.parent.iterdir()) if path.suffix in (".cu", ".cuh")
    ]
    made_from = (version(), _options(macros, architecture), source.name, texts)
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()
    return f"{source.stem}-{architecture}-{key[:32]}"


def _folder() -> Path:
    asked = os.environ.get("CROSSENT_CACHE_DIR")
    if asked:
        return Path(asked)
    caches = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    return (Path(caches) if caches else Path("~/.cache").expanduser()) / "crossent"


def _kept(path: Path) -> bytes | None:
    """What is kept there; None where there is nothing, or something damaged."""
    try:
        kept = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(error)
        return None
    code, digest = kept[:-_DIGEST], kept[-_DIGEST:]
    if hashlib.sha256(code).digest() == digest:
        return code
    LOGGER.warning("crossent compiles its kernel anew: %s is damaged", path)
    return None


def _keep(path: Path, code: bytes) -> None:
    """Write a file under its name at once and whole, whoever else writes or reads it."""
    try:
        # What others could write here, this user's GPU would run.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code + hashlib.sha256(code).digest())
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        _warn(error)


def _warn(error: Exception) -> None:
    LOGGER.warning("crossent can not keep its kernel on disk (%s: %s)", type(error).__name__, error)


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
