"""The test vectors: what the files say holds of crossent, of their schema, of their manifest and of plain arithmetic.

`faults` is a reader of its own: it knows the JSON and the README's check, and nothing of the suite.
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
from crossent_conformance.vectors.__main__ import main
from crossent_conformance.vectors.files import VERSION

FOLDER = Path(__file__).parent.parent / "conformance" / "vectors"
V1 = FOLDER / "v1"
PAGES = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(V1.glob("[VRSA][0-9]*.json"))}
CASES = {case["id"]: case for page in PAGES.values() for case in page["cases"]}
WITHOUT_NUMBERS = {"V5", "R5", "A2", "A5", "A6", "A7", "A8", "A9", "A10", "A11", "D1", "D2"}


def repeated(case, values, shape, *, rows, columns):
    """A flat list in its shape, with the repetitions of its axes made."""
    array = np.array(values).reshape(shape)
    counts = case.get("repeat", {})
    array = array.repeat(counts["rows"], axis=0) if rows and "rows" in counts else array
    return array.repeat(counts["columns"], axis=-1) if columns and "columns" in counts else array


def asked(case):
    """The call: arrays in their dtypes, and options."""
    tokens, flat = case["tokens"], [*case["tokens"], case["classes"]]
    logits = repeated(case, [float(x) for x in case["logits"]], flat, rows=True, columns=True).astype(case["dtype"])
    hard = "int" in case["targets_dtype"]
    numbers = np.array([(int if hard else float)(t) for t in case["targets"]], dtype=case["targets_dtype"])
    targets = repeated(case, numbers, tokens if hard else flat, rows=True, columns=not hard)
    options = dict(case["options"])
    if "weights" in options:
        options["weights"] = repeated(case, options["weights"], tokens, rows=True, columns=False)
    if "class_weights" in options:
        options["class_weights"] = repeated(case, options["class_weights"], [-1], rows=False, columns=True)
    if "grad_output" in options:
        options["grad_output"] = np.array(options["grad_output"]).reshape(case["loss_shape"])
    if "ignore_index" in options:
        options["ignore_index"] = int(options["ignore_index"])
    return logits, targets, options


def outside(case, name, given):
    """Whether one of the given numbers is further from the exact one than is allowed, by the README's five lines."""
    shape = [*case["tokens"], case["classes"]] if name == "d_logits" else case["loss_shape"]
    rows = name == "d_logits" or case["options"].get("reduction") == "none"
    repeat = {"rows": rows, "columns": name == "d_logits"}
    exact = repeated(case, [float(number) for number in case[name]], shape, **repeat)
    allowed = repeated(case, [float(number) for number in case[f"{name}_allowed"]], shape, **repeat)
    given = np.asarray(given).astype(np.float64)
    if given.shape != exact.shape:
        return True
    with np.errstate(invalid="ignore"):
        near = np.abs(given - exact) <= allowed * case["eps"]
    return not np.where(np.isfinite(exact), near, (given == exact) | (np.isnan(given) & np.isnan(exact))).all()


def faults(case, function, perplexity=crossent.perplexity):
    """What is wrong with an implementation in a case."""
    logits, targets, options = asked(case)
    loss, d_logits = function(logits, targets, **options)
    found = [name for name, given in (("loss", loss), ("d_logits", d_logits)) if outside(case, name, given)]
    found += [
        f"{name} dtype"
        for name, given in (("loss", loss), ("d_logits", d_logits))
        if str(given.dtype) != case[f"{name}_dtype"]
    ]
    if "loss_at_least" in case and not (loss >= case["loss_at_least"]).all():
        found.append("negative")
    if "row_sums_allowed" in case:
        sums = np.array([math.fsum(row) for row in d_logits.astype(np.float64).tolist()])
        found += ["row sums"] * bool((np.abs(sums) > np.array(case["row_sums_allowed"]) * case["eps"]).any())
    if "perplexity" in case and outside(case, "perplexity", perplexity(loss)):
        found.append("perplexity")
    return found


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


@pytest.mark.parametrize("clause", PAGES)
def test_the_lists_have_their_shapes_and_their_dtype(clause):
    for case in PAGES[clause]["cases"]:
        many = math.prod(case["tokens"]) * case["classes"]
        assert len(case["logits"]) == len(case["d_logits"]) == len(case["d_logits_allowed"]) == many
        assert len(case["targets"]) == math.prod(case["tokens"]) if "int" in case["targets_dtype"] else many
        assert len(case["loss"]) == len(case["loss_allowed"]) == math.prod(case["loss_shape"])
        assert len(case.get("row_sums_allowed", [])) in (0, *case["tokens"])
        for name, kind in (("logits", case["dtype"]), ("targets", case["targets_dtype"])):
            numbers = np.array([float(number) for number in case[name]])
            if "int" not in kind:
                np.testing.assert_array_equal(numbers.astype(kind).astype(np.float64), numbers)
        for axis, counts in case.get("repeat", {}).items():
            assert [len(counts)] == (case["tokens"] if axis == "rows" else [case["classes"]])


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
    wrong = {case["id"]: faults(case, crossent.cross_entropy_and_grad) for case in PAGES[clause]["cases"]}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_a_bad_target_is_refused_where_the_files_say():
    refused = [case for case in CASES.values() if "refused" in case]
    assert len(refused) == len(PAGES["A4"]["cases"])
    for case in refused:
        logits, targets, options = asked(case)
        del options["check_targets"]
        position = ", ".join(map(str, case["refused"]["position"]))
        with pytest.raises(IndexError, match=rf"\[{position}\] is {case['refused']['value']};"):
            crossent.cross_entropy(logits, targets, **options)


