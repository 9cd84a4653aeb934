"""The tests of a GPU, without one: each passes on code that keeps what it asks, and fails on code that does not.

The queue of the device is acted by a clock: what waits for it sleeps. Beside them the log, the page and the script of a
run: what is cut off, hangs or crashes costs only itself, and nothing that is of no GPU reaches the pages.
"""

import contextlib
import dataclasses
import inspect
import itertools
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from benchmarks import report
from benchmarks.contenders import COPY, TORCH
from benchmarks.measurement import Measurement
from benchmarks.problem import Problem
from tests.cuda_resources import needs_nvrtc
from tests.gpu import acted, log, page, run, subject, test_machine, variants
from tests.gpu import test_queue as queue
from tests.gpu import test_values as values
from tests.gpu.acted import Acted, Right
from tests.gpu.subject import Subject

import crossent
from crossent_conformance import backends


def ignored(name, value):
    """`record_property`, where the records are not read."""


class Waits(Subject):
    """Waits for the device before it returns."""

    def loss(self, x, t, **options):
        self.device.synchronize()
        return super().loss(x, t, **options)

    def both(self, x, t, **options):
        self.device.synchronize()
        return super().both(x, t, **options)


@dataclasses.dataclass(frozen=True)
class Early(Subject):
    """Reads the logits before what was queued has written them: gives what it saw the first time."""

    memory: dict = dataclasses.field(default_factory=dict)

    def both(self, x, t, **options):
        return self.memory.setdefault(id(x), super().both(x, t, **options))


def faulty(fault):
    """A subject whose result goes through `fault(loss, gradient, x, t, options)`."""

    class Faulty(Subject):
        def both(self, x, t, **options):
            before = x.copy()
            return fault(*super().both(x, t, **options), before, t, options)

    return Faulty


@faulty
def inaccurate(loss, gradient, *call):
    return loss * np.float32(1 + 1e-5), gradient


@faulty
def sees_the_batch(loss, gradient, *call):
    """The last bit of a row hangs on how many there are."""
    return np.nextafter(loss, loss.dtype.type(9)) if len(loss) == 1 else loss, gradient


CALLS = itertools.count()


@faulty
def drifts(loss, gradient, *call):
    """No two calls agree to the last bit."""
    return loss + np.float32(1e-6 * next(CALLS)), gradient


