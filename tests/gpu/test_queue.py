"""How a call meets the device: waiting, streams, devices, graphs, compilers, memory, launches. No clock is judged."""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
DELAY = 0.1
"""Seconds that a kernel queued first takes; what waits for it cannot return sooner."""
BYTES_FOR_A_ROW, BYTES_FOR_A_CALL = 256, 2**20
"""How much memory beyond the logits and the gradient is O(rows)."""
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-4, "ignore_index": 3},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
}
WAYS = ("loss", "gradient", "out", "in place")


def _call(gpu, way, x, t, **options):
    """The call, as a function without arguments whose results are a tuple."""
    if way == "loss":
        return lambda: (gpu.loss(x, t, **options),)
    out = {"out": gpu.copy(x)} if way == "out" else {"out": x} if way == "in place" else {}
    return functools.partial(gpu.both, x, t, **options, **out)


def _same(gpu, found, expected, what):
    for got, wanted in zip(found, expected, strict=False):
        gpu.same_bits(got, wanted, what)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_without_the_check_no_call_waits(gpu, dtype, options, way):
    """A6: it returns while a kernel queued before it still runs, and the library, where it can, sees no wait."""
    call = _call(gpu, way, *gpu.rows(64, 1001, dtype), **options)
    call()  # compiling may wait
    gpu.device.synchronize()
    gpu.device.delay(DELAY)
    queued = gpu.device.event()
    with gpu.device.no_waiting():
        call()
    assert not gpu.device.passed(queued), "it waited for the queue"


def test_with_the_check_a_call_does_wait(gpu):
    """The proof that the test above can see it."""
    x, t = gpu.rows(64, 1001, "float32")
    gpu.loss(x, t, check_targets=True)
    gpu.device.synchronize()
    gpu.device.delay(DELAY)
    queued = gpu.device.event()
    gpu.loss(x, t, check_targets=True)
    assert gpu.device.passed(queued), "it returned before the targets could be known"


@pytest.mark.parametrize("way", WAYS)
def test_a_call_runs_on_the_current_stream(gpu, way):
    """After what was queued there: a late writer of its logits included."""
    v = 1001 if gpu.small else 50257
    wrong, t = gpu.rows(64, v, "float32", seed=1)
    right, _ = gpu.rows(64, v, "float32", seed=2)
    expected = gpu.both(right, t, reduction="none")
    gpu.device.synchronize()
    with gpu.device.stream():
        x = gpu.copy(wrong)
        call = _call(gpu, way, x, t, reduction="none")
        call()
        x[...] = wrong
        gpu.device.synchronize()
        gpu.device.delay(DELAY)
        x[...] = right
        found = call()
        gpu.device.synchronize()
    _same(gpu, found, expected, "logits written late")


def test_two_streams_at_once(gpu):
    streams = [gpu.device.stream(), gpu.device.stream()]
    n, v = (8, 1000) if gpu.small else (512, 32768)
    data = [gpu.rows(n, v, "float32", seed=seed) for seed in (3, 4)]
    expected = [gpu.both(x, t, reduction="none") for x, t in data]
    gpu.device.synchronize()
    found = [[], []]
    for _ in range(5):
        for i, stream in enumerate(streams):
            with stream:
                found[i].append(gpu.both(*data[i], reduction="none"))
    gpu.device.synchronize()
    for i, results in enumerate(found):
        for result in results:
            _same(gpu, result, expected[i], f"stream {i}")


def test_every_device_gives_the_bits_of_the_first(gpu):
    """Whichever device is current, where the library lets another device's arrays be used."""
    if gpu.device.count() < 2:
        pytest.skip("one device here")
    expected = gpu.both(*gpu.rows(16, 50257, "float32"), reduction="none")
    for index in range(1, gpu.device.count()):
        with gpu.device.on(index):
            there = gpu.rows(16, 50257, "float32")
            _same(gpu, gpu.both(*there, reduction="none"), expected, f"device {index}")
        if gpu.backend.name == "torch-cuda":
            _same(gpu, gpu.both(*there, reduction="none"), expected, f"device {index}, another one current")


