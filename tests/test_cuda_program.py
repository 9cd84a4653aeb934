"""Cubins: NVRTC makes them, without a GPU, and what is made is kept."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests import cuda_resources

from crossent.engines import kept
from crossent.engines.cuda import program

pytestmark = cuda_resources.needs_nvrtc

KERNEL = """
#include "scale.cuh"
struct Problem { const float *x; float *y; long long n; float factors[60]; };
#if CROSSENT_CLUSTER > 1
#define CLUSTER __cluster_dims__(CROSSENT_CLUSTER, 1, 1)
#else
#define CLUSTER
#endif
extern "C" __global__ void CLUSTER walk(const __grid_constant__ Problem problem) {
    __shared__ float seen[64];
    seen[threadIdx.x % 64] = scaled(problem.x[threadIdx.x]) * problem.factors[3];
#if CROSSENT_CLUSTER > 1
    asm volatile("barrier.cluster.arrive.aligned;\\nbarrier.cluster.wait.aligned;");
#else
    __syncthreads();
#endif
    problem.y[threadIdx.x] = seen[(threadIdx.x + 1) % 64];
}
"""
SCALE = "__device__ inline float scaled(float x) { return 2.0f * x; }\n"
ALONE, PAIR = (("CROSSENT_CLUSTER", "1"),), (("CROSSENT_CLUSTER", "2"),)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "scale.cuh").write_text(SCALE)
    (folder / "kernel.cu").write_text(KERNEL)
    return folder / "kernel.cu"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of kept cubins, empty, in a process that has compiled nothing."""
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path / "kept"))
    program.cubin.forget()
    kept._said.clear()
    return tmp_path / "kept"


@pytest.fixture
def compilations(monkeypatch):
    """What was compiled, and not found."""
    made, compiled = [], program.compiled

    def counted(*arguments):
        made.append(arguments)
        return compiled(*arguments)

    monkeypatch.setattr(program, "compiled", counted)
    return made


def test_a_cubin_is_machine_code_for_the_architecture_and_the_macros(source):
    cubins = {
        program.cubin(source, macros, architecture)
        for macros, architecture in ((ALONE, "sm_80"), (ALONE, "sm_90"), (PAIR, "sm_90"))
    }
    assert len(cubins) == 3
    for cubin in cubins:
        assert cubin.startswith(b"\x7fELF")
        assert b".text.walk" in cubin
    # There are no clusters before sm_90: the macro is what asks for one.
    with pytest.raises(RuntimeError, match="cluster"):
        program.cubin(source, PAIR, "sm_80")


def test_what_was_compiled_is_kept_as_a_cubin_and_not_compiled_again(source, folder, compilations):
    first = program.cubin(source, ALONE, "sm_90")
    assert program.cubin(source, ALONE, "sm_90") is first
    program.cubin.forget()
    assert program.cubin(source, ALONE, "sm_90") == first
    assert len(compilations) == 1
    # To other tools it is one.
    (file,) = folder.iterdir()
    assert file.suffix == ".cubin"
    assert file.read_bytes().startswith(first)