@faulty
def writes_past_the_row(loss, gradient, x, t, options):
    if options.get("out") is not None and gradient.base is not None:
        memory = gradient.base.reshape(-1)
        memory[(gradient.ctypes.data - memory.ctypes.data) // gradient.itemsize + gradient.shape[1]] = 0
    return loss, gradient


@faulty
def reads_ignored_rows(loss, gradient, x, *call):
    return loss + 0 * x.astype(np.float32)[:, 0], gradient


@faulty
def forgets_outside(loss, gradient, *call):
    return np.nan_to_num(loss), gradient


@faulty
def loses_late_rows(loss, gradient, *call):
    if len(loss) > 2000:
        loss[-1] = 0
    return loss, gradient


def tells(name):
    """A subject that tells one too much of a row."""

    class Faulty(Subject):
        def told(self, x, t, **options):
            found = super().told(x, t, **options)
            return found._replace(**{name: getattr(found, name) + 1})

    return Faulty


def measures(fault):
    """A subject whose values and gradients of a measure go through `fault(values, gradient)`."""

    class Faulty(Subject):
        def measured(self, x, *given, **options):
            return fault(*super().measured(x, *given, **options))

    return Faulty


doubled, uphill = measures(lambda values, d: (2 * values, d)), measures(lambda values, d: (values, -d))
of_the_batch = measures(lambda values, d: (values + (len(values) == 1), d))
NOTHING_REPLAYED = {"captured": lambda call: lambda: None}
PLAIN, FLOAT32 = {"options": {}}, {"dtype": "float32"}
SHORT = FLOAT32 | {"v": 7}


@pytest.mark.parametrize(
    ("test", "arguments", "fault", "says"),
    [
        (values.test_long_rows_are_within_the_contracts_bound, SHORT | {"v": 50}, inaccurate, "loss"),
        (values.test_rows_know_nothing_of_each_other, SHORT, sees_the_batch, "row 0 alone"),
        (values.test_rows_know_nothing_of_each_other, SHORT, drifts, "second time"),
        (values.test_what_rows_tell_besides_their_loss, SHORT, tells("loss"), "the loss"),
        (values.test_what_rows_tell_besides_their_loss, SHORT, tells("entropy"), "entropy"),
        (values.test_what_rows_tell_besides_their_loss, SHORT, tells("rank"), "rank"),
        (values.test_measures_are_those_of_float64, SHORT | {"measure": "entropy"}, doubled, "value"),
        (values.test_measures_are_those_of_float64, SHORT | {"measure": "forward"}, uphill, "gradient"),
        (values.test_measures_are_those_of_float64, SHORT | {"measure": "reverse"}, of_the_batch, "row 0 alone"),
        (values.test_nothing_outside_the_rows_is_read_or_written, SHORT, writes_past_the_row, "lies around"),
        (
            values.test_what_lies_in_ignored_rows_does_not_matter, SHORT | {"way": "fresh"}, reads_ignored_rows,
            "beside rows of NaN",
        ),
        (values.test_unchecked_targets_outside_make_their_own_rows_nan, SHORT, forgets_outside, "not NaN"),
        (values.test_unchecked_targets_outside_make_their_own_rows_nan, SHORT, writes_past_the_row, "outside"),
        (values.test_more_rows_than_a_grid_has_blocks_in_a_dimension, {}, loses_late_rows, "row 2999"),
        (queue.test_without_the_check_no_call_waits, FLOAT32 | PLAIN | {"way": "out"}, Waits, "it waited"),
        (queue.test_with_the_check_a_call_does_wait, {}, Subject, "before the targets"),
        (queue.test_a_call_runs_on_the_current_stream, {"way": "in place"}, Early, "written late"),
        (queue.test_two_streams_at_once, {}, drifts, "stream 0"),
        (queue.test_every_device_gives_the_bits_of_the_first, {}, drifts, "device 1"),
        (queue.test_a_captured_graph_replays_over_new_contents, PLAIN | {"v": 9}, NOTHING_REPLAYED, "contents 6"),
        (queue.test_extra_memory_is_that_of_rows, PLAIN | {"way": "loss"}, {"extra": 2**24}, "16777216"),
        (queue.test_extra_memory_is_that_of_rows, PLAIN | {"way": "out"}, {"outside": 2**24}, "16777216 bytes"),
    ],
)  # fmt: skip
def test_a_fault_is_seen_and_what_is_right_passes(monkeypatch, test, arguments, fault, says):
    monkeypatch.setattr(queue, "DELAY", 0.15)  # a busy machine must not take so long for a small call
    if "record_property" in inspect.signature(test).parameters:
        arguments = arguments | {"record_property": ignored}
    test(gpu=acted.subject(), **arguments)
    with pytest.raises(AssertionError, match=says):
        test(gpu=acted.subject(**fault) if isinstance(fault, dict) else acted.subject(fault), **arguments)


def test_an_engine_that_steps_aside_is_seen():
    right = acted.subject()
    values.test_the_compiled_engine_serves_every_dtype(dataclasses.replace(right, engine=chosen(right)), "float32")
    with pytest.raises(AssertionError, match="cuda"):
        values.test_the_compiled_engine_serves_every_dtype(dataclasses.replace(right, engine="cuda"), "float32")


def chosen(subject):
    return re.search(r"engine '(\w+)'", crossent.explain(subject.rows(2, 5, "float32")[0]))[1]


def test_torch_compile_wants_one_operator():
    """Where a compiled engine of the CPU walks, the loss is an operator of its own too."""
    pytest.importorskip("numba")
    pytest.importorskip("torch")

    class OnCuda(backends.Torch):
        name = "torch-cuda"

    class Twice(Subject):
        def loss(self, x, t, **options):
            return super().loss(x, t, **options) + super().loss(x, t, **options)

    ask = queue.test_torch_compile_leaves_the_loss_one_operator
    ask(Subject(OnCuda(), Acted(), small=True), ignored)
    with pytest.raises(AssertionError, match="crossent"):
        ask(Twice(OnCuda(), Acted(), small=True), ignored)


@pytest.mark.parametrize(("seen", "passes"), [(["spin", "walk"], True), (["spin", "walk", "copy"], False), ([], None)])
def test_a_launch_too_many_is_seen(monkeypatch, seen, passes):
    class OnCuda(backends.NumPy):
        name = "torch-cuda"

    monkeypatch.setattr(queue, "_kernels", lambda call: seen)
    gpu = Right(OnCuda(), Acted(), "array_api", small=True)
    expected = {
        True: contextlib.nullcontext(),
        False: pytest.raises(AssertionError),
        None: pytest.raises(pytest.skip.Exception),
    }
    with expected[passes]:
        queue.test_launches_are_the_walk_and_the_reductions(gpu, "loss", {"reduction": "none"}, 1, ignored)


@pytest.mark.extended
@needs_nvrtc
def test_programs_are_compiled_ahead_and_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path))
    some = test_machine.plan.all_variants()[:3]
    monkeypatch.setattr(test_machine.plan, "all_variants", lambda: some)
    monkeypatch.setattr(test_machine.launch, "properties", lambda device: SimpleNamespace(architecture="sm_90"))
    seen = []
    test_machine.test_every_variant_compiles_for_this_device(lambda name, value: seen.append(value))
    assert seen[0].startswith("3 programs for sm_90")
    assert len(list(tmp_path.glob("*.cubin"))) == 3


