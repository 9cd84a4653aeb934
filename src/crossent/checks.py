"""Every error about arrays, raised the same way for every library: the same type and text, naming what was given and
what is accepted.

Nothing here looks at the values of logits or weights; the only values read are those of targets that are wrong.
"""

from __future__ import annotations

import math
import operator
from itertools import combinations
from typing import Any, Final, NamedTuple

import numpy as np

from crossent import libraries, views
from crossent.libraries import Inputs, Library
from crossent.math.operations import FLOATS, Operations
from crossent.options import named, number, shown
from crossent.types import Array

_INTEGERS = ("int", "uint")
# What other libraries ignore unless they are told otherwise.
_USUALLY_IGNORED = -100
# What rounding may leave of a log-probability of 0.
_ROUNDING = 1e-3


class Form(NamedTuple):
    """What the logits of a call are, without their values: their shape, that of the tokens, and the dtype's name.

    given: the name of the argument that they are, or are made of. targets: that of the targets.
    """

    shape: tuple[int, ...]
    tokens: tuple[int, ...]
    dtype: str
    soft: bool
    given: str = "logits"
    targets: str = "targets"


def _shape(library: Library, name: str, x: Array) -> tuple[int, ...]:
    """The shape of the argument `name`; ValueError where a length is one that only computing would show."""
    shape = tuple(x.shape)
    if library.state == "lazy" and any(type(n) is float for n in shape):
        raise ValueError(f"{name} has the unknown shape {shape}; accepted: a shape of known lengths")
    return shape


def library_of(name: str, x: object, accepted: str) -> Library:
    """The library of an array; TypeError where `x` is none that this package serves."""
    if type(x) is np.ndarray:
        return libraries.NUMPY
    library = libraries.of(x)
    if library is None:
        kind, remedy = type(x), ""
        if isinstance(x, (list, tuple)):
            remedy = "; make an array of it first"
        elif kind.__module__ != "builtins":
            remedy = f", of {libraries.SERVED}"
        raise TypeError(f"{name} is {named(kind)}; accepted: {accepted}{remedy}")
    refusal = library.refusal(x)
    if refusal is not None:
        what, instead = refusal
        raise TypeError(f"{name} is {what}; accepted: {accepted}, {instead}")
    return library


def beside(name: str, x: Array, logits: Array, library: Library, accepted: str, given: str = "logits") -> None:
    """TypeError unless `x` is an array of the library of `logits`, ValueError unless it is on the same device.

    given: the name of the argument `logits`.
    """
    theirs = library_of(name, x, accepted)
    if theirs is not library.family:
        raise TypeError(f"{name} is a {theirs.name} array and {given} is a {library.name} array; accepted: one library")
    if not library.on_one_device(x, logits):
        here, there = library.device_name(x), library.device_name(logits)
        raise ValueError(f"{name} is on device {here} and {given} is on device {there}; accepted: the same for both")


def logits_alone(library: Library, logits: Array) -> tuple[tuple[int, ...], str]:
    """The shape of the logits and the name of their dtype."""
    dtype = library.dtype_name(logits)
    if dtype not in FLOATS:
        raise TypeError(f"logits has dtype {dtype}; accepted: {', '.join(FLOATS)}")
    shape = tuple(logits.shape) if library.state == "eager" else _shape(library, "logits", logits)
    if not shape:
        raise ValueError("logits has shape (); accepted: (..., V)")
    return shape, dtype


def logits_and_targets(
    library: Library,
    logits: Array,
    targets: Array,
    made: tuple[tuple[int, ...], str] | None = None,
    may_be_soft: bool = True,
    size: Any = None,
) -> Form:
    """What the logits are, and whether the targets are soft.

    made: the shape and the dtype's name of the logits that will be made of the array `logits`, hidden states then.
    size: how many classes the first columns are of a part of a vocabulary; None where it is whole.
    """
    shape, dtype = logits_alone(library, logits) if made is None else made
    given = "logits" if made is None else "hidden"
    if type(targets) is not np.ndarray or type(logits) is not np.ndarray:
        accepted = "an integer array of shape (...)" + ", or a floating one of shape (..., V)" * may_be_soft
        beside("targets", targets, logits, library, accepted, given)
    t_shape = tuple(targets.shape) if library.state == "eager" else _shape(library, "targets", targets)
    t_dtype = library.dtype_name(targets)
    tokens = shape[:-1]
    soft = may_be_soft and t_dtype in FLOATS
    if t_shape != (shape if soft else tokens) or not (soft or t_dtype.startswith(_INTEGERS)):
        accepted = f"any integer dtype of shape {tokens}"
        accepted += f", or a floating dtype of shape {shape} (soft targets)" * may_be_soft
        if t_shape == shape:
            accepted += "; of one-hot rows their argmax" + ", or the same in a floating dtype" * may_be_soft
        kind = ValueError if t_dtype.startswith(_INTEGERS) else TypeError
        raise kind(f"targets has dtype {t_dtype} and shape {t_shape} for logits of shape {shape}; accepted: {accepted}")
    if size is not None:
        _fits_part(given, shape[-1], size)
    elif shape[-1] == 0:
        _classes("logits", shape)
    return Form(shape, tokens, dtype, soft, given)


