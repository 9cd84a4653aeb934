"""PyTorch's tensors as arrays: what they are asked, their memory, their operations; whatever the call they are in.

Torch          eager tensors in a device's memory
TorchAsNumPy   eager tensors in host memory, which NumPy sees and computes on
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from crossent import views
from crossent.libraries.base import NO_CONTEXT, Library
from crossent.libraries.numpy import NUMPY, NumPy
from crossent.math.operations import Operations
from crossent.math.rows import Straight
from crossent.types import Array

_NAMES: dict[Any, str] = {}
_STRAIGHT = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
_TARGETS = {torch.int64: 8, torch.int32: 4}
# Types of devices that have no float64.
_NO_FLOAT64 = ("mps",)
# Where torch keeps the precision that float32 products of a type of device may have.
_MATMUL: dict[str, Any] = {"cuda": torch.backends.cuda.matmul, "cpu": getattr(torch.backends.mkldnn, "matmul", None)}
# What torch's compiler and Triton ask. The public function makes an object, which takes longer than a launch.
_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", lambda index: int(torch.cuda.current_stream(index).cuda_stream)
)


def _is_recorded() -> bool:
    """Whether torch records what is done to ordinary tensors, or makes tensors without values."""
    modes = torch._C._TorchDispatchModeKey
    return any(torch._C._get_dispatch_mode(mode) is not None for mode in (modes.PROXY, modes.FAKE))


def is_traced(*given: Any) -> bool:
    """Whether one of the tensors among them stands for values that a transformation will supply."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    if torch._C._len_torch_dispatch_stack() and _is_recorded():
        return True
    # What is closed over is followed by no transformation, and still joins what is.
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    for x in given:
        kind = type(x)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if x.is_meta or wrapped(x):
                return True
        elif isinstance(x, torch.Tensor):
            return True
    return False


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """A context in which products keep the dtype of their factors; that of tensors without memory knows no other."""
    return NO_CONTEXT if device == "meta" else torch.autocast(device, enabled=False)


@contextlib.contextmanager
def _whole_products(device: str) -> Iterator[None]:
    """Products in the dtype of their factors, whatever autocast and the precision that the process allows say."""
    matmul: Any = _MATMUL.get(device)
    allowed = getattr(matmul, "fp32_precision", "none")  # since torch 2.9
    try:
        if allowed not in ("none", "ieee"):
            matmul.fp32_precision = "ieee"
        with without_autocast(device):
            yield
    finally:
        if allowed not in ("none", "ieee"):
            matmul.fp32_precision = allowed


def _product(a: Array, b: Array, out: Array | None) -> Array:
    with _whole_products(a.device.type):
        return torch.mm(a, b, out=out)


def _add_product(total: Array, a: Array, b: Array) -> Array:
    with _whole_products(a.device.type):
        return total.addmm_(a, b)


def _in_memory(x: torch.Tensor) -> torch.Tensor:
    """`x`; RuntimeError where its storage has been freed, which NumPy would not notice."""
    if not x.data_ptr() and x.numel():
        raise RuntimeError(
            f"a tensor of shape {tuple(x.shape)} has no memory; accepted: tensors whose storage is there"
        )
    return x


class _Tensors(Operations):
    """What every tensor is asked, whatever its state."""

    def refusal(self, x: Array) -> tuple[str, str] | None:
        """Torch's sparse, nested and opaque tensors are no arrays of numbers side by side."""
        is_dense = x.layout == torch.strided and not x.is_nested and not x.is_mkldnn
        return None if is_dense else ("a sparse, nested or opaque tensor", "dense")

    def dtype_name(self, x: Array) -> str:
        """Without the name of the module."""
        return str(x.dtype).rpartition(".")[2]

    def device_name(self, x: Array) -> str | None:
        """As torch prints it."""
        return str(x.device)

    def on_one_device(self, a: Array, b: Array) -> bool:
        """As torch compares devices."""
        return bool(a.device == b.device)

    def is_captured(self, x: Array) -> bool:
        """Asked of CUDA alone."""
        return bool(x.device.type == "cuda" and torch.cuda.is_current_stream_capturing())

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """Torch does not warn."""
        return NO_CONTEXT

    def is_number(self, x: Any) -> bool:
        """One that torch has yet to learn is one, too."""
        return isinstance(x, (float, torch.SymFloat))

    def is_symbolic(self, x: object) -> bool:
        """As a size is while torch exports a program."""
        return isinstance(x, (torch.SymInt, torch.SymFloat))

    def written(self, out: Array) -> None:
        """So that a graph that needs the old values knows."""
        torch.autograd.graph.increment_version(out)


