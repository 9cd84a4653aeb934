"""The checks for a GPU, without one: each passes on code that keeps what it asks, and fails on code that does not.

The queue of a device is acted by a clock: what waits for it sleeps.
"""

import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks import gpu_checks, gpu_compile, gpu_queue, gpu_sanitizer, gpu_values, gpu_variants
from benchmarks.gpu_library import NotHereError, NumPy, Torch
from benchmarks.gpu_subject import Subject

from crossent import choice


class ActedGpu(NumPy):
    """NumPy, with a queue that only a clock knows of."""

    name = "acted"
    on_gpu = True
    dtypes = ("float32",)
    all_dtypes = ("float32", "float16")
    extra = outside = 0

    def __init__(self):
        super().__init__()
        self.busy_until = 0.0

    def engines(self):
        return ("array_api",)

    def delay(self, seconds):
        self.busy_until = time.perf_counter() + seconds

    def marker(self):
        until = self.busy_until
        return lambda: time.perf_counter() >= until

    def synchronize(self):
        time.sleep(max(0.0, self.busy_until - time.perf_counter()))

    def stream(self):
        return contextlib.nullcontext()

    def captured(self, call):
        return call

    def extra_memory(self, call):
        return self.extra

    def outside_memory(self, call):
        return self.outside


class NothingReplayed(ActedGpu):
    def captured(self, call):
        return lambda: None


class ThreeDevices(ActedGpu):
    def devices(self):
        return 3

    def on_device(self, index):
        return contextlib.nullcontext()


@pytest.fixture(autouse=True)
def few_and_short(monkeypatch):
    monkeypatch.setattr(gpu_queue, "DELAY", 0.15)  # a busy machine must not take so long for a small call
    monkeypatch.setattr(gpu_queue, "OPTIONS", {name: gpu_queue.OPTIONS[name] for name in ("plain", "smoothing")})
    monkeypatch.setattr(gpu_values, "LENGTHS", (1, 7, 33, 1001))


def subject_of(kind=Subject, library=NumPy):
    return kind(library(), "array_api", True)


def outcome(check, subject):
    return gpu_checks.verdict_of(check, subject)


# What a faulty implementation would do.


class Waits(Subject):
    """Waits for the device before it returns."""

    def loss(self, x, t, **options):
        self.library.synchronize()
        return super().loss(x, t, **options)

    def both(self, x, t, **options):
        self.library.synchronize()
        return super().both(x, t, **options)


@dataclass(frozen=True)
class Early(Subject):
    """Reads the logits before what was queued has written them: gives what it saw the first time."""

    seen: dict = field(default_factory=dict)

    def loss(self, x, t, **options):
        return self.seen.setdefault((id(x), "loss"), super().loss(x, t, **options))

    def both(self, x, t, **options):
        return self.seen.setdefault((id(x), "both"), super().both(x, t, **options))


class Inaccurate(Subject):
    def both(self, x, t, **options):
        loss, gradient = super().both(x, t, **options)
        return loss * np.float32(1 + 1e-5), gradient


class SeesTheBatch(Subject):
    """The last bit of a row hangs on how many there are."""

    def both(self, x, t, **options):
        loss, gradient = super().both(x, t, **options)
        return np.nextafter(loss, loss.dtype.type(9)) if len(x) == 1 else loss, gradient


class WritesPastTheRow(Subject):
    def both(self, x, t, **options):
        result = super().both(x, t, **options)
        out = options.get("out")
        if out is not None and out.base is not None:
            memory = out.base.reshape(-1)
            end = (out.ctypes.data - memory.ctypes.data) // out.itemsize + out.shape[1]
            memory[end] = 0
        return result


class ReadsIgnoredRows(Subject):
    def both(self, x, t, **options):
        x = x.copy()
        loss, gradient = super().both(x, t, **options)
        return loss + 0 * x.astype(np.float32)[:, 0], gradient


class ClampsTargets(Subject):
    def both(self, x, t, **options):
        return super().both(x, np.clip(t, 0, x.shape[1] - 1), **options)


class LosesLateRows(Subject):
    def both(self, x, t, **options):
        loss, gradient = super().both(x, t, **options)
        if len(loss) > 2000:
            loss[-1] = 0
        return loss, gradient


class Slow(Subject):
    def loss(self, x, t, **options):
        time.sleep(1e-4)

    def both(self, x, t, **options):
        time.sleep(1e-4)


