"""Results as a run would leave them, made up: three implementations, every status, every kind of failure."""

import copy
import dataclasses
import math

from crossent_conformance import results as forms
from crossent_conformance.results import FAILS, HOLDS, KNOWN, NOT, Case, Failure, SubjectResult
from crossent_conformance.severity import EXTREME, WRONG

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
INF, NAN = math.inf, math.nan
V1_FAILURE = Failure(
    case="test_V1_confident_targets[torch-float32-eager]",
    kind="disagrees",
    message="loss: 1 of 1 values are off by more than allowed, the worst by 1.2e+06 times the allowed error",
    says="loss[0] is 0, and should be 1.60523e-09",
    severity=EXTREME,
    shrunk=True,
    input={
        "logits": [[0.0, 20.25], [-INF, 3.0]],
        "targets": [1, 0],
        "options": {"reduction": "none", "class_weights": [1.0, 0.5]},
        "shape": [2, 2],
        "dtype": "float32",
        "mode": "eager",
    },
    what="loss",
    expected=1.605228055e-09,
    given=0.0,
    error=1234567.0,
)
SOFT = {
    "logits": [[[0.5, 0.25, 2.0], [1.0, NAN, INF]]],
    "targets": [[[0.125, 0.75, 0.0], [1.0, 0.0, 0.0]]],
    "options": {},
    "shape": [1, 2, 3],
    "dtype": "float32",
    "mode": "strided",
}
LARGE = {**V1_FAILURE.input, "logits": None, "targets": None, "shape": [65536, 32769]}
FAILURES = {
    "V1": V1_FAILURE,
    "R1": Failure(
        "test_R1_shapes[torch-float32-eager-hard]", "wrong type", f"TypeError: a loss of {HOSTILE}", input=SOFT
    ),
    "S3": dataclasses.replace(
        V1_FAILURE,
        case="test_S3_on_the_target",
        says="loss[0] is NaN",
        expected=INF,
        given=NAN,
        error=INF,
        severity=WRONG,
        tier=0,
    ),
    "A4": Failure("test_A4_crash", "crashes", "the process ended with signal 11"),
    "A7": Failure("test_A7_many[torch-float32-eager]", "hangs", "no answer within 60 seconds", input=LARGE),
}


def cases(clause, backend, dtype, status, worst=None, lacks=(), failure=None):
    """Of a cell: twelve that hold, or three of them that fail; one for each thing that is lacking."""
    held, failed = {HOLDS: (12, 0), FAILS: (9, 3), KNOWN: (9, 3), NOT: (0, 0)}[status]
    known = "the framework promises nothing better" if status == KNOWN else ""
    names = [failure.case if failure else "", f"test_{clause}_second", f"test_{clause}_third"]

    def case(name, outcome, **more):
        return Case(f"clauses/test_values.py::{name}", clause, backend, dtype, "eager", outcome, worst=worst, **more)

    return [
        *(case(f"test_{clause}_{place}", HOLDS) for place in range(held)),
        *(
            case(name, FAILS, kind="raises", failure=None if at else failure, known=known)
            for at, name in enumerate(names[:failed])
        ),
        *(case(f"test_{clause}_lacking", NOT, message=reason) for reason in lacks),
    ]


def cell(*place, **more):
    """A cell of these cases."""
    return forms._cell(*place[:3], cases(*place, **more))


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
    return SubjectResult(
        name="crossent",
        spec="crossent_conformance.subjects_crossent:subject",
        version="0.1.0",
        backends=BACKENDS,
        cases=[
            case
            for clause in CONTRACT
            for name, known in BACKENDS.items()
            for dtype in known["dtypes"]
            if clause not in ("A7", "D1") or name in ("torch", "jax")
            for case in cases(clause, name, dtype, HOLDS, worst=0.55)
        ],
        curves=curves([(name, known["dtypes"]) for name, known in BACKENDS.items()], 0),
    )


def bad():
    """It fails in every way there is, in V2 as is known.

    R1 does not apply in float64, A4 holds there with a case that does not.
    """
    found = []
    for clause in CONTRACT:
        for dtype in ("float64", "float32"):
            place = clause, "torch", dtype
            if clause == "D1" or (clause == "R1" and dtype == "float64"):
                found += cases(*place, NOT, lacks=["reduction='sequence'", "weights"])
            elif clause in FAILURES and dtype == "float32":
                worst = {"V1": 1234567.0, "S3": INF}.get(clause)
                found += cases(*place, FAILS, worst, ["z_loss"] if clause == "V1" else [], FAILURES[clause])
            elif clause == "V2" and dtype == "float32":
                found += cases(*place, KNOWN, 2.0, failure=dataclasses.replace(V1_FAILURE, case="test_V2_tiny"))
            elif clause == "V1":
                found += cases(*place, FAILS, 40.0, failure=V1_FAILURE)
            else:
                found += cases(*place, HOLDS, 0.31, ["check_targets"] if clause == "A4" else [])
    return SubjectResult(
        name=f"package.{HOSTILE}",
        spec="crossent_conformance.peers.torch:functional",
        version="2.13.0",
        notes=[NOTE],
        backends={"torch": backend("2.13.0", ("float64", "float32"), notes=[NOTE, "float16: RuntimeError: no"])},
        not_covered={"cupy": "not usable: no CUDA device", "numpy": "the subject does not take its arrays"},
        cases=found,
        curves=curves([("torch", ("float64", "float32"))], 0.8),
    )


def partial():
    """It has a loss alone, and next to nothing applies."""
    return SubjectResult(
        name="optax.softmax_cross_entropy_with_integer_labels",
        spec="crossent_conformance.peers.optax:integer",
        backends={"jax": backend("0.8.0", ("float32",))},
        not_covered={"numpy": "the subject does not take its arrays"},
        cases=[
            case
            for clause in CONTRACT
            for case in cases(clause, "jax", "float32", HOLDS if clause == "V2" else NOT, lacks=["gradient"])
        ],
        curves=curves([("jax", ("float32",))], 0.7, gradient=False),
    )


def results(*subjects, **more):
    """The JSON form, of these implementations; a copy, that may be changed."""
    made = forms.Results("crossent conform a:b --backend torch", "2026-11-24T01:02:03+00:00", seed=0, thorough=False)
    made.seconds, made.complete, made.subjects = 71.2, True, [subject() for subject in subjects]
    machine = {"python": "3.11.7", "system": "Linux 6.1 x86_64", "cores": 2}
    return copy.deepcopy({**made.to_json(), "machine": machine, "contract": CONTRACT, **more})