# compute-sanitizer, and what it runs.


@pytest.mark.parametrize(
    ("said", "code", "sees", "planted", "outcome"),
    [
        ("ERROR SUMMARY: 0 errors", 0, True, False, None),
        ("ERROR SUMMARY: 0 errors", 0, True, True, None),
        ("ERROR SUMMARY: 0 errors", 0, False, True, AssertionError),
        ("ERROR SUMMARY: 3 errors", 99, True, False, AssertionError),
        ("ERROR SUMMARY: 0 errors", 1, True, False, AssertionError),
        ("nothing", 0, True, False, AssertionError),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, True, False, None),
        ("Error: Device not supported. Please refer to the documentation", 1, True, False, pytest.skip.Exception),
        (None, 0, True, False, pytest.skip.Exception),
    ],
)
def test_errors_silence_and_refusals_of_the_sanitizer(monkeypatch, said, code, sees, planted, outcome):
    def tool(command, **options):
        if sees and "--plant" in command:
            exit_code = int(command[command.index("--error-exitcode") + 1])
            return SimpleNamespace(stdout="Invalid __global__ write of 4 bytes\nERROR SUMMARY: 1", returncode=exit_code)
        return SimpleNamespace(stdout=f"========= {said}\n", returncode=code)

    monkeypatch.setattr(test_machine.shutil, "which", lambda name: said and name)
    monkeypatch.setattr(test_machine.subprocess, "run", tool)
    with contextlib.nullcontext() if outcome is None else pytest.raises(outcome):
        test_machine.test_compute_sanitizer("memcheck", "cupy", planted, ignored)


def test_the_variants_run_and_one_that_is_not_finite_is_seen(monkeypatch, capsys):
    variants.main("acted")
    assert int(capsys.readouterr().out.split()[0]) > 50
    monkeypatch.setattr(Right, "loss", lambda self, x, t, **options: np.float32("nan"))
    with pytest.raises(AssertionError, match="not finite"):
        variants.main("acted")


# The script of a run.

TESTS = """
import os, time
def test_good(record_property):
    record_property("seen", "a")
    record_property("seen", "b")
    open(__file__ + ".asked", "a").write("x")
def test_fails(): assert 1 == 2
def test_crashes(): os._exit(7)
def test_hangs(): time.sleep(60)
def test_last(): pass
"""


@pytest.fixture
def ask(monkeypatch, tmp_path):
    """Call the script, which has one part with some of the tests."""
    file = tmp_path / "test_part.py"
    file.write_text(TESTS, encoding="utf-8")
    monkeypatch.setattr(run, "GRACE", 1)
    monkeypatch.setenv("CROSSENT_COMMIT", "0123abc")

    def call(which, *, seconds=300, timeout=60, **options):
        few = [str(file), "--rootdir", str(tmp_path), "-c", os.devnull, f"--timeout={timeout}", "-k"]
        monkeypatch.setattr(run, "parts", lambda backends, dry: {run.COMPILE: [*few, "none"], "few": [*few, which]})
        arguments = [f"--{name}={value}" for name, value in options.items()]
        status = run.main(["--cpu-dry-run", f"--seconds={seconds}", *arguments, str(tmp_path / "out")])
        part = log.read(tmp_path / "out" / "evidence.jsonl")[1]["few"]
        return status, part, {name.rpartition("::")[2]: one for name, one in part.tests.items()}

    return call


