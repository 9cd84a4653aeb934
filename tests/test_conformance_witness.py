"""What is left of the last call of an implementation, whatever it was handed."""

import numpy as np
import pytest

from crossent_conformance import adapter, backends, evidence, witness
from crossent_conformance.witness import Witness


@pytest.fixture
def seen(tmp_path):
    """A witness, and what it has left."""
    path = tmp_path / "call"
    path.touch()
    found = Witness(str(path))
    evidence.forget()
    return found


def test_a_call_is_told_with_its_values(seen):
    assert seen.last() is None
    seen.saw(
        "f", np.array([[0.5, np.nan], [-np.inf, 2.0]], np.float32), np.array([1, 0]), {"reduction": "sum", "z": None}
    )
    last = seen.last("eager")
    assert (last["function"], last["mode"]) == ("f", "eager")
    np.testing.assert_array_equal(last["logits"], [[0.5, np.nan], [-np.inf, 2.0]])
    assert (last["shape"], last["dtype"]) == ([2, 2], "float32")
    assert (last["targets"], last["targets_shape"], last["targets_dtype"]) == ([1, 0], [2], "int64")
    assert last["options"] == {"reduction": "sum", "z": None}
    assert witness.in_words(last) == "f(logits (2, 2) float32, targets (2,) int64, reduction='sum', z=None)"
    seen.forget()
    assert seen.last() is None


def test_a_shorter_record_leaves_nothing_of_a_longer_one(seen):
    seen.saw("a_long_name" * 20, np.zeros((8, 8)), np.zeros(8, int))
    seen.saw("f", np.zeros((9, 8)), np.zeros(9, int), {"weights": np.zeros(9), "class_weights": np.zeros(99)})
    last = seen.last()
    assert (last["function"], last["logits"], last["shape"]) == ("f", None, [9, 8])
    assert last["options"] == {"weights": [0.0] * 9, "class_weights": "an array of shape (99,)"}


@pytest.mark.parametrize(
    "logits",
    [None, 1.5, [[0.0]], "text", 1j, object(), np.zeros((2, 2), complex), np.array(["a"]), np.array([object()])],
    ids=["none", "number", "list", "text", "complex", "object", "complex-array", "words", "objects"],
)
def test_what_is_no_logits_is_told_too(seen, logits):
    seen.saw("f", logits, {1: 2}, {"option": 1j, "much": "x" * 100})
    assert seen.last()["function"] == "f"
    assert seen.last()["options"]["option"] == "1j"


def test_what_is_too_much_is_left_out(seen):
    seen.saw("f", np.zeros(1), np.zeros(1), {"option": "x" * witness.SIZE})
    assert seen.last()["function"] == "f"


def test_a_record_that_somebody_wrote_into_is_none(seen, tmp_path):
    seen.saw("f", np.zeros(1), np.zeros(1))
    seen._memory[10:20] = b"!" * 10
    assert seen.last() is None
    assert witness.read(str(tmp_path / "nowhere")) is None


def test_the_values_of_arrays_that_cannot_be_read_are_those_of_the_test(seen):
    backend = backends.load("dask")
    if isinstance(backend, str):
        pytest.skip(backend)
    values = np.array([[0.5, 1.0]])
    evidence.record_call(values, np.array([1]))
    with backend.during_call():  # where nothing may be computed
        seen.saw("f", backend.asarray(values, "float32"), backend.asarray(np.array([1, 2]), "int64"))
    assert (seen.last()["logits"], seen.last()["targets"]) == ([[0.5, 1.0]], None)


def test_without_a_witness_nothing_is_written():
    under_test = adapter.UnderTest(lambda logits, targets: logits.sum(), "f")
    assert under_test.witness is None
    assert under_test.loss(np.zeros((1, 2)), np.array([0])) == 0


def test_values_are_read_of_no_tensor_that_somebody_watches(seen):
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    x, t = torch.ones(1, 2, requires_grad=True), torch.tensor([1])
    seen.saw("f", x, t)
    assert (seen.last()["logits"], seen.last()["targets"]) == ([[1.0, 1.0]], [1])
    with Watching():
        seen.saw("f", x, t)
    assert calls == []
    assert seen.last()["shape"] == [1, 2]
    torch.func.vmap(lambda a: (seen.saw("f", a, t), a)[1])(x)
    assert seen.last()["shape"] == [2]
