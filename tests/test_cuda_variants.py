"""Every walk of the CUDA engine compiles for the architectures in use, and those that matter keep to their registers.

No GPU is asked. NVRTC compiles what it will compile for a user, that is everything; nvcc, where there is one, what
matters most.
"""

from __future__ import annotations

import pytest
from tests import cuda_resources
from tests.cuda_resources import needs_nvrtc

from crossent.engines.cuda import SOURCE, plan, program
from crossent.engines.cuda.plan import Variant

NVCC, DISASSEMBLER = map(cuda_resources.tool, ("nvcc", "nvdisasm"))
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="there is no nvcc on the path or in /usr/local/cuda")
needs_disassembler = pytest.mark.skipif(
    DISASSEMBLER is None, reason="there is no nvdisasm: not in CUDA's toolkit, nvidia-cuda-nvdisasm or triton"
)
ARCHITECTURES = ("sm_80", "sm_90")
FORMATS = ("bfloat16", "float16", "float32", "float64")

# The walks over logits that fill a device's memory, as language models make them: not a byte may be spilled.
HOT = [
    Variant(format, layout, "HARD", verb, 32)
    for format in FORMATS[:3]
    for layout in ("ALIGNED", "UNALIGNED")
    for verb in ("losses", "walk")
]
# Elsewhere some bytes may be: those of float64 and of single elements, once for a tile.
FEW = 108


def test_what_matters_is_compiled():
    assert len(set(plan.all_variants())) == len(plan.all_variants())
    assert set(HOT) <= set(plan.all_variants())
    assert {variant.format for variant in plan.all_variants()} == set(FORMATS)


def _complaints(variant, found):
    """What is wrong with what a walk takes."""
    # Two blocks are to run at once; ptxas gives registers to a warp by eights to a thread.
    registers = -(-found.registers // 8) * 8 * variant.threads * 2
    allowed = 0 if variant in HOT else FEW
    wrong = {
        f"spills {found.spills} bytes and not {allowed}": found.spills > allowed,
        f"has a stack of {found.stack} bytes": found.stack > allowed,
        f"takes {registers} registers of 65536": registers > 65536,
        f"declares {found.shared} bytes of shared memory, which the plan does not know of": found.shared,
    }
    return [f"{variant} {words}" for words, is_so in wrong.items() if is_so]


# In groups, so that the processes of a test run share them out evenly.
@pytest.mark.extended
@needs_nvrtc
@pytest.mark.parametrize("verb", plan.VERBS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvrtc_compiles_every_walk(architecture, format, verb):
    group = [v for v in plan.all_variants() if (v.format, v.verb) == (format, verb)]
    assert group
    complaints = []
    for variant in group:
        complaints += _complaints(variant, cuda_resources.resources(SOURCE, variant.macros, architecture)["walk"])
    assert not complaints, "\n".join(complaints)


@pytest.mark.extended
@needs_nvcc
@pytest.mark.parametrize("format", FORMATS[:3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_compiles_the_walks_that_matter(architecture, format, tmp_path):
    complaints = []
    for variant in (v for v in HOT if v.format == format):
        found = cuda_resources.resources_with_nvcc(NVCC, SOURCE, variant.macros, architecture, tmp_path)["walk"]
        complaints += _complaints(variant, found)
    assert not complaints, "\n".join(complaints)


@pytest.mark.extended
@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nvcc_compiles_every_file(architecture, tmp_path):
    for format, targets in zip(FORMATS, ("SMOOTHED", "ENTROPY", "SOFT", "JENSEN_SHANNON"), strict=True):
        variant = Variant(format, "STRIDED", targets, "walk", 32)
        found = cuda_resources.resources_with_nvcc(NVCC, SOURCE, variant.macros, architecture, tmp_path)["walk"]
        assert not _complaints(variant, found)


@needs_nvrtc
@needs_disassembler
@pytest.mark.parametrize("verb", ["losses", "walk"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_memory_is_read_and_written_16_bytes_at_a_time(architecture, verb, tmp_path):
    variant = Variant("bfloat16", "ALIGNED", "HARD", verb, 32)
    (tmp_path / "made.cubin").write_bytes(program.compiled(SOURCE, variant.macros, architecture).cubin)
    found = cuda_resources.instructions(DISASSEMBLER, tmp_path / "made.cubin")

    def count(*parts):
        """Of the instructions that begin with the first part and have all others."""
        return sum(n for name, n in found.items() if name.split(".")[0] == parts[0] and all(p in name for p in parts))

    # A tile has 8 granules a lane; a whole one is moved without a question, and one that the row ends in with some.
    assert count("LDG", ".128") >= 16
    assert count("STG", ".128") == (16 if verb == "walk" else 0)
    # "evict first": what is read once does not drive out what is needed again.
    assert count("LDG", ".128", ".EF") == count("LDG", ".128")
    assert count("STG", ".128", ".EF") == count("STG", ".128")
    assert count("LDL") == count("STL") == 0
