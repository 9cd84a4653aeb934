"""JAX's programs on a CUDA device launch the CUDA engine's kernel, without a device: XLA for a CPU calls the handler.

The programs are lowered as for CUDA, and XLA's own frames come to the handler, in whose table of functions that for the
stream is a stand-in. So are the driver's functions, which run the kernel on the emulator. Frames that XLA would not
make are made by hand.
"""

from __future__ import annotations

import ctypes
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from tests import emulator
from tests.cuda_resources import needs_nvrtc
from tests.cuda_structures import as_c_reads_it
from tests.gpu import test_jax as asked

import crossent
from crossent.engines import cuda, select
from crossent.engines.cuda import launch, programs
from crossent.engines.cuda.argument import POINTERS, Problem
from crossent.engines.cuda.launch import Functions, Shape
from crossent.engines.numba_cpu import xla
from crossent.math.rows import LOSS, Coefficients, Rows

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")
jnp = jax.numpy
pytestmark = [
    emulator.needed,
    pytest.mark.skipif(select.numba_problem() is not None, reason="Numba cannot be used here"),
    needs_nvrtc,
]
STREAM, OTHER = 0x5123, 0xABC
NAMES = {1: b"CUDA_ERROR_INVALID_VALUE", 701: b"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"}


class Driver:
    """The driver's functions as machine code calls them. It stays for as long as the handlers that know of it."""

    def __init__(self):
        word, answer = ctypes.c_void_p, ctypes.c_int
        self._functions = (
            ctypes.CFUNCTYPE(answer, ctypes.POINTER(word))(self._current),
            ctypes.CFUNCTYPE(answer, word, word, ctypes.POINTER(word), word)(self._launch),
            ctypes.CFUNCTYPE(answer, answer, ctypes.POINTER(ctypes.c_char_p))(self._error_name),
        )
        self.functions = Functions(*(ctypes.cast(function, word).value for function in self._functions))
        self.reset({})

    def reset(self, kernels):
        self.kernels, self.context, self.fails = kernels, emulator.CONTEXT, {}
        self.launches, self.problems, self.called, self.troubles = [], [], [], []

    def _current(self, place):
        place[0] = self.context
        return self.fails.get("current", 0)

    def _launch(self, configuration, function, arguments, extra):
        try:
            assert extra is None
            c, cluster = as_c_reads_it(configuration)
            assert (tuple(c.grid[1:]), tuple(c.block[1:])) == ((1, 1), (1, 1))
            shape = Shape(c.grid[0], c.block[0], 1 if cluster is None else cluster[0], c.shared)
            problem = Problem.from_buffer_copy(Problem.from_address(arguments[0]))
            self.launches.append((shape, c.stream))
            self.problems.append(problem)
            self.called.append(function)
            if "launch" not in self.fails:
                (kernel,) = (kernel for kernel in self.kernels.values() if kernel.place.function == function)
                kernel.launch(shape, problem, c.stream)
        except Exception as error:  # what a callback raises is seen by nobody
            self.troubles.append(error)
        return self.fails.get("launch", 0)

    def _error_name(self, code, place):
        if code not in NAMES:
            place[0] = None
            return 1
        place[0] = NAMES[code]
        return 0


DRIVER = Driver()
HANDLE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_kept = []


def _stream_get(given):
    ctypes.c_int64.from_address(given + 24).value = STREAM


_STREAM_GET = HANDLE(_stream_get)


def _as_on_cuda(launcher):
    """A maker of handlers, each of which is told of a stream, as XLA for a CPU has none."""

    def make(*given):
        handler = HANDLE(launcher(*given))

        def handle(frame):
            version = xla.KNOWN[given[-1]]
            api = ctypes.create_string_buffer(ctypes.string_at(xla._word(frame + xla.API), version.api))
            ctypes.c_int64.from_buffer(api, xla.STREAM).value = ctypes.cast(_STREAM_GET, ctypes.c_void_p).value
            copied = ctypes.create_string_buffer(ctypes.string_at(frame, version.frame))
            ctypes.c_int64.from_buffer(copied, xla.API).value = ctypes.addressof(api)
            return handler(ctypes.addressof(copied))

        wrapped = HANDLE(handle)
        _kept.append(wrapped)
        return ctypes.cast(wrapped, ctypes.c_void_p).value

    return make