class Quick(Subject):
    def loss(self, x, t, **options):
        return None

    both = loss


@pytest.mark.parametrize(
    ("check", "fault", "says"),
    [
        (gpu_values.accuracy, Inaccurate, "of what is allowed"),
        (gpu_values.rows_know_nothing_of_each_other, SeesTheBatch, "row 0 alone"),
        (gpu_values.nothing_outside_the_rows, WritesPastTheRow, "outside the rows were written"),
        (gpu_values.targets_outside, WritesPastTheRow, "outside the rows were written"),
        (gpu_values.ignored_rows, ReadsIgnoredRows, "values differ"),
        (gpu_values.targets_outside, ClampsTargets, "a loss that is not NaN"),
        (gpu_values.many_rows, LosesLateRows, "loss of row 2999"),
    ],
)
def test_a_wrong_value_read_or_write_is_seen(check, fault, says):
    assert outcome(check, subject_of())[0] == gpu_checks.PASSED
    verdict, text = outcome(check, subject_of(fault))
    assert verdict == gpu_checks.FAILED
    assert says in text


@pytest.mark.parametrize(
    ("check", "right", "wrong", "says"),
    [
        (gpu_queue.no_host_synchronisation, (Subject, ActedGpu), (Waits, ActedGpu), "it waited"),
        (gpu_queue.one_wait_for_the_check, (Waits, ActedGpu), (Subject, ActedGpu), "before the targets"),
        (gpu_queue.the_current_stream, (Subject, ActedGpu), (Early, ActedGpu), "logits written late"),
        (gpu_queue.captured_graph, (Subject, ActedGpu), (Subject, NothingReplayed), "contents 6"),
        (gpu_queue.several_devices, (Subject, ThreeDevices), (SeesTheBatch, ActedGpu), "one device here"),
        (gpu_queue.launch_overhead, (Quick, ActedGpu), (Slow, ActedGpu), ": loss and gradient; "),
    ],
)
def test_what_the_queue_should_not_see_is_seen(check, right, wrong, says):
    verdict, text = outcome(check, subject_of(*right))
    assert verdict == gpu_checks.PASSED, text
    verdict, text = outcome(check, subject_of(*wrong))
    assert verdict == (gpu_checks.NOT_HERE if says == "one device here" else gpu_checks.FAILED)
    assert says in text


def test_streams_and_threads_are_compared_with_calls_alone():
    for check in (gpu_queue.two_streams, gpu_queue.threads):
        assert outcome(check, subject_of(Subject, ActedGpu))[0] == gpu_checks.PASSED


@pytest.mark.parametrize("which", ["extra", "outside"])
def test_memory_beyond_the_rows_is_seen(which, monkeypatch):
    # What a gradient in fresh memory takes is among what the acted allocator does not count.
    assert outcome(gpu_queue.extra_memory, subject_of(Subject, ActedGpu))[0] == gpu_checks.PASSED
    monkeypatch.setattr(ActedGpu, which, 2**24)
    verdict, text = outcome(gpu_queue.extra_memory, subject_of(Subject, ActedGpu))
    assert verdict == gpu_checks.FAILED
    assert str(2**24) in text


def test_ignored_rows_that_cost_time_are_seen(monkeypatch):
    monkeypatch.setattr(ActedGpu, "times", lambda self, calls, before=None: [1.0])
    monkeypatch.setattr(Subject, "rows", lambda self, n, v, dtype: (np.zeros((2, 3)), np.zeros(2, dtype=np.int64)))
    assert outcome(gpu_queue.ignored_rows_cost_nothing, subject_of(Subject, ActedGpu))[0] == gpu_checks.FAILED


def test_an_engine_that_steps_aside_is_seen(monkeypatch):
    monkeypatch.setattr(choice, "chosen", lambda *call: "numba")
    verdict, text = outcome(gpu_values.engine_serves_every_dtype, subject_of(Subject, ActedGpu))
    assert verdict == gpu_checks.FAILED
    assert "numba" in text