@pytest.mark.extended
def test_what_crashes_or_hangs_costs_only_itself(ask, tmp_path):
    status, part, tests = ask("test", timeout=3)
    assert (status, part.verdict, part.ended) == (1, "failed", True)
    assert {name: one["outcome"] for name, one in tests.items()} == {
        "test_good": "passed", "test_fails": "failed", "test_crashes": "failed", "test_hangs": "failed",
        "test_last": "passed",
    }  # fmt: skip
    assert tests["test_good"]["seen"] == {"seen": "a; b"}
    assert "assert 1 == 2" in tests["test_fails"]["text"]
    assert tests["test_hangs"]["text"] == tests["test_crashes"]["text"] == "it did not come back"
    assert (tmp_path / "test_part.py.asked").read_text() == "x"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evidence.jsonl", "run.log"]


@pytest.mark.extended
def test_another_call_goes_on_where_one_was_cut_off(ask, tmp_path, capsys):
    status, part, tests = ask("good or hangs or last", seconds=8)
    assert (status, part.verdict) == (1, "not finished")
    assert "test_hangs" not in tests
    assert "left for another call into the same folder: few" in capsys.readouterr().out
    status, part, tests = ask("good or last")
    assert (status, part.verdict, sorted(tests)) == (0, "passed", ["test_good", "test_last"])
    assert (tmp_path / "test_part.py.asked").read_text() == "x", "what was answered was asked again"
    status, _, tests = ask("good", only="few")
    assert (status, list(tests)) == (0, ["test_good"])
    assert (tmp_path / "test_part.py.asked").read_text() == "xx"