_LAUNCHER = _as_on_cuda(xla.launcher)


@pytest.fixture
def jax_ffi(monkeypatch):
    """The operation of programs, for a process whose one CUDA device is the emulator's."""
    from crossent.libraries import jax_ffi

    if jax_ffi.problem() is not None:
        pytest.skip(jax_ffi.problem())
    here = jax_ffi.interface("cpu")
    from cuda.bindings import driver

    DRIVER.reset(emulator.install(monkeypatch))
    monkeypatch.setattr(launch, "_driver", lambda: driver)
    monkeypatch.setattr(launch, "functions", lambda: DRIVER.functions)
    monkeypatch.setattr(jax_ffi, "devices", lambda: (0,))
    monkeypatch.setattr(jax_ffi, "interface", lambda platform: here)
    jax_ffi.problem.cache_clear()
    launch._configuration.cache_clear()
    jax.clear_caches()
    yield jax_ffi
    monkeypatch.undo()
    jax_ffi.problem.cache_clear()
    launch._configuration.cache_clear()
    jax.clear_caches()
    assert DRIVER.troubles == []


@pytest.fixture
def on_cuda(jax_ffi, monkeypatch):
    """Every program of a CPU is taken for one of that device."""
    monkeypatch.setattr(jax_ffi, "_platform", lambda ctx: "cuda")
    monkeypatch.setitem(jax_ffi._PLATFORMS, "cuda", "cpu")
    monkeypatch.setattr(xla, "launcher", _LAUNCHER)
    return jax_ffi


def _numbers(n, v):
    rng = np.random.default_rng(0)
    soft, w, u = (rng.random(shape).astype(np.float32) for shape in ((n, v), n, v))
    return 3 * rng.standard_normal((n, v)), rng.integers(0, v, n), soft / soft.sum(1, keepdims=True), w, u


def _torch(a, dtype=None):
    return torch.tensor(np.asarray(a)).to(dtype) if dtype else torch.tensor(np.asarray(a))


def _same(found, expected):
    for a, b in zip(found, expected, strict=True):
        if a.dtype.name == "bfloat16":
            np.testing.assert_array_equal(np.asarray(a).view(np.int16), b.view(torch.int16).numpy())
        else:
            np.testing.assert_array_equal(np.asarray(a), b.numpy())


OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "spread": {"label_smoothing": 0.1, "class_weights": "classes"},
    "others": {"z_loss": 1e-3, "weights": "tokens", "ignore_index": 3},
    "scaled": {"temperature": 2.0},
    "capped": {"logit_softcap": 5.0, "temperature": 0.5},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*OPTIONS, "soft"])