def _fits_part(given: str, width: int, size: Any) -> None:
    if isinstance(size, int) and size > width:
        raise ValueError(f"{given} has {width} classes, and vocabulary= names {size} here; accepted: at least as many")


def topk(library: Library, inputs: Inputs, log_probs: Any) -> Form:
    """What logits are, beside a teacher's classes and their log-probabilities, both (..., K)."""
    form = ids(library, inputs, name="teacher_logits[0]")[0]
    shape = tuple(inputs.targets.shape)
    accepted = f"a floating array of shape {shape}"
    beside("teacher_logits[1]", log_probs, inputs.logits, library, accepted)
    _floating(library, "teacher_logits[1]", log_probs, accepted)
    if _shape(library, "teacher_logits[1]", log_probs) != shape:
        raise ValueError(f"teacher_logits[1] has shape {tuple(log_probs.shape)}; accepted: {accepted}")
    return form


def pair(library: Library, inputs: Inputs, log_probs: Array) -> None:
    """ValueError where a token that counts has a class twice, or a log-probability above 0, if these may be read."""
    given = inputs.targets, log_probs, inputs.weights
    if not all(x is None or library.always_readable or library.readable(x) for x in given):
        return
    xp = np if library.checks_copies else library.xp
    classes, values, weights = (np.asarray(x) if library.checks_copies and x is not None else x for x in given)
    if not library.checks_copies:
        classes, values, weights = map(library.enter, given)
    assert values is not None
    ordered = xp.sort(classes, axis=-1)
    twice, above = xp.any(ordered[..., 1:] == ordered[..., :-1], axis=-1), xp.any(values > _ROUNDING, axis=-1)
    if weights is not None:
        twice, above = twice & (weights != 0), above & (weights != 0)
    if xp.any(twice):
        raise ValueError("teacher_logits[0] has a class twice in a row; accepted: distinct classes")
    if xp.any(above):
        raise ValueError("teacher_logits[1] has numbers above 0; accepted: log-probabilities")


def _classes(name: str, shape: tuple[int, ...]) -> None:
    if shape[-1] == 0 and 0 not in shape[:-1]:
        raise ValueError(f"{name} has shape {shape}, a vocabulary of 0 classes; accepted: V of at least 1")


def logits_of_measure(library: Library, logits: Array, _targets: None = None) -> Form:
    """What logits are that have no targets."""
    shape, dtype = logits_alone(library, logits)
    _classes("logits", shape)
    return Form(shape, shape[:-1], dtype, soft=False)


def logits_and_teacher(library: Library, logits: Array, teacher: Array) -> Form:
    """What logits are, and those of a teacher, of the same shape."""
    form = logits_of_measure(library, logits)
    accepted = f"a floating array of shape {form.shape}"
    beside("teacher_logits", teacher, logits, library, accepted)
    _floating(library, "teacher_logits", teacher, accepted)
    if _shape(library, "teacher_logits", teacher) != form.shape:
        raise ValueError(f"teacher_logits has shape {tuple(teacher.shape)}; accepted: {accepted}")
    return form._replace(soft=True)


