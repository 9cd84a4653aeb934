"""The suite in a pytest session of its own, with short options: `pytest -p crossent_conformance.options PATH`."""

from __future__ import annotations

from crossent_conformance import backends, pytest_entry, subject

pytest_plugins = ["crossent_conformance.plugin"]


def pytest_addoption(parser):
    group = parser.getgroup("conformance", "conformance suite")
    what = f"the implementation under test (default: {subject.DEFAULT})"
    pytest_entry.declare(group, "--subject", "--", what, choices=list(backends.BACKENDS))