def test_torch_compile_wants_one_operator():
    torch = pytest.importorskip("torch")

    @torch.library.custom_op("crossent_acted::loss", mutates_args=())
    def acted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(x, t)

    acted.register_fake(lambda x, t: x.new_empty(()))
    acted.register_autograd(
        lambda ctx, grad: ((ctx.saved_tensors[0].softmax(1) - ctx.hot) * (grad / len(ctx.hot)), None),
        setup_context=lambda ctx, inputs, output: (
            ctx.save_for_backward(inputs[0]),
            setattr(ctx, "hot", torch.nn.functional.one_hot(inputs[1], inputs[0].shape[1])),
        ),
    )

    class TorchActed(Torch):
        on_gpu = True

    class OneOperator(Subject):
        def loss(self, x, t, **options):
            return acted(x, t)

    class TwoOperators(Subject):
        def loss(self, x, t, **options):
            return acted(x, t) + acted(x, t)

    assert outcome(gpu_queue.torch_compile, subject_of(OneOperator, TorchActed))[0] == gpu_checks.PASSED
    verdict, text = outcome(gpu_queue.torch_compile, subject_of(TwoOperators, TorchActed))
    assert verdict == gpu_checks.FAILED
    assert "operators of crossent in the graph" in text


@pytest.mark.parametrize("library", [NumPy, Torch])
def test_without_a_gpu_no_check_of_one_passes(library):
    if library is Torch:
        pytest.importorskip("torch")
    subject = subject_of(Subject, library)
    needs_one = [
        gpu_values.engine_serves_every_dtype,
        gpu_values.more_than_2_31_logits,
        *(check for check in gpu_queue.CHECKS if check.__name__ not in ("threads", "import_leaves_the_driver_alone")),
    ]
    for check in needs_one:
        assert outcome(check, subject)[0] == gpu_checks.NOT_HERE, check.__name__


def test_every_check_says_in_one_line_what_it_asks():
    assert len(gpu_checks.CHECKS) == len(gpu_values.CHECKS) + len(gpu_queue.CHECKS)
    for name, check in gpu_checks.CHECKS.items():
        assert check.__doc__.count("\n") == 0, name
        assert len(check.__doc__) > 20, name


# The processes that run the checks.

WORKER = """
import json, os, sys, time
file, *names = sys.argv[sys.argv.index("--progress") + 1:]
with open(file, "a") as out:
    for name in names:
        print(json.dumps({"begun": name}), file=out, flush=True)
        if name == "crashes":
            os._exit(7)
        if name == "hangs":
            time.sleep(60)
        verdict = "failed" if name == "fails" else "passed"
        print(json.dumps({"name": name, "verdict": verdict, "text": "", "seconds": 0}), file=out, flush=True)
        if name == "fails":
            sys.exit(1)
"""


