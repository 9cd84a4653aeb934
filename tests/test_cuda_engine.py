"""What the CUDA engine makes of arrays before it launches: addresses, copies where there is no way around, streams.

The kernel runs on the emulator, for torch's CPU tensors and for a CuPy whose arrays are NumPy's.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tests import emulator

import crossent
from crossent.engines import cuda, select
from crossent.engines.cuda import launch, plan, program
from crossent.libraries import NUMPY, Inputs
from crossent.libraries.numpy import NumPy
from crossent.math import reduction, tokens
from crossent.math.rows import EXPLICIT, LOSS, Coefficients, Rows
from crossent.problem import Ending

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")
from tests.torch_operations import Operations  # noqa: E402

from crossent.libraries.torch.library import TORCH  # noqa: E402
from crossent.libraries.torch.tensors import Torch  # noqa: E402

PLAIN, SMOOTHED = Coefficients(), Coefficients(target_mass=0.9, smoothing=0.1)
N, V = 5, 37
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])


@pytest.fixture
def kernels(monkeypatch):
    select._best.cache_clear()
    yield emulator.install(monkeypatch)
    select._best.cache_clear()


# --- a CuPy of host memory --------------------------------------------------------------------------------------------


class Device:
    """cupy.cuda.Device: a context, which keeps what was current before in the object."""

    current = 0

    def __init__(self, device=None):
        self.id = Device.current if device is None else int(device)
        self._before = []

    def __enter__(self):
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *error):
        Device.current = self._before.pop()


class CupyArray(np.ndarray):
    """cupy.ndarray, as far as it differs from NumPy's: `data` is a pointer to memory of a device."""

    number = 0

    def __array_finalize__(self, other):
        self.number = getattr(other, "number", 0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data, device_id=self.number)

    @property
    def device(self):
        return Device(self.number)


@pytest.fixture
def cupy(monkeypatch):
    """The library of CuPy; `copied` are the shapes of what it copied, `capturing` whether device 1 is captured."""
    copied, capturing = [], []

    def asarray(x, copy):
        assert copy
        copied.append(x.shape)
        return np.array(x, copy=True, subok=True)

    # As in CuPy 13 and 14: every thread has a current stream for each device, of which 0 is the default.
    streams = [SimpleNamespace(ptr=0, is_capturing=lambda: False)]
    streams.append(SimpleNamespace(ptr=0x51, is_capturing=lambda: bool(capturing)))
    module, namespace = ModuleType("cupy"), ModuleType("array_api_compat.cupy")
    module.cuda = SimpleNamespace(Device=Device, get_current_stream=lambda device_id=-1: streams[device_id])
    module.ndarray, namespace.asarray, namespace.empty_like = CupyArray, asarray, np.empty_like
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "array_api_compat.cupy", namespace)
    monkeypatch.setattr("array_api_compat.cupy", namespace, raising=False)
    monkeypatch.delitem(sys.modules, "crossent.libraries.cupy", raising=False)
    library = importlib.import_module("crossent.libraries.cupy").LIBRARY
    library.copied, library.capturing = copied, capturing
    yield library
    # The next test makes its own.
    del sys.modules["crossent.libraries.cupy"]


def on_cupy(x, number=0):
    made = np.asarray(x).view(CupyArray)
    made.number = number
    return made


def numbers(dtype="float32", seed=0):
    generator = np.random.default_rng(seed)
    dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return generator.normal(size=(N, V)).astype(dtype) * np.array(3, dtype), generator.integers(0, V, N)


def rows_of(x, t=None, soft=None, weight=None, class_weights=None, coefficients=PLAIN, place=on_cupy):
    """Rows whose arrays are those of NumPy's, placed."""
    real = np.dtype("float64" if x.dtype == np.float64 else "float32")
    made = [None if a is None else place(a) for a in (x, t, soft, weight, class_weights)]
    return Rows(*made, coefficients, 0, V, real)


