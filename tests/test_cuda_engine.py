"""What the CUDA engine makes of arrays before it launches: addresses, copies where there is no way around, streams.

The kernel runs on the emulator, for torch's CPU tensors and for a CuPy whose arrays are NumPy's.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tests import emulator

import crossent
from crossent import arrays, calls, choice, functional, tokens
from crossent.engines import cuda
from crossent.engines.cuda import launch, memory, plan, program
from crossent.engines.rows import Rows
from crossent.objective import Coefficients

torch = pytest.importorskip("torch")
xp = pytest.importorskip("array_api_compat.torch")
python_dispatch = pytest.importorskip("torch.utils._python_dispatch")
ml_dtypes = pytest.importorskip("ml_dtypes")

needs_compiler = emulator.needed
GENUINE = {name: getattr(memory, name) for name in ("address", "is_plain", "place")}
PLAIN, SMOOTHED = Coefficients(), Coefficients(keep=0.9, spread=0.1)
N, V = 5, 37


@pytest.fixture
def kernels(monkeypatch):
    """The emulator, and the engine's own idea of what memory holds."""
    kernels = emulator.install(monkeypatch)
    monkeypatch.setattr(memory, "is_plain", GENUINE["is_plain"])
    return kernels


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

    def __int__(self):
        return self.id


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
    module = ModuleType("cupy")
    module.ndarray = CupyArray
    # As in CuPy 13 and 14: every thread has a current stream for each device, of which 0 is the default.
    streams = {0: 0, 1: 0x51}
    module.cuda = SimpleNamespace(Device=Device, get_current_stream=lambda device_id=-1: _Stream(streams[device_id]))
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


class _Stream:
    def __init__(self, ptr):
        self.ptr = ptr


class CupyNamespace:
    """What the engine asks of a namespace; `copied` are the shapes of what it copied."""

    def __init__(self):
        self.copied = []

    def asarray(self, x, copy):
        assert copy
        self.copied.append(x.shape)
        return np.array(x, copy=True, subok=True)

    empty_like = staticmethod(np.empty_like)


def on_cupy(x, number=0):
    made = np.asarray(x).view(CupyArray)
    made.number = number
    return made


@pytest.fixture
def on_emulated_cupy(kernels, cupy, monkeypatch):
    monkeypatch.setattr(memory, "address", GENUINE["address"])
    monkeypatch.setattr(memory, "place", GENUINE["place"])
    return kernels


def numbers(dtype="float32", seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(N, V)).astype(dtype) * 3, generator.integers(0, V, N)


def walk_cupy(namespace, rows, scale=0.37, out=None):
    losses = on_cupy(np.full(N, np.nan, np.float64 if rows.logits.dtype == np.float64 else np.float32))
    if out is None:
        out = on_cupy(np.full((N, V), np.nan, rows.logits.dtype))
    cuda.run(namespace, rows, losses, scale, out)
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


@needs_compiler
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_views_of_cupy_memory(on_emulated_cupy, dtype, view):
    x, t = numbers(dtype if dtype != "bfloat16" else ml_dtypes.bfloat16)
    namespace = CupyNamespace()
    rows = Rows(on_cupy(x), on_cupy(t), None, None, None, PLAIN)
    expected = walk_cupy(namespace, rows)
    assert namespace.copied == [], "plain arrays are copied"
    seen = on_cupy(view(x))
    assert walk_cupy(namespace, rows._replace(logits=seen)) == expected
    assert namespace.copied == ([(N, V)] if view is between_elements else [])
    # The gradient goes into such a view too: one apart, and the logits' own.
    out = on_cupy(view(np.zeros_like(x)))
    assert walk_cupy(namespace, rows, out=out) == expected
    assert walk_cupy(namespace, rows._replace(logits=seen), out=seen) == expected


@needs_compiler
def test_broadcast_logits(on_emulated_cupy):
    x, t = numbers()
    namespace = CupyNamespace()
    rows = Rows(on_cupy(np.broadcast_to(x[:1], (N, V))), on_cupy(t), None, None, None, PLAIN)
    same = rows._replace(logits=on_cupy(np.repeat(x[:1], N, axis=0)))
    assert walk_cupy(namespace, rows) == walk_cupy(namespace, same)
    assert namespace.copied == []


