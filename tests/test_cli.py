"""The command line: what it prints and writes, and one line with exit code 2 for every mistake."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import crossent
from crossent import cli, info

TEXT = "".join(f"{number} green bottles hanging on the wall, and if {number} fall\n" for number in range(200))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "bottles.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return ["--picture", str(tmp_path / "loss.png"), "--json", str(tmp_path / "loss.json")]


def refused(capsys, arguments):
    """The one line that a mistake prints."""
    try:
        code = cli.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert captured.err.startswith("crossent")
    assert captured.err.count("\n") == 1
    return captured.err


def test_info_lists_every_backend_engine_and_the_threads(capsys):
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    for name in [*info.BACKENDS, *info.ENGINES]:
        assert name in printed
    assert "threads for large calls:" in printed
    [numpy_line] = [line for line in printed.splitlines() if line.startswith("numpy ")]
    assert numpy_line.split()[2:] == ["cpu", "float64", "float32", "float16"]


@pytest.fixture
def asked(monkeypatch):
    """The kernels that are asked for, of which none is made."""
    pytest.importorskip("numba")
    from crossent.engines.numba_cpu import xla  # noqa: F401  (which keeps what it imports)

    kinds = []
    monkeypatch.setattr("crossent.engines.numba_cpu.kernel.kernel", kinds.append)
    monkeypatch.setattr("crossent.engines.numba_cpu.xla.kernel", kinds.append)
    return kinds


def test_warmup_keeps_what_losses_need(capsys, monkeypatch, tmp_path, asked):
    monkeypatch.setattr("crossent.engines.numba_cpu.is_kept", lambda stem: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jax" else object())
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path / "\x1b[31m"))
    assert cli.main(["warmup", "--dtype", "float32", "float16", "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    expected = [f"walk{few}-{name}" for name in ("float32", "float16") for few in ("", "-short")]
    assert [kind.stem for kind in asked] == expected
    assert [line.split()[0] for line in printed.splitlines()[:-1]] == [kind.stem for kind in asked]
    assert printed.endswith(r"kept in " + str(tmp_path) + "/\\x1b[31m\n")
    plain = len(asked)
    assert cli.main(["warmup", "--dtype", "float64", "--all"]) == 0
    stems = [kind.stem for kind in asked[plain:]]
    assert len(stems) == len(set(stems))
    for stem in (
        "walk-short-float64-float64-capped",
        "gradient-float64",
        "describe-float64",
        "forward-float64-float64",
    ):
        assert stem in stems


def test_warmup_keeps_what_programs_of_jax_need_where_it_is(capsys, monkeypatch, tmp_path, asked):
    pytest.importorskip("jax")
    made = []
    monkeypatch.setattr("crossent.engines.numba_cpu.native.function", lambda stem, what, make: made.append(stem))
    monkeypatch.setattr("crossent.engines.numba_cpu.is_kept", lambda stem: True)
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path))
    assert cli.main(["warmup", "--dtype", "float32", "float64"]) == 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert [kind.stem for kind in asked] == printed[:4]
    assert made == printed[4:-1]
    # What a program asks for, besides the kernel of its rows.
    made.clear()
    monkeypatch.setattr("crossent.engines.numba_cpu.native.address_of", lambda function: 0)
    monkeypatch.setattr("crossent.engines.numba_cpu.native.with_word", lambda address, word, name: 0)
    from crossent.engines.numba_cpu import xla
    from crossent.engines.numba_cpu.layout import WALK, Kind

    xla.handler._make(Kind(WALK, "float32"), (0, 3))
    assert made == printed[4:-1]


def test_what_cannot_be_compiled_ahead_is_one_line(capsys, monkeypatch, tmp_path, asked):
    assert "float64, float32, float16, bfloat16" in refused(capsys, ["warmup", "--dtype", "float31"])
    with monkeypatch.context() as patch:
        patch.setenv("CROSSENT_CACHE_DIR", str(tmp_path / "empty"))
        assert "walk-float32 could not be written to" in refused(capsys, ["warmup", "--dtype", "float32"])
    monkeypatch.setattr("crossent.engines.numba_cpu.folder", lambda: None)
    assert "CROSSENT_CACHE_DIR" in refused(capsys, ["warmup"])
    monkeypatch.setattr("crossent.engines.select.numba_problem", lambda: "Numba is not installed")
    assert "Numba is not installed" in refused(capsys, ["warmup"])


def test_info_as_json_has_what_the_text_says(capsys, monkeypatch):
    absent = info.Backend("cupy", "no_such_library", "no_such_library", "cupy-cuda12x")
    monkeypatch.setattr(info, "BACKENDS", {"numpy": info.BACKENDS["numpy"], "cupy": absent})
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"version", "python", "system", "threads", "backends", "engines"}
    assert found["version"] == crossent.__version__
    for backend in found["backends"]:
        assert set(backend) == {"name", "version", "device", "dtypes", "problem"}
    on_numpy, on_cupy = found["backends"]
    assert (on_numpy["name"], on_numpy["version"], on_numpy["device"]) == ("numpy", np.__version__, "cpu")
    assert on_numpy["dtypes"] == ["float64", "float32", "float16"]
    assert on_numpy["problem"] is None
    assert (on_cupy["version"], on_cupy["device"], on_cupy["dtypes"]) == (None, None, [])
    assert on_cupy["problem"].startswith("cupy is not installed")
    assert [engine["name"] for engine in found["engines"]] == list(info.ENGINES)
    for engine in found["engines"]:
        assert set(engine) == {"name", "description", "problem", "not_for"}

    assert cli.main(["info"]) == 0
    assert capsys.readouterr().out == f"{info.report(found)}\n"


HOSTILE = "\x1b[31m\x07\u202e\udcff\x9b1m"
SHOWN = r"\x1b[31m\x07\u202e\udcff\x9b1m"


@pytest.mark.parametrize(
    "arguments", [["train", "--backend", "torch" + HOSTILE], ["train", HOSTILE], ["train", "--text", HOSTILE]]
)
def test_no_text_of_a_mistake_steers_the_terminal(capsys, arguments):
    assert SHOWN in refused(capsys, arguments)


def test_no_text_of_a_library_steers_the_terminal(capsys, monkeypatch):
    monkeypatch.setattr(info.Backend, "problem", lambda self: f"broken: {HOSTILE}")
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert f"broken: {SHOWN}" in printed
    assert "\x1b" not in printed
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backends"][0]["problem"] == f"broken: {HOSTILE}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere files cannot be called so")
def test_no_name_of_a_file_steers_the_terminal(capsys, tmp_path):
    text, name = tmp_path / f"$x^{HOSTILE}$.txt", tmp_path / f"{HOSTILE}.png"
    text.write_text(TEXT, encoding="utf-8")
    arguments = ["--steps", "1", "--vocabulary", "300", "--backend", "numpy", "--picture", str(name)]
    assert cli.main(["train", "--text", str(text), *arguments]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"$x^{SHOWN}$.txt: ")
    assert f"{SHOWN}.png" in printed
    assert "\x1b" not in printed
    assert name.read_bytes().startswith(b"\x89PNG")


def test_the_command_through_the_package(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "crossent", "--version"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"crossent {crossent.__version__}\n", "")


def test_the_command_line_imports_no_backend():
    code = (
        "import sys; import crossent.cli; "
        "print([name for name in ('torch', 'jax', 'cupy', 'dask', 'rich', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_train_shows_a_table_and_writes_picture_and_json(capsys, tmp_path, text, files):
    pytest.importorskip("array_api_strict")
    arguments = ["train", "--text", str(text), "--steps", "3", "--vocabulary", "300", *files]
    assert cli.main([*arguments, "--backend", "numpy", "array-api-strict", "--backend", "numpy"]) == 0
    printed = capsys.readouterr().out
    assert "bottles.txt" in printed
    assert "unigram perplexity" in printed
    assert "array-api-strict" in printed
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

    written = json.loads((tmp_path / "loss.json").read_text(encoding="utf-8"))
    assert set(written) == {"machine", "text", "settings", "V", "log_V", "unigram_perplexity", "backends"}
    assert written["text"]["source"] == "bottles.txt"
    assert written["text"]["characters"] == len(TEXT)
    assert written["settings"]["steps"] == 3
    assert [run["backend"] for run in written["backends"]] == ["numpy", "array-api-strict"]
    for run in written["backends"]:
        assert set(run) == {
            "backend", "version", "device", "first_loss", "last_loss", "validation_perplexity", "tokens_per_second",
            "seconds", "largest_difference_first_100_steps", "largest_difference", "losses", "validation",
            "linear", "peak_bytes", "largest_difference_from_logits",
        }  # fmt: skip
        assert len(run["losses"]) == 3
        assert [run["first_loss"], run["last_loss"]] == [run["losses"][0], run["losses"][-1]]
        assert run["first_loss"] == pytest.approx(written["log_V"], abs=0.1)
        assert run["largest_difference"] <= 1e-5
        assert (run["linear"], run["peak_bytes"], run["largest_difference_from_logits"]) == (False, None, None)
    assert "without logits" not in printed


def test_both_ways_to_the_loss_are_compared(capsys, tmp_path, text, files, monkeypatch):
    from crossent.train import command, picture

    drawn, plot = [], picture.Axes.plot
    monkeypatch.setattr(
        picture.Axes, "plot", lambda axes, *what, **how: [drawn.append(how.get("label")), plot(axes, *what, **how)][1]
    )
    monkeypatch.setattr(command, "peak", lambda backend, *sizes: 2**20 * (5 if sizes[-1] else 20))
    arguments = ["train", "--text", str(text), "--steps", "3", "--vocabulary", "300", *files, "--linear"]
    assert cli.main([*arguments, "--backend", "numpy"]) == 0
    table = capsys.readouterr().out.partition("without logits")[2].splitlines()
    [row] = [line.split() for line in table if line.strip().startswith("numpy")]
    written = json.loads((tmp_path / "loss.json").read_text(encoding="utf-8"))["backends"]
    assert [(run["backend"], run["linear"], run["peak_bytes"]) for run in written] == [
        ("numpy", False, 20 * 2**20), ("numpy", True, 5 * 2**20),
    ]  # fmt: skip
    difference = written[1]["largest_difference_from_logits"]
    assert difference <= 1e-5
    assert row[1:] == [
        f"{written[1]['validation_perplexity']:.1f}", *(f"{run['tokens_per_second']:,.0f}" for run in written[::-1]),
        f"{difference:.1e}" if difference else "0", "5.0", "20.0",
    ]  # fmt: skip
    for name in ("numpy", "numpy, linear"):
        assert {f"{name}, training", f"{name}, validation"} <= set(drawn)


def test_one_step_on_one_backend_is_a_run(capsys, tmp_path, text, files):
    arguments = ["train", "--text", str(text), "--steps", "1", "--vocabulary", "300", *files, "--backend", "numpy"]
    assert cli.main(arguments) == 0
    capsys.readouterr()
    # Standard JSON has no NaN: what was not measured is null.
    written = json.loads((tmp_path / "loss.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert written["backends"][0]["tokens_per_second"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given; accepted: info, warmup, train, conform, parity (see crossent --help)"),
        (["--what"], "unrecognized arguments: --what"),
        (["info", "more"], "unrecognized arguments: more"),
        (["parity", "--slack", "-1"], "argument --slack: '-1' is not a number of at least 0"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--steps", "0"], "'0' is not a whole number of at least 1"),
        (["train", "--seed", "-1"], "'-1' is not a whole number of at least 0"),
        (["train", "--vocabulary", "ten"], "'ten' is not a whole number of at least 1"),
        (["train", "--vocabulary", "257"], "a vocabulary of 257 tokens is too small; accepted: more than 257"),
        (["train", "--backend", "tensorflow"], "unknown backend 'tensorflow'; accepted: numpy, torch, torch-cuda, "),
        (["train", "--backend", "dask"], "unknown backend 'dask'; accepted: numpy, torch, torch-cuda, "),
        (["train", "--text", "missing.txt"], "cannot read missing.txt: No such file or directory"),
        (["train", "--text", "empty.txt"], "empty.txt is empty"),
        (["train", "--text", "short.txt"], "too short: 12 training and 0 validation tokens; needed: 65 and 2"),
        (["train", "--text", "binary"], "binary is not text"),
        (["train", "--text", "."], "cannot read .: Is a directory"),
        (["train", "--picture", "missing/loss.png"], "cannot write missing/loss.png: there is no directory"),
        (["train", "--picture", "taken.png"], "cannot write taken.png: it is a directory"),
        (["train", "--picture", "loss.xyz"], "cannot draw loss.xyz: accepted are files ending in "),
        (["train", "--picture", "loss"], "cannot draw loss: accepted are files ending in "),
        (["train", "--json", "missing/loss.json"], "cannot write missing/loss.json: there is no directory"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "short.txt").write_text("to be or not to be", encoding="utf-8")
    (tmp_path / "taken.png").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(128)))
    if "--backend" not in arguments and "train" in arguments:
        arguments = [*arguments, "--backend", "numpy"]
    assert message in refused(capsys, arguments)
    assert not (tmp_path / "loss.png").exists()


def test_an_uninstalled_backend_is_named_with_its_remedy(capsys, monkeypatch):
    absent = info.Backend("cupy", "no_such_library", "no_such_library", "cupy-cuda12x")
    monkeypatch.setitem(info.BACKENDS, "cupy", absent)
    line = refused(capsys, ["train", "--backend", "cupy"])
    assert "backend cupy is not installed (pip install cupy-cuda12x); usable here: numpy" in line


def test_a_backend_without_its_device_says_so(capsys, monkeypatch):
    without = dataclasses.replace(info.BACKENDS["numpy"], name="cupy", obstacle=lambda library: "it sees no device")
    monkeypatch.setitem(info.BACKENDS, "cupy", without)
    line = refused(capsys, ["train", "--backend", "numpy", "cupy"])
    assert "backend cupy cannot be used: it sees no device; usable here: numpy" in line
    assert "cupy cannot be used: it sees no device" in info.report(info.info())


def test_a_broken_library_is_a_reason_and_not_a_traceback(monkeypatch, tmp_path):
    (tmp_path / "broken_library.py").write_text("raise OSError('libcudart.so.12 is missing\\nmore')", encoding="utf-8")
    (tmp_path / "half_library.py").write_text("import no_such_part", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    broken = dataclasses.replace(info.BACKENDS["cupy"], library="broken_library")
    assert broken.problem() == "cupy does not import: libcudart.so.12 is missing"
    half = dataclasses.replace(info.BACKENDS["cupy"], library="half_library")
    assert half.problem() == "cupy does not import: No module named 'no_such_part'"


@pytest.mark.parametrize("library", ["rich", "matplotlib"])
def test_without_its_extra_train_says_which_to_install(capsys, monkeypatch, library):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find_spec(name))
    line = refused(capsys, ["train"])
    assert f"crossent train needs what is not installed: pip install {library}" in line


def test_without_names_training_takes_what_is_here():
    names = [backend.name for backend in info.backends_for_training()]
    assert names[0] == "numpy"
    assert set(names) <= {"numpy", "torch", "torch-cuda", "cupy", "jax"}
    for backend in info.backends_for_training():
        assert backend.device_name()
        assert "float32" in backend.dtypes()
        assert backend.version()[0].isdigit()


@pytest.fixture
def suite(tmp_path):
    """The command in a fresh process where the suite is a file of that text: exit code, output, errors."""

    def run(text, *arguments):
        (tmp_path / "crossent_conformance.py").write_text(text, encoding="utf-8")
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from crossent.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interruption_while_it_starts_is_no_traceback(suite):
    text = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
    assert suite(text, "conform", "a:b") == (130, "", "")


def test_a_broken_suite_is_one_line_and_leaves_the_other_commands(suite):
    text = "raise OSError('libgone.so\\nis missing')"
    assert suite(text, "--version") == (0, f"crossent {crossent.__version__}\n", "")
    for command in ("conform", "parity"):
        code, printed, errors = suite(text, command, "a:b", "--backend", "numpy")
        assert (code, printed) == (2, "")
        assert errors == f"crossent: the command {command!r} cannot be used here: OSError: libgone.so is missing\n"
    code, printed, _ = suite(text, "--help")
    assert code == 0
    assert "cannot be used here: OSError: libgone.so is missing" in " ".join(printed.split())
    assert suite("raise AssertionError", "info")[0] == 0  # nothing of the suite is imported


def test_without_the_suite_there_are_no_commands_of_it(capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: ())
    assert "invalid choice: 'conform' (choose from" in refused(capsys, ["conform", "a:b"])


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n    {name} " in listed for name in ("info", "train", "conform", "parity"))


def test_an_interrupted_run_ends_with_130(monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "info", interrupted)
    assert cli.main(["info"]) == 130