@pytest.mark.parametrize("shape", [(5, 37), (1, 5000)], ids=str)
def test_programs_have_the_bits_of_the_engines_eager_calls(on_cuda, dtype, name, shape):
    x, t, soft, w, u = _numbers(*shape)
    arrays = {"tokens": w, "classes": u}
    options = OPTIONS.get(name, {})
    given = {key: arrays[value] for key, value in options.items() if isinstance(value, str)}
    rest = {key: value for key, value in options.items() if key not in given} | {"reduction": "none"}
    targets = soft if name == "soft" else t.astype(np.int32)
    logits = _torch(x, getattr(torch, dtype))
    of_torch = {key: _torch(a) for key, a in given.items()}
    # The eager walk of the same engine, which torch's tensors have.
    of_targets = _torch(targets) if name == "soft" else _torch(t)
    both = crossent.cross_entropy_and_grad(logits, of_targets, engine="cuda", **of_torch, **rest)
    alone = crossent.cross_entropy(logits, of_targets, engine="cuda", **of_torch, **rest)
    DRIVER.launches.clear()
    shapes = [kernel.shapes[-1] for kernel in DRIVER.kernels.values()]
    x = jnp.asarray(x, dtype)
    program = jax.jit(lambda x, t, given: crossent.cross_entropy_and_grad(x, t, **given, **rest))
    found = program(x, jnp.asarray(targets), given)
    _same(found, both)
    losses = jax.jit(lambda x, t, given: crossent.cross_entropy(x, t, **given, **rest))
    _same([losses(x, jnp.asarray(targets), given)], [alone])
    assert [stream for _, stream in DRIVER.launches] == [STREAM, STREAM]
    assert [shape for shape, _ in DRIVER.launches] == shapes
    if shape[1] > 1024 and name in ("plain", "scaled"):
        assert shapes[0].cluster > 1


@pytest.mark.usefixtures("_wide")
def test_targets_of_64_bits_and_logits_of_float64_are_read_as_they_are(on_cuda):
    x, t, _, w, _ = _numbers(5, 37)
    expected = crossent.cross_entropy_and_grad(_torch(x), _torch(t), weights=_torch(w), reduction="none", engine="cuda")
    program = jax.jit(partial(crossent.cross_entropy_and_grad, reduction="none"))
    x, t = jnp.asarray(x), jnp.asarray(t)
    _same(program(x, t, weights=jnp.asarray(w)), expected)
    text = program.lower(x, t).as_text()
    assert "@crossent_cuda_float64" in text
    assert "xi32>" not in text


def test_entropies_and_divergences(on_cuda):
    x, _, z, _, _ = _numbers(3, 50)
    x = x.astype(np.float32)
    for function, given in ((crossent.entropy_and_grad, (x,)), (crossent.kl_divergence_and_grad, (x, z))):
        call = partial(function, reduction="none")
        expected = call(*map(_torch, given), engine="cuda")
        _same(jax.jit(call)(*map(jnp.asarray, given)), expected)
    assert [stream for _, stream in DRIVER.launches] == [STREAM, STREAM]


def test_transformations_launch_too(on_cuda):
    x, t, _, w, u = _numbers(6, 9)
    x, t, w, u = (jnp.asarray(a) for a in (x.astype(np.float32), t, w, u))

    def loss(engine):
        return lambda x, t, w: crossent.cross_entropy(x, t, weights=w, label_smoothing=0.1, engine=engine)

    def of_classes(engine):
        call = partial(crossent.cross_entropy, engine=engine)
        return lambda x, t, us: jax.vmap(lambda u: jax.grad(lambda x: call(x, t, class_weights=u))(x))(us)

    rows = (x.reshape(3, 2, 9), t.reshape(3, 2), w.reshape(3, 2))

    def squared(f):
        return jax.grad(lambda *given: 3 * f(*given) ** 2)

    for transform, given, launches in (
        (jax.value_and_grad, (x, t, w), 1),
        (squared, (x, t, w), 1),
        (lambda f: jax.vmap(jax.grad(f)), rows, 1),
        (jax.hessian, (x[:2], t[:2], w[:2]), 0),
    ):
        DRIVER.launches.clear()
        found = jax.jit(transform(loss("auto")))(*given)
        expected = jax.jit(transform(loss("array_api")))(*given)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=1e-6)
        assert len(DRIVER.launches) == launches
    # Class weights of their own for each of several losses are the formula's.
    us = jnp.stack([u, 2 * u + 1])
    found, expected = (jax.jit(of_classes(engine))(x, t, us) for engine in ("auto", "array_api"))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_a_bad_target_makes_its_row_nan_and_the_gradient_goes_over_logits_that_are_donated(on_cuda):
    x, t = jnp.asarray(_numbers(3, 5)[0], jnp.float32), jnp.array([1, 7, -1])
    place = x.unsafe_buffer_pointer()
    losses, d = jax.jit(partial(crossent.cross_entropy_and_grad, reduction="none"), donate_argnums=0)(x, t)
    assert jnp.isnan(losses).tolist() == [False, True, True]
    assert jnp.isnan(d).all(axis=1).tolist() == [False, True, True]
    (problem,) = DRIVER.problems
    assert problem.gradient == problem.logits == place == d.unsafe_buffer_pointer()


