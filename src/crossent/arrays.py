"""What an array is: its library, dtype, device and memory, and whether it has values yet. The only room that knows
what the libraries are like, with `arithmetic` beside it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

import array_api_compat
import array_api_compat.numpy
import numpy as np

# Within the package an array is Any. The types below are those of public functions: what goes in and what comes out.
Array: TypeAlias = Any
Namespace: TypeAlias = Any


class ArrayLike(Protocol):
    """What type checkers see of any library's array; a list of numbers is none."""

    @property
    def shape(self) -> Any:
        """Its lengths."""

    @property
    def dtype(self) -> Any:
        """What its numbers are."""


T_co = TypeVar("T_co", covariant=True)


class TensorLike(ArrayLike, Protocol[T_co]):
    """A torch tensor, without an import of torch: results computed from a `Parameter` are of the type `Tensor`."""

    def float(self) -> T_co:
        """The tensor in single precision."""


class NoArray:
    """What logits never are: an overload of it makes the result of a call ambiguous whose logits are Any.

    pyright would else take the one result that is not Any, NumPy's: for ``model(x)``, which is Any in PyTorch, a lie.
    """


A = TypeVar("A", bound=ArrayLike)
B = TypeVar("B", bound=ArrayLike)
T = TypeVar("T")
Shape = TypeVar("Shape", bound=tuple[Any, ...])
DType = TypeVar("DType", bound=np.dtype[Any])
Float = TypeVar("Float", bound=np.float32 | np.float64)
"""NumPy's dtypes that a loss keeps; that of half precision is float32."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
LARGEST = {"float32": float(np.finfo(np.float32).max), "float64": float(np.finfo(np.float64).max)}


def _is_of(x: object, module: str, name: str) -> bool:
    """Whether `x` is an instance of a class of a module; a module that nobody imported has no instances."""
    if type(x) is np.ndarray:
        return False
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(x, getattr(loaded, name, ()))


HOST = array_api_compat.numpy


# torch.compile traces these lines with every call of the loss, so they are plainer than array-api-compat's own.
def is_torch(x: object) -> bool:
    """Whether `x` is a torch tensor."""
    if type(x) is np.ndarray or x is None:
        return False
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, getattr(torch, "Tensor", ()))


def is_jax(x: object) -> bool:
    """Whether `x` is a JAX array, traced or not."""
    return _is_of(x, "jax", "Array")


def is_cupy(x: object) -> bool:
    """Whether `x` is a CuPy array."""
    return _is_of(x, "cupy", "ndarray")


def is_lazy(x: object) -> bool:
    """Whether the values of `x` come only later: a Dask graph."""
    return _is_of(x, "dask.array", "Array")


def is_array(x: object) -> bool:
    """Whether `x` is an array of a library that this package serves."""
    if type(x) is np.ndarray or is_torch(x) or isinstance(x, (np.ndarray, np.generic)):
        return True
    return not isinstance(x, (int, float, str)) and x is not None and bool(array_api_compat.is_array_api_obj(x))


def namespace(x: Array) -> Namespace:
    """The array-API namespace of `x`."""
    if type(x) is np.ndarray:
        return HOST
    if is_torch(x):
        return _torch_namespace()
    return array_api_compat.array_namespace(x)


def _torch_namespace() -> Namespace:
    import array_api_compat.torch

    return array_api_compat.torch


def device(x: Array) -> Any:
    """The device of `x`, as its library's functions take it."""
    if type(x) is np.ndarray:
        return "cpu"
    return x.device if is_torch(x) else array_api_compat.device(x)


def library(x: Array) -> str:
    """The plain name of the library that `x` belongs to: ``"numpy"``, ``"torch"``, ``"dask"`` …"""
    name: str = namespace(x).__name__
    return name.removeprefix("array_api_compat.").split(".")[0].replace("_", "-")


