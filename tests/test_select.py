"""Which engine walks the logits: the fastest that can, the one that is asked for, or a clear refusal."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import crossent
from crossent import cli, libraries
from crossent.engines import kept, select
from crossent.engines.select import ENGINES
from crossent.info import BACKENDS
from crossent.libraries import Inputs
from crossent.math.rows import EXPLICIT, LOSS, Rows
from crossent.options import Options

X = np.linspace(-2.0, 2.0, 60).reshape(6, 10)
T = np.arange(6)
HAS_NUMBA = select.numba_problem() is None
needs_numba = pytest.mark.skipif(
    not HAS_NUMBA, reason="Numba is not here; CROSSENT_REQUIRE_ENGINES makes that a failure"
)


@pytest.fixture
def without_numba(monkeypatch):
    """As if Numba were not installed."""
    monkeypatch.setattr(select, "numba_problem", lambda: "Numba is not installed (pip install numba)")
    select._best.cache_clear()
    yield
    select._best.cache_clear()


def _library(x):
    return libraries.of(x).of_call(Inputs(x, None))


def _chosen(asked, x=X, clips=False):
    library = _library(x)
    return library.engine(asked, x, library.dtype_name(x), x.shape[-1], EXPLICIT if clips else LOSS)


def test_every_engine_that_is_required_is_here():
    """Each serves arrays of a backend that is required too; where none is, NumPy's."""
    required = [name for name in os.environ.get("CROSSENT_REQUIRE_ENGINES", "").split(",") if name]
    backends = [name for name in os.environ.get("CROSSENT_REQUIRE_BACKENDS", "").split(",") if name] or ["numpy"]
    assert set(required) <= set(ENGINES)
    logits = [BACKENDS[name].array(X.tolist()) for name in backends] if required else []
    for name in required:
        obstacles = [
            select.obstacle(name, library.kind(x, library.dtype_name(x), x.shape[-1], False))
            for x, library in zip(logits, map(_library, logits), strict=True)
        ]
        assert None in obstacles, obstacles


@needs_numba
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_fastest_that_can_is_chosen(dtype):
    x = X.astype(dtype)
    assert _chosen("auto", x) == "numba"
    np.testing.assert_array_equal(
        crossent.cross_entropy(x, T, reduction="none"), crossent.cross_entropy(x, T, reduction="none", engine="numba")
    )
    assert _chosen("auto", x, clips=True) == "array_api"


def test_without_numba_nothing_changes_but_speed(without_numba):
    loss, d_logits = crossent.cross_entropy_and_grad(X, T, label_smoothing=0.1)
    forced = crossent.cross_entropy_and_grad(X, T, label_smoothing=0.1, engine="array_api")
    np.testing.assert_array_equal(loss, forced[0])
    np.testing.assert_array_equal(d_logits, forced[1])
    with pytest.raises(ValueError, match=r"engine is 'numba'.*Numba is not installed.*accepted: 'auto', 'array_api'"):
        crossent.cross_entropy(X, T, engine="numba")
    assert "numba: cannot serve: Numba is not installed (pip install numba)" in crossent.explain(X)


@needs_numba
def test_a_forced_engine_that_cannot_serve_says_why():
    with pytest.raises(ValueError, match="algorithm='explicit'"):
        crossent.cross_entropy(X, T, engine="numba", algorithm="explicit")
    strict = pytest.importorskip("array_api_strict")
    with pytest.raises(ValueError, match=r"logits are array-api-strict arrays on device CPU.*accepted: 'auto'"):
        crossent.cross_entropy(strict.asarray(X), strict.asarray(T), engine="numba")
    dask = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match="logits are lazy"):
        crossent.cross_entropy(dask.from_array(X), dask.from_array(T), engine="numba")
    jax = pytest.importorskip("jax")
    with pytest.raises(ValueError, match="makes in its own program"):
        crossent.linear_cross_entropy(*map(jax.numpy.asarray, (X, X, T)), engine="numba")


