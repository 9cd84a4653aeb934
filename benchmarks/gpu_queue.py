"""The checks of how a call meets the device: waiting, streams, devices, graphs, compilers, memory, launches."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import crossent
from benchmarks.gpu_library import NotHereError, Torch
from benchmarks.gpu_subject import Subject, alike

DELAY = 0.1
"""Seconds that a kernel queued first takes; what waits for it cannot return sooner."""
LARGEST_OVERHEAD = 40.0
"""Microseconds that a small call may take of the host."""
BYTES_FOR_A_ROW, BYTES_FOR_A_CALL = 256, 2**20
"""How much memory beyond the logits and the gradient is O(rows)."""
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-4, "ignore_index": 3},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
}


def no_host_synchronisation(subject: Subject) -> str:
    """With check_targets=False a call returns while a kernel queued before it runs, and the library sees no wait."""
    library = subject.library
    told = []
    for name, options in OPTIONS.items():
        for dtype in ("float32", library.dtypes[0]):
            x, t = subject.rows(64, 1001, dtype)
            out = library.array(library.numpy(x), dtype)
            calls = {
                "loss": functools.partial(subject.loss, x, t, **options),
                "gradient": functools.partial(subject.both, x, t, **options),
                "out": functools.partial(subject.both, x, t, out=out, **options),
            }
            for way, call in calls.items():
                call()  # compiling may wait
                library.synchronize()
                library.delay(DELAY)
                passed = library.marker()
                start = time.perf_counter()
                with library.no_waiting():
                    call()
                took = time.perf_counter() - start
                waited = passed()
                library.synchronize()
                assert not waited, f"{way}, {name}, {dtype}: it waited {took * 1e3:.1f} ms for the queue"
                told.append(took)
    return f"{len(told)} calls behind a kernel of {DELAY} s, the slowest back after {max(told) * 1e6:.0f} µs"


def one_wait_for_the_check(subject: Subject) -> str:
    """With check_targets=True a call does wait: the proof that the check above can see it."""
    library = subject.library
    x, t = subject.rows(64, 1001, "float32")
    subject.loss(x, t, check_targets=True)
    library.synchronize()
    library.delay(DELAY)
    passed = library.marker()
    subject.loss(x, t, check_targets=True)
    assert passed(), "it returned before the targets could be known"
    return "returned when the queue had come to the targets"


def the_current_stream(subject: Subject) -> str:
    """A call runs on the caller's current stream: after what was queued there, a late writer of its logits included."""
    library = subject.library
    v = 1001 if subject.small else 50257
    wrong, t = subject.rows(64, v, "float32", seed=1)
    right, _ = subject.rows(64, v, "float32", seed=2)
    expected = subject.both(right, t, reduction="none")
    library.synchronize()
    with library.stream():
        for way in ("loss", "gradient", "in place"):
            x = library.array(library.numpy(wrong), "float32")
            if way == "loss":
                call = functools.partial(subject.loss, x, t, reduction="none")
            else:
                call = functools.partial(
                    subject.both, x, t, reduction="none", **({"out": x} if way == "in place" else {})
                )
            call()
            x[...] = wrong
            library.synchronize()
            library.delay(DELAY)
            x[...] = right
            found = call()
            library.synchronize()
            parts = (found,) if way == "loss" else found
            for got, wanted in zip(parts, expected, strict=False):
                subject.same_bits(got, wanted, f"{way}, logits written late")
    return "loss, gradient, gradient in place"


def two_streams(subject: Subject) -> str:
    """Calls on two streams at the same time have the bits that they have alone."""
    library = subject.library
    streams = [library.stream(), library.stream()]
    n, v = (8, 1000) if subject.small else (512, 32768)
    data = [subject.rows(n, v, "float32", seed=seed) for seed in (3, 4)]
    expected = [subject.both(x, t, reduction="none") for x, t in data]
    library.synchronize()
    found: list[list[Any]] = [[], []]
    for _ in range(5):
        for i, stream in enumerate(streams):
            with stream:
                found[i].append(subject.both(*data[i], reduction="none"))
    library.synchronize()
    for i in range(2):
        for result in found[i]:
            for part in range(2):
                subject.same_bits(result[part], expected[i][part], f"stream {i}")
    return "five calls on each, in turn"