def computing(xp: Namespace, place: Any) -> AbstractContextManager[Any]:
    """The context to compute in, for arrays on the device `place`.

    NumPy, or a library that computes through it, does not warn of infinities and NaN. CuPy makes arrays and computes on
    its current device, wherever the arrays lie that it is given: that device is the current one.
    """
    if xp.__name__ == "array_api_compat.cupy":
        # A device keeps what was current before, and threads that share a call may not share that.
        device: AbstractContextManager[Any] = sys.modules["cupy"].cuda.Device(place.id)
        return device
    warns = xp.__name__ not in ("array_api_compat.torch", "jax.numpy")
    return np.errstate(all="ignore") if warns else contextlib.nullcontext()


def dtype_name(dtype: Any) -> str:
    """The dtype's name as every library spells it: ``"float32"``, not ``"torch.float32"``."""
    if isinstance(dtype, np.dtype):
        return _numpy_name(dtype)
    name = getattr(dtype, "name", None)
    return name if type(name) is str else str(dtype).rsplit(".", 1)[-1]


@functools.cache
def _numpy_name(dtype: np.dtype[Any]) -> str:
    return str(dtype.name)


def compute_dtype(xp: Namespace, name: str) -> Any:
    """The dtype in which logits of the dtype called `name` are computed: half precision is widened to float32."""
    return xp.float64 if name == "float64" else xp.float32


def wide_float(xp: Namespace, x: Array) -> Any:
    """The widest float of the namespace: float64, or float32 in a JAX without it."""
    if is_jax(x) and not sys.modules["jax"].config.jax_enable_x64:
        return xp.float32
    return xp.float64


def wide_integer(xp: Namespace, x: Array) -> Any:
    """The widest signed integer of the namespace: int64, or int32 in a JAX without it."""
    if is_jax(x) and not sys.modules["jax"].config.jax_enable_x64:
        return xp.int32
    return xp.int64


def is_traced(*arrays: object) -> bool:
    """Whether one of them stands for values that a transformation (jit, grad, vmap, compile, export) will supply."""
    tensors: list[Any] = [x for x in arrays if is_torch(x)]
    if tensors:
        torch = sys.modules["torch"]
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return True
        if torch._C._len_torch_dispatch_stack() and _is_recorded():
            return True
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        for x in tensors:
            if (type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter) or x.is_meta or wrapped(x):
                return True
    jax = sys.modules.get("jax")
    return jax is not None and any(isinstance(x, jax.core.Tracer) for x in arrays if is_jax(x))


def _is_recorded() -> bool:
    """Whether torch records what is done to ordinary tensors, or makes tensors without values."""
    c = sys.modules["torch"]._C
    modes = c._TorchDispatchModeKey
    return any(c._get_dispatch_mode(mode) is not None for mode in (modes.PROXY, modes.FAKE))


def is_recorded_as_script() -> bool:
    """Whether torch.jit.trace is running, which records operators and no Python."""
    return bool(sys.modules["torch"].jit.is_tracing())


