"""Clauses L1 to L3 and L5: the loss of hidden states, its gradients, and what takes no part in them."""

from __future__ import annotations

import numpy as np
import pytest

from crossent_conformance import agree, cases, depth, oracle_linear, units
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, ONCE, Mode
from crossent_conformance.clauses.test_derivatives import BOTH as GRAPHS
from crossent_conformance.refused import MUTABLE

FEW = 1000
"""Bytes that make several blocks of the inputs here, the last of them smaller."""


def _asked(tokens, width, V, seed=0):
    hidden, targets, weight, bias = cases.head(tokens, width, V, seed)
    return {"hidden": hidden, "targets": targets, "weight": weight, "bias": bias}


@pytest.mark.clause("L1", "L2")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("shape", [(9, 5, 11), (1, 1, 1), (41, 16, 300)], ids=str)
@pytest.mark.parametrize("memory", [None, 40_000, FEW, 1])
def test_L1_losses_and_gradients(place, subject, shape, memory):
    N, D, V = shape
    options = {} if memory is None else {"memory": memory}
    agree.linear_with_oracle(place, subject, **_asked((N,), D, V), reduction="none", **options)


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
def test_L1_a_target_far_ahead(place, subject):
    """What is left to the other classes keeps its digits, as far as the logits have theirs."""
    logits, targets = cases.gaps(7, (5.0, 17.0, 20.0, 40.0))
    agree.linear_with_oracle(place, subject, logits, targets, weight=np.eye(7), reduction="none")


@pytest.mark.places(modes=DIRECT, sparse=True)
def test_L1_logits_are_not_rounded_to_halves(place, subject):
    """Of large terms that cancel in the sum, to logits that no half holds."""
    given = _asked((6,), 8, 12)
    given["weight"] = np.round(200 * given["weight"])
    agree.linear_with_oracle(place, subject, **given, reduction="none", needs=("hidden", "weight"))


def _of_one_token(place, subject, seed, on_graph):
    """The loss of a token whose logits are small differences of large terms, and the gradient of its target's logit."""
    hidden, targets, weight, bias = cases.head((1,), 64, 9, seed)
    weight = weight.copy()
    weight[:, 32:] = -weight[:, :32]
    hidden = np.concatenate([100 * hidden[:, :32] + hidden[:, 32:], 100 * hidden[:, :32]], axis=1)
    if on_graph:
        loss, _, _, d_bias = _pulled(place, subject, hidden, targets, weight, bias, np.ones(1), reduction="none")
    else:
        options = {"weight": weight, "bias": bias, "needs": ("bias",), "reduction": "none"}
        loss, d_bias = place.evaluate(subject.linear_loss_and_grads, hidden, targets, **options)
    return loss[0], d_bias[targets[0]]


def _pulled(place, subject, hidden, targets, weight, bias, g, **options):
    """The loss on the framework's graph and the gradients of hidden, weight and bias, which are had twice."""
    x, t = place.pair(hidden, targets)
    leaves = [x, *place.options({"weight": weight, "bias": bias}).values()]
    g, options = place.put(g, place.compute_dtype), place.options(options)

    def of(x, w, b):
        return subject.linear_loss(x, t, weight=w, bias=b, **options)

    if place.backend.name == "jax":
        loss, pull = place.backend.jax.vjp(of, *leaves)
        found, again = pull(g), pull(g)
    else:
        loss = of(*[leaf.requires_grad_() for leaf in leaves])
        grad = place.backend.torch.autograd.grad
        found, again = (grad(loss, leaves, g, retain_graph=True) for _ in range(2))
    for first, second in zip(found, again, strict=True):
        agree.alike(place, second, first, what="the second gradient")
    return [place.to_numpy(part) for part in (loss, *found)]


def _has_a_graph(place, on_graph=True, **_):
    return not on_graph or (place.backend.name in GRAPHS and place.mode is not Mode.TRACED)


@pytest.mark.places(modes=ONCE, dtypes=("float32", "float64"), when=_has_a_graph)
@pytest.mark.parametrize("on_graph", [False, True], ids=["at once", "on the graph"])
def test_L2_loss_and_gradient_are_of_the_same_logits(place, subject, on_graph):
    for seed in range(5):
        loss, d = (float(x) for x in _of_one_token(place, subject, seed, on_graph))
        exact = np.expm1(-loss)
        # The loss, the probability that it stands for, and the gradient each have V1's error.
        allowed = units.allowance(9, loss) * loss * np.exp(-loss) + units.allowance(9, -exact) * -exact
        assert abs(d - exact) <= allowed * units.EPS[place.dtype], (
            f"of a loss of {loss:.8g} the gradient is {d:.8g}; accepted: {exact:.8g}, that of the same logits"
        )


