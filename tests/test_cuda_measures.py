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


# --- measures: values and gradients -----------------------------------------------------------------------------------

MEASURES = ("log_sum_exp", "entropy", "forward", "reverse", "jensen-shannon")
of_measures = pytest.mark.parametrize("measure", MEASURES)
MIXTURE = 0.3


def measured(dtype, v, measure, coefficients=TRANSFORMS["plain"], teacher=None):
    """Rows, some of which weigh nothing, and a teacher of another opinion, one that agrees, one that is confident."""
    rows = make(dtype, v, coefficients._replace(measure=measure, mixture=MIXTURE))
    soft = None
    if measure not in MEASURES[:2]:
        generator = torch.Generator().manual_seed(1)
        soft = (rows.logits.double() + torch.randn(rows.logits.shape, generator=generator)).to(teacher or dtype)
        soft[1], soft[5], soft[5, -1] = 3 * torch.randn(v, generator=generator), 0, 50
        soft[6] = rows.logits[6].to(soft.dtype)
    weight = torch.tensor([1, 0.5, 2, 0, 0, 1, 1, 0.25], dtype=rows.dtype)
    return rows._replace(targets=None, soft=soft, weight=weight)


def walk(rows, engine=cuda, scale=0.37, out=None):
    values = torch.full(rows.logits.shape[:1], 9, dtype=rows.dtype)
    out = torch.full_like(rows.logits, 9) if out is None else out
    engine.walk(TORCH, rows, values, scale, out)
    return values, out


def by_definition(rows):
    """In float64, by the engine that the suite compares with 60 digits."""
    soft = None if rows.soft is None else rows.soft.double()
    wide = rows._replace(logits=rows.logits.double(), soft=soft, weight=rows.weight.double(), dtype=torch.float64)
    return [x.numpy() for x in walk(wide, array_api)]


def agree(rows, found, wanted):
    """Errors are counted in what the largest logit is rounded by; of a stored gradient also in its own dtype."""
    eps, stored = torch.finfo(rows.dtype).eps, torch.finfo(rows.logits.dtype)
    y = np.abs(np.nan_to_num(seen(rows.logits, rows.coefficients)[1], posinf=0, neginf=0)).max(1) + 1
    limits = 16 * eps * y, 16 * eps * y[:, None] + stored.smallest_normal
    for tensor, exact, limit, rtol in zip(found, wanted, limits, (16 * eps, 16 * eps + stored.eps), strict=True):
        got = tensor.double().numpy()
        with np.errstate(invalid="ignore"):
            close = np.abs(got - exact) <= limit + rtol * np.abs(exact)
        assert (close | (got == exact) | (np.isnan(got) & np.isnan(exact))).all()


@of_measures
@pytest.mark.parametrize("v", [1, 3, 70, 5003])
@of_dtypes
def test_a_measure_is_that_of_the_definition(kernels, dtype, v, measure):
    rows = measured(dtype, v, measure)
    found = walk(rows)
    assert (found[0][3:5] == 0).all()
    assert (found[1][3:5] == 0).all()
    agree(rows, found, by_definition(rows))


@of_measures
@of_transforms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_measure_of_transformed_logits(kernels, dtype, coefficients, measure):
    rows = measured(dtype, 1001, measure, coefficients)
    agree(rows, walk(rows), by_definition(rows))


@pytest.mark.parametrize("measure", MEASURES[2:])
@pytest.mark.parametrize("teacher", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_a_teacher_has_a_dtype_and_a_layout_of_its_own(kernels, dtype, teacher, measure):
    rows = measured(dtype, 90, measure, teacher=teacher)
    found = walk(rows)
    agree(rows, found, by_definition(rows._replace(soft=rows.soft.to(rows.dtype))))
    again = walk(rows._replace(soft=rows.soft.T.contiguous().T))
    assert all(torch.equal(a, b) for a, b in zip(again, found, strict=True))


@of_measures
@pytest.mark.parametrize("v", [3, 40001])
def test_what_cannot_be_is_what_arithmetic_makes_of_it(kernels, v, measure):
    """−∞ of one or both, +∞ and NaN: what is not finite is where the general engine has it."""
    rows = measured(torch.float32, v, measure)._replace(weight=None)
    x, z = rows.logits, rows.soft
    x[6] = 0.25
    x[6, 0], x[7, 0] = -torch.inf, torch.inf
    if z is not None:
        z[0, 1], z[6, 0], z[2, :] = -torch.inf, -torch.inf, x[2]
        z[5, 0] = torch.nan
    found, wanted = walk(rows), walk(rows, array_api)
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(torch.isnan(a), torch.isnan(b))
        assert torch.equal(torch.isinf(a), torch.isinf(b))
    agree(rows, found, [b.double().numpy() for b in wanted])


@pytest.mark.parametrize("measure", MEASURES[2:])
@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("v", [3, 5003])
def test_near_distributions_keep_the_digits_of_their_divergence(kernels, measure, apart, v):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, v, generator=generator)
    z = x + apart * torch.randn(4, v, generator=generator)
    c = Coefficients(measure=measure, mixture=MIXTURE)
    rows = Rows(x, None, z, torch.ones(4), None, c, 0, v, torch.float32)
    values, d = walk(rows)
    exact, slopes = by_definition(rows)
    eps = torch.finfo(torch.float32).eps
    assert (np.abs(values.double().numpy() - exact) <= 64 * eps * exact).all()
    assert (np.abs(d.double().numpy() - slopes) <= 64 * eps * np.abs(slopes).max(1, keepdims=True)).all()


@pytest.mark.parametrize("v", [3, 5003])
@pytest.mark.parametrize("measure", MEASURES[2:])
def test_nothing_is_between_equals(kernels, measure, v):
    rows = measured(torch.float32, v, measure)
    rows = rows._replace(soft=rows.logits.clone())
    values, d = walk(rows)
    finite = [0, 1, 2, 5, 6, 7]
    assert (values[finite] == 0).all()
    assert (d[finite] == 0).all()


@pytest.mark.clause("R5")
@of_measures
@pytest.mark.parametrize("v", [3, 70, 5003, 40001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_measured_row_has_the_same_bits_in_every_call(kernels, dtype, v, measure):
    rows = measured(dtype, v, measure)
    found = walk(rows)
    values = torch.empty(8, dtype=rows.dtype)
    cuda.walk(TORCH, rows, values, None, None)
    same(values, found[0])
    for i, first in ((0, 0), (2, 1), (5, 3)):
        memory = torch.full((v + 8,), torch.nan, dtype=dtype)
        moved = memory[first : first + v].view(1, v).copy_(rows.logits[i : i + 1])
        alone = rows.part(i, i + 1, moved, None if rows.soft is None else rows.soft[i : i + 1])
        # The gradient over the logits too.
        for out in (None, moved):
            for a, b in zip(walk(alone, out=out), found, strict=True):
                same(a, b[i : i + 1])