class Torch(_Tensors, Library):
    """Eager tensors in a device's memory."""

    in_place = True

    # --- what the arrays of a call are --------------------------------------------------------------------------------

    def is_followed(self, x: Array) -> bool:
        """By autograd, or by a transformation."""
        return bool(x.requires_grad) or is_traced(x)

    def memory_of(self, device: Any) -> tuple[str, int]:
        """By the type of the device."""
        if device.type == "cuda":
            return "cuda", device.index or 0
        return "host" if device.type == "cpu" else "", 0

    def number(self, x: Any) -> Any:
        """A size that torch has yet to learn stays one."""
        if not self.is_symbolic(x):
            return super().number(x)
        return torch.sym_float(x)  # type: ignore[no-untyped-call]

    # --- memory -------------------------------------------------------------------------------------------------------

    def shared(self, out: Array) -> Array | None:
        """A view that negates as it is read cannot be written through its memory."""
        return None if out.is_neg() else out

    def memory(self, x: Array) -> views.Memory | None:
        """None of a view that negates as it is read."""
        if x.is_neg():
            return None
        size = x.itemsize
        return views.Memory(x.data_ptr(), tuple(step * size for step in x.stride()), tuple(x.shape), size)

    def empty_like(self, x: Array) -> Array:
        """Of the same layout where that is dense."""
        return torch.empty_like(x, requires_grad=False)

    def strides(self, x: Array) -> tuple[int, ...] | None:
        """In elements."""
        strides: tuple[int, ...] = x.stride()
        return strides

    def stream(self, x: Array) -> tuple[int, int]:
        """The current stream of the device of `x`."""
        index: int = x.device.index
        return index, _stream(index)

    # --- operations ---------------------------------------------------------------------------------------------------

    def device(self, x: Array) -> Any:
        """Torch's own object."""
        return x.device

    def widest(self, device: Any) -> tuple[Any, Any]:
        """float32 where the device has no float64."""
        return torch.float32 if device.type in _NO_FLOAT64 else torch.float64, torch.int64

    def stop_gradient(self, x: Array) -> Array:
        """Torch's own."""
        return x.detach()

    def divide(self, a: Array, b: Array | float, dtype: Any) -> Array:
        """Divided and rounded in one step."""
        shape = a.shape
        if isinstance(b, torch.Tensor):
            shape = torch.broadcast_shapes(shape, b.shape)  # type: ignore[no-untyped-call]
        return torch.div(a, b, out=torch.empty(shape, dtype=dtype, device=a.device))

    def divide_in(self, wide: Any, a: Array, b: Array | float) -> Array:
        """Of two numbers in tensors the wider dtype wins, wherever they are: no step to widen the first."""
        if a.ndim or (isinstance(b, float) and b == 1.0):
            return super().divide_in(wide, a, b)
        return a / (torch.tensor(b, dtype=wide, device="cpu") if isinstance(b, float) else b)

    def zero_where_not(self, mask: Array, x: Array) -> Array:
        """Torch multiplies by a mask as it is, and makes an array of every 0."""
        return x * mask

    def at_least_one(self, x: Array) -> Array:
        """In one step."""
        return x.clamp_min(1.0)

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """Torch's own."""
        return _product(a, b, out)

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """Added as it is made."""
        return _product(a, b, None) if total is None else _add_product(total, a, b)

    def put_rows(self, x: Array, places: Array | slice, rows: Array) -> None:
        """By assignment."""
        x[places] = rows

    def put_classes(self, x: Array, ids: Array, values: Array) -> Array:
        """In place."""
        return x.scatter_(-1, ids, values) if self.in_place else super().put_classes(x, ids, values)

    def true_places(self, mask: Array) -> Array:
        """Torch's own."""
        return mask.nonzero()[:, 0]

    def clear_rows(self, x: Array, rows: Array, out: Array | None) -> Array:
        """Assignment by a boolean index would wait for the device to count the rows."""
        return super().clear_rows(x, rows, out) if out is None else out.masked_fill_(rows[:, None], 0.0)

    def count_in(self, wide: Any, mask: Array, axis: int | None) -> Array:
        """In one step."""
        exact = wide if wide == torch.float64 else torch.int64
        return self.cast(self.xp.sum(mask, axis=axis, dtype=exact), wide)

    def any_outside(self, x: Array, stop: int) -> bool:
        """Two numbers of one pass over them, read together."""
        if not x.numel():
            return False
        ends = x.new_empty(2)
        torch.aminmax(x, out=(ends[0], ends[1]))
        try:
            least, greatest = ends.tolist()
        except RuntimeError:  # of torch 2.9, which cannot list what torch.func wraps
            least, greatest = (end.item() for end in ends.cpu())
        return bool(least < 0 or greatest >= stop)


