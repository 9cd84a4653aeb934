"""A13: what logits that lie on several devices give is what they give on one.

How many devices or processes there are is settled when they begin, so the tests are files in `tests/devices`, which
processes of their own run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "devices"
EVERY_TIER = pytest.mark.parametrize("tier", ["not extended", pytest.param("extended", marks=pytest.mark.extended)])


def _all_pass(file, tier, *environments):
    """Run a file in as many processes as there are environments, at once."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", FOLDER / file, "-m", tier]
    options = {"cwd": FOLDER.parents[1], "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen(command, env=os.environ | each, **options) for each in environments]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(said)


@pytest.mark.clause("A13", "A5")
@EVERY_TIER
def test_A13_four_devices_of_jax(tier):
    jax = pytest.importorskip("jax")
    if not hasattr(jax.sharding, "use_abstract_mesh"):
        pytest.skip("JAX has explicit meshes as they are meant here since 0.8")
    _all_pass("jax_arrays.py", tier, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"})


@pytest.mark.clause("A13", "A4", "A5", "D1")
@EVERY_TIER
def test_A13_two_processes_of_torch(tier, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available() or torch.__version__ < "2.13":
        pytest.skip("older DTensors have no second derivatives, and gather a gradient that lies in uneven parts")
    store = str(tmp_path / "store")
    _all_pass("dtensors.py", tier, *({"RANK": rank, "STORE": store} for rank in "01"))


@pytest.mark.clause("P1", "P2", "P3", "D1")
@EVERY_TIER
def test_P1_four_processes_of_torch(tier, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    store = str(tmp_path / "store")
    _all_pass("torch_shards.py", tier, *({"RANK": rank, "STORE": store} for rank in "0123"))


@pytest.mark.clause("P1", "P2", "P3")
@EVERY_TIER
def test_P1_four_devices_of_jax_in_shard_map(tier):
    jax = pytest.importorskip("jax")
    if not hasattr(jax, "shard_map"):
        pytest.skip("JAX has shard_map as it is meant here since 0.6")
    _all_pass("jax_shards.py", tier, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"})