@pytest.mark.lengths(1001, 32768, 262144)
@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["smoothing"]], ids=["plain", "smoothing"])
def test_a_captured_graph_replays_over_new_contents(gpu, v, options):
    dtype = gpu.half
    x, t = gpu.rows(8, v, dtype, seed=5)
    out = gpu.copy(x)
    replay = gpu.device.captured(functools.partial(gpu.both, x, t, out=out, **options))
    for seed in (6, 7):
        fresh, targets = gpu.rows(8, v, dtype, seed=seed)
        x[...], t[...] = fresh, targets
        gpu.device.synchronize()
        replay()
        gpu.device.synchronize()
        gpu.same_bits(out, gpu.both(fresh, targets, **options)[1], f"contents {seed}")


def test_torch_compile_leaves_the_loss_one_operator(gpu, record_property):
    """`fullgraph=True`; the gradient is what it is without."""
    if gpu.backend.name != "torch-cuda":
        pytest.skip("torch's compiler is for torch's tensors")
    import torch

    graphs = []

    def look(module, inputs):
        graphs.append(module)
        return module.forward

    def loss_of(x, t):
        return gpu.loss(x, t, label_smoothing=0.1, engine="auto")

    # In host memory, which is taken for a device's where this is tested, few logits have no operator.
    x, t = gpu.rows(64, 2001 if gpu.small else 50257, "float32")
    torch.compile(loss_of, fullgraph=True, backend=look)(x, t)
    called = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert len([name for name in called if name.startswith("crossent")]) == 1, called
    record_property("seen", ", ".join(called))
    torch.compiler.reset()
    gradients = []
    compiler = "aot_eager" if gpu.small else "inductor"
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend=compiler)):
        leaf = x.clone().requires_grad_(True)
        (2 * function(leaf, t)).backward()
        gradients.append(gpu.numpy(leaf.grad))
    torch.compiler.reset()
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=0, atol=1e-6 * abs(gradients[0]).max())


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"check_targets": True}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_extra_memory_is_that_of_rows(gpu, way, options, record_property):
    """A10: besides the gradient, O(rows), and from the library's own allocator."""
    n, v = (64, 1000) if gpu.small else (2048, 32768)
    x, t = gpu.rows(n, v, "float32")
    call = _call(gpu, way, x, t, **options)
    call()
    extra, outside = gpu.device.extra_memory(call), gpu.device.outside_memory(call)
    extra -= 4 * n * v if way == "gradient" and not gpu.small else 0
    record_property("seen", f"{extra / 1024:.0f} KiB for {n} rows, logits of {4 * n * v / 2**20:.0f} MiB")
    assert extra <= BYTES_FOR_A_ROW * n + BYTES_FOR_A_CALL
    assert outside <= 0, f"{outside} bytes that the library's allocator knows nothing of"


@pytest.mark.parametrize(("options", "most"), [({"reduction": "none"}, 1), ({}, 3)], ids=["none", "mean"])
@pytest.mark.parametrize("way", WAYS)
def test_launches_are_the_walk_and_the_reductions(gpu, way, options, most, record_property):
    """A6: one walk; a mean adds a sum and a division."""
    if gpu.backend.name != "torch-cuda":
        pytest.skip("torch's profiler counts the kernels, and those of CuPy are the same")
    call = _call(gpu, way, *gpu.rows(64, 1001, "float32"), **options)
    call()
    seen = _kernels(lambda: (gpu.device.delay(1e-5), call()))
    if not seen:
        pytest.skip("the profiler sees no kernel here, not even one that is there")
    record_property("seen", ", ".join(seen[1:]))
    assert len(seen) - 1 <= most, seen


def _kernels(call):
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        import torch

        torch.cuda.synchronize()
    return [event.name for event in profiled.events() if event.device_type == DeviceType.CUDA]
