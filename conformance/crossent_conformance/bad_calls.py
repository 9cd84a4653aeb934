"""Calls that the contract refuses, as data: what is wrong, which error, what its text must name (see `refused`).

The clauses ask them on every backend, and that NumPy's text is that of all; what `crossent` says besides (`words`) its
own tests ask of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crossent_conformance.refused import (
    BIAS,
    IDS,
    IMMUTABLE,
    LOGITS,
    MUTABLE,
    SEQUENCES,
    SOFT,
    TARGETS,
    WEIGHT,
    Bad,
    backward,
    bad,
    linear,
    measured,
    object_,
    perplexity,
    plain,
    shift,
    typed,
)

_LOGITS_AND_TARGETS = [
    bad("logits-list", TypeError, "list", "make an array", logits=plain([[0.0, 1.0]])),
    bad("logits-none", TypeError, "None", logits=None),
    bad("logits-number", TypeError, ["float", "1.5"], logits=1.5),
    bad("logits-integer-dtype", TypeError, "int64", "float32", logits=typed(LOGITS * 10, "int64")),
    bad("logits-bool-dtype", TypeError, "bool", logits=typed(LOGITS > 0, "bool")),
    bad("logits-complex-dtype", TypeError, "complex64", logits=typed(LOGITS, "complex64")),
    bad("logits-0d", ValueError, (), targets=np.asarray(0), logits=np.asarray(1.0)),
    bad("logits-no-classes", ValueError, (6, 0), "V of at least 1", clause="S6", logits=np.zeros((6, 0))),
    bad("targets-list", TypeError, "list", "make an array", targets=plain([0, 1, 2, 3, 0, 1])),
    bad("targets-none", TypeError, "None", targets=None),
    bad("targets-number", TypeError, ["int", "1"], targets=1),
    bad("targets-bool", TypeError, "bool", "(6,)", clause="A3", targets=typed(TARGETS > 0, "bool")),
    bad("targets-complex", TypeError, "complex64", clause="A3", targets=typed(TARGETS, "complex64")),
    bad("targets-float-of-hard-shape", TypeError, "float32", "(6, 4)", clause="A3", targets=typed(TARGETS, "float32")),
    bad("targets-float-too-wide", TypeError, (6, 5), clause="A3", targets=np.zeros((6, 5))),
    bad("targets-float-broadcastable", TypeError, (1, 4), clause="A3", targets=np.zeros((1, 4))),
    bad("targets-bool-of-soft-shape", TypeError, "bool", "argmax", clause="A3", targets=typed(SOFT > 0, "bool")),
    bad("targets-short", ValueError, (5,), "(6,)", targets=TARGETS[:5]),
    bad("targets-flat", ValueError, (6,), "(2, 3)", logits=SEQUENCES, targets=TARGETS),
    bad("targets-0d", ValueError, (), "(6,)", targets=np.asarray(1)),
    bad("targets-integers-of-soft-shape", ValueError, (6, 4), "argmax", targets=np.zeros((6, 4), dtype=np.int64)),
    bad("targets-with-a-one", ValueError, (6, 1), targets=TARGETS[:, None]),
]

_WEIGHTS = [
    bad("weights-list", TypeError, "list", weights=plain([1.0] * 6)),
    bad("weights-number", TypeError, ["float", "2.0"], weights=2.0),
    bad("weights-complex", TypeError, "complex64", weights=typed(np.ones(6), "complex64")),
    bad("weights-shape", ValueError, (2,), "(6,)", weights=np.ones(2)),
    bad("weights-of-the-logits-shape", ValueError, (6, 4), "(6,)", weights=np.ones((6, 4))),
    bad("weights-more-axes", ValueError, (1, 6), weights=np.ones((1, 6))),
    bad("weights-of-the-first-axis", ValueError, (2,), "(2, 3)", logits=SEQUENCES, targets=IDS, weights=np.ones(2)),
    bad("class-weights-list", TypeError, "list", class_weights=plain([1.0] * 4)),
    bad("class-weights-number", TypeError, ["float", "2.0"], class_weights=2.0),
    bad("class-weights-shape", ValueError, (3,), "(4,)", class_weights=np.ones(3)),
    bad("class-weights-one", ValueError, (1,), "(4,)", class_weights=np.ones(1)),
    bad("class-weights-2d", ValueError, (1, 4), "(4,)", class_weights=np.ones((1, 4))),
    bad("class-weights-bool", TypeError, "bool", class_weights=typed(np.ones(4), "bool")),
    bad("class-weights-complex", TypeError, "complex64", class_weights=typed(np.ones(4), "complex64")),
]

_WORDS = [
    bad("reduction-word", ValueError, "average", "'mean'", "'sequence'", reduction="average"),
    bad("reduction-case", ValueError, "Mean", "'mean'", reduction="Mean"),
    bad("reduction-none", TypeError, "None", "'none'", reduction=None),
    bad("reduction-bool", TypeError, ["True", "bool"], reduction=True),
    bad(
        "sequence-of-one-token",
        ValueError,
        "sequence",
        "()",
        logits=np.zeros(4),
        targets=np.asarray(1),
        reduction="sequence",
    ),
    bad("smoothing-word", ValueError, "even", "'others'", "'uniform'", smoothing="even"),
    bad("smoothing-type", TypeError, ["0.1", "float"], smoothing=0.1),
    bad("algorithm-word", ValueError, "fast", "'stable'", "'explicit'", algorithm="fast"),
    bad("algorithm-type", TypeError, "None", algorithm=None),
    bad("engine-word", ValueError, "warp", "'auto'", engine="warp"),
    bad("engine-type", TypeError, ["1", "int"], engine=1),
    bad("check-targets-number", TypeError, ["1", "int"], check_targets=1),
    bad("check-targets-none", TypeError, "None", check_targets=None),
]

_NUMBERS = [
    bad("label-smoothing-negative", ValueError, "-0.1", label_smoothing=-0.1),
    bad("label-smoothing-past-one", ValueError, "1.5", label_smoothing=1.5),
    bad("label-smoothing-nan", ValueError, "nan", label_smoothing=float("nan")),
    bad("label-smoothing-bool", TypeError, ["True", "bool"], label_smoothing=True),
    bad("label-smoothing-text", TypeError, ["'0.1'", "str"], label_smoothing="0.1"),
    bad("label-smoothing-none", TypeError, "None", label_smoothing=None),
    bad("label-smoothing-array", TypeError, (1,), label_smoothing=np.full(1, 0.1)),
    bad("z-loss-negative", ValueError, "-1.0", z_loss=-1.0),
    bad("z-loss-nan", ValueError, "nan", z_loss=float("nan")),
    bad("z-loss-infinite", ValueError, "inf", z_loss=float("inf")),
    bad("z-loss-bool", TypeError, ["False", "bool"], z_loss=False),
    bad("z-loss-complex", TypeError, ["1j", "complex"], z_loss=1j),
    bad("temperature-zero", ValueError, "0.0", temperature=0.0),
    bad("temperature-negative", ValueError, "-1.0", temperature=-1.0),
    bad("temperature-nan", ValueError, "nan", temperature=float("nan")),
    bad("temperature-infinite", ValueError, "inf", temperature=float("inf")),
    bad("temperature-bool", TypeError, ["True", "bool"], temperature=True),
    bad("temperature-text", TypeError, ["'1'", "str"], temperature="1"),
    bad("temperature-none", TypeError, "None", temperature=None),
    bad("logit-softcap-zero", ValueError, "0.0", "None", logit_softcap=0.0),
    bad("logit-softcap-negative", ValueError, "-30.0", logit_softcap=-30.0),
    bad("logit-softcap-nan", ValueError, "nan", logit_softcap=float("nan")),
    bad("logit-softcap-infinite", ValueError, "inf", logit_softcap=float("inf")),
    bad("logit-softcap-bool", TypeError, ["False", "bool"], logit_softcap=False),
    bad("logit-softcap-text", TypeError, ["'30'", "str"], logit_softcap="30"),
    bad("ignore-index-float", TypeError, ["1.0", "float"], ignore_index=1.0),
    bad("ignore-index-text", TypeError, ["'1'", "str"], ignore_index="1"),
    bad("ignore-index-bool", TypeError, ["True", "bool"], ignore_index=True),
    bad("ignore-index-array", TypeError, ["array", "tensor"], "()", ignore_index=np.asarray(1)),
    bad("ignore-index-too-large", ValueError, str(2**63), ignore_index=2**63),
    bad("denominator-negative", ValueError, "-2.0", denominator=-2.0),
    bad("denominator-nan", ValueError, "nan", denominator=float("nan")),
    bad("denominator-infinite", ValueError, "inf", denominator=float("inf")),
    bad("denominator-bool", TypeError, ["True", "bool"], denominator=True),
    bad("denominator-word", ValueError, "weights", "tokens", denominator="weights"),
    bad("denominator-list", TypeError, ["list", "[3]"], denominator=[3]),
    bad("denominator-1d", ValueError, (1,), denominator=np.ones(1)),
    bad("denominator-bool-array", TypeError, "bool", denominator=typed(np.asarray(True), "bool")),
    bad("denominator-complex-array", TypeError, "complex64", denominator=typed(np.asarray(1), "complex64")),
]

_COMBINATIONS = [
    bad(
        "ignore-index-with-soft-targets",
        ValueError,
        ["soft", "float", "probabilit"],
        "soft targets",
        targets=SOFT,
        ignore_index=1,
    ),
    bad("denominator-with-sum", ValueError, "sum", reduction="sum", denominator=2.0),
    bad("denominator-with-none", ValueError, "none", reduction="none", denominator="tokens"),
]

_GRADIENTS = [
    bad("grad-output-shape", ValueError, (2,), "(6,)", reduction="none", grad_output=np.ones(2)),
    bad("grad-output-0d-for-none", ValueError, (), "(6,)", reduction="none", grad_output=np.asarray(1.0)),
    bad("grad-output-number-for-none", TypeError, ["float", "1.0"], "(6,)", reduction="none", grad_output=1.0),
    bad("grad-output-1d-for-mean", ValueError, (1,), "()", grad_output=np.ones(1)),
    bad("grad-output-integer", TypeError, "int64", grad_output=np.asarray(1)),
    bad("grad-output-bool", TypeError, ["bool", "True"], grad_output=True),
    bad("grad-output-list", TypeError, ["list", "[1.0]"], grad_output=[1.0]),
    bad("grad-output-text", TypeError, ["'1'", "str"], grad_output="1"),
    bad("out-list", TypeError, ["list", "[0.0]"], out=plain([0.0])),
    bad("out-shape", ValueError, (2, 3, 4), "(6, 4)", only=MUTABLE, out=SEQUENCES),
    bad("out-dtype", TypeError, "float64", "float32", only=MUTABLE, out=typed(LOGITS, "float64")),
    bad("out-integer", TypeError, "int64", only=MUTABLE, out=typed(LOGITS, "int64")),
    bad("out-immutable", ValueError, ["immutable", "read"], "None", only=IMMUTABLE, out=LOGITS),
    backward("backward-shape", ValueError, np.ones(2), (2,), "()"),
    backward("backward-list", TypeError, plain([1.0]), ["list", "[1.0]"], reduction="none"),
    backward("backward-integer", TypeError, np.ones(6, dtype=np.int64), "int64", reduction="none"),
]

_OTHERS = [
    object_("object-unknown-option", TypeError, "label_smooth", "label_smooth", "label_smoothing", label_smooth=0.1),
    object_("object-weights-among-options", TypeError, "weights", "weights", weights=np.ones(6)),
    object_("object-reduction", ValueError, "reduction", "avg", "'mean'", reduction="avg"),
    object_("object-class-weights", ValueError, "class_weights", (5,), "(4,)", class_weights=np.ones(5)),
    shift("shift-logits-list", TypeError, plain([[0.0]]), IDS, "logits", "list"),
    shift("shift-ids-list", TypeError, SEQUENCES, plain([[0, 1, 2]]), "token_ids", "list"),
    shift("shift-ids-none", TypeError, SEQUENCES, None, "token_ids", "None"),
    shift("shift-logits-integer", TypeError, typed(SEQUENCES, "int64"), IDS, "logits", "int64"),
    shift("shift-ids-float", TypeError, SEQUENCES, typed(IDS, "float32"), "token_ids", "float32"),
    shift("shift-ids-bool", TypeError, SEQUENCES, typed(IDS, "bool"), "token_ids", "bool"),
    shift("shift-ids-shape", ValueError, SEQUENCES, IDS[:, :2], "token_ids", (2, 2), "(2, 3)"),
    shift("shift-ids-of-logits-shape", ValueError, SEQUENCES, np.zeros((2, 3, 4), np.int64), "token_ids", (2, 3, 4)),
    shift("shift-one-row", ValueError, LOGITS[0], np.asarray(1), "logits", (4,)),
    shift("shift-no-positions", ValueError, SEQUENCES[:, :0], IDS[:, :0], "logits", (2, 0, 4)),
    perplexity("perplexity-integers", TypeError, TARGETS, "int64"),
    perplexity("perplexity-complex", TypeError, typed(1.0, "complex64"), "complex64"),
    perplexity("perplexity-list", TypeError, plain([1.0]), "list", "[1.0]"),
    perplexity("perplexity-none", TypeError, None, "None"),
    perplexity("perplexity-text", TypeError, "1.0", "'1.0'", "str"),
    perplexity("perplexity-bool", TypeError, True, "True", "bool"),
]

_LINEAR = [
    linear("hidden-list", TypeError, "list", "make an array", hidden=plain([[0.0, 1.0]])),
    linear("hidden-integer-dtype", TypeError, "int64", "float32", hidden=typed(LOGITS * 10, "int64")),
    linear("hidden-0d", ValueError, (), "(..., D)", targets=np.asarray(0), hidden=np.asarray(1.0)),
    linear("targets-of-another-length", ValueError, (5,), "(6,)", targets=TARGETS[:5]),
    linear("soft-targets-of-the-hidden-shape", TypeError, (6, 4), "(6, 5)", targets=SOFT),
    linear("weight-none", TypeError, "None", "(V, 4)", weight=None),
    linear("weight-list", TypeError, "list", "make an array", weight=plain([[0.0] * 4])),
    linear("weight-integer-dtype", TypeError, "int64", "(V, 4)", weight=typed(WEIGHT * 10, "int64")),
    linear("weight-transposed", ValueError, (4, 5), "(V, 4)", bias=None, weight=WEIGHT.T),
    linear("weight-1d", ValueError, (4,), "(V, 4)", bias=None, weight=WEIGHT[0]),
    linear("weight-3d", ValueError, (1, 5, 4), "(V, 4)", bias=None, weight=WEIGHT[None]),
    linear("weight-no-classes", ValueError, (0, 4), "V of at least 1", bias=None, weight=WEIGHT[:0]),
    linear("bias-list", TypeError, "list", "make an array", bias=plain([0.0] * 5)),
    linear("bias-number", TypeError, ["float", "1.0"], "(5,)", bias=1.0),
    linear("bias-integer-dtype", TypeError, "int64", "(5,)", bias=typed(BIAS * 10, "int64")),
    linear("bias-short", ValueError, (4,), "(5,)", bias=BIAS[:4]),
    linear("bias-of-one", ValueError, (1,), "(5,)", bias=BIAS[:1]),
    linear("bias-2d", ValueError, (1, 5), "(5,)", bias=BIAS[None]),
    linear("bias-of-the-classes-alone", ValueError, (4,), "(5,)", classes=4, bias=BIAS[:4]),
    linear("class-weights-of-all-rows", ValueError, (5,), "(4,)", classes=4, class_weights=np.ones(5)),
    linear("classes-none-at-all", ValueError, "0", "at most 5", classes=0),
    linear("classes-past-the-weight", ValueError, "6", "at most 5", classes=6),
    linear("classes-float", TypeError, ["4.0", "float"], "whole number", classes=4.0),
    linear("classes-bool", TypeError, ["True", "bool"], "whole number", classes=True),
    linear("memory-none-at-all", ValueError, "0", "at least 1", memory=0),
    linear("memory-text", TypeError, ["'1 GiB'", "str"], "whole number", memory="1 GiB"),
    linear("memory-float", TypeError, ["1000000.0", "float"], "whole number", memory=1e6),
    linear("needs-word", ValueError, "logits", "'hidden'", needs=plain(("logits",))),
    linear("needs-text", TypeError, ["'weight'", "str"], "'hidden'", needs="weight"),
    linear("needs-none", TypeError, "None", "'hidden'", needs=None),
    linear("grad-output-shape", ValueError, (6,), "()", grad_output=np.ones(6)),
    linear("out-array", TypeError, ["array", "tensor"], "three", out=LOGITS),
    linear("out-two", TypeError, "tuple", "three", out=(None, None)),
    linear("out-hidden-shape", ValueError, (2, 3, 4), "(6, 4)", only=MUTABLE, out=(SEQUENCES, None, None)),
    linear("out-weight-shape", ValueError, (6, 4), "(5, 4)", only=MUTABLE, out=(None, LOGITS, None)),
    linear("out-weight-dtype", TypeError, "float64", only=MUTABLE, out=(None, typed(WEIGHT, "float64"), None)),
    linear("out-of-no-bias", ValueError, (5,), "None", only=MUTABLE, bias=None, out=(None, None, BIAS)),
    linear("out-immutable", ValueError, ["immutable", "read"], "None", only=IMMUTABLE, out=(LOGITS, None, None)),
]

_IDS, _STATISTICS, _ENTROPY, _KL = "token_log_probs", "token_statistics", "entropy", "kl_divergence"
_MEASURES = [
    measured("log-probs-logits-list", TypeError, _IDS, "list", "make an array", logits=plain([[0.0, 1.0]])),
    measured("log-probs-logits-integer", TypeError, _IDS, "int64", "float32", logits=typed(LOGITS * 10, "int64")),
    measured("log-probs-no-classes", ValueError, _IDS, (6, 0), "V of at least 1", logits=np.zeros((6, 0))),
    measured("token-ids-list", TypeError, _IDS, "list", "make an array", token_ids=plain([0, 1, 2, 3, 0, 1])),
    measured("token-ids-none", TypeError, _IDS, "None", token_ids=None),
    measured("token-ids-float", TypeError, _IDS, "float32", "(6,)", token_ids=typed(TARGETS, "float32")),
    measured("token-ids-bool", TypeError, _IDS, "bool", "(6, 'K')", token_ids=typed(TARGETS > 0, "bool")),
    measured("token-ids-probabilities", TypeError, _IDS, "float32", "any integer dtype", token_ids=SOFT),
    measured("token-ids-short", ValueError, _IDS, (5,), "(6,)", token_ids=TARGETS[:5]),
    measured(
        "token-ids-none-a-token", ValueError, _IDS, (6, 0), "several of each", token_ids=np.zeros((6, 0), np.int64)
    ),
    measured("token-ids-turned", ValueError, _IDS, (2, 6), "(6,)", token_ids=np.zeros((2, 6), np.int64)),
    measured("log-probs-weights-shape", ValueError, _IDS, (2,), "(6,)", weights=np.ones(2)),
    measured("log-probs-weights-list", TypeError, _IDS, "list", weights=plain([1.0] * 6)),
    measured("log-probs-ignore-index", TypeError, _IDS, ["1.0", "float"], ignore_index=1.0),
    measured("log-probs-temperature", ValueError, _IDS, "0.0", temperature=0.0),
    measured("log-probs-softcap", ValueError, _IDS, "-1.0", logit_softcap=-1.0),
    measured("log-probs-check-targets", TypeError, _IDS, ["1", "int"], check_targets=1),
    measured("log-probs-engine", ValueError, _IDS, "warp", "'auto'", engine="warp"),
    measured("log-probs-grad-output-shape", ValueError, _IDS, (2,), "(6,)", grad_output=np.ones(2)),
    measured("log-probs-grad-output-number", TypeError, _IDS, ["float", "1.0"], "(6,)", grad_output=1.0),
    measured("log-probs-out-shape", ValueError, _IDS, (2, 3, 4), "(6, 4)", only=MUTABLE, out=SEQUENCES),
    measured("log-probs-out-immutable", ValueError, _IDS, ["immutable", "read"], "None", only=IMMUTABLE, out=LOGITS),
    measured("statistics-soft-targets", TypeError, _STATISTICS, (6, 4), "(6,)", targets=SOFT),
    measured("statistics-targets-short", ValueError, _STATISTICS, (5,), "(6,)", targets=TARGETS[:5]),
    measured("statistics-targets-bool", TypeError, _STATISTICS, "bool", targets=typed(TARGETS > 0, "bool")),
    measured("entropy-logits-none", TypeError, _ENTROPY, "None", logits=None),
    measured("entropy-logits-0d", ValueError, _ENTROPY, (), "(..., V)", logits=np.asarray(1.0)),
    measured("entropy-no-classes", ValueError, _ENTROPY, (6, 0), "V of at least 1", logits=np.zeros((6, 0))),
    measured("entropy-reduction", ValueError, _ENTROPY, "average", "'sequence'", reduction="average"),
    measured("entropy-sequence-of-one", ValueError, _ENTROPY, "sequence", logits=np.zeros(4), reduction="sequence"),
    measured("entropy-weights-shape", ValueError, _ENTROPY, (6, 4), "(6,)", weights=np.ones((6, 4))),
    measured("entropy-denominator", ValueError, _ENTROPY, "none", reduction="none", denominator=2.0),
    measured("entropy-grad-output-shape", ValueError, _ENTROPY, (2,), "(6,)", reduction="none", grad_output=np.ones(2)),
    measured("teacher-list", TypeError, _KL, "list", "make an array", teacher_logits=plain([[0.0] * 4] * 6)),
    measured("teacher-none", TypeError, _KL, "None", "(6, 4)", teacher_logits=None),
    measured("teacher-integer", TypeError, _KL, "int64", "(6, 4)", teacher_logits=typed(LOGITS * 10, "int64")),
    measured("teacher-fewer-classes", ValueError, _KL, (6, 3), "(6, 4)", teacher_logits=LOGITS[:, :3]),
    measured("teacher-one-row", ValueError, _KL, (4,), "(6, 4)", teacher_logits=LOGITS[0]),
    measured("teacher-one-row-for-all", ValueError, _KL, (1, 4), "(6, 4)", teacher_logits=LOGITS[:1]),
    measured("direction-word", ValueError, _KL, "backward", "'jensen-shannon'", direction="backward"),
    measured("direction-none", TypeError, _KL, "None", "'forward'", direction=None),
    measured("mixture-none-of-it", ValueError, _KL, "0.0", "from 1e-6", mixture=0.0),
    measured("mixture-all-of-it", ValueError, _KL, "1.0", "from 1e-6", mixture=1.0),
    measured("mixture-nan", ValueError, _KL, "nan", mixture=float("nan")),
    measured("mixture-bool", TypeError, _KL, ["True", "bool"], mixture=True),
    measured("mixture-text", TypeError, _KL, ["'0.5'", "str"], mixture="0.5"),
    measured("divergence-reduction", TypeError, _KL, "None", "'none'", reduction=None),
    measured("divergence-denominator", ValueError, _KL, "-2.0", denominator=-2.0),
    measured("divergence-out-dtype", TypeError, _KL, "float64", "float32", only=MUTABLE, out=typed(LOGITS, "float64")),
]

BAD_CALLS = [
    *_LOGITS_AND_TARGETS,
    *_WEIGHTS,
    *_WORDS,
    *_NUMBERS,
    *_COMBINATIONS,
    *_GRADIENTS,
    *_OTHERS,
    *_LINEAR,
    *_MEASURES,
]

ARGUMENTS = {
    "targets": TARGETS,
    "soft": SOFT,
    "weights": np.ones(6),
    "class_weights": np.ones(4),
    "denominator": np.asarray(2.0),
    "grad_output": np.asarray(1.0),
    "out": LOGITS,
}
"""What must be of the library and on the device of the logits; soft targets are targets, too."""


ARGUMENTS_OF_LINEAR = {"weight": WEIGHT, "bias": BIAS, "targets": TARGETS, "weights": np.ones(6), "out": LOGITS}
"""What must be of the library and on the device of the hidden states; `out` is its first part."""


ARGUMENTS_OF_MEASURES = {
    "token_ids": ("token_log_probs", TARGETS),
    "teacher_logits": ("kl_divergence", LOGITS),
    "weights": ("entropy", np.ones(6)),
}
"""The same of what rows tell besides their loss, each with the measure that is asked."""


def mixed_measure(subject: Any, make: Callable[..., Any], argument: str, value: Any) -> Any:
    """A call of a measure with one of these arguments from elsewhere."""
    of, _ = ARGUMENTS_OF_MEASURES[argument]
    arguments = {"weights": value} if argument == "weights" else {}
    return subject.measure(of)(make(LOGITS, "float32"), *(() if arguments else (value,)), **arguments)


def mixed(subject: Any, make: Callable[..., Any], argument: str, value: Any) -> Any:
    """A call with one of these arguments from elsewhere."""
    x, t = make(LOGITS, "float32"), make(TARGETS)
    if argument in ("targets", "soft"):
        return subject.loss(x, value)
    function = subject.loss_and_grad if argument in ("grad_output", "out") else subject.loss
    return function(x, t, **{argument: value})


def mixed_linear(subject: Any, make: Callable[..., Any], argument: str, value: Any) -> Any:
    """A call of the linear loss with one of these arguments from elsewhere."""
    arrays = {"targets": make(TARGETS), "weight": make(WEIGHT, "float32")}
    arrays[argument] = (value, None, None) if argument == "out" else value
    function = subject.linear_loss_and_grads if argument == "out" else subject.linear_loss
    return function(make(LOGITS, "float32"), arrays.pop("targets"), **arrays)


def _read_only(x: Any) -> Any:
    x.flags.writeable = False
    return x


def _repeated(*strides: int) -> Callable[[Any], Any]:
    return lambda x: np.lib.stride_tricks.as_strided(np.zeros(64), x.shape, strides)


_SHARED = ("read", "writ", "memory", "overlap")
MEMORY: dict[str, tuple[str, Callable[[Any], Any], tuple[str, ...]]] = {
    "read-only": ("numpy", _read_only, _SHARED),
    "broadcast": ("numpy", lambda x: np.broadcast_to(x[:1], x.shape), _SHARED),
    "repeated-rows": ("numpy", _repeated(0, 8), _SHARED),
    "overlapping-rows": ("numpy", _repeated(24, 8), _SHARED),
    "overlapping-classes": ("numpy", _repeated(8, 8), _SHARED),
    "expanded": ("torch", lambda x: x[:1].expand(x.shape), ("memory", "overlap")),
    "requires-grad": ("torch", lambda x: x.requires_grad_(), ("grad",)),
}
"""Memory that cannot take the gradient of float64 logits: whose, how it is made, words of which the error has one."""


def of_clause(clause: str) -> list[Bad]:
    """The calls that the clause refuses."""
    return [each for each in BAD_CALLS if each.clause == clause]