def ids(
    library: Library, inputs: Inputs, classes: Any = None, memory: Any = None, name: str = "token_ids"
) -> tuple[Form, bool]:
    """What logits are, given or made of hidden states, and whether one class is asked for of each token.

    name: the argument of the classes; of another than token_ids, several are to be asked for.
    """
    logits, given = inputs.logits, inputs.targets
    form = logits_of_measure(library, logits) if inputs.head is None else _of_hidden(library, inputs, classes, memory)
    several = (*form.tokens, "K")
    accepted = f"any integer dtype of shape {several}, K at least 1"
    if name == "token_ids":
        accepted = f"any integer dtype of shape {form.tokens}, or of shape {several} for several of each token"
    beside(name, given, logits, library, accepted, form.given)
    shape, dtype = _shape(library, name, given), library.dtype_name(given)
    if not dtype.startswith(_INTEGERS):
        raise TypeError(f"{name} has dtype {dtype}; accepted: {accepted}")
    is_one = shape == form.tokens
    if (is_one and name != "token_ids") or not (is_one or (shape[:-1] == form.tokens and shape[-1:] != (0,))):
        raise ValueError(f"{name} has shape {shape} for logits of shape {form.shape}; accepted: {accepted}")
    return form._replace(targets=name), is_one


def hidden_and_targets(
    library: Library, inputs: Inputs, classes: Any, memory: Any, may_be_soft: bool = True, size: Any = None
) -> Form:
    """What the logits of hidden states are: those of the first `classes` rows of the head, or of all.

    size: see `logits_and_targets`.
    """
    form = _of_hidden(library, inputs, classes, memory, size)
    made = form.shape, form.dtype
    return logits_and_targets(library, inputs.logits, inputs.targets, made, may_be_soft, size)


def _of_hidden(library: Library, inputs: Inputs, classes: Any, memory: Any, size: Any = None) -> Form:
    hidden, weight, bias = inputs.logits, inputs.head, inputs.bias
    dtype = library.dtype_name(hidden)
    _floating(library, "hidden", hidden, ", ".join(FLOATS))
    shape = _shape(library, "hidden", hidden)
    if not shape:
        raise ValueError("hidden has shape (); accepted: (..., D)")
    accepted = f"a floating array of shape (V, {shape[-1]})"
    beside("weight", weight, hidden, library, accepted, "hidden")
    of_weight = _shape(library, "weight", weight)
    _floating(library, "weight", weight, accepted)
    if len(of_weight) != 2 or of_weight[1] != shape[-1]:
        raise ValueError(f"weight has shape {of_weight} for hidden of shape {shape}; accepted: {accepted}")
    if bias is not None:
        accepted = f"None, or a floating array of shape ({of_weight[0]},)"
        beside("bias", bias, hidden, library, accepted, "hidden")
        _floating(library, "bias", bias, accepted)
        if _shape(library, "bias", bias) != of_weight[:1]:
            raise ValueError(f"bias has shape {tuple(bias.shape)}; accepted: {accepted}")
    v = of_weight[0] if classes is None else whole_number("classes", classes, of_weight[0])
    if size is not None:
        if classes is not None:
            raise ValueError(f"classes is {classes} with vocabulary=, which names them; accepted: None")
        _fits_part("weight", v, size)
        v = size if isinstance(size, int) else v
    elif v == 0 and 0 not in shape[:-1]:
        raise ValueError(f"weight has shape {of_weight}, a vocabulary of 0 classes; accepted: V of at least 1")
    if memory is not None:
        whole_number("memory", memory, None)
    computed = "float64" if dtype == "float64" else "float32"
    return Form((*shape[:-1], v), shape[:-1], computed, soft=False, given="hidden")


def _floating(library: Library, name: str, x: Array, accepted: str) -> None:
    if (dtype := library.dtype_name(x)) not in FLOATS:
        raise TypeError(f"{name} has dtype {dtype}; accepted: {accepted}")


def whole_number(name: str, value: Any, most: int | None, or_none: str = "None, or ") -> int:
    """A whole number from 1 on, or to `most`; TypeError or ValueError for anything else.

    or_none: what the caller accepts besides, in words.
    """
    accepted = or_none + "a whole number of at least 1" + ("" if most is None else f" and at most {most}")
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}; accepted: {accepted}") from None
    if number < 1 or (most is not None and number > most):
        raise ValueError(f"{name} is {number}; accepted: {accepted}")
    return number


LINEAR: Final = ("hidden", "weight", "bias")


def needs(names: Any, has_bias: bool) -> tuple[bool, ...]:
    """Which gradients are asked for; that of a bias where there is one."""
    accepted = "a tuple of some of " + ", ".join(map(repr, LINEAR))
    if isinstance(names, str) or not isinstance(names, (tuple, list, set, frozenset)):
        raise TypeError(f"needs is {shown(names)}; accepted: {accepted}")
    for name in names:
        if not isinstance(name, str) or name not in LINEAR:
            raise ValueError(f"needs has {shown(name)}; accepted: {accepted}")
    return "hidden" in names, "weight" in names, has_bias and "bias" in names


