"""What calls would compile, compiled ahead and kept on disk: for containers and CI."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable

from crossent.engines import select
from crossent.info import DTYPES, UsageError, printable


def warm(dtypes: Iterable[str] | None, everything: bool) -> None:
    """Compile what losses of logits of those dtypes need, or of all; print what took how long.

    everything: soft targets, temperatures and softcaps, entropies and divergences, and parts of a vocabulary, too, but
    for soft targets and logits of a teacher that have a dtype of their own. What JAX's programs need where JAX is.
    """
    asked = tuple(DTYPES if dtypes is None else dict.fromkeys(dtypes))
    unknown = [name for name in asked if name not in DTYPES]
    if unknown:
        raise UsageError(f"--dtype is {unknown[0]!r}; accepted: {', '.join(DTYPES)}")
    problem = select.problem("numba")
    if problem is not None:
        raise UsageError(f"there is nothing to compile ahead: {problem}")
    from crossent.engines import numba_cpu

    folder = numba_cpu.folder()
    if folder is None:
        raise UsageError(
            "there is no folder to keep what is compiled; accepted: one that only you can write, in CROSSENT_CACHE_DIR"
        )
    begun = time.perf_counter()
    pieces = [piece for dtype in asked for piece in numba_cpu.kernels(dtype, everything)]
    if importlib.util.find_spec("jax") is not None:
        pieces += numba_cpu.of_programs()
    for stem, make in pieces:
        start = time.perf_counter()
        make()
        if not numba_cpu.is_kept(stem):
            raise UsageError(f"{stem} could not be written to {printable(folder)}")
        print(f"{stem:<40}{time.perf_counter() - start:6.2f} s", flush=True)
    print(f"{time.perf_counter() - begun:.1f} s; kept in {printable(folder)}")
