"""PyTorch's own signatures, one line away: ``from crossent.torch import cross_entropy, CrossEntropyLoss``."""

from crossent.libraries.torch.drop_in import CrossEntropyLoss, cross_entropy

__all__ = ["CrossEntropyLoss", "cross_entropy"]


def __dir__() -> list[str]:
    """The public names, without the modules that define them."""
    return __all__
