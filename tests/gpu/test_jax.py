"""JAX's programs on a CUDA device: that they launch the engine's kernel, on XLA's stream, and what they compute.

`on` is a device of JAX's; without one that is CUDA's, every test here is skipped, and says so.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import crossent
from crossent_conformance import oracle, units

jax = pytest.importorskip("jax")
jnp = jax.numpy

pytestmark = pytest.mark.gpu
DTYPES = ("float32", "bfloat16", "float16")
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-4, "ignore_index": 3},
    "temperature": {"temperature": 2.0},
    "softcap": {"logit_softcap": 5.0},
}


@pytest.fixture(params=[0])
def on(request):
    """The first device; the rest is asked for by the test of several."""
    try:
        found = jax.devices("cuda")
    except RuntimeError as error:
        pytest.skip(f"JAX has no CUDA device: {error}")
    return found[request.param]


def _rows(on, n, v, dtype, seed=0):
    random = np.random.default_rng([seed, n, v])
    x = (3 * random.standard_normal((n, v), dtype=np.float32)).astype(jnp.dtype(dtype))
    t = random.integers(0, v, n).astype(np.int32)
    return jax.device_put(x, on), jax.device_put(t, on)


def _both(**options):
    return partial(crossent.cross_entropy_and_grad, reduction="none", check_targets=False, **options)


def _launches(function, *given):
    """The compiled program, in which there has to be a launch."""
    program = jax.jit(function)
    assert "@crossent_cuda_" in program.lower(*given).as_text(), "the program has the formula"
    return program


def _bits(found):
    return [np.asarray(a).view(f"u{a.dtype.itemsize}") for a in found]


def _same_bits(found, expected, what):
    for a, b in zip(_bits(found), _bits(expected), strict=True):
        assert not (a != b).any(), f"{what}: {int((a != b).sum())} of {a.size} values differ"


def test_the_engine_serves_jax(on, record_property):
    from crossent.libraries import jax_ffi

    assert jax_ffi.problem("cuda") is None
    said = crossent.explain(_rows(on, 2, 5, "float32")[0])
    record_property("seen", f"XLA's foreign functions {jax_ffi.interface('cuda').version}; {said.splitlines()[0]}")
    assert "engine 'cuda'" in said.splitlines()[0]


@pytest.mark.parametrize("v", [7, 1001, 4096, 50257, 131073])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_and_gradients_are_within_the_contracts_bound(on, dtype, v, record_property):
    """V1 of the 60-digit oracle. Rows repeat a few values: the oracle counts them."""
    random = np.random.default_rng(5)
    values = random.choice(4 * random.standard_normal(48), (4, v)).astype(jnp.dtype(dtype))
    targets = random.integers(0, v, 4)
    exact = oracle.cross_entropy(values.astype(np.float64), targets, reduction="none")
    given = jax.device_put(values, on), jax.device_put(targets.astype(np.int32), on)
    found = _launches(_both(), *given)(*given)
    for what, stored, got, expected in zip(("loss", "gradient"), ("float32", dtype), found, exact, strict=True):
        worst = float(units.errors(np.asarray(got).astype(np.float64), expected, "float32", stored).max())
        record_property("seen", f"{what} at {worst:.2f} of what is allowed")
        assert worst <= 1, what


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("v", [33, 1001, 32768])
def test_options_are_numpys(on, v, options):
    """As of float64 on the host."""
    x, t = _rows(on, 9, v, "float32")
    found = _launches(_both(**options), x, t)(x, t)
    wide = np.asarray(x).astype(np.float64)
    expected = crossent.cross_entropy_and_grad(wide, np.asarray(t), reduction="none", engine="array_api", **options)
    for got, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(got), right, rtol=2e-5, atol=2e-5 * np.abs(right).max())


@pytest.mark.parametrize("v", [33, 1001, 4096, 50257])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_have_the_same_bits_every_time_alone_and_in_place(on, dtype, v):
    """In a loop that XLA may record as a graph of launches, too."""
    x, t = _rows(on, 9, v, dtype)
    program = _launches(_both(), x, t)
    expected = program(x, t)
    for _ in range(3):
        _same_bits(program(x, t), expected, "again")
    _same_bits([jax.jit(lambda *a: crossent.cross_entropy(*a, reduction="none"))(x, t)], expected[:1], "the loss alone")
    for i in (0, 8):
        _same_bits(_launches(_both(), x[i : i + 1], t[i : i + 1])(x[i : i + 1], t[i : i + 1]),
                   [a[i : i + 1] for a in expected], f"row {i} alone")  # fmt: skip
    many = jax.jit(lambda x, t: jax.lax.map(lambda pair: _both()(*pair), (jnp.stack([x] * 8), jnp.stack([t] * 8))))
    for i in range(8):
        _same_bits([a[i] for a in many(x, t)], expected, f"number {i} of a loop")
    donated = jax.jit(_both(), donate_argnums=0)(jnp.array(x), t)
    _same_bits(donated, expected, "in place")


def test_the_logits_of_a_program_are_written_before_they_are_walked(on):
    """A launch on another stream than XLA's would see what was there before."""
    n, v = 64, 32768
    w, t = _rows(on, 512, v, "float32")[0], _rows(on, n, v, "float32")[1]
    h = jax.device_put(np.random.default_rng(2).standard_normal((n, 512)).astype(np.float32), on)

    def loss(engine):
        return lambda h, w: crossent.cross_entropy(jnp.tanh(jnp.tanh(h @ w) @ w.T) @ w, t, engine=engine)

    program = _launches(jax.value_and_grad(loss("auto"), (0, 1)), h, w)
    expected = jax.jit(jax.value_and_grad(loss("array_api"), (0, 1)))(h, w)
    for _ in range(5):
        for a, b in zip(jax.tree.leaves(program(h, w)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-3, atol=1e-4 * float(jnp.abs(b).max()))


def test_soft_targets_class_weights_and_measures(on):
    x, t = _rows(on, 5, 1001, "float32")
    z = _rows(on, 5, 1001, "float32", seed=1)[0]
    u = jax.device_put(np.linspace(0.5, 2, 1001, dtype=np.float32), on)
    wide, teacher = (np.asarray(a).astype(np.float64) for a in (x, z))
    for function, given, of_numpy in (
        (_both(), (x, jax.nn.softmax(z)), (wide, np.asarray(jax.nn.softmax(z)).astype(np.float64))),
        (_both(class_weights=u, label_smoothing=0.1), (x, t), None),
        (partial(crossent.entropy_and_grad, reduction="none"), (x,), (wide,)),
        (partial(crossent.kl_divergence_and_grad, reduction="none"), (x, z), (wide, teacher)),
    ):
        found = _launches(function, *given)(*given)
        if of_numpy is None:
            options = {"class_weights": np.asarray(u).astype(np.float64), "label_smoothing": 0.1}
            expected = _both(engine="array_api", **options)(wide, np.asarray(t))
        else:
            expected = function(*of_numpy, engine="array_api")
        for got, right in zip(found, expected, strict=True):
            np.testing.assert_allclose(np.asarray(got), right, rtol=2e-5, atol=2e-5 * np.abs(right).max())


def test_a_bad_target_makes_its_own_row_nan(on):
    x, t = _rows(on, 4, 1001, "float32")
    t = t.at[1].set(-1).at[2].set(1001)
    losses, d = _launches(_both(), x, t)(x, t)
    assert np.isnan(losses).tolist() == [False, True, True, False]
    assert np.isnan(d).all(axis=1).tolist() == [False, True, True, False]


def test_every_device_gives_the_bits_of_the_first(on):
    every = jax.local_devices(backend=on.client.platform)
    if len(every) < 2:
        pytest.skip("one device here")
    x, t = _rows(on, 16, 50257, "float32")
    expected = _launches(_both(), x, t)(x, t)
    for device in every[1:]:
        given = jax.device_put(x, device), jax.device_put(t, device)
        _same_bits(jax.jit(_both())(*given), expected, str(device))
