"""Before the tests begin, the workers of a run share out what is compiled, so that nothing is compiled twice."""

from __future__ import annotations

import importlib.util


def pytest_collection_finish(session):
    """Compile every second kernel (of two workers); from there on they are read from the disk."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or len(session.items) < 1000 or importlib.util.find_spec("numba") is None:
        return
    from crossent.engines.numba_cpu.kernel import kernel

    kinds = [(name, soft) for name in ("float32", "float64", "float16", "bfloat16") for soft in (None, name)]
    for kind in kinds[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        kernel(*kind)