def test_another_tree_or_machine_does_not_join_the_log(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CROSSENT_COMMIT", "0123abc")
    facts = run.facts(["numpy"], dry=True)
    log.append(tmp_path / "evidence.jsonl", {"run": facts | {"commit": "4567def", "driver": "another"}})
    before = (tmp_path / "evidence.jsonl").read_bytes()
    assert run.main(["--cpu-dry-run", str(tmp_path)]) == 2
    told = capsys.readouterr().out
    assert "commit is '4567def' there and '0123abc' here" in told
    assert "driver" not in told
    assert (tmp_path / "evidence.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--cpu-dry-run", "--only", "speed"], 2, "no part is called so; there are compile"),
        ([], 3, "no CUDA backend here"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(monkeypatch, tmp_path, capsys, arguments, status, says):
    monkeypatch.setattr(subject, "usable", lambda names=None: [])
    assert run.main([*arguments, str(tmp_path / "out")]) == status
    told = capsys.readouterr().out
    assert says in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(run, "NEEDED", ("no_such_module",))
    assert run.main([str(tmp_path / "out")]) == 2
    assert "carry them as wheels" in capsys.readouterr().out


def test_parts_ask_every_backend_and_jax_last():
    asked = run.parts(["torch-cuda", "cupy", "jax"], dry=False)
    assert list(asked) == [
        "compile", "checks", "conformance-torch-cuda", "conformance-cupy", "benchmarks", "machine", "jax",
        "conformance-jax",
    ]  # fmt: skip
    assert asked["conformance-cupy"][:3] == ["conformance", "--backend", "cupy"]
    for name in ("torch-cuda", "cupy"):  # so that both engines are asked
        assert backends.Mode.PORTABLE in backends.BACKENDS[name].modes


@pytest.mark.extended
def test_a_dry_run_passes_every_part_and_names_no_place_of_this_machine(tmp_path):
    # Outside the workers of this session, where pytest-benchmark would not measure.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, run.ROOT / "tests/gpu/run.py", "--cpu-dry-run", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs, parts = log.read(tmp_path / "evidence.jsonl")
    assert (runs[0]["dry_run_on_cpu"], {part.verdict for name, part in parts.items() if name != run.COMPILE}) == (
        True,
        {"passed"},
    )
    ways = ("", ", out=", ", out=logits")
    assert {one.contender for one in page.measurements(parts)} == {f"crossent cupy, array_api{way}" for way in ways}
    text = (tmp_path / "evidence.jsonl").read_text(encoding="utf-8")
    for place in (str(run.ROOT), str(tmp_path), sys.prefix):
        assert f"{place}/" not in text


# The page of a run, from a FABRICATED log: nobody measured a number in it.

FACTS = {
    "crossent": "crossent 0.0.0", "commit": "fabricated", "date": "2000-01-01T00:00:00+00:00", "dry_run_on_cpu": False,
    "gpus": ["FABRICATED GPU, 1 MiB, 0.0"], "versions": {"numpy": "0.0"},
}  # fmt: skip
NAME = "2000-01-01-fabricated-gpu"
PAGE = f"words\n\n{page.BEGIN}\n\nnothing yet\n\n{report.END}\n\nmore words\n"


def fabricated(file, **facts):
    """A log: two sizes of a few contenders, of which one reaches the goal and one does not; a failure, a skip."""
    rates = {
        COPY: 4000.0,
        TORCH: 1000.0,
        "crossent torch-cuda, cuda, out=, unchecked": 3800.0,
        "crossent cupy, cuda, out=logits": 3000.0,
    }
    measured = [
        Measurement("gpu-gradient", str(problem), name, rounds=31, seconds=2 * problem.nbytes / rate / 1e9, spread=0.01)
        for problem in (Problem(65536, 4096), Problem(8192, 32768))
        for name, rate in rates.items()
    ]
    log.append(
        file, {"run": FACTS | facts}, {"begin": "benchmarks", "command": "pytest a b", "anew": False},
        *(
            {"test": f"t::{i}", "outcome": "passed", "text": "", "seen": {"measurement": dataclasses.asdict(one)}}
            for i, one in enumerate(measured)
        ),
        {"test": "a::b", "outcome": "failed", "text": "off | by one", "seen": {}},
        {"test": "a::c", "outcome": "skipped", "text": "one device here", "seen": {"seen": "half of it"}},
        {"end": "benchmarks", "status": 1, "seconds": 3.0, "cut": False},
    )  # fmt: skip
    return [str(file)]


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """A folder of its own in place of docs/."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "performance.md").write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(report, "DOCS", folder)
    return folder


def test_the_page_has_machine_verdicts_tables_and_pictures(docs, tmp_path):
    arguments = fabricated(tmp_path / "evidence.jsonl")
    assert page.main(arguments) == 0
    written = (docs / "evidence" / f"{NAME}.md").read_text(encoding="utf-8")
    for line in (
        "# FABRICATED GPU, 1 MiB, 0.0, 2000-01-01",
        "| versions | numpy 0.0 |",
        "| benchmarks | failed | 3 | 8 passed, 1 failed, 1 skipped |",
        "benchmarks: pytest a b",
        "| `a::b` | off \\| by one |",
        "| `a::c` | one device here |",
        "| `a::c` | skipped | half of it |",
        "| gpu-gradient | crossent torch-cuda, cuda, out=, unchecked | 95% at 65536x4096; 90% reached |",
        "| gpu-gradient | crossent cupy, cuda, out=logits | 75% at 65536x4096; 90% missed |",
    ):
        assert line in written.splitlines(), line
    assert "at most 1.0% apart" in written
    shown = (docs / "performance.md").read_text(encoding="utf-8")
    assert shown.startswith("words\n")
    assert shown.endswith("more words\n")
    assert "nothing yet" not in shown
    for ending in ("roofline", "gpu-vocabulary"):
        assert f"](images/{NAME}-{ending}.svg)" in shown
        assert TORCH in "".join(ElementTree.parse(docs / "images" / f"{NAME}-{ending}.svg").getroot().itertext())
    before = {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()}
    assert page.main(arguments) == 0
    assert {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("facts", [{"dry_run_on_cpu": True}, {"gpus": []}])
def test_what_says_nothing_of_a_gpu_does_not_reach_the_docs(docs, tmp_path, facts, capsys):
    arguments = fabricated(tmp_path / "evidence.jsonl", **facts)
    assert page.main(arguments) == 1
    assert "is of no GPU" in capsys.readouterr().err
    assert [path.name for path in docs.rglob("*")] == ["performance.md"]
    assert page.main([*arguments, "--docs", str(tmp_path / "elsewhere")]) == 0
    (written,) = (tmp_path / "elsewhere" / "evidence").glob("*.md")
    assert ("A dry run on a CPU" in written.read_text(encoding="utf-8")) is ("gpus" not in facts)


def test_the_real_page_has_the_marks():
    text = (report.DOCS / report.PAGE).read_text(encoding="utf-8")
    assert "new" in report.replaced(text, "new", page.BEGIN)
    assert report.replaced(text, "new").count(page.BEGIN) == 1
