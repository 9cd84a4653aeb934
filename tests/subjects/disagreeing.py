"""Implementations for the tests of parity: crossent, and something else on the arrays of array-api-strict."""

import crossent
from crossent_conformance.subject import DoesNotApply


def _is_strict(array):
    return type(array).__module__.startswith("array_api_strict")


def _scaled(factor):
    def pair(logits, targets, **options):
        loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
        return (loss * factor, d_logits) if _is_strict(logits) else (loss, d_logits)

    return pair


same = crossent.cross_entropy_and_grad
far = _scaled(1 + 2.0**-10)
"""Off by thousands of eps in float32."""
near = _scaled(1 + 4 * 2.0**-23)
"""Off by four eps in float32, which the contract allows."""
over = _scaled(1 + 10 * 2.0**-23)
"""Off by ten, where the contract allows two results to be eight apart."""
_buffers = {}


def loss_alone(logits, targets, *, reduction="mean"):
    """No options to speak of, and no gradient for arrays without autograd."""
    return crossent.cross_entropy(logits, targets, reduction=reduction)


def nan_elsewhere(logits, targets, **options):
    """The rows backwards, where the reduction shows them."""
    loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
    return (loss[::-1], d_logits) if _is_strict(logits) and loss.ndim == 1 else (loss, d_logits)


def raising(logits, targets, **options):
    """An error on one backend."""
    if _is_strict(logits) and logits.shape[-1] == 2:
        raise ZeroDivisionError("two classes")
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def raising_apart(logits, targets, **options):
    """Another error on each backend."""
    if logits.shape[-1] == 2:
        raise ZeroDivisionError("two") if _is_strict(logits) else ValueError("two")
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def reusing(logits, targets, **options):
    """The loss in a buffer that the next call writes to."""
    loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
    if _is_strict(logits):
        return loss, d_logits
    kept = _buffers.setdefault((loss.shape, loss.dtype), loss)
    kept[...] = loss
    return kept, d_logits


def raising_everywhere(logits, targets, **options):
    """The same error on every backend."""
    if logits.shape[-1] == 2:
        raise ZeroDivisionError("two classes")
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def other_shape(logits, targets, **options):
    """An axis too many on one backend."""
    loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
    return (loss[..., None], d_logits) if _is_strict(logits) else (loss, d_logits)


def other_dtype(logits, targets, **options):
    """A wider loss on one backend."""
    loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
    return (loss.astype("float64"), d_logits) if not _is_strict(logits) else (loss, d_logits)


def of_python(logits, targets, **options):
    """A number of Python's on one backend, after it has been tried."""
    loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
    return (float(loss), d_logits) if _is_strict(logits) and options.get("reduction") == "sum" else (loss, d_logits)


def other_text(logits, targets, **options):
    """The right type of error, in other words on one backend."""
    try:
        return crossent.cross_entropy_and_grad(logits, targets, **options)
    except ValueError as error:
        raise ValueError(f"strictly: {error}" if _is_strict(logits) else str(error)) from None


def accepting(logits, targets, **options):
    """A bad option is accepted on one backend."""
    if _is_strict(logits) and options.get("reduction") == "average":
        options["reduction"] = "mean"
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def lacking(logits, targets, **options):
    """Something cannot be asked any more."""
    if options.get("z_loss"):
        raise DoesNotApply("z_loss")
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def float64_alone(logits, targets, **options):
    """A dtype is not taken any more."""
    if "float64" not in str(logits.dtype):
        raise TypeError("float64 alone")
    return crossent.cross_entropy_and_grad(logits, targets, **options)


def numpy_alone(logits, targets, **options):
    """What NumPy's arrays have and others have not."""
    logits.strides  # noqa: B018
    return crossent.cross_entropy_and_grad(logits, targets, **options)
