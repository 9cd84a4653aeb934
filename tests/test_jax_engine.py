"""JAX's programs on a CPU call the compiled walk: NumPy's bits, under every transformation, or else the formula."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest

import crossent
from crossent import info
from crossent.engines import select

jax = pytest.importorskip("jax")
jnp = jax.numpy

pytestmark = pytest.mark.skipif(select.numba_problem() is not None, reason="Numba cannot be used here")


@pytest.fixture(autouse=True)
def _can_call():
    from crossent.libraries import jax_ffi

    if jax_ffi.problem() is not None:
        pytest.skip(jax_ffi.problem())


def _rng():
    return np.random.default_rng(0)


def _text(function, *args):
    """A program as it is handed to XLA."""
    return jax.jit(function).lower(*args).as_text()


def _is_called(text):
    return "@crossent_" in text


def _same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _close(found, expected, rtol=1e-11):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-13)


def _numbers(n, v, dtype):
    rng = _rng()
    x, t = (3 * rng.standard_normal((n, v))).astype(dtype), rng.integers(0, v, n)
    real = np.float64 if dtype == np.float64 else np.float32
    soft = rng.random((n, v)).astype(real)
    return x, t, soft / soft.sum(1, keepdims=True), rng.random(n).astype(real), rng.random(v).astype(real)


OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "class_weights": "classes"},
    "others": {"z_loss": 1e-3, "weights": "tokens", "ignore_index": 3},
    "scaled": {"temperature": 2.0},
    "capped": {"logit_softcap": 5.0, "temperature": 0.5},
    "guide": {"weights": "tokens", "algorithm": "stable", "label_smoothing": 0.2},
}


def _both(function, x, t, options):
    """What a function gives of NumPy arrays, or of torch tensors where NumPy lacks the dtype, and under jit."""
    given = {name: a for name, a in options.items() if isinstance(a, np.ndarray)}
    rest = {name: a for name, a in options.items() if name not in given}
    jitted = jax.jit(lambda x, t, given: function(x, t, **given, **rest))
    found = jitted(jnp.asarray(x), jnp.asarray(t), {name: jnp.asarray(a) for name, a in given.items()})
    if x.dtype.name != "bfloat16":
        return function(x, t, **options), found
    torch = pytest.importorskip("torch")
    tensors = {name: torch.tensor(a) for name, a in given.items()}
    expected = function(torch.tensor(x.astype(np.float32)).bfloat16(), torch.tensor(t), **tensors, **rest)
    return tuple(a.float().numpy() for a in expected), tuple(a.astype(np.float32) for a in found)


@pytest.mark.clause("V1", "D1", "R4")
@pytest.mark.usefixtures("_wide")
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", [*OPTIONS, "soft"])
@pytest.mark.parametrize("shape", [(37, 10), (5, 300)], ids=str)
def test_losses_and_gradients_under_jit_have_the_bits_of_numpys(dtype, name, shape):
    x, t, soft, weights, class_weights = _numbers(*shape, jnp.dtype(dtype))
    arrays = {"tokens": weights, "classes": class_weights}
    options = {key: arrays.get(value, value) for key, value in OPTIONS.get(name, {}).items()}
    function = partial(crossent.cross_entropy_and_grad, reduction="none")
    expected, found = _both(function, x, soft if name == "soft" else t, options)
    for a, b in zip(expected, found, strict=True):
        _same(a, b)
    losses = jax.jit(lambda x, t: crossent.cross_entropy(x, t, reduction="none"))(jnp.asarray(x), jnp.asarray(t))
    again = jax.jit(lambda x, t: crossent.cross_entropy_and_grad(x, t, reduction="none")[0])
    _same(losses, again(jnp.asarray(x), jnp.asarray(t)))


@pytest.mark.clause("V1")
def test_entropies_and_divergences_have_them_too():
    x, _, z, _, _ = _numbers(7, 130, np.float32)
    for function, given in ((crossent.entropy_and_grad, (x,)), (crossent.kl_divergence_and_grad, (x, z))):
        call, arrays = partial(function, reduction="none"), tuple(map(jnp.asarray, given))
        assert _is_called(_text(call, *arrays))
        for a, b in zip(call(*given), jax.jit(call)(*arrays), strict=True):
            _same(a, b)


@pytest.mark.parametrize(("n", "v"), [(1500, 100), (700, 300), (3, 60_000), (70_000, 2)])
def test_many_threads_give_the_bits_of_one(n, v):
    x, t, _, weights, _ = _numbers(n, v, np.float32)
    given = tuple(map(jnp.asarray, (x, t, weights)))
    call = lambda x, t, w: crossent.cross_entropy_and_grad(x, t, weights=w, reduction="none")  # noqa: E731
    program = jax.jit(call)
    expected, many = call(x, t, weights), program(*given)
    crossent.set_num_threads(1)
    try:
        one = program(*given)
    finally:
        crossent.set_num_threads(None)
    for a, b, c in zip(expected, many, one, strict=True):
        _same(a, b)
        _same(a, c)


def test_programs_that_run_at_the_same_time_wait_for_no_thread_that_waits():
    x, t, _, _, _ = _numbers(700, 300, np.float32)
    program = jax.jit(partial(crossent.cross_entropy_and_grad, reduction="none"))
    expected, wrong = program(jnp.asarray(x), jnp.asarray(t)), []

    def call():
        for _ in range(20):
            found = program(jnp.asarray(x), jnp.asarray(t))
            wrong.extend(1 for a, b in zip(found, expected, strict=True) if not np.array_equal(a, b))

    callers = [threading.Thread(target=call) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def _loss(engine, reduction="mean"):
    def loss(x, t, w, u):
        options = {"weights": w, "class_weights": u, "label_smoothing": 0.1, "z_loss": 0.01}
        return crossent.cross_entropy(x, t, reduction=reduction, engine=engine, **options)

    return loss


def _scanned(f):
    def scanned(x, *more):
        return jax.lax.scan(lambda c, y: (c + f(y, *more), jax.grad(f)(y, *more)), 0.0, jnp.stack([x, -x]))

    return scanned


def _of_classes(f):
    inner = jax.vmap(jax.grad(f), (None, None, None, 0))
    of_both = jax.vmap(inner, (1, None, None, None))
    return lambda x, t, w, u: of_both(jnp.stack([x, 2 * x], 1), t, w, jnp.stack([u, u + 1, 2 * u]))


_OF_LOGITS, _OF_TARGETS, _OF_TOKENS = (0, None, None, None), (None, 0, None, None), (0, 0, 0, None)
# What is done to a loss of (x, t, w, u), by name.
TRANSFORMED = {
    "value and gradients": lambda f: jax.value_and_grad(f, (0, 2, 3)),
    "times a number": lambda f: jax.grad(lambda *a: 3.0 * f(*a) ** 2),
    "jvp": lambda f: lambda x, *more: jax.jvp(lambda x: f(x, *more), (x,), (x * x,)),
    "hessian": jax.hessian,
    "third": lambda f: jax.jacfwd(jax.jacrev(jax.grad(f))),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(lambda x, *more: f(2.0 * x, *more))),
    "scan": _scanned,
    "vmap of tokens": lambda f: jax.vmap(f, _OF_TOKENS),
    "gradient of vmap": lambda f: jax.grad(lambda *a: jax.vmap(f, _OF_TOKENS)(*a).sum(), (0, 2, 3)),
    "vmap of logits": lambda f: lambda x, *more: jax.vmap(jax.grad(f), _OF_LOGITS)(jnp.stack([x, -x]), *more),
    "vmap of targets": lambda f: lambda x, t, *more: jax.vmap(f, _OF_TARGETS)(x, jnp.stack([t, t * 0]), *more),
    "vmap of classes": _of_classes,
    "pmap": lambda f: lambda *a: jax.pmap(f)(*(y[None] for y in a)),
}


@pytest.mark.clause("D1")
@pytest.mark.usefixtures("_wide")
# A sum differs from a mean in what it divides by.
@pytest.mark.parametrize(
    ("name", "reduction"),
    [*((name, "mean") for name in TRANSFORMED), ("value and gradients", "sum"), ("gradient of vmap", "sum")],
)
def test_every_transformation_is_that_of_the_formula(name, reduction):
    x, t, _, w, u = map(jnp.asarray, _numbers(3, 7, np.float64))
    expected = TRANSFORMED[name](_loss("array_api", reduction))(x, t, w, u)
    function = TRANSFORMED[name](_loss("numba", reduction))
    _close(function(x, t, w, u), expected)
    if name != "pmap":
        _close(jax.jit(function)(x, t, w, u), expected)
        # Derivatives of derivatives are those of the formula.
        assert _is_called(_text(function, x, t, w, u)) == (name not in ("hessian", "third"))


@pytest.mark.usefixtures("_wide")
def test_token_losses_and_gradients_are_differentiated():
    x, t, _, w, u = map(jnp.asarray, _numbers(4, 7, np.float64))

    def pair(engine):
        return lambda x, scale: crossent.cross_entropy_and_grad(
            x, t, weights=w, class_weights=u, engine=engine, grad_output=scale, reduction="sum"
        )

    found, expected = (jax.jacrev(_loss(engine, "none"))(x, t, w, u) for engine in ("numba", "array_api"))
    _close(found, expected)
    for of in (jax.jacfwd, jax.jacrev):
        _close(jax.jit(of(pair("numba"), (0, 1)))(x, 2.0), of(pair("array_api"), (0, 1))(x, 2.0))
    with jax.disable_jit():
        _close(pair("numba")(x, 2.0), pair("array_api")(x, 2.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_narrow_gradient_is_not_rounded_to_nothing_before_it_is_scaled(dtype):
    x, t, _, _, _ = _numbers(2000, 100, jnp.dtype(dtype))
    x, t = jnp.asarray(x), jnp.asarray(t)
    grad = {
        engine: jax.jit(jax.grad(lambda x, engine=engine: 2.0**15 * crossent.cross_entropy(x, t, engine=engine)))
        for engine in ("numba", "array_api")
    }
    found, expected = (np.asarray(grad[engine](x).astype(jnp.float32)) for engine in ("numba", "array_api"))
    assert np.count_nonzero(found) == np.count_nonzero(expected)
    np.testing.assert_allclose(found, expected, rtol=float(jnp.finfo(dtype).eps))


def test_the_gradient_goes_over_logits_that_are_donated():
    x, t = jnp.asarray(_numbers(64, 300, np.float32)[0]), jnp.zeros(64, jnp.int32)
    expected = jax.jit(jax.value_and_grad(crossent.cross_entropy))(x, t)
    kept = np.asarray(x).copy()
    for function in (jax.value_and_grad(crossent.cross_entropy), crossent.cross_entropy_and_grad):
        y = jnp.array(x)
        place = y.unsafe_buffer_pointer()
        value, d = jax.jit(function, donate_argnums=0)(y, t)
        assert d.unsafe_buffer_pointer() == place
        assert y.is_deleted()
        _same(value, expected[0])
        _same(d, expected[1])
        text = jax.jit(function, donate_argnums=0).lower(x, t).compile().as_text()
        assert "output_to_operand_aliasing" in text
        assert " copy(" not in text
    # Nor are they copied where they are not.
    text = jax.jit(jax.value_and_grad(crossent.cross_entropy)).lower(x, t).compile().as_text()
    assert "output_to_operand_aliasing" not in text
    assert " copy(" not in text
    _same(x, kept)


def test_the_gradient_goes_over_logits_that_the_program_makes():
    h, w, t = jnp.ones((64, 8)), jnp.asarray(_numbers(8, 300, np.float32)[0]), jnp.zeros(64, jnp.int32)
    text = jax.jit(jax.grad(lambda h, w: crossent.cross_entropy(h @ w, t), (0, 1))).lower(h, w).compile().as_text()
    assert "output_to_operand_aliasing" in text
    assert " copy(" not in text


def test_a_program_that_is_exported_has_the_formula():
    from jax import export

    function = jax.value_and_grad(crossent.cross_entropy)
    x, t = jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32)
    assert _is_called(_text(function, x, t))
    symbols = export.symbolic_shape("n, 5")
    of_any = jax.ShapeDtypeStruct(symbols, x.dtype), jax.ShapeDtypeStruct(symbols[:1], t.dtype)
    for sizes in ((x, t), of_any):
        for platforms in (None, ("cpu", "cuda")):
            program = export.export(jax.jit(function), platforms=platforms)(*sizes)
            assert not _is_called(program.mlir_module())
            _close(program.call(x, t), function(x, t), rtol=1e-6)


def test_a_program_for_another_platform_has_the_formula():
    x, t = jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32)
    traced = jax.jit(jax.grad(crossent.cross_entropy)).trace(x, t)
    assert _is_called(traced.lower(lowering_platforms=("cpu",)).as_text())
    assert not _is_called(traced.lower(lowering_platforms=("cuda",)).as_text())


def test_programs_outlive_what_they_were_made_of():
    x, t = jnp.asarray(_numbers(3, 2000, np.float32)[0]), jnp.zeros(3, jnp.int32)

    def compiled():
        return jax.jit(lambda x, t: crossent.cross_entropy(x, t, z_loss=0.5)).lower(x, t).compile()

    program, expected = compiled(), crossent.cross_entropy(np.asarray(x), np.asarray(t), z_loss=0.5)
    jax.clear_caches()
    gc.collect()
    np.testing.assert_allclose([program(x, t) for _ in range(3)], 3 * [expected], rtol=1e-6)


def test_a_process_may_end_while_a_program_runs():
    code = """
