"""Clause D2: `xent.torch` stands where `torch.nn.functional.cross_entropy` stood, for every input that PyTorch accepts.

Both are called with equal tensors; values and gradients must agree within the wider of the two roundings, NaNs and
infinities must be in the same places, dtypes and error types must be the same. The other clauses say how accurate
`xent` is; here the peer's own rounding, of the logits' dtype, is what bounds the comparison.
"""

from __future__ import annotations

import itertools
import math
import pickle
from functools import partial

import numpy as np
import pytest

from xent_conformance import cases, units
from xent_conformance.backends import Mode

pytestmark = [
    pytest.mark.clause("D2"),
    pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,)),
    pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning"),
]
SHAPES = [(5,), (3, 5), (3, 5, 2), (2, 5, 3, 2), (2, 5, 1, 3, 2), (0, 5), (2, 5, 0), (3, 1), (1,), (1, 5)]
REDUCTIONS = ("mean", "sum", "none")


@pytest.fixture
def functions(place):
    """The peer's function and ours."""
    from xent import torch as ours

    return place.backend.torch.nn.functional.cross_entropy, ours.cross_entropy


def _lead(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


def _classes(shape):
    return shape[1] if len(shape) > 1 else shape[0]


def _inputs(place, shape, soft=False, seed=0):
    rng = cases.generator(40 + seed, *shape)
    logits = place.put(3 * rng.standard_normal(shape), place.dtype)
    if soft:
        return logits, place.put(rng.random(shape), place.dtype)
    return logits, place.put(rng.integers(0, _classes(shape), _lead(shape)))


def _run(function, logits, target, **options):
    """Loss and gradient, with a gradient of the loss that is not one."""
    x = logits.detach().clone().requires_grad_()
    loss = function(x, target, **options)
    loss.backward((loss.detach() * 0 + 1).nan_to_num(1, 1, 1) * 0.5)
    return loss.detach(), x.grad


def _agree(place, functions, logits, target, **options):
    theirs, ours = (_run(function, logits, target, **options) for function in functions)
    # PyTorch's log-softmax rounds at the size of the logits, its sums once more per term in the logits' dtype.
    finite = logits.detach().double()[logits.detach().isfinite()]
    size = 1 + math.log(max(2, _classes(logits.shape))) + (float(finite.abs().max()) if finite.numel() else 0.0)
    terms = max(1, math.prod(_lead(tuple(logits.shape)))) if options.get("reduction") == "sum" else 1
    heaviest = max(1.0, float(options["weight"].double().max())) if options.get("weight") is not None else 1.0
    for name, mine, peers in zip(("loss", "gradient"), ours, theirs, strict=True):
        assert mine.dtype == peers.dtype, name
        assert mine.shape == peers.shape, name
        got, expected = place.to_numpy(mine).astype(np.float64), place.to_numpy(peers).astype(np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected), err_msg=f"NaN in the {name}, {options}")
        tolerance = 8 * units.EPS[place.dtype] * size * terms * heaviest
        np.testing.assert_allclose(
            got, expected, rtol=8 * units.EPS[place.dtype], atol=tolerance, err_msg=f"{name}, {options}"
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_D2_shapes_weights_reductions_smoothing(place, functions, shape, soft, smoothing):
    logits, target = _inputs(place, shape, soft)
    weight = place.put(np.linspace(0.5, 2.0, _classes(shape)), place.dtype)
    for reduction, chosen in itertools.product(REDUCTIONS, (None, weight)):
        _agree(place, functions, logits, target, reduction=reduction, weight=chosen, label_smoothing=smoothing)


@pytest.mark.parametrize("shape", [(5,), (6, 5), (3, 5, 2)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [2, 0, -1, -100, 5, 77])
def test_D2_ignore_index_inside_and_outside_the_classes(place, functions, shape, smoothing, ignored):
    logits, target = _inputs(place, shape)
    weight = place.put(np.linspace(0.5, 2.0, 5), place.dtype)
    for some in (
        target,
        place.backend.torch.where(target == 1, ignored, target),
        place.backend.torch.full_like(target, ignored),
    ):
        for reduction, chosen in itertools.product(REDUCTIONS, (None, weight)):
            options = {"reduction": reduction, "weight": chosen, "label_smoothing": smoothing, "ignore_index": ignored}
            _agree(place, functions, logits, some, **options)


def test_D2_a_mean_over_nothing_is_nan(place, functions):
    logits, target = _inputs(place, (4, 5))
    for function in functions:
        loss = function(logits, place.backend.torch.full_like(target, -100))
        assert math.isnan(loss.item())
        assert function(logits, place.backend.torch.full_like(target, -100), reduction="sum").item() == 0


@pytest.mark.parametrize(
    "weight",
    [np.zeros(5), np.array([0.0, 1, 0, 2, 0]), np.array([1.0, np.inf, 1, 1, 1]), np.array([np.nan, 1, 1, 1, 1])],
    ids=["zero", "some-zero", "infinite", "nan"],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_strange_weights(place, functions, weight, smoothing, soft):
    logits, target = _inputs(place, (6, 5), soft)
    for reduction in REDUCTIONS:
        options = {"reduction": reduction, "weight": place.put(weight, place.dtype), "label_smoothing": smoothing}
        if np.isfinite(weight).all():
            _agree(place, functions, logits, target, **options)
            continue
        theirs, ours = (_run(function, logits, target, **options)[0] for function in functions)
        np.testing.assert_array_equal(place.to_numpy(ours.isnan()), place.to_numpy(theirs.isnan()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["target", "elsewhere", "row", "ignored-row"])
def test_D2_logits_that_are_not_finite(place, functions, smoothing, soft, value, where):
    if soft and where == "ignored-row":
        where = "zero-row"
    logits, target = _inputs(place, (4, 5), soft)
    if where == "zero-row":
        target[2] = 0
        logits[2, 3] = value
    elif where == "ignored-row":
        target[2] = -100
        logits[2, 3] = value
    elif where == "row":
        logits[2] = value
    else:
        target_class = int(target[2].argmax()) if soft else int(target[2])
        logits[2, target_class if where == "target" else (target_class + 1) % 5] = value
    for reduction in REDUCTIONS:
        _agree(place, functions, logits, target, reduction=reduction, label_smoothing=smoothing)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_layouts(place, functions, soft):
    torch = place.backend.torch
    logits, target = _inputs(place, (2, 5, 3, 4), soft)
    layouts = [
        (logits.contiguous(memory_format=torch.channels_last), target),
        (logits.transpose(2, 3).contiguous().transpose(2, 3), target.transpose(-1, -2).contiguous().transpose(-1, -2)),
        (torch.cat([logits, logits], dim=1)[:, 5:], target),
        (logits[..., ::2], target[..., ::2]),
        (logits[:1].expand(2, 5, 3, 4), target[:1].expand(target.shape)),
    ]
    for x, t in layouts:
        _agree(place, functions, x, t)
        _agree(place, functions, x, t, reduction="none", label_smoothing=0.1)


@pytest.mark.parametrize(
    "deprecated",
    [
        {"size_average": True},
        {"size_average": False},
        {"reduce": True},
        {"reduce": False},
        {"size_average": False, "reduce": True},
        {"size_average": True, "reduce": False},
    ],
    ids=str,
)
def test_D2_deprecated_arguments(place, functions, deprecated):
    logits, target = _inputs(place, (4, 5))
    for reduction in REDUCTIONS:
        _agree(place, functions, logits, target, reduction=reduction, **deprecated)
    theirs, ours = (function(logits, target, None, False, 1, True, "mean", 0.1) for function in functions)
    np.testing.assert_allclose(place.to_numpy(ours), place.to_numpy(theirs), rtol=16 * units.EPS[place.dtype])


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "int32", "int64", "float64", "float32", "float16", "bfloat16", "bool"]
)
def test_D2_dtypes_of_targets(place, functions, dtype):
    """Accepted by both, or refused by both with the same type of error."""
    torch = place.backend.torch
    logits, target = _inputs(place, (4, 5))
    for some in (
        target.to(getattr(torch, dtype)),
        torch.zeros(4, 5, dtype=getattr(torch, dtype), device=logits.device),
    ):
        _both(place, functions, logits, some)
        _both(place, functions, logits, some, label_smoothing=0.1)


def _both(place, functions, *arguments, **options):
    outcomes = []
    for function in functions:
        try:
            outcomes.append(function(*arguments, **options))
        except Exception as error:
            outcomes.append(type(error))
    theirs, ours = outcomes
    if isinstance(theirs, type) or isinstance(ours, type):
        assert ours is theirs, f"{ours} where PyTorch has {theirs}"
        return
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(
        place.to_numpy(ours), place.to_numpy(theirs), rtol=16 * units.EPS[place.dtype], atol=64 * units.EPS[place.dtype]
    )


INVALID = {
    "target-past-classes": lambda x, t, torch: ((x, t + 5), {}),
    "target-negative": lambda x, t, torch: ((x, t - 6), {}),
    "target-past-classes-smoothed": lambda x, t, torch: ((x, t + 5), {"label_smoothing": 0.1}),
    "target-past-classes-weight": lambda x, t, torch: ((x, t + 5), {"weight": torch.ones(5, dtype=x.dtype)}),
    "target-short": lambda x, t, torch: ((x, t[:2]), {}),
    "target-2d": lambda x, t, torch: ((x, t[:, None]), {}),
    "target-0d": lambda x, t, torch: ((x, t[0]), {}),
    "target-of-one-row": lambda x, t, torch: ((x[0], t), {}),
    "input-0d": lambda x, t, torch: ((x[0, 0], t[0]), {}),
    "input-3d-target-1d": lambda x, t, torch: ((x[..., None], t), {}),
    "weight-short": lambda x, t, torch: ((x, t), {"weight": torch.ones(4, dtype=x.dtype)}),
    "weight-2d": lambda x, t, torch: ((x, t), {"weight": torch.ones(1, 5, dtype=x.dtype)}),
    "weight-integers": lambda x, t, torch: ((x, t), {"weight": torch.ones(5, dtype=torch.int64)}),
    "weight-other-float": lambda x, t, torch: ((x, t), {"weight": torch.ones(5, dtype=torch.float64)}),
    "weight-list": lambda x, t, torch: ((x, t), {"weight": [1.0] * 5}),
    "reduction-word": lambda x, t, torch: ((x, t), {"reduction": "average"}),
    "reduction-none": lambda x, t, torch: ((x, t), {"reduction": None}),
    "smoothing-negative": lambda x, t, torch: ((x, t), {"label_smoothing": -0.1}),
    "smoothing-past-one": lambda x, t, torch: ((x, t), {"label_smoothing": 1.1}),
    "smoothing-text": lambda x, t, torch: ((x, t), {"label_smoothing": "0.1"}),
    "smoothing-integer": lambda x, t, torch: ((x, t), {"label_smoothing": 1}),
    "ignore-index-float": lambda x, t, torch: ((x, t), {"ignore_index": 1.0}),
    "ignore-index-none": lambda x, t, torch: ((x, t), {"ignore_index": None}),
    "ignore-index-bool": lambda x, t, torch: ((x, t), {"ignore_index": True}),
    "soft-with-ignore-index": lambda x, t, torch: ((x, torch.full_like(x, 0.2)), {"ignore_index": 1}),
    "soft-with-integers": lambda x, t, torch: ((x, torch.ones(4, 5, dtype=torch.int64)), {}),
    "soft-other-float": lambda x, t, torch: ((x, torch.full((4, 5), 0.2, dtype=torch.float64)), {}),
    "soft-other-shape": lambda x, t, torch: ((x, torch.full((4, 6), 0.2, dtype=x.dtype)), {}),
    "input-integers": lambda x, t, torch: ((x.long(), t), {}),
    "input-complex": lambda x, t, torch: ((x.to(torch.complex64), t), {}),
    "input-list": lambda x, t, torch: (([[0.0, 1.0]], t), {}),
    "input-none": lambda x, t, torch: ((None, t), {}),
    "input-numpy": lambda x, t, torch: ((np.zeros((4, 5)), t), {}),
    "target-list": lambda x, t, torch: ((x, [0, 1, 2, 3]), {}),
    "target-none": lambda x, t, torch: ((x, None), {}),
    "no-classes": lambda x, t, torch: ((x[:, :0], t), {}),
    "no-classes-no-rows": lambda x, t, torch: ((x[:0, :0], t[:0]), {}),
    "no-classes-soft": lambda x, t, torch: ((x[:, :0], x[:, :0]), {}),
    "unknown-argument": lambda x, t, torch: ((x, t), {"z_loss": 0.1}),
}


@pytest.mark.parametrize("name", INVALID)
def test_D2_invalid_input_fails_as_in_pytorch(place, functions, name):
    logits, target = _inputs(place, (4, 5))
    torch = place.backend.torch
    with torch.device(logits.device):
        arguments, options = INVALID[name](logits, target, torch)
        _both(place, functions, *arguments, **options)


@pytest.mark.parametrize("name", ["weight", "soft target"])
def test_D2_gradients_of_the_other_tensors(place, functions, name):
    """A weight that requires grad is refused by both; soft targets get PyTorch's gradient."""
    torch = place.backend.torch
    logits, target = _inputs(place, (4, 5), soft=name != "weight")
    results = []
    for function in functions:
        other = torch.ones(5, dtype=logits.dtype, device=logits.device) if name == "weight" else target.clone()
        other.requires_grad_()
        try:
            loss = function(logits, target, other) if name == "weight" else function(logits, other, label_smoothing=0.1)
            loss.backward()
            results.append(place.to_numpy(other.grad))
        except RuntimeError as error:
            results.append(type(error))
    if isinstance(results[0], type):
        assert results[0] is results[1]
    else:
        tolerance = 32 * units.EPS[place.dtype]
        np.testing.assert_allclose(results[1], results[0], rtol=tolerance, atol=tolerance)


def _total(function, reduction, logits, target):
    return function(logits, target, label_smoothing=0.1, reduction=reduction).sum()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_D2_transformations(place, functions, soft):
    torch = place.backend.torch
    logits, target = _inputs(place, (3, 5), soft)
    logits, target = torch.stack([logits, -logits]), torch.stack([target, target.flip(0)])
    tolerance = 32 * units.EPS[place.dtype]
    for reduction in REDUCTIONS:
        theirs, ours = (
            torch.func.vmap(torch.func.grad(partial(_total, function, reduction)))(logits, target)
            for function in functions
        )
        np.testing.assert_allclose(place.to_numpy(ours), place.to_numpy(theirs), rtol=tolerance, atol=tolerance)


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float64",))
def test_D2_second_derivatives(place, functions):
    logits, target = _inputs(place, (3, 5))
    torch = place.backend.torch
    assert torch.autograd.gradgradcheck(
        lambda x: functions[1](x, target, label_smoothing=0.1), (logits.requires_grad_(),)
    )


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32",))
def test_D2_autocast(place, functions):
    torch = place.backend.torch
    logits, target = _inputs(place, (3, 5))
    for x in (logits, logits.bfloat16(), logits.double()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            theirs, ours = (function(x, target) for function in functions)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(place.to_numpy(ours), place.to_numpy(theirs), rtol=1e-2)


@pytest.mark.places(backends=("torch",), modes=(Mode.EAGER,), dtypes=("float32",))
@pytest.mark.filterwarnings("ignore")
def test_D2_compiles_without_a_graph_break(place, functions):
    torch = place.backend.torch
    torch.compiler.reset()
    logits, target = _inputs(place, (3, 5, 2))
    compiled = torch.compile(functions[1], fullgraph=True, backend="aot_eager")
    _agree(place, (functions[0], compiled), logits, target, ignore_index=1, label_smoothing=0.1)
    torch.compiler.reset()


@pytest.mark.places(backends=("torch", "torch-cuda"), modes=(Mode.EAGER,), dtypes=("float32", "bfloat16"))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "none", "ignore_index": 1},
        {"label_smoothing": 0.1, "reduction": "sum"},
        {"weight": np.array([1.0, 0.5, 2.0, 0.25, 1.5])},
        {"size_average": False},
    ],
    ids=["plain", "none", "smoothed", "weight", "deprecated"],
)
def test_D2_the_module(place, options):
    from xent import torch as ours

    torch = place.backend.torch
    options = {k: place.put(v, place.dtype) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    modules = torch.nn.CrossEntropyLoss(**options), ours.CrossEntropyLoss(**options)
    assert isinstance(modules[1], torch.nn.Module)
    assert repr(modules[0]) == repr(modules[1])
    assert modules[0].state_dict().keys() == modules[1].state_dict().keys()
    logits, target = _inputs(place, (3, 5, 2))
    _agree(place, modules, logits, target)
    again = pickle.loads(pickle.dumps(modules[1]))
    assert torch.equal(again(logits, target), modules[1](logits, target))
    modules[1].load_state_dict(modules[0].state_dict())


def test_D2_positional_arguments_and_signature(place, functions):
    import inspect

    assert list(inspect.signature(functions[1]).parameters) == list(inspect.signature(functions[0]).parameters)
    defaults = [parameter.default for parameter in inspect.signature(functions[0]).parameters.values()]
    assert [parameter.default for parameter in inspect.signature(functions[1]).parameters.values()] == defaults
    logits, target = _inputs(place, (4, 5))
    weight = place.put(np.linspace(0.5, 2.0, 5), place.dtype)
    _both(place, functions, logits, target, weight, None, 2, None, "sum", 0.25)
    _both(place, functions, input=logits, target=target, weight=weight)
