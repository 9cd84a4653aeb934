"""Cross-entropy, once: one loss, one gradient, one set of errors for NumPy, CuPy, PyTorch, JAX and Dask arrays."""

from crossent.api import (
    cross_entropy,
    cross_entropy_and_grad,
    explain,
    shift_for_next_token,
)
from crossent.api_linear import linear_cross_entropy, linear_cross_entropy_and_grad
from crossent.api_tokens import (
    entropy,
    entropy_and_grad,
    kl_divergence,
    kl_divergence_and_grad,
    linear_token_log_probs,
    linear_token_statistics,
    token_log_probs,
    token_log_probs_and_grad,
    token_statistics,
)
from crossent.description import TokenStatistics
from crossent.engines.threads import get_num_threads, set_num_threads
from crossent.loss import CrossEntropyLoss, LinearCrossEntropyLoss
from crossent.shards import VocabularyShard
from crossent.summaries import bits, perplexity, token_accuracy

__version__ = "0.1.0"

__all__ = [
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "TokenStatistics",
    "VocabularyShard",
    "__version__",
    "bits",
    "cross_entropy",
    "cross_entropy_and_grad",
    "entropy",
    "entropy_and_grad",
    "explain",
    "get_num_threads",
    "kl_divergence",
    "kl_divergence_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_token_log_probs",
    "linear_token_statistics",
    "perplexity",
    "set_num_threads",
    "shift_for_next_token",
    "token_accuracy",
    "token_log_probs",
    "token_log_probs_and_grad",
    "token_statistics",
]


def __dir__() -> list[str]:
    """The public names, without the modules that define them."""
    return __all__