def is_symbolic(x: object) -> bool:
    """Whether `x` is a number that torch has yet to learn, as a size is while it exports a program."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, (torch.SymInt, torch.SymFloat))


def number_of(x: Array | float) -> float | None:
    """`x` as a float if it is a number, which stays symbolic where torch has yet to learn it; None for an array."""
    if isinstance(x, (int, float)):
        return float(x)
    if is_symbolic(x):
        symbolic: float = sys.modules["torch"].sym_float(x)
        return symbolic
    return None if hasattr(x, "dtype") else float(x)


def is_readable(x: Array) -> bool:
    """Whether Python may look at the values of `x` now."""
    return type(x) is np.ndarray or not (is_lazy(x) or is_traced(x))


def is_immutable(x: Array) -> bool:
    """Whether `x` can never be written: JAX and Dask arrays."""
    return is_jax(x) or is_lazy(x)


def any_outside(xp: Namespace, x: Array, stop: int) -> bool:
    """Whether one of the integers `x` is outside [0, stop). It waits for the device of `x`, once."""
    if is_torch(x):
        if not x.numel():
            return False
        # Two numbers of one pass over them, read together.
        ends = x.new_empty(2)
        sys.modules["torch"].aminmax(x, out=(ends[0], ends[1]))
        try:
            least, greatest = ends.tolist()
        except RuntimeError:  # of torch 2.9, which cannot list what torch.func wraps
            least, greatest = (end.item() for end in ends.cpu())
        return bool(least < 0 or greatest >= stop)
    bad = (x < 0) | (x >= stop)
    return bool(bad.any() if type(bad) is np.ndarray else xp.any(bad))


def is_captured(x: Array) -> bool:
    """Whether what is done to `x` is not done now, but recorded in a CUDA graph."""
    if is_torch(x):
        return bool(x.device.type == "cuda" and sys.modules["torch"].cuda.is_current_stream_capturing())
    return is_cupy(x) and bool(sys.modules["cupy"].cuda.get_current_stream(x.device.id).is_capturing())


def on_gpu(x: Array) -> bool:
    """Whether `x` lies in an accelerator's memory."""
    if type(x) is np.ndarray:
        return False
    if is_cupy(x):
        return True
    return is_torch(x) and x.device.type != "cpu"


def device_name(x: Array) -> str | None:
    """The device of `x` as a text, or None where arrays of the library cannot disagree about it or do not say."""
    if type(x) is np.ndarray or is_lazy(x):
        return None
    if is_jax(x):
        return None if is_traced(x) else ", ".join(sorted(map(str, x.devices())))
    place = device(x)
    return str(getattr(place, "_device", place))


def computes_in_place(xp: Namespace) -> bool:
    """Whether the namespace's elementwise functions take ``out=`` and its arrays take integer-array assignment."""
    return xp.__name__ in ("array_api_compat.numpy", "array_api_compat.cupy", "array_api_compat.torch")


def requires_gradient(*arrays: object) -> bool:
    """Whether torch is to differentiate with respect to one of them that is a tensor."""
    tensors: list[Any] = [x for x in arrays if is_torch(x)]
    if not tensors:
        return False
    torch = sys.modules["torch"]
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    return bool(torch.is_grad_enabled() and any(x.requires_grad for x in tensors))


def is_host_memory(x: Array) -> bool:
    """Whether NumPy can see the memory of `x`: a NumPy array, or a plain torch tensor on the CPU."""
    if isinstance(x, np.ndarray):
        return True
    if is_torch(x):
        return bool(x.device.type == "cpu" and x.layout == sys.modules["torch"].strided)
    return isinstance(x, np.generic)


def is_cuda_memory(x: Array) -> bool:
    """Whether `x` is a CuPy array or a plain torch tensor in the memory of a CUDA device."""
    if is_torch(x):
        return bool(x.device.type == "cuda" and x.layout == sys.modules["torch"].strided)
    return is_cupy(x)


def host_view(x: Array) -> Any:
    """Host memory as a plain NumPy array that shares it."""
    if type(x) is np.ndarray:
        return x
    return x.detach().resolve_neg().numpy() if is_torch(x) else np.asarray(x)


def host_bits(x: Array) -> tuple[Any, bool]:
    """Host memory as a plain NumPy array that shares it, and whether that is the bits of bfloat16, as uint16."""
    if dtype_name(x.dtype) != "bfloat16":
        return host_view(x), False
    if is_torch(x):
        x = x.detach().resolve_neg().view(sys.modules["torch"].int16).numpy()
    return np.asarray(x).view(np.uint16), True


def seen_by_numpy(*given: Any) -> list[Any] | None:
    """Torch tensors as NumPy arrays that share their memory, and numbers, words and None as they are.

    None where one of them is neither, or a tensor that NumPy cannot see: on another device, of bfloat16, negated.
    """
    torch = sys.modules["torch"]
    seen: list[Any] = []
    for x in given:
        if type(x) is torch.Tensor or type(x) is torch.nn.Parameter:
            try:
                seen.append(x.detach().numpy())
            except (TypeError, RuntimeError):
                return None
        elif x is None or isinstance(x, (int, float, str)):
            seen.append(x)
        else:
            return None
    return seen


