"""The test vectors: what the files say holds of crossent, of their schema, their manifest and of plain arithmetic.

The README's examples are tests, too: a reader with nothing but JSON, which finds out the textbook's loss.
"""

import hashlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import ml_dtypes  # noqa: F401 - makes NumPy know bfloat16
import numpy as np
import pytest
from mpmath import mp, mpf

import crossent
from crossent_conformance import contract, oracle, vectors
from crossent_conformance.vectors import answers
from crossent_conformance.vectors.__main__ import VERSION, main

FOLDER = Path(__file__).parent.parent / "conformance" / "vectors"
V1 = FOLDER / "v1"
PAGES = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(V1.glob("[VRSA][0-9]*.json"))}
CASES = {case["id"]: case for page in PAGES.values() for case in page["cases"]}
READ = {case.id: case for case in vectors.read(FOLDER)}
WITHOUT_NUMBERS = {
    "V5",
    "V12",
    "R5",
    *(f"A{i}" for i in (2, *range(5, 16))),
    "D1",
    "D2",
    *(f"L{i}" for i in range(1, 7)),
    *(f"P{i}" for i in range(1, 5)),
    *(f"T{i}" for i in range(1, 5)),
}


def test_every_clause_with_numbers_has_cases():
    assert PAGES.keys() == contract.clauses().keys() - WITHOUT_NUMBERS
    assert all(len(page["cases"]) >= 4 for page in PAGES.values())
    assert {case["dtype"] for case in CASES.values()} == {"float64", "float32", "float16", "bfloat16"}
    assert len(CASES) == sum(len(page["cases"]) for page in PAGES.values()), "two cases of one name"
    assert all(case["id"].startswith(f"{name}/") for name, page in PAGES.items() for case in page["cases"])


