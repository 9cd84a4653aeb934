"""The suite in somebody else's pytest session: clauses where it is asked for, nothing at all where it is not."""

import os
import subprocess
import sys

import pytest

LOSS = """
import numpy as np

def cross_entropy(logits, targets):
    peak = logits.max(-1, keepdims=True)
    row = np.take_along_axis(logits - peak, targets[:, None], -1)[:, 0]
    {}
"""
RIGHT = "return (np.log(np.exp(logits - peak).sum(-1)) - row).mean()"
# What another project may well have: options and a parameter of the names that the suite uses.
CONFTEST = """
def pytest_addoption(parser):
    for name in ("--backend", "--clause", "--subject"):
        parser.addoption(name)
"""
TESTS = """
import sys
import warnings

import pytest

@pytest.mark.parametrize("place", ["here", None])
def test_mine(place):
    assert place in ("here", None)

def test_filters():
    with pytest.raises(UserWarning):
        warnings.warn("this session's warnings are errors")

def test_nothing_is_imported():
    {}
"""
NOTHING = "assert not {'numpy', 'hypothesis', 'mpmath', 'crossent_conformance.plugin'} & set(sys.modules)"


@pytest.fixture
def session(tmp_path):
    """A project's tests, with `arguments` for pytest: its exit code and what it printed."""

    def run(*arguments, loss=RIGHT, first="pass", folder="."):
        (tmp_path / "my_loss.py").write_text(LOSS.format(loss), encoding="utf-8")
        (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        (tmp_path / "test_mine.py").write_text(TESTS.format(first), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CROSSENT"))}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--strict-markers"]
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path / folder, env=environment,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    return run


def test_without_the_option_nothing_happens(session):
    code, printed = session(first=NOTHING)
    assert code == 0, printed
    assert "4 passed" in printed
    assert "conformance" not in printed


ASKED = ("--crossent-backend", "numpy", "--crossent-clause", "V2", "--crossent-conform", "my_loss.py:cross_entropy")


def test_the_clauses_join_the_tests(session):
    code, printed = session(*ASKED)
    assert code == 0, printed
    assert "conformance of my_loss.py:cross_entropy" in printed
    assert "test_mine.py ...." in printed
    assert "test_values.py ." in printed


@pytest.mark.extended
def test_known_failures_are_expected_and_strict(session, tmp_path):
    known = '[[known]]\ncase = "test_V2_*"\nreason = "it is \\u001b[31m one too small"'
    (tmp_path / "my_loss.known.toml").write_text(known, encoding="utf-8")
    code, printed = session(*ASKED, "-rx", loss=f"{RIGHT} - 1")
    assert code == 0, printed
    assert r"it is \x1b[31m one too small" in printed
    assert "xfailed" in printed
    code, printed = session(*ASKED)
    assert code == pytest.ExitCode.TESTS_FAILED, printed
    assert "the known failure test_V2_* begins to hold" in printed
    code, printed = session(*ASKED, "-k", "V2_never_negative or mine")  # of what is not asked, nothing is known
    assert code == 0, printed
    (tmp_path / "other.toml").write_text(known.replace("reason", "why"), encoding="utf-8")
    code, printed = session(*ASKED, "--crossent-known", "other.toml")
    assert code == pytest.ExitCode.USAGE_ERROR, printed
    assert "other.toml, entry 1: the key 'why'" in printed


@pytest.mark.extended
def test_a_file_is_found_from_below_the_root(session, tmp_path):
    (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = {' '.join(ASKED)} -p no:warnings\n", encoding="utf-8")
    (tmp_path / "below").mkdir()
    code, printed = session("--rootdir", str(tmp_path), "-k", "V2_never", folder="below")
    assert code == 0, printed
    assert "test_values.py ." in printed


@pytest.mark.extended
def test_a_loss_that_breaks_a_clause_fails_the_session(session):
    code, printed = session(*ASKED, "-k", "V2_never_negative", loss=f"{RIGHT} - 1")
    assert code == 1, printed
    assert "test_V2_never_negative" in printed


@pytest.mark.extended
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--crossent-conform", "nowhere:loss"), "there is no module 'nowhere'"),
        (("--crossent-conform", "my_loss.py:cross_entropy", "--crossent-backend", "theano"), "no backend is called"),
        ((*ASKED, "-o", "python_functions=should_*"), "no test of the suite was collected"),
        ((*ASKED[:3], "D2", *ASKED[4:]), "nothing that was asked of the suite applies"),
        (("--crossent-conform", "my_loss.py:\x1b[31m"), r"my_loss.py:\x1b[31m: there is no "),
        (("--crossent-clause", "V2"), "ask nothing without --crossent-conform"),
    ],
)
def test_a_mistake_is_a_usage_error(session, arguments, message):
    code, printed = session(*arguments)
    assert code == pytest.ExitCode.USAGE_ERROR, printed
    assert message in printed


@pytest.mark.extended
def test_no_reason_steers_the_terminal(session):
    code, printed = session(
        *ASKED, "-rs", loss=f"if logits.shape[1] > 5: raise NotImplementedError('\\x1b[31m')\n    {RIGHT}"
    )
    assert code == 0, printed
    assert r"\x1b[31m" in printed
    assert "\x1b" not in printed
