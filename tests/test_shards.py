"""P1 to P4: a vocabulary in shards gives what the whole one gives, with two exchanges, and its errors are everywhere.

Here threads have the shards, of NumPy's arrays. Processes of MPI, and other dtypes, are asked by the clauses, as
`test_conform_shards.py` runs them; other libraries also by files in `tests/devices`.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tests.shard_cases import OPTIONS, SIZES, SOFT, STARTS, Hub, V, inputs, of_rank, part

import crossent
from crossent.libraries import NUMPY
from crossent_conformance import oracle, units

EVERY_OPTION = pytest.mark.parametrize("name", OPTIONS)


def _shard(group, **options):
    return crossent.VocabularyShard(STARTS[group.rank], SIZES[group.rank], group, **options)


def _values(found):
    """What threads have returned, none of which is an error."""
    errors = [x for x in found if isinstance(x, Exception)]
    for error in errors:
        raise error
    return found


@pytest.mark.clause("P1", "P2")
@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("padding", [0, 2])
@EVERY_OPTION
def test_P1_loss_and_gradient(name, padding, engine):
    if engine == "numba":
        pytest.importorskip("numba")
    x, targets, options = inputs(name, "float32")
    exact = oracle.cross_entropy(x.astype(np.float64), targets.astype(float) if name in SOFT else targets, **options)

    def call(group):
        shard = _shard(group)
        logits, t, given = of_rank(group.rank, x, targets, options, padding)
        given |= {"vocabulary": shard, "engine": engine}
        value = crossent.cross_entropy(logits, t, **given)
        out = np.full_like(logits, np.nan)
        assert crossent.cross_entropy_and_grad(logits, t, out, **given)[1] is out
        return value, *crossent.cross_entropy_and_grad(logits, t, **given), out

    hub = Hub(4)
    found = _values(hub.run(call))
    for rank, (value, again, gradient, out) in enumerate(found):
        units.check(value, exact[0], "float32", what="loss")
        units.check(again, exact[0], "float32", what="loss")
        assert value.tobytes() == found[0][0].tobytes()
        size = SIZES[rank]
        expected = exact[1][..., STARTS[rank] : STARTS[rank] + size]
        units.check(gradient[..., :size], expected, "float32", what="d_logits")
        assert not gradient[..., size:].any()
        np.testing.assert_array_equal(out, gradient)
    # Three calls, each with a maximum and a sum of a few numbers of each of the 12 tokens.
    smooths = name in SOFT and "label_smoothing" in options
    assert [kind for kind, _ in hub.moved] == (["max", "sum", "sum"] if smooths else ["max", "sum"]) * 3
    assert all(size <= 12 * 6 for _, size in hub.moved)


@pytest.mark.clause("P1")
def test_P1_weights_past_the_dtype():
    """A mean does not change by a factor of its class weights, which their sum may not be within the dtype by."""
    x, targets, _ = inputs("plain", "float32")
    u = (np.linspace(0.5, 2, V) * 1e38).astype(np.float32)
    exact = oracle.cross_entropy(x.astype(np.float64), targets, class_weights=u.astype(np.float64))

    def call(group):
        logits, t, given = of_rank(group.rank, x, targets, {"class_weights": u})
        return crossent.cross_entropy_and_grad(logits, t, vocabulary=_shard(group), **given)

    for rank, (value, gradient) in enumerate(_values(Hub(4).run(call))):
        units.check(value, exact[0], "float32", what="loss")
        units.check(gradient, exact[1][..., STARTS[rank] : STARTS[rank] + SIZES[rank]], "float32", what="d_logits")


@pytest.mark.clause("P1", "P2")
@pytest.mark.parametrize("memory", [None, 2000])
@EVERY_OPTION
def test_P2_of_hidden_states(name, memory):
    """Two exchanges however many blocks there are, and one of the gradient of the hidden states."""
    _, targets, options = inputs(name)
    rng = np.random.default_rng(1)
    hidden, weight, bias = (rng.standard_normal(shape) for shape in ((3, 4, 6), (V, 6), (V,)))
    expected, gradients = crossent.linear_cross_entropy_and_grad(hidden, weight, targets, bias=bias, **options)

    def call(group):
        w, t, given = of_rank(group.rank, np.moveaxis(weight, 0, -1), targets, options)
        t = part(targets, group.rank) if name in SOFT else targets
        given |= {"bias": part(bias, group.rank), "memory": memory, "vocabulary": _shard(group)}
        value = crossent.linear_cross_entropy(hidden, w.T, t, **given)
        return value, *crossent.linear_cross_entropy_and_grad(hidden, w.T, t, **given)

    hub = Hub(4)
    for rank, (value, again, (d_hidden, d_weight, d_bias)) in enumerate(_values(hub.run(call))):
        rows = slice(STARTS[rank], STARTS[rank] + SIZES[rank])
        pairs = [(value, expected), (again, expected), (d_hidden, gradients[0])]
        pairs += [(d_weight, gradients[1][rows]), (d_bias, gradients[2][rows])]
        for found, exact in pairs:
            np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-14)
    once = ["max", "sum", "sum"] if name in SOFT and "label_smoothing" in options else ["max", "sum"]
    assert [kind for kind, _ in hub.moved] == [*once, *once, "sum"]
    assert hub.moved[-1][1] == hidden.size
    assert all(size <= 12 * 6 for _, size in hub.moved[:-1])


@pytest.mark.parametrize(("memory", "count"), [(None, 1), (2000, 6)])
def test_the_logits_of_one_block_are_made_once(monkeypatch, memory, count):
    """And those of several for their statistics and for their gradient."""
    shapes, product = [], type(NUMPY).product

    def counted(self, a, b, out):
        shapes.append(b.shape)
        return product(self, a, b, out)

    monkeypatch.setattr(type(NUMPY), "product", counted)
    hidden, weight = np.ones((12, 6)), np.ones((V, 6))

    def call(group):
        shard = crossent.VocabularyShard(0, V, group)
        options = {"vocabulary": shard, "memory": memory, "needs": ["bias"], "bias": np.zeros(V)}
        return crossent.linear_cross_entropy_and_grad(hidden, weight, np.arange(12), **options)

    _values(Hub(1).run(call))
    assert shapes.count((6, V)) == count


@pytest.mark.clause("P1")
@pytest.mark.parametrize("name", ["plain", "classes", "smoothed", "soft-smoothed"])
def test_P1_no_tokens_and_none_that_count(name):
    x, targets, options = inputs(name)

    def call(group):
        logits, t, given = of_rank(group.rank, x, targets, options)
        given["vocabulary"] = _shard(group)
        nothing, gradient = crossent.cross_entropy_and_grad(logits[:0], t[:0], **given)
        assert nothing == 0
        assert gradient.shape == (0, 4, SIZES[group.rank])
        ignored = {"weights": np.zeros(4)}
        nothing, gradient = crossent.cross_entropy_and_grad(np.full_like(logits, np.nan), t, **given, **ignored)
        assert nothing == 0
        assert not gradient.any()
        weight = np.zeros((SIZES[group.rank], 6))
        hidden, t = np.full((3, 4, 6), np.nan), targets if name not in SOFT else t
        nothing, found = crossent.linear_cross_entropy_and_grad(hidden, weight, t, **given, **ignored)
        assert nothing == 0
        return not any(d.any() for d in found[:2])

    assert _values(Hub(4).run(call)) == [True] * 4


def test_the_loss_as_an_object_and_copies():
    x, targets, _ = inputs("plain")

    def call(group):
        shard = _shard(group)
        loss = crossent.CrossEntropyLoss(vocabulary=shard, label_smoothing=0.1)
        assert copy.deepcopy(loss).options["vocabulary"] is shard
        return loss(part(x, group.rank), targets), loss.backward(), repr(shard)

    expected, gradient = crossent.cross_entropy_and_grad(x, targets, label_smoothing=0.1)
    for rank, (value, d, text) in enumerate(_values(Hub(4).run(call))):
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        np.testing.assert_allclose(d, part(gradient, rank), rtol=1e-12, atol=1e-15)
        assert text == f"VocabularyShard(start={STARTS[rank]}, size={SIZES[rank]}, rank {rank} of 4, V = 23)"


RANGES = {
    "overlap": (
        (0, 0, 8, 13),
        (5, 5, 5, 5),
        "rank 1, classes 0 to 4, overlaps with that of rank 0, which ends with class 4",
    ),
    "gap": (
        (0, 5, 11, 16),
        (5, 5, 5, 5),
        "rank 2, classes 11 to 15, leaves a gap after that of rank 1, which ends with",
    ),
    "late": ((1, 6, 11, 16), (5, 5, 5, 5), "rank 0, classes 1 to 5, begins past class 0"),
    "empty": ((0, 0, 0, 0), (0, 0, 0, 0), "every shard of the vocabulary is empty; accepted: one with a class"),
    "negative": ((0, -5, 5, 10), (5, 5, 5, 5), r"start is -5.*; accepted: a whole number that is not negative"),
    "kind": ((0, 5, 10, 15), (5, 5, 5.0, 5), "size is 5.0 .float.; accepted: a whole number that is not negative"),
}


def _errors(found):
    assert all(isinstance(x, Exception) for x in found), found
    return found


@pytest.mark.clause("P3")
@pytest.mark.parametrize(("starts", "sizes", "text"), RANGES.values(), ids=RANGES)
def test_P3_ranges_that_do_not_fit(starts, sizes, text):
    found = Hub(4).run(lambda group: crossent.VocabularyShard(starts[group.rank], sizes[group.rank], group))
    for error in _errors(found):
        with pytest.raises((ValueError, TypeError), match=text):
            raise error


CALLS = {
    "tokens": (
        lambda r, x, t: ((x[: 3 - (r == 2)], t[: 3 - (r == 2)]), {}),
        r"tokens is \(3, 4\) on rank 0 and \(2, 4\) on",
    ),
    "option": (lambda r, x, t: ((x, t), {"z_loss": 0.5 * (r == 3)}), "z_loss is 0.0 on rank 0 and 0.5 on rank 3"),
    "weights": (lambda r, x, t: ((x, t), {"weights": None if r else np.ones(4)}), "weights is an array of shape"),
    "targets": (lambda r, x, t: ((x, t if r else t[::-1]), {}), "a digest of the targets is"),
    "two-targets": (lambda r, x, t: ((x, t + (r == 1) * np.array([-2, 1, 0, 0])), {}), "a digest of the targets is"),
    "token-weights": (lambda r, x, t: ((x, t), {"weights": np.array([1, 1 + r, 1, 1.0])}), "a digest of the weights"),
    "denominator": (
        lambda r, x, t: ((x, t), {"denominator": np.array(2.0 + r)}),
        "denominator is 2.0 on rank 0 and 3.0",
    ),
    "dtype": (
        lambda r, x, t: ((x.astype("float32") if r else x, t), {}),
        "the dtype is float64 on rank 0 and float32 on rank 1",
    ),
    "refused": (lambda r, x, t: ((x, t if r != 1 else t[0]), {}), r"targets has dtype int64 and shape \(4,\)"),
    "narrow": (lambda r, x, t: ((x[..., :2] if r == 3 else x, t), {}), "has 2 classes, and vocabulary= names 5 here"),
    "explicit": (
        lambda r, x, t: ((x, t), {"algorithm": "explicit"}),
        "algorithm is 'explicit' with vocabulary=; accepted",
    ),
    "grad": (lambda r, x, t: ((x, t, None, np.ones(2) if r == 2 else None), {}), "grad_output has shape"),
}


@pytest.mark.clause("P3")
@pytest.mark.parametrize(("change", "text"), CALLS.values(), ids=CALLS)
def test_P3_calls_that_differ(change, text):
    x, targets, _ = inputs("plain")

    def call(group):
        given, options = change(group.rank, part(x, group.rank), targets)
        return crossent.cross_entropy_and_grad(*given, vocabulary=_shard(group), **options)

    for error in _errors(Hub(4).run(call)):
        with pytest.raises((ValueError, TypeError, RuntimeError), match=text):
            raise error


@pytest.mark.clause("P3")
def test_P3_another_function_on_one_rank():
    hidden, weight, targets = np.ones((3, 4, 6)), np.ones((V, 6)), inputs("plain")[1]

    def call(group):
        own = weight[STARTS[group.rank] : STARTS[group.rank] + SIZES[group.rank]]
        functions = crossent.linear_cross_entropy, crossent.linear_cross_entropy_and_grad
        return functions[group.rank == 2](hidden, own, targets, vocabulary=_shard(group))

    for error in _errors(Hub(4).run(call)):
        assert "the gradient of hidden is not to come on rank 0 and asked for on rank 2" in str(error)


@pytest.mark.clause("P3")
def test_P3_equal_options_of_other_types_are_the_same():
    x, targets, _ = inputs("plain")

    def call(group):
        options = {"label_smoothing": (0.5, np.float64(0.5))[group.rank % 2], "temperature": (1, 1.0)[group.rank % 2]}
        return crossent.cross_entropy(part(x, group.rank), targets, vocabulary=_shard(group), **options)

    assert len({float(value) for value in _values(Hub(4).run(call))}) == 1


@pytest.mark.clause("P3")
def test_P3_an_error_names_the_rank_where_it_was_raised():
    x, targets, _ = inputs("plain")

    def call(group):
        return crossent.cross_entropy(
            part(x, group.rank), targets if group.rank != 2 else None, vocabulary=_shard(group)
        )

    found = _errors(Hub(4).run(call))
    assert [type(error).__name__ for error in found] == ["RuntimeError", "RuntimeError", "TypeError", "RuntimeError"]
    assert str(found[0]).startswith("rank 2 of the group of vocabulary= raised TypeError: targets is NoneType")


@pytest.mark.clause("P3", "P4")
def test_P3_without_checks_what_no_shard_holds_is_nan():
    """And nothing is exchanged but the sums."""
    x, targets, _ = inputs("plain")
    targets[1, 2], targets[0, 3] = V, 7

    def call(group):
        size = 0 if group.rank == 2 else SIZES[group.rank]
        shard = crossent.VocabularyShard(STARTS[group.rank], size, group, check=False)
        given = part(x, group.rank)[..., :size]
        return crossent.cross_entropy(given, targets, vocabulary=shard, reduction="none")

    hub = Hub(4)
    held = (targets < 7) | ((targets >= 18) & (targets < V))
    for found in _values(hub.run(call)):
        assert (np.isnan(found) == ~held).all()
    assert [kind for kind, _ in hub.moved] == ["max", "sum"]


def test_what_is_no_group_or_no_shard():
    with pytest.raises(TypeError, match="group is int; accepted: a ProcessGroup or a DeviceMesh of one dimension"):
        crossent.VocabularyShard(0, 4, 3)
    with pytest.raises(TypeError, match=r"vocabulary is 4 .int.; accepted: None, or a crossent.VocabularyShard"):
        crossent.cross_entropy(np.zeros((2, 4)), np.zeros(2, int), vocabulary=4)
