"""When PyTorch's own function is called in place of this package's: for the reasons that docs/pytorch.md lists, and no
other. That the values agree is clause D2.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import crossent  # noqa: E402
from crossent.libraries.torch import drop_in  # noqa: E402
from crossent.torch import CrossEntropyLoss, cross_entropy  # noqa: E402

LOSS = 1.4428086e-08
"""Of CONFIDENT; PyTorch rounds it to 0."""
CONFIDENT = torch.zeros(1, 8)
CONFIDENT[0, 2] = 20.0
TARGET = torch.tensor([2])


class Overriding(torch.Tensor):
    """A type that answers for PyTorch's functions."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})


class Mode(torch.overrides.TorchFunctionMode):
    """A mode that changes nothing."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Net(torch.nn.Module):
    """A model that holds its loss."""

    def __init__(self):
        super().__init__()
        self.loss = CrossEntropyLoss()

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.loss(x, target)


HANDED_OVER = {
    "targets of uint8": lambda: cross_entropy(CONFIDENT, TARGET.to(torch.uint8)),
    "a type of its own": lambda: cross_entropy(CONFIDENT.as_subclass(Overriding), TARGET),
    "targets of a type of its own": lambda: cross_entropy(CONFIDENT, TARGET.as_subclass(Overriding)),
    "class weights of a type of its own": lambda: cross_entropy(
        CONFIDENT, TARGET, torch.ones(8).as_subclass(Overriding)
    ),
    "torch.jit.trace": lambda: torch.jit.trace(cross_entropy, (CONFIDENT, TARGET))(CONFIDENT, TARGET),
}


@pytest.fixture
def handed_over(monkeypatch):
    calls, theirs = [], torch.nn.functional.cross_entropy

    def count(*args, **kwargs):
        calls.append(args)
        return theirs(*args, **kwargs)

    monkeypatch.setattr(drop_in.F, "cross_entropy", count)
    return calls


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("call", HANDED_OVER.values(), ids=HANDED_OVER)
def test_the_reasons_for_handing_over(handed_over, call):
    assert call() == 0.0
    assert handed_over


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("model", [Net, CrossEntropyLoss])
def test_a_script_holds_pytorchs_loss(model):
    x, target = torch.randn(4, 5), torch.tensor([0, 4, -100, 2])
    scripted = torch.jit.script(model())
    torch.testing.assert_close(scripted(x, target), torch.nn.functional.cross_entropy(x, target), rtol=0, atol=0)
    weighted = torch.jit.script(CrossEntropyLoss(torch.arange(5.0), reduction="sum", label_smoothing=0.1))
    theirs = torch.nn.CrossEntropyLoss(torch.arange(5.0), reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(weighted(x, target), theirs(x, target), rtol=0, atol=0)


@pytest.fixture(params=["a default device", "with torch.device", "a mode", "no mode"])
def mode(request):
    """A state of PyTorch that has nothing to do with the tensors of a call."""
    if request.param == "a default device":
        torch.set_default_device("meta")
        yield
        torch.set_default_device(None)
    elif request.param == "no mode":
        yield
    else:
        with Mode() if request.param == "a mode" else torch.device("meta"):
            yield


def test_a_mode_hands_nothing_over(handed_over, mode):
    for loss_fn in (cross_entropy, CrossEntropyLoss(), crossent.cross_entropy):
        x = CONFIDENT.clone().requires_grad_()
        loss = loss_fn(x, TARGET)
        loss.backward()
        assert loss.item() == pytest.approx(LOSS, rel=1e-6)
        assert x.grad[0, 2].item() == pytest.approx(-LOSS, rel=1e-6)
    assert not handed_over


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sequence", "ignore_index": 1},
        {"label_smoothing": 0.1, "z_loss": 0.1, "denominator": 3.0},
        {"weights": torch.tensor([[1.0, 0.5, 0.0]]), "class_weights": torch.arange(1.0, 6.0)},
        {"check_targets": False, "weights": torch.tensor([[1.0, 0.5, 0.0]])},
        {"algorithm": "explicit", "denominator": "tokens"},
    ],
    ids="-".join,
)
def test_no_array_of_a_call_is_on_the_default_device(mode, options):
    x, t = torch.linspace(-3, 3, 30, device="cpu").reshape(2, 3, 5), torch.tensor([[0, 1, 2], [4, 3, 1]], device="cpu")
    loss, d = crossent.cross_entropy_and_grad(x, t, **options)
    followed = x.clone().requires_grad_()
    crossent.cross_entropy(followed, t, **options).sum().backward()
    several = torch.func.grad(lambda x: crossent.cross_entropy(x, t, **options).sum())(x)
    exact = crossent.cross_entropy_and_grad(
        *(a.numpy() for a in (x, t)),
        **{name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in options.items()},
    )
    for given, expected in ((loss, exact[0]), (d, exact[1]), (followed.grad, exact[1]), (several, exact[1])):
        torch.testing.assert_close(given, torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