@pytest.mark.parametrize("name", ["loss", "d_logits", "perplexity"])
@pytest.mark.parametrize("id", ["V11/tokens/float64", "V11/mean/float32"])
def test_a_value_beside_what_is_allowed_fails(id, name):
    case = CASES[id]
    [of_reader] = [found for found in vectors.read(FOLDER) if found.id == id]
    exact = of_reader.expected(name)
    entry = (0,) * (exact.high.ndim - 1) + (exact.high.shape[-1] - 1,) if exact.high.ndim else ()
    for share, fails in ((-1.4, True), (-0.7, False), (0.0, False), (0.7, False), (1.4, True)):
        given = exact.high.copy()
        given[entry] += share * exact.allowed[entry] * case["eps"]
        assert outside(case, name, given) == fails
        assert (of_reader.worst(**{"loss": None, name: given}) > 1) == fails
    for value in (np.nan, np.inf, -np.inf):
        given = exact.high.copy()
        given[entry] = value
        assert outside(case, name, given)
        assert of_reader.worst(**{"loss": None, name: given}) == np.inf
    assert outside(case, name, exact.high[None])
    assert of_reader.worst(**{"loss": None, name: exact.high[None]}) == np.inf


def test_the_reader_asks_and_judges_as_the_files_say():
    for case in vectors.read(FOLDER):
        if "repeat" in case.written:
            continue
        logits, targets, options = case.arguments()
        expected = asked(case.written)
        np.testing.assert_array_equal(logits, expected[0].astype(np.float64))
        np.testing.assert_array_equal(targets, expected[1])
        assert options.keys() == expected[2].keys()
        assert case.worst(case.expected("loss").high, case.expected("d_logits").high) < 0.2
    assert len(vectors.read(FOLDER)) == len(CASES)
    many = next(case for case in vectors.read(FOLDER) if case.id == "R4/weights/float32")
    logits, targets, options = many.arguments()
    assert len(logits) == len(targets) == len(options["weights"]) == 1_000_003
    assert many.worst(*crossent.cross_entropy_and_grad(logits.astype("float32"), targets, **options)) <= 1


def test_the_reader_adds_up_rows_and_knows_signs():
    cases = {case.id: case for case in vectors.read(FOLDER)}
    case = cases["V4/classes-10/float32"]
    exact = case.expected("d_logits")
    assert case.worst(None, exact.high) < 0.1
    one_sided = exact.high + 0.9 * exact.allowed * case.written["eps"]
    assert not outside(case.written, "d_logits", one_sided)
    assert case.worst(None, one_sided) > 1
    case = cases["V2/plain/float32"]
    exact = case.expected("loss")
    assert case.worst(exact.high) < 0.1
    below = np.where(exact.high < 1e-31, -1e-31, exact.high)
    assert not outside(case.written, "loss", below)
    assert case.worst(below) == np.inf


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
    logits, targets, _ = asked(CASES["V8/others-finite/float64"])
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


def textbook(logits, targets, reduction):
    """Right where nothing cancels."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    rows = np.arange(len(logits))
    with np.errstate(divide="ignore"):
        loss = -np.log(p[rows, targets])
    p[rows, targets] -= 1
    return loss, p


def test_a_loss_that_cancels_is_found_out():
    assert faults(CASES["V1/classes-3/float32"], textbook) == []
    assert set(faults(CASES["V1/confident/float32"], textbook)) == {"loss", "d_logits"}
    assert "row sums" in faults(CASES["V4/classes-10/float32"], textbook)
    assert "negative" in faults(
        CASES["V2/plain/float32"], lambda x, t, **_: (-crossent.cross_entropy(x, t, reduction="none"), x)
    )


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
@pytest.mark.parametrize(("which", "holds"), [("careful", True), ("naive", False)])
def test_javascript_reads_them(which, holds):
    command = ["node", str(FOLDER / "examples" / "check.mjs"), str(V1 / "V1.json"), which]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr == ""
    assert ended.returncode == (0 if holds else 1)
    assert ended.stdout.endswith("cases, 0 wrong values\n") == holds
