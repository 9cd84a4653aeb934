"""From a cubin to a kernel that runs on a stream; and what a device has.

The driver is called through cuda.bindings. `cuda.core.launch` takes no structure by value, and its names changed
between versions; `cuLaunchKernelEx`, given the address of a structure and a configuration that is kept, is the same in
every version of the bindings and costs about half a microsecond.

Code is loaded into the primary context of a device, which is the one that CuPy, torch and the CUDA runtime use, so
that their streams and addresses are valid in it. The context of the caller's thread is left as it was.

A kernel is loaded when it is first asked for, once per cubin and device. That may be while a stream of this or another
thread is captured into a graph: this thread's capture mode is relaxed meanwhile, since CUDA would refuse to load in
the others, and spoil the capture. A launch itself waits for nothing and allocates nothing, so it can be captured.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from crossent.engines.compiling import Once

# Of the function in every cubin.
_NAME = "walk"
# The CUDA whose functions machine code calls.
_VERSION = 12000
# Of the driver's structures, in bytes; and where in a configuration stand a stream, and attributes.
SIZE_OF_CONFIGURATION: Final = 56
SIZE_OF_ATTRIBUTE: Final = 72
STREAM: Final = 32
ATTRIBUTES: Final = 40
_Addresses = ctypes.c_void_p * 1


class Properties(NamedTuple):
    """What a device has."""

    architecture: str  # such as "sm_90"
    multiprocessors: int
    shared: int  # the most bytes of shared memory that a block can have
    clusters: bool  # whether its blocks can be launched in clusters


class Shape(NamedTuple):
    """How many threads walk: `blocks` of `threads`, in clusters of `cluster` blocks, each with `shared` bytes."""

    blocks: int
    threads: int
    cluster: int = 1
    shared: int = 0


class Place(NamedTuple):
    """Where a kernel is loaded, as the driver's functions have it."""

    context: int
    function: int


class Functions(NamedTuple):
    """The addresses of the driver's functions that a launch needs, for machine code."""

    current: int
    launch: int
    error_name: int


class Kernel:
    """A function that is loaded on a device and takes one structure by value. `kernel` makes it."""

    def __init__(self, cubin: bytes, device: int) -> None:
        """Load it."""
        driver, has = _driver(), properties(device)
        self._name = f"{_NAME} on CUDA device {device}"
        self._context = _context(device)
        self._address = int(self._context)
        self._multiprocessors = has.multiprocessors
        self._counts: dict[Shape, int] = {}
        with _relaxed(), _inside(self._context):
            # It is never unloaded: a graph in which it was captured may run for as long as the process does.
            module = _value(driver.cuModuleLoadData(cubin), f"load {self._name}")
            self._function = _value(driver.cuModuleGetFunction(module, _NAME.encode()), f"find {self._name}")
            # All that the device has is allowed, so that no launch has anything to set: otherwise a block has 48 KB of
            # dynamic shared memory at most, and a cluster 8 blocks.
            names = driver.CUfunction_attribute
            size = driver.cuFuncGetAttribute(names.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, self._function)
            static = _value(size, f"measure {self._name}")
            limits = [(names.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, has.shared - static)]
            if has.clusters:
                limits.append((names.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1))
            for attribute, limit in limits:
                code = driver.cuFuncSetAttribute(self._function, attribute, limit)
                _value(code, f"set {attribute.name} of {self._name}")
        self.place = Place(self._address, int(self._function))
        # What every launch calls, looked up once.
        self._get_current, self._launch = driver.cuCtxGetCurrent, driver.cuLaunchKernelEx

    def launch(self, shape: Shape, argument: ctypes.Structure, stream: int) -> None:
        """Launch it on a stream of the device, 0 being the default one. The argument is copied before this returns."""
        arguments = _Addresses(ctypes.addressof(argument))
        configuration = _configuration(shape, stream)
        # Where this cannot say which context is current, `_inside` will say why.
        code, current = self._get_current()
        if not code and int(current) == self._address:
            (code,) = self._launch(configuration, self._function, arguments, 0)
        else:
            with _inside(self._context):
                (code,) = self._launch(configuration, self._function, arguments, 0)
        if code:
            raise _error(code, f"launch {self._name} with {shape} on stream {stream:#x}")

    def blocks_per_multiprocessor(self, threads: int, shared: int = 0) -> int:
        """How many blocks of so many threads and bytes of dynamic shared memory run on a multiprocessor at once."""
        shape = Shape(1, threads, 1, shared)
        return self._count("cuOccupancyMaxActiveBlocksPerMultiprocessor", shape, threads, shared)

    def active_clusters(self, threads: int, cluster: int, shared: int = 0) -> int:
        """How many clusters of so many blocks run on the device at once; 0 where not even one fits."""
        if cluster == 1:
            return self.blocks_per_multiprocessor(threads, shared) * self._multiprocessors
        shape = Shape(cluster, threads, cluster, shared)
        return self._count("cuOccupancyMaxActiveClusters", shape, _configuration(shape, 0))

    def _count(self, question: str, shape: Shape, *given: Any) -> int:
        """The driver's answer to a question about blocks of a shape, which is asked once."""
        if shape not in self._counts:
            driver = _driver()
            with _inside(self._context):
                answer = getattr(driver, question)(self._function, *given)
            too_large = answer[0] == driver.CUresult.CUDA_ERROR_INVALID_CLUSTER_SIZE
            found = 0 if too_large else _value(answer, f"count what fits of {self._name} with {shape}")
            self._counts[shape] = int(found)
        return self._counts[shape]


