"""The GPU run, as far as it goes without a GPU: its exit codes, its record, and that it writes nowhere else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import evidence, gpu, gpu_contenders
from benchmarks.gpu_contenders import Contender
from benchmarks.gpu_library import NumPy, Torch

import crossent
from crossent_conformance.backends import BACKENDS, Mode

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "run_gpu.sh"

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="the script is for GNU systems")


def run(*arguments, cwd=ROOT, **environment):
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("OUT", "PYTHONPATH", "CROSSENT_COMMIT")
    }
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=cwd,
        env=inherited | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def files_of_the_repository():
    """What lies at its top and under benchmarks/, but for the caches that this test session may be making meanwhile."""
    top = {path for path in ROOT.iterdir() if path.name not in (".hypothesis", ".pytest_cache", "__pycache__")}
    return top | {path for path in (ROOT / "benchmarks").rglob("*") if path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("evidence")
    before = files_of_the_repository()
    done = run("--cpu-dry-run", str(out), CROSSENT_COMMIT="0123abc")
    assert files_of_the_repository() - before == set()
    return done, out, json.loads((out / "evidence.json").read_text(encoding="utf-8"))


def test_bash_accepts_the_script():
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True, check=False).returncode == 0


@pytest.mark.extended
def test_dry_run_passes_every_part(dry_run):
    done, _, record = dry_run
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(one["name"], one["status"]) for one in record["parts"]] == [
        ("checks-numpy", 0),
        ("conformance-numpy", 0),
        ("benchmarks-numpy", 0),
        ("sanitizer", 0),
        ("tests", 0),
        ("train", 0),
    ]


@pytest.mark.extended
def test_record_holds_the_machine_the_commit_and_every_result(dry_run):
    _, _, record = dry_run
    assert record["commit"] == "0123abc"
    assert record["dry_run_on_cpu"] is True
    assert record["backends"] == {"numpy": "cpu"}
    assert record["versions"].keys() >= {"numpy", "array-api-compat"}
    checks, conformance, benchmarks, sanitizer, tests, train = (one["result"] for one in record["parts"])
    assert {one["verdict"] for one in checks["checks"]} == {"passed", "not here"}
    assert conformance["tests"] > 1
    assert conformance["failed"] == []
    assert {one["V"] for one in benchmarks["figures"]} == {64, 300}
    assert {one["series"] for one in benchmarks["figures"]} == {"vocabulary", "size"}
    assert all(one["ms"] > 0 and one["share_of_copy"] > 0 for one in benchmarks["figures"])
    assert all(one["quartiles_ms"][0] <= one["ms"] <= one["quartiles_ms"][1] for one in benchmarks["figures"])
    assert len(sanitizer["sanitizer"]) == 3
    assert tests["tests"] == 1
    assert [one["backend"] for one in train["backends"]] == ["numpy"]


@pytest.mark.extended
def test_both_engines_are_asked(dry_run):
    """The suite's portable mode is among the cells of every backend that has a compiled engine."""
    _, _, record = dry_run
    assert "test_every_engine_that_is_required_is_here" in record["parts"][1]["command"]
    for name in ("numpy", "torch", "torch-cuda", "cupy"):
        assert Mode.PORTABLE in BACKENDS[name].modes, name


@pytest.mark.extended
def test_record_names_no_place_of_this_machine(dry_run):
    _, out, _ = dry_run
    text = (out / "evidence.json").read_text(encoding="utf-8")
    for place in (str(ROOT), str(out), sys.prefix):
        assert f"{place}/" not in text


@pytest.mark.extended
def test_only_the_listed_files_are_left(dry_run):
    _, out, _ = dry_run
    assert sorted(path.name for path in out.iterdir()) == ["evidence.json", "loss.png", "run.log"]


@pytest.mark.extended
def test_table_comes_last(dry_run):
    done, _, _ = dry_run
    lines = done.stdout.splitlines()
    assert lines[-1].split()[:3] == ["synccheck,", "numpy", "not"]
    assert any("forward and gradient | crossent array_api, out=" in line for line in lines)
    assert any(line.split()[:2] == ["accuracy", "passed"] for line in lines)
    (part,) = (line for line in lines if line.split()[:1] == ["sanitizer"])
    assert "not here" in part


@pytest.mark.extended
def test_parts_by_name_join_the_record_that_is_there(dry_run, tmp_path):
    _, out, record = dry_run
    shutil.copy(out / "evidence.json", tmp_path)
    done = run("--cpu-dry-run", "--only", "sanitizer", str(tmp_path), CROSSENT_COMMIT="0123abc")
    assert done.returncode == 0, done.stdout + done.stderr
    joined = json.loads((tmp_path / "evidence.json").read_text(encoding="utf-8"))
    names = [one["name"] for one in joined["parts"]]
    assert names == ["checks-numpy", "conformance-numpy", "benchmarks-numpy", "tests", "train", "sanitizer"]
    assert joined["date"] == record["date"]
    assert joined["parts"][-1]["date"] > record["parts"][-1]["date"]


