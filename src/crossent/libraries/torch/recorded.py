"""Tensors that are recorded: by autograd, which all of them stay on the graph of, or by what traces a program.

TorchOnGraph   eager tensors that all stay on the graph
TorchTraced    what a transformation (compile, export, functorch, fake tensors) will supply values for
SmallTraced    the same, where the logits are few and the compiler had better have the formula
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from crossent.engines import select
from crossent.libraries.base import Inputs, Library
from crossent.libraries.torch.tensors import Torch, is_traced, without_autocast
from crossent.linear import Gradients, filled, whole
from crossent.math import formula
from crossent.math.operations import FLOATS, Operations
from crossent.math.rows import EXPLICIT, Head, Rows
from crossent.math.statistics import Described, RowStatistics
from crossent.types import Array

if TYPE_CHECKING:
    from crossent.options import Options
    from crossent.problem import Ending

# Logits in host memory that an operator takes longer to be called for than its walk saves.
FEW = 1 << 16

# Torch knows whether it exports since 2.7; before, it says no more than that it compiles.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)


def needs_gradient(*given: Any) -> bool:
    """Whether autograd follows one of the tensors among them."""
    return any(getattr(x, "requires_grad", False) for x in given)


def _is_plain_now() -> bool:
    return not (_is_exporting() or torch._C._functorch.peek_interpreter_stack() is not None)


def _compiled_engine_now(memory: str, asked: str) -> str | None:
    return select.compiled(memory, asked) if _is_plain_now() else None


# Whether what is compiled is no exported program, which is to run without this package, nor a transformation.
_is_plain: Callable[[], bool] = torch.compiler.assume_constant_result(_is_plain_now)  # type: ignore[no-untyped-call]
# Called while torch traces, which could not follow the search for an engine.
_compiled_engine: Callable[[str, str], str | None] = torch.compiler.assume_constant_result(  # type: ignore[no-untyped-call]
    _compiled_engine_now
)


def _is_preferred_now() -> bool:
    return select.preferred() != "auto"


# Whether the environment names an engine; read while torch traces, and no guard of the program.
_is_preferred: Callable[[], bool] = torch.compiler.assume_constant_result(_is_preferred_now)  # type: ignore[no-untyped-call]


def are_few(library: Library, logits: Any) -> bool:
    """Whether there are few logits in host memory, of a number that is known: no guard is added to learn it."""
    return library.memory_of(logits.device)[0] == "host" and statically_known_true(logits.numel() <= FEW)


def is_left_to_compiler(library: Library, logits: Any) -> bool:
    """Whether torch.compile is to have the formula of the loss of plain logits, of which no engine is named."""
    return are_few(library, logits) and _is_plain() and not _is_preferred()


class TorchOnGraph(Torch):
    """Eager tensors that all stay on the graph; engines walk them inside functions with derivatives of their own."""

    keep_graph = True

    @property
    def composes(self) -> Library | None:
        """Its own."""
        return self

    def divide(self, a: Array, b: Array | float, dtype: Any) -> Array:
        """As the graph can follow."""
        return Operations.divide(self, a, b, dtype)

    def divide_in(self, wide: Any, a: Array, b: Array | float) -> Array:
        """As the graph can follow."""
        return Operations.divide_in(self, wide, a, b)

    def losses(self, rows: Rows) -> Array:
        """With all derivatives; forward ones too, unless others have some of the classes."""
        from crossent.libraries.torch import graph

        return graph.losses(rows, forward=rows.parts is None)

    def statistics(self, rows: Rows) -> RowStatistics:
        """As constants, but for the class weights of targets."""
        if torch.autograd.forward_ad._current_level >= 0:
            raise RuntimeError("a vocabulary in shards has no forward derivatives in torch; accepted: reverse ones")
        from crossent.libraries.torch import formula, linear

        return linear.statistics(rows) if isinstance(rows.logits, Head) else formula.statistics(rows)

    def pulled(self, function: Callable[..., Array], given: tuple[Array, ...], grad: Array) -> tuple[Array, ...]:
        """What the gradient of a function's result is to what it was given."""
        found: tuple[Array, ...] = torch.func.vjp(function, *given)[1](grad)
        return found

    def product(self, a: Array, b: Array, out: Array | None) -> Array:
        """As the graph can follow."""
        with without_autocast(a.device.type):
            return a @ b

    def add_product(self, total: Array | None, a: Array, b: Array, tile: int) -> Array:
        """As the graph can follow."""
        product = self.product(a, b, None)
        return product if total is None else total + product

    def described(self, rows: Rows) -> Described:
        """As plain operations, without a graph."""
        with torch.no_grad():
            return formula.describe(self, filled(self, rows))

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

    def one_hot_mask(self, shape: tuple[int, int], t: Array) -> Array:
        """Of numbers as wide as a float32, which the compiler compares as many of at a time."""
        return super().one_hot_mask(shape, t.to(torch.int32))

    def readable(self, x: Array) -> bool:
        """Targets may be plain where logits are wrapped."""
        return not is_traced(x)

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """Where torch.compile traces, the engine that walks the logits when the compiled program runs.

        It is none of an exported program, which is to run without this package, nor inside the transformations of
        functorch, which ask for more derivatives than the operator has.
        """
        if torch.compiler.is_compiling() and measure != EXPLICIT and dtype in FLOATS:
            name = _compiled_engine(self.memory_of(like.device)[0], asked)
            if name is not None:
                return name
        if asked in ("auto", "array_api"):
            return "array_api"
        return super().engine(asked, like, dtype, classes, measure)

    def losses(self, rows: Rows) -> Array:
        """As an operator, or by the formula; torch.compile cannot trace functions with forward derivatives."""
        if rows.engine != "array_api":
            from crossent.libraries.torch import operator

            return operator.losses(rows)
        from crossent.libraries.torch import graph

        if not torch.compiler.is_compiling():
            return graph.losses(rows, forward=rows.parts is None)
        if rows.parts is None and _is_plain():
            from crossent.libraries.torch.formula import tensors_of

            return graph.losses_of(*tensors_of(rows), *rows.coefficients)
        return graph.losses(rows, forward=False)

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
        if rows.engine == "array_api" or needs_gradient(rows.soft, rows.weight, rows.class_weights):
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
            or needs_gradient(*inputs[1:5])
        ):
            return super().linear_loss(inputs, rows, ending)
        from crossent.libraries.torch import linear_operator

        losses, found = linear_operator.walk(rows, ending.scale(1.0), needs)
        return linear_operator.known(ending.finish(losses), likes, found)


