"""The backends: array libraries on devices, and the modes in which the suite hands their arrays to a subject.

A `Backend` makes arrays, lays them out as a mode says, and reads them back. `load(name)` gives one, or the reason why
it cannot be used here; nothing is imported before a backend is asked for.
"""

from __future__ import annotations

import contextlib
import enum
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

HALF = ("float16", "bfloat16")
FLOATS = ("float64", "float32", "float16", "bfloat16")


class Mode(enum.Enum):
    """How arrays are handed over."""

    EAGER = "eager"  # contiguous arrays, called directly
    PORTABLE = "portable"  # the same, by the code that serves every backend, of a subject that has faster code besides
    READONLY = "readonly"  # arrays whose flags forbid writing
    STRIDED = "strided"  # transposed views of every second element, backwards where the library can, NaN in the gaps
    BROADCAST = "broadcast"  # stride-0 views: everything twice along a new first axis
    TRACED = "traced"  # called under the compiler, every array an argument
    LAZY = "lazy"  # chunked along every axis; nothing may be computed during the call
    STRICTEST = "strictest"  # only what the standard guarantees: no boolean indexing, no data-dependent shapes
    ELSEWHERE = "elsewhere"  # on a device that is not the library's default: what is made must be made there
    NO_FLOAT64 = "no_float64"  # on a device that has no float64


DIRECT = (Mode.EAGER, Mode.PORTABLE, Mode.LAZY, Mode.STRICTEST, Mode.ELSEWHERE, Mode.NO_FLOAT64)
"""Modes in which a call costs no compilation and any option may be given."""
ONCE = (*DIRECT, Mode.TRACED)
"""Modes for tests of many options: how an array lies in memory has nothing to do with them."""
NOT_DOUBLED = tuple(mode for mode in Mode if mode is not Mode.BROADCAST)
"""Modes in which every reduction may be asked for."""


class UnusableError(Exception):
    """The backend is not installed, or has no device here; the message says which."""


class Backend:
    """An array library on a device."""

    name: str
    package: str
    distribution = ""
    """What pip installs to have it, where that has another name than the package."""
    device = "cpu"
    dtypes: tuple[str, ...] = FLOATS
    modes: tuple[Mode, ...] = (Mode.EAGER,)
    compiles_each_shape = False
    """Whether the order of a sum is a compiler's choice for each shape: R5 then holds among arrays of one shape."""
    slow = False  # a call costs a compilation or a graph

    def __init__(self) -> None:
        try:
            self.load()
        except ImportError as error:
            remedy = f"pip install {self.distribution or self.package}"
            raise UnusableError(f"not installed: {error.name or error} ({remedy})") from None

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)

    def load(self) -> None:
        """Import the library, or raise ImportError or UnusableError."""

    def asarray(self, values: np.ndarray, dtype: str) -> Any:
        raise NotImplementedError

    def to_numpy(self, array: Any) -> np.ndarray:
        """The exact values; bfloat16 comes back as float32."""
        raise NotImplementedError

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def owns(self, array: Any) -> bool:
        """Whether the array is of this library, on this device, and as lazy as the backend's arrays are."""
        raise NotImplementedError

    def lay_out(self, array: Any, mode: Mode) -> Any:
        return array

    def twice(self, array: Any) -> Any:
        """The array twice along a new first axis of stride 0."""
        raise NotImplementedError

    def context(self, mode: Mode) -> contextlib.AbstractContextManager:
        """What must hold while a test of this mode runs."""
        return contextlib.nullcontext()

    def during_call(self) -> contextlib.AbstractContextManager:
        """What must hold while the subject runs."""
        return contextlib.nullcontext()

    def settle(self, result: Any) -> None:
        """Let other threads than this one, which made the result, read it."""

    def trace(self, function: Any) -> Any:
        raise NotImplementedError


class _NumPyLike(Backend):
    """NumPy and CuPy: the same strides and the same names."""

    dtypes = ("float64", "float32", "float16")
    modes: tuple[Mode, ...] = (Mode.EAGER, Mode.STRIDED, Mode.BROADCAST)
    xp: Any

    def asarray(self, values, dtype):
        return self.xp.array(values, dtype=dtype)

    def to_numpy(self, array):
        return np.asarray(array)

    def owns(self, array):
        return isinstance(array, self.xp.ndarray | np.generic) if self.xp is np else isinstance(array, self.xp.ndarray)

    def lay_out(self, array, mode):
        if mode is Mode.STRIDED and array.ndim:
            wide = self.xp.full(tuple(2 * n for n in reversed(array.shape)), _filler(array.dtype), dtype=array.dtype)
            view = wide.T[(slice(None, None, -2),) * array.ndim]
            view[...] = array
            return view
        if mode is Mode.READONLY:
            array.flags.writeable = False
        return array

    def twice(self, array):
        return self.xp.broadcast_to(array, (2, *array.shape))