import jax, jax.numpy as jnp, crossent
program = jax.jit(crossent.cross_entropy_and_grad)
for _ in range(50):
    found = program(jnp.ones((2000, 1000)), jnp.zeros(2000, jnp.int32))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def unknown(monkeypatch):
    """A function that puts another table in the place of the known interfaces."""
    from crossent.engines.numba_cpu import xla
    from crossent.libraries import jax_ffi

    def put(table):
        monkeypatch.setattr(xla, "KNOWN", table)
        jax_ffi.problem.cache_clear()
        jax.clear_caches()

    yield put
    monkeypatch.undo()
    jax_ffi.problem.cache_clear()
    jax.clear_caches()


def test_an_interface_that_is_not_known_is_said_and_not_called(unknown):
    from crossent.engines.numba_cpu import xla
    from crossent.libraries import jax_ffi

    x, t = jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32)
    assert not any(one["not_for"] for one in info.info()["engines"])
    major, minor = jax_ffi.interface("cpu").version
    known = dict(xla.KNOWN)
    sizes = known[major, minor]
    for table, reason in (
        ({(9, 9): sizes}, f"XLA's foreign functions have version {major}.{minor}; known are 9.9"),
        ({(major, minor): sizes._replace(frame=1)}, "structures of sizes that are not known"),
    ):
        unknown(table)
        assert reason in crossent.explain(x)
        assert "engine 'array_api'" in crossent.explain(x)
        assert not _is_called(_text(crossent.cross_entropy, x, t))
        with pytest.raises(ValueError, match="XLA's foreign functions"):
            crossent.cross_entropy(x, t, engine="numba")
        said = info.info()
        (of_numba,) = (one for one in said["engines"] if one["name"] == "numba")
        assert of_numba["problem"] is None
        assert reason in of_numba["not_for"]["jax"]
        assert f"    not for jax: {of_numba['not_for']['jax']}\n" in info.report(said)


