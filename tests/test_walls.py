"""The walls between the rooms of `src`, as the imports that are written in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import crossent

ROOT = Path(crossent.__file__).parent
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))
# Where a library may be imported, and where the suite, which the command line has commands of.
HOMES = {
    "torch": ("libraries/torch/", "torch.py"),
    "jax": (
        *("libraries/jax.py", "libraries/jax_axis.py", "libraries/jax_ffi.py", "libraries/jax_linear.py"),
        *("libraries/jax_mesh.py", "libraries/jax_reduced.py", "libraries/jax_spread.py"),
    ),
    "cupy": ("libraries/cupy.py",),
    "mpi4py": ("libraries/mpi.py",),
    "dask": ("libraries/dask.py",),
    "array_api_strict": ("libraries/strict.py",),
    "mlx": ("libraries/mlx.py",),
    "ndonnx": ("libraries/ndonnx.py",),
    "numba": ("engines/numba_cpu/",),
    "llvmlite": ("engines/numba_cpu/",),
    "cuda": ("engines/cuda/",),
    "crossent_conformance": (),
}


def _imported(file, *, running):
    """The modules that a file imports; with `running`, not those that only checkers of types see."""
    found, seen = set(), [ast.parse((ROOT / file).read_text(encoding="utf-8"))]
    while seen:
        node = seen.pop()
        if isinstance(node, ast.If) and running and getattr(node.test, "id", "") == "TYPE_CHECKING":
            seen += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole module"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        else:
            seen += ast.iter_child_nodes(node)
    return found


def _under(names, *rooms):
    return {name for name in names if any(f"{name}.".startswith(f"{room}.") for room in rooms)}


def test_the_rooms_are_read():
    assert {"math/formula.py", "engines/select.py", "libraries/torch/library.py"} <= set(FILES)
    assert "numba.core" in _imported("engines/numba_cpu/program.py", running=True)
    assert _under(_imported("libraries/base.py", running=False), "crossent.problem")
    assert not _under(_imported("libraries/base.py", running=True), "crossent.problem")


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("math/")])
def test_the_mathematics_names_no_library_and_no_engine(file):
    imported = _imported(file, running=False)
    assert _under(imported, "crossent") == _under(imported, "crossent.math", "crossent.types")
    # Beside them, the standard, NumPy's limits of dtypes, and Python's functions of functions.
    others = {name.partition(".")[0] for name in imported} - {"__future__", "typing", "crossent"}
    assert others <= {"array_api_compat", "numpy", "math", "collections", "functools"}
    assert not _under(imported, *(f"array_api_compat.{library}" for library in HOMES))


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("engines/")])
def test_engines_know_no_option_and_no_call(file):
    outside = ("options", "problem", "checks", "api", "api_linear", "loss", "machine", "commands", "train", "torch")
    assert not _under(_imported(file, running=False), *(f"crossent.{room}" for room in outside))
    # Which library an engine walks for is said by the object that comes with the rows.
    assert not _under(_imported(file, running=True), "crossent.libraries")


@pytest.mark.parametrize("file", FILES)
def test_a_library_is_imported_in_its_own_room(file):
    for library, homes in HOMES.items():
        if not file.startswith(homes):
            assert not _under(_imported(file, running=True), library, f"array_api_compat.{library}"), library


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("libraries/")])
def test_libraries_do_not_call_the_public_functions(file):
    public = ("crossent.api", "crossent.api_linear", "crossent.loss")
    assert not _under(_imported(file, running=True), *public) or file.endswith("drop_in.py")