@needs_numba
def test_tensors_in_host_memory_are_walked_by_the_same_engine():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X, requires_grad=True)
    loss = crossent.cross_entropy(x, torch.tensor(T), engine="numba")
    loss.backward()
    expected = crossent.cross_entropy_and_grad(X, T, engine="numba")
    assert loss.item() == float(expected[0])
    np.testing.assert_array_equal(x.grad, expected[1])
    assert "engine 'numba'" in crossent.explain(x)
    with pytest.raises(ValueError, match="logits are traced"):
        torch.func.grad(lambda x: crossent.cross_entropy(x, torch.tensor(T), engine="numba"))(x.detach())


@needs_numba
def test_the_environment_names_the_engine_that_is_preferred(monkeypatch):
    monkeypatch.setenv("CROSSENT_ENGINE", "array_api")
    assert _chosen("auto") == "array_api"
    assert _chosen("numba") == "numba"
    monkeypatch.setenv("CROSSENT_ENGINE", "")
    assert _chosen("auto") == "numba"
    monkeypatch.setenv("CROSSENT_ENGINE", "numba")
    assert _chosen("auto", clips=True) == "array_api"
    assert "CROSSENT_ENGINE is 'numba'" not in crossent.explain(np.zeros((2, 3)))
    monkeypatch.setenv("CROSSENT_ENGINE", "cuda")
    assert "CROSSENT_ENGINE is 'cuda', which cannot serve, so it is not followed" in crossent.explain(np.zeros((2, 3)))
    monkeypatch.setenv("CROSSENT_ENGINE", "fortran")
    with pytest.raises(
        ValueError, match="CROSSENT_ENGINE is 'fortran'; accepted: 'auto', 'numba', 'cuda', 'array_api'"
    ):
        crossent.cross_entropy(X, T)


