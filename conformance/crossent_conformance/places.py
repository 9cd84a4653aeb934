"""The places: the cells of the matrix backend x dtype x mode, in which tests run.

    place.round(values)                     the values after rounding to the place's dtype, as float64 NumPy
    place.put(values, dtype=None)           a NumPy array as the backend's array, laid out as the mode says
    place.call(function, logits, targets, **options)      NumPy arrays in, called in the mode, the backend's arrays out
    place.evaluate(function, logits, targets, **options)  the same, read back as NumPy
    place.pair(logits, targets), place.options(options)   the backend's arrays, for a call that a test makes itself
    place.to_numpy(array), place.dtype, place.compute_dtype, place.mode, place.backend

`call` gives logits and soft targets the place's dtype, other floats the compute dtype; integers keep their own. The
`weight` and `bias` of a linear loss are of the place's dtype, too. A function of logits alone has None for targets.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from crossent_conformance import depth, evidence
from crossent_conformance.backends import BACKENDS, FLOATS, HALF, Backend, Mode

_Cell = TypeVar("_Cell")
OF_A_HEAD = ("weight", "bias")
"""Arrays of a linear loss that are of no token, and of the dtype of its hidden states."""
_compiled: dict[Any, Any] = {}
"""What `Place.call` has compiled in the test that runs."""


@dataclass(frozen=True)
class Place:
    """One cell of the matrix: a backend, the dtype of the logits, and the mode."""

    backend: Backend = field(repr=False)
    dtype: str
    mode: Mode

    def __str__(self) -> str:
        """The name of the place in the names of its tests."""
        return f"{self.backend.name}-{self.dtype}-{self.mode.value}"

    @property
    def compute_dtype(self) -> str:
        """The dtype of the arithmetic and of the loss (clause A1)."""
        return "float32" if self.dtype in HALF else self.dtype

    def put(self, values: Any, dtype: str | None = None) -> Any:
        values = np.array(values)  # a copy: array-api-strict shares the memory of what it is given
        return self.backend.lay_out(self.backend.asarray(values, dtype or str(values.dtype)), self.mode)

    def pair(self, logits: Any, targets: Any) -> tuple[Any, Any]:
        """Logits of the place's dtype, and targets: soft ones of that dtype, too."""
        targets = np.asarray(targets)
        return self.put(logits, self.dtype), self.put(targets, self.dtype if targets.dtype.kind == "f" else None)

    def options(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options; NumPy arrays among them are the backend's, floating ones of the compute dtype."""
        floats = {**dict.fromkeys(options, self.compute_dtype), **dict.fromkeys(OF_A_HEAD, self.dtype)}
        return {
            name: self.put(value, floats[name] if value.dtype.kind == "f" else None)
            if isinstance(value, np.ndarray)
            else value
            for name, value in options.items()
        }

    def to_numpy(self, array: Any) -> np.ndarray:
        return self.backend.to_numpy(array)

    def copies(self, arrays: Iterable[Any]) -> list[np.ndarray]:
        """The values of arrays that a later call may write to."""
        return [np.array(self.to_numpy(array)) for array in arrays]

    def round(self, values: Any) -> np.ndarray:
        return self.to_numpy(self.backend.asarray(np.asarray(values), self.dtype)).astype(np.float64)

    def call(self, function: Any, logits: np.ndarray, targets: np.ndarray | None, **options: Any) -> Any:
        """Put the NumPy arrays among the arguments and call in the mode. `out` passes as it is."""
        if evidence.last_call() is None:
            _compiled.clear()
        evidence.record_call(logits, targets, options, self.dtype)
        given = (self.put(logits, self.dtype),) if targets is None else self.pair(logits, targets)
        arrays = dict(zip(("logits", "targets"), given, strict=False))
        plain = {name: value for name, value in options.items() if not isinstance(value, np.ndarray) or name == "out"}
        arrays |= self.options({name: value for name, value in options.items() if name not in plain})
        if self.mode is Mode.BROADCAST:
            return self._call_twice(function, arrays, plain, np.ndim(logits) - 1)
        if self.mode is Mode.TRACED:
            return self._traced(function, plain)(arrays)
        with self.backend.during_call():
            return _with_named(function, plain, arrays)

    def check_owned(self, *parts: Any) -> None:
        """Assert that all of these are arrays of the backend's library and device."""
        for part in parts:
            if not self.backend.owns(part):
                raise evidence.WrongTypeError(
                    f"{evidence.kind_of(part)} came back, not an array of {self.backend.name}"
                )

    def evaluate(self, function: Any, logits: np.ndarray, targets: np.ndarray | None, **options: Any) -> Any:
        result = self.call(function, logits, targets, **options)
        parts = result if isinstance(result, tuple) else (result,)
        self.check_owned(*parts)
        values = tuple(self.to_numpy(part) for part in parts)
        return values if isinstance(result, tuple) else values[0]

    def _traced(self, function: Any, plain: dict[str, Any]) -> Any:
        """The function under the compiler. Within a test it is compiled once for calls that differ in values alone."""
        try:
            key = (self, function, frozenset(plain.items()))
            if key not in _compiled:
                _compiled[key] = self.backend.trace(partial(_with_named, function, plain))
        except TypeError:  # an option that cannot be hashed
            return self.backend.trace(partial(_with_named, function, plain))
        return _compiled[key]

    def _call_twice(self, function, arrays, plain, token_axes):
        assert plain.get("reduction") == "none", "doubling the tokens changes every other reduction"
        per_token = {
            name: self.backend.twice(array) if name in ("logits", "targets") or array.ndim == token_axes else array
            for name, array in arrays.items()
            if name != "class_weights"
        }
        shared = {name: array for name, array in arrays.items() if name == "class_weights"}
        result = _with_named(function, plain, per_token | shared)
        parts = result if isinstance(result, tuple) else (result,)
        for part in parts:
            doubled = self.to_numpy(part)
            assert doubled.shape[:1] == (2,), f"the result has shape {doubled.shape}; accepted: (2, ...), as the tokens"
            first, second = doubled
            np.testing.assert_array_equal(first, second, err_msg="equal rows of a stride-0 input differ")
        return tuple(part[0, ...] for part in parts) if isinstance(result, tuple) else result[0, ...]


def places(backends: list[Backend], marker: dict[str, Any] | None = None) -> list[Place]:
    """The matrix, narrowed by the arguments of a `places` marker: dtypes, modes, backends (names), sparse.

    `sparse=True` keeps every dtype in each backend's first mode and its other modes in float32, for tests that are not
    about how the two meet; a slow backend keeps float32 alone. Without it, a slow backend keeps every dtype in its
    first mode, and all of them in a thorough run. What is asked in the eager mode is asked in the portable one as well,
    and what is asked in the strictest mode on other devices.
    """
    marker = marker or {}
    modes = marker.get("modes", tuple(Mode))
    if Mode.EAGER in modes:
        modes = (*modes, Mode.PORTABLE)
    if Mode.STRICTEST in modes:
        modes = (*modes, Mode.ELSEWHERE, Mode.NO_FLOAT64)
    unknown = marker.keys() - {"dtypes", "modes", "backends", "sparse"}
    assert not unknown, f"the places marker has no {unknown}"
    return [
        Place(backend, dtype, mode)
        for backend in backends
        for dtype in backend.dtypes
        for mode in backend.modes
        if dtype in marker.get("dtypes", FLOATS)
        and mode in modes
        and not (mode is Mode.NO_FLOAT64 and dtype == "float64")
        and backend.name in marker.get("backends", BACKENDS)
        and (not marker.get("sparse") or dtype == "float32" or (mode is backend.modes[0] and not backend.slow))
        and (not backend.slow or depth.THOROUGH or dtype == "float32" or mode is backend.modes[0])
    ]


def one_of(name: str, cells: Sequence[_Cell]) -> _Cell:
    """The cell in which a quick run asks the test of that name; they take turns from test to test."""
    return cells[zlib.crc32(name.encode()) % len(cells)]


def _with_named(function, plain, arrays):
    arrays = dict(arrays)
    first = [arrays.pop(name) for name in ("logits", "targets") if name in arrays]
    return function(*first, **arrays, **plain)