def test_an_error_of_the_driver_is_one_of_xlas_with_its_name(on_cuda):
    x, t = jnp.asarray(_numbers(3, 5)[0], jnp.float32), jnp.array([1, 2, 3])
    program = jax.jit(crossent.cross_entropy)
    answers = "crossent cannot launch its kernel: the driver answers "
    for fails, words in (
        ({"launch": 701}, f"{answers}CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
        ({"current": 1}, f"{answers}CUDA_ERROR_INVALID_VALUE"),
        ({"launch": 4242}, f"{answers}an error that has no name"),
    ):
        DRIVER.fails = fails
        with pytest.raises(Exception, match=words):
            jax.block_until_ready(program(x, t))
    DRIVER.fails, DRIVER.context = {}, OTHER
    with pytest.raises(Exception, match="it is loaded on other devices than this program runs on"):
        jax.block_until_ready(program(x, t))
    DRIVER.context = emulator.CONTEXT
    assert float(program(x, t)) > 0


# What a GPU is asked, tried here.


@pytest.mark.extended
def test_what_a_gpu_is_asked_passes_here(on_cuda, monkeypatch):
    on, ignored = jax.devices("cpu")[0], lambda name, value: None
    asked.test_losses_and_gradients_are_within_the_contracts_bound(on, "bfloat16", 1001, ignored)
    for options in asked.OPTIONS.values():
        asked.test_options_are_numpys(on, 33, options)
    asked.test_rows_have_the_same_bits_every_time_alone_and_in_place(on, "bfloat16", 33)
    asked.test_soft_targets_class_weights_and_measures(on)
    asked.test_a_bad_target_makes_its_own_row_nan(on)
    # A program without the launch is seen.
    monkeypatch.setattr(on_cuda, "_is_launched", lambda x, shapes: False)
    jax.clear_caches()
    with pytest.raises(AssertionError, match="the program has the formula"):
        asked.test_a_bad_target_makes_its_own_row_nan(on)


# Frames that are made by hand.


class Buffer(ctypes.Structure):
    """XLA_FFI_Buffer."""

    _fields_ = (
        *(
            ("size", ctypes.c_size_t),
            ("extension", ctypes.c_void_p),
            ("dtype", ctypes.c_int),
            ("data", ctypes.c_void_p),
        ),
        *(("rank", ctypes.c_int64), ("dims", ctypes.POINTER(ctypes.c_int64))),
    )


class Buffers(ctypes.Structure):
    """XLA_FFI_Args, XLA_FFI_Rets."""

    _fields_ = (
        *(("size", ctypes.c_size_t), ("extension", ctypes.c_void_p), ("count", ctypes.c_int64)),
        *(("types", ctypes.c_void_p), ("buffers", ctypes.POINTER(ctypes.c_void_p))),
    )


class Attributes(ctypes.Structure):
    """XLA_FFI_Attrs."""

    _fields_ = (*Buffers._fields_[:4], ("names", ctypes.c_void_p), ("values", ctypes.POINTER(ctypes.c_void_p)))


class Array(ctypes.Structure):
    """XLA_FFI_Array."""

    _fields_ = (("dtype", ctypes.c_int), ("count", ctypes.c_size_t), ("data", ctypes.c_void_p))


class Frame(ctypes.Structure):
    """XLA_FFI_CallFrame."""

    _fields_ = (
        *(("size", ctypes.c_size_t), ("extension", ctypes.c_void_p), ("api", ctypes.c_void_p)),
        *(("context", ctypes.c_void_p), ("stage", ctypes.c_int)),
        *(("arguments", Buffers), ("results", Buffers), ("attributes", Attributes), ("future", ctypes.c_void_p)),
    )


class Api(ctypes.Structure):
    """XLA_FFI_Api, as far as it is called."""

    _fields_ = (
        *((f"before_{i}", ctypes.c_void_p) for i in range(6)),
        ("create_error", HANDLE),
        *((f"between_{i}", ctypes.c_void_p) for i in range(3)),
        ("stream_get", HANDLE),
    )


class Version(ctypes.Structure):
    """XLA_FFI_Api_Version."""

    _fields_ = (
        *(("size", ctypes.c_size_t), ("extension", ctypes.c_void_p)),
        *(("major", ctypes.c_int), ("minor", ctypes.c_int)),
    )


class Metadata(ctypes.Structure):
    """XLA_FFI_Metadata."""

    _fields_ = (("size", ctypes.c_size_t), ("version", Version), ("traits", ctypes.c_uint32), ("state", ctypes.c_int64))


class Extension(ctypes.Structure):
    """XLA_FFI_Metadata_Extension."""

    _fields_ = (
        *(("size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", ctypes.c_void_p)),
        ("metadata", ctypes.POINTER(Metadata)),
    )


def test_the_places_are_those_of_the_structures():
    places = (xla.EXTENSION, xla.API, xla.CONTEXT, xla.ATTRIBUTES)
    assert places == (8, Frame.api.offset, Frame.context.offset, Frame.attributes.offset + Attributes.values.offset)
    of_buffers = [(Frame.arguments, xla.COUNT_OF_ARGUMENTS, xla.ARGUMENTS)]
    of_buffers.append((Frame.results, xla.COUNT_OF_RESULTS, xla.RESULTS))
    for buffers, count, first in of_buffers:
        assert (count, first) == (buffers.offset + Buffers.count.offset, buffers.offset + Buffers.buffers.offset)
    assert (Buffer.data.offset, Buffer.rank.offset, Buffer.dims.offset) == (xla.DATA, xla.RANK, xla.DIMS)
    assert (Api.create_error.offset, Api.stream_get.offset) == (xla.CREATE_ERROR, xla.STREAM)
    assert (Extension.metadata.offset, Metadata.traits.offset) == (xla.METADATA, xla.TRAITS_OF_METADATA)
    assert (launch.STREAM, launch.ATTRIBUTES) == (32, 40)


def test_the_places_are_those_of_xlas_own_header():
    header = f"{jax.ffi.include_dir()}/xla/ffi/api/c_api.h"
    with open(header, encoding="utf-8") as file:
        table = file.read().split("struct XLA_FFI_Api {")[1].split("};")[0]
    functions = [line.split("(")[1].split(")")[0] for line in table.splitlines() if "_STRUCT_FIELD(" in line]
    for name, place in (("Error_Create", xla.CREATE_ERROR), ("Stream_Get", xla.STREAM)):
        assert 48 + 8 * functions.index(f"XLA_FFI_{name}") == place


class ByHand:
    """A frame of logits, targets and losses on the host, and what is asked of XLA meanwhile."""

    def __init__(self, n=4, v=9):
        self.asked, self.errors, self.refuses = [], [], None
        self.api = Api(create_error=HANDLE(self._create), stream_get=HANDLE(self._stream))
        self.frame = Frame(ctypes.sizeof(Frame), None, ctypes.addressof(self.api), 0x777, 3)
        self.x, self.t = np.zeros((n, v + 4), np.float32), np.arange(n) % v
        self.losses = np.full(n, np.nan, np.float32)
        self.kept = []
        self.frame.arguments = self._buffers((self._aligned(self.x), (n, v)), (self.t.ctypes.data, (n,)))
        self.frame.results = self._buffers((self.losses.ctypes.data, (n,)))

    @staticmethod
    def _aligned(x):
        return -(-x.ctypes.data // 16) * 16

    def _create(self, given):
        fields = (ctypes.c_int64 * 4).from_address(given)
        self.errors.append((fields[0], ctypes.string_at(fields[2]).decode(), fields[3] & 0xFFFFFFFF))
        return 0xE0

    def _stream(self, given):
        fields = (ctypes.c_int64 * 4).from_address(given)
        self.asked.append(tuple(fields[:3]))
        fields[3] = STREAM
        return self.refuses

    def _buffers(self, *given):
        made = []
        for data, shape in given:
            dims = (ctypes.c_int64 * len(shape))(*shape)
            made.append(Buffer(48, None, 11, data, len(shape), dims))
        addresses = (ctypes.c_void_p * len(made))(*map(ctypes.addressof, made))
        self.kept += [made, addresses]
        return Buffers(40, None, len(made), None, addresses)

    def call(self, lines, places):
        words = [getattr(Problem, name).offset for name in ("logits", "targets", "losses")]
        attribute = xla.launches(lines, words)
        array = Array(5, len(attribute), attribute.ctypes.data)
        values = (ctypes.c_void_p * 1)(ctypes.addressof(array))
        self.frame.attributes = Attributes(48, None, 1, None, None, values)
        driver = xla.Driver(*DRIVER.functions, size=128, stream=32, more=40, has_more=48, begin=56)
        handler = HANDLE(xla.launcher("by_hand", driver, places, (0, 3)))
        return handler(ctypes.addressof(self.frame))


def _line(rows, classes, blocks, cluster=1):
    """A launch, for a device of its own."""
    argument = Problem(rows=rows, classes=classes, vocabulary=classes, logits_row=classes, logits_column=1, pieces=1)
    return launch.configuration(Shape(blocks, 32, cluster)) + bytes(argument)


def test_a_frame_is_answered_for_the_device_whose_context_is_current(jax_ffi):
    DRIVER.fails["launch"] = 0  # nothing runs
    lines, places = (_line(4, 9, 2), _line(4, 9, 8, 4)), ((0x11, 0x21), (0x12, 0x22))
    for context, function, shape in ((0x11, 0x21, Shape(2, 32)), (0x12, 0x22, Shape(8, 32, 4))):
        hand = ByHand()
        DRIVER.context = context
        assert hand.call(lines, places) is None
        assert (DRIVER.launches.pop(), DRIVER.called.pop()) == ((shape, STREAM), function)
        assert hand.asked == [(32, 0, 0x777)]
        problem = DRIVER.problems.pop()
        addresses = (hand._aligned(hand.x), hand.t.ctypes.data, hand.losses.ctypes.data)
        assert (problem.logits, problem.targets, problem.losses) == addresses
        assert (problem.gradient, problem.soft, problem.rows) == (None, None, 4)


def test_no_rows_launch_nothing(jax_ffi):
    hand = ByHand(0)
    assert hand.call((_line(0, 9, 1),), ((emulator.CONTEXT, 1),)) is None
    assert (DRIVER.launches, hand.asked, hand.errors) == ([], [], [])


def test_what_goes_wrong_in_a_frame_is_an_error_of_xlas(jax_ffi):
    lines, places = (_line(4, 9, 2),), ((emulator.CONTEXT, 1),)
    hand = ByHand()
    hand.refuses = 0xE1  # XLA's own error, which goes on as it is
    assert hand.call(lines, places) == 0xE1
    hand = ByHand()
    hand.kept[0][0].data += 4
    assert hand.call(lines, places) == 0xE0
    ((size, words, kind),) = hand.errors
    assert (size, kind) == (28, 13)
    assert "begins at no multiple of 16 bytes" in words
    assert DRIVER.launches == []


def test_a_handler_says_its_version_and_that_its_launches_may_be_replayed(jax_ffi):
    metadata = Metadata(36, Version(24))
    extension = Extension(32, 1, None, ctypes.pointer(metadata))
    hand = ByHand()
    hand.frame.extension = ctypes.addressof(extension)
    assert hand.call((_line(4, 9, 2),), ((emulator.CONTEXT, 1),)) is None
    assert (metadata.version.major, metadata.version.minor, metadata.traits) == (0, 3, 1)
    assert DRIVER.launches == []


def test_devices_that_differ_have_lines_of_their_own_and_no_line_has_an_address(jax_ffi, monkeypatch):
    processors = {0: 3, 1: 3, 2: 1}
    of_device = lambda number: emulator.DEVICE._replace(multiprocessors=processors[number])  # noqa: E731
    monkeypatch.setattr(launch, "properties", of_device)
    rows, sizes = Rows(1, 1, None, None, None, Coefficients(), 0, 5000, None), (1, 5000)
    for devices, clusters in (((0, 1), [8, 8]), ((0, 2), [8, 2])):
        made = programs.planned(rows, sizes, {"logits": "float32", "scales": "float32"}, devices, gradient=True)
        is_one = clusters[0] == clusters[1]
        assert len(set(made.lines)) == (1 if is_one else 2)
        step, size, *rest = xla.launches(made.lines, [])
        assert (step, size) == (0 if is_one else len(made.lines[0]), len(made.lines[0]))
        assert 8 * len(rest) == size * (1 if is_one else 2)
        for line, cluster in zip(made.lines, clusters, strict=True):
            problem = Problem.from_buffer_copy(line[launch.SIZE_OF_CONFIGURATION + launch.SIZE_OF_ATTRIBUTE :])
            assert not any(getattr(problem, name) for name in POINTERS)
            assert (1 << problem.cluster_log2, problem.scales_row, problem.gradient_row) == (cluster, 1, 5000)


def test_more_than_a_handler_copies_is_not_planned():
    with pytest.raises(ValueError, match="2048 bytes"):
        xla.launches((bytes(2048),), [])


# What a program for CUDA has, and what is said.


def _text(function, *args, platforms=("cuda",)):
    return jax.jit(function).trace(*args).lower(lowering_platforms=platforms).as_text()


def test_a_program_for_cuda_has_the_launch(jax_ffi):
    x, t = jnp.zeros((4, 5), jnp.float32), jnp.zeros(4, jnp.int32)
    function = jax.grad(crossent.cross_entropy)
    text = _text(function, x, t)
    assert "@crossent_cuda_float32_unaligned_hard_walk" in text
    assert "stablehlo.convert" in text
    assert "tensor<4xi64>" in text
    long = jnp.zeros((4, 2048), jnp.float32)
    assert "@crossent_cuda_float32_aligned_hard_losses_32_plain" in _text(crossent.cross_entropy, long, t)
    # Neither what is exported, nor programs for several platforms, nor nothing.
    for without in (
        _text(function, x, t, platforms=("cpu", "cuda")),
        jax.export.export(jax.jit(function), platforms=("cuda",))(x, t).mlir_module(),
        _text(crossent.cross_entropy, x[:0], t[:0]),
    ):
        assert "@crossent_" not in without


@pytest.mark.parametrize("change", ["devices", "rows", "interface", "driver"])
def test_where_it_cannot_be_launched_a_program_has_the_formula(jax_ffi, monkeypatch, change):
    x, t = jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32)
    reason = None
    if change == "devices":
        reason = "CUDA device 0 is of sm_75"
        monkeypatch.setattr(cuda, "problem", lambda device=0: reason)
    elif change == "rows":
        monkeypatch.setattr(cuda, "obstacle", lambda *given: "too long")
    elif change == "interface":
        reason = "XLA's foreign functions have version 9.9; known are 0.3, 0.5"
        unknown = jax_ffi.interface("cpu")._replace(version=(9, 9))
        monkeypatch.setattr(jax_ffi, "interface", lambda platform: unknown)
    else:
        reason = "the CUDA driver has no cuLaunchKernelEx"

        def missing():
            raise RuntimeError(reason)

        monkeypatch.setattr(launch, "functions", missing)
    jax_ffi.problem.cache_clear()
    assert jax_ffi.problem("cuda") == reason
    assert "@crossent_" not in _text(crossent.cross_entropy, x, t)


class Device(NamedTuple):
    """As much of a device of JAX's as is asked for."""

    platform: str
    local_hardware_id: int


def _array(*platforms):
    devices = {Device(platform, i) for i, platform in enumerate(platforms)}
    return SimpleNamespace(devices=lambda: devices)


def test_the_engine_is_said_to_serve_jax_arrays_of_a_gpu(jax_ffi, monkeypatch):
    from crossent.libraries import jax as library
    from crossent.libraries.jax import LIBRARY

    monkeypatch.setattr(library, "mesh_of", lambda x: SimpleNamespace(axis_types=()))  # of an array on one device
    monkeypatch.delenv("CROSSENT_ENGINE", raising=False)
    kind = LIBRARY.kind(_array("gpu"), "float32", 5, LOSS)
    assert select.best(*kind) == "cuda"
    assert "numba: cannot serve: it walks eager NumPy" in select.explanation("x", kind, "jax arrays")
    several = LIBRARY.kind(_array("gpu", "gpu"), "float32", 5, LOSS)
    assert "these lie on several" in select.obstacle("cuda", several)
    assert select.best(*several) == "array_api"
    monkeypatch.setattr(cuda, "problem", lambda device=0: "CUDA device 0 is of sm_75")
    jax_ffi.problem.cache_clear()
    kind = LIBRARY.kind(_array("gpu"), "float32", 5, LOSS)
    assert select.obstacle("cuda", kind) == "CUDA device 0 is of sm_75"
    monkeypatch.setattr(select, "numba_problem", lambda: "Numba is not installed (pip install numba)")
    kind = LIBRARY.kind(_array("gpu"), "float32", 5, LOSS)
    assert "machine code that Numba makes: Numba is not installed" in select.obstacle("cuda", kind)
    # Other platforms have neither.
    kind = LIBRARY.kind(_array("tpu"), "float32", 5, LOSS)
    assert "JAX arrays on a CUDA device, and logits are" in select.obstacle("cuda", kind, "jax arrays")


def test_without_a_cuda_device_of_jaxs_programs_have_the_formula():
    from crossent.libraries import jax_ffi

    if jax.default_backend() != "cpu":
        pytest.skip("JAX has another device here")
    assert "JAX has no CUDA device" in jax_ffi._problem_of_devices()
    assert "@crossent_" not in _text(crossent.cross_entropy, jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32))


def test_the_drivers_functions_are_asked_for_once(monkeypatch):
    """Their addresses, beneath the bindings."""
    asked = []

    def address(name, version, flags):
        asked.append((name, version, flags))
        return 0, 0x100 + len(asked), 0

    monkeypatch.setattr(launch, "_driver", lambda: SimpleNamespace(cuGetProcAddress=address))
    launch.functions.cache_clear()
    try:
        assert launch.functions() == launch.functions() == (0x101, 0x102, 0x103)
        assert [name for name, *_ in asked] == [b"cuCtxGetCurrent", b"cuLaunchKernelEx", b"cuGetErrorName"]
        launch.functions.cache_clear()
        monkeypatch.setattr(launch, "_driver", lambda: SimpleNamespace(cuGetProcAddress=lambda *given: (0, 0, 1)))
        with pytest.raises(RuntimeError, match="the CUDA driver has no cuCtxGetCurrent"):
            launch.functions()
    finally:
        launch.functions.cache_clear()