class TorchAsNumPy(_Tensors, NumPy):
    """Eager tensors in host memory: NumPy sees their memory and does everything."""

    in_place = True

    def straight(self, x: Array, t: Array) -> Straight | None:
        """Plain tensors, whose rows are a matrix with elements side by side."""
        if type(t) is not torch.Tensor or not t.is_cpu or t.layout is not torch.strided or t.is_nested:
            return None
        dtype, size = _STRAIGHT.get(x.dtype), _TARGETS.get(t.dtype)
        shape, n = x.shape, t.numel()
        if dtype is None or size is None or not n or shape[:-1] != t.shape or not shape or not t.is_contiguous():
            return None
        v, itemsize, place, place_of_targets = shape[-1], x.itemsize, x.data_ptr(), t.data_ptr()
        if x.is_neg() or not v or place % itemsize or place_of_targets % size or not (place and place_of_targets):
            return None
        if x.is_contiguous():
            step = v * itemsize
        elif len(shape) == 2 and x.stride(1) == 1:
            step = x.stride(0) * itemsize
        else:
            return None
        return dtype, n, v, place, step, place_of_targets, size, 0

    def straight_out(self, x: Array, t: Array, out: Array | None) -> tuple[Array, int, int] | None:
        """The logits, or memory of its own."""
        step = x.shape[-1] * x.itemsize
        if out is None:
            out = torch.empty(x.shape, dtype=x.dtype, device="cpu")
            return out, out.data_ptr(), step
        place, place_of_targets = x.data_ptr(), t.data_ptr()
        is_apart = place + x.nbytes <= place_of_targets or place_of_targets + t.nbytes <= place
        return (out, place, step) if out is x and x.is_contiguous() and is_apart else None

    def dtype_name(self, x: Array) -> str:
        """Of tensors, and of the arrays that they are seen as."""
        name = _NAMES.get(x.dtype)
        if name is None:
            name = _NAMES[x.dtype] = NUMPY.dtype_name(x) if isinstance(x, np.ndarray) else super().dtype_name(x)
        return name

    def computing(self, x: Array) -> AbstractContextManager[Any]:
        """NumPy computes, and is not to warn."""
        return np.errstate(all="ignore")

    def enter(self, x: Any) -> Any:
        """As NumPy's arrays; of bfloat16, which it does not have, a copy in float32."""
        if not isinstance(x, torch.Tensor):
            return x
        if x.requires_grad:
            x = x.detach()
        if x.is_neg():
            x = x.resolve_neg()
        x = _in_memory(x)
        array: Array = (x.float() if x.dtype is torch.bfloat16 else x).numpy()
        return array

    def enter_matrix(self, x: Array) -> Array:
        """The same memory, of bfloat16 as its bits; of a view that negates as it is read, a copy."""
        if x.requires_grad:
            x = x.detach()
        if x.is_neg():
            x = x.resolve_neg()
        x = _in_memory(x)
        array: Array = x.view(torch.int16).numpy().view(np.uint16) if x.dtype is torch.bfloat16 else x.numpy()
        return array

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """Torch's own, with its threads."""
        made = _product(torch.from_numpy(a), torch.from_numpy(b), None if out is None else torch.from_numpy(out))
        return made.numpy()

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """Torch's own, with its threads; the first in memory of NumPy's, whose large pages are touched sooner."""
        if total is None:
            return super().add_product(total, a, b, tile)
        return _add_product(torch.from_numpy(total), torch.from_numpy(a), torch.from_numpy(b)).numpy()

    def leave(self, result: Array) -> Array:
        """A tensor that shares its memory."""
        return torch.from_numpy(np.asarray(result))

    def leave_matrix(self, d: Array, logits: Array) -> Array:
        """A tensor that shares its memory, whose bits are those of bfloat16 where the logits' are."""
        if logits.dtype is torch.bfloat16:
            return torch.from_numpy(d.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(d)

    def shared(self, out: Array) -> Array | None:
        """A view that negates as it is read cannot be written through its memory."""
        return None if out.is_neg() else self.enter_matrix(out)
