"""The token losses of tensors: by the engine where they have values, and as a plain function of them, which torch can
differentiate any number of times, by anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crossent import views
from crossent.libraries.base import Inputs, Library
from crossent.libraries.torch.library import TORCH, TRACED, of_dtensors
from crossent.libraries.torch.recorded import TorchOnGraph
from crossent.libraries.torch.tensors import is_traced
from crossent.math import formula
from crossent.math.parts import own_of_part
from crossent.math.rows import Rows, over_lines
from crossent.math.statistics import RowStatistics

# The place of the weights of tokens among the tensors of rows.
_WEIGHT = 2


def tensors_of(rows: Rows) -> tuple[Tensor | None, ...]:
    """What of rows are tensors: those that may be differentiated, in this order, and the targets."""
    return rows.logits, rows.soft, rows.weight, rows.class_weights, rows.targets


def with_tensors(rows: Rows, tensors: tuple[Tensor | None, ...]) -> Rows:
    """The same rows of other tensors: what a transformation has put in their place."""
    logits, soft, weight, class_weights, targets = tensors
    return rows._replace(logits=logits, soft=soft, weight=weight, class_weights=class_weights, targets=targets)


def walk(rows: Rows, scale: Tensor | None, out: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The losses of eager rows by their engine, and with `scale` their gradient, in `out` where it is given."""
    logits = rows.logits
    library = TORCH.eager(logits)
    with library.computing(logits):
        into = None if out is None else library.shared(out)
        losses, d = views.walk(library, entered(library, rows), library.enter(scale), into)
    return library.leave(losses), None if d is None else library.leave_matrix(d, logits)


def entered(library: Library, rows: Rows) -> Rows:
    """The rows as an engine sees them."""
    return rows._replace(
        dtype=library.compute_dtype(rows.logits),
        logits=library.enter_matrix(rows.logits),
        soft=None if rows.soft is None else library.enter_matrix(rows.soft),
        targets=library.enter(rows.targets),
        weight=library.enter(rows.weight),
        class_weights=library.enter(rows.class_weights),
        found=over_lines(library.enter, rows.found),
    )


def statistics(rows: Rows) -> RowStatistics:
    """The statistics (N,) of whole rows of whose classes these have a part, constants to torch but for `own`.

    By the engine where they have values, else by the formula.
    """
    tensors = (None if x is None else x.detach() for x in tensors_of(rows))
    alone = with_tensors(rows, tuple(tensors))
    if is_traced(*tensors_of(rows)):
        found = formula.whole_statistics(TRACED, formula.widened(TRACED, views.flat(TRACED, alone)))
    else:
        library = TORCH.eager(rows.logits)
        with library.computing(rows.logits):
            found = over_lines(library.leave, views.statistics(library, entered(library, alone)))
    return with_own(rows, found)


def with_own(rows: Rows, found: RowStatistics) -> RowStatistics:
    """With the class weights of the targets on the graph of the class weights: their values, and the gradient of what
    the part looks up.
    """
    if found.own is None or rows.targets is None or not getattr(rows.class_weights, "requires_grad", False):
        return found
    looked_up = own_of_part(TRACED, rows._replace(targets=rows.targets.flatten()))
    return found._replace(own=found.own + (looked_up - looked_up.detach()))


def losses(rows: Rows) -> Tensor:
    """The token losses (N,)."""
    library = _library(rows)
    found: Tensor = formula.whole(library, views.flat(library, rows))
    return found


def gradient(rows: Rows, scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """The token losses (N,) and the gradient, of the shape of the logits."""
    library = _library(rows)
    loss, d = formula.whole_with_gradient(library, views.flat(library, rows), scale)
    return loss, d.reshape(rows.logits.shape)


def _library(rows: Rows) -> TorchOnGraph:
    """Of tensors that the formula is computed of."""
    return of_dtensors(Inputs(rows.logits, rows.targets)) or TRACED


def of_others(rows: Rows, places: list[int]) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The losses as a function of the fields 1 to 3, soft targets, weights and class weights; and those there are."""
    if places != [_WEIGHT]:
        # Of soft targets and class weights they are functions.
        rows = rows._replace(found=None)
    tensors = tensors_of(rows)

    def of(*values: Tensor) -> Tensor:
        given = tuple(values[places.index(i)] if i in places else x for i, x in enumerate(tensors))
        return losses(with_tensors(rows, given))

    return of, tuple(x for i in places if (x := tensors[i]) is not None)


def gradients_of_others(rows: Rows, grad: Tensor, needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Of soft targets, weights and class weights; in them the formula of the loss cancels nothing."""
    found: list[Tensor | None] = [None, None, None]
    places = [i for i, need in enumerate(needed, 1) if need]
    if places:
        function, given = of_others(rows, places)
        for i, value in zip(places, _library(rows).pulled(function, given, grad), strict=True):
            found[i - 1] = value
    return found


def gradients_of_gradient(rows: Rows, scale: Tensor, grad: Tensor, needed: tuple[bool, ...]) -> list[Tensor | None]:
    """What `grad` of a gradient (..., V) is to logits, soft targets, weights, class weights and the scale of tokens."""
    tensors = tensors_of(rows)
    inputs = [*tensors[:4], scale]
    places = [i for i, need in enumerate(needed) if need]

    def of(*values: Tensor) -> Tensor:
        given: list[Any] = [values[places.index(i)] if i in places else x for i, x in enumerate(inputs)]
        factor = given.pop()
        return gradient(with_tensors(rows, (*given, tensors[4])), factor)[1]

    found: list[Tensor | None] = [None] * len(inputs)
    if places:
        pull = torch.func.vjp(of, *(inputs[i] for i in places))[1]
        for i, value in zip(places, pull(grad), strict=True):
            found[i] = value
    return found