@pytest.mark.extended
def test_another_tree_does_not_join_the_record(dry_run, tmp_path):
    _, out, _ = dry_run
    shutil.copy(out / "evidence.json", tmp_path)
    done = run("--cpu-dry-run", "--only", "sanitizer", str(tmp_path), CROSSENT_COMMIT="4567def")
    assert done.returncode == 2
    assert "commit is '0123abc' in the record and '4567def' here" in done.stderr


def test_a_record_is_of_one_kind_of_gpu_under_any_driver():
    gpu_of = {"name": "G", "driver_version": "1", "memory.total": "1 MiB", "compute_cap": "9.0"}
    record = {
        "commit": "a",
        "source_sha256": "b",
        "dry_run_on_cpu": False,
        "gpus": [gpu_of],
        "versions": {"numpy": "2"},
    }
    assert evidence.differences(record, record | {"gpus": [gpu_of | {"driver_version": "2"}]}) == []
    assert len(evidence.differences(record, record | {"gpus": [gpu_of | {"name": "H"}]})) == 1
    assert len(evidence.differences(record, record | {"versions": {}, "source_sha256": "c"})) == 2


def test_what_does_not_fit_is_not_reached(tmp_path, capsys):
    record = tmp_path / "evidence.json"
    assert evidence.main(["begin", str(record), "numpy", "--commit", "abc"]) == 0
    common = ["--seconds", "0", "--limit", "0", "--command-line", "pytest", "--status", "124"]
    assert evidence.main(["part", str(record), "late", "--result", str(tmp_path / "none"), *common]) == 124
    assert evidence.main(["table", str(record)]) == 1
    assert "not reached" in capsys.readouterr().out


