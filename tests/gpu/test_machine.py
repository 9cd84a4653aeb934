"""What takes programs of its own: the compiler for every variant, compute-sanitizer, the demo's training run."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from tests.gpu import subject, variants

from crossent.engines.cuda import launch, plan

pytestmark = pytest.mark.gpu
ON_A_GPU = pytest.mark.skipif(not subject.usable(), reason="no CUDA device")
SANITIZER, FOUND = "compute-sanitizer", 99
"""The program, and the exit code of a run that reported errors."""
REFUSALS = ("Device not supported", "Unable to find a suitable device", "unsupported device")


@ON_A_GPU
@pytest.mark.timeout(300)
def test_every_variant_compiles_for_this_device(record_property):
    """On all cores, and first: each test would otherwise compile what it needs, one variant after another."""
    architecture, every = launch.properties(0).architecture, plan.all_variants()
    # A process that has met the driver is not to be forked.
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        sizes = list(pool.map(variants.compiled, every, [architecture] * len(every)))
    record_property("seen", f"{len(sizes)} programs for {architecture}, {sum(sizes) / 1e6:.1f} MB")
    assert all(sizes)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("tool", "backend", "planted"),
    [
        ("memcheck", "cupy", True), ("memcheck", "torch-cuda", False), ("racecheck", "torch-cuda", False),
        ("synccheck", "torch-cuda", False), ("memcheck", "cupy", False),
    ],
)  # fmt: skip
def test_compute_sanitizer(tool, backend, planted, record_property):
    """No access outside an allocation, no race, no misused barrier; an overrun planted on purpose is reported.

    The kernels of both backends are the same, so races and barriers are looked for on one.
    """
    if shutil.which(SANITIZER) is None:
        pytest.skip(f"{SANITIZER} is not on PATH")
    command = [SANITIZER, "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "20"]
    command += [sys.executable, "-m", "tests.gpu.variants", backend, *["--plant"] * planted]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=150, check=False
    )
    print(done.stdout)
    refusal = next((line for line in done.stdout.splitlines() if any(word in line for word in REFUSALS)), None)
    if refusal is not None:
        pytest.skip(refusal.strip())
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: .*", done.stdout)
    record_property("seen", summary[0] if summary else "no summary")
    if planted:
        assert done.returncode == FOUND
        assert "Invalid __global__ write" in done.stdout
    else:
        assert (done.returncode, summary is not None) == (0, True)


def test_the_demo_trains_alike(tmp_path, record_property):
    """The run of `make demo`, NumPy beside the CUDA backends."""
    names = ["numpy", *subject.usable()]
    command = [sys.executable, "-m", "crossent", "train", *(f"--backend={name}" for name in names)]
    command += ["--picture", str(tmp_path / "loss.png"), "--json", str(tmp_path / "train.json")]
    subprocess.run([*command, *["--steps=2", "--vocabulary=300"] * (names == ["numpy"])], check=True)
    runs = json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))["backends"]
    seen = [f"{one['backend']} {one['first_loss']:.3f} to {one['last_loss']:.3f}" for one in runs]
    record_property("seen", "; ".join(seen))
    assert [one["backend"] for one in runs] == names
    assert len({f"{one['first_loss']:.3f}" for one in runs}) == 1, seen
