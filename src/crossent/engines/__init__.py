"""Engines: who walks the logits. Given rows, targets and coefficients, an engine returns losses and gradient rows.

An engine knows nothing of options, reductions or shapes above two dimensions. `ENGINES` names them, with what they
serve, the fastest first; `crossent.choice` says which one walks the logits of a call.
"""

from __future__ import annotations

from typing import Final

ENGINES: Final[dict[str, str]] = {
    "numba": "NumPy and torch CPU memory in one compiled pass, on all cores (extra: numba)",
    "cuda": "CuPy arrays and torch CUDA tensors in one compiled pass (extra: cuda12 or cuda13)",
    "array_api": "any array library; NumPy and torch CPU memory in blocks that fit the cache, on all cores",
}
# The engines that look at a target before they follow it: the row of one outside the vocabulary is NaN by itself.
GUARDING: Final = frozenset({"numba", "cuda"})
