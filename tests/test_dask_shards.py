"""Dask: chunks of a vocabulary are read once, where they are, and merge as a tree; a worker holds no more than one."""

from __future__ import annotations

import collections
import tracemalloc

import numpy as np
import pytest

import crossent
from crossent_conformance import oracle, units

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
HighLevelGraph = pytest.importorskip("dask.highlevelgraph").HighLevelGraph

V = 8
WEIGHTS = np.array([[1.0, 0.5, 0.0], [2.0, 1.0, 0.25]])
CLASS_WEIGHTS = np.array([1.0, 0.5, 2.0, 0.0, 1.0, 4.0, 0.25, 1.0])
# Each option by itself, over fewer layouts, is asked by P1.
OPTIONS = {
    "plain": {},
    "smoothed-classes": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.125},
    "all": {
        "weights": WEIGHTS,
        "class_weights": CLASS_WEIGHTS,
        "ignore_index": 3,
        "label_smoothing": 0.25,
        "smoothing": "uniform",
        "z_loss": 0.125,
        "temperature": 0.5,
        "logit_softcap": 8.0,
    },
}
LAYOUTS = {
    "even": (1, 3, 4),
    "uneven": ((2,), (1, 2), (3, 1, 4)),
    "of one class": (2, 2, 1),
    "of whole rows": (1, 2, V),
    "of no classes": ((1, 1), (3,), (0, 2, 0, 6)),
    "of no tokens": ((1, 0, 1), (3,), (5, 3)),
}