@Once
def kernel(cubin: bytes, device: int) -> Kernel:
    """The kernel in a cubin, on the device of that number; RuntimeError where it does not load."""
    return Kernel(cubin, device)


@functools.cache
def properties(device: int) -> Properties:
    """What the device of that number has; RuntimeError where there is none."""
    driver = _driver()
    names = driver.CUdevice_attribute
    handle = _value(driver.cuDeviceGet(device), f"find CUDA device {device}")

    def attribute(name: Any) -> int:
        return int(_value(driver.cuDeviceGetAttribute(name, handle), f"read {name.name} of CUDA device {device}"))

    major = attribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
    minor = attribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
    return Properties(
        f"sm_{major}{minor}",
        attribute(names.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        attribute(names.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
        bool(attribute(names.CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH)),
    )


def devices() -> int:
    """How many CUDA devices there are; RuntimeError where there is no driver."""
    return int(_value(_driver().cuDeviceGetCount(), "count the CUDA devices"))


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver knows, major and minor; RuntimeError where there is no driver."""
    number = int(_value(_driver().cuDriverGetVersion(), "read the version of the CUDA driver"))
    return number // 1000, number % 1000 // 10


@functools.cache
def functions() -> Functions:
    """Where the driver's own functions are, beneath the bindings; RuntimeError where one of them is not."""
    return Functions(*map(_address, ("cuCtxGetCurrent", "cuLaunchKernelEx", "cuGetErrorName")))


def _address(name: str) -> int:
    result = _driver().cuGetProcAddress(name.encode(), _VERSION, 0)
    _value(result[:1], f"find {name}")
    if not result[1]:
        raise RuntimeError(f"the CUDA driver has no {name}")
    return int(result[1])


def configuration(shape: Shape) -> bytes:
    """The structures of a launch of that shape: CUlaunchConfig with stream 0, and a CUlaunchAttribute, used or not.

    Where the one names the other there is a place to fill in.
    """
    made = _configuration(shape, 0)
    there = ctypes.string_at(int(made.getPtr()), SIZE_OF_CONFIGURATION)
    attributes = int.from_bytes(there[ATTRIBUTES : ATTRIBUTES + 8], sys.byteorder)
    attribute = ctypes.string_at(attributes, SIZE_OF_ATTRIBUTE) if made.numAttrs else bytes(SIZE_OF_ATTRIBUTE)
    return there[:ATTRIBUTES] + bytes(8) + there[ATTRIBUTES + 8 :] + attribute


@functools.lru_cache(maxsize=512)
def _configuration(shape: Shape, stream: int) -> Any:
    """A shape and a stream as the driver has them. Made once and never changed, as launches in other threads share it.

    To make one with a cluster costs five times as much as the launch.
    """
    driver = _driver()
    configuration = driver.CUlaunchConfig()
    configuration.gridDimX, configuration.gridDimY, configuration.gridDimZ = shape.blocks, 1, 1
    configuration.blockDimX, configuration.blockDimY, configuration.blockDimZ = shape.threads, 1, 1
    configuration.sharedMemBytes = shape.shared
    configuration.hStream = driver.CUstream(stream)
    if shape.cluster > 1:
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        dimensions = attribute.value.clusterDim
        dimensions.x, dimensions.y, dimensions.z = shape.cluster, 1, 1
        configuration.attrs = [attribute]
        configuration.numAttrs = 1
    return configuration


@functools.cache
def _context(device: int) -> Any:
    """The primary context of a device, kept alive for as long as the process."""
    driver = _driver()
    handle = _value(driver.cuDeviceGet(device), f"find CUDA device {device}")
    return _value(driver.cuDevicePrimaryCtxRetain(handle), f"open CUDA device {device}")


@contextlib.contextmanager
def _inside(context: Any) -> Iterator[None]:
    """With that context as this thread's, and then with the one that was."""
    driver = _driver()
    _value(driver.cuCtxPushCurrent(context), "enter a device's context")
    try:
        yield
    finally:
        _value(driver.cuCtxPopCurrent(), "leave a device's context")


@contextlib.contextmanager
def _relaxed() -> Iterator[None]:
    """With no capture of any thread's forbidding this thread to load code."""
    driver = _driver()
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = _value(driver.cuThreadExchangeStreamCaptureMode(mode), "relax the capture mode")
    try:
        yield
    finally:
        _value(driver.cuThreadExchangeStreamCaptureMode(before), "restore the capture mode")


@functools.cache
def _driver() -> Any:
    """The driver's functions, after its initialisation; RuntimeError where there is none, or no device."""
    from cuda.bindings import driver

    (code,) = driver.cuInit(0)
    if code:
        raise _error(code, "initialise CUDA", driver)
    return driver


def _value(result: tuple[Any, ...], tried: str) -> Any:
    """The value of a call of the driver's, if it has one; RuntimeError where it went wrong."""
    code, *values = result
    if code:
        raise _error(code, tried)
    return values[0] if values else None


def _error(code: Any, tried: str, driver: Any = None) -> RuntimeError:
    """What the driver says of an error. One of an earlier kernel may appear in any later call."""
    driver = driver or _driver()
    words = [text.decode() for error, text in (driver.cuGetErrorName(code), driver.cuGetErrorString(code)) if not error]
    return RuntimeError(f"CUDA answers {': '.join(words) or code.name} where crossent tried to {tried}")
