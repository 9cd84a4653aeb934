"""Launches, on a driver that writes down what it is asked; its structures are cuda.bindings' own, read as C does."""

from __future__ import annotations

import collections
import ctypes
import functools
import sys

import pytest
from tests.cuda_resources import needs_nvrtc
from tests.cuda_structures import Attribute, Configuration, as_c_reads_it

from crossent.engines.cuda import here, launch, program
from crossent.engines.cuda.launch import Shape

pytestmark = needs_nvrtc


class Problem(ctypes.Structure):
    """As large as that of the engine, about."""

    _fields_ = (("addresses", ctypes.c_void_p * 12), ("n", ctypes.c_int64 * 6), ("scale", ctypes.c_float))


RELAXED, GLOBAL = 2, 0
OTHER = 0xABC  # the context of somebody else
Launch = collections.namedtuple("Launch", "grid block shared stream cluster function context argument")


class Driver:
    """Two devices; what is not written here is cuda.bindings' own."""

    HAS = {  # noqa: RUF012
        "COMPUTE_CAPABILITY_MAJOR": 9,
        "COMPUTE_CAPABILITY_MINOR": 0,
        "MULTIPROCESSOR_COUNT": 132,
        "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
        "CLUSTER_LAUNCH": 1,
    }
    STATIC = 448
    # What functions answer whatever they are given, as many values as they have.
    ANSWERS = {  # noqa: RUF012
        "cuDeviceGetCount": (2,),
        "cuDriverGetVersion": (13020,),
        "cuFuncGetAttribute": (STATIC,),
    }

    def __init__(self):
        from cuda.bindings import driver

        self._real = driver
        self.has = dict(self.HAS)
        self.calls, self.launches, self.loaded, self.attributes = [], [], [], []
        self.contexts = [OTHER]
        self.mode = GLOBAL
        self.fails = {}  # the code of the error that a function answers with
        self.clusters = 66

    def __getattribute__(self, name):
        if not name.startswith("cu"):
            return object.__getattribute__(self, name)
        answer = self.ANSWERS.get(name)
        found = object.__getattribute__(self, name) if answer is None else lambda *given: answer

        @functools.wraps(found)
        def called(*arguments):
            self.calls.append(name)
            code = self._real.CUresult(self.fails.get(name, 0))
            if not code:
                return (code, *found(*arguments))
            return (code,) if name in ("cuCtxPushCurrent", "cuFuncSetAttribute", "cuLaunchKernelEx") else (code, None)

        return called

    def __getattr__(self, name):
        return getattr(self._real, name)

    def cuGetErrorName(self, code):
        return (code.name.encode(),)

    def cuGetErrorString(self, code):
        return (f"the words for {int(code)}".encode(),)

    def cuDeviceGet(self, ordinal):
        return (self._real.CUdevice(ordinal),)

    def cuDeviceGetAttribute(self, attribute, device):
        assert int(device) in (0, 1)
        return (self.has[attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")],)

    def cuDevicePrimaryCtxRetain(self, device):
        return (self._real.CUcontext(0x1000 + int(device)),)

    def cuCtxGetCurrent(self):
        return (self._real.CUcontext(self.contexts[-1]),)

    def cuCtxPushCurrent(self, context):
        self.contexts.append(int(context))
        return ()

    def cuCtxPopCurrent(self):
        return (self._real.CUcontext(self.contexts.pop()),)

    def cuThreadExchangeStreamCaptureMode(self, mode):
        before, self.mode = self.mode, int(mode)
        return (self._real.CUstreamCaptureMode(before),)

    def cuModuleLoadData(self, image):
        assert self.mode == RELAXED
        self.loaded.append((image, self.contexts[-1]))
        return (self._real.CUmodule(0x2000 + len(self.loaded)),)

    def cuModuleGetFunction(self, module, name):
        assert self.mode == RELAXED
        assert name == b"walk"
        return (self._real.CUfunction(int(module) + 0x1000),)

    def cuFuncSetAttribute(self, function, attribute, value):
        assert int(function) == 0x3000 + len(self.loaded)
        self.attributes.append((attribute.name.removeprefix("CU_FUNC_ATTRIBUTE_"), value))
        return ()

    def cuLaunchKernelEx(self, configuration, function, arguments, extra):
        assert extra == 0
        (address,) = arguments
        argument = ctypes.string_at(address, ctypes.sizeof(Problem))
        c, cluster = as_c_reads_it(int(configuration.getPtr()))
        launched = Launch(
            tuple(c.grid), tuple(c.block), c.shared, c.stream or 0, cluster, int(function), self.contexts[-1], argument
        )
        self.launches.append(launched)
        return ()

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, threads, shared):
        return (2048 // threads if shared < 100_000 else 1,)

    def cuOccupancyMaxActiveClusters(self, function, configuration):
        c, cluster = as_c_reads_it(int(configuration.getPtr()))
        assert tuple(c.grid) == cluster
        return (self.clusters,)


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(launch, "_driver", lambda: driver)
    launch.kernel.forget()
    caches = (launch.properties, launch._context, launch._configuration, here.problem)
    for cache in caches:
        cache.cache_clear()
    yield driver
    launch.kernel.forget()
    assert driver.contexts[:1] == [OTHER]
    assert len(driver.contexts) == 1, "the caller's context is not its own any more"
    assert driver.mode == GLOBAL, "the thread's capture mode is not what it was"
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def problem():
    problem = Problem()
    problem.addresses[:] = range(0x7F0000000000, 0x7F000000000C)
    problem.n[:] = range(-3, 3)
    problem.scale = 0.5
    return problem


def test_every_launch_is_what_was_asked_for(driver, problem):
    kernel = launch.kernel(b"code", 0)
    shapes = [Shape(blocks, 128, cluster, shared) for blocks in (4, 8) for cluster in (1, 2) for shared in (0, 4096)]
    asked = [(shape, stream) for stream in (0, 1, 2, 1 << 46) for shape in shapes] * 2
    expected = []
    for number, (shape, stream) in enumerate(asked):
        problem.n[0] = number
        kernel.launch(shape, problem, stream)
        # Without clusters there is no attribute.
        cluster = None if shape.cluster == 1 else (shape.cluster, 1, 1)
        argument = bytes(memoryview(problem).cast("B"))
        sizes = ((shape.blocks, 1, 1), (shape.threads, 1, 1), shape.shared)
        expected.append(Launch(*sizes, stream, cluster, 0x3001, 0x1000, argument))
    assert driver.launches == expected


def test_a_launch_asks_the_driver_for_nothing_else(driver, problem):
    """What waits for the device, or allocates, can not be captured in a graph."""
    kernel = launch.kernel(b"code", 0)
    driver.calls.clear()
    driver.contexts.append(0x1000)
    kernel.launch(Shape(7, 32, 1, 60_000), problem, 5)
    assert driver.calls == ["cuCtxGetCurrent", "cuLaunchKernelEx"]
    driver.contexts.pop()
    driver.calls.clear()
    kernel.launch(Shape(7, 32, 2, 60_000), problem, 5)
    assert driver.calls == ["cuCtxGetCurrent", "cuCtxPushCurrent", "cuLaunchKernelEx", "cuCtxPopCurrent"]
    assert [seen.context for seen in driver.launches] == [0x1000, 0x1000]


@pytest.mark.parametrize("before", [None, OTHER, 0x1000, 0x1001])
def test_a_launch_is_on_its_device_whatever_is_current(driver, problem, before):
    kernels = [launch.kernel(b"code", device) for device in (0, 1)]
    driver.contexts.append(before or 0)
    for kernel in kernels:
        kernel.launch(Shape(1, 32), problem, 0)
    assert driver.contexts.pop() == (before or 0)
    assert [(seen.context, seen.function) for seen in driver.launches] == [(0x1000, 0x3001), (0x1001, 0x3002)]


def test_a_kernel_is_loaded_once_per_device_and_code(driver):
    for _ in range(3):
        kernels = [launch.kernel(code, device) for code in (b"one", b"two") for device in (0, 1)]
    assert len(set(kernels)) == 4
    assert driver.loaded == [(b"one", 0x1000), (b"one", 0x1001), (b"two", 0x1000), (b"two", 0x1001)]


def test_machine_code_is_told_where_a_kernel_is_and_how_it_is_launched(driver):
    assert [launch.kernel(b"code", device).place for device in (0, 1)] == [(0x1000, 0x3001), (0x1001, 0x3002)]
    for shape in (Shape(6, 128), Shape(8, 64, 4, 5000)):
        made = ctypes.create_string_buffer(launch.configuration(shape))
        c = Configuration.from_buffer(made)
        assert (c.stream, c.attributes) == (None, None)
        assert (tuple(c.grid), tuple(c.block), c.shared) == ((shape.blocks, 1, 1), (shape.threads, 1, 1), shape.shared)
        assert c.count == (shape.cluster > 1)
        c.attributes = ctypes.addressof(made) + ctypes.sizeof(Configuration)
        assert as_c_reads_it(ctypes.addressof(made))[1] == ((shape.cluster, 1, 1) if c.count else None)
    assert (Configuration.stream.offset, Configuration.attributes.offset) == (launch.STREAM, launch.ATTRIBUTES)
    assert ctypes.sizeof(Configuration) == launch.SIZE_OF_CONFIGURATION
    assert ctypes.sizeof(Attribute) == launch.SIZE_OF_ATTRIBUTE


@pytest.mark.parametrize("clusters", [True, False])
def test_loading_allows_all_that_the_device_has(driver, clusters):
    driver.has.update(CLUSTER_LAUNCH=clusters)
    launch.kernel(b"code", 0)
    allowed = [("MAX_DYNAMIC_SHARED_SIZE_BYTES", 232448 - Driver.STATIC), ("NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)]
    assert driver.attributes == allowed[: 1 + clusters]


def test_what_a_device_has(driver):
    assert launch.properties(1) == ("sm_90", 132, 232448, True)
    driver.calls.clear()
    assert launch.properties(1).multiprocessors == 132
    assert driver.calls == []


def test_what_fits_is_asked_once(driver):
    kernel = launch.kernel(b"code", 0)
    for _ in range(2):
        assert kernel.blocks_per_multiprocessor(512, 1000) == 4
        assert kernel.blocks_per_multiprocessor(512, 120_000) == 1
        assert kernel.active_clusters(512, 2, 1000) == 66
        assert kernel.active_clusters(512, 1, 1000) == 4 * 132
    assert driver.calls.count("cuOccupancyMaxActiveBlocksPerMultiprocessor") == 2
    assert driver.calls.count("cuOccupancyMaxActiveClusters") == 1


def test_a_cluster_that_is_too_large_fits_nowhere(driver):
    kernel = launch.kernel(b"code", 0)
    driver.fails["cuOccupancyMaxActiveClusters"] = 912
    assert kernel.active_clusters(512, 16, 200_000) == 0


def _everything(problem):
    kernel = launch.kernel(b"code", 0)
    kernel.launch(Shape(7, 32), problem, 0x5)
    kernel.blocks_per_multiprocessor(32)
    kernel.active_clusters(32, 2)


@pytest.mark.parametrize(
    ("function", "tried"),
    [
        ("cuDeviceGet", "find CUDA device 0"),
        ("cuDeviceGetAttribute", "read CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR of CUDA device 0"),
        ("cuDevicePrimaryCtxRetain", "open CUDA device 0"),
        ("cuThreadExchangeStreamCaptureMode", "relax the capture mode"),
        ("cuCtxPushCurrent", "enter a device's context"),
        ("cuModuleLoadData", "load walk on CUDA device 0"),
        ("cuModuleGetFunction", "find walk on CUDA device 0"),
        ("cuFuncGetAttribute", "measure walk on CUDA device 0"),
        ("cuFuncSetAttribute", "set CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES of walk on CUDA device 0"),
        (
            "cuLaunchKernelEx",
            "launch walk on CUDA device 0 with Shape(blocks=7, threads=32, cluster=1, shared=0) on stream 0x5",
        ),
        ("cuOccupancyMaxActiveBlocksPerMultiprocessor", "count what fits of walk on CUDA device 0"),
        ("cuOccupancyMaxActiveClusters", "count what fits of walk on CUDA device 0"),
    ],
)
def test_every_error_has_its_name_its_words_and_what_was_tried(driver, problem, function, tried):
    driver.fails[function] = 700
    with pytest.raises(RuntimeError) as caught:
        _everything(problem)
    words = f"CUDA answers CUDA_ERROR_ILLEGAL_ADDRESS: the words for 700 where crossent tried to {tried}"
    assert str(caught.value).startswith(words)
    driver.fails.clear()
    _everything(problem)
    assert len(driver.launches) == (2 if function.startswith("cuOccupancy") else 1)


def test_an_error_that_has_no_words_has_its_name(driver, problem):
    driver.fails.update(cuGetErrorName=1, cuGetErrorString=1, cuModuleLoadData=209)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NO_BINARY_FOR_GPU"):
        launch.kernel(b"code", 0)


def test_a_thread_whose_context_is_not_known_enters_its_own(driver, problem):
    kernel = launch.kernel(b"code", 0)
    driver.fails["cuCtxGetCurrent"] = 3
    kernel.launch(Shape(7, 32), problem, 0x5)
    assert driver.launches[0].context == 0x1000


def test_a_context_that_cannot_be_left_is_an_error(driver, problem):
    kernel = launch.kernel(b"code", 0)
    driver.fails["cuCtxPopCurrent"] = 201
    with pytest.raises(RuntimeError, match=r"CUDA_ERROR_INVALID_CONTEXT.*leave a device's context"):
        kernel.launch(Shape(7, 32), problem, 0x5)
    driver.contexts.pop()


# Whether the engine can be used here.


@pytest.fixture
def compiler(monkeypatch):
    """NVRTC 13.0."""
    monkeypatch.setattr(program, "version", lambda: (13, 0))
    monkeypatch.setattr(program, "architectures", lambda: frozenset({"sm_75", "sm_80", "sm_90"}))


@pytest.mark.parametrize("version", [(12, 8), (13, 0), (13, 9)])
def test_a_machine_that_has_all(driver, compiler, monkeypatch, version):
    """The compiler may be older than the driver, or of the same major version."""
    monkeypatch.setattr(program, "version", lambda: version)
    assert here.problem() is None
    assert here.problem(1) is None
    assert here.problem(2) == "there is no CUDA device 2, but 2"


@pytest.mark.parametrize(
    ("has", "fails", "words"),
    [
        ({"COMPUTE_CAPABILITY_MAJOR": 7, "COMPUTE_CAPABILITY_MINOR": 5}, {}, "is of sm_75, and the oldest that serves"),
        ({"COMPUTE_CAPABILITY_MAJOR": 15}, {}, "is of sm_150, for which NVRTC 13.0 is too old"),
        ({}, {"cuDeviceGetCount": 803}, "there is no CUDA driver that works: CUDA answers CUDA_ERROR_SYSTEM_DRIVER_MI"),
        ({}, {"cuDriverGetVersion": 803}, "there is no CUDA driver that works: CUDA answers CUDA_ERROR_SYSTEM_DRIVER_"),
        ({}, {"cuDeviceGetAttribute": 46}, "CUDA device 0 can not be asked what it has: CUDA answers CUDA_ERROR_DEVI"),
    ],
    ids=["old", "new", "no-count", "no-version", "no-answer"],
)
def test_a_device_or_a_driver_that_does_not_serve(driver, compiler, has, fails, words):
    driver.has.update(has)
    driver.fails.update(fails)
    assert words in here.problem()


def test_a_driver_that_is_older_than_the_compiler(driver, compiler, monkeypatch):
    monkeypatch.setattr(launch, "driver_version", lambda: (12, 8))
    assert "the driver is one of CUDA 12.8, and NVRTC one of 13" in here.problem()
    assert "'cuda-bindings==12.*'" in here.problem()


def test_the_drivers_version(driver):
    assert launch.driver_version() == (13, 2)


def test_a_machine_without_nvrtc(driver, monkeypatch):
    def missing():
        raise RuntimeError("libnvrtc was not found\nin many folders")

    monkeypatch.setattr(program, "version", missing)
    assert here.problem().startswith("NVRTC is not found: libnvrtc was not found (pip install 'cuda-bindings==13.*'")
    assert driver.calls == []


def test_a_machine_without_the_bindings(driver, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert here.problem().startswith("cuda-bindings is not installed (pip install 'cuda-bindings==13.*'")


def test_no_driver_or_no_device_is_told_by_the_driver(monkeypatch):
    """The driver's own initialisation, which the other tests go past."""
    from cuda.bindings import driver

    answers = [(driver.CUresult.CUDA_ERROR_NO_DEVICE,), (driver.CUresult.CUDA_SUCCESS,)]
    monkeypatch.setattr(driver, "cuInit", lambda flags: answers.pop(0))
    monkeypatch.setattr(driver, "cuGetErrorName", lambda code: (driver.CUresult.CUDA_SUCCESS, code.name.encode()))
    monkeypatch.setattr(driver, "cuGetErrorString", lambda code: (driver.CUresult.CUDA_SUCCESS, b"no device"))
    launch._driver.cache_clear()
    with pytest.raises(RuntimeError, match="CUDA_ERROR_NO_DEVICE: no device where crossent tried to initialise CUDA"):
        launch._driver()
    assert launch._driver() is driver
    launch._driver.cache_clear()
