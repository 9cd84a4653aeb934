"""Machine code: kept on disk when it has been made, and loaded by llvmlite alone. Numba is imported to make it.

Numba's own cache is not used: it needs Numba, which takes a second to import, and knows neither a damaged file nor one
that another user wrote.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import llvmlite
import numpy as np
from llvmlite import binding as llvm

import crossent
from crossent.engines import kept
from crossent.engines.compiling import LOGGER, log_if_slow, making
from crossent.math.statistics import UNIT

# Of the compiler's settings, those that say where it keeps what.
_PLACES: Final = ("NUMBA_CACHE_DIR",)
_SIGNATURE: Final = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)
_NAME: Final = "crossent_{}"
# What holds the machine code of this process.
_engines: list[Any] = []


def function(stem: str, what: str, make: Callable[[str], bytes]) -> Callable[[bytes], int]:
    """A function of C's of the words of a call.

    stem: its name. what: that in words. make: what makes an object file with the function of the name that it is given.
    """
    name, path = _NAME.format(stem.replace("-", "_")), _path(stem)
    code = kept.read(path)
    address = None if code is None else _loaded(code, name, path)
    if address is None:
        with log_if_slow(f"crossent compiles its kernel for {what}, which takes some seconds"):
            # Before the object file stands what it is: of anything else LLVM would make what it likes.
            code = name.encode() + make(name)
        address = _loaded(code, name, None)
        assert address is not None
        kept.keep(path, code)
    return _SIGNATURE(address)


def with_word(address: int, word: int, name: str) -> int:
    """The address of a function of one number that calls that at `address`, of the place of that number and a word."""
    from llvmlite import ir

    module, kind = ir.Module(), ir.IntType(64)
    builder = ir.IRBuilder(ir.Function(module, ir.FunctionType(kind, [kind]), name).append_basic_block())
    place = builder.alloca(kind, 2)
    for i, value in enumerate((builder.function.args[0], ir.Constant(kind, word))):
        builder.store(value, builder.gep(place, [ir.Constant(ir.IntType(32), i)]))
    inner = builder.inttoptr(ir.Constant(kind, address), ir.FunctionType(kind, [kind]).as_pointer())
    builder.ret(builder.call(inner, [builder.ptrtoint(place, kind)]))
    made = llvm.parse_assembly(str(module))
    engine = llvm.create_mcjit_compiler(made, _machine())
    engine.finalize_object()
    _engines.append(engine)
    return int(engine.get_function_address(name))


def address_of(made: Callable[[bytes], int]) -> int:
    """Where the machine code of such a function begins."""
    return ctypes.cast(made, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _loaded(code: bytes, name: str, path: Path | None) -> int | None:
    """The address of the function of that name; None, and a warning, where what is kept at a path is of no use."""
    try:
        if not code.startswith(name.encode()):
            raise LookupError("no object file of this package")
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code[len(name) :]))
        engine.finalize_object()
        address = int(engine.get_function_address(name))
    except Exception as error:  # whole, but of another build of the same versions: it raises what it likes
        if path is None:
            raise
        LOGGER.warning("crossent compiles its kernel anew: %s is of no use (%s: %s)", path, type(error).__name__, error)
        return None
    _engines.append(engine)
    return address


def _machine() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()


def _path(stem: str) -> Path | None:
    """Where machine code is kept, under a name that changes with its sources, the compiler and the processor."""
    return kept.path(f"{kept.name(stem, *_made_from())}.o", _folder())


def folder() -> str | None:
    """Where machine code is kept; None where it is not."""
    path = _path("any")
    return None if path is None else str(path.parent)


def is_kept(stem: str) -> bool:
    """Whether the machine code of that name is there."""
    path = _path(stem)
    return path is not None and path.is_file()


def _folder() -> str | None:
    config = sys.modules.get("numba.core.config")
    return getattr(config, "CACHE_DIR", None) or os.environ.get("NUMBA_CACHE_DIR")


def _made_from() -> tuple[Any, ...]:
    settings = sorted(
        (name, value) for name, value in os.environ.items() if name.startswith("NUMBA_") and name not in _PLACES
    )
    # Of NumPy's Numba asks whether it knows it: what is kept says that Numba imports here.
    versions = (crossent.__version__, sys.version, metadata.version("numba"), llvmlite.__version__, np.__version__)
    return _sources(), UNIT, versions, settings, _processor()


def _sources() -> list[tuple[str, bytes]]:
    files = sorted(importlib.resources.files(__package__).iterdir(), key=lambda file: file.name)
    return [(file.name, file.read_bytes()) for file in files if file.name.endswith(".py")]


@functools.cache
def _processor() -> tuple[str, str, str]:
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def problem() -> str | None:
    """Why machine code cannot be made or run here; None where it can. What Numba raises when it does not import."""
    config = sys.modules.get("numba.core.config")
    off = os.environ.get("NUMBA_DISABLE_JIT", "0") if config is None else config.DISABLE_JIT
    if off not in (0, "0", ""):
        return "Numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    name = llvm.get_default_triple().split("-")[0]
    features = llvm.get_host_cpu_features()
    if name not in ("aarch64", "arm64") and not (name == "x86_64" and features.get("fma") and features.get("f16c")):
        return f"this processor ({name}) has no fused multiply-add, or no float16 in hardware"
    path = _path("any")
    if path is None or not any(path.parent.glob(path.name.replace("any", "*", 1))):
        with making:
            import numba  # noqa: F401
    return None
