"""`xent` as a subject: the one file of the suite that imports it."""

from __future__ import annotations

import xent


class Xent:
    """The public functions of `xent`."""

    name = f"xent {xent.__version__}" if hasattr(xent, "__version__") else "xent"
    backends = None
    loss = staticmethod(xent.cross_entropy)
    loss_and_grad = staticmethod(xent.cross_entropy_and_grad)
    loss_object = staticmethod(xent.CrossEntropyLoss)
    perplexity = staticmethod(xent.perplexity)
    shift = staticmethod(xent.shift_for_next_token)


subject = Xent()
