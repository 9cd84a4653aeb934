"""Implementations for the tests of parity: crossent, and something else on the arrays of array-api-strict."""

import crossent
from crossent_conformance.subject import DoesNotApply

same = crossent.cross_entropy_and_grad
_buffers = {}


def _is_strict(array):
    return type(array).__module__.startswith("array_api_strict")


def _with_loss(change, *, of_strict=True):
    """Another loss for the arrays of array-api-strict, or for all others."""

    def pair(logits, targets, **options):
        loss, d_logits = same(logits, targets, **options)
        return (change(loss, options) if _is_strict(logits) == of_strict else loss), d_logits

    return pair


def _scaled(factor):
    return _with_loss(lambda loss, _options: loss * factor)


def _raising(error, strict_error):
    """An error for two classes, or none."""

    def pair(logits, targets, **options):
        found = strict_error if _is_strict(logits) else error
        if found is not None and logits.shape[-1] == 2:
            raise found
        return same(logits, targets, **options)

    return pair


far = _scaled(1 + 2.0**-10)
"""Off by thousands of eps in float32."""
near = _scaled(1 + 4 * 2.0**-23)
"""Off by four eps in float32, which the contract allows."""
over = _scaled(1 + 10 * 2.0**-23)
"""Off by ten, where the contract allows two results to be eight apart."""
nan_elsewhere = _with_loss(lambda loss, _options: loss[::-1] if loss.ndim == 1 else loss)
"""The rows backwards, where the reduction shows them."""
other_shape = _with_loss(lambda loss, _options: loss[..., None])
other_dtype = _with_loss(lambda loss, _options: loss.astype("float64"), of_strict=False)
of_python = _with_loss(lambda loss, options: float(loss) if options.get("reduction") == "sum" else loss)
"""A number of Python's, after the subject has been tried."""
raising = _raising(None, ZeroDivisionError("two classes"))
raising_apart = _raising(ValueError("two"), ZeroDivisionError("two"))
raising_everywhere = _raising(*[ZeroDivisionError("two classes")] * 2)


def loss_alone(logits, targets, *, reduction="mean"):
    """No options to speak of, and no gradient for arrays without autograd."""
    return crossent.cross_entropy(logits, targets, reduction=reduction)


def reusing(logits, targets, **options):
    """The loss in a buffer that the next call writes to."""
    loss, d_logits = same(logits, targets, **options)
    if _is_strict(logits):
        return loss, d_logits
    kept = _buffers.setdefault((loss.shape, loss.dtype), loss)
    kept[...] = loss
    return kept, d_logits


def other_text(logits, targets, **options):
    """The right type of error, in other words on one backend."""
    try:
        return same(logits, targets, **options)
    except ValueError as error:
        raise ValueError(f"strictly: {error}" if _is_strict(logits) else str(error)) from None


def accepting(logits, targets, **options):
    """A bad option is accepted on one backend."""
    if _is_strict(logits) and options.get("reduction") == "average":
        options["reduction"] = "mean"
    return same(logits, targets, **options)


def lacking(logits, targets, **options):
    """Something cannot be asked any more."""
    if options.get("z_loss"):
        raise DoesNotApply("z_loss")
    return same(logits, targets, **options)


def float64_alone(logits, targets, **options):
    """A dtype is not taken any more."""
    if "float64" not in str(logits.dtype):
        raise TypeError("float64 alone")
    return same(logits, targets, **options)


def numpy_alone(logits, targets, **options):
    """What NumPy's arrays have and others have not."""
    logits.strides  # noqa: B018
    return same(logits, targets, **options)