@pytest.mark.parametrize(("name", "value"), [("CROSSENT_ENGINE", "gpu"), ("CROSSENT_NUM_THREADS", "0")])
def test_info_says_in_one_line_what_is_wrong_with_the_environment(monkeypatch, capsys, name, value):
    monkeypatch.setenv(name, value)
    assert cli.main(["info"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"crossent: {name} is '{value}'; accepted: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", sorted(BACKENDS))
@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_every_call_says_what_is_wrong_with_the_number_of_threads(monkeypatch, name, engine):
    if BACKENDS[name].problem() is not None:
        pytest.skip(BACKENDS[name].problem())
    x, t = BACKENDS[name].array(X.astype(np.float32).tolist()), BACKENDS[name].array(T.tolist())
    crossent.cross_entropy(x, t, engine=engine)
    monkeypatch.setenv("CROSSENT_NUM_THREADS", "two")
    for call in (crossent.cross_entropy, crossent.cross_entropy_and_grad, crossent.token_statistics):
        with pytest.raises(ValueError, match="CROSSENT_NUM_THREADS is 'two'; accepted: a whole number of at least 1"):
            call(x, t, engine=engine)
    crossent.set_num_threads(1)
    try:
        crossent.cross_entropy(x, t, engine=engine)
    finally:
        crossent.set_num_threads(None)
    monkeypatch.setenv("CROSSENT_NUM_THREADS", "1")
    crossent.cross_entropy(x, t, engine=engine)


def _fresh(program, *before, **environment):
    """A program in a process of its own; `before` comes first on its path."""
    path = os.pathsep.join([*before, *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)


TWICE = """
import numpy as np, crossent
x, t = np.linspace(0, 1, 60).reshape(6, 10), np.arange(6)
print(crossent.cross_entropy(x, t), crossent.cross_entropy(x, t))
"""
EXPLAINED = f"{TWICE}print(crossent.explain(x))"


def test_a_numba_that_does_not_import_is_a_reason(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1.99 or less')\n")
    found = _fresh(EXPLAINED, str(tmp_path), CROSSENT_CACHE_DIR=str(tmp_path / "kept")).stdout
    assert "numba: cannot serve: Numba does not import: ImportError: Numba needs NumPy 1.99 or less" in found


@needs_numba
def test_numba_without_its_compiler_is_no_engine():
    found = _fresh(EXPLAINED, NUMBA_DISABLE_JIT="1").stdout
    assert "numba: cannot serve: Numba's compiler is switched off (NUMBA_DISABLE_JIT)" in found


def test_explain_checks_what_it_is_given():
    with pytest.raises(TypeError, match="logits is list"):
        crossent.explain([0.0])
    with pytest.raises(ValueError, match="algorithm is 'fast'"):
        crossent.explain(X, algorithm="fast")
    with pytest.raises(ValueError, match="a vocabulary of 0 classes; accepted: V of at least 1"):
        crossent.explain(X[:, :0])


SLOW_DISK = f"""
import time
from crossent.engines import kept
read = kept.read
def slow(path):
    time.sleep(1.3)
    return read(path)
kept.read = slow
{TWICE}"""


@pytest.mark.extended
@needs_numba
def test_a_compilation_that_takes_long_says_so(tmp_path):
    """A first call in a process, with nothing on disk; Numba's own compilation takes seconds."""
    first, *others = (_fresh(program, CROSSENT_CACHE_DIR=str(tmp_path)) for program in (TWICE, TWICE, SLOW_DISK))
    of = "losses of float64 logits of up to 112 classes"
    assert first.stderr == f"crossent compiles its kernel for {of}, which takes some seconds\n"
    assert [other.stderr for other in others] == ["", ""]
    assert {other.stdout for other in others} == {first.stdout}
    assert len(list(tmp_path.iterdir())) == 1


@needs_numba
@pytest.mark.parametrize(
    ("of", "text"),
    [
        ((0, "float32"), "losses of float32 logits of more than 112 classes"),
        (
            (0, "float32", "float64", "scaled", True),
            "losses of float32 logits and float64 soft targets of up to 112 classes, with a temperature",
        ),
        ((2, "float16", None, "capped"), "gradients of parts of float16 logits, with a softcap"),
        (
            (6, "float32", "float64"),
            "forward divergences of float32 logits and float64 logits of a teacher",
        ),
    ],
)
def test_what_is_compiled_is_named(of, text, monkeypatch):
    from crossent.engines.numba_cpu import kernel, native
    from crossent.engines.numba_cpu.layout import Kind

    monkeypatch.setattr(native, "_loaded", lambda *_: None)
    monkeypatch.setattr(native, "log_if_slow", pytest.fail)
    with pytest.raises(pytest.fail.Exception, match=f"^crossent compiles its kernel for {text}, which"):
        kernel.kernel._make(Kind(*of))


@needs_numba
def test_no_two_kernels_are_named_alike():
    from crossent.engines.numba_cpu import kernel, xla

    kinds = [kind for dtype in ("float32", "float16") for kind in kernel.kinds(dtype, everything=True)]
    named = [kind.words for kind in kinds] + [what for *_, what in xla._FUNCTIONS.values()]
    assert len(set(named)) == len(named)


class _Asked(Exception):  # noqa: N818
    """For which kernel a call has asked."""


@needs_numba
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0}, {"logit_softcap": 5.0}], ids=str)
@pytest.mark.parametrize("v", [10, 300])
def test_everything_is_what_calls_ask_for(v, options, monkeypatch):
    from crossent.engines.numba_cpu import kernel, one_step

    def asked(kind):
        raise _Asked(kind)

    monkeypatch.setattr(kernel, "kernel", asked)
    monkeypatch.setattr(one_step, "kernel", asked)
    monkeypatch.setattr(one_step, "_used", {})
    x, t = np.ones((4, v), np.float32), np.arange(4)
    rows = Rows(x, t, None, None, None, Options(**options).coefficients, 0, v, np.dtype(np.float32))
    targets, numbers = np.zeros(4, np.int64), np.zeros(16, np.float32)
    of_jensen_shannon = {"direction": "jensen-shannon", **options}
    calls = [
        lambda: crossent.cross_entropy(x, t, **options),
        lambda: crossent.cross_entropy(x, x, **options),
        lambda: crossent.token_statistics(x, t, **options),
        lambda: crossent.entropy(x, **options),
        lambda: crossent.kl_divergence(x, x, **options),
        lambda: crossent.kl_divergence(x, x, direction="reverse", **options),
        lambda: crossent.kl_divergence(x, x, **of_jensen_shannon),
        lambda: kernel.statistics(rows, targets, numbers),
        lambda: kernel.statistics(rows._replace(soft=x), targets, numbers),
        lambda: kernel.gradient(rows, targets, numbers, x),
        lambda: kernel.gradient(rows._replace(soft=x), targets, numbers, x),
    ]
    kinds = set()
    for call in calls:
        with pytest.raises(_Asked) as found:
            call()
        kinds.add(found.value.args[0])
    assert len(kinds) == len(calls)
    assert kinds <= set(kernel.kinds("float32", everything=True))