CHANGES = {
    "header": lambda folder, patch: (folder / "scale.cuh").write_text(SCALE.replace("2.0f", "3.0f")),
    "source": lambda folder, patch: (folder / "kernel.cu").write_text(KERNEL.replace("factors[3]", "factors[4]")),
    "new header": lambda folder, patch: (folder / "more.cuh").write_text(""),
    "compiler": lambda folder, patch: patch.setattr(program, "version", lambda: (99, 9)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_a_cubin_is_made_from_is_in_its_name(source, folder, compilations, monkeypatch, change):
    program.cubin(source, ALONE, "sm_90")
    program.cubin.forget()
    change(source.parent, monkeypatch)
    program.cubin(source, ALONE, "sm_90")
    assert len(compilations) == len(list(folder.iterdir())) == 2


def test_macros_and_architecture_are_in_the_name(source, folder, compilations):
    for macros, architecture in ((ALONE, "sm_90"), (ALONE, "sm_80"), (PAIR, "sm_90"), ((*ALONE, ("A", "1")), "sm_90")):
        program.cubin(source, macros, architecture)
    assert len(compilations) == len(list(folder.iterdir())) == 4


def test_where_the_source_lies_is_not_in_the_name(source, tmp_path, compilations):
    program.cubin(source, ALONE, "sm_90")
    (source.parent / "kernel.py").write_text("nothing that is compiled")
    source.parent.rename(tmp_path / "elsewhere")
    program.cubin(tmp_path / "elsewhere" / "kernel.cu", ALONE, "sm_90")
    assert len(compilations) == 1


def test_an_error_has_the_compilers_words(source, folder):
    source.write_text(KERNEL.replace("problem.factors[3]", "problem.nothing"))
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"(?s)does not compile kernel.cu for sm_90 CROSSENT_CLUSTER=1 .*nothing"
        ) as caught:
            program.cubin(source, ALONE, "sm_90")
        assert "kernel.cu(11): error" in str(caught.value)
    assert not folder.exists()


def test_an_unknown_architecture_is_an_error(source):
    with pytest.raises(RuntimeError, match="sm_1"):
        program.cubin(source, ALONE, "sm_1")


def test_many_processes_keep_one_file(source, folder):
    words = f"""
from pathlib import Path
from crossent.engines.cuda import program
for _ in range(20):
    program.cubin.forget()
    print(len(program.cubin(Path({str(source)!r}), {ALONE!r}, "sm_90")))
    for path in Path({str(folder)!r}).iterdir():
        path.unlink(missing_ok=True)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    size = str(len(program.cubin(source, ALONE, "sm_90")))
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert set(out.split()) == {size}
        assert "damaged" not in err


def test_who_waits_is_told(source, monkeypatch, warnings):
    def slow(*arguments):
        time.sleep(1.3)
        return program.Compiled(b"code", "")

    monkeypatch.setattr(program, "compiled", slow)
    assert program.cubin(source, PAIR, "sm_90") == b"code"
    assert warnings() == ["crossent compiles kernel.cu for sm_90 CROSSENT_CLUSTER=2, which takes some seconds"]


def test_the_compiler_knows_the_architectures_of_its_time():
    assert program.version() >= (12, 0)
    assert {"sm_80", "sm_90"} <= program.architectures()


def test_resources_are_read_without_a_gpu(source):
    (found,) = cuda_resources.resources(source, ALONE, "sm_90").items()
    name, taken = found
    assert name == "walk"
    assert taken.shared == 256
    assert 0 < taken.registers < 64
    assert taken.stack == taken.spills == 0


SPILLS = """
extern "C" __global__ void __launch_bounds__(1024, 2) spills(float *x) {
    float t[80], sum = 0;
#pragma unroll
    for (int i = 0; i < 80; i++) t[i] = x[i * threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 80; i++)
        for (int j = 0; j < 80; j += 7) sum += __sinf(t[i] * t[j]);
    x[0] = sum;
}
extern "C" __global__ void stack(float *x) {
    float t[64];
    for (int i = 0; i < 64; i++) t[i] = x[i] * x[i + threadIdx.x];
    x[threadIdx.x] = t[(int)x[threadIdx.x] & 63];
}
"""


def test_spills_and_stacks_are_seen(source):
    source.write_text(SPILLS)
    found = cuda_resources.resources(source, (), "sm_90")
    assert found.keys() == {"spills", "stack"}
    assert found["spills"].registers == 32
    assert found["spills"].spills > 0
    assert found["stack"].stack >= 256
    assert found["stack"].spills == 0


def test_resources_are_read_from_what_nvcc_prints():
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'walk' for 'sm_90'
ptxas info    : Function properties for walk
    112 bytes stack frame, 108 bytes spill stores, 104 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 112 bytes cumulative stack size, 400 bytes smem
ptxas info    : Function properties for _Z1ffi
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
"""
    assert cuda_resources.read(log) == {"walk": cuda_resources.Resources(32, 112, 108, 400)}
    with pytest.raises(ValueError, match="names no kernel"):
        cuda_resources.read("ptxas info    : 0 bytes gmem")
