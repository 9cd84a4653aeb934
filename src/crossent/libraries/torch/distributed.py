"""DTensors: tensors that lie in parts on the processes of a mesh.

What belongs to tokens is computed as DTensors, in operations that torch spreads. Rows that a process has whole it walks
as tensors of its own. Where it has some of the classes of each, the formula is computed of DTensors as well, and its
sums over the classes are reductions among processes. No logits are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from crossent import linear
from crossent.libraries.torch import formula
from crossent.libraries.torch import linear as of_head
from crossent.libraries.torch.library import TORCH, TRACED
from crossent.libraries.torch.recorded import TorchOnGraph
from crossent.math.rows import Head, Rows
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
        return _whole(TORCH.xp.max(x, **options))

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

    def __init__(self, mesh: Any, logits: Array) -> None:
        """mesh: of the DTensors of the call."""
        self.xp: _Namespace
        super().__init__(_Namespace(mesh), "torch", TORCH)
        self.classes = [Shard(1) if _is_of_classes(place, logits) else WHOLE for place in _placements(logits)]
        if any(place != WHOLE for place in self.classes):
            self.state = "in parts of rows"
        elif torch.compiler.is_compiling():
            self.state = "traced"

    def readable(self, x: Array) -> bool:
        """By all processes together, unless torch.compile traces."""
        return not torch.compiler.is_compiling()

    def engine(self, asked: str, like: Array, dtype: str, classes: int, measure: str) -> str:
        """Of whole rows that of the tensors of each process."""
        if self.state == "traced":
            return TRACED.engine(asked, like, dtype, classes, measure)
        if self.state != "eager" and asked == "auto":
            return "array_api"
        return super().engine(asked, like, dtype, classes, measure)

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
        """A sum of what processes have is put together, and so are classes of which some process has none."""
        x = _whole(self.enter(x))
        n = _count(x, lambda place: _is_of_classes(place, x))
        is_even = all(type(place) is Shard for place in x.placements if _is_of_classes(place, x))
        fits = is_even and -(-x.shape[-1] // n) * (n - 1) < x.shape[-1]
        return x if fits else x.redistribute(placements=_places(x, 1))

    def leave(self, result: Array) -> Array:
        """A DTensor."""
        return self.enter(result)

    def leave_matrix(self, d: Array, logits: Array) -> Array:
        """Where the logits lie."""
        return d.redistribute(placements=_whole(self.enter(logits)).placements)

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
        part, local, held = self._local(x, ids)
        taken = torch.take_along_dim(part, torch.where(held, local, 0), -1)
        places = [Partial() if _is_of_classes(place, x) else place for place in x.placements]
        return _whole(_joined(torch.where(held, taken, 0.0), x.device_mesh, places, ids.shape))

    def put_classes(self, x: Array, ids: Array, values: Array) -> Array:
        """Each process puts those that it has."""
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
        return _joined(_everywhere(class_weights, t)[t.to_local()], t.device_mesh, t.placements, t.shape)

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
        own = _own(rows)
        found = super().losses(own) if self.state == "eager" else TRACED.losses(own)
        return _spread(found, rows.logits, 1)

    def losses_and_gradient(self, rows: Rows, scale: Array | float, out: Array | None) -> tuple[Array, Array]:
        """The same, and the gradient, times `scale`."""
        found: tuple[Array, Array | None]
        logits, own = rows.logits, _own(rows)
        if isinstance(scale, DTensor):
            scale = _part(logits, scale).flatten() if scale.ndim else scale.full_tensor()
        if self.state == "eager":
            wide = self.widest(logits.device)[0]
            found = formula.walk(own, torch.as_tensor(scale, dtype=wide, device=logits.device))
        else:
            found = TRACED.losses_and_gradient(own, scale, None)
        return _spread(found[0], logits, 1), _spread(found[1], logits, 0)

    def described(self, rows: Rows) -> Described:
        """Of the shape of the tokens, without a graph."""
        logits, own = _own_head(rows) if isinstance(rows.logits, Head) else (rows.logits, _own(rows))
        if self.state == "eager":
            found = of_head.described(own)
        else:
            found = super().described(own) if isinstance(own.logits, DTensor) else TRACED.described(own)
        losses, maximum, *spread = (_spread(x, logits, 1) for x in (found.losses, found.maximum, *found.spread))
        return Described(losses, maximum, Spread(*spread))

    def linear_losses(self, rows: Rows) -> Array:
        """Of the shape of the tokens. Each process has the weight whole, and the tokens that it has."""
        hidden, own = _own_head(rows)
        found = of_head.losses(own) if self.state == "eager" else TRACED.linear_losses(own)
        return _spread(found, hidden, 1)

    def linear_losses_and_gradients(
        self, rows: Rows, scale: Array | float, needs: tuple[bool, ...]
    ) -> tuple[Array, linear.Gradients]:
        """The same, and the gradients: of weight and bias, the sums of what processes have."""
        hidden, own = _own_head(rows)
        if isinstance(scale, DTensor):
            scale = _part(hidden, scale).flatten() if scale.ndim else scale.full_tensor()
        found, (d, *of_weight) = of_head.walk_rows(own, scale, needs)
        parts = [WHOLE if place == WHOLE else Partial() for place in hidden.placements]
        sums = (None if x is None else _whole(DTensor.from_local(x, hidden.device_mesh, parts)) for x in of_weight)
        return _spread(found, hidden, 1), linear.Gradients(None if d is None else _spread(d, hidden, 0), *sums)


def _placements(x: Array) -> Sequence[Any]:
    """Where a tensor lies, in the words of DTensors; none of one that is none."""
    placements: Sequence[Any] = getattr(x, "placements", ())
    return placements


def _whole(x: Array) -> Array:
    """What the processes have of a sum or a maximum, put together."""
    places = [WHOLE if place.is_partial() else place for place in x.placements]
    return x if places == list(x.placements) else x.redistribute(placements=places)


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


def _everywhere(class_weights: Array, x: Array) -> Array:
    """All class weights, to go with what of `x` this process has; what all say of them adds up to their gradient."""
    parts = [WHOLE if place == WHOLE else Partial() for place in x.placements]
    return class_weights.redistribute(placements=[WHOLE] * len(parts)).to_local(grad_placements=parts)


def _own_head(rows: Rows) -> tuple[Array, Rows]:
    """The hidden states, whose features no process has a part of, and the rows of this process."""
    head: Head = rows.logits
    hidden = head.hidden.redistribute(
        placements=[p if p.is_shard() and not _is_of_classes(p, head.hidden) else WHOLE for p in head.hidden.placements]
    )
    own = _own(rows._replace(logits=hidden))
    head = head._replace(
        hidden=own.logits,
        weight=_everywhere(head.weight, hidden),
        bias=None if head.bias is None else _everywhere(head.bias, hidden),
    )
    return hidden, own._replace(logits=head)


def _own(rows: Rows) -> Rows:
    """The rows of this process, as its own tensors; where it has parts of them, as DTensors with one axis of rows."""
    logits: Array = rows.logits
    class_weights = rows.class_weights
    if class_weights is not None and not _has_parts(logits):
        class_weights = _everywhere(class_weights, logits)
    given = (None if x is None else _part(logits, x) for x in (logits, rows.soft, rows.weight, rows.targets))
    logits, soft, weight, targets = given
    return formula.with_tensors(rows, (logits, soft, weight, class_weights, targets))


def _beside(logits: Array, x: Array) -> Array:
    """What of `x`, of tokens (...) or of several numbers of each, goes with what of the logits this process has."""
    return x.redistribute(placements=_places(logits, 1)).to_local()


def _part(logits: Array, x: Array) -> Array:
    """What of `x` belongs to the rows of this process."""
    axes, less = logits.ndim - 1, logits.ndim - x.ndim
    part = x.redistribute(placements=_places(logits, less)).to_local()
    if not _has_parts(logits):
        return part
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
