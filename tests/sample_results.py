"""Results as a run would leave them, made up: three implementations, every status, every kind of failure."""

import copy
import math

CONTRACT = {
    "V1": "Hard targets: `loss = lse − x_t`. The relative error of each loss is at most `(4 + v + g) eps`.",
    "V2": "Without z-loss, the loss is at least 0: never negative by rounding.",
    "R1": "`none`: the shape of the tokens. `sequence`: the mean over the last axis of the tokens.",
    "S3": "A logit of −∞ on the target: loss +∞, and the limit of the gradient.",
    "A4": "A target outside [0, V) that is not `ignore_index`:\n- IndexError <naming> it;\n- or NaN.",
    "A7": "More than 2³¹ logits work.",
    "D1": "torch: `backward`, `torch.func.grad`, `vmap`. JAX: `grad`, `jvp`, `hessian`.",
}
HOSTILE = "<script>alert('x')</script> & \"quotes\" \x1b[31mred\x1b[0m \ud800"
NOTE = "takes (N, V) logits: others are flattened"


def backend(version, dtypes, modes=("eager",), device="cpu", notes=()):
    return {"version": version, "device": device, "dtypes": list(dtypes), "modes": list(modes), "notes": list(notes)}


BACKENDS = {
    "numpy": backend("2.1.0", ("float64", "float32", "float16"), ("eager", "readonly", "strided", "broadcast")),
    "torch": backend("2.13.0", ("float64", "float32", "float16", "bfloat16"), ("eager", "strided")),
    "torch-cuda": backend("2.13.0", ("float64", "float32", "float16", "bfloat16"), device="cuda"),
    "cupy": backend("13.6.0", ("float64", "float32", "float16"), device="cuda"),
    "jax": backend("0.8.0", ("float64", "float32", "float16", "bfloat16"), ("eager", "traced")),
    "dask": backend("2025.1.0", ("float64", "float32", "float16"), ("lazy",)),
    "array-api-strict": backend("2.4", ("float64", "float32"), ("eager", "strictest")),
}
V1_FAILURE = {
    "case": "test_V1_confident_targets[torch-float32-eager]",
    "kind": "disagrees",
    "message": "loss: 1 of 1 values are off by more than allowed, the worst by 1.2e+06 times the allowed error",
    "shrunk": True,
    "input": {
        "logits": [[0.0, 20.25], ["-inf", 3.0]],
        "targets": [1, 0],
        "options": {"reduction": "none", "class_weights": [1.0, 0.5]},
        "shape": [2, 2],
        "dtype": "float32",
        "mode": "eager",
    },
    "what": "loss",
    "expected": 1.605228055e-09,
    "given": 0.0,
    "error": 1234567.0,
}
FAILURES = {
    "V1": V1_FAILURE,
    "R1": {
        **V1_FAILURE,
        "case": "test_R1_shapes[torch-float32-eager-hard]",
        "kind": "wrong type",
        "message": f"TypeError: a loss of {HOSTILE}",
        "shrunk": False,
        "input": {
            "logits": [[[0.5, 0.25, 2.0], [1.0, "nan", "inf"]]],
            "targets": [[[0.125, 0.75, 0.0], [1.0, 0.0, 0.0]]],
            "options": {},
            "shape": [1, 2, 3],
            "dtype": "float32",
            "mode": "strided",
        },
        "what": None,
        "expected": None,
        "given": None,
        "error": None,
    },
    "S3": {**V1_FAILURE, "case": "test_S3_on_the_target", "expected": "inf", "given": "nan", "error": "inf"},
    "A7": {
        "case": "test_A7_more_logits_than_32_bits_count[torch-float32-eager]",
        "kind": "hangs",
        "message": "no answer within 60 seconds",
        "shrunk": False,
        "input": {**V1_FAILURE["input"], "logits": None, "targets": None, "shape": [65536, 32769], "options": {}},
        "what": None,
        "expected": None,
        "given": None,
        "error": None,
    },
    "A4": {
        "case": "test_A4_targets_outside[torch-float32-eager]",
        "kind": "crashes",
        "message": "the process ended with signal 11\n" + "Current thread 0x00007f (most recent call first):" * 12,
        "shrunk": False,
        "input": None,
        "what": None,
        "expected": None,
        "given": None,
        "error": None,
    },
}


def cell(clause, backend, dtype, status, **more):
    counts = {"holds": (12, 0, 0), "fails": (9, 3, 1), "does not apply": (0, 0, 4)}[status]
    return {
        "clause": clause,
        "backend": backend,
        "dtype": dtype,
        "status": status,
        "held": counts[0],
        "failed": counts[1],
        "not_applicable": counts[2],
        "worst": None,
        "lacks": [],
        "failure": None,
        **more,
    }


