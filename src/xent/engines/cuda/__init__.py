"""The compiled engine for CUDA memory: CuPy arrays and torch CUDA tensors.

    here.py       whether it can be used on this machine
    program.py    from macros and an architecture to a cubin: NVRTC, and what is kept on disk
    launch.py     from a cubin to a kernel that runs on a stream; what a device has

Nothing of NVIDIA's is imported, and no driver is touched, before a call asks for it.
"""

from __future__ import annotations

from xent.engines.cuda.here import problem

__all__ = ["problem"]