def weights_and_denominator(library: Library, like: Array, inputs: Inputs, form: Form, reduction: str) -> None:
    """What else a call may be given: token weights, class weights, a denominator, beside an array of the call."""
    if inputs.weights is not None:
        _token_weights(library, inputs.weights, like, form)
    if inputs.class_weights is not None:
        _class_weights(library, inputs.class_weights, like, form)
    if inputs.denominator is not None:
        _denominator(library, inputs.denominator, reduction, like, form)


def _token_weights(library: Library, weights: Any, logits: Array, form: Form) -> None:
    """Weights that are numbers or arrays broadcastable to the shape of the tokens."""
    tokens = form.tokens
    accepted = f"a bool, integer or floating array broadcastable to {tokens}"
    beside("weights", weights, logits, library, accepted, form.given)
    shape, dtype = _shape(library, "weights", weights), library.dtype_name(weights)
    if dtype not in FLOATS and dtype != "bool" and not dtype.startswith(_INTEGERS):
        raise TypeError(f"weights has dtype {dtype}; accepted: {accepted}")
    # Neither all() nor zip(): torch 2.9 traces no all() of symbolic sizes, and no zip() of different lengths.
    fits = len(shape) <= len(tokens)
    for i in range(-1, -len(shape) - 1, -1):
        fits = fits and shape[i] in (1, tokens[i])
    if not fits:
        raise ValueError(f"weights has shape {shape}; accepted: {accepted}")


def _class_weights(library: Library, weights: Any, logits: Array, form: Form) -> None:
    """Class weights of shape (V,)."""
    vocabulary = form.shape[-1]
    accepted = f"an integer or floating array of shape ({vocabulary},)"
    beside("class_weights", weights, logits, library, accepted, form.given)
    shape, dtype = _shape(library, "class_weights", weights), library.dtype_name(weights)
    if dtype not in FLOATS and not dtype.startswith(_INTEGERS):
        raise TypeError(f"class_weights has dtype {dtype}; accepted: {accepted}")
    if shape != (vocabulary,):
        raise ValueError(f"class_weights has shape {shape}; accepted: {accepted}")


def _denominator(library: Library, value: Any, reduction: str, logits: Array, form: Form) -> None:
    """A denominator: "tokens", a number, or an array of no dimensions."""
    accepted = '"tokens", a number that is not negative, or an array of shape ()'
    if reduction not in ("mean", "sequence"):
        raise ValueError(f"denominator is {shown(value)} with reduction {reduction!r}; accepted: 'mean' or 'sequence'")
    if isinstance(value, str):
        if value != "tokens":
            raise ValueError(f"denominator is {value!r}; accepted: {accepted}")
    elif libraries.is_array(value) and not isinstance(value, np.generic):
        beside("denominator", value, logits, library, accepted, form.given)
        dtype = library.dtype_name(value)
        if dtype not in FLOATS and not dtype.startswith(_INTEGERS):
            raise TypeError(f"denominator has dtype {dtype}; accepted: {accepted}")
        if _shape(library, "denominator", value):
            raise ValueError(f"denominator has shape {tuple(value.shape)}; accepted: {accepted}")
    elif not library.is_symbolic(value) and not 0.0 <= number("denominator", value, accepted) < math.inf:
        raise ValueError(f"denominator is {value!r}; accepted: {accepted}")


def gradient_of_loss(
    library: Library, grad_output: Any, logits: Array, shape: tuple[int, ...], given: str = "logits"
) -> None:
    """A gradient of the loss's shape; for a loss of no dimensions a number will do."""
    if grad_output is None:
        return
    accepted = f"a floating array of shape {shape}" + ("" if shape else ", or a number")
    if not shape and (isinstance(grad_output, np.generic) or not libraries.is_array(grad_output)):
        number("grad_output", grad_output, accepted)
        return
    beside("grad_output", grad_output, logits, library, accepted, given)
    dtype = library.dtype_name(grad_output)
    if dtype not in FLOATS:
        raise TypeError(f"grad_output has dtype {dtype}; accepted: {accepted}")
    if _shape(library, "grad_output", grad_output) != shape:
        raise ValueError(f"grad_output has shape {tuple(grad_output.shape)}; accepted: {accepted}")


