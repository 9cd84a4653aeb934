"""The suite in a pytest session of its own, with short options: `pytest -p crossent_conformance.options PATH`."""

from __future__ import annotations

from crossent_conformance import backends, subject

pytest_plugins = ["crossent_conformance.plugin"]


def pytest_addoption(parser):
    group = parser.getgroup("conformance", "conformance suite")
    group.addoption(
        "--backend",
        dest="crossent_backend",
        action="append",
        choices=list(backends.BACKENDS),
        help="a backend to test (repeatable)",
    )
    group.addoption(
        "--clause", dest="crossent_clause", action="append", metavar="V1", help="a clause to test (repeatable)"
    )
    group.addoption(
        "--subject",
        dest="crossent_subject",
        metavar="MODULE:ATTRIBUTE",
        help=f"the implementation under test (default: {subject.DEFAULT})",
    )
