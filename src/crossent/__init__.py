"""Cross-entropy, once: one loss, one gradient, one set of errors for NumPy, CuPy, PyTorch, JAX and Dask arrays."""

from crossent.api import (
    cross_entropy,
    cross_entropy_and_grad,
    explain,
    perplexity,
    shift_for_next_token,
)
from crossent.api_linear import linear_cross_entropy, linear_cross_entropy_and_grad
from crossent.engines.threads import get_num_threads, set_num_threads
from crossent.loss import CrossEntropyLoss, LinearCrossEntropyLoss

__version__ = "0.1.0"

__all__ = [
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "__version__",
    "cross_entropy",
    "cross_entropy_and_grad",
    "explain",
    "get_num_threads",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "perplexity",
    "set_num_threads",
    "shift_for_next_token",
]


def __dir__() -> list[str]:
    """The public names, without the modules that define them."""
    return __all__