def output(library: Library, out: Any, logits: Array, name: str = "out", given: str = "logits") -> None:
    """An array that can take the gradient: of the library, device, shape and dtype of `logits`, and writeable.

    name, given: the names of the arguments.
    """
    if out is None:
        return
    shape, dtype = tuple(logits.shape), library.dtype_name(logits)
    accepted = f"None, or a writeable array of dtype {dtype} and shape {shape}"
    beside(name, out, logits, library, accepted, given)
    if library.immutable:
        raise ValueError(f"{name} is an array of a library whose arrays are immutable; accepted: None")
    if library.dtype_name(out) != dtype:
        raise TypeError(f"{name} has dtype {library.dtype_name(out)}; accepted: {accepted}")
    if tuple(out.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(out.shape)}; accepted: {accepted}")
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError(f"{name} is read-only; accepted: {accepted}")
    memory = library.family.memory(out)
    if memory is not None and views.overlaps_itself(memory):
        raise ValueError(f"{name} has elements that share memory, as a broadcast view has; accepted: {accepted}")
    if getattr(out, "requires_grad", False):
        raise ValueError(f"{name} requires a gradient of its own; accepted: {accepted}")


def outputs(library: Library, out: Any, inputs: Inputs) -> None:
    """A tuple of arrays that can take the gradients of hidden, weight and bias, or None for what is not to be kept."""
    if out is None:
        return
    accepted = "None, or a tuple of three: for hidden, weight and bias an array or None each"
    if not isinstance(out, (tuple, list)) or len(out) != len(LINEAR):
        raise TypeError(f"out is {shown(out)}; accepted: {accepted}")
    for i, (name, like, x) in enumerate(zip(LINEAR, (inputs.logits, inputs.head, inputs.bias), out, strict=True)):
        if x is not None and like is None:
            raise ValueError(f"out[{i}] is {shown(x)} without {name}; accepted: None")
        output(library, x, like, f"out[{i}]", name)
    memories = [library.family.memory(x) for x in out if x is not None]
    if any(a is not None and b is not None and views.overlap(a, b) for a, b in combinations(memories, 2)):
        raise ValueError("out has arrays that share memory; accepted: arrays apart from one another")


def outside_of_vocabulary(
    ops: Operations,
    targets: Array,
    classes: Array,
    vocabulary: int,
    ignore_index: int | None,
    given: str = "targets",
) -> IndexError:
    """The IndexError that names the first target whose class is none of the vocabulary.

    given: the name of the argument. classes: the targets as signed integers, with a class of the vocabulary for those
    that are ignored.
    """
    xp, shape = ops.xp, tuple(targets.shape)
    flat = xp.reshape(xp.astype((classes < 0) | (classes >= vocabulary), xp.uint8), (-1,))
    where = tuple(int(i) for i in np.unravel_index(int(xp.argmax(flat)), shape)) if shape else ()
    name = f"{given}[{', '.join(map(str, where))}]" if where else given
    value, accepted = int(targets[where]), f"0 to {vocabulary - 1} (V = {vocabulary})"
    if ignore_index is not None:
        accepted += f", or ignore_index = {ignore_index}"
    elif value == _USUALLY_IGNORED:
        accepted += f", or name it: ignore_index={value}"
    return IndexError(f"{name} is {value}; accepted: {accepted}")


def next_token(logits: Array, token_ids: Array) -> None:
    """Logits (..., T, V) and the integer token_ids (..., T), T at least 1."""
    library = library_of("logits", logits, "a floating array of shape (..., T, V)")
    beside("token_ids", token_ids, logits, library, "an integer array of shape (..., T)")
    shape, ids = _shape(library, "logits", logits), _shape(library, "token_ids", token_ids)
    dtype = library.dtype_name(logits)
    if dtype not in FLOATS:
        raise TypeError(f"logits has dtype {dtype}; accepted: {', '.join(FLOATS)}")
    if len(shape) < 2 or shape[-2] == 0:
        raise ValueError(f"logits has shape {shape}; accepted: (..., T, V) with T of at least 1")
    dtype = library.dtype_name(token_ids)
    if not dtype.startswith(_INTEGERS):
        raise TypeError(f"token_ids has dtype {dtype}; accepted: any integer dtype")
    if ids != shape[:-1]:
        raise ValueError(f"token_ids has shape {ids} for logits of shape {shape}; accepted: {shape[:-1]}")