@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("algorithm", ["stable", "explicit"])
def test_L3_every_option(place, subject, soft, algorithm):
    agree.serves_soft(place, subject, soft)
    given = _asked((2, 3), 4, 5)
    if soft:
        given["targets"] = cases.small(soft)[1]
    requests = [
        {**options, "grad_output": cases.scale(options["reduction"]), **({"memory": 128} if i % 2 else {})}
        for i, options in enumerate(cases.covering(soft, algorithm))
    ]
    agree.each(
        depth.part(requests, place), lambda request: agree.linear_with_oracle(place, subject, **given, **request)
    )


@pytest.mark.places(modes=(Mode.EAGER,), backends=GRAPHS, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_L3_on_the_graph(place, subject, reduction):
    given = {name: place.round(x) if x.dtype.kind == "f" else x for name, x in _asked((2, 3), 4, 5).items()}
    options = {"reduction": reduction, "ignore_index": int(given["targets"][0, 1])}
    g = cases.scale(reduction, low=32)
    exact = oracle_linear.cross_entropy(**given, **options, grad_output=g)
    found = _pulled(place, subject, *given.values(), g, **options)
    for what, values in zip(("loss", "d_hidden", "d_weight", "d_bias"), found, strict=True):
        stored = None if what == "loss" else place.dtype
        units.check(values, getattr(exact, what), place.compute_dtype, stored=stored, what=what)


@pytest.mark.places(modes=ONCE, sparse=True)
@pytest.mark.parametrize("needs", [(), ("hidden",), ("weight",), ("bias",), ("hidden", "bias")], ids=",".join)
def test_L3_only_what_is_asked_for(place, subject, needs):
    agree.linear_with_oracle(place, subject, **_asked((6,), 4, 5), needs=needs)
    without_bias = {name: value for name, value in _asked((6,), 4, 5).items() if name != "bias"}
    agree.linear_with_oracle(place, subject, **without_bias, needs=needs)


@pytest.mark.places(modes=ONCE)
@pytest.mark.parametrize("V", [3, 130])
def test_L3_sums_over_tokens_are_rounded_once(place, subject, V):
    """A block for each of them."""
    agree.linear_with_oracle(place, subject, **_asked((300,), 2, V), reduction="sum", memory=1)


@pytest.mark.places(modes=DIRECT, dtypes=("float32", "float64"))
def test_L3_weight_and_bias_of_other_dtypes(place, subject):
    given = _asked((6,), 4, 5)
    halves = [dtype for dtype in ("float16", "bfloat16") if dtype in place.backend.dtypes]
    kind = "float64" if not halves else halves[0] if place.dtype == "float32" else halves[-1]
    if place.mode is Mode.NO_FLOAT64:
        kind = "float32"
    head = {name: place.put(given.pop(name), kind) for name in ("weight", "bias")}
    values = {name: place.to_numpy(x).astype(np.float64) for name, x in head.items()}
    with place.backend.during_call():
        parts = subject.linear_loss_and_grads(*place.pair(**_as_logits(given)), **head)
    found = [place.backend.dtype_name(part) for part in parts]
    agree.same(found, [place.dtype, place.dtype, kind, kind], "the dtypes of loss and gradients")
    exact = oracle_linear.cross_entropy(place.round(given["hidden"]), given["targets"], **values)
    for what, part in zip(("loss", "d_hidden", "d_weight", "d_bias"), parts, strict=True):
        stored = kind if what in ("d_weight", "d_bias") and kind in halves else None
        units.check(place.to_numpy(part), getattr(exact, what), place.dtype, stored=stored, what=what)


def _as_logits(given):
    return {"logits": given["hidden"], "targets": given["targets"]}


@pytest.mark.places(backends=MUTABLE, modes=(Mode.EAGER, Mode.STRICTEST), sparse=True)
@pytest.mark.parametrize("own", [False, True], ids=["apart", "the inputs"])
def test_L3_out(place, subject, own):
    given = _asked((6,), 4, 5)
    x, t = place.pair(**_as_logits(given))
    head = place.options({name: given[name] for name in ("weight", "bias")})
    expected = place.copies(subject.linear_loss_and_grads(x, t, **head, memory=FEW))
    arrays = (x, *head.values())
    out = arrays if own else tuple(place.put(np.full(like.shape, 7.0), place.dtype) for like in arrays)
    found = subject.linear_loss_and_grads(x, t, **head, out=out, memory=FEW)
    for given in (found, (found[0], *out)):
        agree.all_alike(place, given, expected)


KINDS = {
    "index": {"ignore_index": -100},
    "weight": {"weights": np.array([1.0, 0.0, 0.5, 2.0, 0.0, 1.0])},
    "class": {"class_weights": np.array([1.0, 0.5, 0.0, 2.0, 1.5])},
}


@pytest.mark.clause("L5", "S1")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_L5_what_does_not_count_has_no_part_in_anything(place, subject, kind, memory, reduction):
    given, out = _asked((6,), 4, 5), np.arange(6) % 3 == 1
    given["targets"] = np.where(out, {"index": -100, "class": 2, "weight": 0}[kind], [0, 1, 3, 4, 1, 0])
    given["hidden"] = np.where(out[:, None], [[np.nan, 1.0, np.inf, -np.inf]], given["hidden"])
    options = {"reduction": reduction, **({} if memory is None else {"memory": memory}), **KINDS[kind]}
    found = agree.linear_with_oracle(place, subject, **given, **options)
    if "d_hidden" in found:
        agree.every(agree.is_zero, [found["d_hidden"]], out, what=["d_hidden"])


@pytest.mark.clause("L5", "R3")
@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_L5_nothing_counts(place, subject, reduction):
    given = _asked((2, 3), 4, 5)
    given["targets"], given["hidden"] = np.full((2, 3), -100), np.full((2, 3, 4), np.nan)
    found = agree.linear_with_oracle(place, subject, **given, ignore_index=-100, reduction=reduction)
    agree.every(agree.is_zero, found.values(), what=list(found))


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize("targets", [[1, -100], [-100, -100]], ids=["one counts", "none counts"])
def test_L5_what_does_not_count_is_zero_whatever_the_weight(place, subject, targets):
    x, t = place.pair(np.ones((2, 4)), np.array(targets))
    head = place.options({"weight": np.where(np.arange(5)[:, None] == 2, np.nan, np.ones((5, 4)))})
    with place.backend.during_call():
        d_hidden = subject.linear_loss_and_grads(x, t, ignore_index=-100, **head)[1]
    agree.every(agree.is_zero, [place.to_numpy(d_hidden)], np.array(targets) < 0, what=["d_hidden"])


@pytest.mark.places(modes=NOT_DOUBLED, sparse=True)
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.25}, {"label_smoothing": 0.25, "smoothing": "uniform"}, {"z_loss": 0.25}],
    ids=["plain", "others", "uniform", "z-loss"],
)
@pytest.mark.parametrize("holds", [0.0, 50.0, np.nan], ids=str)
def test_L5_rows_past_the_classes(place, subject, options, holds):
    given = _asked((6,), 4, 8)
    given["targets"] = given["targets"] % 5
    for name in ("weight", "bias"):
        given[name] = given[name].copy()
        given[name][5:] = holds
    agree.linear_with_oracle(place, subject, **given, classes=5, **options)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("call", ["loss", "gradients", "backward"])
def test_L5_what_does_not_count_costs_no_products(place, subject, call):
    from torch.utils.flop_counter import FlopCounterMode

    hidden, targets, weight, _ = cases.head((64,), 16, 32)

    def cost(targets):
        x, t = place.pair(hidden, targets)
        w = place.put(weight, place.dtype)
        with FlopCounterMode(display=False) as counter:
            if call == "gradients":
                subject.linear_loss_and_grads(x, t, weight=w, ignore_index=-100)
            elif call == "loss":
                subject.linear_loss(x, t, weight=w, ignore_index=-100)
            else:
                subject.linear_loss(x.requires_grad_(), t, weight=w.requires_grad_(), ignore_index=-100).backward()
        return counter.get_total_flops()

    products = 1 if call == "loss" else 3
    agree.same(cost(targets), products * 2 * hidden.size * len(weight), "operations")
    few = cost(np.where(np.arange(64) % 8 == 0, targets, -100))
    agree.same(few, products * 2 * hidden.size // 8 * len(weight), "operations of an eighth of the tokens")