class NumPy(_NumPyLike):
    """NumPy."""

    name = package = "numpy"
    modes = (Mode.EAGER, Mode.PORTABLE, Mode.READONLY, Mode.STRIDED, Mode.BROADCAST)
    xp = np


class CuPy(_NumPyLike):
    """CuPy on its current CUDA device."""

    name = "cupy"
    distribution = "cupy-cuda12x"
    device = "cuda"
    modes = (Mode.EAGER, Mode.PORTABLE, Mode.STRIDED, Mode.BROADCAST)

    def load(self):
        import cupy

        if not cupy.is_available():
            raise UnusableError("not usable: no CUDA device")
        self.xp = cupy

    @property
    def version(self):
        return self.xp.__version__

    def to_numpy(self, array):
        return self.xp.asnumpy(array)


class Torch(Backend):
    """PyTorch on the CPU."""

    name = package = "torch"
    modes: tuple[Mode, ...] = (Mode.EAGER, Mode.PORTABLE, Mode.STRIDED, Mode.BROADCAST)

    def load(self):
        import torch

        self.torch = torch
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UnusableError("not usable: no CUDA device")

    def asarray(self, values, dtype):
        return self.torch.tensor(values, dtype=getattr(self.torch, dtype), device=self.device)

    def to_numpy(self, array):
        array = array.detach().cpu()
        return (array.float() if array.dtype == self.torch.bfloat16 else array).numpy()

    def dtype_name(self, array):
        return str(array.dtype).removeprefix("torch.")

    def owns(self, array):
        return isinstance(array, self.torch.Tensor) and array.device.type == self.device

    def lay_out(self, array, mode):
        if mode is not Mode.STRIDED or not array.ndim:
            return array
        filler = _filler(np.dtype("float32") if array.is_floating_point() else np.dtype(self.dtype_name(array)))
        wide = self.torch.full([2 * n for n in reversed(array.shape)], filler, dtype=array.dtype, device=self.device)
        view = wide.permute(*reversed(range(array.ndim)))[(slice(None, None, 2),) * array.ndim]
        view.copy_(array)
        return view

    def twice(self, array):
        return array.expand(2, *array.shape)


class TorchCuda(Torch):
    """PyTorch on a CUDA device."""

    name = "torch-cuda"
    device = "cuda"


class Jax(Backend):
    """JAX on its default device, with 64-bit types switched on for the whole process."""

    name = package = "jax"
    modes = (Mode.EAGER, Mode.TRACED)
    slow = True
    compiles_each_shape = True

    def load(self):
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax
        self.device = jax.devices()[0].platform

    def asarray(self, values, dtype):
        return self.jax.numpy.asarray(values, dtype=dtype)

    def to_numpy(self, array):
        return np.asarray(array.astype("float32") if array.dtype == "bfloat16" else array)

    def owns(self, array):
        return isinstance(array, self.jax.Array)

    def trace(self, function):
        return self.jax.jit(function)