def host_matrix(x: Array) -> Array:
    """A torch tensor in host memory as a NumPy array that shares it, but one of bfloat16 as it is."""
    return x if dtype_name(x.dtype) == "bfloat16" else host_view(x)


def host_number(x: Any) -> Any:
    """An array in host memory as a NumPy array that shares it where NumPy has the dtype; anything else as it is."""
    if not is_torch(x):
        return x
    return host_view(x.float() if dtype_name(x.dtype) == "bfloat16" else x)


def torch_from_host(x: Array) -> Array:
    """A NumPy array as a torch tensor that shares its memory; a tensor as it is."""
    return x if is_torch(x) else sys.modules["torch"].from_numpy(np.asarray(x))


def as_array(x: Array) -> Array:
    """`x`, or the 0-d array of NumPy's scalar `x`."""
    return np.asarray(x) if isinstance(x, np.generic) else x


def empty(xp: Namespace, n: int, dtype: Any, place: Any) -> Array:
    """Uninitialised memory for `n` numbers."""
    return np.empty(n, dtype) if xp is HOST else xp.empty((n,), dtype=dtype, device=place)


def new_like(x: Array) -> Array:
    """Uninitialised memory of the shape, dtype, device and, where it has a dense one, layout of `x`."""
    if is_torch(x):
        torch = sys.modules["torch"]
        if is_host_memory(x) and dtype_name(x.dtype) != "bfloat16":
            # NumPy asks the system for huge pages: the first touch of fresh memory costs half of torch's.
            return torch.from_numpy(np.empty_like(host_view(x)))
        return torch.empty_like(x, requires_grad=False)
    if isinstance(x, np.ndarray):
        return np.empty_like(x, subok=False)
    return namespace(x).empty(x.shape, dtype=x.dtype, device=device(x))


def may_overlap(a: Array, b: Array) -> bool:
    """Whether two arrays of one library may share memory; True where the library cannot tell."""
    if a is b:
        return True
    if is_host_memory(a) and is_host_memory(b):
        return bool(np.may_share_memory(host_bits(a)[0], host_bits(b)[0]))
    if is_torch(a):
        return bool(a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr())
    if is_cupy(a):
        return bool(sys.modules["cupy"].may_share_memory(a, b))
    return True


def is_same_memory(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same elements in the same places."""
    if a is b:
        return True
    if is_host_memory(a) and is_host_memory(b):
        a, b = host_bits(a)[0], host_bits(b)[0]
        return bool(a.ctypes.data == b.ctypes.data and a.strides == b.strides)
    if is_torch(a):
        return bool(a.data_ptr() == b.data_ptr() and a.stride() == b.stride())
    if is_cupy(a):
        return bool(a.data.ptr == b.data.ptr and a.strides == b.strides)
    return False


def is_dense(x: Array) -> bool:
    """Whether `x` is an ordinary array, not one of torch's sparse, nested or opaque tensors."""
    if not is_torch(x):
        return True
    return bool(x.layout == sys.modules["torch"].strided and not x.is_nested and not x.is_mkldnn)


def tell_written(x: Array) -> None:
    """Tell torch that `x` has been written through its memory, so that a graph that needs the old values knows."""
    if is_torch(x):
        sys.modules["torch"].autograd.graph.increment_version(x)


def strides_of(x: Array) -> tuple[int, ...] | None:
    """The steps of `x` along its axes, in the library's unit; None where it does not say."""
    strides = getattr(x, "strides", None)
    if strides is None and is_torch(x):
        strides = x.stride()
    return None if strides is None else tuple(strides)


def off_graph(x: Array) -> Array:
    """`x` without torch's automatic differentiation, where torch does it eagerly; anything else as it is."""
    return x.detach() if getattr(x, "requires_grad", False) and not is_traced(x) else x
