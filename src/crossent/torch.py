"""PyTorch's own signatures, one line away: ``from crossent.torch import cross_entropy, CrossEntropyLoss``.

`LinearCrossEntropyLoss` is there where PyTorch has it, from 2.13 on.
"""

from crossent.libraries.torch import drop_in
from crossent.libraries.torch.drop_in import CrossEntropyLoss, cross_entropy, linear_cross_entropy

__all__ = ["CrossEntropyLoss", "cross_entropy", "linear_cross_entropy"]

if hasattr(drop_in, "LinearCrossEntropyLoss"):
    from crossent.libraries.torch.drop_in import LinearCrossEntropyLoss

    __all__ += ["LinearCrossEntropyLoss"]


def __dir__() -> list[str]:
    """The public names, without the modules that define them."""
    return __all__
