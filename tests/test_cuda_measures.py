"""What the CUDA engine's kernel finds of rows beside the loss, run on a CPU by the emulator.

Each is compared with the engine for any array library and with float64, from the definition.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests import emulator

import crossent
from crossent.engines import array_api, cuda
from crossent.math.rows import Coefficients, Rows

torch = pytest.importorskip("torch")
from crossent.libraries.torch.library import TORCH  # noqa: E402

pytestmark = [emulator.needed, pytest.mark.extended]

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
# One lane, eight, a warp, several pieces, a cluster.
SIZES = [1, 3, 70, 1001, 5003, 40001]
TRANSFORMS = {
    "plain": Coefficients(),
    "scaled": Coefficients(inverse_temperature=0.625),
    "capped": Coefficients(softcap=6.0, inverse_temperature=1.5),
}
of_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
of_sizes = pytest.mark.parametrize("v", SIZES)
of_transforms = pytest.mark.parametrize("coefficients", TRANSFORMS.values(), ids=TRANSFORMS)


@pytest.fixture
def kernels(monkeypatch):
    return emulator.install(monkeypatch)


def make(dtype, v, coefficients, seed=0, n=8):
    """Rows with ties at the maximum, of equal logits, with −∞, of nothing but −∞, with NaN, and confident ones."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(n, v, generator=generator) * 4).to(dtype)
    t = torch.randint(0, v, (n,), generator=generator)
    x[0, torch.randint(0, v, (3,), generator=generator)] = x[0].max()
    x[1] = 0.7
    x[2, torch.rand(v, generator=generator) < 0.5] = -torch.inf
    x[3] = -torch.inf
    if v > 1:
        x[4, t[4] - 1] = torch.nan
    x[5, t[5]] = 60
    real = torch.float64 if dtype == torch.float64 else torch.float32
    return Rows(x, t, None, None, None, coefficients, 0, v, real)


def close(found, wanted, eps, *, rtol, atol=0.0):
    found, wanted = (np.asarray(x.detach().double()) for x in (found, wanted))
    np.testing.assert_allclose(found, wanted, rtol=rtol * eps, atol=atol * eps, equal_nan=True)


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)


def seen(x, c):
    """Logits in float64 and what becomes of them."""
    x = x.double().numpy()
    return x, c.softcap * np.tanh(x * c.inverse_temperature / c.softcap) if c.softcap else x * c.inverse_temperature


# --- what rows tell besides their losses ------------------------------------------------------------------------------


def numbers(described):
    return (described.losses, described.maximum, *described.spread)


@of_transforms
@of_sizes
@of_dtypes
def test_what_is_told_is_that_of_the_definition(kernels, dtype, v, coefficients):
    rows = make(dtype, v, coefficients)
    eps = torch.finfo(rows.dtype).eps
    found = cuda.describe(TORCH, rows)
    for a, b in zip(numbers(found), numbers(array_api.describe(TORCH, rows)), strict=True):
        close(a, b, eps, rtol=64 if coefficients.softcap else 16)
    x, y = seen(rows.logits, coefficients)
    with np.errstate(invalid="ignore"):
        gap = y.max(1, keepdims=True) - y
        e, largest = np.exp(-gap), gap == 0
        nothing = (y == -np.inf).all(1)
        rest = np.where(largest, 0, e).sum(1) + largest.sum(1) - 1
        moment = np.where(e == 0, 0, e * gap).sum(1)
        above = (x > x[np.arange(len(x)), rows.targets][:, None]).sum(1)
    # A gap is rounded by as much as the logits are large.
    size = np.abs(np.where(np.isfinite(y), y, 0)).max(1) + 1
    for tensor, wanted in zip(found.spread[:2], (rest, moment), strict=True):
        told = tensor.double().numpy()
        small = np.abs(told - wanted) <= 16 * eps * size * (np.abs(wanted) + 1)
        assert (small | (np.isnan(told) & np.isnan(wanted)) | nothing).all()
    assert (found.spread.moment.numpy()[nothing] == 0).all()
    np.testing.assert_array_equal(found.spread.above.numpy(), above)


@pytest.mark.clause("R5")
@of_transforms
@of_sizes
@of_dtypes
def test_telling_more_changes_no_bit_of_the_loss(kernels, dtype, v, coefficients):
    rows = make(dtype, v, coefficients)
    rows = rows._replace(weight=torch.linspace(0, 2, len(rows.targets), dtype=rows.dtype))
    losses = torch.empty(len(rows.targets), dtype=rows.dtype)
    cuda.walk(TORCH, rows, losses, None, None)
    found = cuda.describe(TORCH, rows)
    same(found.losses, losses)
    # At another address, among fewer rows, and whatever the threads' order.
    memory = torch.empty(3 * v + 1, dtype=dtype)
    some = memory[1:].as_strided((3, v), (v, 1)).copy_(rows.logits[3:6])
    for a, b in zip(numbers(cuda.describe(TORCH, rows.part(3, 6, some, None))), numbers(found), strict=True):
        same(a, b[3:6])


@pytest.mark.clause("R5")
@of_dtypes
def test_what_is_told_of_tokens_is_the_kernels(kernels, dtype):
    rows = make(dtype, 1001, TRANSFORMS["plain"])
    options = {"engine": "cuda", "ignore_index": int(rows.targets[6]), "temperature": 1.25}
    found = crossent.token_statistics(rows.logits, rows.targets, **options)
    assert {chosen.verb for chosen in kernels} == {"describe"}
    loss = crossent.cross_entropy(rows.logits, rows.targets, reduction="none", **options)
    same(found.loss, loss)
    other = crossent.token_statistics(rows.logits, rows.targets, **options | {"engine": "array_api"})
    for a, b in zip(found[:5], other[:5], strict=True):
        close(a, b, torch.finfo(rows.dtype).eps, rtol=16)
    assert torch.equal(found.most_likely, other.most_likely)
    # Rows that no matrix holds as a view come in parts.
    cube = rows.logits.reshape(2, 4, 1001).transpose(0, 1)
    apart = crossent.token_statistics(cube, rows.targets.reshape(2, 4).T, **options)
    for a, b in zip(apart, found, strict=True):
        same(a, b.reshape(2, 4).T)