def test_the_files_keep_to_the_schema():
    schema = json.loads((V1 / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for page in PAGES.values():
        validator.validate(page)
    case = CASES["V1/confident/float32"]
    for spoiled in (
        case | {"loss": [1.0]},
        case | {"loss": ["1"]},
        case | {"logits": ["many"]},
        case | {"targets": [0.5]},
        case | {"dtype": "int8"},
        case | {"options": {"reduction": "mean"}},
        case | {"news": 1},
        {name: value for name, value in case.items() if name != "eps"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(PAGES["V1"] | {"cases": [spoiled]})


def test_the_numbers_are_exact_in_their_dtype():
    """How many there are is asked where they are put into their shapes: by the reader, and to make the answers anew."""
    for case in CASES.values():
        for name, kind in (("logits", case["dtype"]), ("targets", case["targets_dtype"])):
            if "int" not in kind:
                numbers = np.array([float(number) for number in case[name]])
                np.testing.assert_array_equal(numbers.astype(kind).astype(np.float64), numbers)


def test_the_files_are_what_is_generated(capsys):
    assert main(["--check", str(FOLDER)]) == 0, capsys.readouterr().out


def test_what_is_not_generated_is_named_and_written_again(tmp_path, capsys):
    shutil.copytree(V1, tmp_path / "v1")
    (tmp_path / "v1" / "V11.json").write_bytes(
        re.sub(rb'"loss": \["..', b'"loss": ["9.', (V1 / "V11.json").read_bytes())
    )
    (tmp_path / "v1" / "vectors.npz").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["V11.json", "vectors.npz"]
    assert main(["--write", str(tmp_path)]) == 0
    assert (tmp_path / "v1" / "V11.json").read_bytes() == (V1 / "V11.json").read_bytes()
    (tmp_path / "v1" / "V99.json").write_text("{}")
    (tmp_path / "v1" / "A1.json").unlink()
    assert main(["--check", str(tmp_path)]) == 1
    said = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["MANIFEST.json", "V99.json", "vectors.npz"]


def test_a_new_case_needs_no_answers():
    for case in CASES.values():
        asked = {name: value for name, value in case.items() if not name.startswith(("loss", "d_logits", "eps"))}
        assert (
            answers.answered(asked | {name: case[name] for name in ("loss_at_least", "loss_shape") if name in case})
            == case
        )


def test_the_manifest_holds():
    manifest = json.loads((V1 / "MANIFEST.json").read_text(encoding="utf-8"))
    assert manifest["version"] == VERSION
    assert all(page["version"] == manifest["version"] for page in PAGES.values())
    assert manifest["cases"] == {clause: len(page["cases"]) for clause, page in PAGES.items()}
    files = {file.name: file.read_bytes() for file in V1.iterdir() if file.name != "MANIFEST.json"}
    assert manifest["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


@pytest.mark.parametrize("clause", PAGES)
def test_crossent_passes_with_what_the_files_say(clause):
    for case in (READ[case["id"]] for case in PAGES[clause]["cases"]):
        logits, targets, options = case.arguments()
        logits, targets = logits.astype(case.dtype), targets.astype(case.written["targets_dtype"])
        loss, d_logits = crossent.cross_entropy_and_grad(logits, targets, **options)
        assert (loss.dtype, d_logits.dtype) == (case.written["loss_dtype"], case.written["d_logits_dtype"]), case.id
        perplexity = crossent.perplexity(loss) if "perplexity" in case.written else None
        assert case.worst(loss, d_logits, perplexity) <= 1, case.id


def test_a_bad_target_is_refused_where_the_files_say():
    refused = [case for case in READ.values() if "refused" in case.written]
    assert len(refused) == len(PAGES["A4"]["cases"])
    for case in refused:
        logits, targets, options = case.arguments()
        del options["check_targets"]
        position = ", ".join(map(str, case.written["refused"]["position"]))
        with pytest.raises(IndexError, match=rf"\[{position}\] is {case.written['refused']['value']};"):
            crossent.cross_entropy(logits, targets, **options)


@pytest.mark.parametrize("name", ["loss", "d_logits", "perplexity"])
@pytest.mark.parametrize("id", ["V11/tokens/float64", "V11/mean/float32"])
def test_a_value_beside_what_is_allowed_fails(id, name):
    case = READ[id]
    exact = case.expected(name)
    entry = (0,) * (exact.high.ndim - 1) + (exact.high.shape[-1] - 1,) if exact.high.ndim else ()

    def worst(value):
        given = exact.high.copy()
        given[entry] = value
        return case.worst(**{"loss": None, name: given})

    allowed = exact.allowed[entry] * case.written["eps"]
    for share, fails in ((-1.4, True), (-0.7, False), (0.0, False), (0.7, False), (1.4, True)):
        assert (worst(exact.high[entry] + share * allowed) > 1) == fails
    assert [worst(value) for value in (np.nan, np.inf, -np.inf)] == [np.inf] * 3
    assert case.worst(**{"loss": None, name: exact.high[None]}) == np.inf


def test_the_reader_makes_repetitions_in_place():
    assert len(READ) == len(CASES)
    logits, targets, options = READ["R4/weights/float32"].arguments()
    assert len(logits) == len(targets) == len(options["weights"]) == 1_000_003
    wide = [case for case in READ.values() if [*case.written.get("repeat", {})] == ["columns"]]
    assert wide
    for case in wide:
        columns, logits = case.written["repeat"]["columns"], case.arguments()[0]
        for at, (first, last) in enumerate(zip(np.cumsum([0, *columns[:-1]]), np.cumsum(columns), strict=True)):
            written = [float(number) for number in case.written["logits"][at :: len(columns)]]
            np.testing.assert_array_equal(logits[..., first:last].reshape(len(written), -1).T, [written] * columns[at])


def test_the_reader_adds_up_rows_and_knows_signs():
    case = READ["V4/classes-10/float32"]
    exact = case.expected("d_logits")
    assert case.worst(None, exact.high) < 0.1
    assert case.worst(None, exact.high + 0.9 * exact.allowed * case.written["eps"]) > 1
    case = READ["V2/plain/float32"]
    exact = case.expected("loss")
    assert case.worst(exact.high) < 0.1
    assert case.worst(np.where(exact.high < 1e-31, -1e-31, exact.high)) == np.inf


def test_a_folder_without_vectors_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="v1"):
        vectors.read(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["--check", str(tmp_path)])
    assert stopped.value.code == 2


def test_the_npz_holds_the_same():
    with np.load(V1 / "vectors.npz") as stored:
        index = json.loads(stored["index"].tobytes())
        assert index.keys() == CASES.keys()
        assert {name.rpartition("/")[0] for name in stored.files} == {*CASES, ""}
        for name, case in CASES.items():
            arrays = {key.rpartition("/")[2]: key for key in stored.files if key.startswith(f"{name}/")}
            written = {key for key in case if key not in index[name]}
            assert written == {key for key in arrays if not key.endswith("_low")}
            assert {key: case[key] for key in index[name]} == index[name]
            np.testing.assert_array_equal(stored[arrays["logits"]].ravel(), [float(x) for x in case["logits"]])
            for result in written & {"loss", "d_logits", "perplexity"}:
                high, low, allowed = (stored[f"{name}/{result}{part}"].ravel() for part in ("", "_low", "_allowed"))
                np.testing.assert_array_equal(allowed, case[f"{result}_allowed"])
                for text, a, b in zip(case[result], high.tolist(), low.tolist(), strict=True):
                    assert a == float(text) or math.isnan(a)
                    assert not math.isfinite(a) or abs(mpf(text) - a - b) <= 1e-31 * abs(a) + 5e-324


@pytest.mark.parametrize("id", ["V1/confident/float64", "V1/scattered/float32", "V3/shift--1000/float64"])
def test_forty_digits_are_right_by_brute_force(id):
    """lse - x_t and p_j - 1, which cancel: at 700 digits enough are left."""
    case = CASES[id]
    V = case["classes"]
    with mp.workdps(700):
        for i, target in enumerate(case["targets"]):
            x = [mpf(number) for number in case["logits"][i * V : (i + 1) * V]]
            total = mp.fsum(map(mp.exp, x))
            exact = [mp.log(total) - x[target]] + [mp.exp(x[j]) / total - (j == target) for j in range(V)]
            texts = [case["loss"][i], *case["d_logits"][i * V : (i + 1) * V]]
            for number, text in zip(exact, texts, strict=True):
                assert abs(number - mpf(text)) <= mpf(10) ** -39 * abs(number) / 2 + mpf(10) ** -400


def test_digits_are_the_same_values():
    logits, targets, _ = READ["V8/others-finite/float64"].arguments()
    plain = oracle.cross_entropy(logits, targets, label_smoothing=0.25)
    written = oracle.cross_entropy(logits, targets, label_smoothing=0.25, digits=40)
    for one, other in zip(plain, written, strict=True):
        for part in ("high", "low", "allowed"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
        assert other.digits.shape == one.shape
        np.testing.assert_array_equal(other.digits.astype(np.float64), one.high)


def test_shifted_rows_have_the_same_results():
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        shifted = [case for case in PAGES["V3"]["cases"] if case["dtype"] == dtype]
        assert len({tuple(case["loss"] + case["d_logits"]) for case in shifted}) == 1
        assert len({tuple(case["logits"]) for case in shifted}) == len(shifted)


def _in_javascript(*words):
    return subprocess.run(
        ["node", str(FOLDER / "examples" / "check.mjs"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_javascript_reads_them():
    ended = _in_javascript(*(V1 / f"{clause}.json" for clause in PAGES))
    assert (ended.stderr, ended.returncode) == ("", 0)
    cases = [case["options"] for case in CASES.values() if case["dtype"] in ("float64", "float32")]
    others = [options for options in cases if {"z_loss", "algorithm", "grad_output", "check_targets"} & options.keys()]
    asked = len(cases) - len(others)
    assert ended.stdout == f"{asked} cases, {len(others)} with other options, 0 wrong values\n"
    assert asked > 200


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_javascript_finds_out_what_cancels():
    ended = _in_javascript(V1 / "V1.json", "naive")
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert "V1/confident/float64: loss[" in ended.stdout


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
@pytest.mark.parametrize(
    ("option", "id"),
    [
        ("label_smoothing", "V8/others-soft/float64"),
        ("smoothing", "V8/uniform-0.1/float64"),
        ("class_weights", "V9/classes/float64"),
        ("weights", "V9/tokens/float32"),
        ("ignore_index", "R2/ignored/float64"),
        ("denominator", "R2/mean-number-soft/float64"),
        ("reduction", "R2/sequence-weights-soft/float32"),
    ],
)
def test_javascript_passes_over_no_option(tmp_path, option, id):
    options = {name: value for name, value in CASES[id]["options"].items() if name != option}
    file = tmp_path / "without.json"
    file.write_text(json.dumps({"cases": [CASES[id] | {"options": options}]}), encoding="utf-8")
    ended = _in_javascript(file)
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert f"{id}: " in ended.stdout
