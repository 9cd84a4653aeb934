"""What `import crossent` costs: NumPy at most. In fresh processes, since this one has imported everything."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import crossent

# Numba is an engine, no backend: a call may import it (and SciPy with it, where that is), `import crossent` may not.
BACKENDS = ("torch", "jax", "cupy", "dask", "array_api_strict", "mlx", "ndonnx", "dpnp", "matplotlib", "rich", "mpmath")


PROGRAMS = {
    "import": ("", (*BACKENDS, "numba", "scipy")),
    "cuda-engine": ("import crossent.engines.cuda.program, crossent.engines.cuda.launch", ("cuda",)),
    "call": (
        """
x, t = np.zeros((200, 700), np.float32), np.zeros(200, np.int64)
loss_fn = crossent.CrossEntropyLoss(label_smoothing=0.1, ignore_index=3)
loss_fn(x, t), loss_fn.backward(), crossent.cross_entropy(x, x), crossent.perplexity(1.0)
""",
        BACKENDS,
    ),
    "errors": (
        """
for arguments in (([0.0], [0]), (np.zeros(3), None), (np.zeros((2, 3)), np.array([0, 3]))):
    try:
        crossent.cross_entropy(*arguments)
    except (TypeError, IndexError):
        pass
    else:
        raise SystemExit("accepted")
""",
        BACKENDS,
    ),
}
"""What a fresh process does after the import, and packages that it must not import for that."""


def _fresh(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("what", PROGRAMS)
def test_nothing_is_imported_before_it_is_needed(what):
    program, names = PROGRAMS[what]
    shown = f"print(*[name for name in {names} if name in sys.modules])"
    assert _fresh(f"import sys, numpy as np, crossent\n{program}\n{shown}") == []


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_one_framework_does_not_import_the_other(library):
    pytest.importorskip(library)
    other = {"torch": "jax", "jax": "torch"}[library]
    assert _fresh(f"import sys, crossent.libraries.{library}; print({other!r} in sys.modules)") == ["False"]


def test_importing_the_package_does_not_import_its_framework_rooms():
    program = "import sys, crossent; print(*(name for name in sys.modules if name.startswith('crossent.')))"
    rooms = {name.split(".")[2] for name in _fresh(program) if name.startswith("crossent.libraries.")}
    assert rooms == {"base", "exchange", "numpy"}


def test_every_room_imports_where_its_library_is():
    """pytest's collection of examples passes over a module that does not import."""
    for path in (Path(crossent.__file__).parent).rglob("*.py"):
        name = ".".join(("crossent", *path.relative_to(Path(crossent.__file__).parent).with_suffix("").parts))
        try:
            importlib.import_module(name.removesuffix(".__init__"))
        except ImportError as error:
            # Only a library that is not here is an excuse.
            if (error.name or "").partition(".")[0] not in {*BACKENDS, "numba", "llvmlite", "cuda", "mpi4py"}:
                raise


def test_the_types_are_published():
    assert (Path(crossent.__file__).parent / "py.typed").is_file()


def test_the_version_is_the_distributions():
    assert crossent.__version__ == importlib.metadata.version("crossent")


@pytest.mark.parametrize("name", ["crossent", "crossent.torch"])
def test_a_package_shows_its_public_names_and_no_modules(name):
    if name == "crossent.torch":
        pytest.importorskip("torch")
    module = importlib.import_module(name)
    assert dir(module) == sorted(module.__all__)
    assert not [shown for shown in dir(module) if inspect.ismodule(getattr(module, shown))]
    starred = {}
    exec(f"from {name} import *", starred)
    assert set(starred) - {"__builtins__"} == set(module.__all__)


def test_every_public_name_exists_and_is_documented():
    for name in crossent.__all__:
        assert hasattr(crossent, name)
        if name != "__version__":
            assert getattr(crossent, name).__doc__
