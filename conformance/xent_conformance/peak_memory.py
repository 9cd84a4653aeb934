"""What calls cost in memory, as JSON: python -m xent_conformance.peak_memory LIBRARY [MODULE:ATTRIBUTE of the subject]

For each scenario: the bytes by which the process grew at most during the call ("extra"), the size of the logits, and
the gradient that the call returns ("gradient", 0 where none is or where it goes into memory that was there).
The kernel's high-water mark of the resident set is reset before each call; Linux only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from xent_conformance import subject as subjects

SHAPES = {"tokens": (1040, 50257), "classes": (52, 1_000_000)}


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


def _growth(call: Any) -> int:
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = call()
    extra = _resident("VmHWM") - before
    del result
    return extra


def _arrays(library: str, shape: tuple[int, int], half: bool) -> tuple[Any, Any, Any]:
    """Logits that are resident, made without temporaries; targets; what makes a small NumPy array the library's."""
    N, V = shape
    rng = np.random.default_rng(1)
    row, targets = rng.standard_normal(V).astype(np.float32), rng.integers(0, V, N)
    if library == "torch":
        import torch

        x = torch.empty(N, V, dtype=torch.bfloat16 if half else torch.float32)
        x[...] = torch.from_numpy(row)
        return x, torch.from_numpy(targets), torch.from_numpy
    x = np.empty((N, V), np.float16 if half else np.float32)
    x[...] = row
    return x, targets, np.asarray


def _scenarios(subject: Any, x: Any, t: Any, small: Any, plain: bool) -> dict[str, tuple[Any, bool]]:
    """Name -> (call, whether it returns a gradient of its own); calls that write into the logits come last."""
    N, V = x.shape
    weights = {
        "weights": small(np.ones(N, np.float32)),
        "class_weights": small(np.ones(V, np.float32)),
        "ignore_index": 0,
    }

    def through_an_object():
        loss_fn = subject.loss_object(ignore_index=0)
        loss_fn.forward(x, t)
        return loss_fn.backward()

    scenarios = {
        "loss": (lambda: subject.loss(x, t), False),
        "smoothed": (lambda: subject.loss(x, t, label_smoothing=0.1), False),
        "weighted": (lambda: subject.loss(x, t, **weights), False),
        "gradient": (lambda: subject.loss_and_grad(x, t), True),
        "object": (through_an_object, True),
    }
    if plain:
        # These are slower; a fifth of the rows is still several times what a call may take.
        y, u, soft = x[: N // 5], t[: N // 5], x[N // 5 : 2 * (N // 5)]
        scenarios |= {
            "soft": (lambda: subject.loss(y, soft), False),
            "explicit": (lambda: subject.loss(y, u, algorithm="explicit"), False),
            "transposed": (lambda: subject.loss(y.T, small(np.zeros(V, np.int64))), False),
            "explicit-in-place": (lambda: subject.loss_and_grad(y, u, out=y, algorithm="explicit"), False),
            "soft-in-place": (lambda: subject.loss_and_grad(y, soft, out=y), False),
        }
    scenarios["in-place"] = (lambda: subject.loss_and_grad(x, t, out=x), False)
    return scenarios


def main(library: str, path: str = subjects.DEFAULT) -> None:
    """Print every scenario's peak."""
    subject = subjects.load(path)
    found = {}
    for half in (False, True):
        for name, shape in SHAPES.items():
            x, t, small = _arrays(library, shape, half)
            plain = name == "tokens" and not half
            size = x.nbytes
            few = slice(0, 8)
            subject.loss_and_grad(x[few], t[few])  # threads, caches and imports are not what is measured
            if plain:
                found["copy"] = {"extra": _growth(lambda x=x: x + 1), "logits": size, "gradient": 0}
            for what, (call, returns) in _scenarios(subject, x, t, small, plain).items():
                key = f"{'half' if half else 'float32'}-{name}-{what}"
                found[key] = {"extra": _growth(call), "logits": size, "gradient": size if returns else 0}
            del x, t, call
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