class Dask(Backend):
    """Dask over NumPy blocks."""

    name = package = "dask"
    distribution = "'dask[array]'"
    dtypes = ("float64", "float32", "float16")
    modes = (Mode.LAZY,)
    slow = True

    def load(self):
        import dask
        import dask.array

        self.dask = dask

    def asarray(self, values, dtype):
        values = np.asarray(values, dtype=dtype)
        chunks = tuple(-(-n // 2) if n else 0 for n in values.shape)
        return self.dask.array.from_array(values, chunks=chunks)

    def to_numpy(self, array):
        # Computing is the caller's act, under the caller's floating-point error settings; the suite's are silent.
        with np.errstate(all="ignore"):
            return np.asarray(array.compute(scheduler="synchronous"))

    def owns(self, array):
        return isinstance(array, self.dask.array.Array)

    def during_call(self):
        return self.dask.config.set(scheduler=_refuse_to_compute)


class ArrayAPIStrict(Backend):
    """The reference namespace that has nothing but the standard."""

    name = "array-api-strict"
    package = "array_api_strict"
    distribution = "array-api-strict"
    dtypes = ("float64", "float32")
    modes = (Mode.EAGER, Mode.STRICTEST, Mode.ELSEWHERE, Mode.NO_FLOAT64)

    def load(self):
        import array_api_strict

        self.xp = array_api_strict

    def asarray(self, values, dtype):
        return self.xp.asarray(np.asarray(values), dtype=getattr(self.xp, "bool" if dtype == "bool" else dtype))

    def to_numpy(self, array):
        return np.array(array._array)

    def dtype_name(self, array):
        return str(array.dtype).removeprefix("array_api_strict.")

    def owns(self, array):
        return hasattr(array, "__array_namespace__") and array.__array_namespace__() is self.xp

    def lay_out(self, array, mode):
        name = {Mode.ELSEWHERE: "device1", Mode.NO_FLOAT64: "no_float64"}.get(mode)
        return array if name is None else array.to_device(self.xp.Device(name))

    def context(self, mode):
        if mode is not Mode.STRICTEST:
            return contextlib.nullcontext()
        return self.xp.ArrayAPIStrictFlags(api_version="2024.12", boolean_indexing=False, data_dependent_shapes=False)


class MLX(Backend):
    """MLX on the CPU, where it has float64."""

    name = package = "mlx"
    distribution = "'mlx[cpu]'"
    modes = (Mode.EAGER, Mode.TRACED)

    def load(self):
        import mlx.core

        self.mx = mlx.core
        self.mx.set_default_device(self.mx.cpu)

    def asarray(self, values, dtype):
        values = np.array(values, order="C")
        kind = getattr(self.mx, "bool_" if dtype == "bool" else dtype)
        if values.dtype != "float64":
            return self.mx.array(values).astype(kind)
        # MLX would make float32 of it.
        return self.mx.array(values.view(np.uint64)).view(self.mx.float64).astype(kind)

    def to_numpy(self, array):
        return np.array(array.astype(self.mx.float32) if array.dtype == self.mx.bfloat16 else array)

    def dtype_name(self, array):
        return str(array.dtype).removeprefix("mlx.core.")

    def settle(self, result):
        self.mx.eval(result)

    def trace(self, function):
        return self.mx.compile(function)

    def owns(self, array):
        return isinstance(array, self.mx.array)


class _Standard(Backend):
    """A library of which nothing is known but that it keeps to the standard."""

    dtypes = ("float64", "float32", "float16")
    xp: Any

    def asarray(self, values, dtype):
        return self.xp.asarray(np.array(values), dtype=getattr(self.xp, dtype))

    def owns(self, array):
        return hasattr(array, "__array_namespace__") and array.__array_namespace__() is self.xp


class Dpnp(_Standard):
    """dpnp on its default device."""

    name = package = "dpnp"

    def load(self):
        import dpnp

        self.xp = dpnp
        try:
            self.device = str(dpnp.empty(0).sycl_device.device_type).rpartition(".")[2]
        except Exception as error:  # of dpctl's, which may not import where dpnp does
            raise UnusableError(f"not usable: {error}") from None

    def to_numpy(self, array):
        return self.xp.asnumpy(array)


class Ndonnx(_Standard):
    """ndonnx, whose arrays here have values."""

    name = package = "ndonnx"
    distribution = "ndonnx onnxruntime"
    slow = True

    def load(self):
        import ndonnx

        self.xp = ndonnx

    def to_numpy(self, array):
        return np.array(array.unwrap_numpy())


BACKENDS: dict[str, type[Backend]] = {
    backend.name: backend for backend in (NumPy, Torch, TorchCuda, CuPy, Jax, Dask, ArrayAPIStrict, MLX, Dpnp, Ndonnx)
}


@cache
def load(name: str) -> Backend | str:
    """The backend, or why it cannot be used here."""
    try:
        return BACKENDS[name]()
    except UnusableError as error:
        return str(error)


def get(name: str) -> Backend:
    """The backend; UnusableError where it cannot be used here."""
    found = load(name)
    if isinstance(found, str):
        raise UnusableError(found)
    return found


def usable(names: Iterable[str] = BACKENDS) -> list[Backend]:
    """Those of the named backends that can be used here."""
    return [get(name) for name in names if not isinstance(load(name), str)]


def _filler(dtype: np.dtype) -> Any:
    """What an element outside a strided view holds, so that reading it shows."""
    if dtype.kind == "f":
        return float("nan")
    return True if dtype.kind == "b" else int(np.iinfo(dtype).max)


def _refuse_to_compute(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("the subject computed a lazy array during the call")