def test_without_array_api_compat_one_line_and_2(tmp_path):
    (tmp_path / "array_api_compat.py").write_text("raise ImportError('missing')\n", encoding="utf-8")
    done = run(str(tmp_path / "out"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "array_api_compat" in done.stderr


@pytest.mark.extended
@pytest.mark.skipif(bool(evidence.gpus()), reason="for machines without a GPU")
def test_without_a_gpu_one_line_and_3(tmp_path):
    done = run(str(tmp_path / "out"))
    assert done.returncode == 3
    assert (done.stdout + done.stderr).count("\n") == 1


@pytest.mark.extended
@pytest.mark.skipif(bool(evidence.gpus()), reason="for machines without a GPU")
def test_a_folder_is_meant_where_the_caller_is(tmp_path):
    assert run("out", cwd=tmp_path).returncode == 3
    assert (tmp_path / "out").is_dir()
    assert not (ROOT / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu",), "unknown option --gpu"),
        (("a", "b"), "two output folders, a and b"),
        (("--only",), "--only needs a value"),
        (("--only", "checks,speed"), "no part is called speed; there are checks, conformance, benchmarks"),
        (("--seconds", "1.5"), "--seconds is 1.5"),
    ],
)
def test_unknown_arguments_are_refused(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_failed_part_fails_the_run(tmp_path, capsys):
    record, junit = tmp_path / "evidence.json", tmp_path / "junit.xml"
    assert evidence.main(["begin", str(record), "numpy", "--commit", "abc"]) == 0
    junit.write_text(
        '<testsuites><testsuite tests="2" failures="1" errors="0" skipped="0"><testcase classname="a" name="b">'
        '<failure message="off by one"/></testcase><testcase classname="a" name="c"/></testsuite></testsuites>',
        encoding="utf-8",
    )
    common = ["--seconds", "3", "--limit", "9", "--command-line", "pytest"]
    assert evidence.main(["part", str(record), "tests", "--status", "1", "--result", str(junit), *common]) == 1
    missing = str(tmp_path / "nothing.json")
    assert evidence.main(["part", str(record), "silent", "--status", "0", "--result", missing, *common]) == 1
    assert evidence.main(["part", str(record), "slow", "--status", "124", "--result", missing, *common]) == 124
    assert evidence.main(["table", str(record)]) == 1
    printed = capsys.readouterr().out
    assert "2 tests, 1 failures" in printed
    assert "a::b: off by one" in printed
    assert "stopped at 9 s" in printed


@pytest.mark.extended
def test_torch_takes_the_same_path(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "figures.json"
    assert gpu.main([str(file), "--backend", "torch", "--vocabularies", "64", "--logits-bytes", "8000", "--sizes"]) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    assert {one["dtype"] for one in figures} == {"bfloat16", "float32"}
    assert {one["contender"] for one in figures} >= {
        "crossent array_api",
        "crossent array_api, out=logits",
        "crossent array_api, backward",
        "F.cross_entropy",
    }


def a_case(contender, seconds=60.0):
    case = next(gpu.cases([NumPy()], [64], 8000))
    return gpu.run([case], lambda library: [contender], seconds, lambda figures: None)


def test_a_wrong_answer_has_no_time():
    wrong = Contender("forward", "crossent", 1, lambda library: lambda x, t, out: 1.0)
    (figure,) = a_case(wrong)
    assert "ms" not in figure
    assert "mean loss off" in figure["error"]


def test_a_gradient_in_place_always_finds_logits():
    """Whatever a call leaves in its memory, the next one is given logits again, and the buffers keep theirs."""
    seen = []

    def in_place(x, t, out):
        seen.append(float(abs(x).max()))
        result = crossent.cross_entropy_and_grad(x, t, out=x)
        return result[0], result[1].copy() if len(seen) == 1 else x

    (figure,) = a_case(Contender("forward and gradient", "x", 2, lambda library: in_place, in_place=True))
    assert figure["ms"] > 0
    assert len(seen) == 1 + gpu.WARM_UPS + gpu.SAMPLES
    assert min(seen) > 5
    assert len(set(seen)) == 2


def test_small_logits_take_turns_past_any_cache():
    class Cached(NumPy):
        cache_bytes = 100_000

    case = next(gpu.cases([Cached()], [64], 8000))
    data = gpu.Data.of(case, {0.0})
    assert case.buffers * case.nbytes >= 100_000
    assert len(data.buffers) == len(data.outs) == case.buffers > 2


@pytest.mark.parametrize("library", [NumPy, Torch])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_exact_answer_is_that_of_the_contract(library, smoothing):
    if library is Torch:
        pytest.importorskip("torch")
    one = library()
    (x,), t, _ = one.data(40, 9, "float32", 1)
    loss, gradient = one.exact(x, t, 6, smoothing)
    expected = crossent.cross_entropy_and_grad(
        one.numpy(one.float64(x)), one.numpy(t), label_smoothing=smoothing, smoothing="uniform"
    )
    np.testing.assert_allclose(loss, expected[0], rtol=1e-12)
    np.testing.assert_allclose(one.numpy(gradient), expected[1][:6], atol=1e-15)


def test_on_a_gpu_every_engine_and_the_peers_that_are_installed_compete(monkeypatch):
    class OnGpu(Torch):
        on_gpu = True

        def __init__(self):
            """Nothing is asked of torch here."""

    monkeypatch.setattr(gpu_contenders.importlib.util, "find_spec", lambda name: None)
    names = {one.name for one in gpu_contenders.of(OnGpu())}
    assert names >= {
        "crossent cuda, out=logits",
        "crossent cuda, unchecked",
        "crossent array_api, out=",
        "F.cross_entropy, torch.compile",
    }
    assert not names & {"Liger", "Quack"}
    monkeypatch.setattr(gpu_contenders.importlib.util, "find_spec", lambda name: object())
    assert {one.name for one in gpu_contenders.of(OnGpu())} >= {"Liger", "Quack"}
    ours = [one for one in gpu_contenders.of(OnGpu()) if one.ours]
    assert all(one.name.startswith("crossent") for one in ours)


def test_without_the_compiled_engine_a_run_on_a_gpu_fails(monkeypatch, tmp_path):
    class OnGpu(NumPy):
        on_gpu = True

    monkeypatch.setitem(gpu.LIBRARIES, "numpy", OnGpu)
    file = tmp_path / "figures.json"
    few = ["--vocabularies", "8", "--logits-bytes", "800", "--sizes"]
    assert gpu.main([str(file), "--backend", "numpy", *few]) == 1
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    missing = {one["contender"].split(",")[0] for one in figures if "error" in one}
    assert missing == {"crossent cuda"}


def test_cupy_is_compared_with_torch_where_both_answered():
    figures = [
        {
            "backend": backend, "dtype": dtype, "series": "vocabulary", "V": 8, "question": "forward",
            "contender": "crossent cuda", "ours": True, "ms": 1.0, "gigabytes_per_second": rate,
        }
        for backend, dtype, rate in (
            ("cupy", "float16", 95.0), ("torch-cuda", "bfloat16", 100.0), ("cupy", "float32", 9.0),
        )
    ]  # fmt: skip
    (ratio,) = gpu.cupy_to_torch(figures)
    assert ratio["bits"] == "16 bits"
    assert abs(ratio["ratio"] - 100 / 95) < 1e-12


def test_what_is_not_reached_in_time_is_named():
    (figure,) = a_case(gpu_contenders.of(NumPy())[1], seconds=0.0)
    assert figure["error"] == "not reached in the time allowed"
    assert len(gpu.failures([figure])) == 1