@needs_compiler
def test_lines_that_do_not_lie_side_by_side_are_copied(on_emulated_cupy):
    x, t = numbers()
    w, u = np.linspace(0.5, 2, N, dtype=np.float32), np.linspace(1, 3, V, dtype=np.float32)
    plain, spaced = CupyNamespace(), CupyNamespace()
    rows = Rows(on_cupy(x), on_cupy(t), None, on_cupy(w), on_cupy(u), PLAIN)
    expected = walk_cupy(plain, rows)
    assert plain.copied == []
    rows = rows._replace(
        targets=on_cupy(np.repeat(t, 2)[::2]),
        weight=on_cupy(w[::-1].copy()[::-1]),
        class_weights=on_cupy(between_elements(u)),
    )
    assert walk_cupy(spaced, rows) == expected
    assert sorted(spaced.copied) == [(N,), (N,), (V,)]
    one = on_cupy(np.broadcast_to(np.float32(2), (N,)))
    assert walk_cupy(spaced, rows._replace(weight=one)) == walk_cupy(
        plain, rows._replace(weight=on_cupy(np.full(N, 2, np.float32)))
    )


@needs_compiler
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_soft_targets_of_any_dtype_and_layout(on_emulated_cupy, dtype):
    x, _ = numbers()
    q = np.abs(numbers(seed=1)[0]).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    namespace = CupyNamespace()
    rows = Rows(on_cupy(x), None, on_cupy(q), None, None, PLAIN)
    expected = walk_cupy(namespace, rows._replace(soft=on_cupy(q.astype(np.float32))))
    assert walk_cupy(namespace, rows) == expected
    for view in VIEWS:
        assert walk_cupy(namespace, rows._replace(soft=on_cupy(view(q)))) == expected
    assert namespace.copied == [(N, V)]


# --- torch ------------------------------------------------------------------------------------------------------------


def tensors(dtype=torch.float32):
    x, t = numbers()
    return Rows(torch.tensor(x).to(dtype), torch.tensor(t), None, None, None, PLAIN)


def walk_torch(rows, scale=0.37, out=None):
    losses = torch.full(rows.logits.shape[:1], float("nan"))
    out = torch.full(rows.logits.shape, float("nan"), dtype=rows.logits.dtype) if out is None else out
    cuda.run(xp, rows, losses, scale, out)
    assert not torch.isnan(losses).any()
    return losses.tolist(), out.tolist()


@needs_compiler
def test_views_that_negate_as_they_are_read(kernels):
    rows = tensors()
    expected = walk_torch(rows)
    negated = torch._neg_view(-rows.logits)
    assert walk_torch(rows._replace(logits=negated)) == expected
    out = torch._neg_view(torch.zeros(N, V))
    assert walk_torch(rows, out=out) == expected
    assert walk_torch(rows._replace(logits=negated), out=negated) == expected
    q, w = torch.softmax(rows.logits, 1), torch.linspace(1, 2, N)
    soft = rows._replace(targets=None, soft=q, weight=w)
    expected = walk_torch(soft)
    assert walk_torch(soft._replace(soft=torch._neg_view(-q), weight=torch._neg_view(-w))) == expected


@needs_compiler
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


