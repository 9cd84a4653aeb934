"""The questions of clauses A1, A3 and A4: a function for each clause, of the dtype of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from crossent_conformance.vectors.questions import ALL, NONE, Question, mild


def a1(dtype: str) -> Iterator[Question]:
    """The dtypes of results; half precision is widened first."""
    yield Question("none", "The dtype of the loss and of the gradient.", *mild("A1", 4, V=5))
    yield Question("mean", "The dtype of a mean.", *mild("A1", 4, V=5), {})
    logits = np.zeros((2, 3))
    logits[1] = [0.5, 1.0, -1.0]
    about = "A sum of 70000 exponentials: a half-precision sum stops at 256, at 2048, or is infinite."
    yield Question("long-sum", about, logits, np.array([0, 0]), columns=[1, 65000, 4999])
    logits, targets = mild("A1 tokens", 2, V=3)
    about = "The mean of 5001 tokens: half precision does not count so far."
    yield Question("many-tokens", about, logits, targets, {}, rows=[3000, 2001])
    fine = 1 + 2.0**-20
    logits, targets = mild("A1 weights", 3, V=4)
    yield Question(
        "fine-weights",
        "Weights that half precision does not hold are taken in the compute dtype.",
        logits,
        targets,
        {"reduction": "sum", "weights": np.array([fine, 2 * fine, fine]), "class_weights": np.array([1.0, fine, 1, 2])},
    )
    soft = np.array([[fine, 0, 0, 1], [0.5, fine, 0.25, 0], [0, 0, 0, -fine]])
    compute_dtype = "float64" if dtype == "float64" else "float32"
    yield Question("fine-targets", "So are soft targets.", logits, soft, soft_dtype=compute_dtype)


def a3(dtype: str) -> Iterator[Question]:
    """Integer targets."""
    logits, _ = mild("A3", 3, V=5)
    for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        about = f"Targets of dtype {kind}."
        yield Question(kind, about, logits, np.array([0, 4, 2], dtype=kind))
    ends = np.array([2**63 - 1, 1, -(2**63)])
    for name, i in (("largest", 0), ("smallest", 2)):
        about = f"The {name} integer of 64 bits is what is ignored."
        yield Question(
            f"ignore-{name}", about, logits[:2], ends[[i, 1]], {"ignore_index": int(ends[i]), "reduction": "none"}
        )
    logits, _ = mild("A3 bytes", 4, V=6)
    columns = [156, 1, 98, 1, 43, 1]
    about = "300 classes: the target 255 is no -1, and 156 is not the ignored -100."
    options = NONE | {"ignore_index": -100}
    targets = np.array([255, 156, 255, 156], dtype=np.uint8)
    yield Question("uint8-ends", about, logits, targets, options, columns=columns)
    about = "200 rows of 127 classes: an index row times V plus target does not fit in the targets' dtype."
    yield Question(
        "int8-index", about, logits[:2, :4], np.array([126, 63], dtype=np.int8), rows=[100, 100], columns=[63, 1, 62, 1]
    )


def a4(dtype: str) -> Iterator[Question]:
    """Targets outside of the row, unchecked."""
    about = "Targets just outside, and by V: NaN there; they neither wrap nor clamp nor read the next row."
    logits, _ = mild("A4", 6, V=4)
    unchecked = NONE | {"check_targets": False}
    yield Question("near", about, logits, np.array([1, 4, -1, 3, -4, 8]), unchecked)
    about = "The first offending position, in row-major order, of more than one axis."
    yield Question("position", about, logits.reshape(2, 3, 4), np.array([[0, 3, 1], [2, 5, -1]]), unchecked)
    about = "Ignored targets are no offence; their neighbours are."
    yield Question("beside-ignored", about, logits, np.array([-100, 2, -101, -99, 0, -100]),
                   unchecked | {"ignore_index": -100})  # fmt: skip
    about = "The ends of {}: NaN, not what is left of them after a conversion."
    for kind in ("int8", "uint8", "int32", "int64", "uint64"):
        ends = np.array([1, np.iinfo(kind).max, np.iinfo(kind).min, 0], dtype=kind)
        yield Question(f"ends-{kind}", about.format(kind), logits[:4], ends, unchecked)
    about = "256 and 2 to the 32 are 0 after a conversion to fewer bits."
    yield Question("high-bits", about, logits[:3], np.array([256, 2**32, 1]), unchecked)
    about = "An int8 target of -1 is not the ignored 255."
    yield Question(
        "ignored-byte", about, logits[:2], np.array([-1, 1], dtype=np.int8), unchecked | {"ignore_index": 255}
    )


CLAUSES: dict[str, tuple[Callable[[str], Iterator[Question]], tuple[str, ...]]] = {
    "A1": (a1, ALL),
    "A3": (a3, ("float32",)),
    "A4": (a4, ("float32",)),
}
