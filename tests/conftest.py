"""Before the tests begin: what is compiled is shared out among the workers, and what stays is no garbage.

And what tests of several files are given.
"""

from __future__ import annotations

import gc
import importlib.util
import logging

import pytest

LONG = ("test_several_devices.py", "test_conform_shards.py")


def pytest_collection_modifyitems(items):
    """What takes minutes by itself begins first, or one worker would wait for it in the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_report_header():
    return "tests/gpu: what only a GPU can answer is asked by tests/gpu/run.py alone"


def pytest_collection_finish(session):
    """Keep tests and libraries from the collector; compile every second kernel (of two workers).

    From there on kernels are read from the disk, so that none is compiled twice.
    """
    gc.collect()
    gc.freeze()  # a full collection took a second
    worker = getattr(session.config, "workerinput", None)
    if worker is None or len(session.items) < 1000 or importlib.util.find_spec("numba") is None:
        return
    from crossent.engines.numba_cpu.kernel import kernel
    from crossent.engines.numba_cpu.layout import GRADIENT, STATISTICS, WALK, Kind

    dtypes = [(name, soft) for name in ("float32", "float64", "float16", "bfloat16") for soft in (None, name)]
    kinds = [Kind(WALK, *of, short=short) for short in (True, False) for of in dtypes]
    # The halves of the walk, which `test_verbs.py` asks for.
    kinds += [Kind(verb, *of) for of in dtypes[:4] for verb in (STATISTICS, GRADIENT)]
    for kind in kinds[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        kernel(kind)


@pytest.fixture
def _wide():
    """JAX has its types of 64 bits."""
    with pytest.importorskip("jax").enable_x64(True):
        yield


@pytest.fixture
def warnings(caplog):
    """What `crossent` has logged so far, once it is called."""
    caplog.set_level(logging.WARNING, logger="crossent")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "crossent"]