def cases_of(cells):
    """Three cases for each cell that fails; those that hold are left out."""
    return [
        {
            "id": f"clauses/test_values.py::{name}",
            "clause": each["clause"],
            "backend": each["backend"],
            "dtype": each["dtype"],
            "mode": "eager",
            "outcome": "fails",
            "kind": "raises",
            "seconds": 0.1,
            "worst": None,
            "message": "",
        }
        for each in cells
        if each["status"] == "fails"
        for name in (each["failure"]["case"], f"test_{each['clause']}_second", f"test_{each['clause']}_third")
    ]


def curves(backends, lost, *, gradient=True):
    """Errors about eps, that grow by exp(lost) a gap past 0; one is 0, and where they grow one null, one infinite."""
    found = []
    for name, dtypes in backends:
        for dtype in dtypes:
            eps = 2.0**-52 if dtype == "float64" else 2.0**-23
            noise = [eps * abs(math.sin(3.7 * gap + len(name))) for gap in range(-40, 81)]
            errors = [
                min(1.0, here * (math.exp(min(gap, 60) * lost) if gap > 0 else 1.0))
                for here, gap in zip(noise, range(-40, 81), strict=True)
            ]
            errors[40] = 0.0
            if lost:
                errors[-1] = "inf"
                errors[-2] = None
            found += [
                {"backend": name, "dtype": dtype, "what": what, "gaps": list(range(-40, 81)), "errors": errors}
                for what in ("loss", "target gradient")[: 2 if gradient else 1]
            ]
    return found


def good():
    """It holds on seven backends."""
    cells = [
        cell(clause, name, dtype, "holds", worst=0.55)
        for clause in CONTRACT
        for name, known in BACKENDS.items()
        for dtype in known["dtypes"]
        if clause not in ("A7", "D1") or name in ("torch", "jax")
    ]
    return {
        "name": "crossent",
        "spec": "crossent_conformance.subjects_crossent:subject",
        "version": "0.1.0",
        "notes": [],
        "backends": BACKENDS,
        "not_covered": {},
        "cells": cells,
        "cases": [],
        "curves": curves([(name, known["dtypes"]) for name, known in BACKENDS.items()], 0),
    }


def bad():
    """It fails in every way there is; R1 does not apply in float64, A4 holds there with a case that does not."""
    cells = []
    for clause in CONTRACT:
        for dtype in ("float64", "float32"):
            if clause == "D1" or (clause == "R1" and dtype == "float64"):
                cells.append(cell(clause, "torch", dtype, "does not apply", lacks=["reduction='sequence'", "weights"]))
            elif clause in FAILURES and dtype == "float32":
                worst = {"V1": 1234567.0, "S3": "inf"}.get(clause)
                lacks = ["z_loss"] if clause == "V1" else []
                cells.append(cell(clause, "torch", dtype, "fails", worst=worst, failure=FAILURES[clause], lacks=lacks))
            elif clause == "V1":
                cells.append(cell(clause, "torch", dtype, "fails", worst=40.0, failure=V1_FAILURE))
            elif clause == "A4":
                more = {"not_applicable": 2, "lacks": ["check_targets"]}
                cells.append(cell(clause, "torch", dtype, "holds", **more))
            else:
                cells.append(cell(clause, "torch", dtype, "holds", worst=0.31))
    return {
        "name": f"package.{HOSTILE}",
        "spec": "crossent_conformance.peers.torch:functional",
        "version": "2.13.0",
        "notes": [NOTE],
        "backends": {"torch": backend("2.13.0", ("float64", "float32"), notes=[NOTE, "float16: RuntimeError: no"])},
        "not_covered": {"cupy": "not usable: no CUDA device", "numpy": "the subject does not take its arrays"},
        "cells": cells,
        "cases": cases_of(cells),
        "curves": curves([("torch", ("float64", "float32"))], 0.8),
    }


def partial():
    """It has a loss alone, and next to nothing applies."""
    cells = [
        cell(clause, "jax", "float32", "does not apply", lacks=["gradient"]) for clause in CONTRACT if clause != "V2"
    ]
    cells.append(cell("V2", "jax", "float32", "holds"))
    return {
        "name": "optax.softmax_cross_entropy_with_integer_labels",
        "spec": "crossent_conformance.peers.optax:integer",
        "version": None,
        "notes": [],
        "backends": {"jax": backend("0.8.0", ("float32",))},
        "not_covered": {"numpy": "the subject does not take its arrays"},
        "cells": cells,
        "cases": [],
        "curves": curves([("jax", ("float32",))], 0.7, gradient=False),
    }


def results(*subjects, **more):
    """The JSON form, of these implementations; a copy, that may be changed."""
    return copy.deepcopy(
        {
            "format": "crossent-conformance/1",
            "created": "2026-11-24T01:02:03+00:00",
            "command": "crossent conform a:b --backend torch",
            "seed": 0,
            "thorough": False,
            "clauses_asked": None,
            "seconds": 71.2,
            "complete": True,
            "machine": {"python": "3.11.7", "system": "Linux 6.1 x86_64", "cores": 2},
            "contract": CONTRACT,
            "subjects": [subject() for subject in subjects],
            **more,
        }
    )