def walk_cupy(library, rows, scale=0.37, out=None):
    losses = on_cupy(np.full(N, np.nan, rows.dtype))
    out = on_cupy(np.full((N, V), np.nan, rows.logits.dtype)) if out is None else out
    cuda.walk(library, rows, losses, scale, out)
    assert not np.isnan(losses).any()
    return losses.tobytes(), out.tobytes()


def backwards(x):
    return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]


def every_other(x):
    wide = np.full((2 * x.shape[0], 3 * x.shape[1]), 7, x.dtype)[::2, ::3]
    wide[...] = x
    return wide


def transposed(x):
    return np.ascontiguousarray(x.T).T


def between_elements(x):
    """The field of a record that begins at an odd address."""
    records = np.zeros(x.shape, np.dtype([("tag", "u1"), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


VIEWS = (backwards, every_other, transposed, between_elements)


@emulator.needed
@pytest.mark.parametrize("view", VIEWS)
@DTYPES
def test_views_of_cupy_memory(kernels, cupy, dtype, view):
    x, t = numbers(dtype)
    rows = rows_of(x, t)
    expected = walk_cupy(cupy, rows)
    assert cupy.copied == [], "plain arrays are copied"
    seen = on_cupy(view(x))
    assert walk_cupy(cupy, rows._replace(logits=seen)) == expected
    assert cupy.copied == ([(N, V)] if view is between_elements else [])
    # The gradient goes into such a view too: one apart, and the logits' own.
    assert walk_cupy(cupy, rows, out=on_cupy(view(np.zeros_like(x)))) == expected
    assert walk_cupy(cupy, rows._replace(logits=seen), out=seen) == expected


@emulator.needed
def test_broadcast_logits(kernels, cupy):
    x, t = numbers()
    same = rows_of(np.repeat(x[:1], N, axis=0), t)
    assert walk_cupy(cupy, rows_of(np.broadcast_to(x[:1], (N, V)), t)) == walk_cupy(cupy, same)
    assert cupy.copied == []


@emulator.needed
def test_lines_that_do_not_lie_side_by_side_are_copied(kernels, cupy):
    x, t = numbers()
    w, u = np.linspace(0.5, 2, N, dtype=np.float32), np.linspace(1, 3, V, dtype=np.float32)
    expected = walk_cupy(cupy, rows_of(x, t, None, w, u))
    twos = walk_cupy(cupy, rows_of(x, t, None, np.full(N, 2, np.float32), u))
    assert cupy.copied == []
    rows = rows_of(x, np.repeat(t, 2)[::2], None, w[::-1].copy()[::-1], between_elements(u))
    assert walk_cupy(cupy, rows) == expected
    assert sorted(cupy.copied) == [(N,), (N,), (V,)]
    assert walk_cupy(cupy, rows._replace(weight=on_cupy(np.broadcast_to(np.float32(2), (N,))))) == twos


@emulator.needed
@DTYPES
def test_soft_targets_of_any_dtype_and_layout(kernels, cupy, dtype):
    x, q = numbers()[0], np.abs(numbers(dtype, seed=1)[0])
    expected = walk_cupy(cupy, rows_of(x, soft=q.astype(np.float32)))
    for view in (np.asarray, *VIEWS):
        assert walk_cupy(cupy, rows_of(x, soft=view(q))) == expected
    assert cupy.copied == [(N, V)]


# --- torch ------------------------------------------------------------------------------------------------------------


def tensors(**others):
    return rows_of(*numbers(), place=torch.tensor)._replace(dtype=torch.float32, **others)


def walk_torch(rows, scale=0.37, out=None):
    losses = torch.full((N,), torch.nan)
    out = torch.full((N, V), torch.nan) if out is None else out
    cuda.walk(TORCH, rows, losses, scale, out)
    assert not torch.isnan(losses).any()
    return losses.tolist(), out.tolist()


@emulator.needed
def test_views_that_negate_as_they_are_read(kernels):
    rows = tensors()
    expected = walk_torch(rows)
    negated = torch._neg_view(-rows.logits)
    assert walk_torch(rows._replace(logits=negated)) == expected
    assert walk_torch(rows, out=torch._neg_view(torch.zeros(N, V))) == expected
    assert walk_torch(rows._replace(logits=negated), out=negated) == expected
    q, w = torch.softmax(rows.logits, 1), torch.linspace(1, 2, N)
    soft = rows._replace(targets=None, soft=q, weight=w)
    expected = walk_torch(soft)
    assert walk_torch(soft._replace(soft=torch._neg_view(-q), weight=torch._neg_view(-w))) == expected


@emulator.needed
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_scale_in_every_form(kernels, dtype):
    rows = tensors()
    expected = walk_torch(rows, 0.375)
    for scale in (torch.tensor(0.375, dtype=dtype), torch.full((N,), 0.375, dtype=dtype)):
        assert walk_torch(rows, scale) == expected
    each = torch.tensor([0.25, 2.0, -1.0, 0.0, 0.5], dtype=dtype)
    found = walk_torch(rows, each)
    one_by_one = [walk_torch(rows, float(k))[1][i] for i, k in enumerate(each)]
    assert found[1] == one_by_one
    assert walk_torch(rows, each.repeat_interleave(2)[::2]) == found
    assert walk_torch(rows, 1) == walk_torch(rows, 1.0) == walk_torch(rows, torch.ones(N))


class Idle:
    """A kernel that does nothing."""

    def __init__(self):
        self.launched = []

    def blocks_per_multiprocessor(self, threads, shared=0):
        return 2

    def active_clusters(self, threads, cluster, shared=0):
        return 4

    def launch(self, shape, argument, stream):
        self.launched.append((shape, argument, stream))


@pytest.fixture
def idle(kernels, monkeypatch):
    idle = Idle()
    monkeypatch.setattr(cuda, "_kernel", lambda chosen, device: idle)
    return idle


@pytest.mark.clause("A6")
@pytest.mark.parametrize("coefficients", [PLAIN, SMOOTHED])
@pytest.mark.parametrize(
    "scale",
    [0.5, torch.tensor(0.5), torch.ones(N), torch.tensor(0.5, dtype=torch.float64).expand(N)],
    ids=["float", "0-d", "each", "expanded"],
)
def test_a_launch_is_all_that_is_queued(idle, scale, coefficients):
    """Nothing is copied, and nothing is read: that would wait for the device."""
    rows = tensors(weight=torch.ones(N), class_weights=torch.ones(V), coefficients=coefficients)
    losses, out, soft = torch.empty(N), torch.empty(N, V), torch.ones(N, V)
    with Operations() as operations:
        cuda.walk(TORCH, rows, losses, scale, out)
        cuda.walk(TORCH, rows, losses, None, None)
        cuda.walk(TORCH, rows._replace(targets=None, soft=soft), losses, scale, rows.logits)
    assert set(operations.names) <= {"select"}
    assert len(idle.launched) == 3


def test_no_rows_are_nothing_to_do(idle):
    rows = tensors(logits=torch.empty(0, V), targets=torch.empty(0, dtype=torch.int64))
    cuda.walk(TORCH, rows, torch.empty(0), 1.0, torch.empty(0, V))
    assert idle.launched == []


def test_what_a_launch_is_told(idle):
    c = Coefficients(target_mass=0.9, smoothing=0.1, includes_target=1, z_loss=0.25, ieee=True)
    rows = tensors(weight=torch.ones(N), coefficients=c, first_class=7, vocabulary=100)
    losses, out = torch.empty(N), torch.empty(2 * N, V + 3)[::2, 1:-2]
    cuda.walk(TORCH, rows, losses, 0.5, out)
    ((shape, told, stream),) = idle.launched
    addresses = (rows.logits, out, rows.targets, losses, rows.weight)
    names = ("logits", "gradient", "targets", "losses", "weight")
    assert [getattr(told, name) for name in names] == [x.data_ptr() for x in addresses]
    assert told.soft is told.class_weights is told.scales is None
    assert (told.rows, told.classes, told.pieces, told.cluster_log2) == (N, V, 1, 0)
    assert (told.first_class, told.vocabulary) == (7, 100)
    assert (told.logits_row, told.logits_column, told.gradient_row, told.gradient_column) == (V, 1, 2 * (V + 3), 1)
    assert (told.scale, told.target_mass, told.smoothing, told.z_loss) == (0.5, 0.9, 0.1, 0.25)
    assert (told.includes_target, told.ieee) == (1, 1)
    assert (shape.cluster, stream) == (1, 0)


# --- devices and streams ----------------------------------------------------------------------------------------------


def test_cupys_answers_are_of_the_device_of_an_array(cupy):
    here, there = (on_cupy(np.zeros(3), number) for number in (0, 1))
    assert [cupy.stream(x) for x in (here, there)] == [(0, 0), (1, 0x51)]
    assert [cupy.memory_of(x.device) for x in (here, there)] == [("cuda", 0), ("cuda", 1)]
    # One stream of each device; only that of the array's own may be captured.
    assert not cupy.is_captured(there)
    cupy.capturing.append(True)
    assert cupy.is_captured(there)
    assert not cupy.is_captured(here)
    # CuPy makes arrays on its current device, whatever it is given.
    with cupy.computing(there) as device:
        assert Device.current == 1
        assert device is not there.device, "threads that share a call would share what was current before"
    assert Device.current == 0


@pytest.mark.parametrize("raw", [True, False])
def test_the_current_stream_of_a_tensors_device(monkeypatch, raw):
    """PyTorch may do without the function that costs least."""
    module, name = "crossent.libraries.torch.tensors", "_cuda_getCurrentRawStream"
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=0x200 + index))
    monkeypatch.setattr(torch._C, name, lambda index: 0x100 + index, raising=False)
    if not raw:
        monkeypatch.delattr(torch._C, name)
    loader = importlib.util.find_spec(module).loader
    fresh = ModuleType(module)
    loader.exec_module(fresh)
    tensor = SimpleNamespace(device=SimpleNamespace(index=3))
    assert fresh.Torch(torch, "torch").stream(tensor) == (3, 0x103 if raw else 0x203)


def test_a_kernel_for_every_walk_and_device(monkeypatch):
    """Compiled once for each architecture, loaded once on each device."""
    architectures = ("sm_90", "sm_80", "sm_90")
    made = []
    monkeypatch.setattr(
        launch, "properties", lambda device: emulator.DEVICE._replace(architecture=architectures[device])
    )
    monkeypatch.setattr(program, "cubin", lambda source, macros, architecture: (macros, architecture))
    monkeypatch.setattr(launch, "kernel", lambda cubin, device: made.append((cubin, device)) or object())
    cuda._kernel.cache_clear()
    walks = plan.all_variants()[:2]
    kernels = [cuda._kernel(walk, device) for _ in range(2) for walk in walks for device in range(3)]
    cuda._kernel.cache_clear()
    assert len(set(kernels)) == 6
    assert made == [((walk.macros, architectures[device]), device) for walk in walks for device in range(3)]


def test_each_launch_goes_to_its_device_and_stream(kernels, cupy, monkeypatch):
    x, t = numbers()
    asked, idle = [], Idle()
    monkeypatch.setattr(cuda, "_kernel", lambda chosen, device: asked.append(device) or idle)
    for number in (0, 1):
        rows = rows_of(x, t, place=lambda a, number=number: on_cupy(a, number))
        cuda.walk(cupy, rows, on_cupy(np.zeros(N, np.float32), number), None, None)
    assert asked == [0, 1]
    assert [stream for _, _, stream in idle.launched] == [0, 0x51]


@pytest.mark.parametrize("n", [0, 2])
def test_every_array_of_a_call_is_made_in_the_context_to_compute_in(monkeypatch, n):
    inside, made, outside = [], [], []

    @contextlib.contextmanager
    def computing(library, x):
        inside.append(x)
        yield
        inside.pop()

    def watched(name, make):
        def watching(*given, **named):
            (made if inside else outside).append(name)
            return make(*given, **named)

        return watching

    monkeypatch.setattr(NumPy, "computing", computing)
    monkeypatch.setattr(NumPy, "has_steps", False)  # as CuPy, for which it stands
    makers = ((NumPy, "empty"), (NumPy, "empty_like"), (Ending, "of_nothing"), (reduction, "denominator_of"))
    for owner, name in (*makers, (tokens, "of_targets")):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    x, t = np.zeros((n, 3)), np.zeros(n, int)
    loss_fn = crossent.CrossEntropyLoss(ignore_index=1)
    crossent.cross_entropy(x, t), crossent.cross_entropy_and_grad(x, t), loss_fn(x, t), loss_fn.backward()
    assert outside == []
    assert {"empty_like", "denominator_of", "of_targets", "empty" if n else "of_nothing"} == set(made)


def test_nothing_else_changes_its_device():
    assert isinstance(TORCH.computing(torch.zeros(1)), contextlib.nullcontext)
    with NUMPY.computing(np.zeros(1)):
        assert np.isinf(np.float32(1) / np.zeros(1, np.float32)).all()


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(kernels, monkeypatch):
    """What is chosen for tensors of a device, of which the emulator's is one."""
    monkeypatch.delenv("CROSSENT_ENGINE", raising=False)
    monkeypatch.setattr(Torch, "device_name", lambda self, x: "cuda:0")

    def chosen(asked, x, measure=LOSS):
        library = TORCH.of_call(Inputs(x, None))
        return library.engine(asked, x, library.dtype_name(x), x.shape[-1], measure)

    return chosen


LOGITS = torch.zeros(2, 3)
CANNOT = "engine is 'cuda', which cannot serve this call: "


def test_the_engine_is_chosen_for_a_devices_memory(chosen):
    assert chosen("auto", LOGITS) == chosen("cuda", LOGITS) == "cuda"
    assert chosen("auto", LOGITS, "entropy") == chosen("cuda", LOGITS, "jensen-shannon") == "cuda"
    lines = crossent.explain(LOGITS).splitlines()
    assert lines[0].endswith("on device cuda:0: engine 'cuda'")
    assert lines[1:3] == [
        "numba: cannot serve: it walks eager NumPy arrays and torch tensors in host memory, and JAX arrays of a CPU, "
        "and logits are torch arrays on device cuda:0",
        f"cuda: chosen: {select.ENGINES['cuda']}",
    ]


def test_what_cannot_be_served_is_left_to_the_general_engine(chosen, monkeypatch):
    most = plan.most_classes("float32", emulator.DEVICE)
    longest, longer = (torch.empty(1).expand(2, classes) for classes in (most, most + 1))
    assert chosen("auto", longest) == "cuda"
    too_long = f"its rows have {most} classes at most on this device, and these have {most + 1}"
    clipped = "it has no clipped probabilities, which algorithm='explicit' asks for"
    old = "CUDA device 1 is of sm_75, and the oldest that serves is of sm_80"

    def refused(x, reason, measure=LOSS):
        assert chosen("auto", x, measure) == "array_api"
        assert f"cuda: cannot serve: {reason}" in crossent.explain(x, "explicit" if measure == EXPLICIT else "stable")
        with pytest.raises(ValueError, match=f"{CANNOT}{reason}; accepted: 'auto', 'array_api'"):
            chosen("cuda", x, measure)

    refused(LOGITS, clipped, EXPLICIT)
    refused(longer, too_long)
    monkeypatch.setattr(Torch, "memory_of", lambda self, device: ("cuda", 1))
    monkeypatch.setattr(cuda, "problem", lambda number=0: old if number == 1 else None)
    refused(LOGITS, old)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_the_engine_is_not_for_host_memory(make):
    walks = "it walks eager CuPy arrays, torch tensors and JAX arrays on a CUDA device"
    words = f"{walks}, and logits are (numpy|torch) arrays in host memory"
    with pytest.raises(ValueError, match=f"{CANNOT}{words}; accepted: 'auto'"):
        crossent.cross_entropy(make((2, 3)), make(2, dtype=torch.int64 if make is torch.zeros else int), engine="cuda")
