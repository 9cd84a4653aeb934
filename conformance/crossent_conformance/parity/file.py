"""The JSON of `crossent parity`: what was measured, and the results themselves, bit for bit, for later comparisons.

    {"format": "crossent-parity/1", "created", "command", "seed", "seconds", "machine",
     "subject": {"name", "spec", "version"},
     "backends": {"torch": {"version", "device", "dtypes", "mode", "notes"}},  "not_covered": {"cupy": "why"},
     "cases": [{"case": "confident", "dtype": "float32", "inputs": "fingerprint",
                "largest": {"loss": {"eps": 1.2, "fraction": 0.14, "between": ["numpy", "torch"]}, "d_logits": ...},
                "engines": {"torch": "numba"},
                "answers": {"torch": {"loss": ARRAY, "d_logits": ARRAY} | {"raises": ["TypeError", "text"]}
                            | {"lacks": "z_loss"}}}],
     "errors": {"logits-list": {"torch": ["TypeError", "text"] | null}},
     "baseline": null | {"created", "backends", "subject", "largest": {"confident float32 loss": {...}}},
     "worst": null | {"case", "dtype", "what", "between", "eps", "fraction", "text", "input"},
     "same_code": [{"between": ["numpy", "torch"], "engines": ["numba"], "cells": 70, "of": 76}],
     "holds": true | false | null, "problems": ["..."], "notes": ["..."]}

An ARRAY is {"dtype", "shape", "bytes"}: the little-endian values in C order, deflated, in base 64; bfloat16 is written
as float32. `null` among the errors is a call that was accepted, and what "holds" where nothing was compared, or nothing
but the same machine code with itself. Infinities are the strings "inf" and "-inf". What earlier versions
did not write, as engines, may be missing.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from crossent_conformance.arguments import UsageError
from crossent_conformance.backends import FLOATS
from crossent_conformance.parity import shown
from crossent_conformance.parity.answers import PARTS, Answer, Array, Asked, Results
from crossent_conformance.parity.compare import largest
from crossent_conformance.parity.verdict import Verdict
from crossent_conformance.results import standard

FORMAT = "crossent-parity/1"
KINDS = {
    "subject": dict, "seed": int, "backends": dict, "not_covered": dict, "errors": dict, "machine": dict,
    "created": str, "command": str,
}  # fmt: skip
"""The fields of a run that are written as they are."""
OF_A_BACKEND = {"version": str, "device": str, "dtypes": list, "mode": str, "notes": list}


def as_text(verdict: Verdict) -> str:
    """The run as it is written."""
    results, baseline, worst = verdict.results, verdict.baseline, largest(verdict.among)
    document = {
        "format": FORMAT,
        **{name: getattr(results, name) for name in KINDS},
        "seconds": round(results.seconds, 1),
        "cases": [
            {
                **vars(asked),
                "largest": worst.get((asked.case, asked.dtype), {}),
                "answers": {name: _encoded(answer) for name, answer in asked.answers.items()},
            }
            for asked in results.asked
        ],
        "baseline": baseline
        and {
            **{name: getattr(baseline, name) for name in ("created", "machine", "subject", "backends")},
            "largest": {
                " ".join([*key, what]): value
                for key, parts in largest(verdict.against).items()
                for what, value in parts.items()
            },
        },
        "worst": shown.worst(verdict),
        "same_code": [
            {"between": pair, "engines": engines, "cells": cells, "of": of}
            for pair, (engines, cells, of) in verdict.same_code.items()
        ],
        "holds": not verdict.problems if verdict.proves or verdict.problems else None,
        "problems": [problem.text for problem in verdict.problems],
        "notes": verdict.notes,
    }
    return json.dumps(standard(document), indent=1, allow_nan=False) + "\n"


def read(path: Path) -> Results:
    """The results in a file; UsageError where there are none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not JSON: it is not text") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    given = data.get("format") if isinstance(data, dict) else None
    if given != FORMAT:
        raise UsageError(f"{path} is not a file of crossent parity: its format is {given!r}; accepted: {FORMAT!r}")
    try:
        return _results(data)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, zlib.error) as error:
        raise UsageError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _encoded(answer: Answer) -> dict[str, Any]:
    return {name: _array(item) if name in PARTS else item for name, item in answer.items()}


def _array(array: Array) -> dict[str, Any]:
    values = array.values
    raw = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    packed = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
    return {"dtype": array.dtype, "shape": list(values.shape), "bytes": packed}


def _results(data: dict[str, Any]) -> Results:
    given = {name: _typed(data[name], kind) for name, kind in KINDS.items()}
    given["subject"] = {name: given["subject"][name] for name in ("name", "spec", "version")}
    if given["seed"] < 0 or not given["backends"]:
        raise ValueError("it has a seed below 0, or no backend")
    for name, item in given["backends"].items():
        given["backends"][name] = {key: _typed(item[key], kind) for key, kind in OF_A_BACKEND.items()}
        for text in (*item["dtypes"], *item["notes"]):
            _typed(text, str)
    given["errors"] = {
        name: {backend: None if item is None else _texts(item) for backend, item in refusals.items()}
        for name, refusals in given["errors"].items()
    }
    results = Results(**given, seconds=float(data["seconds"]))
    for item in data["cases"]:
        if item["dtype"] not in FLOATS:
            raise ValueError(f"dtype {item['dtype']!r}")
        answers = {name: _answer(answer) for name, answer in item["answers"].items()}
        engines = {name: _typed(engine, str) for name, engine in item.get("engines", {}).items()}
        case, inputs = (_typed(item[name], str) for name in ("case", "inputs"))
        results.asked.append(Asked(case, item["dtype"], inputs, answers, engines))
    return results


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _texts(error: Any) -> tuple[str, str]:
    kind, text = _typed(error, list)
    return _typed(kind, str), _typed(text, str)


def _answer(item: Any) -> Answer:
    item = _typed(item, dict)
    if "raises" in item:
        return {"raises": _texts(item["raises"])}
    if "lacks" in item:
        return {"lacks": str(item["lacks"])}
    return {what: _decoded(item[what]) for what in PARTS if what in item}


def _decoded(item: dict[str, Any]) -> Array:
    name, shape = item["dtype"], [_typed(length, int) for length in item["shape"]]
    dtype = np.dtype("float32" if name == "bfloat16" else name).newbyteorder("<")
    # No more than the shape says is inflated; if the bytes are fewer or more, they do not have that shape.
    most = math.prod(shape) * dtype.itemsize + 1
    raw = zlib.decompressobj().decompress(base64.b64decode(item["bytes"], validate=True), most)
    return Array(name, np.frombuffer(raw, dtype=dtype).reshape(shape).astype(dtype.newbyteorder("=")))