@pytest.mark.extended
@needs_numba
def test_numbas_folder_will_do(tmp_path):
    _fresh(TWICE, CROSSENT_CACHE_DIR="", NUMBA_CACHE_DIR=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def _flipped(content):
    """One bit of machine code, which Numba itself would run."""
    i = content.index(b"\x7fELF") + 4000
    return content[:i] + bytes([content[i] ^ 4]) + content[i + 1 :]


def _useless(content):
    """What is whole, and nothing that Numba knows."""
    return b"nonsense"


@pytest.mark.extended
@needs_numba
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:9999], _flipped, _useless])
def test_a_damaged_file_on_disk_costs_time_once_and_nothing_else(tmp_path, monkeypatch, damage):
    expected = _fresh(TWICE, CROSSENT_CACHE_DIR=str(tmp_path)).stdout
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage is _useless:
        kept.keep(file, damage(whole))
    else:
        file.write_bytes(damage(whole))
    again, later = (_fresh(TWICE, CROSSENT_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert again.stdout == later.stdout == expected
    assert (
        f"crossent compiles its kernel anew: {file} is {'of no use' if damage is _useless else 'damaged'}"
        in again.stderr
    )
    assert later.stderr == ""
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.extended
@needs_numba
def test_a_first_call_in_many_threads_at_once(tmp_path):
    program = """
import threading
import numpy as np, crossent
x, t, losses = np.linspace(0, 1, 600).reshape(20, 30), np.arange(20), []
calls = [threading.Thread(target=lambda: losses.append(crossent.cross_entropy(x, t).item())) for _ in range(8)]
[call.start() for call in calls], [call.join() for call in calls]
print(len(losses), len(set(losses)))
"""
    done = _fresh(program, CROSSENT_CACHE_DIR=str(tmp_path))
    assert done.stdout.split() == ["8", "1"]
    assert done.stderr.count("crossent compiles its kernel") == 1


# A fork, so many seconds after a thread's call began to import that module. A child that hangs is killed.
FORKED = """
import os, signal, sys, threading, time, warnings
import numpy as np, crossent
x, t = np.linspace(0, 1, 60).reshape(6, 10), np.arange(6)
thread = threading.Thread(target=lambda: crossent.cross_entropy(x, t, engine="numba"))
thread.start()
while {module!r} not in sys.modules:
    time.sleep(0.001)
time.sleep({later})
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if not child:
    signal.alarm(40)
    os._exit(0 if 2.3 < crossent.cross_entropy(x, t, engine="numba") < 2.4 else 3)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.extended
@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize(
    ("module", "later"),
    [("numba.core", 0), ("crossent.engines.numba_cpu.program", 1.0)],
    ids=["imports", "compiles"],
)
def test_a_fork_while_a_thread_imports_or_compiles(tmp_path, module, later):
    _fresh(FORKED.format(module=module, later=later), CROSSENT_CACHE_DIR=str(tmp_path))


def test_threads_are_counted_as_they_were_set(monkeypatch):
    monkeypatch.setenv("CROSSENT_NUM_THREADS", "3")
    assert crossent.get_num_threads() == 3
    crossent.set_num_threads(np.int64(2))
    try:
        assert crossent.get_num_threads() == 2
    finally:
        crossent.set_num_threads(None)
    assert crossent.get_num_threads() == 3


@pytest.mark.parametrize(
    ("number", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (1.0, TypeError), ("2", TypeError)]
)
def test_a_number_of_threads_that_is_none(number, error):
    with pytest.raises(error, match="accepted: None or a whole number of at least 1"):
        crossent.set_num_threads(number)
