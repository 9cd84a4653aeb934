"""PyTorch's tensors. What they are is asked once in a call: `Torch.of_call` gives the object for the state they are in.

TorchAsNumPy     eager tensors in host memory, which NumPy sees and computes on
Torch            eager tensors in a device's memory
…FollowedByTorch the same, of which logits alone are differentiated: the loss is one function on the graph
TorchOnGraph     eager tensors that all stay on the graph
TorchTraced      what a transformation (compile, export, functorch, fake tensors) will supply values for
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import array_api_compat.torch
import numpy as np
import torch

from crossent import views
from crossent.engines import select
from crossent.libraries.base import NO_CONTEXT, Inputs, Library
from crossent.libraries.numpy import NUMPY, NumPy
from crossent.linear import Gradients, whole
from crossent.math.operations import FLOATS, Operations
from crossent.math.rows import Rows
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.problem import Ending

_NAMES: dict[Any, str] = {}
# Types of devices that have no float64.
_NO_FLOAT64 = ("mps",)
# Where torch keeps the precision that float32 products of a type of device may have.
_MATMUL: dict[str, Any] = {"cuda": torch.backends.cuda.matmul, "cpu": getattr(torch.backends.mkldnn, "matmul", None)}
# Torch knows whether it exports since 2.7; before, it says no more than that it compiles.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


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


@contextlib.contextmanager
def _whole_products(device: str) -> Iterator[None]:
    """Products in the dtype of their factors, whatever autocast and the precision that the process allows say."""
    matmul: Any = _MATMUL.get(device)
    allowed = getattr(matmul, "fp32_precision", "none")  # since torch 2.9
    try:
        if allowed not in ("none", "ieee"):
            matmul.fp32_precision = "ieee"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        if allowed not in ("none", "ieee"):
            matmul.fp32_precision = allowed


def _needs_gradient(*given: Any) -> bool:
    return any(getattr(x, "requires_grad", False) for x in given)


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
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    for x in given:
        kind = type(x)
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            if x.is_meta or wrapped(x):
                return True
        elif isinstance(x, torch.Tensor):
            return True
    return False


def of_dtensors(inputs: Inputs) -> TorchOnGraph | None:
    """The library of a call with a DTensor, which has values; None where there is none."""
    for x in inputs:
        # By what it alone has: its type would cost every import of torch that of its distributed part.
        if isinstance(x, torch.Tensor) and hasattr(x, "device_mesh"):
            from crossent.libraries.torch.distributed import Distributed

            return Distributed(x.device_mesh, inputs.logits)
    return None


class Torch(_Tensors, Library):
    """Eager tensors in a device's memory; and the object that torch's type stands for."""

    in_place = True

    # --- what the arrays of a call are --------------------------------------------------------------------------------

    def of_call(self, inputs: Inputs) -> Library:
        """One of the states above."""
        if is_traced(*inputs):
            return of_dtensors(inputs) or TRACED
        if torch.autograd.forward_ad._current_level >= 0:
            return ON_GRAPH
        logits = inputs[0]
        in_host = self.memory_of(logits.device)[0] == "host" and logits.layout == torch.strided
        if torch.is_grad_enabled():
            for x in inputs[1:5]:
                if x is not None and getattr(x, "requires_grad", False):
                    return ON_GRAPH
            if logits.requires_grad or (inputs[5] is not None and _needs_gradient(*inputs[5:])):
                return FOLLOWED_AS_NUMPY if in_host else FOLLOWED
        return AS_NUMPY if in_host else self

    def eager(self, x: Array) -> Library:
        """The library of a plain tensor that nothing follows."""
        return AS_NUMPY if self.memory_of(x.device)[0] == "host" else TORCH

    def off_graph(self, inputs: Inputs) -> tuple[Library, Inputs]:
        """Detached, but for what is traced."""
        library = self.eager(inputs[0])
        if is_traced(*inputs):
            library = of_dtensors(inputs) or TRACED
            if library is TRACED:
                return TRACED, inputs
        if torch.is_grad_enabled() and _needs_gradient(*inputs):
            inputs = Inputs(*(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs))
        return library, inputs

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
        """In the dtype of the two."""
        with _whole_products(a.device.type):
            return torch.mm(a, b, out=out)

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """Added as it is made."""
        if total is None:
            return self.product(a, b, None)
        with _whole_products(a.device.type):
            return total.addmm_(a, b)

    def put_rows(self, x: Array, places: Array | slice, rows: Array) -> None:
        """By assignment."""
        x[places] = rows

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
        array: Array = (x.float() if x.dtype is torch.bfloat16 else x).numpy()
        return array

    def enter_matrix(self, x: Array) -> Array:
        """The same memory, of bfloat16 as its bits; of a view that negates as it is read, a copy."""
        if x.requires_grad:
            x = x.detach()
        if x.is_neg():
            x = x.resolve_neg()
        array: Array = x.view(torch.int16).numpy().view(np.uint16) if x.dtype is torch.bfloat16 else x.numpy()
        return array

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """Torch's own, with its threads."""
        made = TORCH.product(torch.from_numpy(a), torch.from_numpy(b), None if out is None else torch.from_numpy(out))
        return made.numpy()

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """Torch's own, with its threads; the first in memory of NumPy's, whose large pages are touched sooner."""
        if total is None:
            return super().add_product(total, a, b, tile)
        return TORCH.add_product(torch.from_numpy(total), torch.from_numpy(a), torch.from_numpy(b), tile).numpy()

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


class _Followed(Library):
    """Of whose tensors logits alone are differentiated."""

    def loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """One function on the graph."""
        from crossent.libraries.torch.graph import plain_loss

        return plain_loss(self, inputs, rows, ending)

    def linear_loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """One function on the graph."""
        from crossent.libraries.torch.linear import plain_loss

        return plain_loss(self, inputs, rows, ending)


