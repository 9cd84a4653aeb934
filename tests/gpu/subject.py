"""What the tests of a GPU ask: `crossent` with its compiled engine, on a library's arrays, with the device's queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.device import DEVICES, Device, device

import crossent
from crossent_conformance.backends import BACKENDS, Backend, load

GUARDS = 8
"""Elements between two rows, at least."""
NAN = {"float64": 0x7FF8_0000_0000_1234, "float32": 0x7FC0_1234, "float16": 0x7E34, "bfloat16": 0x7FD2}
"""The bits of a NaN that no arithmetic gives."""


@dataclass(frozen=True)
class Subject:
    """An engine on a library."""

    backend: Backend
    device: Device
    engine: str = "cuda"
    small: bool = False
    """Whether sizes are tiny, to see that the tests themselves work."""

    @property
    def half(self) -> str:
        """The dtype that models of this library have."""
        return "bfloat16" if "bfloat16" in self.backend.dtypes else "float16"

    def loss(self, x: Any, t: Any, **options: Any) -> Any:
        """The loss alone; without the check of the targets unless it is asked for."""
        return crossent.cross_entropy(x, t, **{"engine": self.engine, "check_targets": False} | options)

    def both(self, x: Any, t: Any, **options: Any) -> Any:
        """The loss and its gradient, likewise."""
        return crossent.cross_entropy_and_grad(x, t, **{"engine": self.engine, "check_targets": False} | options)

    def told(self, x: Any, t: Any, **options: Any) -> Any:
        """What rows tell of their targets, likewise."""
        return crossent.token_statistics(x, t, **{"engine": self.engine, "check_targets": False} | options)

    def measured(self, x: Any, teacher: Any, measure: str, **options: Any) -> Any:
        """The entropy of each row, or its divergence from a teacher's in that direction, and the gradient."""
        options = {"engine": self.engine, "reduction": "none"} | options
        if measure == "entropy":
            return crossent.entropy_and_grad(x, **options)
        return crossent.kl_divergence_and_grad(x, teacher, direction=measure, **options)

    def measure(self, x: Any, teacher: Any, measure: str) -> Any:
        """The same without the gradient."""
        options = {"engine": self.engine, "reduction": "none"}
        if measure == "entropy":
            return crossent.entropy(x, **options)
        return crossent.kl_divergence(x, teacher, direction=measure, **options)

    def rows(self, n: int, v: int, dtype: str, seed: int = 0) -> tuple[Any, Any]:
        """Logits, three times standard normal, and targets."""
        random = np.random.default_rng([seed, n, v])
        logits = 3 * random.standard_normal((n, v), dtype=np.float32)
        return self.backend.asarray(logits, dtype), self.backend.asarray(random.integers(0, v, n), "int64")

    def numpy(self, x: Any) -> np.ndarray:
        """The values on the host; bfloat16 as float32."""
        return self.backend.to_numpy(x)

    def copy(self, x: Any) -> Any:
        """The same values elsewhere."""
        return x.clone() if hasattr(x, "clone") else x.copy()

    def bits(self, x: Any) -> np.ndarray:
        """The values as unsigned integers, so that NaN equals itself and -0 is not 0."""
        if hasattr(x, "detach"):
            import torch

            x = x.detach().contiguous()
            x = x.view(getattr(torch, f"int{8 * x.element_size()}"))
        x = np.ascontiguousarray(self.numpy(x))
        return x.view(f"u{x.itemsize}")

    def from_bits(self, bits: np.ndarray, dtype: str) -> Any:
        """The array whose bits they are."""
        made = self.backend.asarray(bits.view(f"i{bits.itemsize}"), f"int{8 * bits.itemsize}")
        if not hasattr(made, "detach"):
            return made.view(dtype)
        import torch

        return made.view(getattr(torch, dtype))

    def guarded(self, bits: np.ndarray, dtype: str, offset: int) -> tuple[Any, Any]:
        """Memory full of NaN, and the rows in it; the offset moves every row off its alignment."""
        n, v = bits.shape
        wide = np.full((n + 2, v + offset + GUARDS), NAN[dtype], dtype=bits.dtype)
        wide[1:-1, offset : offset + v] = bits
        memory = self.from_bits(wide, dtype)
        return memory, memory[1:-1, offset : offset + v]

    def same_bits(self, found: Any, expected: Any, what: str) -> None:
        """Assert that two arrays are the same to the bit."""
        found, expected = self.bits(found), self.bits(expected)
        different = int((found != expected).sum())
        assert not different, f"{what}: {different} of {expected.size} values differ"


def usable(names: list[str] | None = None) -> list[str]:
    """The backends whose arrays lie on a GPU here, of those that are named."""
    return [name for name in names or DEVICES if name in DEVICES and not isinstance(load(name), str)]


def obstacles() -> str:
    """Why backends of a GPU cannot be used here."""
    return "; ".join(f"{name} {load(name)}" for name in DEVICES if isinstance(load(name), str))


def of(name: str) -> Subject:
    """The subject of a backend, or on the device that is acted."""
    if name == "acted":
        from tests.gpu import acted

        return acted.subject()
    return Subject(BACKENDS[name](), device(name))
