"""The array libraries, one file each: the only rooms that know what a library is like.

`of` finds the object of an array by its type. No library is imported unless its arrays are there already. A new library
is one file, whose `LIBRARY` is of a subclass of `base.Library`, and one line in `_FILES`; one that has nothing of its
own beside the array API standard needs neither. Torch has a folder, and objects for the states of its tensors.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any, Final

import array_api_compat
import numpy as np

from crossent.libraries.base import AsGraph, Inputs, Library
from crossent.libraries.exchange import Exchange
from crossent.libraries.numpy import NUMPY
from crossent.types import Namespace

__all__ = ["NUMPY", "SERVED", "Exchange", "Inputs", "Library", "exchange_of", "is_array", "of"]

SERVED: Final = "NumPy, CuPy, PyTorch, JAX, Dask, MLX, or a library that has what the array API standard has"
# What the mathematics takes of a namespace: one that claims the standard and lacks some is not served.
_TAKEN: Final = (
    *("abs", "any", "arange", "argmax", "argsort", "astype", "bitwise_right_shift", "bitwise_xor", "broadcast_to"),
    *("concat", "empty", "exp", "expm1", "float32", "float64", "full", "full_like", "inf", "int64", "isnan", "log"),
    *("log1p", "matmul", "max", "maximum", "moveaxis", "multiply", "nan", "ones", "ones_like", "reshape", "round"),
    *("sort", "stack", "subtract", "sum", "take", "take_along_axis", "tanh", "uint8", "where", "zeros", "zeros_like"),
)

# The module that has the type of a library's arrays, the type's name, and the file here that has the library's object.
_FILES = (
    ("jax", "Array", "jax"),
    ("cupy", "ndarray", "cupy"),
    ("dask.array", "Array", "dask"),
    ("array_api_strict", "_array_object.Array", "strict"),
    ("mlx.core", "array", "mlx"),
    ("ndonnx", "Array", "ndonnx"),
)
# The same of groups.
_GROUPS = (
    ("torch.distributed", "ProcessGroup", "torch.group"),
    ("torch.distributed", "DeviceMesh", "torch.group"),
    ("mpi4py.MPI", "Comm", "mpi"),
)
_by_type: dict[type, Library] = {np.ndarray: NUMPY}


# torch.compile traces these lines with every call of the loss: they look at no table, which would become its guard.
def of(x: object) -> Library | None:
    """The library of an array; None where `x` is no array of a library that this package serves."""
    if type(x) is np.ndarray:
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, getattr(torch, "Tensor", ())):
        from crossent.libraries.torch.library import TORCH

        return TORCH
    return _by_type.get(type(x)) or _found(x)


def _found(x: object) -> Library | None:
    if isinstance(x, (np.ndarray, np.generic)):
        return NUMPY
    if x is None or isinstance(x, (int, float, str, type)):
        return None
    library = next((_object(file) for module, name, file in _FILES if _is_of(x, module, name)), None)
    if library is None:
        if not array_api_compat.is_array_api_obj(x) or not hasattr(x, "device"):
            return None
        # One of which nothing is known but that it keeps to the standard.
        xp = array_api_compat.array_namespace(x)
        if not all(hasattr(xp, name) for name in _TAKEN):
            return None
        library = _of_namespace(xp)
    _by_type[type(x)] = library
    return library


@functools.cache
def _of_namespace(xp: Namespace) -> Library:
    return (Library if _has_views(xp) else AsGraph)(xp)


def _has_views(xp: Namespace) -> bool:
    """Whether what is written into a part of an array is written into the array, which the standard leaves open."""
    whole = xp.full((2,), 0.0)
    try:
        whole[:1][:1] = 1.0
        return bool(whole[0] == 1.0)
    except Exception:  # of what cannot be written, or has no values: each library raises its own
        return False


def _is_of(x: object, module: str, name: str) -> bool:
    """Whether `x` is an instance of a type of a module; one that is not imported has no instances."""
    found = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None and isinstance(x, found)  # type: ignore[arg-type]


def _object(file: str) -> Library:
    library: Library = importlib.import_module(f"crossent.libraries.{file}").LIBRARY
    return library


def is_array(x: object) -> bool:
    """Whether `x` is an array of a library that this package serves."""
    return of(x) is not None


def exchange_of(group: Any) -> Exchange:
    """What the members of a group do together; TypeError where `group` is none that this package knows."""
    if isinstance(group, Exchange):
        return group
    file = next((file for module, name, file in _GROUPS if _is_of(group, module, name)), None)
    if file is None and "jax" in sys.modules and group and (isinstance(group, str) or type(group) is tuple):
        file = "jax_axis"
    if file is None:
        raise TypeError(
            f"group is {type(group).__name__}; accepted: a ProcessGroup or a DeviceMesh of one dimension of torch, a "
            f"communicator of mpi4py, or the name of an axis within jax.shard_map"
        )
    exchange: Exchange = importlib.import_module(f"crossent.libraries.{file}").of(group)
    return exchange
