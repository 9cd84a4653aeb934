"""Clauses A9 and A14: the loss as an object. It keeps references to its last inputs; `backward` may be called again."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

from crossent_conformance import agree, cases
from crossent_conformance.backends import DIRECT, NOT_DOUBLED, Mode
from crossent_conformance.clauses.test_layouts import STRIDES


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
def test_A9_backward_before_forward(place, subject):
    g = place.put(np.ones(3), "float32")
    agree.refusal(lambda: subject.loss_object().backward(), RuntimeError)
    agree.refusal(lambda: subject.loss_object(reduction="none").backward(g), RuntimeError)


@pytest.mark.places(modes=tuple(mode for mode in NOT_DOUBLED if mode is not Mode.TRACED), sparse=True)
@pytest.mark.parametrize(
    "options",
    [{}, {"reduction": "none"}, {"reduction": "sequence", "ignore_index": 1}, {"label_smoothing": 0.1, "z_loss": 0.01}],
    ids=["mean", "none", "sequence", "smoothed"],
)
def test_A9_backward_gives_the_same_answer_again(place, subject, options):
    x, t = place.pair(*cases.random((2, 3), 5))
    shape = cases.loss_shape(options.get("reduction", "mean"), (2, 3))
    g = place.put(np.full(shape, 0.75), place.compute_dtype)
    loss_fn = subject.loss_object(**options)
    with place.backend.during_call():
        loss = loss_fn.forward(x, t)
        results = [loss_fn.backward(), loss_fn.backward(g), loss_fn.backward(), loss_fn.backward(g)]
        expected = [subject.loss_and_grad(x, t, **options), subject.loss_and_grad(x, t, grad_output=g, **options)]
    agree.alike(place, loss, expected[0][0])
    for got, (_, exact) in zip(results, [*expected, *expected], strict=True):
        place.check_owned(got)
        agree.alike(place, got, exact)
    for first, again in (results[::2], results[1::2]):
        agree.equal(place.to_numpy(again), place.to_numpy(first), what="the second backward()")


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
def test_A9_calling_the_object_is_forward(place, subject):
    x, t = place.pair(*cases.random((2, 3), 5))
    w = place.put(np.array([1.0, 0.5, 2.0]), "float32")
    loss_fn = subject.loss_object()
    with place.backend.during_call():
        first, second = loss_fn(x, t, w), loss_fn.forward(x, t, weights=w)
        d_logits, exact = loss_fn.backward(), subject.loss_and_grad(x, t, weights=w)
    agree.alike(place, first, second)
    agree.alike(place, d_logits, exact[1])


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
def test_A9_the_last_forward_counts(place, subject):
    loss_fn = subject.loss_object(reduction="sum")
    with place.backend.during_call():
        for seed in (1, 2):
            x, t = place.pair(*cases.random((2 + seed,), 5, seed=seed))
            loss_fn.forward(x, t)
        d_logits, exact = loss_fn.backward(), subject.loss_and_grad(x, t, reduction="sum")
    agree.alike(place, d_logits, exact[1])


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
def test_A9_a_failed_forward_leaves_nothing_to_go_back_from(place, subject):
    x, t = place.pair(*cases.random((2, 3), 5))
    loss_fn = subject.loss_object()
    with place.backend.during_call():
        loss_fn.forward(x, t)
        agree.refusal(lambda: loss_fn.forward(x, t[:, :2]), Exception)
    agree.refusal(loss_fn.backward, RuntimeError)


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
def test_A9_inputs_are_kept_alive_and_let_go(place, subject):
    loss_fn = subject.loss_object()
    x, t = place.pair(*cases.random((2, 3), 5))
    try:
        logits, targets = weakref.ref(x), weakref.ref(t)
    except TypeError:
        pytest.skip(f"nothing tells when an array of {place.backend.name} goes")
    loss_fn.forward(x, t)
    del x, t
    gc.collect()
    assert logits() is not None, "the logits are gone before backward()"
    assert targets() is not None, "the targets are gone before backward()"
    loss_fn.backward()
    loss_fn.forward(*place.pair(*cases.random((2, 3), 5)))
    gc.collect()
    assert logits() is None, "the logits of an earlier call are kept"


@pytest.mark.places(backends=STRIDES, modes=(Mode.EAGER,))
def test_A9_references_not_copies(place, subject):
    """What is written into the logits after `forward` is what `backward` sees."""
    x, t = place.pair(*cases.random((2, 3), 5))
    loss_fn = subject.loss_object()
    loss_fn.forward(x, t)
    x[...] = place.put(cases.random((2, 3), 5, seed=5)[0], place.dtype)
    exact = subject.loss_and_grad(x, t)[1]
    agree.alike(place, loss_fn.backward(), exact)


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.places(modes=DIRECT, dtypes=("float32",))
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_A14_copies_and_pickles_carry_the_options_alone(place, subject, copied):
    x, t = place.pair(*cases.random((50,), 40))
    loss_fn = subject.loss_object(label_smoothing=0.125, reduction="sum")
    before = len(pickle.dumps(loss_fn))
    loss = loss_fn.forward(x, t)
    size = len(pickle.dumps(loss_fn))
    assert size <= 2 * before, f"a pickle has {size} bytes, and had {before} before the call"
    again = copied(loss_fn)
    agree.refusal(again.backward, RuntimeError)
    agree.alike(place, again.forward(x, t), loss)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.parametrize("of", ["logits", "weights"])
def test_A14_what_autograd_follows_is_not_kept(place, subject, of):
    """As long as its graph lives `backward` gives the same answer again; nothing lives on for its sake."""
    x, t = place.pair(*cases.random((3,), 5))
    w = place.put(np.array([1.0, 0.5, 2.0]), place.compute_dtype)
    exact = subject.loss_and_grad(x, t, weights=w)[1]
    followed = {"logits": x, "weights": w}
    followed[of] = followed[of].requires_grad_() * 1
    there = weakref.ref(followed[of])
    loss_fn = subject.loss_object()
    loss = loss_fn.forward(followed["logits"], t, followed["weights"])
    for _ in range(2):
        agree.alike(place, loss_fn.backward(), exact)
    loss.backward()
    del followed, loss
    gc.collect()
    assert there() is None, "the loss object keeps its last call alive after it is gone"
    agree.refusal(loss_fn.backward, RuntimeError)