class FollowedByTorch(_Followed, Torch):
    """`Torch`, on the graph."""


class AsNumPyFollowedByTorch(_Followed, TorchAsNumPy):
    """`TorchAsNumPy`, on the graph."""


class TorchOnGraph(Torch):
    """Eager tensors that all stay on the graph; engines walk them inside functions with derivatives of their own."""

    keep_graph = True

    def divide(self, a: Array, b: Array | float, dtype: Any) -> Array:
        """As the graph can follow."""
        return Operations.divide(self, a, b, dtype)

    def divide_in(self, wide: Any, a: Array, b: Array | float) -> Array:
        """As the graph can follow."""
        return Operations.divide_in(self, wide, a, b)

    def losses(self, rows: Rows) -> Array:
        """With all derivatives, forward ones too."""
        from crossent.libraries.torch import graph

        return graph.losses(rows, forward=True)

    def pulled(self, function: Callable[..., Array], given: tuple[Array, ...], grad: Array) -> tuple[Array, ...]:
        """What the gradient of a function's result is to what it was given."""
        found: tuple[Array, ...] = torch.func.vjp(function, *given)[1](grad)
        return found

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """As the graph can follow."""
        with torch.autocast(a.device.type, enabled=False):
            return a @ b

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """As the graph can follow."""
        product = self.product(a, b, None)
        return product if total is None else total + product

    def linear_losses(self, rows: Rows) -> Array:
        """In blocks; under forward differentiation, which has no function of its own here, whole."""
        from crossent.libraries.torch import linear

        if torch.autograd.forward_ad._current_level >= 0:
            return whole(self, rows)[0]
        return linear.losses(rows)


class TorchTraced(TorchOnGraph):
    """What a transformation will supply values for."""

    state = "traced"
    in_place = False
    leaves_out = False

    def readable(self, x: Array) -> bool:
        """Targets may be plain where logits are wrapped."""
        return not is_traced(x)

    def engine(self, asked: str, like: Array, dtype: str, classes: int, clips: bool) -> str:
        """Where torch.compile traces, the engine that walks the logits when the compiled program runs.

        It is none of an exported program, which is to run without this package, nor inside the transformations of
        functorch, which ask for more derivatives than the operator has.
        """
        if torch.compiler.is_compiling() and not clips and dtype in FLOATS:
            name = _compiled_engine(self.memory_of(like.device)[0], asked)
            if name is not None:
                return name
        if asked in ("auto", "array_api"):
            return "array_api"
        return super().engine(asked, like, dtype, classes, clips)

    def losses(self, rows: Rows) -> Array:
        """As an operator, or by the formula; torch.compile cannot trace functions with forward derivatives."""
        if rows.engine != "array_api":
            from crossent.libraries.torch import operator

            return operator.losses(rows)
        from crossent.libraries.torch import graph

        return graph.losses(rows, forward=not torch.compiler.is_compiling())

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """As operators, or by the formula."""
        if rows.engine != "array_api":
            from crossent.libraries.torch import operator

            device = rows.logits.device
            scale = torch.as_tensor(scale, dtype=self.widest(device)[0], device=device)
            return operator.losses(rows), operator.gradient(rows, scale)
        from crossent.libraries.torch import formula

        return formula.gradient(rows, scale)

    def linear_losses(self, rows: Rows) -> Array:
        """As an operator, which has no derivatives but those of hidden, weight and bias; or whole."""
        if rows.engine == "array_api" or _needs_gradient(rows.soft, rows.weight, rows.class_weights):
            return whole(self, rows)[0]
        from crossent.libraries.torch import linear_operator

        return linear_operator.losses(rows)

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, Gradients]:
        """As an operator, or whole."""
        if rows.engine == "array_api":
            return whole(self, rows, scale, needs)
        from crossent.libraries.torch import linear_operator

        return linear_operator.walk(rows, scale, needs)

    def linear_loss(self, inputs: Inputs, rows: Rows, ending: Ending) -> Array:
        """A mean or a sum of which nothing else is differentiated makes its gradients with the loss."""
        likes = inputs.logits, inputs.head, inputs.bias
        needs = tuple(x is not None and x.requires_grad for x in likes)
        if (
            rows.engine == "array_api"
            or ending.reduction not in ("mean", "sum")
            or not (torch.is_grad_enabled() and any(needs))
            or _needs_gradient(*inputs[1:5])
        ):
            return super().linear_loss(inputs, rows, ending)
        from crossent.libraries.torch import linear_operator

        losses, found = linear_operator.walk(rows, ending.scale(1.0), needs)
        return linear_operator.known(ending.finish(losses), likes, found)


def _compiled_engine_now(memory: str, asked: str) -> str | None:
    if _is_exporting() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    return select.compiled(memory, asked)


# Called while torch traces, which could not follow the search for an engine.
_compiled_engine: Callable[[str, str], str | None] = torch.compiler.assume_constant_result(  # type: ignore[no-untyped-call]
    _compiled_engine_now
)
# What torch's compiler and Triton ask. The public function makes an object, which takes longer than a launch.
_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", lambda index: int(torch.cuda.current_stream(index).cuda_stream)
)

TORCH = Torch(array_api_compat.torch, "torch")
AS_NUMPY = TorchAsNumPy(np, "torch", TORCH)
FOLLOWED = FollowedByTorch(array_api_compat.torch, "torch", TORCH)
FOLLOWED_AS_NUMPY = AsNumPyFollowedByTorch(np, "torch", TORCH)
ON_GRAPH = TorchOnGraph(array_api_compat.torch, "torch", TORCH)
TRACED = TorchTraced(array_api_compat.torch, "torch", TORCH)
