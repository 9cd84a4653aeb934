"""What calls cost in memory, as JSON: python -m crossent_conformance.peak_memory BACKEND DTYPE SHAPE SUBJECT

For each scenario the bytes by which the process grew at most during the call ("extra"), and the gradient that the call
returns ("gradient", 0 where none is or where it goes into memory that was there); or why there are none ("lacks",
"raised"). The kernel's high-water mark of the resident set is reset before each call; Linux only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance import backends, confined, probe, subject
from crossent_conformance.adapter import UnderTest

SHAPES = {"tokens": (260, 50257), "classes": (13, 1_000_000)}
HALF = {"numpy": "float16", "torch": "bfloat16"}
MAIN = ("loss", "smoothed", "weighted", "gradient", "in-place", "object")
"""The scenarios of every dtype and shape."""
LINEAR = ("loss", "smoothed", "gradients", "weight-alone", "backward")
"""Those of the shape "linear": (tokens, features, classes)."""
TOKENS, FEATURES, CLASSES = 6000, 32, 12000
MEMORY = 48 << 20
"""What the blocks of a linear loss may take; all of its logits would take six times as much. No allocator keeps it."""
SLOWER = ("soft", "explicit", "soft-in-place", "explicit-in-place", "transposed")
"""Those of float32 and many tokens."""


def _growth(call: Callable[[], Any]) -> int:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = confined.status("VmRSS")
    result = call()
    extra = confined.status("VmHWM") - before
    del result
    return extra


def _logits(backend: backends.Backend, dtype: str, shape: tuple[int, int]) -> Any:
    """Logits that are resident, made without temporaries."""
    row = np.random.default_rng(1).standard_normal(shape[1]).astype(np.float32)
    if backend.name == "torch":
        torch: Any = backend.torch  # type: ignore[attr-defined]
        x = torch.empty(shape, dtype=getattr(torch, dtype))
        x[...] = torch.from_numpy(row)
        return x
    x = np.empty(shape, dtype)
    x[...] = row
    return x


def _scenarios(of: UnderTest, x: Any, t: Any, small: Callable[[np.ndarray], Any]) -> dict[str, Callable[[], Any]]:
    """The calls; those that write into the logits come last."""
    N, V = x.shape

    def through_an_object() -> Any:
        loss_fn = of.loss_object(ignore_index=0)
        loss_fn.forward(x, t)
        return loss_fn.backward()

    weights = {"weights": small(np.ones(N, np.float32)), "class_weights": small(np.ones(V, np.float32))}
    # These are slower; half of the rows is still several times what a call may take.
    y, u, soft = x[: N // 2], t[: N // 2], x[N // 2 : 2 * (N // 2)]
    return {
        "loss": lambda: of.loss(x, t),
        "smoothed": lambda: of.loss(x, t, label_smoothing=0.1),
        "weighted": lambda: of.loss(x, t, ignore_index=0, **weights),
        "gradient": lambda: of.loss_and_grad(x, t),
        "object": through_an_object,
        "soft": lambda: of.loss(y, soft),
        "explicit": lambda: of.loss(y, u, algorithm="explicit"),
        "transposed": lambda: of.loss(y.T, small(np.zeros(V, np.int64))),
        "explicit-in-place": lambda: of.loss_and_grad(y, u, out=y, algorithm="explicit"),
        "soft-in-place": lambda: of.loss_and_grad(y, soft, out=y),
        "in-place": lambda: of.loss_and_grad(x, t, out=x),
    }


def _linear(of: UnderTest, backend: backends.Backend, dtype: str) -> dict[str, tuple[Callable[[], Any], int]]:
    """The calls, and the bytes of the gradients that each gives: as they are summed up, and as they are stored."""
    rng = np.random.default_rng(3)
    hidden, weight = (
        backend.asarray(rng.standard_normal((rows, FEATURES)).astype(np.float32), dtype) for rows in (TOKENS, CLASSES)
    )
    t = backend.asarray(rng.integers(0, CLASSES, TOKENS), "int64")
    options = {"weight": weight, "memory": MEMORY}
    of_hidden, of_weight = (x.nbytes + 4 * x.shape[0] * FEATURES for x in (hidden, weight))

    def backward() -> Any:
        leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        of.linear_loss(leaves[0], t, weight=leaves[1], memory=MEMORY).backward()
        return leaves

    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "loss": (lambda: of.linear_loss(hidden, t, **options), 0),
        "smoothed": (lambda: of.linear_loss(hidden, t, **options, label_smoothing=0.1), 0),
        "gradients": (lambda: of.linear_loss_and_grads(hidden, t, **options), of_hidden + of_weight),
        "weight-alone": (lambda: of.linear_loss_and_grads(hidden, t, **options, needs=("weight",)), of_weight),
    }
    if backend.name == "torch":
        calls["backward"] = (backward, of_hidden + of_weight)
    return calls


def _measured(call: Callable[[], Any], returned: int) -> dict[str, Any]:
    try:
        return {"extra": _growth(call), "gradient": returned}
    except NotImplementedError as lack:
        return {"lacks": str(lack)}
    except Exception as error:
        return {"raised": f"{type(error).__name__}: {error}"[:1000]}


def main(name: str, dtype: str, shape: str, spec: str) -> None:
    """Print every scenario's peak."""
    backend = backends.get(name)
    of = subject.load(spec)
    of.begin(probe.examine(of, backend), "A10")
    kind = HALF[name] if dtype == "half" else dtype
    if shape == "linear":
        confined.limit()
        calls = _linear(of, backend, kind)
        # Above what the allocator keeps, all that is left of it is what matrix products pack their parts in.
        _measured(calls["gradients"][0], 0)
        print(json.dumps({what: _measured(call, returned) for what, (call, returned) in calls.items()}))
        return
    N, V = SHAPES[shape]
    x = _logits(backend, kind, (N if dtype == "float32" else N // 2, V))  # NumPy's half precision is slow
    t = backend.asarray(np.random.default_rng(2).integers(0, x.shape[1], x.shape[0]), "int64")
    size = x.nbytes
    found: dict[str, Any] = {"copy": {"extra": _growth(lambda: x + 1), "logits": size}}
    if kind not in of.traits.dtypes:
        print(json.dumps(found | {what: {"lacks": f"logits of {kind}"} for what in MAIN}))
        return
    confined.limit()
    for first in (of.loss_and_grad, of.loss):  # threads, caches, imports and compilers are not what is measured
        for targets in (t[:8], x[8:13]):
            _measured(partial(first, x[: len(targets)], targets), 0)
    wanted = MAIN + SLOWER if (dtype, shape) == ("float32", "tokens") else MAIN
    for what, call in _scenarios(of, x, t, lambda values: backend.asarray(values, str(values.dtype))).items():
        if what in wanted:
            found[what] = _measured(call, size if what in ("gradient", "object") else 0)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
