"""Whether the CUDA engine can be used on this machine. It asks the driver, so it is asked by the first call alone."""

from __future__ import annotations

import functools

from crossent.engines.cuda import launch, program

_ADVICE = (
    "pip install 'cuda-bindings==13.*' 'nvidia-cuda-nvrtc==13.*', "
    "or 'cuda-bindings==12.*' nvidia-cuda-nvrtc-cu12 for a driver of CUDA 12"
)
_OLDEST = 80


@functools.cache
def problem(device: int = 0) -> str | None:
    """Why the engine cannot use the device of that number; None where it can."""
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401
    except ImportError as error:
        if error.name in ("cuda", "cuda.bindings"):
            return f"cuda-bindings is not installed ({_ADVICE})"
        return f"cuda-bindings does not import: {_first_line(error)} ({_ADVICE})"
    try:
        compiler = program.version()
    except RuntimeError as error:
        return f"NVRTC is not found: {_first_line(error)} ({_ADVICE})"
    try:
        newest, devices = launch.driver_version(), launch.devices()
    except RuntimeError as error:
        return f"there is no CUDA driver that works: {_first_line(error)}"
    if not 0 <= device < devices:
        return f"there is no CUDA device {device}, but {devices}"
    # A cubin loads in any driver of the same major version, older ones included, and in all later ones.
    if newest[0] < compiler[0]:
        return f"the driver is one of CUDA {newest[0]}.{newest[1]}, and NVRTC one of {compiler[0]} ({_ADVICE})"
    try:
        architecture = launch.properties(device).architecture
    except RuntimeError as error:
        return f"CUDA device {device} can not be asked what it has: {_first_line(error)}"
    if int(architecture.removeprefix("sm_")) < _OLDEST:
        return f"CUDA device {device} is of {architecture}, and the oldest that serves is of sm_{_OLDEST}"
    if architecture not in program.architectures():
        return f"CUDA device {device} is of {architecture}, for which NVRTC {compiler[0]}.{compiler[1]} is too old"
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
