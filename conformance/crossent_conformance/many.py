"""More logits than 32 bits count, as JSON: python -m crossent_conformance.many BACKEND SUBJECT

One row is seen again and again through a stride of 0, so that the array is small where it lies. Whoever makes a copy of
the whole runs into the limit of the process, and cannot be asked here: memory is the question of A10.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from crossent_conformance import backends, cases, confined, probe, subject
from crossent_conformance.adapter import UnderTest
from crossent_conformance.implementation import DoesNotApply

V, N = 40_000, 54_000
assert N * V > 2**31
SEVERAL = np.r_[0:3, N // 2 : N // 2 + 5, N - 3 : N]
"""The rows whose losses are compared."""


def compare(under_test: UnderTest, backend: backends.Backend) -> dict[str, list[float]]:
    """Losses of some rows among all of them, and alone; or the mean of all, and what it is in float64."""
    logits = cases.random((1,), V)[0].astype(np.float32)
    targets = cases.generator(7).integers(0, V, N)
    targets[SEVERAL[[0, 1, -1]]] = [0, V - 1, V - 1]
    row, t = backend.asarray(logits, "float32"), backend.asarray(targets, "int64")
    under_test.affords(N, V)
    with under_test.unassisted():
        try:
            losses = under_test.loss(_repeated(backend, row, N), t, reduction="none")
        except DoesNotApply:
            mean = under_test.loss(_repeated(backend, row, N), t)
            return {"found": [float(mean)], "expected": [_mean(logits[0].astype(np.float64), targets)]}
        some = backend.asarray(targets[SEVERAL], "int64")
        alone = under_test.loss(_repeated(backend, row, len(SEVERAL)), some, reduction="none")
    found = backend.to_numpy(losses)
    if found.shape != (N,):
        raise AssertionError(f"the loss has shape {found.shape}, not {(N,)}")
    return {"found": found[SEVERAL].tolist(), "expected": backend.to_numpy(alone).tolist()}


def _repeated(backend: backends.Backend, row: Any, times: int) -> Any:
    return row.expand(times, V) if backend.name.startswith("torch") else np.broadcast_to(row, (times, V))


def _mean(logits: np.ndarray, targets: np.ndarray) -> float:
    lse = logits.max() + np.log(np.exp(logits - logits.max()).sum())
    return float(lse - logits[targets].mean())


def main(name: str, spec: str) -> None:
    """Print the comparison, or why there is none."""
    backend = backends.get(name)
    under_test = subject.load(spec)
    under_test.begin(probe.examine(under_test, backend), "A7")
    confined.limit()
    try:
        print(json.dumps(compare(under_test, backend)))
    except NotImplementedError as lack:
        print(json.dumps({"lacks": str(lack)}))
    except Exception as error:
        if confined.is_for_memory(error):
            print(json.dumps({"lacks": f"more memory than here: {error}"[:300]}))
        else:
            print(json.dumps({"raised": f"{type(error).__name__}: {error}"[:1000]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
