"""The GPU run, as far as it goes without a GPU: its exit codes, its record, and that it writes nowhere else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import evidence, gpu, gpu_contenders
from benchmarks.gpu_library import NumPy

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "run_gpu.sh"

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="the script is for GNU systems")


def run(*arguments, **environment):
    inherited = {name: value for name, value in os.environ.items() if name not in ("OUT", "PYTHONPATH", "XENT_COMMIT")}
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
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
    done = run("--cpu-dry-run", str(out), XENT_COMMIT="0123abc")
    assert files_of_the_repository() - before == set()
    return done, out, json.loads((out / "evidence.json").read_text(encoding="utf-8"))


def test_bash_accepts_the_script():
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True, check=False).returncode == 0


def test_dry_run_passes_every_part(dry_run):
    done, _, record = dry_run
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(one["name"], one["status"]) for one in record["parts"]] == [
        ("conformance-numpy", 0),
        ("benchmarks", 0),
        ("train", 0),
    ]


def test_record_holds_the_machine_the_commit_and_every_result(dry_run):
    _, _, record = dry_run
    assert record["commit"] == "0123abc"
    assert record["dry_run_on_cpu"] is True
    assert record["backends"] == {"numpy": "cpu"}
    assert record["versions"].keys() >= {"numpy", "array-api-compat"}
    conformance, benchmarks, train = (one["result"] for one in record["parts"])
    assert conformance["tests"] > 0
    assert conformance["failed"] == []
    assert {one["V"] for one in benchmarks["figures"]} == {64, 300}
    assert all(one["ms"] > 0 and one["share_of_copy"] > 0 for one in benchmarks["figures"])
    assert [one["backend"] for one in train["backends"]] == ["numpy"]


def test_only_the_listed_files_are_left(dry_run):
    _, out, _ = dry_run
    assert sorted(path.name for path in out.iterdir()) == [
        "benchmarks.json",
        "conformance-numpy.xml",
        "evidence.json",
        "loss.png",
        "run.log",
        "train.json",
    ]


def test_table_comes_last(dry_run):
    done, _, _ = dry_run
    assert "forward and gradient | xent, out=" in done.stdout.splitlines()[-3]


def test_without_array_api_compat_one_line_and_2(tmp_path):
    (tmp_path / "array_api_compat.py").write_text("raise ImportError('missing')\n", encoding="utf-8")
    done = run(str(tmp_path / "out"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "array_api_compat" in done.stderr


@pytest.mark.skipif(bool(evidence.gpus()), reason="for machines without a GPU")
def test_without_a_gpu_one_line_and_3(tmp_path):
    done = run(str(tmp_path / "out"))
    assert done.returncode == 3
    assert (done.stdout + done.stderr).count("\n") == 1


@pytest.mark.parametrize("arguments", [("--gpu",), ("a", "b")])
def test_unknown_arguments_are_refused(arguments):
    assert run(*arguments).returncode == 2


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


def test_torch_takes_the_same_path(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "figures.json"
    assert gpu.main([str(file), "--backend", "torch", "--vocabularies", "64", "--logits-bytes", "8000"]) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))["figures"]
    assert {one["dtype"] for one in figures} == {"bfloat16", "float32"}
    assert {one["contender"] for one in figures} >= {"xent", "xent, out=", "xent, backward", "F.cross_entropy"}


def a_case(contender, seconds=60.0):
    case = next(gpu.cases([NumPy()], [64], 8000))
    return gpu.run([case], lambda library: [contender], seconds, lambda figures: None)


def test_a_wrong_answer_has_no_time():
    wrong = gpu_contenders.Contender("forward", "xent", 1, lambda library: lambda x, t, out: 1.0)
    (figure,) = a_case(wrong)
    assert "ms" not in figure
    assert "mean loss off" in figure["error"]


def test_what_is_not_reached_in_time_is_named():
    (figure,) = a_case(gpu_contenders.of(NumPy())[1], seconds=0.0)
    assert figure["error"] == "not reached in the time allowed"
    assert len(gpu.failures([figure])) == 1
