"""The walk of a device's memory, on a machine without one: host memory is taken for a device's.

What a device does to CuPy arrays and CUDA tensors is the same code as here, over torch's CPU tensors: that it gives
what the walk of host memory gives, writes where it should, and never asks the device for a value (clause A6).
"""

from __future__ import annotations

from collections import Counter
from unittest.mock import patch

import numpy as np
import pytest

import crossent
from crossent import arrays
from crossent.engines import array_api

torch = pytest.importorskip("torch")
python_dispatch = pytest.importorskip("torch.utils._python_dispatch")

OPTIONS = [
    {},
    {"reduction": "none", "ignore_index": 1},
    {"label_smoothing": 0.1, "class_weights": "classes"},
    {"weights": "tokens", "z_loss": 0.01, "denominator": "tokens"},
    {"algorithm": "explicit", "reduction": "sum"},
    {"smoothing": "uniform", "label_smoothing": 0.25, "reduction": "sequence"},
]
IDS = ["plain", "ignore", "smoothed-classes", "tokens-z", "explicit", "uniform-sequence"]
DTYPES = [
    torch.float32,
    *(pytest.param(dtype, marks=pytest.mark.extended) for dtype in (torch.float64, torch.float16, torch.bfloat16)),
]


TOLIST = torch.Tensor.tolist


class Waits(python_dispatch.TorchDispatchMode):
    """Counts the operations that would wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

        def tolist(tensor):
            self.seen["tolist"] += 1
            return TOLIST(tensor)

        # In host memory it is no operation.
        self.reading = patch.object(torch.Tensor, "tolist", tolist)

    def __enter__(self):
        self.reading.start()
        return super().__enter__()

    def __exit__(self, *error):
        self.reading.stop()
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal", "unique_dim"):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def device(monkeypatch):
    """Take host memory for a device's, in blocks of a few rows."""

    def take(height=None):
        monkeypatch.setattr(arrays, "is_host_memory", lambda _: False)
        if height:
            monkeypatch.setattr(array_api, "HOST_BLOCK", height)

    return take


def _inputs(dtype, soft=False):
    generator = torch.Generator().manual_seed(7)
    x = (3 * torch.randn(4, 9, 11, generator=generator)).to(dtype)
    x[0, 0, 3] = -torch.inf
    if soft:
        return x, torch.rand(4, 9, 11, generator=generator).to(dtype)
    t = torch.randint(0, 11, (4, 9), generator=generator)
    t[0, 0] = 5
    return x, t


def _placed(options, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    arrays_of = {"classes": torch.linspace(0, 2, 11, dtype=wide), "tokens": torch.linspace(0, 2, 9, dtype=wide)}
    return {
        name: arrays_of[value] if name in ("weights", "class_weights") else value for name, value in options.items()
    }


def _tolerance(dtype):
    return 32 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
@pytest.mark.parametrize("block", [None, 3], ids=["one-block", "small-blocks"])
def test_the_same_as_host_memory(device, dtype, soft, options, block):
    options = _placed(options, dtype)
    if soft:
        options.pop("ignore_index", None)
    x, t = _inputs(dtype, soft)
    expected = crossent.cross_entropy_and_grad(x, t, **options)
    device(block)
    before = x.clone()
    loss, d_logits = crossent.cross_entropy_and_grad(x, t, **options)
    torch.testing.assert_close(loss, expected[0], rtol=_tolerance(loss.dtype), atol=0)
    torch.testing.assert_close(d_logits, expected[1], rtol=_tolerance(dtype), atol=_tolerance(dtype) / 16)
    torch.testing.assert_close(crossent.cross_entropy(x, t, **options), loss, rtol=0, atol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["own", "apart", "strided", "transposed"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_out(device, dtype, kind, options):
    device(3)
    options = _placed(options, dtype)
    x, t = _inputs(dtype)
    expected = crossent.cross_entropy_and_grad(x, t, **options)
    out = {
        "own": lambda: x,
        "apart": lambda: torch.full_like(x, 7),
        "strided": lambda: torch.full((8, 9, 22), 7.0, dtype=dtype)[::2, :, ::2],
        "transposed": lambda: torch.full((9, 11, 4), 7.0, dtype=dtype).permute(2, 0, 1),
    }[kind]()
    loss, d_logits = crossent.cross_entropy_and_grad(x, t, out, **options)
    assert d_logits is out
    torch.testing.assert_close(loss, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(d_logits, expected[1], rtol=0, atol=0)


@pytest.mark.clause("A6")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_A6_nothing_waits_without_the_check(device, dtype, soft, options):
    device(3)
    options = _placed(options, dtype)
    if soft:
        options.pop("ignore_index", None)
    x, t = _inputs(dtype, soft)
    with Waits() as waits:
        crossent.cross_entropy(x, t, check_targets=False, **options)
        crossent.cross_entropy_and_grad(x, t, check_targets=False, **options)
        crossent.cross_entropy_and_grad(x, t, x, check_targets=False, **options)
    assert not waits.seen


@pytest.mark.clause("A6")
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_A6_the_check_waits_once(device, options):
    device(3)
    x, t = _inputs(torch.float32)
    options = _placed(options, torch.float32)
    with Waits() as waits:
        crossent.cross_entropy_and_grad(x, t, **options)
    assert waits.seen.total() == 1


@pytest.mark.clause("A6")
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_A6_automatic_differentiation_does_not_wait_either(device, options):
    device(3)
    x, t = _inputs(torch.float32)
    options = _placed(options, torch.float32)
    x.requires_grad_()
    with Waits() as waits:
        crossent.cross_entropy(x, t, check_targets=False, **options).sum().backward()
    assert not waits.seen


@pytest.mark.clause("S1", "S4")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_S4_special_rows(device, dtype):
    x, t = _inputs(dtype)
    x[1, 2, 4], x[1, 3, 0], x[2, 0], x[3, 1, 5] = torch.nan, torch.inf, -torch.inf, torch.nan
    t[3, 1] = -100
    expected = crossent.cross_entropy_and_grad(x, t, ignore_index=-100, reduction="none")
    device(3)
    got = crossent.cross_entropy_and_grad(x, t, ignore_index=-100, reduction="none")
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=_tolerance(dtype), atol=_tolerance(dtype), equal_nan=True)
    assert torch.isnan(got[0]).sum() == 3
    assert (got[1][3, 1] == 0).all()


def test_a_bad_target_stops_before_anything_is_written(device):
    device(3)
    x, t = _inputs(torch.float32)
    before = x.clone()
    t[3, 8] = 11
    with pytest.raises(IndexError, match=r"targets\[3, 8\] is 11; accepted: 0 to 10"):
        crossent.cross_entropy_and_grad(x, t, x)
    assert torch.equal(x, before)
    np.testing.assert_array_equal(
        crossent.cross_entropy(x, t, check_targets=False, reduction="none").isnan().nonzero().tolist(), [[3, 8]]
    )