def _case(soft=False, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = (4 * rng.normal(size=(2, 3, V))).astype(dtype)
    x[0, 1, 5] = x[1, 2, 0] = -np.inf
    if not soft:
        return x, np.array([[0, 3, 7], [4, 5, 2]])
    q = rng.dirichlet(np.ones(V), size=(2, 3)).astype(dtype)
    q[x == -np.inf] = 0
    return x, q


def _lazy(options, chunks):
    """Arrays among the options as Dask's, in chunks of no particular size."""
    return {name: da.from_array(x, chunks=chunks) if isinstance(x, np.ndarray) else x for name, x in options.items()}


def _never(*_, **__):
    raise AssertionError("a call computes nothing")


def _compute(*arrays, **config):
    return dask.compute(*arrays, **{"scheduler": "synchronous", **config})


@pytest.mark.parametrize("chunks", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_of_any_chunks(options, soft, chunks):
    options = {name: x for name, x in options.items() if not (soft and name == "ignore_index")}
    x, t = _case(soft)
    exact, exact_d = oracle.cross_entropy(x.astype(np.float64), t, **options, reduction="none")
    logits = da.from_array(x, chunks=chunks)
    with dask.config.set(scheduler=_never):
        lazy = _lazy(options, 2), da.from_array(t, chunks=2)
        loss = crossent.cross_entropy(logits, lazy[1], **lazy[0], reduction="none")
        both = crossent.cross_entropy_and_grad(logits, lazy[1], **lazy[0], reduction="none")
    assert (both[0].dtype, both[1].dtype, loss.dtype) == (np.float32,) * 3
    assert both[1].shape == x.shape
    assert [type(each._meta) for each in both] == [np.ndarray] * 2
    for each in _compute(loss, both[0]):
        units.check(each, exact, "float32")
    units.check(_compute(both[1])[0], exact_d, "float32", what="d_logits")


@pytest.mark.parametrize("layout", ["even", "uneven", "of one class", "of whole rows", "of no tokens"])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_results_have_the_chunks_of_the_logits(layout, dtype):
    x, t = _case(dtype=dtype)
    logits = da.from_array(x, chunks=LAYOUTS[layout])
    loss, d = crossent.cross_entropy_and_grad(logits, da.from_array(t, chunks=2), reduction="none")
    assert (loss.chunks, d.chunks) == (logits.chunks[:-1], logits.chunks)
    assert (loss.dtype, d.dtype) == ("float64" if dtype == "float64" else "float32", dtype)
    for array in (loss, d):
        for block in np.ndindex(array.numblocks):
            part, made = array.blocks[block], _compute(array.blocks[block])[0]
            assert (part.shape, part.dtype) == (made.shape, made.dtype)


@pytest.mark.parametrize("chunks", [3, V])
def test_rows_that_are_nan_are_nothing_to_warn_of(chunks):
    """Tasks run under the floating-point settings of their time, and here warnings are errors."""
    x = np.zeros((5, V))
    x[1], x[2, 4], x[3, 0] = -np.inf, np.inf, np.nan
    given = da.from_array(x, chunks=(2, chunks)), da.from_array(np.array([0, 1, 2, 3, V]))
    for each in _compute(*crossent.cross_entropy_and_grad(*given, reduction="none")):
        assert np.isnan(each.reshape(5, -1)).any(axis=1).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_chunks_of_whole_rows_have_the_bits_of_an_eager_call(soft):
    x, t = _case(soft)
    lazy = crossent.cross_entropy_and_grad(
        da.from_array(x, chunks=(1, 2, V)), da.from_array(t, chunks=2), reduction="none", label_smoothing=0.125
    )
    eager = crossent.cross_entropy_and_grad(x, t, reduction="none", label_smoothing=0.125)
    for a, b in zip(_compute(*lazy), eager, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("engine", ["numba", "array_api"])
@pytest.mark.parametrize("width", [V, 3])
def test_the_engine_of_a_chunk_is_that_of_an_eager_call(monkeypatch, engine, width):
    monkeypatch.delenv("CROSSENT_ENGINE", raising=False)
    x, t = _case()
    if engine == "numba":
        pytest.importorskip("numba")
    used, found = set(), crossent.engines.select.engine
    monkeypatch.setattr(crossent.engines.select, "engine", lambda name: used.add(name) or found(name))
    options = {} if engine == "numba" else {"engine": "array_api"}
    both = crossent.cross_entropy_and_grad(da.from_array(x, chunks=(1, 3, width)), da.from_array(t), **options)
    assert not used
    _compute(*both)
    assert used == {engine}


# --- chunks and tasks -------------------------------------------------------------------------------------------------

MADE = collections.Counter()
ROWS, WIDTH = 256, 4096


def _make(seed, block_info):
    location = block_info[None]
    MADE[location["chunk-location"]] += 1
    rng = np.random.default_rng([seed, *location["chunk-location"]])
    return rng.random(location["chunk-shape"], dtype=np.float32)


def _made(blocks, width=WIDTH, rows=ROWS, seed=0):
    """Logits that are made a chunk at a time, and targets."""
    chunks = (rows, (width,) * blocks)
    x = da.map_blocks(_make, seed=seed, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return x, da.arange(rows)


def _calls(x, t):
    """The loss, and the loss with its gradient."""
    options = {
        "label_smoothing": 0.125,
        "class_weights": da.ones(x.shape[-1], chunks=x.chunks[-1:]),
        "reduction": "none",
    }
    return [
        [crossent.cross_entropy(x, t, **options)],
        list(crossent.cross_entropy_and_grad(x, t, **options)),
    ]


def _readers(arrays, x):
    """How many tasks look at each chunk of `x`."""
    needed = HighLevelGraph.merge(*(each.dask for each in arrays)).get_all_dependencies()
    return collections.Counter(key for keys in needed.values() for key in keys if key[0] == x.name)


@pytest.mark.parametrize("blocks", [1, 5])
def test_each_chunk_is_made_once_and_read_once_for_the_loss(blocks):
    x, t = _made(blocks, 8, 16)
    for arrays, most in zip(_calls(x, t), (1, 2 if blocks > 1 else 1), strict=True):
        assert _readers(arrays, x) == {(x.name, 0, i): most for i in range(blocks)}
        MADE.clear()
        _compute(*arrays)
        assert dict(MADE) == {(0, i): 1 for i in range(blocks)}


@pytest.mark.parametrize("split_every", [2, 4])
def test_chunks_merge_as_a_tree(split_every):
    x, t = _made(64, 2, 2)
    with dask.config.set(split_every=split_every):
        loss = crossent.cross_entropy(x, t, reduction="none")
    needed = loss.dask.get_all_dependencies()
    # A task of a chunk needs that, targets, weights, and the number of the first class.
    assert max(map(len, needed.values())) <= max(split_every, 4)
    depth = {}
    for key in dask.core.toposort({key: list(keys) for key, keys in needed.items()}):
        depth[key] = 1 + max((depth[each] for each in needed[key]), default=0)
    assert max(depth.values()) < 20


def _peak(arrays):
    tracemalloc.start()
    try:
        _compute(*arrays)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_memory_is_that_of_a_chunk(soft):
    """And what the engine makes of one: Numba's nothing, NumPy some arrays of its size."""

    def arrays(blocks):
        x, t = _made(blocks)
        return [crossent.cross_entropy(x, _made(blocks, seed=1)[0], reduction="none")] if soft else _calls(x, t)[0]

    _peak(arrays(2))  # what the first call loads stays
    few, many = _peak(arrays(4)), _peak(arrays(64))
    chunk = 4 * ROWS * WIDTH
    assert many < min(8 * chunk, few + chunk)


def test_bits_do_not_depend_on_the_scheduler():
    x, t = _made(9, 100)
    arrays = [each for call in _calls(x.rechunk((5, None)), t) for each in call]
    expected = _compute(*arrays)
    for workers in (1, 4):
        for a, b in zip(_compute(*arrays, scheduler="threads", num_workers=workers), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_on_a_cluster_of_processes():
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    x, t = _case()
    lazy = da.from_array(x, chunks=(1, 2, 3)), da.from_array(t, chunks=2)
    arrays = crossent.cross_entropy_and_grad(*lazy, **_lazy(OPTIONS["all"], 2), reduction="none")
    expected = _compute(*arrays)
    options = {"n_workers": 2, "processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        found = client.gather(client.compute(list(arrays)))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
