"""What torch is asked to do, by the names of its operations."""

from __future__ import annotations

from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What only makes a view or memory, or reads.
NO_LAUNCH = {
    "alias",
    "detach",
    "select",
    "slice",
    "view",
    "_unsafe_view",
    "expand",
    "unsqueeze",
    "lift_fresh",
    "tolist",
}
NO_LAUNCH |= {"empty", "empty_like", "new_empty", "_local_scalar_dense"}
# What waits for a device.
WAITS = {"tolist", "_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "unique_dim"}
_TOLIST = torch.Tensor.tolist


class Operations(TorchDispatchMode):
    """The operations within, in order: all, those that launch a kernel, those that wait for a device."""

    def __init__(self):
        super().__init__()
        self.names = []

        def tolist(tensor):
            self.names.append("tolist")
            return _TOLIST(tensor)

        # In host memory it is no operation.
        self._reading = patch.object(torch.Tensor, "tolist", tolist)

    def __enter__(self):
        self._reading.start()
        return super().__enter__()

    def __exit__(self, *error):
        self._reading.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    @property
    def launches(self):
        return [name for name in self.names if name not in NO_LAUNCH]

    @property
    def waits(self):
        return [name for name in self.names if name in WAITS]