def test_an_engine_that_is_named_is_not_left_out_in_silence():
    x, t = jnp.zeros((4, 6)), jnp.zeros(4, jnp.int32)
    mesh, spec = (
        jax.make_mesh((1, 1), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2),
        jax.sharding.PartitionSpec,
    )
    specs = {"mesh": mesh, "in_specs": (spec(), spec()), "out_specs": spec()}

    def of_part(x, t, engine):
        shard = crossent.VocabularyShard(6 * jax.lax.axis_index("a"), 6, "a")
        return crossent.cross_entropy(x, t, vocabulary=shard, engine=engine)

    def of_hidden(x, t, engine):
        shard = crossent.VocabularyShard(4 * jax.lax.axis_index("a"), 4, "a")
        return crossent.linear_cross_entropy(x, x, t, vocabulary=shard, engine=engine)

    for call in (of_part, of_hidden):
        for engine in ("auto", "array_api"):
            jax.shard_map(partial(call, engine=engine), **specs)(x, t)
        with pytest.raises(ValueError, match=r"engine is 'numba'.*vocabulary=.*accepted: 'auto', 'array_api'"):
            jax.shard_map(partial(call, engine="numba"), **specs)(x, t)
    for names, is_served in (({"a", "b"}, True), ({"a"}, False)):
        call = partial(crossent.cross_entropy, engine="numba")
        some = jax.shard_map(call, axis_names=names, check_vma=False, **specs)
        if is_served:
            assert _is_called(_text(some, x, t))
        else:
            with pytest.raises(ValueError, match=r"engine is 'numba'.*all axes of the mesh, and these are some"):
                _text(some, x, t)


def test_what_a_call_explains_is_what_it_does(monkeypatch):
    x, t = jnp.zeros((4, 5)), jnp.zeros(4, jnp.int32)
    assert "engine 'numba'" in crossent.explain(x)
    monkeypatch.setenv("CROSSENT_ENGINE", "array_api")
    assert "engine 'array_api'" in crossent.explain(x)
    assert not _is_called(_text(crossent.cross_entropy, x, t))
    assert _is_called(_text(lambda x, t: crossent.cross_entropy(x, t, engine="numba"), x, t))
    with pytest.raises(ValueError, match="algorithm='explicit'"):
        crossent.cross_entropy(x, t, engine="numba", algorithm="explicit")
