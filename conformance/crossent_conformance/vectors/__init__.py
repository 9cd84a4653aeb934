"""Test vectors for implementations in any language: conformance/vectors/README.md says what they hold.

    python -m crossent_conformance.vectors --write conformance/vectors    make them again
    python -m crossent_conformance.vectors --check conformance/vectors    compare the files with what would be written

    for case in vectors.read("conformance/vectors"):
        logits, targets, options = case.arguments()
        loss, d_logits = some_cross_entropy_and_grad(logits.astype(case.dtype), targets, **options)
        assert case.worst(loss, d_logits) <= 1

Here is the reader, which knows nothing of how the files were made: repetitions are made, and results compared with what
is allowed. `answers` has the oracle's answers to what the files ask, `__main__` writes both.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance import units

FOLDER = "v1"
EXACT = ("loss", "d_logits", "perplexity")
"""The results that a case may have."""


@dataclass(frozen=True)
class Case:
    """One case of the files."""

    written: dict[str, Any]

    @property
    def id(self) -> str:
        return self.written["id"]

    @property
    def dtype(self) -> str:
        """The dtype that the logits are to be given in."""
        return self.written["dtype"]

    def arguments(self) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Logits as float64, targets in their dtype (bfloat16: float64), options; repetitions made."""
        given = self.written
        tokens, V, columns = tuple(given["tokens"]), given["classes"], self._counts("columns")
        logits = self._rows(floats(given["logits"]).reshape(*tokens, V).repeat(columns, axis=-1))
        if "int" in given["targets_dtype"]:
            numbers = [int(target) for target in given["targets"]]  # not all of them are exact in float64
            targets = np.array(numbers, dtype=given["targets_dtype"]).reshape(tokens)
        else:
            targets = floats(given["targets"]).reshape(*tokens, V).repeat(columns, axis=-1)
            targets = targets if given["targets_dtype"] == "bfloat16" else targets.astype(given["targets_dtype"])
        options = dict(given["options"])
        if "weights" in options:
            options["weights"] = self._rows(floats(options["weights"]).reshape(tokens))
        if "class_weights" in options:
            options["class_weights"] = floats(options["class_weights"]).repeat(columns)
        if "grad_output" in options:
            options["grad_output"] = floats(options["grad_output"]).reshape(given["loss_shape"])
        if "ignore_index" in options:
            options["ignore_index"] = int(options["ignore_index"])
        return logits, self._rows(targets), options

    def expected(self, name: str) -> units.Exact:
        """The exact "loss", "d_logits" or "perplexity", as written: without repetitions, but in its shape."""
        given = self.written
        shape = (*given["tokens"], given["classes"]) if name == "d_logits" else tuple(given["loss_shape"])
        high = floats(given[name])
        low = [_low(text, value) for text, value in zip(given[name], high.tolist(), strict=True)]
        return units.Exact(*(np.array(part).reshape(shape) for part in (high, low, given[f"{name}_allowed"])))

    def worst(self, loss: Any, d_logits: Any = None, perplexity: Any = None) -> float:
        """The largest error as a fraction of what is allowed: 1 is the limit, inf a wrong shape, NaN or infinity."""
        worst, eps = 0.0, self.written["eps"]
        for name, given in zip(EXACT, (loss, d_logits, perplexity), strict=True):
            if given is None:
                continue
            exact, got = self.expected(name), np.asarray(given, dtype=np.float64)
            if name == "d_logits" or self.written["options"].get("reduction") == "none":
                exact = units.Exact(*(self._rows(part) for part in (exact.high, exact.low, exact.allowed)))
            if name == "d_logits":
                columns = self._counts("columns")
                exact = units.Exact(*(part.repeat(columns, axis=-1) for part in (exact.high, exact.low, exact.allowed)))
            if got.shape != exact.shape:
                return float("inf")
            worst = max(worst, _worst(got, exact, eps))
            if name == "d_logits" and "row_sums_allowed" in self.written:
                sums = np.array([math.fsum(row) for row in got.reshape(-1, got.shape[-1]).tolist()])
                nothing, allowed = np.zeros_like(sums), np.array(self.written["row_sums_allowed"])
                worst = max(worst, _worst(sums, units.Exact(nothing, nothing, allowed), eps))
        if loss is not None and (np.asarray(loss) < self.written.get("loss_at_least", -np.inf)).any():
            return float("inf")
        return worst

    def _counts(self, axis: str) -> Any:
        return self.written.get("repeat", {}).get(axis, 1)

    def _rows(self, array: np.ndarray) -> np.ndarray:
        rows = self._counts("rows")
        return array if rows == 1 else array.repeat(rows, axis=0)


def read(folder: str | Path) -> list[Case]:
    """Every case of the JSON files in the folder, in the order of their clauses."""
    found = pages(Path(folder) / FOLDER)
    if not found:
        raise FileNotFoundError(f"there are no vectors in {Path(folder) / FOLDER}")
    return [Case(case) for cases in found.values() for case in cases]


def pages(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the files of a version hold, by clause, in the order of the contract's groups."""
    files = sorted(folder.glob("[A-Z][0-9]*.json"), key=lambda file: ("VRSA".find(file.stem[0]), int(file.stem[1:])))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")).get("cases", []) for file in files}


def floats(values: list[Any]) -> np.ndarray:
    """Numbers as the files have them: some are strings."""
    return np.array([float(value) for value in values], dtype=np.float64)


def _low(text: str, high: float) -> float:
    """What the nearest float64 leaves of the digits."""
    return float(Decimal(text) - Decimal(high)) if np.isfinite(high) else 0.0


def _worst(got: np.ndarray, exact: units.Exact, eps: float) -> float:
    if got.size == 0:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs((got - exact.high) - exact.low)
        fraction = np.where(error == 0, 0.0, error / (exact.allowed * eps))
    same = (got == exact.high) | (np.isnan(got) & np.isnan(exact.high))
    finite = np.isfinite(got) & np.isfinite(exact.high)
    return float(np.where(finite, fraction, np.where(same, 0.0, np.inf)).max())
