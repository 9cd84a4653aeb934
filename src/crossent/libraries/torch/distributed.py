"""DTensors: tensors that lie in parts on the processes of a mesh.

What belongs to tokens is computed as DTensors, in operations that torch spreads. Rows that a process has whole it walks
as tensors of its own; so it does where the classes of a loss are spread over one axis of the mesh, whose processes then
are those of a vocabulary in shards. What else is asked of rows in parts is the formula computed of DTensors, whose sums
over the classes are reductions among processes. No logits are gathered, and no weight that makes those of a loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from crossent import linear
from crossent.engines.select import Kind
from crossent.libraries.base import Inputs
from crossent.libraries.torch import formula
from crossent.libraries.torch import linear as of_head
from crossent.libraries.torch.group import Processes
from crossent.libraries.torch.library import TORCH, TRACED
from crossent.libraries.torch.recorded import TorchOnGraph
from crossent.math.parts import Parts
from crossent.math.rows import LOSS, Head, Rows
from crossent.math.statistics import Described, Spread
from crossent.types import Array

WHOLE = Replicate()


class _Namespace:
    """Torch's functions. What is made is the same on every process of a mesh, and a sum or a maximum is put together.

    Left in parts, torch would rather move the matrix that meets it next.
    """

    def __init__(self, mesh: Any) -> None:
        self.mesh = mesh

    def __getattr__(self, name: str) -> Any:
        return getattr(TORCH.xp, name)

    def arange(self, *numbers: int, **options: Any) -> Array:
        return self.replicated(TORCH.xp.arange(*numbers, **options))

    def zeros(self, shape: Any, **options: Any) -> Array:
        return self.replicated(TORCH.xp.zeros(shape, **options))

    def ones(self, shape: Any, **options: Any) -> Array:
        return self.replicated(TORCH.xp.ones(shape, **options))

    def full(self, shape: Any, value: Any, **options: Any) -> Array:
        return self.replicated(TORCH.xp.full(shape, value, **options))

    def max(self, x: Array, **options: Any) -> Array:
        return _whole(TORCH.xp.max(_fitting(x), **options))

    def argmax(self, x: Array, axis: int | None = None) -> Array:
        """Along the last axis, or of all."""
        if axis is None or not isinstance(x, DTensor):
            return TORCH.xp.argmax(x, axis=axis)
        last = x.shape[-1]
        # Of NaN it is the last.
        at = x == self.max(x, axis=-1)[..., None]
        return last - self.max(TORCH.xp.where(at, last - self.arange(last, device=x.device), 1), axis=-1)

    def sum(self, x: Array, **options: Any) -> Array:
        return _whole(TORCH.xp.sum(x, **options))

    def any(self, x: Array, **options: Any) -> Array:
        return _whole(TORCH.xp.any(x, **options))

    def all(self, x: Array, **options: Any) -> Array:
        return _whole(TORCH.xp.all(x, **options))

    def replicated(self, x: Array) -> Array:
        return _joined(x, self.mesh, [WHOLE] * self.mesh.ndim, x.shape)


class Distributed(TorchOnGraph):
    """Of one call, whose tensors are DTensors, or the same on every process."""

    leaves_out = False
    knows_parts = True

    def __init__(self, mesh: Any, inputs: Inputs) -> None:
        """mesh: of the DTensors of the call."""
        self.xp: _Namespace
        super().__init__(_Namespace(mesh), "torch", TORCH)
        logits, head = inputs.logits, inputs.head
        self.classes = [Shard(1) if _is_of_classes(place, logits) else WHOLE for place in _placements(logits)]
        self.has_parts = head is None and any(place != WHOLE for place in self.classes)
        self.has_shards = (_axis(logits, logits.ndim - 1) if head is None else _axis(head, 0)) is not None
        if torch.compiler.is_compiling():
            self.state = "traced"

    def readable(self, x: Array) -> bool:
        """By all processes together, unless torch.compile traces."""
        return not torch.compiler.is_compiling()

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """That of the tensors of each process; those that torch calls when a program runs walk whole rows."""
        is_whole = not (self.has_shards or self._is_composed(measure))
        if self.state == "traced" and is_whole:
            return TRACED.engine(asked, like, dtype, classes, measure)
        if asked == "auto" and (self.state == "traced" or self._is_composed(measure)):
            return "array_api"
        return super().engine(asked, like, dtype, classes, measure)

    def kind(self, like: Array, dtype: str, classes: int, measure: str) -> Kind:
        """No engine walks what the formula is computed of."""
        kind = super().kind(like, dtype, classes, measure)
        return kind._replace(state="in parts of rows") if self._is_composed(measure) else kind

    def describe(self, x: Array) -> str:
        """With what a process has of rows."""
        return super().describe(x) + (", in parts of rows" if self.has_parts else "")

    def _is_composed(self, measure: str) -> bool:
        """Whether the formula is computed of DTensors."""
        return self.has_parts and not (self.has_shards and measure == LOSS)

    def any_outside(self, x: Array, stop: int) -> bool:
        """Of all processes, so that all raise or none."""
        return bool(((x < 0) | (x >= stop)).sum().full_tensor().item())

    def whole(self, x: Array) -> Array:
        """Gathered."""
        return x.full_tensor()

    def device_name(self, x: Array) -> str | None:
        """With the mesh of a DTensor."""
        return f"{x.device} of {x.device_mesh}" if isinstance(x, DTensor) else super().device_name(x)

    def on_one_device(self, a: Array, b: Array) -> bool:
        """A tensor that is no DTensor is on every mesh."""
        meshes = {x.device_mesh for x in (a, b) if isinstance(x, DTensor)}
        return len(meshes) <= 1 and super().on_one_device(a, b)

    def enter(self, x: Any) -> Any:
        """A tensor that is no DTensor is the same on every process."""
        return x if not isinstance(x, torch.Tensor) or isinstance(x, DTensor) else self.xp.replicated(x)

    def enter_matrix(self, x: Array) -> Array:
        """A sum of what processes have is put together."""
        return _whole(self.enter(x))

    def first_rows(self, x: Array, n: int) -> Array:
        """All: each process leaves out of its own, where torch would gather them."""
        return x

    def leave(self, result: Array) -> Array:
        """A DTensor."""
        return self.enter(result)

    def leave_matrix(self, d: Array, logits: Array) -> Array:
        """Where the logits lie."""
        return d.redistribute(placements=_settled(self.enter(logits)))

    def one_hot_mask(self, shape: tuple[int, int], t: Array) -> Array:
        """In the parts in which the classes are."""
        numbers = self.xp.replicated(torch.arange(shape[1], dtype=t.dtype, device=t.device)[None, :])
        found: Array = numbers.redistribute(placements=self.classes) == t[:, None]
        return found

    def take_target(self, x: Array, t: Array) -> Array:
        """An index would gather the rows."""
        return self.sum_of_target(x, t)

    def take_classes(self, x: Array, ids: Array) -> Array:
        """Each process takes those that it has, and the sum is put together."""
        x = _fitting(x)
        part, local, held = self._local(x, ids)
        taken = torch.take_along_dim(part, torch.where(held, local, 0), -1)
        places = [Partial() if _is_of_classes(place, x) else place for place in x.placements]
        return _whole(_joined(torch.where(held, taken, 0.0), x.device_mesh, places, ids.shape))

    def put_classes(self, x: Array, ids: Array, values: Array) -> Array:
        """Each process puts those that it has."""
        x = _fitting(x)
        part, local, held = self._local(x, ids)
        # One column more, for those that it has not.
        wide = torch.cat([part, part[..., :1]], -1)
        values = _beside(x, values).to(part.dtype)
        wide = wide.scatter(-1, torch.where(held, local, part.shape[-1]), values)
        return _joined(wide[..., :-1], x.device_mesh, x.placements, x.shape)

    def as_matrix(self, x: Array) -> Array:
        """As they are, since torch merges no axes that lie in uneven parts."""
        return x

    def _local(self, x: Array, ids: Array) -> tuple[Array, Array, Array]:
        """What this process has of `x` (..., V); classes (..., K) of its rows by their places there, and which are."""
        part, ids = x.to_local(), _beside(x, ids)
        v = x.shape[-1]
        places = [Shard(0) if _is_of_classes(place, x) else WHOLE for place in x.placements]
        numbers = self.xp.arange(v, dtype=ids.dtype, device=ids.device).redistribute(placements=places).to_local()
        local = ids - numbers[:1]
        return part, local, (local >= 0) & (local < part.shape[-1])

    def weights_of(self, class_weights: Array, t: Array) -> Array:
        """Looked up in each process: torch merges no axes that lie in uneven parts."""
        return _joined(_of_classes(class_weights, t)[t.to_local()], t.device_mesh, t.placements, t.shape)

    def per_token(self, x: Array, tokens: tuple[int, ...]) -> Array:
        """Of the shape of the tokens."""
        return x.broadcast_to(tokens)

    def pulled(self, function: Callable[..., Array], given: tuple[Array, ...], grad: Array) -> tuple[Array, ...]:
        """By the graph: torch.func does not see a DTensor in what it wraps."""
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            given = given if again else tuple(x.detach().requires_grad_() for x in given)
            return torch.autograd.grad(function(*given), given, grad, create_graph=again)

    def losses(self, rows: Rows) -> Array:
        """Of the shape of the tokens."""
        own, logits = _own(rows, _axis_of(rows))
        found = super().losses(own) if self._walks(own) else TRACED.losses(own)
        return _spread(found, logits, 1)

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """The same, and the gradient, times `scale`."""
        found: tuple[Array, Array | None]
        own, logits = _own(rows, _axis_of(rows))
        if isinstance(scale, DTensor):
            part = _part if isinstance(own.logits, DTensor) else _beside
            scale = part(logits, scale).flatten() if scale.ndim else scale.full_tensor()
        if self._walks(own):
            wide = self.widest(logits.device)[0]
            found = formula.walk(own, torch.as_tensor(scale, dtype=wide, device=logits.device))
        else:
            found = TRACED.losses_and_gradient(own, scale, None)
        return _spread(found[0], logits, 1), _spread(found[1], logits, 0)

    def _walks(self, own: Rows) -> bool:
        """Whether an engine does."""
        return self.state == "eager" and not isinstance(own.logits, DTensor)

    def described(self, rows: Rows) -> Described:
        """Of the shape of the tokens, without a graph."""
        own, logits = _own_head(rows, None) if isinstance(rows.logits, Head) else _own(rows, None)
        if self._walks(own):
            found = of_head.described(own)
        else:
            found = super().described(own) if isinstance(own.logits, DTensor) else TRACED.described(own)
        losses, maximum, *spread = (_spread(x, logits, 1) for x in (found.losses, found.maximum, *found.spread))
        return Described(losses, maximum, Spread(*spread))

    def linear_losses(self, rows: Rows) -> Array:
        """Of the shape of the tokens. Each process has the weight of all classes, or of its part, for its tokens."""
        own, hidden = self._own_head(rows)
        found = of_head.losses(own) if self.state == "eager" else TRACED.linear_losses(own)
        return _spread(found, hidden, 1)

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, linear.Gradients]:
        """The same, and the gradients: of weight and bias, the sums of what processes have."""
        own, hidden = self._own_head(rows)
        if isinstance(scale, DTensor):
            scale = _beside(hidden, scale).flatten() if scale.ndim else scale.full_tensor()
        walk = of_head.walk_rows if self.state == "eager" else TRACED.linear_losses_and_gradients
        found, (d, *of_weight) = walk(own, scale, needs)
        sums = (
            None if x is None else _sum_of_classes(x, like, hidden, _axis_of(rows))
            for x, like in zip(of_weight, rows.logits[1:3], strict=True)
        )
        return _spread(found, hidden, 1), linear.Gradients(None if d is None else _spread(d, hidden, 0), *sums)

    def _own_head(self, rows: Rows) -> tuple[Rows, Array]:
        """With the statistics of whole rows: processes have blocks of their own, and meet for all tokens at once."""
        own, hidden = _own_head(rows, _axis_of(rows))
        if own.parts is not None and self.state == "eager":
            # The logits of one block are made once.
            own = own._replace(logits=own.logits._replace(made=[]))
            own = own._replace(found=of_head.statistics(own))
        return own, hidden


def _placements(x: Array) -> Sequence[Any]:
    """Where a tensor lies, in the words of DTensors; none of one that is none."""
    placements: Sequence[Any] = getattr(x, "placements", ())
    return placements


def _settled(x: Array) -> list[Any]:
    """Where `x` lies once what the processes have of a sum or a maximum is put together."""
    return [WHOLE if place.is_partial() else place for place in x.placements]


def _whole(x: Array) -> Array:
    """What the processes have of a sum or a maximum, put together."""
    places = _settled(x)
    return x if places == list(x.placements) else x.redistribute(placements=places)


def _fitting(x: Array) -> Array:
    """`x`, whole in its last axis where some process has nothing of that, of which torch has no maximum."""
    spread = [place for place in x.placements if _is_of_classes(place, x)]
    n = _count(x, lambda place: _is_of_classes(place, x))
    fits = not spread or (
        all(type(place) is Shard for place in spread) and -(-x.shape[-1] // n) * (n - 1) < x.shape[-1]
    )
    return x if fits else x.redistribute(placements=_places(x, 1))


def _axis(x: Array, dim: int) -> int | None:
    """The axis of the mesh over which that dimension of `x`, the classes, is spread; None for none or several."""
    axes = [i for i, place in enumerate(_placements(x)) if getattr(place, "dim", None) == dim]
    return axes[0] if len(axes) == 1 and type(x.placements[axes[0]]) is Shard else None


def _axis_of(rows: Rows) -> int | None:
    """That of the rows of a loss, whose classes then are walked in shards."""
    x = rows.logits
    if rows.coefficients.measure != LOSS:
        return None
    return _axis(x.weight, 0) if isinstance(x, Head) else _axis(x, x.ndim - 1)


def _count(x: Array, where: Callable[[Any], bool]) -> int:
    """How many parts `x` is in along some axes of the mesh: those where it lies so."""
    # A list, since torch traces no product of what is made one by one.
    return math.prod([n for n, place in zip(x.device_mesh.shape, x.placements, strict=True) if where(place)])


def _is_of_classes(place: Any, logits: Array) -> bool:
    return bool(getattr(place, "dim", None) == logits.ndim - 1)


def _has_parts(logits: Array) -> bool:
    """Whether the classes of a row are on several processes."""
    return any(_is_of_classes(place, logits) for place in logits.placements)


def _places(logits: Array, less: int, *, merged: bool = False) -> list[Any]:
    """Where the logits lie; with `less` of 1, what belongs to tokens, of which a process with a part of a row has all.

    merged: whether one axis takes the place of those of the tokens.
    """
    places: list[Any] = []
    for place in logits.placements:
        if _is_of_classes(place, logits):
            places.append(WHOLE if less else Shard(1) if merged else place)
        else:
            places.append(Shard(0) if merged and place != WHOLE else place)
    return places


def _summands(x: Array, axis: int | None) -> list[Any]:
    """Where that lies which processes say of classes: each of its part of `x` and, along an axis, of its classes."""
    return [Shard(0) if i == axis else WHOLE if place == WHOLE else Partial() for i, place in enumerate(x.placements)]


def _of_classes(given: Array, x: Array, axis: int | None = None) -> Array:
    """What belongs to classes, all or those of this process, to go with what of `x` it has; what all say of it adds up
    to its gradient.
    """
    places = [Shard(0) if i == axis else WHOLE for i in range(len(x.placements))]
    return given.redistribute(placements=places).to_local(grad_placements=_summands(x, axis))


def _cut(n: int, mesh: Any, axis: int) -> tuple[int, int]:
    """The first of `n` that torch gives this process of an axis of the mesh, and how many."""
    step = -(-n // mesh.size(axis))
    first = min(step * mesh.get_local_rank(axis), n)
    return first, min(step, n - first)


def _sum_of_classes(d: Array, like: Array, x: Array, axis: int | None) -> Array:
    """What processes say of `like`, which belongs to classes, each of its part of `x`, put together; 0 of padding."""
    mesh, n = x.device_mesh, len(like)
    size = n if axis is None else _cut(n, mesh, axis)[1]
    padding = d.new_zeros((size - len(d), *d.shape[1:]))
    return _whole(_joined(torch.cat([d, padding]), mesh, _summands(x, axis), like.shape))


def _own_head(rows: Rows, axis: int | None) -> tuple[Rows, Array]:
    """The rows of this process, and the hidden states: no process has a part of their features, and those with parts of
    the classes have the same tokens.
    """
    head: Head = rows.logits
    places = [
        place if place.is_shard() and i != axis and not _is_of_classes(place, head.hidden) else WHOLE
        for i, place in enumerate(head.hidden.placements)
    ]
    hidden = head.hidden.redistribute(placements=places)
    own = _of_process(rows._replace(logits=hidden), axis, len(head.weight))
    head = head._replace(
        hidden=own.logits,
        weight=_of_classes(head.weight, hidden, axis)[: own.width],
        bias=None if head.bias is None else _of_classes(head.bias, hidden, axis)[: own.width],
    )
    return own._replace(logits=head), hidden


def _own(rows: Rows, axis: int | None) -> tuple[Rows, Array]:
    """The rows of this process as its own tensors, with its classes along an axis of the mesh; without one, where it
    has parts of them, as DTensors with one axis of rows. And the logits, as they lie then.
    """
    if axis is not None or not _has_parts(rows.logits):
        return _of_process(rows, axis, rows.vocabulary), rows.logits
    logits = _fitting(rows.logits)
    rows = rows._replace(logits=logits, engine="array_api")
    if not _has_parts(logits):
        return _of_process(rows, None, rows.vocabulary), logits
    given = (logits, rows.soft, rows.weight, rows.targets)
    matrix, soft, weight, targets = (None if x is None else _part(logits, x) for x in given)
    return formula.with_tensors(rows, (matrix, soft, weight, rows.class_weights, targets)), logits


def _of_process(rows: Rows, axis: int | None, padded: int) -> Rows:
    """Rows of logits or hidden states as a process has them, with its classes along an axis of the mesh or with all.

    padded: how many classes there are together with padding.
    """
    x: Array = rows.logits
    soft, class_weights = rows.soft, rows.class_weights
    if axis is not None:
        mesh = x.device_mesh
        first, size = _cut(padded, mesh, axis)
        size = max(0, min(size, rows.vocabulary - first))
        rows = rows._replace(first_class=first, parts=Parts(Processes(mesh.get_group(axis)), size, True))
        # Cut as those are.
        soft, class_weights = (None if given is None else _padded(given, padded) for given in (soft, class_weights))
    if soft is not None:
        places = [Shard(x.ndim - 1) if i == axis else place for i, place in enumerate(x.placements)]
        soft = soft.redistribute(placements=places).to_local()[..., : rows.width]
    if class_weights is not None:
        class_weights = _of_classes(class_weights, x, axis)[: rows.width]
    weight, targets = (None if given is None else _beside(x, given) for given in (rows.weight, rows.targets))
    return formula.with_tensors(rows, (x.to_local(), soft, weight, class_weights, targets))


def _padded(x: Array, n: int) -> Array:
    """Numbers of classes (..., V), and 0 up to `n`."""
    rest = n - x.shape[-1]
    return torch.cat([x, x.new_zeros((*x.shape[:-1], rest))], -1) if rest else x


def _beside(logits: Array, x: Array) -> Array:
    """What of `x`, of tokens (...) or of several numbers of each, goes with what of the logits this process has."""
    return x.redistribute(placements=_places(logits, 1)).to_local()


def _part(logits: Array, x: Array) -> Array:
    """What of `x` belongs to the rows of this process, as a DTensor with one axis of rows."""
    axes, less = logits.ndim - 1, logits.ndim - x.ndim
    part = x.redistribute(placements=_places(logits, less)).to_local()
    # Merged here, since torch merges no axes that lie in uneven parts; it takes all processes to have as many rows.
    part = part.reshape(math.prod(part.shape[:axes]), *part.shape[axes:])
    count = _count(logits, lambda place: place != WHOLE and not _is_of_classes(place, logits))
    shape = (count * len(part), *x.shape[axes:])
    return _joined(part, logits.device_mesh, _places(logits, less, merged=True), shape)


def _spread(x: Array, logits: Array, less: int) -> Array:
    """A result of the rows of this process as the part of a DTensor that lies as the logits do."""
    if isinstance(x, DTensor):
        x = x.redistribute(placements=_places(logits, less, merged=True)).to_local()
    shape = logits.shape[: logits.ndim - less]
    part = x.reshape(logits.to_local().shape[: len(shape)])
    return _joined(part, logits.device_mesh, _places(logits, less), shape)


def _joined(part: Array, mesh: Any, places: Sequence[Any], shape: Sequence[int]) -> Array:
    """The DTensor of that shape of which `part` is what this process has."""
    # The compiler knows torch's own, and takes no second derivatives.
    joined = _join if torch.compiler.is_compiling() else _Joined.apply
    return joined(part, mesh, places, torch.Size(shape))


def _join(part: Array, mesh: Any, places: Sequence[Any], shape: torch.Size) -> Array:
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, mesh, places, run_check=False, shape=shape, stride=stride)


class _Joined(torch.autograd.Function):
    """With a gradient that has a gradient: that of torch's own has none, and is taken for a constant."""

    @staticmethod
    def forward(ctx: Any, part: Array, mesh: Any, places: Sequence[Any], shape: torch.Size) -> Array:
        ctx.places = places
        return _join(part, mesh, places, shape)

    @staticmethod
    def backward(ctx: Any, grad: Array) -> tuple[Any, ...]:
        whole = [WHOLE if place.is_partial() else place for place in ctx.places]
        # What is said of the gradient of a summand is a summand again.
        return grad.redistribute(placements=whole).to_local(grad_placements=ctx.places), None, None, None