def test_a_check_that_crashes_or_hangs_costs_only_itself(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    names = ["good", "crashes", "fine", "hangs", "fails", "last"]
    found = list(gpu_checks.supervise([sys.executable, str(tmp_path / "worker.py")], names, limit=1.0))
    assert [(one["name"], one["verdict"]) for one in found] == [
        ("good", "passed"),
        ("crashes", "failed"),
        ("fine", "passed"),
        ("hangs", "failed"),
        ("fails", "failed"),
        ("last", "passed"),
    ]
    assert found[1]["text"] == "the process ended with 7"
    assert found[3]["text"] == "no answer in 1 s"


def test_a_process_that_does_not_start_fails_every_check():
    found = list(gpu_checks.supervise([sys.executable, "-c", "raise SystemExit(3)"], ["a", "b"]))
    assert [(one["name"], one["verdict"], one["text"]) for one in found] == [
        ("a", "failed", "the process ended with 3"),
        ("b", "failed", "the process ended with 3"),
    ]


def test_checks_run_in_a_process_of_their_own_and_are_kept(tmp_path, capsys):
    file = tmp_path / "checks.json"
    names = ["many_rows", "two_streams"]
    arguments = [str(file), "--backend", "numpy", "--small", *(f"--check={name}" for name in names)]
    assert gpu_checks.main(arguments) == 0
    result = json.loads(file.read_text(encoding="utf-8"))
    assert [(one["name"], one["verdict"]) for one in result["checks"]] == [
        ("many_rows", "passed"),
        ("two_streams", "not here"),
    ]
    assert result["checks"][0]["what"].startswith("More rows than a grid")
    assert "3000 rows of 3" in capsys.readouterr().out


def test_what_the_time_does_not_allow_has_failed(tmp_path):
    file = tmp_path / "checks.json"
    names = ["several_devices", "many_rows"]
    arguments = [str(file), "--backend", "numpy", "--small", "--seconds", "0"]
    assert gpu_checks.main([*arguments, *(f"--check={name}" for name in names)]) == 1
    result = json.loads(file.read_text(encoding="utf-8"))
    assert result["checks"][1]["text"] == "not reached in the time allowed"


# compute-sanitizer.

TOOL = """#!{python}
import sys
tool = sys.argv[sys.argv.index("--tool") + 1]
if "--plant" in sys.argv and {sees}:
    print("========= Invalid __global__ write of size 4 bytes")
    print("========= ERROR SUMMARY: 1 error")
    sys.exit(int(sys.argv[sys.argv.index("--error-exitcode") + 1]))
print("========= {said}")
sys.exit({code})
"""


@pytest.fixture
def sanitizer(tmp_path, monkeypatch):
    """Puts an acted tool on PATH, and runs the part with it."""

    def run(said="ERROR SUMMARY: 0 errors", code=0, *, sees=True, backends=("cupy", "torch-cuda")):
        program = tmp_path / gpu_sanitizer.PROGRAM
        program.write_text(TOOL.format(python=sys.executable, said=said, code=code, sees=sees), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        file = tmp_path / "sanitizer.json"
        status = gpu_sanitizer.main([str(file), *(f"--backend={one}" for one in backends)])
        return status, json.loads(file.read_text(encoding="utf-8"))["sanitizer"]

    return run


def test_a_clean_run_passes_only_if_the_planted_overrun_is_seen(sanitizer):
    status, runs = sanitizer()
    assert (status, {one["verdict"] for one in runs}) == (0, {"passed"})
    assert [one["name"] for one in runs] == [
        "memcheck, cupy, planted",
        "memcheck, cupy",
        "racecheck, cupy",
        "synccheck, cupy",
        "memcheck, torch-cuda",
    ]
    status, runs = sanitizer(sees=False)
    assert status == 1
    assert [one["verdict"] for one in runs][:2] == ["failed", "passed"]


@pytest.mark.parametrize(
    ("said", "code", "status", "verdict"),
    [
        ("ERROR SUMMARY: 3 errors", 99, 1, "failed"),
        ("ERROR SUMMARY: 0 errors", 1, 1, "failed"),
        ("nothing", 0, 1, "failed"),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, 0, "passed"),
        ("Error: Device not supported. Please refer to the documentation", 1, 0, "not here"),
    ],
)
def test_errors_silence_and_refusals_are_told_apart(sanitizer, said, code, status, verdict):
    found, runs = sanitizer(said, code, backends=("torch-cuda",))
    assert (found, {one["verdict"] for one in runs}) == (status, {verdict})
    assert said.split(".")[0] in runs[0]["text"]


def test_without_the_tool_nothing_has_passed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "sanitizer.json"
    assert gpu_sanitizer.main([str(file), "--backend", "torch-cuda"]) == 0
    runs = json.loads(file.read_text(encoding="utf-8"))["sanitizer"]
    assert {one["verdict"] for one in runs} == {"not here"}


def test_the_variants_run(capsys):
    assert gpu_variants.main(["--backend", "numpy", "--small"]) == 0
    assert int(capsys.readouterr().out.split()[0]) > 50


def test_a_variant_that_is_not_finite_is_seen(monkeypatch):
    monkeypatch.setattr(Subject, "loss", lambda self, x, t, **options: np.float32("nan"))
    with pytest.raises(AssertionError, match="not finite"):
        gpu_variants.main(["--backend", "numpy", "--small"])


@pytest.mark.extended
def test_every_program_is_compiled_ahead_and_kept(monkeypatch, tmp_path, capsys):
    program = pytest.importorskip("crossent.engines.cuda.program")
    try:
        program.version()
    except (ImportError, RuntimeError):
        pytest.skip("NVRTC is not here; CROSSENT_REQUIRE_NVRTC makes that a failure elsewhere")
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu_compile.cuda, "problem", lambda: None)
    monkeypatch.setattr(gpu_compile.launch, "properties", lambda device: SimpleNamespace(architecture="sm_90"))
    some = gpu_compile.plan.all_variants()[:3]
    monkeypatch.setattr(gpu_compile.plan, "all_variants", lambda: some)
    assert gpu_compile.main() == 0
    assert "3 programs for sm_90" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.cubin"))) == 3


def test_what_is_not_on_a_cpu_says_so():
    for ask in (NumPy().stream, NumPy().marker, lambda: NumPy().delay(1), lambda: NumPy().captured(print)):
        with pytest.raises(NotHereError, match="without a GPU"):
            ask()