def several_devices(subject: Subject) -> str:
    """Every device of one process gives the bits of the first, whichever device is current."""
    library = subject.library
    count = library.devices()
    if count < 2:
        raise NotHereError("one device here")
    x, t = subject.rows(16, 50257, "float32")
    expected = subject.both(x, t, reduction="none")
    for index in range(1, count):
        with library.on_device(index):
            there = subject.rows(16, 50257, "float32")
            found = subject.both(*there, reduction="none")
            library.synchronize()
            for part in range(2):
                subject.same_bits(found[part], expected[part], f"device {index}")
        if isinstance(library, Torch):
            found = subject.both(*there, reduction="none")
            subject.same_bits(found[1], expected[1], f"device {index}, another one current")
    return f"{count} devices"


def captured_graph(subject: Subject) -> str:
    """A call captured in a CUDA graph gives, replayed over new contents, the bits of a call on them."""
    library = subject.library
    lengths = (1001,) if subject.small else (1001, 32768, 262144)
    for v in lengths:
        for options in (OPTIONS["plain"], OPTIONS["smoothing"]):
            x, t = subject.rows(8, v, library.dtypes[0], seed=5)
            out = library.array(library.numpy(x), library.dtypes[0])
            replay = library.captured(functools.partial(subject.both, x, t, out=out, **options))
            for seed in (6, 7):
                fresh, targets = subject.rows(8, v, library.dtypes[0], seed=seed)
                x[...] = fresh
                t[...] = targets
                library.synchronize()
                replay()
                library.synchronize()
                subject.same_bits(out, subject.both(fresh, targets, **options)[1], f"V={v}, contents {seed}")
    return f"V={', '.join(map(str, lengths))}; plain and smoothed"


def torch_compile(subject: Subject) -> str:
    """torch.compile(fullgraph=True) leaves the loss one operator of its graph, and the gradient what it is without."""
    library = subject.library
    if not isinstance(library, Torch):
        raise NotHereError("torch's compiler is for torch's tensors")
    if not library.on_gpu:
        raise NotHereError("the operator is for tensors on a GPU")
    torch = library.torch
    graphs = []

    def look(module: Any, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    def loss_of(x: Any, t: Any) -> Any:
        return subject.loss(x, t, label_smoothing=0.1, engine="auto")

    x, t = subject.rows(64, 1001 if subject.small else 50257, "float32")
    torch.compile(loss_of, fullgraph=True, backend=look)(x, t)
    called = [
        str(node.target)
        for graph in graphs
        for module in graph.modules()
        if hasattr(module, "graph")
        for node in module.graph.nodes
        if node.op == "call_function"
    ]
    own = [name for name in called if name.startswith("crossent")]
    assert len(graphs) == 1, f"{len(graphs)} graphs"
    assert len(own) == 1, f"operators of crossent in the graph: {own}; all calls: {called}"
    torch.compiler.reset()
    gradients = []
    compiler = "aot_eager" if subject.small else "inductor"
    for function in (loss_of, torch.compile(loss_of, fullgraph=True, backend=compiler)):
        leaf = x.clone().requires_grad_(True)
        (2 * function(leaf, t)).backward()
        gradients.append(library.numpy(leaf.grad))
    torch.compiler.reset()
    alike(gradients[1], gradients[0], 1e-6, "the compiled gradient")
    return f"{own[0]}, of {len(called)} calls in the graph"


def extra_memory(subject: Subject) -> str:
    """A call takes O(rows) of memory besides its results, and takes it from the library's own allocator."""
    library = subject.library
    if not library.on_gpu:
        raise NotHereError("the host's memory is the business of test_memory.py")
    n, v = (64, 1000) if subject.small else (2048, 32768)
    x, t = subject.rows(n, v, "float32")
    out = library.array(library.numpy(x), "float32")
    calls = {
        "loss": lambda: subject.loss(x, t),
        "gradient into out": lambda: subject.both(x, t, out=out),
        "gradient in place": lambda: subject.both(out, t, out=out),
        "smoothed": lambda: subject.both(x, t, out=out, label_smoothing=0.1),
        "checked": lambda: subject.both(x, t, out=out, check_targets=True),
    }
    allowed = BYTES_FOR_A_ROW * n + BYTES_FOR_A_CALL
    told = []
    for name, call in calls.items():
        call()
        extra, outside = library.extra_memory(call), library.outside_memory(call)
        assert extra <= allowed, f"{name}: {extra} bytes for {n} rows of {4 * v} bytes; allowed are {allowed}"
        assert outside <= 0, f"{name}: {outside} bytes that the library's allocator knows nothing of"
        told.append(f"{name} {extra / 1024:.0f} KiB")
    fresh = library.extra_memory(lambda: subject.both(x, t)) - 4 * n * v
    assert fresh <= allowed, f"gradient in fresh memory: {fresh} bytes besides the gradient; allowed are {allowed}"
    return f"logits of {4 * n * v / 2**20:.0f} MiB: " + ", ".join(told)


def ignored_rows_cost_nothing(subject: Subject) -> str:
    """The loss of rows that are all ignored takes less than half the time: their logits are not read."""
    library = subject.library
    if not library.on_gpu:
        raise NotHereError("the device's time is meant")
    x, t = subject.rows(4096, 32768, "float32")
    ignored = t.copy() if hasattr(t, "copy") else t.clone()
    ignored[...] = -100
    medians = []
    for targets in (t, ignored):
        call = functools.partial(subject.loss, x, targets, ignore_index=-100, reduction="sum")
        medians.append(statistics.median(library.times([call] * 25)))
    text = f"{medians[1]:.3f} ms, and {medians[0]:.3f} ms where none is ignored"
    assert medians[1] < medians[0] / 2, text
    return text


def threads(subject: Subject) -> str:
    """Calls from several Python threads at once have the bits that they have alone."""
    library = subject.library
    data = [subject.rows(64, 4099, "float32", seed=seed) for seed in range(8)]
    expected = [subject.both(x, t, reduction="none") for x, t in data]
    library.synchronize()

    def ask(i: int) -> list[Any]:
        return [subject.both(*data[i], reduction="none") for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(8)))
    library.synchronize()
    for i, results in enumerate(found):
        for result in results:
            for part in range(2):
                subject.same_bits(result[part], expected[i][part], f"thread's data {i}")
    return "eight sets of rows, four threads"