class Operations(python_dispatch.TorchDispatchMode):
    """The names of torch's operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


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
def idle(monkeypatch):
    emulator.install(monkeypatch)
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
    rows = tensors()._replace(weight=torch.ones(N), class_weights=torch.ones(V), coefficients=coefficients)
    losses, out, soft = torch.empty(N), torch.empty(N, V), torch.ones(N, V)
    with Operations() as operations:
        cuda.run(xp, rows, losses, scale, out)
        cuda.run(xp, rows, losses)
        cuda.run(xp, rows._replace(targets=None, soft=soft), losses, scale, rows.logits)
    assert set(operations.names) <= {"select"}
    assert len(idle.launched) == 3


def test_no_rows_are_nothing_to_do(idle):
    rows = Rows(torch.empty(0, V), torch.empty(0, dtype=torch.int64), None, None, None, PLAIN)
    cuda.run(xp, rows, torch.empty(0), 1.0, torch.empty(0, V))
    assert idle.launched == []


def test_what_a_launch_is_told(idle):
    rows = tensors()._replace(
        weight=torch.ones(N), coefficients=Coefficients(keep=0.9, spread=0.1, share=1, square=0.25)
    )
    losses, out = torch.empty(N), torch.empty(2 * N, V + 3)[::2, 1:-2]
    cuda.run(xp, rows, losses, 0.5, out)
    ((shape, told, stream),) = idle.launched
    addresses = (rows.logits, out, rows.targets, losses, rows.weight)
    names = ("logits", "gradient", "targets", "losses", "weight")
    assert [getattr(told, name) for name in names] == [x.data_ptr() for x in addresses]
    assert told.soft is told.class_weights is told.scales is None
    assert (told.rows, told.classes, told.pieces, told.cluster_log2) == (N, V, 1, 0)
    assert (told.logits_row, told.logits_column, told.gradient_row, told.gradient_column) == (V, 1, 2 * (V + 3), 1)
    assert (told.scale, told.keep, told.spread, told.share, told.square, told.limits) == (0.5, 0.9, 0.1, 1, 0.25, 1)
    assert (shape.cluster, stream) == (1, 0)


# --- devices and streams ----------------------------------------------------------------------------------------------


def test_the_current_stream_of_an_arrays_device_in_cupy(cupy):
    assert memory.place(on_cupy(np.zeros(3))) == (0, 0)
    assert memory.place(on_cupy(np.zeros(3), number=1)) == (1, 0x51)


@pytest.fixture
def torch_streams():
    memory._stream_of_torch.cache_clear()
    yield
    memory._stream_of_torch.cache_clear()


def test_the_current_stream_of_a_tensors_device(torch_streams, monkeypatch):
    tensor = SimpleNamespace(device=SimpleNamespace(index=3))
    monkeypatch.setattr(memory, "is_torch", lambda x: True)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0x100 + index, raising=False)
    assert memory.place(tensor) == (3, 0x103)


def test_a_torch_without_raw_streams(torch_streams, monkeypatch):
    tensor = SimpleNamespace(device=SimpleNamespace(index=3))
    monkeypatch.setattr(memory, "is_torch", lambda x: True)
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream", raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=0x200 + index))
    assert memory.place(tensor) == (3, 0x203)


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


@needs_compiler
def test_each_launch_goes_to_its_device_and_stream(on_emulated_cupy, monkeypatch):
    x, t = numbers()
    asked, idle = [], Idle()
    monkeypatch.setattr(cuda, "_kernel", lambda chosen, device: asked.append(device) or idle)
    for number in (0, 1):
        rows = Rows(on_cupy(x, number), on_cupy(t, number), None, None, None, PLAIN)
        cuda.run(CupyNamespace(), rows, on_cupy(np.zeros(N, np.float32), number))
    assert asked == [0, 1]
    assert [stream for _, _, stream in idle.launched] == [0, 0x51]


def test_cupy_computes_on_the_device_of_the_logits(cupy):
    """It makes arrays on its current device, whatever it is given: see `arrays.computing`."""
    place = Device(1)
    with arrays.computing(SimpleNamespace(__name__="array_api_compat.cupy"), place):
        assert Device.current == 1
        assert place._before == [], "threads that share a call would share what was current before"
    assert Device.current == 0


@pytest.mark.parametrize("n", [0, 2])
def test_every_array_of_a_call_is_made_in_that_context(monkeypatch, n):
    inside, outside = [], []

    @contextlib.contextmanager
    def computing(namespace, place):
        inside.append(place)
        yield
        inside.pop()

    def watched(make):
        def made(*given, **named):
            if not inside:
                outside.append(make)
            return make(*given, **named)

        return made

    monkeypatch.setattr(arrays, "computing", computing)
    made = ((arrays, "empty"), (arrays, "new_like"), (functional, "_loss_of_nothing"))
    for module, name in (*made, (tokens, "of_targets"), (calls, "denominator_of")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    x, t = np.zeros((n, 3)), np.zeros(n, int)
    loss_fn = crossent.CrossEntropyLoss()
    crossent.cross_entropy(x, t), crossent.cross_entropy_and_grad(x, t), loss_fn(x, t), loss_fn.backward()
    assert outside == []


def test_nothing_else_changes_its_device():
    for namespace in (xp, SimpleNamespace(__name__="jax.numpy")):
        assert isinstance(arrays.computing(namespace, None), contextlib.nullcontext)
    with arrays.computing(arrays.HOST, "cpu"):
        assert np.isinf(np.float32(1) / np.zeros(1, np.float32)).all()


# --- the choice -------------------------------------------------------------------------------------------------------

EXPLICIT = Coefficients(floor=1e-10)
LOGITS = torch.zeros(2, 3)


@pytest.fixture
def on_device(idle, monkeypatch):
    monkeypatch.setattr(arrays, "device_name", lambda x: "cuda:0")
    monkeypatch.delenv("CROSSENT_ENGINE", raising=False)


def test_the_engine_is_chosen_for_a_devices_memory(on_device):
    assert choice.chosen("auto", LOGITS, PLAIN) == choice.chosen("cuda", LOGITS, PLAIN) == "cuda"
    lines = crossent.explain(LOGITS).splitlines()
    assert lines[0].endswith("on device cuda:0: engine 'cuda'")
    assert lines[1:3] == [
        "numba: cannot serve: it walks eager NumPy arrays and torch tensors in host memory, and logits are torch "
        "arrays on device cuda:0",
        "cuda: chosen: CuPy arrays and torch CUDA tensors in one compiled pass (extra: cuda12 or cuda13)",
    ]


def test_clipped_probabilities_are_left_to_the_general_engine(on_device):
    assert choice.chosen("auto", LOGITS, EXPLICIT) == "array_api"
    assert "cuda: cannot serve: it has no clipped probabilities" in crossent.explain(LOGITS, algorithm="explicit")
    with pytest.raises(
        ValueError, match=r"engine is 'cuda', which .*algorithm='explicit'.*accepted: 'auto', 'array_api'"
    ):
        choice.chosen("cuda", LOGITS, EXPLICIT)


def test_rows_that_are_too_long_are_left_to_the_general_engine(on_device):
    most = plan.most_classes("float32", emulator.DEVICE)
    longest, longer = (torch.empty(1).expand(2, classes) for classes in (most, most + 1))
    assert choice.chosen("auto", longest, PLAIN) == "cuda"
    assert choice.chosen("auto", longer, PLAIN) == "array_api"
    reason = f"its rows have {most} classes at most on this device, and these have {most + 1}"
    assert f"cuda: cannot serve: {reason}" in crossent.explain(longer)
    with pytest.raises(ValueError, match=f"engine is 'cuda', which cannot serve this call: {reason}; accepted: 'auto'"):
        choice.chosen("cuda", longer, PLAIN)


def test_a_device_that_does_not_serve_is_left_to_the_general_engine(on_device, monkeypatch):
    reason = "CUDA device 1 is of sm_75, and the oldest that serves is of sm_80"
    monkeypatch.setattr(memory, "place", lambda x: (1, 0))
    monkeypatch.setattr(cuda, "problem", lambda number=0: reason if number == 1 else None)
    assert choice.chosen("auto", LOGITS, PLAIN) == "array_api"
    assert f"cuda: cannot serve: {reason}" in crossent.explain(LOGITS)
    with pytest.raises(ValueError, match=f"engine is 'cuda', which cannot serve this call: {reason}; accepted: 'auto'"):
        choice.chosen("cuda", LOGITS, PLAIN)
    monkeypatch.setattr(memory, "place", lambda x: (0, 0))
    assert choice.chosen("auto", LOGITS, PLAIN) == "cuda"


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_the_engine_is_not_for_host_memory(make):
    walks = "it walks eager CuPy arrays and torch tensors on a CUDA device"
    words = f"{walks}, and logits are (numpy|torch) arrays in host memory"
    with pytest.raises(ValueError, match=f"engine is 'cuda', which cannot serve this call: {words}; accepted: 'auto'"):
        crossent.cross_entropy(make((2, 3)), make(2, dtype=torch.int64 if make is torch.zeros else int), engine="cuda")