class SmallTraced(TorchTraced):
    """Few logits in host memory: what an operator takes to be called is more than its walk saves."""

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """The formula, unless the call or the environment names an engine."""
        few = asked == "auto" and torch.compiler.is_compiling() and not _is_preferred()
        return super().engine("array_api" if few else asked, like, dtype, classes, measure)

    def unseen(self, inputs: Inputs, soft: bool, options: Options) -> Array | None:
        """Of plain logits with hard targets, while Dynamo traces: it makes guards of all that it looks into."""
        logits, targets, weights, class_weights, denominator, _, _ = inputs
        if not torch.compiler.is_dynamo_compiling() or soft or options.straight is None or options.engine != "auto":
            return None
        if not weights is class_weights is denominator is None or not is_left_to_compiler(self, logits):
            return None
        words = [getattr(options, name) for name in _WORDS]
        # A number that the compiler has yet to learn stays in sight.
        return None if any(map(self.is_symbolic, words)) else _loss_of(logits, targets, *words)


_WORDS = ("ignore_index", "reduction", "label_smoothing", "smoothing", "z_loss", "temperature", "logit_softcap")


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _loss_of(logits: Tensor, targets: Tensor, *words: Any) -> Tensor:
    from crossent import problem

    result: Tensor = problem.loss(Inputs(logits, targets), dict(zip(_WORDS, words, strict=True)))
    return result
