"""The tests that only a GPU can answer. They are collected where they are named and a CUDA backend is here, only there.

`CROSSENT_ACTED_GPU=1` has them ask the acted device, to see that they run.
"""

from __future__ import annotations

import os

import pytest
from tests.gpu import subject

ACTED = os.environ.get("CROSSENT_ACTED_GPU") == "1"
# JAX's own say why they are skipped: it is not asked here, where it would keep a part of the device.
collect_ignore_glob = [] if ACTED or subject.usable() else ["test_[!j]*.py"]


def pytest_report_header(config):
    here = "the acted one" if ACTED else ", ".join(subject.usable()) or "none, so that tests/gpu is not collected"
    return f"GPUs: {here}; {subject.obstacles()}"


def pytest_generate_tests(metafunc):
    """`gpu` is a subject on each backend, `dtype` one of its dtypes, `v` one of the test's lengths of rows."""
    if "gpu" not in metafunc.fixturenames:
        return
    names = ["acted"] if ACTED else subject.usable(metafunc.config.getoption("crossent_backend"))
    lengths = metafunc.definition.get_closest_marker("lengths")
    cells = [
        (name, dtype, v)
        for name in names
        for dtype in (subject.of(name).backend.dtypes if "dtype" in metafunc.fixturenames else [None])
        for v in (lengths.args[: 2 if ACTED else None] if lengths else [None])
    ]
    wanted = ["gpu", *(name for name in ("dtype", "v") if name in metafunc.fixturenames)]
    values = [[one for one in cell if one is not None] for cell in cells]
    metafunc.parametrize(wanted, values, ids=["-".join(map(str, one)) for one in values], indirect=["gpu"])


@pytest.fixture
def gpu(request):
    """Left clean; a device that answers no more ends this process, and xdist starts another for the other tests."""
    found = subject.of(request.param)
    yield found
    try:
        found.device.synchronize()
        found.device.release()
    except Exception as error:
        print(f"the device answers no more: {error}", flush=True)
        os._exit(86)