def launch_overhead(subject: Subject) -> str:
    """Calls on 64 x 1000 keep the host for 40 µs at most when nothing waits; other ways and torch beside them."""
    library = subject.library
    if not library.on_gpu:
        raise NotHereError("a call on a CPU is no launch")
    x, t = subject.rows(64, 1000, "float32")
    out = library.array(library.numpy(x), "float32")
    calls = {
        "loss": lambda: subject.loss(x, t),
        "gradient": lambda: subject.both(x, t, out=out),
        "loss, checked": lambda: subject.loss(x, t, check_targets=True),
        "gradient, checked": lambda: subject.both(x, t, out=out, check_targets=True),
        "loss, array_api": lambda: crossent.cross_entropy(x, t, check_targets=False, engine="array_api"),
    }
    if isinstance(library, Torch):
        leaf = x.clone().requires_grad_(True)
        F = library.torch.nn.functional
        calls |= {
            "loss and backward": lambda: subject.loss(leaf, t).backward(),
            "F.cross_entropy": lambda: F.cross_entropy(x, t),
            "F.cross_entropy and backward": lambda: F.cross_entropy(leaf, t).backward(),
        }
    took = {name: _host_microseconds(subject, call) for name, call in calls.items()}
    text = ", ".join(f"{name} {value:.1f} µs" for name, value in took.items())
    slow = [name for name in ("loss", "gradient") if took[name] > LARGEST_OVERHEAD]
    assert not slow, f"over {LARGEST_OVERHEAD:g} µs: {' and '.join(slow)}; {text}"
    return text


def _host_microseconds(subject: Subject, call: Any) -> float:
    """The median over batches of the mean host time of a call, the device's queue emptied between batches."""
    for _ in range(20):
        call()
    means = []
    for _ in range(21):
        subject.library.synchronize()
        start = time.perf_counter()
        for _ in range(50):
            call()
        means.append(1e6 * (time.perf_counter() - start) / 50)
    subject.library.synchronize()
    return statistics.median(means)


def import_leaves_the_driver_alone(subject: Subject) -> str:
    """`import crossent` imports no array library but NumPy, and so touches no driver."""
    import subprocess

    code = "import sys, crossent; print([m for m in ('torch', 'cupy', 'jax', 'cuda') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", (done.stdout + done.stderr).strip()
    return "torch, cupy, jax and cuda stay out"


CHECKS = (
    no_host_synchronisation,
    one_wait_for_the_check,
    the_current_stream,
    two_streams,
    several_devices,
    captured_graph,
    torch_compile,
    extra_memory,
    ignored_rows_cost_nothing,
    threads,
    launch_overhead,
    import_leaves_the_driver_alone,
)
